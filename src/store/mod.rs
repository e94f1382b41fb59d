//! The profile as a file: found, read, locked, written, watched. It knows the model alone; what a profile means
//! to running listeners is the service's matter.
//!
//! Everything here blocks, and is called where blocking is allowed. Two promises shape it: a file is at every
//! moment the old or the new one, whole; and nobody's change is overwritten unseen. The first is kept by
//! writing a new file beside the old one and renaming it, the second by comparing, under a lock, what lies on
//! the disk with what was last read or written.

mod aliases;
mod claim;
mod disk;
mod error;
mod paths;
mod pool_hold;
mod save;
mod watch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::aliases::{AliasFile, AliasFileError, OpenedAliases, saved_aliases};
pub use self::claim::Claim;
pub use self::error::{ClaimError, LoadError, SaveError};
pub use self::paths::{Locations, ProfileSource};
pub use self::pool_hold::{Holder, PoolHold, PoolHoldError};
pub use self::watch::{FileChange, Watch};

use self::disk::{Content, Place, read};
use crate::model::engine::EngineName;
use crate::model::problem::Problem;
use crate::model::profile::Profile;
use crate::model::profile_read::read_profile;
use crate::model::untrusted::SafeText;

/// One profile file. Cheap to clone; clones share what they know of the file.
#[derive(Clone, Debug)]
pub struct Store {
    source: ProfileSource,
    locations: Locations,
    place: Place,
    memory: Arc<Mutex<Memory>>,
}

/// A profile as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub profile: Profile,
    /// Whether there is a file. If not, the profile is empty and the first save creates one.
    pub exists: bool,
}

/// What is known of the file. The lock is held through a whole load or save, so that the watcher never takes
/// our own writing for somebody else's.
#[derive(Debug, Default)]
struct Memory {
    /// The file as last read and understood, or written.
    known: Option<Content>,
    /// What the watcher told of last, unless it was read and understood since.
    told: Option<Content>,
}

impl Store {
    /// A profile of this user. Opens nothing yet; a bad name is refused.
    pub fn open(source: ProfileSource) -> Result<Self, Problem> {
        Self::open_in(source, Locations::of_this_user()?)
    }

    /// A profile under other locations.
    pub fn open_in(source: ProfileSource, locations: Locations) -> Result<Self, Problem> {
        let place = match &source {
            ProfileSource::Named(name) => Place { path: locations.profile_file(name)?, in_config: true },
            ProfileSource::File(path) => Place { path: path.clone(), in_config: false },
        };
        Ok(Self { source, locations, place, memory: Arc::default() })
    }

    /// As it was asked for.
    pub fn source(&self) -> &ProfileSource {
        &self.source
    }

    /// The profile's name; none for a file of the user's own.
    pub fn name(&self) -> Option<&str> {
        match &self.source {
            ProfileSource::Named(name) => Some(name),
            ProfileSource::File(_) => None,
        }
    }

    /// The file, as the user knows it.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The same, safe to show.
    pub fn shown_path(&self) -> SafeText {
        self.place.shown()
    }

    /// Where the files of this user lie.
    pub fn locations(&self) -> &Locations {
        &self.locations
    }

    /// Reads the file. What this host's own addresses are decides nothing but whether a mapping to one of them
    /// would forward to itself.
    pub fn load(&self, own_addresses: &[IpAddr]) -> Result<Loaded, LoadError> {
        let mut memory = self.memory();
        let content = read(&self.place)?;
        let profile = match &content {
            Content::Missing => Profile::default(),
            Content::Bytes(bytes) => {
                read_profile(bytes, &self.shown_path(), own_addresses).map_err(LoadError::Invalid)?
            }
        };
        let exists = content != Content::Missing;
        memory.known = Some(content);
        memory.told = None;
        Ok(Loaded { profile, exists })
    }

    /// Writes the profile, unless the file has changed since it was last read or written here.
    pub fn save(&self, profile: &Profile) -> Result<(), SaveError> {
        save::save(&self.place, profile.to_text().into_bytes(), &mut self.memory())
    }

    /// Takes the profile for a running engine; refused while another process has it.
    pub fn claim(&self) -> Result<Claim, ClaimError> {
        Claim::take(&self.place, &self.locations)
    }

    /// The process of the engine that runs it, or was killed when it did.
    pub fn last_runner(&self) -> Option<u32> {
        claim::last_runner(&self.place, &self.locations)
    }

    /// What an engine that runs it is called.
    pub fn engine_name(&self) -> EngineName {
        let (readable, hash) = claim::identity(&self.place);
        let stem = readable.strip_suffix(".json").unwrap_or(&readable);
        // Half of it will do: it is to tell a few files apart, and the address of a socket is short.
        let key = format!("{}@{}", &stem[..stem.len().min(32)], &hash[..8]);
        EngineName::Profile { name: self.name().map(str::to_owned), key }
    }

    /// Tells of changes that others make to the file, until the watch is dropped. A channel of one is enough:
    /// while it is full, a change is not told again.
    pub fn watch(&self, changes: tokio::sync::mpsc::Sender<FileChange>) -> Result<Watch, LoadError> {
        Watch::start(self.clone(), changes)
    }

    /// The names of this user's profiles, sorted. A folder that is not there has none.
    pub fn list(&self) -> Result<Vec<String>, LoadError> {
        self.locations.profile_names()
    }

    /// `NAME.json.bak`, beside the file itself.
    pub fn backup_path(&self) -> PathBuf {
        disk::backup_of(&self.place.resolve().unwrap_or_else(|_| self.place.path.clone()))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What a panicking holder leaves behind is what was known before: it is replaced as a whole.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
