//! What can go wrong with a profile's file, each with what was tried on which path.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::problem::Problem;
use crate::model::profile::Problems;
use crate::model::untrusted::SafeText;

/// A path as it may be shown.
pub(super) fn shown(path: &Path) -> SafeText {
    SafeText::new(&path.to_string_lossy())
}

/// Why a profile could not be read. Nothing that runs has changed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It was read and is not a usable profile.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Problems),
    /// The system refused.
    #[error("cannot read {}: {}", shown(.path), reason(.source))]
    Unreadable {
        /// What was tried.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder, a FIFO, a device, a socket.
    #[error("{}: not a regular file", shown(.path))]
    NotRegular {
        /// What it is called.
        path: PathBuf,
    },
    /// Profiles in the config folder are files, so that nobody is led to write elsewhere.
    #[error("{}: a symlink is refused in the config folder (name what it points to with --file)", shown(.path))]
    Symlink {
        /// What it is called.
        path: PathBuf,
    },
}

impl LoadError {
    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }

    /// The same as problems, one a line of stderr.
    pub fn problems(&self) -> Problems {
        let of_file = |path: &Path, problem: Problem| vec![Problem { file: Some(shown(path)), ..problem }];
        match self {
            Self::Invalid(problems) => problems.clone(),
            Self::Unreadable { path, source } => {
                of_file(path, Problem::new("", format!("cannot be read: {}", reason(source))))
            }
            Self::NotRegular { path } => of_file(path, Problem::new("", "not a regular file")),
            Self::Symlink { path } => of_file(
                path,
                Problem::new("", "a symlink is refused in the config folder")
                    .with_hint("name what it points to with --file"),
            ),
        }
    }
}

/// Why a profile could not be written. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Somebody else changed it since it was read. Load it, make the change again, save again.
    #[error("{} was changed by somebody else in the meantime", shown(.path))]
    StaleOnDisk {
        /// The file.
        path: PathBuf,
    },
    /// It was never read and understood: what it holds would be lost.
    #[error("{} holds something that was not read, so it is not overwritten", shown(.path))]
    NotRead {
        /// The file.
        path: PathBuf,
    },
    /// What lies there now cannot be replaced.
    #[error(transparent)]
    Unusable(#[from] LoadError),
    /// Its permissions say that it is not to be written.
    #[error("{} is read-only", shown(.path))]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Other processes kept saving for too long.
    #[error("{} is locked by another process that is saving", shown(.path))]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused: full, read-only, no permission.
    #[error("cannot write {}: {}", shown(.path), reason(.source))]
    Unwritable {
        /// What was tried.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SaveError {
    pub(super) fn unwritable(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Unwritable { path: path.to_owned(), source }
    }
}

/// Why a profile could not be taken for a running engine.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process runs it.
    #[error("{} is already run by another portolan{}", shown(.path), pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Running {
        /// The profile's file.
        path: PathBuf,
        /// The process; unknown for the moment before it has written it down.
        pid: Option<u32>,
    },
    /// The lock could not be made.
    #[error(
        "cannot lock {}: {} (locks lie in the state folder, which must be writable: set XDG_STATE_HOME to one that is)",
        shown(.path),
        reason(.source)
    )]
    Unlockable {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The system's words, without `(os error 13)`, begun as the middle of a sentence.
pub(super) fn reason(error: &io::Error) -> String {
    let text = match io::Error::raw_os_error(error) {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        // tempfile wraps the system's error and adds the path, which is said already.
        None => error.get_ref().and_then(|inner| inner.source()).map_or_else(|| error.to_string(), ToString::to_string),
    };
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".into(),
    }
}
