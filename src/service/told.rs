//! Tells events, and writes those that say of something wrong to the log, too: the screen forgets them, and whoever
//! looks the next day has the file.
//!
//! Only what comes seldom is written: states and files, never connections.

use super::core::Service;
use crate::model::container::DockerState;
use crate::model::event::{EventKind, LOG_TARGET, MappingState};

impl Service {
    /// Tells what happened.
    pub(super) fn tell(&self, event: EventKind) {
        if is_wrong(&event) {
            tracing::warn!(target: LOG_TARGET, "{event}");
        }
        self.registry.tell(|| event);
    }
}

fn is_wrong(event: &EventKind) -> bool {
    match event {
        EventKind::MappingFailed { .. } | EventKind::ProfileRejected { .. } => true,
        // Which listener failed and why has been said by then.
        EventKind::MappingState { state, .. } => matches!(state, MappingState::Waiting | MappingState::Degraded),
        EventKind::Docker { docker } => matches!(docker, DockerState::Unavailable { .. }),
        // Warnings came from the log, or have their record there.
        _ => false,
    }
}
