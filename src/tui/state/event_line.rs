//! One event as the Events view lists it: its severity, and the model's words.

use super::world::Severity;
use crate::model::container::DockerState;
use crate::model::event::{Event, EventKind, MappingState};
use crate::model::format;
use crate::model::untrusted::SafeText;

/// How bad an event is, and what it says. Traffic is none: the figures show it.
pub fn event_line(event: &Event) -> Option<(Severity, String)> {
    let severity = match &event.kind {
        EventKind::Traffic { .. } | EventKind::Docker { docker: DockerState::Unknown } => return None,
        EventKind::MappingFailed { .. } | EventKind::ProfileRejected { .. } => Severity::Error,
        EventKind::MappingState { state, .. } => match state {
            MappingState::Failed => Severity::Error,
            MappingState::Half | MappingState::Waiting | MappingState::Degraded => Severity::Warn,
            MappingState::Up | MappingState::Stopped | MappingState::Starting => Severity::None,
        },
        EventKind::Ready { failed, .. } if *failed > 0 => Severity::Warn,
        EventKind::TargetChanged { target_address: None, .. }
        | EventKind::Docker { docker: DockerState::Unavailable { .. } }
        | EventKind::Warning { .. }
        | EventKind::Lost { .. } => Severity::Warn,
        EventKind::Closed { connection } if connection.reason.is_some_and(|reason| !reason.is_fine()) => Severity::Warn,
        _ => Severity::None,
    };
    Some((severity, event.kind.to_string()))
}

/// The same in fewer columns, where that is possible: what matters most comes first.
pub fn short_line(event: &Event) -> Option<String> {
    match &event.kind {
        EventKind::Opened { connection } => {
            Some(format!("{}: #{} opened, {}", connection.mapping, connection.id, connection.client))
        }
        EventKind::Closed { connection } => {
            let reason = connection.reason.map(|reason| reason.to_string()).unwrap_or_default();
            let bytes = match connection.target_address {
                Some(_) => {
                    format!(", in {} out {}", format::si(connection.bytes_in), format::si(connection.bytes_out))
                }
                // It never got so far.
                None => String::new(),
            };
            Some(format!(
                "{}: #{} {reason}, {}{bytes}, {}",
                connection.mapping,
                connection.id,
                connection.client,
                format::age(connection.duration_ms)
            ))
        }
        EventKind::ProfileRejected { problems } => problems.first().map(|problem| {
            let mut first = problem.clone();
            first.file = first.file.map(|file| SafeText::new(format::file_name(file.as_str())));
            let more = match problems.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("not applied: {first}{more}")
        }),
        _ => None,
    }
}
