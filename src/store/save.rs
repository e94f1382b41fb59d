//! Writing a profile so that it is always the old or the new one, whole, and nobody else's change is lost.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access, geteuid};

use super::Memory;
use super::disk::{Content, Place, backup_of, folder_of, read_with_metadata};
use super::error::SaveError;

/// How long other processes may keep the folder locked. One save takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// For the owner alone.
const NEW_FILE: u32 = 0o600;
const NEW_FOLDER: u32 = 0o700;

const TEMPORARY: &str = ".tmp";

/// Replaces the file's content.
pub(super) fn save(place: &Place, content: Vec<u8>, memory: &mut Memory) -> Result<(), SaveError> {
    let path = place.resolve().map_err(SaveError::unwritable(&place.path))?;
    let folder = folder_of(&path);
    if place.in_config {
        DirBuilder::new().recursive(true).mode(NEW_FOLDER).create(folder).map_err(SaveError::unwritable(folder))?;
    }
    let folder_file = File::open(folder).map_err(SaveError::unwritable(folder))?;
    let _lock = lock(&folder_file, folder)?;

    // What was resolved is read without following anything more, so what is compared is what is replaced.
    let resolved = Place { path: path.clone(), in_config: place.in_config };
    let current = read_with_metadata(&resolved)?;
    match (&memory.known, &current) {
        // Who deleted the file did not write another one: nothing is lost by writing it again.
        (_, None) => {}
        (None, Some(_)) => return Err(SaveError::NotRead { path }),
        (Some(Content::Bytes(known)), Some((current, _))) if known == current => {}
        (Some(_), Some(_)) => return Err(SaveError::StaleOnDisk { path }),
    }
    if let Some((current, metadata)) = &current {
        if *current == content {
            return Ok(());
        }
        refuse_read_only(&path, metadata)?;
    }
    // The same by whatever path it is reached.
    let file = folder.canonicalize().map_err(SaveError::unwritable(folder))?.join(path.file_name().unwrap_or_default());
    back_up(&path, &file, current.as_ref())?;
    remove_leftovers(&path);
    write_atomically(&path, &content, current.as_ref().map(|(_, metadata)| metadata))?;
    changed().insert(file);
    // The new file is in place. That its name may not survive a power cut is no reason to call it unwritten.
    if let Err(error) = folder_file.sync_all() {
        tracing::warn!(folder = %super::error::shown(folder), %error, "cannot sync the folder of the profile");
    }
    memory.known = Some(Content::Bytes(content));
    memory.told = None;
    Ok(())
}

/// The files that this run has changed. A run is this process: a profile that is closed and opened again keeps its
/// first backup.
static CHANGED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn changed() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the file as it was when this run first changed it. Where there was none then, there is nothing to keep, and
/// an older backup stays what it is.
fn back_up(path: &Path, file: &Path, current: Option<&(Vec<u8>, Metadata)>) -> Result<(), SaveError> {
    match current {
        Some((content, metadata)) if !changed().contains(file) => {
            write_atomically(&backup_of(path), content, Some(metadata))
        }
        _ => Ok(()),
    }
}

/// Locks the folder itself against other savers: no lock file is left behind, and none can be in the way. Where
/// the file system knows no locks, the comparison alone protects.
fn lock<'a>(folder: &'a File, path: &Path) -> Result<Option<Unlock<'a>>, SaveError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(Unlock(folder))),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(SaveError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

struct Unlock<'a>(&'a File);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        // Closing the folder unlocks it too.
        let _ = self.0.unlock();
    }
}

/// A rename would replace a file that its owner has closed for writing: permissions are honoured here.
fn refuse_read_only(path: &Path, metadata: &Metadata) -> Result<(), SaveError> {
    if metadata.mode() & 0o222 == 0 || access(path, AccessFlags::W_OK).is_err() {
        return Err(SaveError::ReadOnly { path: path.to_owned() });
    }
    Ok(())
}

/// A new file beside the old one, synced, then renamed over it. `like` lends permissions and owner.
pub(super) fn write_atomically(path: &Path, content: &[u8], like: Option<&Metadata>) -> Result<(), SaveError> {
    let failed = SaveError::unwritable(path);
    let mode = like.map_or(NEW_FILE, |metadata| metadata.mode() & 0o7777);
    let mut file = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .suffix(TEMPORARY)
        .tempfile_in(folder_of(path))
        .map_err(&failed)?;
    let created = file.as_file().metadata().map_err(&failed)?;
    if let Some(metadata) = like
        && (metadata.uid(), metadata.gid()) != (created.uid(), created.gid())
        && geteuid().is_root()
    {
        fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid())).map_err(&failed)?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(&failed)?;
    file.write_all(content).map_err(&failed)?;
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn temporary_prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what a killed process left. The folder is locked, so nobody else is writing now.
pub(super) fn remove_leftovers(path: &Path) {
    let prefix = temporary_prefix(path);
    let entries = fs::read_dir(folder_of(path)).into_iter().flatten().filter_map(io::Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with(&prefix) && Path::new(name).extension() == Some(OsStr::new(&TEMPORARY[1..]))
        });
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // What cannot be removed is only untidy.
            let _ = fs::remove_file(entry.path());
        }
    }
}
