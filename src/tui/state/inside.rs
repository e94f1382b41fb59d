//! Who listens inside containers: what was asked, and what was answered.

use std::collections::HashMap;

use crate::model::container::InsideListener;
use crate::model::untrusted::SafeText;

/// The selection has settled on a container when it has stayed for so long.
pub const SETTLED_MS: u64 = 200;

/// What is known of one container's inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Asked; no answer yet.
    Asked,
    /// As answered.
    Told {
        /// Listening sockets.
        listeners: Vec<InsideListener>,
        /// Why they cannot be seen.
        unseen: Option<SafeText>,
    },
    /// It was refused; why.
    Refused(SafeText),
}

/// What is known of every container that was looked into; one entry a container at most.
#[derive(Clone, Debug, Default)]
pub struct Insides {
    known: HashMap<SafeText, Inside>,
    /// The selected container and when it is looked into, until that is done.
    due: Option<(SafeText, u64)>,
}

impl Insides {
    /// What is known of one.
    pub fn of(&self, container: &SafeText) -> Option<&Inside> {
        self.known.get(container)
    }

    /// The answer of the service.
    pub fn told(&mut self, container: &SafeText, inside: Inside) {
        // Of a container that went in the meantime nobody wants to know.
        if let Some(known) = self.known.get_mut(container) {
            *known = inside;
        }
    }

    /// Forgets it: it is gone, or is not what it was.
    pub fn forget(&mut self, container: &SafeText) {
        self.known.remove(container);
    }

    /// Notes what is selected; `None`: nothing that can be looked into.
    pub fn settle(&mut self, selected: Option<&SafeText>, now_ms: u64) {
        let wanted = selected.filter(|id| !self.known.contains_key(id));
        match (wanted, &self.due) {
            (Some(id), Some((due, _))) if id == due => {}
            (Some(id), _) => self.due = Some((id.clone(), now_ms + SETTLED_MS)),
            (None, _) => self.due = None,
        }
    }

    /// When the next one is to be asked for.
    pub fn due_ms(&self) -> Option<u64> {
        self.due.as_ref().map(|(_, at_ms)| *at_ms)
    }

    /// The container that is to be asked for now.
    pub fn take_due(&mut self, now_ms: u64) -> Option<SafeText> {
        let (id, _) = self.due.take_if(|(_, at_ms)| *at_ms <= now_ms)?;
        self.known.insert(id.clone(), Inside::Asked);
        Some(id)
    }

    /// Asks for it again; false while an answer is awaited.
    pub fn ask_again(&mut self, container: &SafeText) -> bool {
        self.known.insert(container.clone(), Inside::Asked) != Some(Inside::Asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_asked_for_once_and_only_when_the_selection_rests() {
        let (web, api) = (SafeText::new("web"), SafeText::new("api"));
        let mut insides = Insides::default();
        insides.settle(Some(&web), 1_000);
        insides.settle(Some(&api), 1_100);
        insides.settle(Some(&api), 1_250);
        assert_eq!(insides.take_due(1_250), None, "it came to api at 1,100");
        assert_eq!(insides.take_due(1_300), Some(api.clone()));
        insides.settle(Some(&api), 1_400);
        assert_eq!(insides.take_due(9_000), None, "once");
        assert!(!insides.ask_again(&api), "an answer is awaited");
        insides.told(&api, Inside::Refused(SafeText::new("no")));
        assert!(insides.ask_again(&api));
        insides.forget(&api);
        insides.told(&api, Inside::Refused(SafeText::new("late")));
        assert_eq!(insides.of(&api), None, "it is another one now");
    }
}
