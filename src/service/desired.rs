//! The desired state: which mappings shall be, in which order, and what undo brings back.
//!
//! Pure. Every change, by whomever, is a new list of entries; what runs is reconciled with it elsewhere. So a
//! hand edit, another profile, an undo and a request differ only in how the list is made.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::assemble::Origin;
use crate::model::id::{MappingId, Revision};
use crate::model::profile::{MappingConfig, Problems, Profile};
use crate::model::untrusted::SafeText;

/// Changes that can be undone; the oldest gives way.
const UNDO_DEPTH: usize = 100;

/// One mapping of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: MappingId,
    pub(crate) config: Arc<MappingConfig>,
    /// Of the command line, for this session: never written to the profile.
    pub(crate) is_session: bool,
}

/// The desired state with its history.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    entries: Vec<Entry>,
    revision: Revision,
    undo: Vec<Past>,
    last_id: u64,
}

/// The state before a change.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// What the change was.
    pub(crate) label: SafeText,
    pub(crate) entries: Vec<Entry>,
    /// It dropped connections, which undo does not bring back.
    pub(crate) has_dropped: bool,
}

impl Desired {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn entry(&self, id: MappingId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// What undo would take back.
    pub(crate) fn undo_label(&self) -> Option<&SafeText> {
        self.undo.last().map(|past| &past.label)
    }

    /// The state before the last change, and what that change was.
    pub(crate) fn undo_target(&self) -> Option<&Past> {
        self.undo.last()
    }

    /// An id that no mapping of this run has had.
    pub(crate) fn fresh_id(&mut self) -> MappingId {
        self.last_id += 1;
        MappingId(self.last_id)
    }

    /// Takes `entries` as the state, remembering the old one under `label`.
    pub(crate) fn change(&mut self, label: SafeText, entries: Vec<Entry>, has_dropped: bool) {
        if self.undo.len() == UNDO_DEPTH {
            self.undo.remove(0);
        }
        let entries = self.replace(entries);
        self.undo.push(Past { label, entries, has_dropped });
    }

    /// Takes the state before the last change.
    pub(crate) fn undo(&mut self) {
        if let Some(past) = self.undo.pop() {
            self.replace(past.entries);
        }
    }

    /// Takes `entries` as the state with nothing to undo before it (a start, another profile).
    pub(crate) fn reset(&mut self, entries: Vec<Entry>) {
        self.undo.clear();
        self.replace(entries);
    }

    /// All mappings belong in the profile from now on, those that undo brings back included.
    pub(crate) fn keep_session(&mut self) {
        let history = self.undo.iter_mut().flat_map(|past| &mut past.entries);
        for entry in self.entries.iter_mut().chain(history) {
            entry.is_session = false;
        }
        self.revision.0 += 1;
    }

    fn replace(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        self.revision.0 += 1;
        std::mem::replace(&mut self.entries, entries)
    }

    /// What belongs in the profile file.
    pub(crate) fn profile(entries: &[Entry]) -> Profile {
        let kept = entries.iter().filter(|entry| !entry.is_session);
        Profile { mappings: kept.map(|entry| MappingConfig::clone(&entry.config)).collect() }
    }

    /// The same with the mappings of the session.
    pub(crate) fn everything(entries: &[Entry]) -> Profile {
        Profile { mappings: entries.iter().map(|entry| MappingConfig::clone(&entry.config)).collect() }
    }

    /// Gives the mappings of a file the ids of those that run: matched by listener and protocol, then by name,
    /// so that renaming and reordering disturb nothing. Session mappings stay, at the end.
    pub(crate) fn matched(&mut self, mappings: Vec<MappingConfig>) -> Vec<Entry> {
        let mut old: Vec<Entry> = self.entries.iter().filter(|entry| !entry.is_session).cloned().collect();
        let mut ids: Vec<Option<MappingId>> = vec![None; mappings.len()];
        let mut take = |same: &dyn Fn(&MappingConfig, &MappingConfig) -> bool, ids: &mut Vec<Option<MappingId>>| {
            for (id, new) in ids.iter_mut().zip(&mappings).filter(|(id, _)| id.is_none()) {
                if let Some(at) = old.iter().position(|entry| same(&entry.config, new)) {
                    *id = Some(old.remove(at).id);
                }
            }
        };
        take(
            &|old, new| old.mapping.listen == new.mapping.listen && old.mapping.protocol == new.mapping.protocol,
            &mut ids,
        );
        take(&|old, new| old.name == new.name, &mut ids);
        let session: Vec<Entry> = self.entries.iter().filter(|entry| entry.is_session).cloned().collect();
        mappings
            .into_iter()
            .zip(ids)
            .map(|(config, id)| Entry {
                id: id.unwrap_or_else(|| self.fresh_id()),
                config: Arc::new(config),
                is_session: false,
            })
            .chain(session)
            .collect()
    }
}

/// Checks all entries together (unique names and listeners, no cycles) and fills in made-up names. Problems name
/// mappings by their place in the file or on the command line.
pub(crate) fn checked(entries: Vec<Entry>, own_addresses: &[IpAddr]) -> Result<Vec<Entry>, Problems> {
    let mut place = 0;
    let origins = entries.iter().map(|entry| {
        if entry.is_session {
            return Origin::argument(&entry.config.mapping.to_string());
        }
        place += 1;
        Origin::Profile(place - 1)
    });
    let origins = origins.collect();
    checked_from(origins, entries, own_addresses)
}

/// The same for who sees no file: problems name mappings by their names, and the one that is `asked` about is
/// `this mapping`.
pub(crate) fn checked_by_name(
    entries: Vec<Entry>,
    own_addresses: &[IpAddr],
    asked: &[MappingId],
) -> Result<Vec<Entry>, Problems> {
    let origins = entries.iter().map(|entry| match asked {
        [id] if *id == entry.id => Origin::Asked,
        _ => Origin::Named(entry.config.name.clone()),
    });
    let origins = origins.collect();
    checked_from(origins, entries, own_addresses)
}

fn checked_from(origins: Vec<Origin>, entries: Vec<Entry>, own_addresses: &[IpAddr]) -> Result<Vec<Entry>, Problems> {
    let configs = entries.iter().map(|entry| MappingConfig::clone(&entry.config));
    let located = origins.into_iter().zip(configs).collect();
    let profile = Profile::from_located(located, own_addresses)?;
    let named = entries.into_iter().zip(profile.mappings).map(|(entry, config)| {
        if *entry.config == config { entry } else { Entry { config: Arc::new(config), ..entry } }
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, text: &str) -> MappingConfig {
        MappingConfig::new(name, text.parse().expect("a valid mapping"))
    }

    fn desired(mappings: &[(&str, &str)]) -> Desired {
        let mut desired = Desired::default();
        let entries = desired.matched(mappings.iter().map(|(name, text)| config(name, text)).collect());
        desired.reset(entries);
        desired
    }

    #[test]
    fn renaming_and_reordering_keep_the_ids() {
        let mut desired = desired(&[("a", "8001:192.0.2.1:80"), ("b", "8002:192.0.2.1:80")]);
        let entries = desired.matched(vec![config("new", "8002:192.0.2.1:81"), config("a", "8001:192.0.2.1:80")]);
        assert_eq!(entries.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_moved_listener_is_found_by_name_and_a_new_mapping_gets_a_new_id() {
        let mut desired = desired(&[("a", "8001:192.0.2.1:80")]);
        let entries = desired.matched(vec![config("b", "8003:192.0.2.1:80"), config("a", "8002:192.0.2.1:80")]);
        assert_eq!(entries.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn what_is_kept_for_good_is_kept_by_undo_too() {
        let mut desired = desired(&[("a", "8001:192.0.2.1:80")]);
        let session: Vec<Entry> = desired.entries().iter().map(|e| Entry { is_session: true, ..e.clone() }).collect();
        desired.reset(session);
        desired.change("delete a".into(), Vec::new(), false);
        desired.keep_session();
        desired.undo();
        assert_eq!(Desired::profile(desired.entries()).mappings.len(), 1);
    }

    #[test]
    fn undo_brings_back_the_state_before_and_counts_a_revision() {
        let mut desired = desired(&[("a", "8001:192.0.2.1:80")]);
        let before = desired.entries().to_vec();
        desired.change("delete a".into(), Vec::new(), false);
        assert!(desired.entries().is_empty());
        let revision = desired.revision();
        desired.undo();
        assert_eq!(desired.entries(), before);
        assert!(desired.revision() > revision);
        assert!(desired.undo_label().is_none());
    }
}
