//! `update(state, message) -> effects`: all that the screen decides.
//!
//! It awaits nothing, locks nothing, logs nothing and reads no clock: time comes in [`Msg::Clock`]. What is to
//! happen outside goes out as [`Effect`]s, and their answers come back as messages.

mod actions;
mod containers;
mod copy;
mod dialogs;
mod form;
mod import;
mod ingest;
mod lists;
mod palette;
mod why;

use crate::model::id::MappingId;
use crate::model::profile::WrittenMapping;
use crate::model::request::{Call, Reply, Request, RequestError};
use crate::model::untrusted::{SafeText, acts_on_a_terminal};
use crate::model::update::Update;

use super::keymap::{self, Action, Key};
use super::state::words::saved_words;
use super::state::{Absence, Listed, Note, Overlay, Paint, Pane, Severity, State, View, Zoom};

/// How long a line of news stands.
const NOTE_MS: u64 = 8_000;
/// A second `^c` within this time quits.
const CANCEL_TWICE_MS: u64 = 2_000;

/// What the screen is told.
#[derive(Clone, Debug)]
pub enum Msg {
    /// The screen's clock, in milliseconds; precedes the other messages of its moment.
    Clock(u64),
    /// A key was pressed.
    Key(Key),
    /// Text was pasted.
    Paste(String),
    /// The terminal has so many columns and rows.
    Resize(u16, u16),
    /// The service tells what changed.
    Update(Box<Update>),
    /// The service answers.
    Answer(Asked, Box<Result<Reply, RequestError>>),
    /// An effect says how it went.
    News(Severity, SafeText),
    /// The service has ended.
    ServiceEnded,
    /// An engine that was lost is found, and does not answer.
    ServiceSilent,
    /// An engine that was lost was looked for: why this window is not attached to it.
    ServiceRefused(RequestError),
    /// An engine that was lost is there again: a full update follows.
    ServiceBack,
}

/// What an answer is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// A change of the desired state, from the list or the palette.
    Change,
    /// A mapping that was typed on the palette, new or in the place of another.
    Typed(Box<WrittenMapping>, Option<MappingId>),
    /// The form's save.
    Save,
    /// Who holds the form's port; the form's generation.
    Port(u64),
    /// Whether the form is valid; the form's generation.
    Verdict(u64),
    /// The form's target, as typed.
    Probe(String),
    /// The target of a mapping: its text.
    Try(String),
    /// For the form.
    Containers,
    /// For the overlay and the palette.
    Profiles,
    /// The chosen ports of the import overlay.
    Import,
    /// Who listens inside a container: its id.
    Inside(SafeText),
    /// Why a mapping does not work.
    Why(MappingId),
    /// Where clients find a mapping.
    Whereabouts(MappingId),
}

/// What is to happen outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask the service.
    Ask(Asked, Box<Call>),
    /// Put text on the clipboard.
    Copy(String),
    /// Open an address in the browser.
    Browse(String),
    /// Suspend the program.
    Suspend,
    /// Clear the terminal before the next frame.
    Redraw,
    /// Leave.
    Quit,
    /// Leave the screen; the engine goes on without one.
    Leave,
}

/// Changes the state as the message demands.
pub fn update(state: &mut State, msg: Msg) -> Vec<Effect> {
    let mut effects = Vec::new();
    match msg {
        Msg::Clock(now_ms) => clock(state, now_ms, &mut effects),
        Msg::Key(key) => {
            state.paint = Paint::Now;
            state.last_key_ms = state.now_ms;
            press(state, key, &mut effects);
        }
        Msg::Paste(text) => {
            state.paint = Paint::Now;
            state.last_key_ms = state.now_ms;
            paste(state, &text, &mut effects);
        }
        Msg::Resize(columns, rows) => {
            state.size = (columns, rows);
            state.paint = Paint::Now;
        }
        Msg::Update(update) => ingest::apply(state, *update),
        Msg::Answer(asked, answer) => {
            state.paint = state.paint.max(Paint::Soon);
            answered(state, asked, *answer, &mut effects);
        }
        Msg::News(severity, text) => note(state, severity, text),
        Msg::ServiceEnded => {
            state.is_gone = true;
            if state.live.overview.is_ending {
                state.absence = Absence::Ended;
            }
            state.paint = state.paint.max(Paint::Soon);
        }
        Msg::ServiceSilent => {
            state.paint = state.paint.max(Paint::Soon);
            state.absence = Absence::Silent;
        }
        Msg::ServiceRefused(error) => {
            let absence = match error {
                RequestError::Gone if state.absence == Absence::Ended => Absence::Ended,
                RequestError::Silent { .. } => Absence::Silent,
                RequestError::Gone => Absence::Lost,
                error => Absence::Refuses(SafeText::new(&error.to_string())),
            };
            if absence != state.absence {
                if let Absence::Refuses(why) = &absence {
                    note(state, Severity::Error, why.clone());
                    // It stands until something else is to be said.
                    state.note.as_mut().into_iter().for_each(|note| note.until_ms = u64::MAX);
                }
                state.absence = absence;
                state.paint = state.paint.max(Paint::Soon);
            }
        }
        Msg::ServiceBack => {
            state.is_gone = false;
            state.absence = Absence::default();
            // Ids are those of another run: what was asked or waited for was about others.
            state.marks.clear();
            state.baselines.clear();
            state.overlay = Overlay::None;
            state.frozen = None;
            state.select_when_told = None;
            state.saved_when_told = None;
            say(state, Severity::None, "the engine is back");
        }
    }
    settle(state);
    effects
}

