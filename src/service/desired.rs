//! The desired state: which mappings shall be, in which order, and what undo brings back.
//!
//! Pure. Every change, by whomever, is a new list of entries; what runs is reconciled with it elsewhere. So a
//! hand edit, another profile, an undo and a request differ only in how the list is made.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::assemble::Origin;
use crate::model::id::{MappingId, Revision};
use crate::model::mapping::{HostPort, Listen, Mapping, Protocol};
use crate::model::profile::{MappingConfig, Problems, Profile, WrittenMapping};
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

    /// Gives the mappings of a file the ids of those that run, so that renaming and reordering disturb nothing: first
    /// the surest likeness, in the end the name. Session mappings stay, at the end.
    pub(crate) fn matched(&mut self, mappings: Vec<MappingConfig>) -> Vec<Entry> {
        let old: Vec<&Entry> = self.entries.iter().filter(|entry| !entry.is_session).collect();
        let mut ids: Vec<Option<MappingId>> = vec![None; mappings.len()];
        let mut taken: HashSet<MappingId> = HashSet::new();
        for likeness in LIKENESSES {
            let mut free: HashMap<Likeness, VecDeque<MappingId>> = HashMap::new();
            for entry in old.iter().filter(|entry| !taken.contains(&entry.id)) {
                if let Some(likeness) = likeness(&entry.config) {
                    free.entry(likeness).or_default().push_back(entry.id);
                }
            }
            for (id, new) in ids.iter_mut().zip(&mappings).filter(|(id, _)| id.is_none()) {
                *id = likeness(new).and_then(|likeness| free.get_mut(&likeness)?.pop_front());
                taken.extend(*id);
            }
        }
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

/// What two mappings have in common that are taken for the same one.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Likeness {
    Listener(Listen, Protocol),
    NamedListener(Listen, Protocol, String),
    Written(WrittenMapping),
    Mapping(Mapping),
    Name(String),
}

/// From the surest on. A listener that is `auto` says nothing: any number of mappings may have it, and the port behind
/// it is the one that its clients know. Nor does a name made from it, which follows the order of the list.
const LIKENESSES: [fn(&MappingConfig) -> Option<Likeness>; 5] = [
    |config| {
        let Mapping { listen, protocol, .. } = &config.mapping;
        config.name_is_given.then(|| Likeness::NamedListener(listen.clone(), *protocol, config.name.clone()))
    },
    |config| {
        let Mapping { listen, protocol, .. } = &config.mapping;
        (!is_auto(config)).then(|| Likeness::Listener(listen.clone(), *protocol))
    },
    // Of an `auto` mapping that was renamed or has no name, all the rest, or at least where it leads.
    |config| is_auto(config).then(|| Likeness::Written(WrittenMapping { name: None, ..config.to_written() })),
    |config| is_auto(config).then(|| Likeness::Mapping(config.mapping.clone())),
    |config| (config.name_is_given || !is_auto(config)).then(|| Likeness::Name(config.name.clone())),
];

fn is_auto(config: &MappingConfig) -> bool {
    config.mapping.listen.port == HostPort::Auto
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

    /// What the ids become when a file of these mappings is read: given names, or none where they are empty.
    fn ids_after(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<u64> {
        let read = |list: &[(&str, &str)]| {
            let configs = list.iter().map(|(name, text)| match *name {
                "" => MappingConfig::from_argument(text).expect("a valid mapping"),
                name => config(name, text),
            });
            Profile::from_configs(configs.collect()).expect("a valid profile").mappings
        };
        let mut desired = Desired::default();
        let entries = desired.matched(read(before));
        desired.reset(entries);
        desired.matched(read(after)).iter().map(|entry| entry.id.0).collect()
    }

    #[test]
    fn an_auto_listener_alone_identifies_nobody() {
        let (web, db) = ("auto:192.0.2.1:80", "auto:192.0.2.2:5432");
        let moved = "auto:192.0.2.9:81";
        for (before, after, ids) in [
            // Swapped, and one of two deleted: with names of their own, and with made-up ones.
            (vec![("web", web), ("db", db)], vec![("db", db), ("web", web)], vec![2, 1]),
            (vec![("web", web), ("db", db)], vec![("db", db)], vec![2]),
            (vec![("", web), ("", db)], vec![("", db), ("", web)], vec![2, 1]),
            (vec![("", web), ("", db)], vec![("", db)], vec![2]),
            // Renamed, named for the first time, and led elsewhere under the same name.
            (vec![("web", web), ("db", db)], vec![("b", db), ("a", web)], vec![2, 1]),
            (vec![("", web), ("", db)], vec![("db", db), ("", web)], vec![2, 1]),
            (vec![("web", web), ("db", db)], vec![("db", moved), ("web", web)], vec![2, 1]),
            // Two that lead to the same place, told apart by their names alone.
            (vec![("a", web), ("b", web)], vec![("b", web)], vec![2]),
            // An unrelated mapping, such as another profile's, is a new one, whatever its made-up name is.
            (vec![("", web)], vec![("", moved)], vec![2]),
            (vec![("web", web)], vec![("other", moved)], vec![2]),
            (vec![("", web)], vec![("", "auto:192.0.2.1:80/udp")], vec![2]),
            // A name finds a mapping whose listener became `auto`.
            (vec![("web", "80:192.0.2.1:80"), ("", db)], vec![("", db), ("web", web)], vec![2, 1]),
        ] {
            assert_eq!(ids_after(&before, &after), ids, "{before:?} -> {after:?}");
        }
    }

    #[test]
    fn a_listener_finds_its_mapping_before_a_name_does() {
        let (a, b) = ("8001:192.0.2.1:80", "8002:192.0.2.1:80");
        assert_eq!(ids_after(&[("a", a), ("b", b)], &[("b", a), ("a", b)]), [1, 2], "the names were swapped");
        assert_eq!(ids_after(&[("", a), ("", b)], &[("", b)]), [2]);
        // Another address, the same made-up name.
        assert_eq!(ids_after(&[("", a)], &[("", "any:8001:192.0.2.1:80")]), [1]);
    }

    #[test]
    fn ten_thousand_mappings_are_matched_quickly() {
        let many: Vec<MappingConfig> =
            (1..=10_000).map(|n| config(&format!("m{n}"), &format!("auto:192.0.2.1:{n}"))).collect();
        let mut desired = Desired::default();
        let entries = desired.matched(many.clone());
        desired.reset(entries);
        let entries = desired.matched(many.into_iter().rev().collect());
        assert!(entries.iter().rev().map(|entry| entry.id.0).eq(1..=10_000));
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
