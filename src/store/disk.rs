//! Finding and reading a file without being led astray: symlinks, FIFOs, folders, endless files.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::error::{LoadError, shown};
use crate::model::problem::Problem;
use crate::model::profile_read::{MAX_BYTES, check_size};
use crate::model::untrusted::SafeText;

/// Symlinks that are followed before it is called a loop, as the kernel does.
const MAX_LINKS: usize = 40;

/// The file that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As the user knows it.
    pub path: PathBuf,
    /// In the config folder, where symlinks are refused.
    pub in_config: bool,
}

impl Place {
    pub(super) fn shown(&self) -> SafeText {
        shown(&self.path)
    }

    /// The file itself: with `--file`, what symlinks lead to, whether it is there or not.
    pub(super) fn resolve(&self) -> io::Result<PathBuf> {
        let mut path = self.path.clone();
        if self.in_config {
            return Ok(path);
        }
        for _ in 0..MAX_LINKS {
            match fs::read_link(&path) {
                Ok(target) => path = folder_of(&path).join(target),
                // Not a symlink, or nothing there.
                Err(_) => return Ok(path),
            }
        }
        Err(io::Error::other("too many levels of symbolic links"))
    }
}

/// The folder that a file lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// `NAME.json.bak`
pub(super) fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".bak");
    path.with_file_name(name)
}

/// What lies on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No file.
    Missing,
    /// A file with these bytes.
    Bytes(Vec<u8>),
}

/// Reads the file.
pub(super) fn read(place: &Place) -> Result<Content, LoadError> {
    Ok(read_with_metadata(place)?.map_or(Content::Missing, |(bytes, _)| Content::Bytes(bytes)))
}

/// The file's bytes with its owner and permissions; `None` when there is no file.
pub(super) fn read_with_metadata(place: &Place) -> Result<Option<(Vec<u8>, Metadata)>, LoadError> {
    let path = place.path.as_path();
    let unreadable = |source| LoadError::unreadable(path, source);
    let mut flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    if place.in_config {
        flags |= OFlag::O_NOFOLLOW;
    }
    // Without O_NONBLOCK a FIFO would hold us until somebody writes to it.
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let found = fs::symlink_metadata(path).map(|metadata| metadata.file_type());
            return Err(match found {
                Ok(kind) if kind.is_symlink() && place.in_config => LoadError::Symlink { path: path.to_owned() },
                // A socket cannot be opened at all.
                Ok(kind) if !kind.is_file() && !kind.is_symlink() => LoadError::NotRegular { path: path.to_owned() },
                _ => unreadable(error),
            });
        }
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(LoadError::NotRegular { path: path.to_owned() });
    }
    let too_large = |problem: Problem| LoadError::Invalid(vec![Problem { file: Some(place.shown()), ..problem }]);
    check_size(metadata.len()).map_err(too_large)?;
    let bytes = read_bounded(&file).map_err(unreadable)?;
    check_size(bytes.len() as u64).map_err(too_large)?;
    Ok(Some((bytes, metadata)))
}

/// The size may grow while reading: one byte beyond the limit is enough to see it.
fn read_bounded(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
