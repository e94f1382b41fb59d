//! Why a mapping does not work: the page that asks the service, and its keys.

use crate::model::id::MappingId;
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::SafeText;

use super::super::keymap::Action;
use super::super::state::why::Why;
use super::super::state::{Overlay, Paint, State};
use super::{Asked, Effect, actions, ask};

/// Lines of the page that are not rows: its rule.
const HEAD: u16 = 1;

/// Opens the page of the selected mapping and has it checked.
pub(super) fn open(state: &mut State, effects: &mut Vec<Effect>) {
    let Some(item) = state.selected_mapping().filter(|item| !item.row.is_docker()) else { return };
    let (id, why) = (item.row.id, Why::new(item.row.id, &item.row.mapping));
    state.overlay = Overlay::Why(Box::new(why));
    effects.push(ask(Asked::Why(id), Request::Why { id }));
}

/// Carries out what a key of the page does.
pub(super) fn perform(state: &mut State, action: Action, effects: &mut Vec<Effect>) {
    let Overlay::Why(why) = &mut state.overlay else { return };
    match action {
        Action::WhyAgain if !why.is_checking => {
            why.is_checking = true;
            effects.push(ask(Asked::Why(why.id), Request::Why { id: why.id }));
        }
        Action::WhyEdit => {
            let id = why.id;
            actions::edit(state, id, effects);
        }
        Action::WhyCopy => effects.extend(why.report.as_ref().map(|report| Effect::Copy(report.to_string()))),
        _ => {}
    }
}

/// Scrolls by so many lines.
pub(super) fn scroll(state: &mut State, by: isize) {
    let (width, room) = (state.size.0, room(state));
    if let Overlay::Why(why) = &mut state.overlay {
        let visible = why.visible(width, room);
        why.scroll(by, width, visible);
    }
}

/// Scrolls by a page down or up.
pub(super) fn page(state: &mut State, down: bool) {
    let by = isize::try_from(room(state)).unwrap_or(1).max(1);
    scroll(state, if down { by } else { -by });
}

fn room(state: &State) -> usize {
    usize::from(state.layout().body.height.saturating_sub(HEAD))
}

/// What was found.
pub(super) fn told(state: &mut State, id: MappingId, answer: Result<Reply, RequestError>) {
    let now_ms = state.now_ms;
    let Overlay::Why(why) = &mut state.overlay else { return };
    if why.id != id {
        return;
    }
    why.is_checking = false;
    why.refused = None;
    match answer {
        Ok(Reply::Why(report)) => {
            why.report = Some(*report);
            why.told_ms = now_ms;
        }
        Ok(_) => {}
        Err(error) => why.refused = Some(SafeText::new(&error.to_string())),
    }
    scroll(state, 0);
    state.paint = state.paint.max(Paint::Soon);
}
