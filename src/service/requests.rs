//! Carries out what clients ask.
//!
//! A change of the desired state is checked as a whole, written to the profile, and only then made: a refused
//! or failed request has changed nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::core::{Job, Service};
use super::desired::{Desired, Entry, checked};
use super::profile::{OpenError, OpenedProfile, SaveFailure};
use crate::forward::context::Addresses;
use crate::host;
use crate::model::event::CloseReason;
use crate::model::id::MappingId;
use crate::model::mapping::{HostPort, Listen, Protocol, Target};
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, WrittenMapping};
use crate::model::request::{Call, PortReport, ProbeResult, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::LastOutcome;

/// How long one address may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

type Answer = Result<Reply, RequestError>;

impl Service {
    /// Carries out a call and answers it; what only looks is answered by a job.
    pub(super) async fn serve(&mut self, call: Call, reply: oneshot::Sender<Answer>) {
        if call.expected.is_some_and(|expected| expected != self.desired.revision()) {
            let _ = reply.send(Err(RequestError::Stale { current: self.desired.revision() }));
            return;
        }
        // A client that no longer waits makes `send` fail; the change stands all the same.
        match call.request {
            Request::WhoHolds { listen, protocol, except } => self.who_holds(listen, protocol, except, reply),
            Request::Probe { target, protocol } => self.probe(target, protocol, reply),
            Request::Containers => {
                self.docker.need();
                let _ = reply.send(Ok(self.containers()));
            }
            other => {
                let answer = self.change(other).await;
                let _ = reply.send(answer);
            }
        }
    }

    async fn change(&mut self, request: Request) -> Answer {
        match request {
            Request::Add { mapping, even_if_busy } => self.add(&mapping, even_if_busy).await,
            Request::Edit { id, mapping, even_if_busy } => self.edit(id, &mapping, even_if_busy).await,
            Request::Remove { ids } => self.remove(&ids).await,
            Request::Start { ids } => self.enable(&ids, true).await,
            Request::Stop { ids } => self.enable(&ids, false).await,
            Request::Kill { id } => {
                if self.registry.kill(id, CloseReason::Killed) {
                    Ok(done(Vec::new(), &format!("reset connection {id}")))
                } else {
                    Err(RequestError::NotFound { what: SafeText::new(&format!("connection {id}")) })
                }
            }
            Request::Undo => self.undo().await,
            Request::OpenProfile { name } => self.open_profile(&name).await,
            Request::SaveAs { name } => self.save_as(&name).await,
            Request::Profiles => self.profiles().await,
            Request::Validate { mapping, replaces } => self.validate(&mapping, replaces),
            Request::WhoHolds { .. } | Request::Probe { .. } | Request::Containers => {
                unreachable!("answered by `serve`")
            }
        }
    }

    async fn add(&mut self, mapping: &WrittenMapping, even_if_busy: bool) -> Answer {
        let config = MappingConfig::from_written(mapping).map_err(invalid)?;
        let id = self.desired.fresh_id();
        let mut entries = self.desired.entries().to_vec();
        // Session mappings come last, as they do after a restart.
        let at = entries.iter().position(|entry| entry.is_session).unwrap_or(entries.len());
        let is_session = self.profile.is_none();
        entries.insert(if is_session { entries.len() } else { at }, Entry { id, config: Arc::new(config), is_session });
        let entries = self.checked(entries)?;
        let config = Arc::clone(&entries.iter().find(|entry| entry.id == id).ok_or_else(lost)?.config);
        if config.enabled && !even_if_busy {
            self.refuse_busy(&config, None).await?;
        }
        self.commit(&format!("add {}", config.name), entries).await?;
        let who = if config.mapping.is_exposed() {
            "other machines can connect"
        } else {
            "only this machine can connect; e opens it to the network"
        };
        Ok(done(vec![id], &format!("added {}: {who}", config.name)))
    }

    async fn edit(&mut self, id: MappingId, mapping: &WrittenMapping, even_if_busy: bool) -> Answer {
        let old = self.desired.entry(id).cloned().ok_or_else(|| no_mapping(id))?;
        let config = MappingConfig::from_written(mapping).map_err(invalid)?;
        let mut entries = self.desired.entries().to_vec();
        for entry in entries.iter_mut().filter(|entry| entry.id == id) {
            entry.config = Arc::new(config.clone());
        }
        let entries = self.checked(entries)?;
        let config = Arc::clone(&entries.iter().find(|entry| entry.id == id).ok_or_else(lost)?.config);
        if config == old.config {
            return Ok(done(vec![id], &format!("{} is unchanged", config.name)));
        }
        let moves = config.mapping.listen != old.config.mapping.listen
            || config.mapping.protocol != old.config.mapping.protocol
            || !old.config.enabled;
        if config.enabled && moves && !even_if_busy {
            self.refuse_busy(&config, Some(id)).await?;
        }
        self.commit(&format!("edit {}", config.name), entries).await?;
        Ok(done(vec![id], &format!("changed {}", config.name)))
    }

    async fn remove(&mut self, ids: &[MappingId]) -> Answer {
        let names = self.names(ids)?;
        let connections: u64 =
            ids.iter().filter_map(|id| self.known.get(id)).map(|known| known.status.meter.open_connections()).sum();
        let entries = self.desired.entries().iter().filter(|entry| !ids.contains(&entry.id)).cloned().collect();
        self.commit(&format!("delete {names}"), entries).await?;
        let dropped = match connections {
            0 => String::new(),
            1 => " and 1 connection".to_owned(),
            n => format!(" and {n} connections"),
        };
        Ok(done(ids.to_vec(), &format!("deleted {names}{dropped}; u undoes")))
    }

    async fn enable(&mut self, ids: &[MappingId], enabled: bool) -> Answer {
        let names = self.names(ids)?;
        let mut entries = self.desired.entries().to_vec();
        for entry in entries.iter_mut().filter(|entry| ids.contains(&entry.id)) {
            let mut config = MappingConfig::clone(&entry.config);
            config.enabled = enabled;
            entry.config = Arc::new(config);
        }
        let (verb, past) = if enabled { ("start", "started") } else { ("stop", "stopped") };
        let entries = self.checked(entries)?;
        self.commit(&format!("{verb} {names}"), entries).await?;
        Ok(done(ids.to_vec(), &format!("{past} {names}")))
    }

    async fn undo(&mut self) -> Answer {
        let Some((label, entries)) = self.desired.undo_target().cloned() else {
            return Err(RequestError::Failed { message: "nothing to undo".into() });
        };
        self.save(&entries).await?;
        let before: Vec<MappingId> = self.desired.entries().iter().map(|entry| entry.id).collect();
        self.desired.undo();
        self.reconcile().await;
        let back: Vec<MappingId> = entries.iter().map(|entry| entry.id).filter(|id| !before.contains(id)).collect();
        let note = if back.is_empty() { "" } else { "; connections that were dropped stay so" };
        Ok(done(back, &format!("undid: {label}{note}")))
    }

    /// Writes and makes a checked state.
    async fn commit(&mut self, label: &str, entries: Vec<Entry>) -> Result<(), RequestError> {
        self.save(&entries).await?;
        self.desired.change(SafeText::new(label), entries);
        self.reconcile().await;
        Ok(())
    }

    async fn save(&mut self, entries: &[Entry]) -> Result<(), RequestError> {
        let Some(profile) = &mut self.profile else { return Ok(()) };
        match profile.save(Desired::profile(entries)).await {
            Ok(()) => Ok(()),
            Err(SaveFailure::ChangedOnDisk) => {
                self.file_changed().await;
                let problem = self.profile.as_ref().and_then(|profile| profile.status().problem);
                let message = match problem {
                    None => "the profile was changed by hand in the meantime; that is applied now: repeat".into(),
                    // Such as "not applied: FILE:3:1: …".
                    Some(problem) => SafeText::new(&format!(
                        "nothing changed: the profile was edited by hand and {problem}; mend it, then repeat"
                    )),
                };
                Err(RequestError::Failed { message })
            }
            Err(SaveFailure::Other(message)) => {
                Err(RequestError::Failed { message: SafeText::new(&format!("not saved, nothing changed: {message}")) })
            }
        }
    }

    /// The file was edited by hand: apply it, or say why not and leave what runs alone.
    pub(super) async fn file_changed(&mut self) {
        use crate::model::event::EventKind;
        let Some(profile) = &mut self.profile else { return };
        match profile.reload().await {
            Ok(None) => {}
            Ok(Some(mappings)) => {
                let old = self.desired.entries().to_vec();
                let entries = match checked(self.desired.matched(mappings), &self.own_ips()) {
                    Ok(entries) => entries,
                    Err(problems) => {
                        if let Some(profile) = &mut self.profile {
                            profile.refuse(&problems);
                        }
                        self.registry.tell(|| EventKind::ProfileRejected { problems });
                        return;
                    }
                };
                if entries == old {
                    return;
                }
                let is_new = |entry: &&Entry| !old.iter().any(|before| before.id == entry.id);
                let added = entries.iter().filter(is_new).count();
                let removed = old.iter().filter(|before| !entries.iter().any(|entry| entry.id == before.id)).count();
                let changed = entries
                    .iter()
                    .filter(|entry| old.iter().any(|b| b.id == entry.id && b.config != entry.config))
                    .count();
                self.desired.change("edit of the file by hand".into(), entries);
                self.reconcile().await;
                self.registry.tell(|| EventKind::ProfileApplied { added, changed, removed });
            }
            Err(problems) => self.registry.tell(|| EventKind::ProfileRejected { problems }),
        }
    }

    async fn open_profile(&mut self, name: &str) -> Answer {
        if self.profile.as_ref().is_some_and(|profile| profile.is_named(name)) {
            return Ok(done(Vec::new(), &format!("{name} is open")));
        }
        let opened = OpenedProfile::open_named(name.to_owned()).await.map_err(open_error)?;
        self.desired_from(opened).await?;
        Ok(done(Vec::new(), &format!("opened {name}")))
    }

    async fn desired_from(&mut self, opened: OpenedProfile) -> Result<(), RequestError> {
        let entries = self.desired.matched(opened.mappings().to_vec());
        let entries = self.checked(entries)?;
        self.profile = Some(opened);
        self.desired.reset(entries);
        self.reconcile().await;
        Ok(())
    }

    async fn save_as(&mut self, name: &str) -> Answer {
        let entries: Vec<Entry> =
            self.desired.entries().iter().cloned().map(|entry| Entry { is_session: false, ..entry }).collect();
        let mut created = OpenedProfile::create_named(name.to_owned()).await.map_err(open_error)?;
        created
            .save(Desired::profile(&entries))
            .await
            .map_err(|failure| RequestError::Failed { message: SafeText::new(&format!("not saved: {failure}")) })?;
        let path = created.status().path;
        self.profile = Some(created);
        self.desired.reset(entries);
        Ok(done(Vec::new(), &format!("saved in {path}")))
    }

    async fn profiles(&mut self) -> Answer {
        let names = OpenedProfile::list().await.map_err(open_error)?;
        Ok(Reply::Profiles {
            names,
            open: self.profile.as_ref().map(|profile| profile.status().name.as_str().to_owned()),
        })
    }

    fn validate(&mut self, mapping: &WrittenMapping, replaces: Option<MappingId>) -> Answer {
        let config = MappingConfig::from_written(mapping).map_err(invalid)?;
        let mut entries = self.desired.entries().to_vec();
        let id = replaces.unwrap_or(MappingId(u64::MAX));
        match entries.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => entry.config = Arc::new(config),
            None => entries.push(Entry { id, config: Arc::new(config), is_session: false }),
        }
        let entries = self.checked(entries)?;
        let entry = entries.into_iter().find(|entry| entry.id == id).ok_or_else(lost)?;
        Ok(Reply::Valid {
            name: entry.config.name.clone(),
            notes: vec![SafeText::new(&host::addresses::who_can_connect(&entry.config.mapping.listen.address))],
            will_be_at: self.own.will_be_at(&entry.config.mapping.listen),
        })
    }

    fn containers(&self) -> Reply {
        let view = self.docker.view();
        let mut containers = view.containers.to_vec();
        containers.sort_by(|a, b| (!a.is_running(), &a.name).cmp(&(!b.is_running(), &b.name)));
        Reply::Containers { containers, docker: view.state }
    }

    fn who_holds(
        &mut self,
        listen: Listen,
        protocol: Protocol,
        except: Option<MappingId>,
        reply: oneshot::Sender<Answer>,
    ) {
        let own = self.bound_addresses(except);
        self.jobs.spawn(async move {
            let _ = reply.send(port_report(listen, protocol, own).await.map(Reply::Port));
            Job::Done
        });
    }

    /// Refuses a mapping whose port somebody holds, unless that is the mapping that it replaces.
    async fn refuse_busy(&self, config: &MappingConfig, replaces: Option<MappingId>) -> Result<(), RequestError> {
        if config.mapping.listen.port == HostPort::Auto {
            return Ok(());
        }
        let own = self.bound_addresses(replaces);
        let report = port_report(config.mapping.listen.clone(), config.mapping.protocol, own).await?;
        if report.conflicts.is_empty() { Ok(()) } else { Err(RequestError::PortInUse { report }) }
    }

    /// Every address that a mapping's own listeners hold now.
    fn bound_addresses(&self, id: Option<MappingId>) -> Vec<SocketAddr> {
        let Some(known) = id.and_then(|id| self.known.get(&id)) else { return Vec::new() };
        let count = u16::try_from(known.config.mapping.port_count()).unwrap_or(u16::MAX);
        known
            .status
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

    fn probe(&mut self, target: Target, protocol: Protocol, reply: oneshot::Sender<Answer>) {
        let addresses = self.addresses(&target.host);
        self.jobs.spawn(async move {
            let _ = reply.send(Ok(probe(addresses, &target, protocol).await));
            Job::Done
        });
    }

    fn checked(&self, entries: Vec<Entry>) -> Result<Vec<Entry>, RequestError> {
        checked(entries, &self.own_ips()).map_err(invalid)
    }

    fn names(&self, ids: &[MappingId]) -> Result<String, RequestError> {
        let names: Result<Vec<_>, _> = ids
            .iter()
            .map(|id| self.desired.entry(*id).map(|entry| entry.config.name.as_str()).ok_or_else(|| no_mapping(*id)))
            .collect();
        let names = names?;
        Ok(if names.len() > 3 { format!("{} mappings", names.len()) } else { names.join(", ") })
    }
}

/// Who holds the ports of `listen`, leaving out the listeners at `own`.
async fn port_report(listen: Listen, protocol: Protocol, own: Vec<SocketAddr>) -> Result<PortReport, RequestError> {
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
        let outcome = match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) if stream.local_addr().ok() == Some(address) => LastOutcome::Refused,
            Ok(Ok(_)) => LastOutcome::Ok,
            Ok(Err(error)) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => LastOutcome::Refused,
                std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                    LastOutcome::Unreachable
                }
                std::io::ErrorKind::TimedOut => LastOutcome::Timeout,
                _ => LastOutcome::Error,
            },
            Err(_) => LastOutcome::Timeout,
        };
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        results.push(ProbeResult { address, outcome, took_us });
    }
    Reply::Probed { results, reason: None }
}

fn done(ids: Vec<MappingId>, message: &str) -> Reply {
    Reply::Done { ids, message: SafeText::new(message) }
}

fn invalid(problems: Vec<Problem>) -> RequestError {
    RequestError::Invalid { problems }
}

fn no_mapping(id: MappingId) -> RequestError {
    RequestError::NotFound { what: SafeText::new(&format!("mapping {id}")) }
}

fn lost() -> RequestError {
    RequestError::Failed { message: "the mapping was lost while it was checked".into() }
}

fn open_error(error: OpenError) -> RequestError {
    match error {
        OpenError::Invalid(problems) => RequestError::Invalid { problems },
        OpenError::Failed(message) => RequestError::Failed { message },
    }
}
