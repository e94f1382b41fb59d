//! Why a mapping does not work: each check a small file.
//!
//! A check judges facts, and is a pure function where that can be; the facts are read from this host by
//! [`crate::host`], all at once and each within its time, so that a report takes less than three seconds. It never
//! guesses: what cannot be read is `??` and says what it needs, a cause comes only from a step that has found it, and
//! a target that answers is not doubted.
//!
//! | check | asks |
//! |---|---|
//! | [`listener`] | does the mapping listen, and who is in the way |
//! | [`clients`] | can clients come to it, or are they sent elsewhere before |
//! | [`target`] | where is the target |
//! | [`route`] | is there a way to it, and back |
//! | [`alias`] | can clients appear under addresses of their own |
//! | [`firewall`] | what do rules do with packets of clients and of ours ([`walk`], [`experiment`]) |
//! | [`connect`] | does it answer |
//! | [`inside`] | who listens where it is |
//! | [`speech`] | do clients and target speak the same |
//! | [`limits`] | has the engine room |

mod alias;
mod clients;
mod connect;
mod experiment;
mod finding;
mod firewall;
mod inside;
mod limits;
mod listener;
mod route;
mod speech;
mod subject;
mod target;
mod walk;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use self::connect::{Attempt, Outcome};
use self::experiment::{Observed, Trial};
use self::finding::Finding;
use self::inside::Place;
pub use self::subject::{EngineView, LimitView, ListenProblem, ListenerView, Subject, Whereabouts};
use crate::host::addresses::who_can_connect;
use crate::host::namespace::within;
use crate::host::packet_filter::Rules;
use crate::host::{conntrack, drops, inside as host_inside, listeners};
use crate::model::container::InsideListener;
use crate::model::mapping::Protocol;
use crate::model::report::{CauseKind, Report, Verdict};
use crate::model::untrusted::SafeText;

/// How long connecting may take before it is looked at what loses packets.
const SUSPICIOUS: Duration = Duration::from_millis(500);
/// Most tracked flows that are looked at.
const MOST_TRACKED: usize = 1_024;
/// How long the tables of this host may take; what is not read by then is not seen.
const TABLES: Duration = Duration::from_millis(1200);

/// How long the whole may take; what is not seen by then is not told.
const LONGEST: Duration = Duration::from_millis(2_800);

/// What the tables of this host say, read once.
struct Tables {
    listen: listener::Facts,
    rules: firewall::Facts,
    tracked: clients::Tracked,
    strict: Vec<SafeText>,
    places: Vec<(SocketAddr, Place)>,
    trials: Vec<Trial>,
    aliases: Option<alias::Facts>,
}

/// Looks at everything, and tells.
pub async fn examine(subject: Subject) -> Report {
    let started = Instant::now();
    let subject = Arc::new(subject);
    let target = target::judge(&subject);
    let is_stopped = !subject.config.enabled;
    let is_there = target.causes.is_empty() && !is_stopped;
    let dialled = if is_there { subject.dialled() } else { Vec::new() };
    let tried = if subject.protocol() == Protocol::Tcp { dialled.as_slice() } else { &[] };
    let mut connecting = connect::start(tried.iter().copied(), None);
    let mut as_client = alias::connect(&subject, tried);
    let tables = {
        let (subject, dialled) = (Arc::clone(&subject), dialled.clone());
        spawn_blocking(move || Tables::read(&subject, &dialled))
    };
    let mut attempts = Vec::new();
    let _ = timeout(SUSPICIOUS, gather(&mut connecting, &mut attempts)).await;
    let Ok(Ok(tables)) = timeout(TABLES, tables).await else { return unread(&subject, &target, started) };
    // Nobody has answered so far: what loses the packets is looked at while the rest of the time goes by.
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    let mut worth: Vec<Trial> = Vec::new();
    for trial in tables.trials.iter().filter(|_| !is_reached && !tried.is_empty()) {
        let outcome = attempts.iter().find(|attempt| attempt.address == trial.address).map(|attempt| &attempt.outcome);
        let is_worth = match outcome {
            None | Some(Outcome::TimedOut | Outcome::Unreachable(_)) => true,
            Some(Outcome::Refused) => firewall::may_reject(&tables.rules, trial),
            Some(Outcome::Connected | Outcome::Failed(_)) => false,
        };
        if is_worth {
            worth.push(trial.clone());
        }
    }
    let evidence = speech::evidence(&subject);
    let reached = attempts.iter().find(|attempt| attempt.outcome == Outcome::Connected).map(|attempt| attempt.address);
    let greeted = async {
        match reached {
            Some(address) if evidence != speech::Evidence::None => Some(speech::greet(address).await),
            _ => None,
        }
    };
    let mut of_aliases = Vec::new();
    let ((), observed, answer) = tokio::join!(
        async {
            if is_reached {
                gather(&mut as_client, &mut of_aliases).await;
            } else {
                gather(&mut connecting, &mut attempts).await;
            }
        },
        observations(worth, started + LONGEST),
        greeted
    );
    // Where one has answered, the others may take as long as they like.
    connecting.shutdown().await;
    as_client.shutdown().await;
    attempts.sort_by_key(|attempt| dialled.iter().position(|address| *address == attempt.address));
    let routes = routes(&dialled).await;

    let mut found = vec![listener::judge(&subject, &tables.listen)];
    if !is_stopped {
        found.push(clients::judge(&subject, &tables.listen, &tables.rules, &tables.tracked));
        let is_known = !dialled.is_empty();
        found.push(target);
        if is_known {
            let (seen, strict) = (&observed, &tables.strict);
            found.push(route::judge(&subject, &routes, &attempts, seen, strict, tables.listen.has_ipv6));
        }
        if let Some(aliases) = &tables.aliases {
            let answered = alias::Answered { host: &attempts, aliases: &of_aliases, strict: &tables.strict };
            found.push(alias::judge(&subject, aliases, &tables.rules, &tables.trials, &answered));
        }
        found.push(firewall::judge(&subject, &tables.rules, &tables.trials, &attempts, &observed));
        if is_known {
            found.push(connect::judge(&subject, &attempts));
            let sent_on = tables.trials.iter().map(|trial| firewall::may_be_sent_on(&tables.rules, trial)).collect();
            found.push(inside::judge(&subject, &tables.places, &attempts, &observed, sent_on));
            found.push(speech::judge(&subject, evidence, answer));
        }
        found.push(limits::judge(&subject));
    }
    report(&subject, found, &attempts, started)
}

