//! What the story's clients are told: how everything stands, and what has changed since.

use super::story::Story;
use super::{containers, published};
use crate::model::container::{DockerState, EnginePlace};
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, MappingRow, Overview, ProfileStatus, Update};

impl Story {
    fn overview(&self) -> Overview {
        Overview {
            revision: self.revision,
            profile: Some(ProfileStatus {
                name: SafeText::new(&self.profile),
                path: SafeText::new(&format!("~/.config/portolan/profiles/{}.json", self.profile)),
                problem: None,
            }),
            order: self.actors.iter().map(|actor| actor.id).collect(),
            docker: DockerState::Connected,
            engine_place: EnginePlace::Here,
            undo: self.undo.last().map(|(what, ..)| what.clone()),
            descriptors: Some((61, 65_536)),
            is_ready: true,
            is_ending: false,
        }
    }

    /// Our mappings, and what Docker publishes.
    fn rows(&self) -> Vec<MappingRow> {
        self.actors.iter().map(|actor| self.row(actor)).chain([published::row(self.now_ms)]).collect()
    }

    /// How everything stands.
    pub fn full_update(&self) -> Update {
        Update {
            seq: 1,
            at_ms: self.now_ms,
            is_full: true,
            overview: Some(self.overview()),
            mappings: self.rows(),
            connections: self.connections.values().cloned().chain(published::sessions(self.now_ms)).collect(),
            containers: containers::containers().to_vec(),
            ..Update::default()
        }
    }

    /// What has changed since the last one.
    pub fn next_update(&mut self) -> Update {
        let mappings: Vec<_> = self.rows().into_iter().filter(|row| self.told.get(&row.id) != Some(row)).collect();
        for row in &mappings {
            self.told.insert(row.id, row.clone());
        }
        let changed = std::mem::take(&mut self.changed);
        let told_ms = std::mem::replace(&mut self.published_ms, self.now_ms);
        let before = published::sessions(told_ms);
        // Its age is the screen's to count.
        let same = |row: &ConnectionRow| {
            before.iter().any(|told| {
                told.connection.id == row.connection.id && told.connection.bytes_out == row.connection.bytes_out
            })
        };
        let observed = published::sessions(self.now_ms).into_iter().filter(|row| !same(row));
        Update {
            at_ms: self.now_ms,
            overview: std::mem::take(&mut self.overview_changed).then(|| self.overview()),
            mappings,
            mappings_removed: std::mem::take(&mut self.removed),
            connections: changed.iter().filter_map(|id| self.connections.get(id)).cloned().chain(observed).collect(),
            connections_removed: published::gone(told_ms, self.now_ms),
            events: std::mem::take(&mut self.events),
            ..Update::default()
        }
    }
}
