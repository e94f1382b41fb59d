//! Import: what containers expose becomes mappings, all of the chosen ones or none.

use crate::model::count::count;
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::SafeText;

use super::super::keymap::Action;
use super::super::state::import::Import;
use super::super::state::{Overlay, Severity, State};
use super::{Asked, Effect, change, note, say};

/// Opens the overlay with what is known now.
pub(super) fn open(state: &mut State) {
    state.overlay = Overlay::Import(Import::of(&state.live));
}

/// Carries out what a key of the overlay does.
pub(super) fn perform(state: &mut State, action: Action) {
    let Overlay::Import(import) = &mut state.overlay else { return };
    import.refused = None;
    match action {
        Action::ImportMark => import.mark(),
        Action::ImportMarkAll => import.mark_all(),
        Action::ImportOtherPort => import.take_other_port(&state.live),
        _ => {}
    }
}

/// Enter: asks for the chosen ones as one change.
pub(super) fn add(state: &mut State, effects: &mut Vec<Effect>) {
    let Overlay::Import(import) = &mut state.overlay else { return };
    if import.is_adding {
        return;
    }
    let mappings: Vec<_> = import.wanted().into_iter().map(|at| import.choices[at].written()).collect();
    if mappings.is_empty() {
        state.overlay = Overlay::None;
        return;
    }
    import.is_adding = true;
    import.refused = None;
    let effect = change(state, Asked::Import, Request::AddAll { mappings, even_if_busy: false });
    effects.push(effect);
}

/// All were added, or none.
pub(super) fn told(state: &mut State, answer: Result<Reply, RequestError>) {
    let import = match &mut state.overlay {
        Overlay::Import(import) => Some(import),
        // It was closed in the meantime; what came of it is news all the same.
        _ => None,
    };
    match (answer, import) {
        (Ok(Reply::Done { ids, message, .. }), import) => {
            if import.is_some() {
                state.overlay = Overlay::None;
            }
            state.select_when_told = ids.first().copied();
            let text = match ids.len() {
                0 | 1 => message,
                many => SafeText::new(&format!("added {}; u undoes", count(many as u64, "mapping"))),
            };
            note(state, Severity::None, text);
        }
        (Err(RequestError::PortInUse { report }), Some(import)) => {
            import.is_adding = false;
            import.told_busy(&report);
        }
        (Err(error), Some(import)) => {
            import.is_adding = false;
            import.refused = Some(SafeText::new(&error.to_string()));
        }
        (Err(error), None) => say(state, Severity::Error, &error.to_string()),
        (Ok(_), _) => {}
    }
}