/// Takes in what comes.
async fn gather(connecting: &mut JoinSet<Attempt>, attempts: &mut Vec<Attempt>) {
    while let Some(attempt) = connecting.join_next().await {
        attempts.extend(attempt);
    }
}

/// What each trial shows, one after the other: they read counters of the whole host, and would count for each other.
async fn observations(trials: Vec<Trial>, until: Instant) -> Vec<Observed> {
    let mut observed = Vec::new();
    for trial in trials {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let Ok(Ok(one)) = timeout(left, spawn_blocking(move || experiment::observe(&trial))).await else { break };
        observed.push(one);
    }
    observed
}

async fn routes(dialled: &[SocketAddr]) -> Vec<route::Facts> {
    let dialled = dialled.to_vec();
    spawn_blocking(move || dialled.into_iter().map(route::Facts::read).collect()).await.unwrap_or_default()
}

impl Tables {
    fn read(subject: &Subject, dialled: &[SocketAddr]) -> Self {
        let is_udp = subject.protocol() == Protocol::Udp && subject.config.mapping.is_exposed();
        let mut pids = Vec::new();
        let places: Vec<(SocketAddr, Place)> =
            dialled.iter().map(|address| (*address, place(subject, *address, &mut pids))).collect();
        let pid_of = |address: &SocketAddr| pids.iter().find(|(at, _)| at == address).map(|(_, pid)| *pid);
        let trials: Vec<Trial> = dialled
            .iter()
            .map(|address| Trial {
                address: *address,
                protocol: subject.protocol(),
                route: crate::host::routes::route_to(*address).ok(),
                inside: pid_of(address),
            })
            .collect();
        let inside = pids.first().map(|(_, pid)| within(*pid, Rules::read));
        Self {
            listen: listener::Facts::read(subject),
            rules: firewall::Facts {
                rules: Rules::read(),
                // Without root neither can be read, and is said once.
                inside: inside.and_then(Result::ok).unwrap_or_default(),
            },
            tracked: subject.listen_port().filter(|_| is_udp).map(|port| {
                let is_to_it =
                    |flow: &conntrack::Rewritten| flow.protocol == Protocol::Udp && flow.listener.port() == port;
                conntrack::rewritten(MOST_TRACKED, is_to_it)
                    .map(|(flows, _)| flows)
                    .map_err(|error| format!("cannot read which flows the kernel tracks without root ({error})"))
            }),
            strict: drops::strict_interfaces(),
            aliases: alias::Facts::read(subject, &trials),
            places,
            trials,
        }
    }
}

