//! One event as the Events view lists it: its severity, and the model's words.

use super::world::Severity;
use crate::model::container::DockerState;
use crate::model::event::{Event, EventKind, MappingState};

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
