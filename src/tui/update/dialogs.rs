//! Questions, help, profiles, copying, and the filter line.

use tui_input::{Input, InputRequest};

use crate::model::filter::Filter;
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::acts_on_a_terminal;

use super::super::keymap::{Action, Key};
use super::super::state::dialog::Overlay;
use super::super::state::{Pane, Severity, State};
use super::{Asked, Effect, actions, ask, import, lists, palette, say, why};

/// Longest line that can be typed.
const LONGEST: usize = 1_024;

/// The key that says yes, `y` and enter do it, the key of something else does that; any other key leaves everything as it is.
pub(super) fn answer_question(state: &mut State, key: Key, effects: &mut Vec<Effect>) {
    let Overlay::Confirm(confirm) = std::mem::take(&mut state.overlay) else { return };
    if key == confirm.key || matches!(key, Key::Enter | Key::Char('y')) {
        actions::confirmed(state, confirm.then, effects);
    } else if let Some((_, _, then)) = confirm.other.filter(|(other, ..)| *other == key) {
        actions::confirmed(state, then, effects);
    }
}

/// Carries out what a key of a dialog does.
pub(super) fn perform(state: &mut State, action: Action, effects: &mut Vec<Effect>) {
    match action {
        Action::DialogAccept => accept(state, effects),
        Action::DialogDismiss => dismiss(state),
        Action::DialogDown => step(state, 1),
        Action::DialogUp => step(state, -1),
        Action::DialogComplete => palette::complete(state),
        _ => {}
    }
}

fn dismiss(state: &mut State) {
    if let Overlay::Filter(line) = &state.overlay {
        let (pane, before) = (line.pane, line.before.clone());
        set_filter(state, pane, &before);
    }
    state.overlay = Overlay::None;
}

fn accept(state: &mut State, effects: &mut Vec<Effect>) {
    match &state.overlay {
        // It stays until all are added.
        Overlay::Import(_) => return import::add(state, effects),
        // There is nothing to do but to read.
        Overlay::Why(_) => return,
        _ => {}
    }
    match std::mem::take(&mut state.overlay) {
        Overlay::Profiles(profiles) => {
            if let Some(name) = profiles.list().get(profiles.chosen) {
                effects.push(ask(Asked::Change, Request::OpenProfile { name: name.clone() }));
            }
        }
        Overlay::CopyAs(copy) => {
            effects.extend(copy.choices.into_iter().nth(copy.chosen).map(|(_, _, text)| Effect::Copy(text)));
        }
        Overlay::Palette(palette) => palette::run(state, palette, effects),
        // Help closes, the filter stays.
        _ => {}
    }
}

fn step(state: &mut State, by: isize) {
    let rows = state.size.1;
    let palette_rows = super::super::state::suggest::suggestions(state).len();
    match &mut state.overlay {
        Overlay::Palette(palette) => palette.chosen = moved(palette.chosen, by, palette_rows),
        Overlay::Profiles(profiles) => profiles.chosen = moved(profiles.chosen, by, profiles.list().len()),
        Overlay::CopyAs(copy) => copy.chosen = moved(copy.chosen, by, copy.choices.len()),
        Overlay::Import(import) => import.chosen = moved(import.chosen, by, import.choices.len()),
        Overlay::Why(_) => why::scroll(state, by),
        Overlay::Help(help) => {
            // The view stops at the last page; here it is enough not to run away.
            let most = super::super::keymap::table().len() + usize::from(rows);
            help.offset = help.offset.saturating_add_signed(by).min(most);
        }
        _ => {}
    }
}

fn moved(at: usize, by: isize, rows: usize) -> usize {
    at.saturating_add_signed(by).min(rows.saturating_sub(1))
}

