//! One running engine to a profile, and to a table of aliases: a lock that ends with its process, and says which process that is.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::{Place, folder_of};
use super::error::ClaimError;
use super::paths::Locations;

/// Longest process id as text; more was not written by us.
const MAX_PID_TEXT: u64 = 16;
/// The holder writes its pid right after it has locked, and takes it away before it unlocks: a moment's patience finds
/// it. What a killed one has left is known by its process, which is not there any more.
const PID_TRIES: u32 = 20;
const PID_RETRY: Duration = Duration::from_millis(5);

/// Holds a profile, or a table of aliases, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Claim {
    /// The lock lives as long as this is open.
    file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Else whoever comes next would be taken for this process until it has written its own pid.
        let _ = self.file.set_len(0);
    }
}

impl Claim {
    pub(super) fn take(place: &Place, locations: &Locations) -> Result<Self, ClaimError> {
        Self::take_lock(&lock_file(place, locations), &place.path)
    }

    /// Takes the lock of that file, which stands for `what`.
    pub(super) fn take_lock(path: &Path, what: &Path) -> Result<Self, ClaimError> {
        let failed = |source| ClaimError::Unlockable { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder_of(path)).map_err(failed)?;
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => match write_pid(&mut file) {
                // The lock holds all the same; who finds it is told of a process, and not which.
                Err(error) if !is_full(&error) => Err(failed(error)),
                _ => Ok(Self { file }),
            },
            Err(TryLockError::WouldBlock) => Err(ClaimError::Running { path: what.to_owned(), pid: holder(&mut file) }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Whether nobody holds the lock of that file; else the process that does. It is tried, and let go at once.
    pub(super) fn free(path: &Path) -> Result<(), Option<u32>> {
        let Ok(mut file) = File::open(path) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(holder(&mut file)),
            _ => Ok(()),
        }
    }
}

/// Under the state folder, since the profile's own may be read-only. The same file has the same lock by
/// whatever path it is reached.
fn lock_file(place: &Place, locations: &Locations) -> PathBuf {
    let (readable, hash) = identity(place);
    locations.state().join("engines").join(format!("{readable}-{hash}.lock"))
}

/// What tells this file from every other: its name, as far as it is readable, and a hash of its path.
pub(super) fn identity(place: &Place) -> (String, String) {
    let file = place.resolve().unwrap_or_else(|_| place.path.clone());
    let folder = folder_of(&file).canonicalize().unwrap_or_else(|_| folder_of(&file).to_owned());
    let name = file.file_name().unwrap_or_default();
    let mut readable: String =
        name.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')).collect();
    readable.truncate(100);
    (readable, format!("{:016x}", hash(&folder.join(name))))
}

/// FNV-1a: the same for every release, unlike the standard library's hasher.
fn hash(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The process that runs the profile, or has not ended by itself: the lock is not asked, since an engine that starts at
/// the same moment would find it taken.
pub(super) fn last_runner(place: &Place, locations: &Locations) -> Option<u32> {
    read_pid(&mut File::open(lock_file(place, locations)).ok()?)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

/// Whether there is no room for what was to be written, by whatever limit.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The process that has locked the file.
fn holder(file: &mut File) -> Option<u32> {
    for _ in 0..PID_TRIES {
        match read_pid(file) {
            Some(pid) if Path::new("/proc").join(pid.to_string()).exists() => return Some(pid),
            _ => std::thread::sleep(PID_RETRY),
        }
    }
    None
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(MAX_PID_TEXT).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}