/// When the state wants to be told the time next, beside once a second.
pub fn wake_at(state: &State) -> Option<u64> {
    [state.form().and_then(|form| form.ask_at_ms), state.insides.due_ms()].into_iter().flatten().min()
}

fn clock(state: &mut State, now_ms: u64, effects: &mut Vec<Effect>) {
    state.now_ms = now_ms;
    if now_ms / 1000 != state.last_second_ms / 1000 {
        state.last_second_ms = now_ms;
        second(state);
    }
    form::ask_when_due(state, effects);
    containers::ask_when_due(state, effects);
}

/// What happens once a second.
fn second(state: &mut State) {
    let mut changed = state.live.take_figures(state.now_ms);
    if let Some(note) = &state.note
        && note.until_ms <= state.now_ms
    {
        state.note = None;
        changed = true;
    }
    if state.frozen.is_some() {
        changed = true;
    } else {
        changed |= lists::drop_stale(state);
        changed |= lists::sort_if_due(state);
        // Ages count on while a connection is listed.
        let lists_ages = matches!(state.view, View::Mappings | View::Connections);
        changed |= !state.connections.order.is_empty() && lists_ages;
    }
    // Since when it holds what it says.
    changed |= matches!(&state.overlay, Overlay::Why(why) if why.report.is_some());
    if changed {
        state.paint = state.paint.max(Paint::Soon);
    }
}

/// Makes lists, selections and scrolling agree.
fn settle(state: &mut State) {
    if let Some(id) = state.select_when_told
        && state.mappings.order.contains(&id)
    {
        state.mappings.selected = Some(id);
        state.select_when_told = None;
    }
    if let Some((id, message)) = &state.saved_when_told
        && let Some((severity, text)) = state.live.mappings.get(id).and_then(|item| saved_words(item, message))
    {
        state.saved_when_told = None;
        say(state, severity, &text);
    }
    let rows = state.visible(Pane::Mappings);
    state.mappings.settle(rows);
    let wanted = match (state.view, state.mappings.selected) {
        (View::Mappings, Some(id)) => Listed::Of(id),
        (View::Mappings, None) => Listed::Nothing,
        (View::Connections | View::Containers | View::Events, _) => Listed::All,
    };
    if wanted != state.listed {
        state.listed = wanted;
        lists::list_connections_anew(state);
        if state.connections.position().is_none() {
            state.connections.select(0);
        }
    }
    let rows = state.visible(Pane::Connections);
    state.connections.settle(rows);
    let rows = state.visible(Pane::Containers);
    state.containers.settle(rows);
    containers::settle(state);
    if state.view == View::Events {
        state.live.errors_unseen = 0;
    }
    let rows = state.visible(Pane::Events);
    state.events.settle(rows);
}

fn press(state: &mut State, key: Key, effects: &mut Vec<Effect>) {
    if key == Key::Ctrl('c') {
        cancel(state, effects);
        return;
    }
    if asks(state) {
        dialogs::answer_question(state, key, effects);
        return;
    }
    if state.layout().is_tiny {
        press_on_one_line(state, key, effects);
        return;
    }
    if let Some(binding) = keymap::find(keymap::scopes(state), key, state) {
        perform(state, binding.action, effects);
    } else {
        match state.overlay {
            Overlay::Form(_) => form::typed(state, key),
            Overlay::None => {}
            _ => dialogs::typed(state, key, effects),
        }
    }
}

/// Nothing but one line is seen: what lies over the screen gets no key, and is left by `q` as all of it is.
fn press_on_one_line(state: &mut State, key: Key, effects: &mut Vec<Effect>) {
    match (key, &state.overlay) {
        (Key::Char('q'), Overlay::None) => {
            // Nobody sees from what it would go back.
            state.zoom = Zoom::None;
            perform(state, Action::Quit, effects);
        }
        (Key::Char('q'), Overlay::Form(_)) => state.overlay = Overlay::None,
        (Key::Char('q'), _) => dialogs::perform(state, Action::DialogDismiss, effects),
        (Key::Ctrl('z'), Overlay::None) => perform(state, Action::Suspend, effects),
        (Key::Ctrl('l'), _) => perform(state, Action::Redraw, effects),
        _ => {}
    }
}

fn asks(state: &State) -> bool {
    matches!(state.overlay, Overlay::Confirm(_))
}

