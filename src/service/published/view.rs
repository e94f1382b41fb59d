//! What clients see of published ports at one moment, and the difference between two moments.

use std::collections::HashMap;

use crate::model::event::ConnectionState;
use crate::model::id::ConnectionId;
use crate::model::update::{ConnectionRow, MappingRow, Update};

/// Rows as they were at the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct PublishedView {
    pub(in super::super) mappings: Vec<MappingRow>,
    /// Open sessions.
    pub(super) open: Vec<ConnectionRow>,
    /// Sessions that have finished lately, oldest first.
    pub(super) ended: Vec<ConnectionRow>,
}

impl PublishedView {
    /// Whether no session is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Adds to `update` what a client that has seen `before` does not know of the sessions.
    pub(in super::super) fn changes(&self, before: &Self, update: &mut Update) {
        let old: HashMap<ConnectionId, &ConnectionRow> =
            before.open.iter().map(|row| (row.connection.id, row)).collect();
        let mut gone = old.clone();
        for row in &self.open {
            gone.remove(&row.connection.id);
            if old.get(&row.connection.id) != Some(&row) {
                let mut row = row.clone();
                row.connection.duration_ms = update.at_ms.saturating_sub(row.opened_at_ms);
                update.connections.push(row);
            }
        }
        for row in &self.ended {
            if gone.remove(&row.connection.id).is_some() {
                update.connections.push(row.clone());
            }
        }
        update.connections_removed.extend(gone.into_keys());
        debug_assert!(self.ended.iter().all(|row| row.connection.state == ConnectionState::Closed));
    }
}
