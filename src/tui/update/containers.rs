//! The Containers view: who listens inside is asked once the selection rests, and `a` maps a container.

use crate::model::container::{Container, EnginePlace};
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::SafeText;

use super::super::state::form::Field;
use super::super::state::{Form, Inside, Paint, Severity, State, View, offer};
use super::{Asked, Effect, actions, ask, say};

/// Notes what is selected, so that it is looked into once the selection rests.
pub(super) fn settle(state: &mut State) {
    let selected = state.selected_container().filter(|container| container.is_running()).map(|it| it.id.clone());
    let selected = selected.filter(|_| state.view == View::Containers && !state.is_gone);
    let now_ms = state.now_ms;
    state.insides.settle(selected.as_ref(), now_ms);
}

/// Asks who listens inside, once the selection has rested.
pub(super) fn ask_when_due(state: &mut State, effects: &mut Vec<Effect>) {
    if let Some(container) = state.insides.take_due(state.now_ms) {
        effects.push(look(container));
        state.paint = state.paint.max(Paint::Soon);
    }
}

fn look(container: SafeText) -> Effect {
    ask(Asked::Inside(container.clone()), Request::Inside { container })
}

/// Asks again, because the user wants to know.
pub(super) fn look_again(state: &mut State, effects: &mut Vec<Effect>) {
    let Some(container) = state.selected_container().map(|container| container.id.clone()) else { return };
    if state.insides.ask_again(&container) {
        effects.push(look(container));
    }
}

/// Who listens inside.
pub(super) fn told(state: &mut State, container: &SafeText, answer: Result<Reply, RequestError>) {
    let inside = match answer {
        Ok(Reply::Inside { listeners, unseen }) => Inside::Told { listeners, unseen },
        Ok(_) => return,
        Err(error) => Inside::Refused(SafeText::new(&error.to_string())),
    };
    state.insides.told(container, inside);
}

/// Opens the form for the selected container; in any other view, an empty one.
pub(super) fn add(state: &mut State, effects: &mut Vec<Effect>) {
    let selected = (state.view == View::Containers).then(|| state.selected_container().cloned()).flatten();
    let Some(container) = selected else {
        actions::open_form(state, Form::new(), effects);
        return;
    };
    let place = state.live.overview.engine_place.clone();
    let is_taken = |port, protocol| offer::is_taken(&state.live, port, protocol);
    let mut form = Form::of_container(&container, place.clone(), is_taken);
    if form.target_port.value().is_empty() {
        form.focus = Field::TargetPort;
    }
    actions::open_form(state, form, effects);
    if let Some(text) = warning(&container, &place) {
        say(state, Severity::Warn, &text);
    }
}

/// What stands in the way of mapping a container, as far as the screen knows.
fn warning(container: &Container, place: &EnginePlace) -> Option<String> {
    match place {
        EnginePlace::Elsewhere { .. } if !is_offered(container, place) => {
            Some(format!("{} cannot be reached from here, and publishes no port", container.name))
        }
        _ if !container.is_running() => Some(format!("{} is {}", container.name, container.state)),
        _ => None,
    }
}

fn is_offered(container: &Container, place: &EnginePlace) -> bool {
    container.ports.iter().any(|port| offer::offer(container, port, place).is_some())
}
