//! What a running engine is called, by which others find it.

/// What a running engine is called: by the profile that it runs, of which there is one engine, or by its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineName {
    /// It runs a profile.
    Profile {
        /// The profile's name; none for a file elsewhere than in the config folder.
        name: Option<String>,
        /// Tells it from profiles of the same name elsewhere: readable, of characters fit for a file name, and with an
        /// `@`, which no name of a profile has.
        key: String,
    },
    /// It runs mappings of the command line alone.
    Session {
        /// The process.
        pid: u32,
    },
}
