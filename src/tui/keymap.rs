//! ONE table of what keys do: it drives dispatch, the footer, the help, the palette's names and `portolan keys`.
//!
//! A binding knows when it works now ([`Binding::works`]); a key is offered only then. Letters typed into a line
//! of text are no bindings, and neither are the letters with which a question is answered: the question shows them.

mod table;

use std::fmt;

use serde::{Serialize, Serializer};

use super::state::{Overlay, State, View};

/// A key as the program understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A character, shift included: `S`, `?`, ` `.
    Char(char),
    /// Control and a letter.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Shift and tab.
    BackTab,
    /// Backspace.
    Backspace,
    /// Delete.
    Delete,
    /// Cursor up.
    Up,
    /// Cursor down.
    Down,
    /// Cursor left.
    Left,
    /// Cursor right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Char(' ') => "space",
            Self::Char(c) => return write!(f, "{c}"),
            Self::Ctrl(c) => return write!(f, "^{c}"),
            Self::Enter => "enter",
            Self::Esc => "esc",
            Self::Tab => "tab",
            Self::BackTab => "shift-tab",
            Self::Backspace => "backspace",
            Self::Delete => "delete",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
            Self::Home => "home",
            Self::End => "end",
            Self::PageUp => "pgup",
            Self::PageDown => "pgdn",
        };
        f.write_str(name)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a binding applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Moving about.
    Move,
    /// The list of mappings.
    Mappings,
    /// A list of connections.
    Connections,
    /// The list of containers.
    Containers,
    /// Any list.
    Lists,
    /// What is live.
    Live,
    /// Everywhere but in a form or dialog.
    Global,
    /// The form that adds or edits.
    Form,
    /// What containers expose, to be made into mappings.
    Import,
    /// The page that says why a mapping does not work.
    Why,
    /// Lists and lines of text that lie over the screen.
    Dialog,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is described to people by the help text of its binding")]
pub enum Action {
    Down,
    Up,
    Top,
    Bottom,
    PageDown,
    PageUp,
    NextPane,
    PreviousPane,
    ScrollLeft,
    ScrollRight,
    ViewMappings,
    ViewConnections,
    ViewContainers,
    ViewEvents,
    Open,
    Back,
    Zoom,
    Add,
    Edit,
    CopyAsNew,
    Delete,
    Undo,
    StartStop,
    Mark,
    TryTarget,
    Why,
    Import,
    LookInside,
    Browse,
    ZeroCounters,
    ResetConnection,
    ShowClosed,
    Filter,
    SortColumn,
    SortDirection,
    CopyRow,
    CopyAs,
    Freeze,
    Palette,
    Help,
    Profiles,
    Redraw,
    Suspend,
    Quit,
    Cancel,
    FormSave,
    FormCancel,
    FormNext,
    FormPrevious,
    FormDown,
    FormUp,
    TakeFreePort,
    ImportMark,
    ImportMarkAll,
    ImportOtherPort,
    WhyAgain,
    WhyEdit,
    WhyCopy,
    DialogAccept,
    DialogDismiss,
    DialogDown,
    DialogUp,
    DialogComplete,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Binding {
    /// Where it applies.
    pub scope: Scope,
    /// The keys that do it.
    pub keys: &'static [Key],
    /// What they do.
    pub action: Action,
    /// A word or two, for the footer and the palette.
    pub name: &'static str,
    /// A sentence, for the help.
    pub help: &'static str,
    /// Place in the footer; 0 keeps it out.
    #[serde(skip)]
    pub footer: u8,
    #[serde(skip)]
    works: fn(&State) -> bool,
}

impl Binding {
    /// Whether the key does something now.
    pub fn works(&self, state: &State) -> bool {
        (self.works)(state)
    }

    /// `j down`: the keys as the help shows them.
    pub fn keys_text(&self) -> String {
        self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// Every binding that this release has.
pub fn table() -> &'static [Binding] {
    table::TABLE
}

/// The first binding of these scopes that has this key and works now.
pub fn find(scopes: &[Scope], key: Key, state: &State) -> Option<&'static Binding> {
    table::TABLE
        .iter()
        .find(|binding| scopes.contains(&binding.scope) && binding.keys.contains(&key) && binding.works(state))
}

/// The scopes of a screen without form or dialog.
pub const SCREEN: &[Scope] =
    &[Scope::Move, Scope::Mappings, Scope::Connections, Scope::Containers, Scope::Lists, Scope::Live, Scope::Global];

/// The scopes whose bindings apply now. A question names its keys itself.
pub fn scopes(state: &State) -> &'static [Scope] {
    match state.overlay {
        Overlay::None => SCREEN,
        Overlay::Form(_) => &[Scope::Form],
        Overlay::Import(_) => &[Scope::Import, Scope::Dialog],
        Overlay::Why(_) => &[Scope::Why, Scope::Dialog],
        Overlay::Confirm(_) => &[],
        _ => &[Scope::Dialog],
    }
}

/// Whether an action belongs on the palette: it acts on the screen and is not about moving a cursor.
pub fn is_command(binding: &Binding) -> bool {
    !matches!(binding.scope, Scope::Form | Scope::Import | Scope::Why | Scope::Dialog)
        && !matches!(
            binding.action,
            Action::Down
                | Action::Up
                | Action::Top
                | Action::Bottom
                | Action::PageDown
                | Action::PageUp
                | Action::Palette
        )
}

/// The view that an action goes to.
pub fn view_of(action: Action) -> Option<View> {
    match action {
        Action::ViewMappings => Some(View::Mappings),
        Action::ViewConnections => Some(View::Connections),
        Action::ViewContainers => Some(View::Containers),
        Action::ViewEvents => Some(View::Events),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::table::TABLE;
    use super::*;

    #[test]
    fn no_key_of_the_screen_does_two_things() {
        for (at, one) in table::TABLE.iter().enumerate() {
            for other in &TABLE[at + 1..] {
                let is_screen = SCREEN.contains(&one.scope) && SCREEN.contains(&other.scope);
                let overlaps = |scope, over| one.scope == scope && other.scope == over;
                let together = one.scope == other.scope
                    || is_screen && !are_of_two_lists(one.scope, other.scope)
                    || overlaps(Scope::Import, Scope::Dialog)
                    || overlaps(Scope::Why, Scope::Dialog);
                if together {
                    assert!(!one.keys.iter().any(|key| other.keys.contains(key)), "{one:?} and {other:?}");
                }
            }
        }
    }

    /// Containers are listed in a view of their own, so a key can mean one thing there and another for mappings.
    fn are_of_two_lists(one: Scope, other: Scope) -> bool {
        let is_containers = |scope| scope == Scope::Containers;
        let is_other = |scope| matches!(scope, Scope::Mappings | Scope::Connections);
        is_containers(one) && is_other(other) || is_other(one) && is_containers(other)
    }

    #[test]
    fn no_default_needs_alt_brackets_or_function_keys() {
        for key in table::TABLE.iter().flat_map(|binding| binding.keys) {
            assert!(!matches!(key, Key::Char('[' | ']' | '{' | '}')), "{key}");
        }
    }

    #[test]
    fn the_table_serialises_with_keys_as_people_write_them() {
        let json = serde_json::to_value(table()).expect("plain data");
        let delete = json.as_array().expect("a list").iter().find(|row| row["action"] == "delete").expect("bound");
        assert_eq!(delete["keys"], serde_json::json!(["d"]));
        assert_eq!(delete["scope"], "mappings");
        assert!(json.as_array().expect("a list").iter().any(|row| row["keys"][0] == "^c"));
    }
}
