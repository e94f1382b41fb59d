//! What the palette offers for what is typed: actions that work now, commands, and their arguments.

use super::dialog::{Overlay, Palette};
use super::{Standing, State};
use crate::tui::keymap::{self, Action, Binding};

/// One line that the palette offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// What enter puts in or does.
    pub text: String,
    /// Its key, for next time.
    pub key: String,
    /// What it does.
    pub help: String,
    /// The action that enter carries out; none: a command that is completed or needs an argument.
    pub action: Option<Action>,
}

const COMMANDS: [(&str, &str, &str); 7] = [
    ("add", "MAPPING", "add a mapping: any:8080:web_1:80/tcp"),
    ("edit", "NAME MAPPING", "replace a mapping"),
    ("delete", "NAME", "delete a mapping"),
    ("open", "PROFILE", "open another profile"),
    ("saveas", "NAME", "save everything to another profile and open it"),
    ("quit", "", "quit"),
    ("shutdown", "", "end the engine, for every window"),
];

/// Leaving is an action, too; and in the window that has the engine, it is the end of that.
fn is_offered(state: &State, command: &str) -> bool {
    command != "quit" && (command != "shutdown" || state.standing == Standing::Attached)
}

/// How a command that needs an argument is written.
pub fn syntax(command: &str) -> Option<String> {
    let (name, argument, help) =
        COMMANDS.iter().find(|(name, argument, _)| *name == command && !argument.is_empty())?;
    Some(format!("{name} {argument}: {help}"))
}

/// What the palette offers for what is typed.
pub fn suggestions(state: &State) -> Vec<Suggestion> {
    let Overlay::Palette(palette) = &state.overlay else { return Vec::new() };
    let typed = typed(palette);
    if let Some((command, argument)) = typed.split_once(' ') {
        return arguments(state, palette, command, argument.trim_start());
    }
    let needle = typed.to_lowercase();
    let actions =
        keymap::table().iter().filter(|binding| keymap::is_command(binding) && binding.works(state)).map(of_binding);
    let commands = COMMANDS.iter().filter(|(name, ..)| is_offered(state, name)).map(|(name, argument, help)| {
        Suggestion { text: format!("{name} "), key: (*argument).to_owned(), help: (*help).to_owned(), action: None }
    });
    let mut found: Vec<_> = commands
        .chain(actions)
        .filter(|suggestion| suggestion.text.to_lowercase().contains(&needle) || suggestion.help.contains(&needle))
        .collect();
    // What begins with the typed text comes first.
    found.sort_by_key(|suggestion| !suggestion.text.to_lowercase().starts_with(&needle));
    found
}

fn of_binding(binding: &Binding) -> Suggestion {
    Suggestion {
        text: binding.name.to_owned(),
        key: binding.keys_text(),
        help: binding.help.to_owned(),
        action: Some(binding.action),
    }
}

fn arguments(state: &State, palette: &Palette, command: &str, argument: &str) -> Vec<Suggestion> {
    let names: Vec<(String, String)> = match command {
        "edit" | "delete" => {
            let mut names: Vec<_> =
                state.live.ours().map(|item| (item.row.name.clone(), item.row.mapping.to_string())).collect();
            names.sort();
            names
        }
        "open" => palette.profiles.iter().map(|name| (name.clone(), String::new())).collect(),
        _ => Vec::new(),
    };
    names
        .into_iter()
        .filter(|(name, _)| name.starts_with(argument) && name != argument)
        .map(|(name, help)| Suggestion { text: format!("{command} {name}"), key: String::new(), help, action: None })
        .collect()
}

/// What is typed, without the colon.
pub fn typed(palette: &Palette) -> &str {
    palette.input.value().trim_start().trim_start_matches(':')
}
