//! Answers what clients ask, and plans the changes that they ask for.

use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::{Duration, timeout};

use super::changes::{Change, History, Plan, ReplyTo};
use super::core::{Job, QUESTIONS, Service};
use super::desired::{Entry, Past, checked_by_name};
use super::dns::{self, DnsTable};
use super::profile::{OpenError, OpenedProfile};
use super::resolve::{Wanted, by_dns};
use crate::forward::context::Addresses;
use crate::forward::tcp::dial;
use crate::host;
use crate::model::count::count;
use crate::model::event::CloseReason;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::{HostPort, Listen, Protocol, Target, TargetHost};
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, WrittenMapping};
use crate::model::request::{Call, PortReport, ProbeResult, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::LastOutcome;

/// How long one address may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the screen's key for it does.
const UNDO: &str = "u undoes";

pub(super) type Answer = Result<Reply, RequestError>;

impl Service {
    /// Answers a call, now, by a job, or when its change has been made.
    pub(super) fn serve(&mut self, call: Call, reply: ReplyTo) {
        if let Err(stale) = self.current(&call) {
            let _ = reply.send(Err(stale));
            return;
        }
        let answer = match &call.request {
            Request::WhoHolds { listen, protocol, except } => {
                return self.who_holds(listen.clone(), *protocol, *except, reply);
            }
            Request::Probe { target, protocol } => return self.probe(target.clone(), *protocol, reply),
            Request::Profiles => return self.profiles(reply),
            Request::Containers => {
                self.docker.need();
                Ok(self.containers())
            }
            Request::Inside { container } => return self.inside(container, reply),
            Request::Why { id } => return self.why(*id, reply),
            Request::Metrics => Ok(Reply::Metrics(Box::new(self.metrics()))),
            Request::Whois { address } => return self.whois(*address, reply),
            Request::Validate { mapping, replaces } => self.validate(mapping, *replaces),
            Request::Kill { id } => self.kill(*id),
            Request::Shutdown { drain_ms } => {
                self.asked.send_replace(Some(Duration::from_millis(*drain_ms)));
                Ok(done(Vec::new(), "the engine ends"))
            }
            Request::OpenProfile { name } if self.is_open(name) => Ok(done(Vec::new(), &format!("{name} is open"))),
            _ if self.is_ending => Err(RequestError::Failed { message: "the engine is ending".into() }),
            _ => return self.change(call, reply),
        };
        // A client that no longer waits makes this fail.
        let _ = reply.send(answer);
    }

    /// Refuses a call that was made from another state than the one that stands.
    pub(super) fn current(&self, call: &Call) -> Result<(), RequestError> {
        let current = self.desired.revision();
        match call.expected {
            Some(expected) if expected != current => Err(RequestError::Stale { current }),
            _ => Ok(()),
        }
    }

    /// What a request for a change comes to, if it is valid.
    pub(super) fn plan(&mut self, request: Request) -> Result<Plan, RequestError> {
        let change = match request {
            Request::Add { mapping, even_if_busy } => self.add(&mapping, even_if_busy)?,
            Request::AddAll { mappings, even_if_busy } => self.add_all(&mappings, even_if_busy)?,
            Request::Edit { id, mapping, even_if_busy } => self.edit(id, &mapping, even_if_busy)?,
            Request::Remove { ids } => self.remove(ids)?,
            Request::Start { ids } if self.are_all(&ids, true) => {
                return Ok(Plan::Nothing(done(ids.clone(), &format!("{}: started already", self.names(&ids)?))));
            }
            Request::Stop { ids } if self.are_all(&ids, false) => {
                return Ok(Plan::Nothing(done(ids.clone(), &format!("{}: stopped already", self.names(&ids)?))));
            }
            Request::Start { ids } => self.enable(ids, true)?,
            Request::Stop { ids } => self.enable(ids, false)?,
            Request::Undo => self.undo()?,
            Request::OpenProfile { name } => return Ok(Plan::Open(name)),
            Request::SaveAs { name } if self.is_open(&name) => {
                return Err(RequestError::Failed {
                    message: SafeText::new(&format!("{name} is open: choose another name")),
                });
            }
            Request::SaveAs { name } => return Ok(Plan::SaveAs(name)),
            Request::Kill { .. }
            | Request::Shutdown { .. }
            | Request::Profiles
            | Request::Validate { .. }
            | Request::WhoHolds { .. }
            | Request::Probe { .. }
            | Request::Inside { .. }
            | Request::Why { .. }
            | Request::Metrics
            | Request::Whois { .. }
            | Request::Containers => unreachable!("answered by `serve`"),
        };
        Ok(Plan::Make(change))
    }

    fn add(&mut self, mapping: &WrittenMapping, even_if_busy: bool) -> Result<Change, RequestError> {
        let change = self.add_all(std::slice::from_ref(mapping), even_if_busy)?;
        let config = change.ids.first().map(|id| config_of(&change.entries, *id)).transpose()?;
        let Some(config) = config else { return Ok(change) };
        let (who, keys) = if config.mapping.is_exposed() {
            ("other machines can connect", None)
        } else {
            ("only this machine can connect", Some("e opens it to the network"))
        };
        Ok(Change { message: format!("added {}: {who}", config.name), keys, ..change })
    }

    fn add_all(&mut self, mappings: &[WrittenMapping], even_if_busy: bool) -> Result<Change, RequestError> {
        if mappings.is_empty() {
            return Err(RequestError::Failed { message: "there is nothing to add".into() });
        }
        let mut entries = self.desired.entries().to_vec();
        let is_session = self.profile.is_none();
        // Session mappings come last, as they do after a restart.
        let of_profile = entries.iter().position(|entry| entry.is_session).unwrap_or(entries.len());
        let first = if is_session { entries.len() } else { of_profile };
        let mut ids = Vec::new();
        for (at, mapping) in (first..).zip(mappings) {
            let config = MappingConfig::from_written(mapping).map_err(invalid)?;
            let id = self.desired.fresh_id();
            entries.insert(at, Entry { id, config: Arc::new(config), is_session });
            ids.push(id);
        }
        let entries = self.checked(entries, &ids)?;
        let mut ports = Vec::new();
        for id in &ids {
            let config = config_of(&entries, *id)?;
            ports.extend(self.ports(&config, None, config.enabled && !even_if_busy));
        }
        let added = entries.iter().filter(|entry| ids.contains(&entry.id));
        let names = listed(&added.map(|entry| entry.config.name.as_str()).collect::<Vec<_>>());
        Ok(Change {
            ports,
            history: History::New(SafeText::new(&format!("add {names}"))),
            message: format!("added {names}"),
            keys: Some(UNDO),
            ids,
            entries,
        })
    }

    fn edit(&mut self, id: MappingId, mapping: &WrittenMapping, even_if_busy: bool) -> Result<Change, RequestError> {
        let old = self.desired.entry(id).cloned().ok_or_else(|| no_mapping(id))?;
        let config = Arc::new(MappingConfig::from_written(mapping).map_err(invalid)?);
        let mut entries = self.desired.entries().to_vec();
        for entry in entries.iter_mut().filter(|entry| entry.id == id) {
            entry.config = Arc::clone(&config);
        }
        let entries = self.checked(entries, &[id])?;
        let config = config_of(&entries, id)?;
        let moves = config.mapping.listen != old.config.mapping.listen
            || config.mapping.protocol != old.config.mapping.protocol
            || !old.config.enabled;
        let is_asked = config.enabled && moves && !even_if_busy;
        Ok(Change {
            ports: self.ports(&config, Some(id), is_asked),
            history: History::New(SafeText::new(&format!("edit {}", config.name))),
            message: format!("changed {}", config.name),
            keys: None,
            ids: vec![id],
            entries,
        })
    }

    fn remove(&mut self, ids: Vec<MappingId>) -> Result<Change, RequestError> {
        let names = self.names(&ids)?;
        let known = ids.iter().filter_map(|id| self.known.get(id));
        let connections: u64 = known.map(|known| known.status().meter.open_connections()).sum();
        let entries = self.desired.entries().iter().filter(|entry| !ids.contains(&entry.id)).cloned().collect();
        let dropped = match connections {
            0 => String::new(),
            n => format!(" and {}", count(n, "connection")),
        };
        Ok(Change {
            ports: Vec::new(),
            history: History::New(SafeText::new(&format!("delete {names}"))),
            message: format!("deleted {names}{dropped}"),
            keys: Some(UNDO),
            ids,
            entries,
        })
    }

    /// Whether all of these are there and enabled so already.
    fn are_all(&self, ids: &[MappingId], enabled: bool) -> bool {
        !ids.is_empty()
            && ids.iter().all(|id| self.desired.entry(*id).is_some_and(|entry| entry.config.enabled == enabled))
    }

    fn enable(&mut self, ids: Vec<MappingId>, enabled: bool) -> Result<Change, RequestError> {
        let names = self.names(&ids)?;
        let mut entries = self.desired.entries().to_vec();
        for entry in entries.iter_mut().filter(|entry| ids.contains(&entry.id)) {
            entry.config = Arc::new(MappingConfig { enabled, ..MappingConfig::clone(&entry.config) });
        }
        let (verb, past) = if enabled { ("start", "started") } else { ("stop", "stopped") };
        Ok(Change {
            ports: Vec::new(),
            entries: self.checked(entries, &[])?,
            history: History::New(SafeText::new(&format!("{verb} {names}"))),
            message: format!("{past} {names}"),
            keys: None,
            ids,
        })
    }

    fn undo(&mut self) -> Result<Change, RequestError> {
        let Some(Past { label, entries, has_dropped }) = self.desired.undo_target().cloned() else {
            return Err(RequestError::Failed { message: "nothing to undo".into() });
        };
        let is_new = |id: &MappingId| self.desired.entry(*id).is_none();
        let back: Vec<MappingId> = entries.iter().map(|entry| entry.id).filter(is_new).collect();
        let note = if has_dropped { "; connections that were dropped stay so" } else { "" };
        Ok(Change {
            ports: Vec::new(),
            history: History::Back,
            message: format!("undid: {label}{note}"),
            keys: None,
            ids: back,
            entries,
        })
    }

    fn kill(&mut self, id: ConnectionId) -> Answer {
        if self.registry.kill(id, CloseReason::Killed) {
            Ok(done(Vec::new(), &format!("reset connection {id}")))
        } else {
            Err(RequestError::NotFound { what: SafeText::new(&format!("connection {id}")) })
        }
    }

    fn is_open(&self, name: &str) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.is_named(name))
    }

    fn profiles(&mut self, reply: ReplyTo) {
        let open = self.profile.as_ref().map(|profile| profile.status().name.as_str().to_owned());
        self.look_up(reply, async move {
            let names = OpenedProfile::list().await;
            names.map(|names| Reply::Profiles { names, open }).map_err(open_error)
        });
    }

    /// Has an answer found beside the loop.
    pub(super) fn look_up(&mut self, reply: ReplyTo, answer: impl Future<Output = Answer> + Send + 'static) {
        self.jobs.spawn(async move {
            let _ = reply.send(answer.await);
            Job::Done
        });
    }

    /// Has an answer found that others are asked for, which may take seconds: for as long as somebody waits for it, and
    /// few at once, so that they do not take the place of everything else.
    pub(super) fn inquire(&mut self, mut reply: ReplyTo, answer: impl Future<Output = Answer> + Send + 'static) {
        let Ok(place) = Arc::clone(&self.questions).try_acquire_owned() else {
            let text = format!("{QUESTIONS} questions are being looked into, as many as there may be: ask again");
            let _ = reply.send(Err(RequestError::Failed { message: SafeText::new(&text) }));
            return;
        };
        self.jobs.spawn(async move {
            tokio::select! {
                answer = answer => {
                    let _ = reply.send(answer);
                }
                () = reply.closed() => {}
            }
            drop(place);
            Job::Done
        });
    }

    fn validate(&mut self, mapping: &WrittenMapping, replaces: Option<MappingId>) -> Answer {
        let config = MappingConfig::from_written(mapping).map_err(invalid)?;
        let mut entries = self.desired.entries().to_vec();
        let id = replaces.unwrap_or(MappingId(u64::MAX));
        match entries.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => entry.config = Arc::new(config),
            None => entries.push(Entry { id, config: Arc::new(config), is_session: false }),
        }
        let config = config_of(&self.checked(entries, &[id])?, id)?;
        let will_be_at = self.own.will_be_at(&config.mapping.listen);
        Ok(Reply::Valid {
            name: config.name.clone(),
            notes: {
                let who = SafeText::new(&host::addresses::who_can_connect(&config.mapping.listen.address));
                iter::once(who).chain(config.warnings()).collect()
            },
            places: will_be_at.iter().map(|address| self.own.shown(*address)).collect(),
            will_be_at,
        })
    }

    fn containers(&self) -> Reply {
        let view = self.docker.view();
        let mut containers = view.containers.to_vec();
        containers.sort_by(|a, b| (!a.is_running(), &a.name).cmp(&(!b.is_running(), &b.name)));
        Reply::Containers { containers, docker: view.state }
    }

    fn who_holds(&mut self, listen: Listen, protocol: Protocol, except: Option<MappingId>, reply: ReplyTo) {
        let own = self.our_addresses(except, protocol);
        self.look_up(reply, async move { port_report(listen, protocol, own).await.map(Reply::Port) });
    }

    /// What must be free for `config`, if that is asked, but for the listeners of the mapping that it replaces.
    fn ports(
        &self,
        config: &MappingConfig,
        replaces: Option<MappingId>,
        is_asked: bool,
    ) -> Vec<(Listen, Protocol, Vec<SocketAddr>)> {
        let listen = &config.mapping.listen;
        if !is_asked || listen.port == HostPort::Auto {
            return Vec::new();
        }
        let protocol = config.mapping.protocol;
        vec![(listen.clone(), protocol, self.our_addresses(replaces, protocol))]
    }

    /// What may be in use without being in the way of a mapping: its own listeners, and what was handed in for it.
    fn our_addresses(&self, id: Option<MappingId>, protocol: Protocol) -> Vec<SocketAddr> {
        let mut addresses = self.bound_addresses(id);
        addresses.extend(self.engine.iter().flat_map(|engine| engine.free_handed_in(protocol)));
        addresses
    }

    /// Every address that a mapping's own listeners hold now.
    fn bound_addresses(&self, id: Option<MappingId>) -> Vec<SocketAddr> {
        let Some(known) = id.and_then(|id| self.known.get(&id)) else { return Vec::new() };
        let count = u16::try_from(known.config.mapping.port_count()).unwrap_or(u16::MAX);
        known
            .status()
            .listeners
            .iter()
            .filter_map(|listener| listener.bound)
            .flat_map(|first| {
                (0..count).map(move |offset| {
                    let mut address = first;
                    address.set_port(first.port().saturating_add(offset));
                    address
                })
            })
            .collect()
    }

    fn probe(&mut self, target: Target, protocol: Protocol, reply: ReplyTo) {
        let known = self.addresses(&Wanted { target: target.clone(), protocol, network: None });
        // A name that no mapping has yet, such as one in the form, is not kept current.
        let stranger = match &target.host {
            TargetHost::Dns(name) if !self.knows_name(name) => Some(name.clone()),
            _ => None,
        };
        self.inquire(reply, async move {
            let addresses = match stranger {
                Some(name) => {
                    let answer = dns::look_up_once(dns::system(), name.clone()).await;
                    by_dns(&name, &DnsTable([(name.clone(), answer)].into()))
                }
                None => known,
            };
            Ok(probe(addresses, &target, protocol).await)
        });
    }

    /// Checks what a request comes to. Its problems name mappings as its client does: `asked` are those that it is
    /// about.
    fn checked(&self, entries: Vec<Entry>, asked: &[MappingId]) -> Result<Vec<Entry>, RequestError> {
        checked_by_name(entries, &self.own_ips(), asked).map_err(invalid)
    }

    fn names(&self, ids: &[MappingId]) -> Result<String, RequestError> {
        let names: Result<Vec<_>, _> = ids
            .iter()
            .map(|id| self.desired.entry(*id).map(|entry| entry.config.name.as_str()).ok_or_else(|| no_mapping(*id)))
            .collect();
        Ok(listed(&names?))
    }
}

