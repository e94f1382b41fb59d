//! What the simulated service answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cast;
use super::containers;
use super::rows::{addresses, clash, same_protocol};
use super::story::{Actor, Story};
use crate::model::container::DockerState;
use crate::model::event::{CloseReason, EventKind};
use crate::model::id::MappingId;
use crate::model::mapping::{Family, HostPort, Listen, ListenAddress, Mapping, Protocol, Target};
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, WrittenMapping};
use crate::model::request::{Call, PortConflict, PortReport, ProbeResult, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::LastOutcome;

type Answer = Result<Reply, RequestError>;

impl Story {
    /// Carries a request out.
    pub fn answer(&mut self, call: &Call) -> Answer {
        if call.expected.is_some_and(|expected| expected != self.revision) {
            return Err(RequestError::Stale { current: self.revision });
        }
        match &call.request {
            Request::Add { mapping, even_if_busy } => self.save(None, mapping, *even_if_busy),
            Request::Edit { id, mapping, even_if_busy } => self.save(Some(*id), mapping, *even_if_busy),
            Request::Remove { ids } => {
                let names = self.names(ids)?;
                let kept: Vec<Actor> = self.actors.iter().filter(|actor| !ids.contains(&actor.id)).cloned().collect();
                self.remember(&format!("delete {names}"), self.has_open(ids));
                for mapping in ids
                    .iter()
                    .filter_map(|id| self.actor(*id))
                    .map(|actor| actor.config.name.clone())
                    .collect::<Vec<_>>()
                {
                    self.tell(EventKind::Removed { mapping });
                }
                self.replace(kept);
                done_with_keys(ids.clone(), format!("deleted {names}"), "u undoes")
            }
            Request::Start { ids } => self.enable(ids, true),
            Request::Stop { ids } => self.enable(ids, false),
            Request::Kill { id } => {
                if self.close(*id, CloseReason::Killed) {
                    done(Vec::new(), format!("connection {id} reset"))
                } else {
                    Err(RequestError::NotFound { what: SafeText::new(&format!("connection {id}")) })
                }
            }
            Request::Shutdown { .. } => {
                Err(RequestError::Failed { message: SafeText::new("this engine is a simulated one: q leaves it") })
            }
            Request::Undo => {
                let Some((what, actors, has_dropped)) = self.undo.pop() else {
                    return Err(RequestError::Failed { message: SafeText::new("nothing to undo") });
                };
                self.replace(actors);
                let dropped = if has_dropped { "; connections that were dropped stay so" } else { "" };
                done(Vec::new(), format!("undid: {what}{dropped}"))
            }
            Request::OpenProfile { name } => {
                let before = std::mem::replace(&mut self.profile, name.clone());
                self.undo.clear();
                if name != "dev" {
                    self.replace(Vec::new());
                }
                let known = ["dev", "empty", "staging"].contains(&name.as_str());
                let new = if known { "" } else { " (new, empty)" };
                done_with_keys(Vec::new(), format!("opened {name}{new}"), &format!(":open {before} goes back"))
            }
            Request::SaveAs { name } => {
                self.profile.clone_from(name);
                self.changed_state();
                done(Vec::new(), format!("saved as {name}"))
            }
            Request::Profiles => {
                let mut names = vec!["dev".to_owned(), "empty".to_owned(), "staging".to_owned(), self.profile.clone()];
                names.sort();
                names.dedup();
                Ok(Reply::Profiles { names, open: Some(self.profile.clone()) })
            }
            Request::WhoHolds { listen, protocol, except } => Ok(Reply::Port(self.report(listen, *protocol, *except))),
            Request::Validate { mapping, replaces } => {
                let config = self.config(mapping, *replaces)?;
                let will_be_at = will_be_at(&config.mapping.listen);
                Ok(Reply::Valid { name: config.name, notes: Vec::new(), will_be_at, places: Vec::new() })
            }
            Request::Probe { target, protocol } => Ok(probe(target, *protocol)),
            Request::AddAll { mappings, even_if_busy } => self.add_all(mappings, *even_if_busy),
            Request::Inside { container } => containers::inside(container)
                .ok_or_else(|| RequestError::NotFound { what: SafeText::new("the container") }),
            Request::Why { id } => {
                let actor = self.actor(*id).ok_or_else(|| not_found(*id))?;
                Ok(Reply::Why(Box::new(self.why(actor))))
            }
            Request::Metrics => Ok(Reply::Metrics(Box::new(self.metrics()))),
            Request::Whois { address } => {
                Err(RequestError::NotFound { what: SafeText::new(&crate::model::alias::nobody(*address, &[])) })
            }
            Request::Containers => {
                Ok(Reply::Containers { containers: containers::containers().to_vec(), docker: DockerState::Connected })
            }
        }
    }

    fn actor(&self, id: MappingId) -> Option<&Actor> {
        self.actors.iter().find(|actor| actor.id == id)
    }

    fn names(&self, ids: &[MappingId]) -> Result<String, RequestError> {
        let mut names = Vec::new();
        for id in ids {
            let actor = self.actor(*id).ok_or_else(|| not_found(*id))?;
            names.push(actor.config.name.clone());
        }
        Ok(names.join(", "))
    }

    fn remember(&mut self, what: &str, has_dropped: bool) {
        self.undo.push((SafeText::new(what), self.actors.clone(), has_dropped));
    }

    fn has_open(&self, ids: &[MappingId]) -> bool {
        self.connections.values().any(|row| row.closed_at_ms.is_none() && ids.contains(&row.mapping_id))
    }

    fn config(&self, written: &WrittenMapping, replaces: Option<MappingId>) -> Result<MappingConfig, RequestError> {
        let mut config = MappingConfig::from_written(written).map_err(|problems| RequestError::Invalid { problems })?;
        let others = || self.actors.iter().filter(|actor| Some(actor.id) != replaces);
        if config.name_is_given && others().any(|actor| actor.config.name == config.name) {
            let problem = Problem::new("name", format!("another mapping is named {}", config.name));
            return Err(RequestError::Invalid { problems: vec![problem] });
        }
        let base = config.name.clone();
        let mut count = 2;
        while others().any(|actor| actor.config.name == config.name) {
            config.name = format!("{base}-{count}");
            count += 1;
        }
        Ok(config)
    }

    fn save(&mut self, id: Option<MappingId>, written: &WrittenMapping, even_if_busy: bool) -> Answer {
        let config = self.config(written, id)?;
        let report = self.report(&config.mapping.listen, config.mapping.protocol, id);
        if !report.conflicts.is_empty() && config.enabled && !even_if_busy {
            return Err(RequestError::PortInUse { report });
        }
        let name = config.name.clone();
        let Some(id) = id else {
            self.remember(&format!("add {name}"), false);
            let id = self.add(config);
            return done(vec![id], format!("added {name}"));
        };
        let before = self.actor(id).ok_or_else(|| not_found(id))?.config.mapping.clone();
        let moves = before.listen != config.mapping.listen || before.protocol != config.mapping.protocol;
        self.remember(&format!("edit {name}"), moves && self.has_open(&[id]));
        if moves {
            self.close_all(id, CloseReason::MappingRemoved);
        }
        for actor in &mut self.actors {
            if actor.id == id {
                actor.written = config.to_written();
                actor.config = config.clone();
            }
        }
        self.changed_state();
        done(vec![id], format!("changed {name}"))
    }

    /// All of them or none, as one change.
    fn add_all(&mut self, mappings: &[WrittenMapping], even_if_busy: bool) -> Answer {
        let before = self.clone();
        let mut added = Vec::new();
        for written in mappings {
            match self.save(None, written, even_if_busy) {
                Ok(Reply::Done { ids, .. }) => added.extend(ids),
                refused => {
                    *self = before;
                    return refused;
                }
            }
        }
        self.undo = before.undo;
        let names = self.names(&added)?;
        self.undo.push((SafeText::new(&format!("add {names}")), before.actors, false));
        done_with_keys(added, format!("added {names}"), "u undoes")
    }

    fn enable(&mut self, ids: &[MappingId], enabled: bool) -> Answer {
        let names = self.names(ids)?;
        let word = if enabled { "start" } else { "stop" };
        self.remember(&format!("{word} {names}"), !enabled && self.has_open(ids));
        for id in ids {
            if !enabled {
                self.close_all(*id, CloseReason::MappingRemoved);
            }
            for actor in self.actors.iter_mut().filter(|actor| actor.id == *id) {
                actor.config.enabled = enabled;
                actor.written = actor.config.to_written();
            }
        }
        self.changed_state();
        done_with_keys(ids.to_vec(), format!("{}{} {names}", word, if enabled { "ed" } else { "ped" }), "u undoes")
    }

    /// Sockets in the way of a mapping.
    pub(super) fn conflicts(&self, mapping: &Mapping, except: Option<MappingId>) -> Vec<PortConflict> {
        let others = self
            .actors
            .iter()
            .filter(|actor| Some(actor.id) != except && actor.config.enabled)
            .filter(|actor| same_protocol(actor.config.mapping.protocol, mapping.protocol))
            // Of two mappings that want the same port the earlier one has it.
            .filter(|actor| except.is_none_or(|id| actor.id < id))
            .flat_map(|actor| {
                let holder = SafeText::new(&format!("mapping {}", actor.config.name));
                sockets(&actor.config.mapping.listen).into_iter().map(move |address| (address, holder.clone()))
            });
        let held: Vec<_> = if mapping.protocol == Protocol::Tcp { cast::held() } else { Vec::new() };
        let wanted = sockets(&mapping.listen);
        held.into_iter()
            .chain(others)
            .filter(|(address, _)| wanted.iter().any(|wanted| clash(*wanted, *address)))
            .map(|(address, holder)| PortConflict { address, family: Family::of(address.ip()), holder })
            .collect()
    }

    fn report(&self, listen: &Listen, protocol: Protocol, except: Option<MappingId>) -> PortReport {
        let target: Target = "localhost:1".parse().expect("a target");
        let mut mapping = Mapping { listen: listen.clone(), target, protocol };
        let conflicts = self.conflicts(&mapping, except);
        let HostPort::Ports(ports) = listen.port else {
            return PortReport { conflicts, next_free: None, problem: None };
        };
        let length = u16::try_from(ports.count() - 1).unwrap_or(0);
        let next_free = (ports.first().saturating_add(1)..=u16::MAX - length).take(2_000).find(|first| {
            mapping.listen.port = match crate::model::mapping::PortRange::new(*first, *first + length) {
                Some(range) => HostPort::Ports(range),
                None => return false,
            };
            self.conflicts(&mapping, except).is_empty()
        });
        let problem = foreign(listen).map(|ip| SafeText::new(&format!("{ip} is not an address of this host")));
        PortReport { conflicts, next_free, problem }
    }
}

/// The sockets of a listen side, one a port; of a long range the first hundred.
fn sockets(listen: &Listen) -> Vec<SocketAddr> {
    let HostPort::Ports(ports) = listen.port else { return Vec::new() };
    listen
        .address
        .addresses()
        .into_iter()
        .flat_map(|ip| ports.iter().take(100).map(move |port| SocketAddr::new(ip.ip, port)))
        .collect()
}

/// The host of the story has these addresses, and loopback.
fn foreign(listen: &Listen) -> Option<IpAddr> {
    let ListenAddress::Ip(scoped) = &listen.address else { return None };
    let own: [IpAddr; 2] = [[0x2001, 0xdb8, 2, 0, 0, 0, 0, 2].into(), [192, 0, 2, 10].into()];
    let is_own = scoped.ip.is_loopback() || scoped.ip.is_unspecified() || own.contains(&scoped.ip);
    (!is_own).then_some(scoped.ip)
}

pub(super) fn will_be_at(listen: &Listen) -> Vec<SocketAddr> {
    let HostPort::Ports(ports) = listen.port else { return Vec::new() };
    let ips: Vec<IpAddr> = match &listen.address {
        ListenAddress::Localhost => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        ListenAddress::Any => {
            vec![Ipv6Addr::LOCALHOST.into(), [0x2001, 0xdb8, 2, 0, 0, 0, 0, 2].into(), [192, 0, 2, 10].into()]
        }
        ListenAddress::Ip(ip) => vec![ip.ip],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, ports.first())).collect()
}