/// What can be seen where an address is.
fn place(subject: &Subject, address: SocketAddr, pids: &mut Vec<(SocketAddr, u32)>) -> Place {
    let seen = |container: Option<String>, listening: std::io::Result<Vec<listeners::Listening>>| match listening {
        Ok(mut listening) => {
            listening.retain(|one| !host_inside::is_docker_dns(one));
            // The names of many listeners are of no use.
            let mut near: Vec<_> = listening;
            if container.is_none() {
                near.retain(|one| one.listener.address.port() == address.port());
            }
            listeners::name(&mut near);
            Place::Seen { container, listening: near }
        }
        Err(error) => Place::Hidden { needs: format!("cannot read who listens there: {error}") },
    };
    if let Some(container) = subject.container_at(address) {
        // Its other addresses are those of the same processes.
        let same =
            |(at, _): &&(SocketAddr, u32)| subject.container_at(*at).is_some_and(|other| other.id == container.id);
        let known = pids.iter().find(same).map(|(_, pid)| *pid);
        let Some(pid) = known.or_else(|| host_inside::process_of(container.id.as_str())) else {
            return inside::hidden(container);
        };
        pids.push((address, pid));
        return seen(Some(container.name.to_string()), listeners::of(pid, subject.protocol()));
    }
    if subject.own.contains(address.ip()) {
        return seen(None, listeners::here(subject.protocol()));
    }
    Place::Elsewhere
}

/// Puts it together: steps in their order, and the causes in the order of the steps that found them.
fn report(subject: &Subject, found: Vec<Finding>, attempts: &[Attempt], started: Instant) -> Report {
    let mut whole = Finding::default();
    for finding in found {
        whole.steps.extend(finding.steps);
        for cause in finding.causes {
            if whole.causes.iter().all(|told| told.kind != cause.kind) {
                whole.causes.push(cause);
            }
        }
    }
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    let explains_target = |kind: CauseKind| {
        !matches!(
            kind,
            CauseKind::PortHeldByProcess
                | CauseKind::PortHeldByContainer
                | CauseKind::ShadowedByDnat
                | CauseKind::PrivilegedPort
                | CauseKind::AddressNotOfThisHost
                | CauseKind::NoGlobalIpv6
                | CauseKind::StaleUdpConntrack
                | CauseKind::ConnectionLimit
                | CauseKind::AliasRouteMissing
                | CauseKind::AliasPool
                | CauseKind::AliasRewritten
                | CauseKind::AliasNoWayBack
                | CauseKind::DescriptorLimit
        )
    };
    if !is_reached && !whole.causes.iter().any(|cause| explains_target(cause.kind)) {
        connect::bare_cause(subject, attempts, &mut whole);
    }
    // What explains the other takes its place: who holds the port publishes it, too, and a firewall that keeps
    // neighbours from being found makes them look dead.
    let has = |kind: CauseKind| whole.causes.iter().any(|cause| cause.kind == kind);
    let (is_held, is_dropped) = (has(CauseKind::PortHeldByContainer), has(CauseKind::Firewall));
    whole.causes.retain(|cause| match cause.kind {
        CauseKind::ShadowedByDnat => !is_held,
        CauseKind::TargetUnreachable => !is_dropped,
        _ => true,
    });
    // It works for everybody else: told only where nothing else is wrong.
    if whole.causes.len() > 1 {
        whole.causes.retain(|cause| cause.kind != CauseKind::NoGlobalIpv6);
    }
    let listen = subject.listen();
    Report {
        name: subject.config.name.clone(),
        mapping: subject.config.mapping.to_string(),
        steps: whole.steps,
        causes: whole.causes,
        who: SafeText::new(&who_can_connect(&listen.address)),
        will_be_at: subject.own.will_be_at(&listen),
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// This host's tables took too long to read.
fn unread(subject: &Subject, target: &Finding, started: Instant) -> Report {
    let text = "the tables of this host take too long to read";
    let tables = Finding::step(crate::model::report::StepKind::Listener, None, Verdict::Unknown, text);
    report(subject, vec![tables, target.clone()], &[], started)
}

/// Who listens inside a container, or why that cannot be seen and what it needs. Blocks.
pub fn look_inside(container: &crate::model::container::Container) -> (Vec<InsideListener>, Option<SafeText>) {
    let name = &container.name;
    let unseen = |text: &str| (Vec::new(), Some(SafeText::new(text)));
    if !container.is_running() {
        return unseen(&format!("{name} does not run"));
    }
    if container.host_network {
        return unseen(&format!("{name} shares this host's network: who listens there is not its own alone"));
    }
    match host_inside::listeners_of(container.id.as_str()) {
        None => unseen(&format!("the processes of {name} are not seen from here (another host, or hidden)")),
        Some(Err(error)) => unseen(&format!("cannot read who listens in {name}: {error}")),
        Some(Ok(listening)) => (listening.into_iter().map(|one| one.listener).collect(), None),
    }
}
