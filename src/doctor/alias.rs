//! Whether clients can appear under addresses of their own (identity `alias`): the pool's route, who else has its
//! addresses, rules that change sources, and the way that answers take.
//!
//! Whether answers find back is tried: the target is dialled from an address of the pool too, one that no client is given.
//! An alias is of no network that the target is in, so its answers take the target's default route. Where that is another
//! way than the requests', as of a container in several networks, a strict reverse-path filter drops them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::task::JoinSet;

use super::connect::{self, Attempt, Outcome};
use super::experiment::{OUT, Trial};
use super::finding::Finding;
use super::subject::Subject;
use super::{firewall, walk};
use crate::host::alias_route::{self, PoolSight};
use crate::host::namespace::within;
use crate::host::packet_filter::{Packet, State};
use crate::host::routes::route_to;
use crate::model::alias::{Pool, Slot, route_commands};
use crate::model::identity::Identity;
use crate::model::mapping::Family;
use crate::model::report::{CauseKind, StepKind, Verdict};
use crate::model::untrusted::SafeText;

/// What was read of the pool.
#[derive(Debug)]
pub(super) struct Facts {
    pool: Result<Pool, String>,
    sight: Result<PoolSight, String>,
    ways: Vec<(SocketAddr, WayBack)>,
}

/// Whether an answer of the target finds its way to an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WayBack {
    /// It does.
    There,
    /// The container of that name has no route for it.
    None(SafeText),
    /// That cannot be seen.
    Unknown(&'static str),
}

impl Facts {
    /// Reads what matters to a mapping with aliases; `None` for any other.
    pub(super) fn read(subject: &Subject, trials: &[Trial]) -> Option<Self> {
        if subject.config.identity != Identity::Alias {
            return None;
        }
        let pool = Pool::new(subject.config.alias_pool).map_err(|unfit| unfit.to_string());
        let sight = match &pool {
            Ok(pool) => alias_route::look(pool).map_err(|error| error.to_string()),
            Err(said) => Err(said.clone()),
        };
        let alias = pool.as_ref().ok().map(|pool| pool.address(Slot(0)));
        let ways = trials.iter().zip(alias.into_iter().cycle());
        let ways = ways.map(|(trial, alias)| (trial.address, way_back(subject, trial, alias))).collect();
        Some(Self { pool, sight, ways })
    }
}

/// What came of connecting, from this host's own address and from one of the pool.
pub(super) struct Answered<'a> {
    pub(super) host: &'a [Attempt],
    pub(super) aliases: &'a [Attempt],
    /// Interfaces whose reverse-path filter is strict.
    pub(super) strict: &'a [SafeText],
}

impl Answered<'_> {
    fn is_by(&self, address: SocketAddr) -> bool {
        self.aliases.iter().any(|attempt| attempt.address == address && attempt.outcome == Outcome::Connected)
    }

    /// An address that answers this host and does not answer aliases, where no address does.
    fn not_back(&self) -> Option<&Attempt> {
        let is_none = self.aliases.iter().all(|attempt| attempt.outcome != Outcome::Connected);
        let answers = |address| {
            self.host.iter().any(|attempt| attempt.address == address && attempt.outcome == Outcome::Connected)
        };
        let is_lost = |attempt: &&Attempt| !matches!(attempt.outcome, Outcome::Connected | Outcome::Failed(_));
        self.aliases.iter().filter(|_| is_none).find(|attempt| answers(attempt.address) && is_lost(attempt))
    }
}

/// Starts connecting as a client of the mapping would, if its clients have aliases.
pub(super) fn connect(subject: &Subject, addresses: &[SocketAddr]) -> JoinSet<Attempt> {
    let config = &subject.config;
    let pool = Pool::new(config.alias_pool).ok().filter(|_| config.identity == Identity::Alias);
    // Nobody else's address: to one of IPv6 anybody can bind.
    let pool = pool.filter(|pool| alias_route::is_local(pool).unwrap_or(false));
    let Some(pool) = pool else { return JoinSet::new() };
    // The last one of a pool is never given away, and the target will not take us for a client.
    let from = pool.network().broadcast();
    let fitting = addresses.iter().copied().filter(|address| address.is_ipv4() == from.is_ipv4());
    connect::start(fitting, Some(from))
}

