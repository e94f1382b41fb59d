//! Events as one line of text each: for `run` without `--json`, the log and the Events view.

use std::fmt;

use super::container::DockerState;
use super::count::count;
use super::event::{CloseReason, Connection, Event, EventKind, MappingState};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} {}", self.time, self.kind)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { mapping, listener, protocol, target } => {
                write!(f, "{mapping}: listening on {listener}/{protocol} for {target}")
            }
            Self::MappingFailed { mapping, listener, error } => {
                write!(f, "{mapping}: cannot listen on {listener}: {error}")
            }
            Self::MappingState { mapping, state, reason } => {
                write!(f, "{mapping}: {state}")?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
            Self::Ready { mappings, listening, failed } => {
                write!(f, "ready: {}, {listening} listening, {failed} failed", count(*mappings as u64, "mapping"))
            }
            Self::TargetChanged { mapping, target, target_address } => match target_address {
                Some(address) => write!(f, "{mapping}: {target} is at {address}"),
                None => write!(f, "{mapping}: {target} has no address now"),
            },
            Self::Opened { connection } => {
                write!(
                    f,
                    "{}: #{} opened, {} -> {}",
                    connection.mapping, connection.id, connection.client, connection.listener
                )
            }
            Self::Traffic { mappings, connections, closed } => {
                write!(f, "traffic:")?;
                for mapping in mappings {
                    let (name, open) = (&mapping.mapping, mapping.connections);
                    write!(f, " {name} {open} open, in {} out {} bytes;", mapping.bytes_in, mapping.bytes_out)?;
                }
                write!(f, " {} changed", count(connections.len() as u64 + closed, "connection"))?;
                if *closed > 0 { write!(f, ", {closed} of them closed") } else { Ok(()) }
            }
            Self::Closed { connection } => closed(f, connection),
            Self::ProfileRejected { problems } => {
                write!(f, "profile not applied, what runs goes on")?;
                problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
            }
            Self::ProfileApplied { added, changed, removed } => {
                write!(f, "profile applied: {added} added, {changed} changed, {removed} removed")
            }
            Self::Removed { mapping } => write!(f, "{mapping}: removed"),
            Self::Docker { docker } => match docker {
                DockerState::Unknown => write!(f, "docker: not asked yet"),
                DockerState::Connected => write!(f, "docker: connected"),
                DockerState::Unavailable { reason } => write!(f, "docker: {reason}; mappings by address still work"),
            },
            Self::Warning { message } => write!(f, "warning: {message}"),
            Self::Lost { count: lost } => write!(f, "lost: {}, since this reader was too slow", count(*lost, "event")),
        }
    }
}

fn closed(f: &mut fmt::Formatter<'_>, connection: &Connection) -> fmt::Result {
    let Connection { mapping, id, client, listener, bytes_in, bytes_out, duration_ms, .. } = connection;
    write!(f, "{mapping}: #{id} closed")?;
    if let Some(reason) = connection.reason {
        write!(f, " ({reason})")?;
    }
    if let Some(error) = &connection.error {
        write!(f, " {error}")?;
    }
    write!(f, ", {client} -> {listener}")?;
    if let (Some(source), Some(target)) = (connection.source, connection.target_address) {
        write!(f, ", {source} -> {target}")?;
    }
    write!(f, ", in {bytes_in} out {bytes_out} bytes, {duration_ms} ms")
}

impl fmt::Display for MappingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Half => "half",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
            Self::Stopped => "stopped",
        })
    }
}

/// The contract's word with spaces, as people read it.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Finished => "finished",
            Self::ClientReset => "reset by client",
            Self::TargetReset => "reset by target",
            Self::TargetRefused => "target refused",
            Self::TargetUnreachable => "target unreachable",
            Self::ConnectTimeout => "connect timeout",
            Self::IdleTimeout => "idle timeout",
            Self::HalfCloseTimeout => "half-close timeout",
            Self::Killed => "killed",
            Self::MappingRemoved => "mapping removed",
            Self::Rejected => "rejected",
            Self::Limit => "limit reached",
            Self::Evicted => "evicted",
            Self::Fault => "fault",
            Self::Shutdown => "shutdown",
            Self::Error => "error",
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::event::ConnectionState;
    use super::super::id::ConnectionId;
    use super::super::mapping::Protocol;
    use super::*;

    #[test]
    fn one_of_a_thing_is_said_as_one() {
        let one = Connection {
            id: ConnectionId(1),
            mapping: "web".into(),
            protocol: Protocol::Tcp,
            client: ([127, 0, 0, 1], 1).into(),
            listener: ([127, 0, 0, 1], 2).into(),
            source: None,
            target: "web:80".into(),
            target_address: None,
            state: ConnectionState::Connecting,
            closed_side: None,
            opened_at: Timestamp::UNIX_EPOCH,
            duration_ms: 0,
            bytes_in: 1,
            bytes_out: 1,
            datagrams_in: None,
            datagrams_out: None,
            reason: None,
            error: None,
        };
        let kinds = [
            EventKind::Ready { mappings: 1, listening: 1, failed: 0 },
            EventKind::Ready { mappings: 2, listening: 1, failed: 1 },
            EventKind::Lost { count: 1 },
            EventKind::Lost { count: 2 },
            EventKind::Traffic { mappings: vec![], connections: vec![one.clone()], closed: 0 },
            EventKind::Traffic { mappings: vec![], connections: vec![one], closed: 2 },
            EventKind::Traffic { mappings: vec![], connections: vec![], closed: 1 },
        ];
        assert_eq!(
            kinds.map(|kind| kind.to_string()),
            [
                "ready: 1 mapping, 1 listening, 0 failed",
                "ready: 2 mappings, 1 listening, 1 failed",
                "lost: 1 event, since this reader was too slow",
                "lost: 2 events, since this reader was too slow",
                "traffic: 1 connection changed",
                "traffic: 3 connections changed, 2 of them closed",
                "traffic: 1 connection changed, 1 of them closed",
            ]
        );
    }
}