/// Carries an action out, whoever asked for it: a key, the palette, a click.
fn perform(state: &mut State, action: Action, effects: &mut Vec<Effect>) {
    match action {
        Action::FormSave
        | Action::FormCancel
        | Action::FormNext
        | Action::FormPrevious
        | Action::FormDown
        | Action::FormUp
        | Action::TakeFreePort => form::perform(state, action, effects),
        Action::ImportMark | Action::ImportMarkAll | Action::ImportOtherPort => import::perform(state, action),
        Action::WhyAgain | Action::WhyEdit | Action::WhyCopy => why::perform(state, action, effects),
        Action::DialogAccept
        | Action::DialogDismiss
        | Action::DialogDown
        | Action::DialogUp
        | Action::DialogComplete => dialogs::perform(state, action, effects),
        _ => actions::perform(state, action, effects),
    }
}

fn cancel(state: &mut State, effects: &mut Vec<Effect>) {
    if state.cancelled_at_ms.is_some_and(|at| at + CANCEL_TWICE_MS > state.now_ms) {
        effects.push(Effect::Quit);
        return;
    }
    state.cancelled_at_ms = Some(state.now_ms);
    match state.overlay {
        Overlay::None => {}
        Overlay::Form(_) => state.overlay = Overlay::None,
        _ => dialogs::perform(state, Action::DialogDismiss, effects),
    }
    say(state, Severity::None, "^c again quits at once");
}

fn paste(state: &mut State, text: &str, effects: &mut Vec<Effect>) {
    if state.layout().is_tiny {
        return;
    }
    let line = one_line(text);
    match &mut state.overlay {
        Overlay::Form(_) => form::pasted(state, &line),
        Overlay::None => form::pasted_on_screen(state, &line, effects),
        Overlay::Confirm(_) => {}
        _ => {
            for c in line.chars() {
                dialogs::typed(state, Key::Char(c), &mut Vec::new());
            }
        }
    }
}

/// Pasted text as one line without anything that acts on a terminal, of a length that a line can have. Terminals
/// send the end of a line as a carriage return, as if enter were pressed.
fn one_line(text: &str) -> String {
    text.replace("\\\r\n", " ")
        .replace("\\\n", " ")
        .replace("\\\r", " ")
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !acts_on_a_terminal(*c))
        .take(4_096)
        .collect::<String>()
        .trim()
        .to_owned()
}

fn answered(state: &mut State, asked: Asked, answer: Result<Reply, RequestError>, effects: &mut Vec<Effect>) {
    let answer = answer.map(Reply::with_keys);
    match asked {
        Asked::Change => changed(state, answer),
        Asked::Typed(mapping, edits) => {
            if let Err(error) = &answer
                && form::take_refused(state, &mapping, edits, error, effects)
            {
                return;
            }
            match answer {
                Ok(Reply::Done { ids, message, .. }) if edits.is_none() && ids.len() == 1 => {
                    state.select_when_told = ids.first().copied();
                    state.saved_when_told = ids.first().map(|id| (*id, message));
                }
                answer => changed(state, answer),
            }
        }
        Asked::Save => form::saved(state, answer),
        Asked::Port(generation) => form::port_told(state, generation, answer),
        Asked::Verdict(generation) => form::judged(state, generation, answer),
        Asked::Probe(target) => form::probed(state, &target, answer),
        Asked::Try(target) => actions::tried(state, &target, answer),
        Asked::Containers => form::containers_told(state, answer),
        Asked::Profiles => dialogs::profiles_told(state, answer),
        Asked::Import => import::told(state, answer),
        Asked::Inside(container) => containers::told(state, &container, answer),
        Asked::Why(id) => why::told(state, id, answer),
        Asked::Whereabouts(id) => actions::whereabouts_told(state, id, answer),
    }
}

fn changed(state: &mut State, answer: Result<Reply, RequestError>) {
    match answer {
        Ok(Reply::Done { ids, message, .. }) => {
            if let [id] = ids[..] {
                state.select_when_told = Some(id);
            }
            note(state, Severity::None, message);
        }
        Ok(_) => {}
        Err(error) => say(state, Severity::Error, &error.to_string()),
    }
}

/// Shows one line of news.
fn note(state: &mut State, severity: Severity, text: SafeText) {
    state.note = Some(Note { severity, text, until_ms: state.now_ms + NOTE_MS });
    state.paint = state.paint.max(Paint::Soon);
}

fn say(state: &mut State, severity: Severity, text: &str) {
    note(state, severity, SafeText::new(text));
}

/// A request as it stands.
fn ask(asked: Asked, request: Request) -> Effect {
    Effect::Ask(asked, Box::new(Call { expected: None, request }))
}

/// A change of the desired state, made from what is shown.
fn change(state: &State, asked: Asked, request: Request) -> Effect {
    Effect::Ask(asked, Box::new(Call { expected: Some(state.live.overview.revision), request }))
}

/// Leaves zoom and overlay for a view.
fn go_to(state: &mut State, view: View) {
    state.view = view;
    state.zoom = Zoom::None;
    if view == View::Events {
        // The newest is what one comes for.
        state.events.select(usize::MAX);
    }
}