fn way_back(subject: &Subject, trial: &Trial, alias: IpAddr) -> WayBack {
    let Some(container) = subject.container_at(trial.address) else {
        let is_local = trial.route.as_ref().is_some_and(|route| route.is_local);
        return if is_local {
            WayBack::There
        } else {
            WayBack::Unknown("whether the target sends its answers by way of this host: it needs a route to the pool")
        };
    };
    if let Some(pid) = trial.inside
        && let Ok(found) = within(pid, || route_to(SocketAddr::new(alias, 0)).is_ok())
    {
        return if found { WayBack::There } else { WayBack::None(container.name.clone()) };
    }
    // Some engines give a container of such a network a gateway, and some do not.
    let is_closed = !container.networks.is_empty() && container.networks.iter().all(|network| network.is_internal);
    if is_closed {
        WayBack::Unknown("whether the container has a gateway, on an --internal network: that needs root")
    } else {
        WayBack::There
    }
}

/// The step, and what is wrong.
pub(super) fn judge(
    subject: &Subject,
    facts: &Facts,
    rules: &firewall::Facts,
    trials: &[Trial],
    answered: &Answered<'_>,
) -> Finding {
    let mut finding = Finding::default();
    let network = subject.config.alias_pool;
    let mut bad = |text: &str, kind, sentence: &str, remedies: &[&str]| {
        finding.add(StepKind::Alias, None, Verdict::Bad, text);
        finding.cause(kind, sentence, remedies);
    };
    let (pool, sight) = match (&facts.pool, &facts.sight) {
        (Ok(pool), Ok(sight)) => (pool, sight),
        (Err(said), _) => {
            bad(said, CauseKind::AliasPool, &format!("{network} cannot be a pool of aliases."), &[ANOTHER_POOL]);
            return finding;
        }
        (_, Err(error)) => {
            let text = format!("cannot read the routes: {error}");
            return Finding::step(StepKind::Alias, None, Verdict::Unknown, &text);
        }
    };
    if let Some(other) = &sight.in_the_way {
        let free = sight.free.map_or_else(|| ANOTHER_POOL.to_owned(), |free| format!("\"alias_pool\": \"{free}\""));
        let sentence = format!("{network} cannot be used for aliases: it overlaps {other}.");
        bad(&format!("overlaps {other}"), CauseKind::AliasPool, &sentence, &[&free]);
        return finding;
    }
    if !sight.is_local {
        let [ours, plain] = route_commands(network);
        let sentence = format!("Clients cannot have aliases: the route that makes {network} local is missing.");
        bad("the route is missing", CauseKind::AliasRouteMissing, &sentence, &[&ours, &plain]);
        return finding;
    }
    let is_of_family = |trial: &Trial| Family::of(trial.address.ip()) == Family::of(network.addr());
    if !trials.is_empty() && !trials.iter().any(is_of_family) {
        let text = format!("the target has no address of the family of {network}");
        let sentence = format!("Clients cannot have aliases of {network}: the target has no address of that family.");
        let other = if network.addr().is_ipv4() {
            "\"alias_pool\": \"fd00:a1a5::/64\""
        } else {
            "\"alias_pool\": \"198.18.0.0/15\""
        };
        bad(&text, CauseKind::AliasPool, &sentence, &[other]);
        return finding;
    }
    if let Some(refusal) = &subject.alias_refusal {
        let sentence = format!("The engine gives no aliases of {network}: {refusal}.");
        bad(refusal.as_str(), CauseKind::AliasPool, &sentence, &[ANOTHER_POOL]);
        return finding;
    }
    for (trial, (address, way)) in trials.iter().zip(&facts.ways) {
        if let Some(text) = rewritten(rules, trial, pool) {
            let sentence =
                format!("A rule of this host gives connections to {address} another source: aliases are lost.");
            let remedies = [
                format!("take the rule out, or let it spare {network}: {text}"),
                "Docker: run it with userland-proxy (\"userland-proxy\": true)".to_owned(),
            ];
            bad(&text, CauseKind::AliasRewritten, &sentence, &remedies.each_ref().map(String::as_str));
            return finding;
        }
        if let WayBack::None(name) = way {
            let text = format!("{name} has no route to {network}");
            let sentence = format!(
                "{name} cannot answer its clients: it has no gateway (an --internal network?), and so no way to {network}."
            );
            let remedies = ["a network without --internal", "\"identity\": \"proxy-v2\", if the server reads it"];
            bad(&text, CauseKind::AliasNoWayBack, &sentence, &remedies);
            return finding;
        }
    }
    if let Some(attempt) = answered.not_back() {
        let text = format!("{} answers this host, and no address of {network}", attempt.address);
        let (sentence, remedies) = not_back(attempt, network, answered.strict);
        bad(&text, CauseKind::AliasNoWayBack, &sentence, &remedies.iter().map(String::as_str).collect::<Vec<_>>());
        return finding;
    }
    let unseen = facts.ways.iter().find_map(|(address, way)| match way {
        WayBack::Unknown(what) if !answered.is_by(*address) => Some(*what),
        _ => None,
    });
    let unseen = unseen.or_else(|| rules.rules.unseen.first().map(SafeText::as_str));
    let verdict = if unseen.is_some() { Verdict::Unknown } else { Verdict::Ok };
    let more = unseen.map(|what| format!("; {what}")).unwrap_or_default();
    let text = format!(
        "{network} is local, so what listens on every address is found under these, too, from here and by containers{more}"
    );
    finding.add(StepKind::Alias, None, verdict, &text);
    finding
}