fn probe(target: &Target, protocol: Protocol) -> Reply {
    if protocol != Protocol::Tcp {
        let reason = SafeText::new("only TCP can be tried");
        return Reply::Probed { results: Vec::new(), reason: Some(reason) };
    }
    let results: Vec<_> = addresses(&target.host)
        .into_iter()
        .map(|ip| {
            let answers = matches!(target.ports.first(), 80 | 9000) && ip.is_ipv4();
            ProbeResult {
                address: SocketAddr::new(ip, target.ports.first()),
                outcome: if answers { LastOutcome::Ok } else { LastOutcome::Refused },
                took_us: 400,
            }
        })
        .collect();
    let reason = results.is_empty().then(|| SafeText::new("it has no address now"));
    Reply::Probed { results, reason }
}

#[allow(clippy::unnecessary_wraps, reason = "an answer, as the others are")]
fn done(ids: Vec<MappingId>, message: String) -> Answer {
    Ok(Reply::Done { ids, message: SafeText::from(message), keys: None })
}

#[allow(clippy::unnecessary_wraps, reason = "an answer, as the others are")]
fn done_with_keys(ids: Vec<MappingId>, message: String, keys: &str) -> Answer {
    Ok(Reply::Done { ids, message: SafeText::from(message), keys: Some(SafeText::from(keys)) })
}

fn not_found(id: MappingId) -> RequestError {
    RequestError::NotFound { what: SafeText::new(&format!("mapping {id}")) }
}