/// Up to three names; of more, how many.
fn listed(names: &[&str]) -> String {
    if names.len() > 3 { count(names.len() as u64, "mapping") } else { names.join(", ") }
}

/// Who holds the ports of `listen`, leaving out the listeners at `own`.
pub(super) async fn port_report(
    listen: Listen,
    protocol: Protocol,
    own: Vec<SocketAddr>,
) -> Result<PortReport, RequestError> {
    let looked = tokio::task::spawn_blocking(move || host::holders::report(&listen, protocol, &own)).await;
    looked.map_err(|_| RequestError::Gone)?.map_err(|error| RequestError::Failed {
        message: SafeText::new(&format!("cannot read who holds ports: {error}")),
    })
}

async fn probe(addresses: Addresses, target: &Target, protocol: Protocol) -> Reply {
    let none = |reason: SafeText| Reply::Probed { results: Vec::new(), reason: Some(reason) };
    if protocol != Protocol::Tcp {
        return none(SafeText::new(&format!(
            "{protocol} cannot be probed: only an answer shows that somebody is there"
        )));
    }
    let known = match addresses {
        Addresses::Known(known) => known,
        Addresses::Waiting { reason } | Addresses::Refused { reason } => return none(reason),
    };
    let mut results = Vec::new();
    for mut address in known {
        address.set_port(target.ports.first());
        let start = Instant::now();
        let outcome = match timeout(PROBE_TIMEOUT, dial::connect(address)).await {
            Ok(Ok(_)) => LastOutcome::Ok,
            Ok(Err(error)) => error.outcome(),
            Err(_) => LastOutcome::Timeout,
        };
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        results.push(ProbeResult { address, outcome, took_us });
    }
    Reply::Probed { results, reason: None }
}

pub(super) fn done(ids: Vec<MappingId>, message: &str) -> Reply {
    Reply::Done { ids, message: SafeText::new(message), keys: None }
}

pub(super) fn invalid(problems: Vec<Problem>) -> RequestError {
    RequestError::Invalid { problems }
}

fn no_mapping(id: MappingId) -> RequestError {
    RequestError::NotFound { what: SafeText::new(&format!("mapping {id}")) }
}

/// The mapping of that id, with its name filled in.
fn config_of(entries: &[Entry], id: MappingId) -> Result<Arc<MappingConfig>, RequestError> {
    let entry = entries.iter().find(|entry| entry.id == id);
    entry.map(|entry| Arc::clone(&entry.config)).ok_or_else(|| no_mapping(id))
}

pub(super) fn open_error(error: OpenError) -> RequestError {
    match error {
        OpenError::Invalid(problems) => RequestError::Invalid { problems },
        OpenError::Running(message) | OpenError::Failed(message) => RequestError::Failed { message },
    }
}
