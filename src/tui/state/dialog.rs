//! What lies over the screen: questions, palette, help, profiles, copying, the filter line.

use tui_input::Input;

use super::Pane;
use super::form::Form;
use super::import::Import;
use super::why::Why;
use crate::model::id::{ConnectionId, MappingId};
use crate::tui::keymap::Key;

/// What lies over the screen; one at a time.
#[derive(Clone, Debug, Default)]
pub enum Overlay {
    /// Nothing.
    #[default]
    None,
    /// Add or edit.
    Form(Box<Form>),
    /// A question.
    Confirm(Confirm),
    /// Every action by name, and commands.
    Palette(Palette),
    /// Help with search.
    Help(Help),
    /// Profiles to open.
    Profiles(Profiles),
    /// What containers expose, to be made into mappings.
    Import(Import),
    /// Why a mapping does not work.
    Why(Box<Why>),
    /// In which form to copy a row.
    CopyAs(CopyAs),
    /// The filter of a list is being typed.
    Filter(FilterLine),
}

/// A question; its own key, `y` or enter say yes, anything else no.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirm {
    /// What is asked.
    pub question: String,
    /// The key that says yes.
    pub key: Key,
    /// What that key does, in a word.
    pub yes: &'static str,
    /// What escape does, in a word.
    pub no: &'static str,
    /// What is done then.
    pub then: Confirmed,
    /// Something else that can be chosen: its key, what that does in a word or two, and what is done then.
    pub other: Option<(Key, &'static str, Confirmed)>,
}

/// What a confirmed question does.
#[derive(Clone, Debug, PartialEq)]
pub enum Confirmed {
    /// Delete these mappings.
    Delete(Vec<MappingId>),
    /// Stop these mappings.
    Stop(Vec<MappingId>),
    /// Open this profile.
    Open(String),
    /// Reset this connection.
    Reset(ConnectionId),
    /// Suspend the program.
    Suspend,
    /// Leave the program.
    Quit,
    /// Leave the screen; the engine goes on without one.
    Leave,
    /// End the engine, for every window.
    Shutdown,
}

/// Every action by name, and commands.
#[derive(Clone, Debug, Default)]
pub struct Palette {
    /// What is typed.
    pub input: Input,
    /// The chosen suggestion.
    pub chosen: usize,
    /// Profiles, for `:open`.
    pub profiles: Vec<String>,
    /// What was wrong with the command.
    pub error: Option<String>,
}

/// Help with search.
#[derive(Clone, Debug, Default)]
pub struct Help {
    /// What is searched for.
    pub input: Input,
    /// First line shown.
    pub offset: usize,
}

/// Profiles to open.
#[derive(Clone, Debug, Default)]
pub struct Profiles {
    /// Their names; none before the service has answered.
    pub names: Option<Vec<String>>,
    /// The open one.
    pub open: Option<String>,
    /// The chosen line.
    pub chosen: usize,
}

/// In which form to copy a row.
#[derive(Clone, Debug)]
pub struct CopyAs {
    /// Which form, its key, and the text.
    pub choices: Vec<(char, &'static str, String)>,
    /// The chosen line.
    pub chosen: usize,
}

/// The filter of a list is being typed; the list follows at once.
#[derive(Clone, Debug)]
pub struct FilterLine {
    /// Of which list.
    pub pane: Pane,
    /// What is typed.
    pub input: Input,
    /// What escape goes back to.
    pub before: String,
}

impl Profiles {
    /// The names, none before the service has answered.
    pub fn list(&self) -> &[String] {
        self.names.as_deref().unwrap_or_default()
    }
}
