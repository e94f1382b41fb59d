//! The rows that clients see of the story's mappings.

use std::net::{IpAddr, SocketAddr};

use super::containers::containers;
use super::story::{Actor, Story};
use crate::model::event::{Connection, MappingState};
use crate::model::mapping::{Family, HostPort, Protocol, TargetHost};
use crate::model::untrusted::SafeText;
use crate::model::update::{LastOutcome, ListenerRow, MappingRow, Owner};

impl Story {
    pub(super) fn row(&self, actor: &Actor) -> MappingRow {
        let listeners = self.listeners(actor);
        let bound = listeners.iter().filter(|listener| listener.bound.is_some()).count();
        let state = match bound {
            _ if !actor.config.enabled => MappingState::Stopped,
            0 => MappingState::Failed,
            _ if bound < listeners.len() => MappingState::Half,
            _ if addresses(&actor.config.mapping.target.host).is_empty() => MappingState::Waiting,
            _ => MappingState::Up,
        };
        let reason = match state {
            MappingState::Half | MappingState::Failed => {
                let failed = listeners.iter().find(|listener| listener.error.is_some());
                failed.and_then(|listener| {
                    listener.error.as_ref().map(|error| SafeText::new(&format!("{} is {error}", listener.address)))
                })
            }
            MappingState::Waiting => {
                Some(SafeText::new(&format!("{} has no address now", actor.config.mapping.target.host)))
            }
            _ => None,
        };
        let open: Vec<_> =
            self.connections.values().filter(|row| row.mapping_id == actor.id && row.closed_at_ms.is_none()).collect();
        let sum = |bytes: fn(&Connection) -> u64| open.iter().map(|row| bytes(&row.connection)).sum::<u64>();
        MappingRow {
            id: actor.id,
            owner: Owner::Portolan,
            name: actor.config.name.clone(),
            mapping: actor.config.mapping.clone(),
            written: actor.written.clone(),
            is_session: false,
            state,
            reason,
            listeners: if actor.config.enabled { listeners } else { Vec::new() },
            target_addresses: addresses(&actor.config.mapping.target.host),
            connections: open.len() as u64,
            connections_total: actor.total + open.len() as u64,
            errors: actor.errors,
            bytes_in: actor.closed_bytes.0 + sum(|connection| connection.bytes_in),
            bytes_out: actor.closed_bytes.1 + sum(|connection| connection.bytes_out),
            last_result: actor.last_result,
            connect_p50_us: actor.last_result.filter(|last| last.outcome == LastOutcome::Ok).map(|last| last.took_us),
        }
    }

    fn listeners(&self, actor: &Actor) -> Vec<ListenerRow> {
        let (first, ports) = match actor.config.mapping.listen.port {
            HostPort::Ports(ports) => (ports.first(), ports.to_string()),
            HostPort::Auto => {
                let port = 49_152 + u16::try_from(actor.id.0 % 1_000).unwrap_or(0);
                (port, port.to_string())
            }
        };
        let conflicts = self.conflicts(&actor.config.mapping, Some(actor.id));
        let address = &actor.config.mapping.listen.address;
        address
            .addresses()
            .into_iter()
            .map(|ip| {
                let conflict = conflicts.iter().find(|conflict| conflict.address.is_ipv4() == ip.ip.is_ipv4());
                ListenerRow {
                    family: Family::of(ip.ip),
                    address: format!("{ip}:{ports}"),
                    bound: conflict.is_none().then(|| SocketAddr::new(ip.ip, first)),
                    error: conflict.map(|conflict| SafeText::new(&format!("in use by {}", conflict.holder))),
                }
            })
            .collect()
    }
}

/// Where a target is.
pub(super) fn addresses(host: &TargetHost) -> Vec<IpAddr> {
    match host {
        TargetHost::Ip(ip) => vec![ip.ip],
        TargetHost::Localhost => vec![[127, 0, 0, 1].into()],
        TargetHost::Container { name, .. } => containers()
            .iter()
            .find(|container| container.name.as_str() == name)
            .map(|container| container.addresses.clone())
            .unwrap_or_default(),
        TargetHost::Compose { .. } => Vec::new(),
        TargetHost::Dns(_) => vec![[192, 0, 2, 80].into()],
    }
}

/// Whether two sockets cannot be bound at once; IPv6 ones are V6ONLY.
pub(super) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// The protocols that can be in each other's way.
pub(super) fn same_protocol(one: Protocol, other: Protocol) -> bool {
    one == other
}
