//! What containers expose, to be chosen from and made into mappings at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::model::container::{DockerState, EnginePlace};
use crate::model::mapping::Protocol;
use crate::model::profile::WrittenMapping;
use crate::model::request::PortReport;
use crate::model::untrusted::SafeText;

use super::offer;
use super::world::World;

/// The overlay.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// One line a port: those that are not mapped already come first.
    pub choices: Vec<Choice>,
    /// The line under the cursor.
    pub chosen: usize,
    /// Why there is nothing to choose from, or what is to be known of it all.
    pub remark: Option<SafeText>,
    /// Why the last attempt added nothing, where it was not for a port in use.
    pub refused: Option<SafeText>,
    /// An answer is awaited.
    pub is_adding: bool,
}

/// An exposed port and what would be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The container.
    pub container: SafeText,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The target as the grammar writes it.
    pub target: String,
    /// The port of this host; `None`: the service chooses one.
    pub host_port: Option<u16>,
    /// Where it is mapped already.
    pub mapped: Option<String>,
    /// Where Docker publishes it.
    pub published: Option<SocketAddr>,
    /// It is to be added.
    pub is_marked: bool,
    /// Who holds the port, and which is free: said when it was to be added.
    pub busy: Option<(SafeText, Option<u16>)>,
}

impl Choice {
    /// The listen side that is proposed.
    pub fn listen(&self) -> String {
        self.host_port.map_or_else(|| "localhost:auto".to_owned(), |port| format!("localhost:{port}"))
    }

    /// The mapping that it would become.
    pub fn written(&self) -> WrittenMapping {
        WrittenMapping {
            listen: self.listen(),
            target: self.target.clone(),
            protocol: (self.protocol != Protocol::Tcp).then_some(self.protocol),
            ..WrittenMapping::default()
        }
    }
}

impl Import {
    /// Every port that a running container exposes, each with a port of this host that no other line has.
    pub fn of(world: &World) -> Self {
        let place = &world.overview.engine_place;
        let mut running: Vec<_> = world.containers.values().filter(|container| container.is_running()).collect();
        running.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        let mut used: BTreeSet<(Protocol, u16)> = BTreeSet::new();
        let mut choices = Vec::new();
        let mut unreachable = 0;
        for container in running {
            let mut seen = BTreeSet::new();
            for port in container.ports.iter().filter(|port| seen.insert((port.port, port.protocol))) {
                let Some(offer) = offer::offer(container, port, place) else {
                    unreachable += 1;
                    continue;
                };
                let (number, protocol) = (port.port, port.protocol);
                let mapped = offer::mapped(world, container, number, protocol);
                let taken = |port: u16| used.contains(&(protocol, port)) || offer::is_taken(world, port, protocol);
                let host_port = offer::host_port(number, taken);
                used.extend(host_port.map(|port| (protocol, port)));
                choices.push(Choice {
                    container: container.name.clone(),
                    port: number,
                    protocol,
                    target: offer.target(),
                    host_port,
                    mapped: mapped.map(|item| item.row.mapping.listen.to_string()),
                    published: container
                        .publications
                        .iter()
                        .find(|of| of.port == number && of.protocol == protocol)
                        .map(|of| of.host),
                    is_marked: false,
                    busy: None,
                });
            }
        }
        choices.sort_by_key(|choice| choice.mapped.is_some());
        let remark = remark(world, choices.is_empty(), unreachable).map(|text| SafeText::new(&text));
        Self { choices, remark, ..Self::default() }
    }

    /// The lines that enter adds: the marked ones, or the one under the cursor.
    pub fn wanted(&self) -> Vec<usize> {
        let marked: Vec<_> = (0..self.choices.len()).filter(|at| self.choices[*at].is_marked).collect();
        if marked.is_empty() && self.chosen < self.choices.len() { vec![self.chosen] } else { marked }
    }

    /// Marks the line under the cursor, or unmarks it.
    pub fn mark(&mut self) {
        if let Some(choice) = self.choices.get_mut(self.chosen) {
            choice.is_marked = !choice.is_marked;
            self.chosen = (self.chosen + 1).min(self.choices.len() - 1);
        }
    }

    /// Marks everything that is not mapped already; if that is so, unmarks everything.
    pub fn mark_all(&mut self) {
        let all = self.choices.iter().filter(|choice| choice.mapped.is_none()).all(|choice| choice.is_marked);
        for choice in &mut self.choices {
            choice.is_marked = !all && choice.mapped.is_none();
        }
    }

    /// Gives the line under the cursor another port: the one that is said to be free, else the next that no line has.
    pub fn take_other_port(&mut self, world: &World) {
        let Some(choice) = self.choices.get(self.chosen) else { return };
        let protocol = choice.protocol;
        let taken = |port: u16| {
            let by_line = self.choices.iter().any(|other| other.host_port == Some(port) && other.protocol == protocol);
            by_line || offer::is_taken(world, port, protocol)
        };
        let free = choice.busy.as_ref().and_then(|(_, free)| *free).filter(|port| !taken(*port));
        let next = choice.host_port.and_then(|port| port.checked_add(1));
        let port = free.or_else(|| next.and_then(|from| (from..=u16::MAX).take(1_000).find(|port| !taken(*port))));
        let choice = &mut self.choices[self.chosen];
        (choice.host_port, choice.busy) = (port, None);
    }

    /// Nothing was added since a port is in use: says so at its line, and goes there.
    pub fn told_busy(&mut self, report: &PortReport) {
        let wanted = self.wanted();
        let mut found = false;
        for conflict in &report.conflicts {
            let port = Some(conflict.address.port());
            let at = wanted.iter().copied().find(|at| self.choices[*at].host_port == port);
            if let Some(at) = at {
                self.choices[at].busy = Some((conflict.holder.clone(), report.next_free));
                if !found {
                    self.chosen = at;
                }
                found = true;
            }
        }
        if !found {
            let text = report
                .conflicts
                .first()
                .map_or_else(|| "a port is in use".to_owned(), |c| format!("{} is in use by {}", c.address, c.holder));
            self.refused = Some(SafeText::new(&text));
        }
        // Of several, the lines stay marked; of one under the cursor, it is marked now that the cursor may move.
        for at in wanted {
            self.choices[at].is_marked = true;
        }
    }
}

fn remark(world: &World, is_empty: bool, unreachable: usize) -> Option<String> {
    match (&world.overview.docker, &world.overview.engine_place) {
        (DockerState::Unavailable { reason }, _) => Some(format!("docker: {reason}; mappings by address still work")),
        (DockerState::Unknown, _) if is_empty => Some("docker has not answered yet".to_owned()),
        (_, EnginePlace::Elsewhere { reason, .. }) => {
            let none = if is_empty && unreachable > 0 { "; none is published" } else { "" };
            Some(format!("{reason}: only what it publishes can be mapped{none}"))
        }
        _ if is_empty => Some("no running container exposes a port; a maps one that you know of".to_owned()),
        _ => None,
    }
}
