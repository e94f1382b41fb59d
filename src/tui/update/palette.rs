//! The palette: every action by name, and commands with arguments.

use crate::model::mapping::Mapping;
use crate::model::profile::WrittenMapping;
use crate::model::request::Request;

use super::super::keymap::Action;
use super::super::state::State;
use super::super::state::dialog::{Overlay, Palette};
use super::super::state::suggest::{Suggestion, suggestions, syntax, typed};
use super::{Asked, Effect, actions, ask, change, perform};

/// Tab: takes the chosen suggestion over into the line.
pub(super) fn complete(state: &mut State) {
    let suggestions = suggestions(state);
    if let Overlay::Palette(palette) = &mut state.overlay
        && let Some(suggestion) = suggestions.get(palette.chosen)
    {
        let space = if suggestion.text.starts_with("edit ") && !suggestion.text.ends_with(' ') { " " } else { "" };
        palette.input = format!("{}{space}", suggestion.text).into();
        palette.chosen = 0;
    }
}

/// Enter: carries out the chosen action, or the command as typed.
pub(super) fn run(state: &mut State, mut palette: Palette, effects: &mut Vec<Effect>) {
    let line = typed(&palette).trim().to_owned();
    let (command, argument) = line.split_once(' ').map_or((line.as_str(), ""), |(a, b)| (a, b.trim()));
    // A line below the first was chosen by hand, or there are arguments to choose from.
    let is_chosen = palette.chosen > 0 || typed(&palette).contains(' ') && offers(state, &palette);
    if let Some(syntax) = syntax(command)
        && argument.is_empty()
        && !is_chosen
    {
        palette.input = format!("{command} ").into();
        palette.error = Some(syntax);
        state.overlay = Overlay::Palette(palette);
        return;
    }
    let outcome = match (command, argument) {
        ("quit" | "q", _) => {
            perform(state, Action::Quit, effects);
            Ok(())
        }
        ("shutdown", _) => {
            actions::shut_down(state, effects);
            Ok(())
        }
        ("add" | "edit" | "delete" | "open" | "saveas", argument) if !argument.is_empty() => {
            let is_new = !palette.profiles.iter().any(|name| name == argument);
            command_with(state, command, argument, is_new, effects)
        }
        _ => {
            state.overlay = Overlay::Palette(palette.clone());
            match suggestions(state).get(palette.chosen) {
                Some(Suggestion { action: Some(action), .. }) => {
                    state.overlay = Overlay::None;
                    perform(state, *action, effects);
                }
                Some(_) => complete(state),
                None => palette_error(state, format!("no such command: {line}")),
            }
            return;
        }
    };
    if let Err(error) = outcome {
        palette.error = Some(error);
        state.overlay = Overlay::Palette(palette);
    }
}

/// Whether there is something to choose from.
fn offers(state: &mut State, palette: &Palette) -> bool {
    state.overlay = Overlay::Palette(palette.clone());
    let any = !suggestions(state).is_empty();
    state.overlay = Overlay::None;
    any
}

fn palette_error(state: &mut State, error: String) {
    if let Overlay::Palette(palette) = &mut state.overlay {
        palette.error = Some(error);
    }
}

fn command_with(
    state: &mut State,
    command: &str,
    argument: &str,
    is_new_profile: bool,
    effects: &mut Vec<Effect>,
) -> Result<(), String> {
    match command {
        "add" => {
            let mapping = argument.parse::<Mapping>().map_err(|error| error.to_string())?;
            let mapping = WrittenMapping::from(mapping);
            let asked = Asked::Typed(Box::new(mapping.clone()), None);
            effects.push(change(state, asked, Request::Add { mapping, even_if_busy: false }));
        }
        "edit" => {
            let (name, text) = argument.split_once(' ').ok_or("edit NAME MAPPING")?;
            let (id, base) = find(state, name)?;
            let mapping = text.trim().parse::<Mapping>().map_err(|error| error.to_string())?;
            let mapping = written(mapping, base);
            let asked = Asked::Typed(Box::new(mapping.clone()), Some(id));
            effects.push(change(state, asked, Request::Edit { id, mapping, even_if_busy: false }));
        }
        "delete" => {
            let (id, _) = find(state, argument)?;
            actions::delete(state, vec![id], effects);
        }
        "open" => actions::open_profile(state, argument, is_new_profile, effects),
        _ => effects.push(ask(Asked::Change, Request::SaveAs { name: argument.to_owned() })),
    }
    Ok(())
}

fn find(state: &State, name: &str) -> Result<(crate::model::id::MappingId, WrittenMapping), String> {
    state
        .live
        .ours()
        .find(|item| item.row.name == name)
        .map(|item| (item.row.id, item.row.written.clone()))
        .ok_or_else(|| format!("no mapping is named {name}"))
}

/// The mapping with whatever else `base` says.
fn written(mapping: Mapping, base: WrittenMapping) -> WrittenMapping {
    let WrittenMapping { listen, target, protocol, .. } = mapping.into();
    WrittenMapping { listen, target, protocol, ..base }
}