/// What is wrong where a target answers this host and not an address of the pool, and what to try.
fn not_back(attempt: &Attempt, network: IpNet, strict: &[SafeText]) -> (String, Vec<String>) {
    if attempt.outcome == Outcome::Refused {
        let sentence = format!("Connections from {network} are refused, those of this host's own address are not.");
        return (sentence, vec![format!("let {network} in, where the target or a rule before it lists who may come")]);
    }
    // There is none for IPv6.
    let strict = strict.iter().filter(|_| attempt.address.is_ipv4());
    let names: Vec<&str> = strict.map(SafeText::as_str).collect();
    let (dropped, filter) = if names.is_empty() {
        (String::new(), None)
    } else {
        let filter = "net.ipv4.conf.all.rp_filter=2 lets answers come in by any interface";
        (format!(" (rp_filter is strict on {})", names.join(", ")), Some(filter.to_owned()))
    };
    let address = attempt.address;
    let sentence =
        format!("Answers of {address} to {network} do not come back by the way that requests take{dropped}.");
    let container = "a container in several networks: make the one that has its default route the target's";
    let host = format!("another host: give it a route to {network} by way of this one");
    (sentence, [container.to_owned(), host].into_iter().chain(filter).collect())
}

const ANOTHER_POOL: &str = "another \"alias_pool\", of addresses that nobody has";

/// The rule that certainly gives a connection from an alias to the target another source.
fn rewritten(facts: &firewall::Facts, trial: &Trial, pool: &Pool) -> Option<String> {
    if Family::of(trial.address.ip()) != Family::of(pool.network().addr()) {
        return None;
    }
    let packet = Packet {
        protocol: trial.protocol,
        source: Some(pool.address(Slot(0))),
        source_port: None,
        destination: trial.address.ip(),
        destination_port: Some(trial.address.port()),
        came_in: Some(String::new()),
        goes_out: trial.route.as_ref().map(|route| route.interface.to_string()),
        is_for_this_host: trial.route.as_ref().is_some_and(|route| route.is_local),
        state: State::New,
    };
    walk::walk(&facts.rules, &OUT, &packet).rewrites.map(|rule| rule.text.to_string())
}
