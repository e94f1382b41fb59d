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
                write!(f, "{}: #{} opened, ", connection.mapping, connection.id)?;
                client(f, connection)?;
                write!(f, " -> {}", connection.listener)
            }
            Self::Traffic { mappings, opened, closed, .. } => {
                f.write_str("traffic:")?;
                for (nth, mapping) in mappings.iter().enumerate() {
                    let (name, open) = (&mapping.mapping, mapping.connections);
                    let before = if nth == 0 { "" } else { ";" };
                    write!(f, "{before} {name} {open} open, in {} out {} bytes", mapping.bytes_in, mapping.bytes_out)?;
                }
                if opened + closed > 0 {
                    let before = if mappings.is_empty() { "" } else { ";" };
                    write!(f, "{before} {} opened, {closed} closed", count(*opened, "connection"))?;
                }
                Ok(())
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
    let Connection { mapping, id, listener, bytes_in, bytes_out, duration_ms, .. } = connection;
    write!(f, "{mapping}: #{id} closed")?;
    if let Some(reason) = connection.reason {
        write!(f, " ({reason})")?;
    }
    if let Some(error) = &connection.error {
        write!(f, " {error}")?;
    }
    write!(f, ", ")?;
    client(f, connection)?;
    write!(f, " -> {listener}")?;
    if let (Some(source), Some(target)) = (connection.source, connection.target_address) {
        write!(f, ", {source} -> {target}")?;
    }
    write!(f, ", in {bytes_in} out {bytes_out} bytes")?;
    if let Some(requests) = connection.requests {
        write!(f, ", {}", count(requests, "request"))?;
    }
    write!(f, ", {duration_ms} ms")
}

/// The client, with who has told it and as whom the target sees it.
fn client(f: &mut fmt::Formatter<'_>, connection: &Connection) -> fmt::Result {
    write!(f, "{}", connection.client)?;
    connection.peer.iter().try_for_each(|peer| write!(f, " (by {peer})"))?;
    connection.alias.iter().try_for_each(|alias| write!(f, " as {alias}"))
}

impl fmt::Display for MappingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
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
    use super::super::event::MappingTraffic;
    use super::*;

    #[test]
    fn one_of_a_thing_is_said_as_one() {
        let one = MappingTraffic { mapping: "web".into(), connections: 1, bytes_in: 2, bytes_out: 3 };
        let kinds = [
            EventKind::Ready { mappings: 1, listening: 1, failed: 0 },
            EventKind::Ready { mappings: 2, listening: 1, failed: 1 },
            EventKind::Lost { count: 1 },
            EventKind::Lost { count: 2 },
            EventKind::Traffic { mappings: vec![one.clone(), one.clone()], connections: vec![], opened: 0, closed: 0 },
            EventKind::Traffic { mappings: vec![one], connections: vec![], opened: 1, closed: 2 },
            EventKind::Traffic { mappings: vec![], connections: vec![], opened: 0, closed: 1 },
        ];
        assert_eq!(
            kinds.map(|kind| kind.to_string()),
            [
                "ready: 1 mapping, 1 listening, 0 failed",
                "ready: 2 mappings, 1 listening, 1 failed",
                "lost: 1 event, since this reader was too slow",
                "lost: 2 events, since this reader was too slow",
                "traffic: web 1 open, in 2 out 3 bytes; web 1 open, in 2 out 3 bytes",
                "traffic: web 1 open, in 2 out 3 bytes; 1 connection opened, 2 closed",
                "traffic: 0 connections opened, 1 closed",
            ]
        );
    }
}
