//! Why an engine has no control socket, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::untrusted::SafeText;

/// Longest path that the address of a unix socket has room for (`sun_path` of unix(7), with its final NUL).
pub(super) const LONGEST_PATH: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is no folder to put it in.
    #[error("this user has no home folder and no XDG_RUNTIME_DIR: set one of them")]
    Homeless,
    /// The folder cannot be made or read.
    #[error("cannot use {}: {source}", shown(.path))]
    Unusable {
        /// Which path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder is not the user's own, or open to others.
    #[error("will not use {}: {why}", shown(.path))]
    Unsafe {
        /// Which path.
        path: PathBuf,
        /// In what way, and what to do.
        why: String,
    },
    /// Another engine has it.
    #[error("{} is the control socket of another engine", shown(.path))]
    Taken {
        /// Which path.
        path: PathBuf,
    },
    /// The address of a socket has no room for the path.
    #[error("{} is too long for a socket ({} bytes, {LONGEST_PATH} at most): set XDG_RUNTIME_DIR to a shorter one", shown(.path), .path.as_os_str().len())]
    TooLong {
        /// Which path.
        path: PathBuf,
    },
}

impl DoorError {
    /// Something else lies where `wanted` is to be.
    pub(super) fn misplaced(path: &Path, wanted: &str) -> Self {
        let why = format!("it is not {wanted} (nor may it be a link to one): remove it");
        Self::Unsafe { path: path.to_owned(), why }
    }

    /// It is another user's.
    pub(super) fn foreign(path: &Path, uid: u32) -> Self {
        let why = format!("it belongs to user {uid}: remove it, or set XDG_RUNTIME_DIR to a folder of your own");
        Self::Unsafe { path: path.to_owned(), why }
    }
}

/// As it may stand in a text.
pub(super) fn shown(path: &Path) -> SafeText {
    SafeText::from_bytes(path.as_os_str().as_encoded_bytes())
}