/// A key that no binding of the dialog takes: text, or the letter of a choice.
pub(super) fn typed(state: &mut State, key: Key, effects: &mut Vec<Effect>) {
    match &mut state.overlay {
        Overlay::Palette(palette) => {
            edit(&mut palette.input, key);
            palette.chosen = 0;
            palette.error = None;
        }
        Overlay::Help(help) => {
            match key {
                Key::PageDown => return step(state, 10),
                Key::PageUp => return step(state, -10),
                _ => edit(&mut help.input, key),
            };
            help.offset = 0;
        }
        Overlay::Filter(line) => {
            edit(&mut line.input, key);
            let (pane, text) = (line.pane, line.input.value().to_owned());
            set_filter(state, pane, &text);
        }
        Overlay::Profiles(_) => match key {
            Key::Char('j') => step(state, 1),
            Key::Char('k') => step(state, -1),
            Key::Char('q' | 'o') => state.overlay = Overlay::None,
            _ => {}
        },
        Overlay::Import(_) => match key {
            Key::Char('j') => step(state, 1),
            Key::Char('k') => step(state, -1),
            Key::Char('g') | Key::Home => step(state, isize::MIN / 2),
            Key::Char('G') | Key::End => step(state, isize::MAX / 2),
            Key::PageDown | Key::Ctrl('d') => step(state, 10),
            Key::PageUp | Key::Ctrl('u') => step(state, -10),
            Key::Char('q' | 'i') => state.overlay = Overlay::None,
            _ => {}
        },
        Overlay::Why(_) => match key {
            Key::Char('j') => step(state, 1),
            Key::Char('k') => step(state, -1),
            Key::Char('g') | Key::Home => step(state, isize::MIN / 2),
            Key::Char('G') | Key::End => step(state, isize::MAX / 2),
            Key::PageDown | Key::Ctrl('d') | Key::Char(' ') => why::page(state, true),
            Key::PageUp | Key::Ctrl('u') => why::page(state, false),
            Key::Char('q' | 'w') => state.overlay = Overlay::None,
            _ => {}
        },
        Overlay::CopyAs(copy) => match key {
            Key::Char('q') => state.overlay = Overlay::None,
            Key::Char(letter) => {
                if let Some(at) = copy.choices.iter().position(|choice| choice.0 == letter) {
                    copy.chosen = at;
                    accept(state, effects);
                }
            }
            _ => {}
        },
        Overlay::None | Overlay::Form(_) | Overlay::Confirm(_) => {}
    }
}

/// Edits a line of text; true when the key meant something.
pub(super) fn edit(input: &mut Input, key: Key) -> bool {
    let request = match key {
        Key::Char(c) if !acts_on_a_terminal(c) && input.value().len() < LONGEST => InputRequest::InsertChar(c),
        Key::Backspace => InputRequest::DeletePrevChar,
        Key::Delete => InputRequest::DeleteNextChar,
        Key::Left => InputRequest::GoToPrevChar,
        Key::Right => InputRequest::GoToNextChar,
        Key::Home | Key::Ctrl('a') => InputRequest::GoToStart,
        Key::End | Key::Ctrl('e') => InputRequest::GoToEnd,
        Key::Ctrl('w') => InputRequest::DeletePrevWord,
        Key::Ctrl('u') => InputRequest::DeleteFromStart,
        Key::Ctrl('k') => InputRequest::DeleteTillEnd,
        _ => return false,
    };
    input.handle(request);
    true
}

/// Filters a list from now on.
pub(super) fn set_filter(state: &mut State, pane: Pane, text: &str) {
    let filter = Filter::parse(text);
    match pane {
        Pane::Mappings => {
            state.mappings.filter = filter;
            lists::rebuild_mappings(state);
        }
        Pane::Connections => {
            state.connections.filter = filter;
            lists::list_connections_anew(state);
        }
        Pane::Containers => {
            state.containers.filter = filter;
            lists::rebuild_containers(state);
        }
        Pane::Events => {
            state.events.filter = filter;
            lists::rebuild_events(state);
        }
    }
}

/// The service has named the profiles.
pub(super) fn profiles_told(state: &mut State, answer: Result<Reply, RequestError>) {
    match (answer, &mut state.overlay) {
        (Ok(Reply::Profiles { names, open }), Overlay::Profiles(profiles)) => {
            profiles.chosen = names.iter().position(|name| Some(name) == open.as_ref()).unwrap_or(0);
            profiles.names = Some(names);
            profiles.open = open;
        }
        (Ok(Reply::Profiles { names, .. }), Overlay::Palette(palette)) => palette.profiles = names,
        (Err(error), Overlay::Profiles(_)) => {
            state.overlay = Overlay::None;
            say(state, Severity::Error, &error.to_string());
        }
        _ => {}
    }
}
