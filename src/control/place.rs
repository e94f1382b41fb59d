//! Where the control socket of an engine lies, and that nobody else's lies there.
//!
//! `$XDG_RUNTIME_DIR/portolan/` holds a socket for each running engine of a user: `NAME.sock` for a profile of the
//! config folder, `FILE@KEY.sock` for one of `--file`, `session@PID.sock` without a profile. Who a socket belongs to
//! is decided under one lock (`.lock`), so that two engines that start, or one that starts and one that ends, never
//! take each other's away. A socket that nobody listens on is what a killed engine left, and is replaced; a symlink or
//! anything else in its place is somebody's doing, and refused.
//!
//! Everything here blocks, for moments.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use directories::ProjectDirs;
use nix::libc;
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::door_error::{LONGEST_PATH, shown};
use crate::model::engine::EngineName;

pub use super::door_error::DoorError;

/// How long the lock may be somebody else's: whoever has it needs it for moments.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The folder of a user's control sockets: there, the user's own, and closed to everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
}

/// A bound control socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct Door {
    folder: Folder,
    path: PathBuf,
    /// Device and inode of the socket, by which it is known for ours.
    identity: (u64, u64),
    listener: UnixListener,
}

/// File names that the socket of an engine may have, the preferred one first: a second one, for when an engine of
/// another config folder has a profile of the same name.
fn sockets_of(name: &EngineName) -> Vec<String> {
    match name {
        EngineName::Profile { name: Some(name), key } => vec![format!("{name}.sock"), format!("{key}.sock")],
        EngineName::Profile { name: None, key } => vec![format!("{key}.sock")],
        EngineName::Session { pid } => vec![format!("session@{pid}.sock")],
    }
}

impl Folder {
    /// The folder of this user; made if it is not there. Without an `XDG_RUNTIME_DIR` of the user's own it lies in the
    /// state folder.
    ///
    /// # Errors
    /// It cannot be had, or is not safe to use.
    pub fn of_this_user() -> Result<Self, DoorError> {
        Self::at(Self::path_of_this_user()?)
    }

    fn path_of_this_user() -> Result<PathBuf, DoorError> {
        let folders = ProjectDirs::from("", "", "portolan").ok_or(DoorError::Homeless)?;
        let own = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == Uid::effective().as_raw());
        // Another user's, kept through `su`, is not a place for our folder; unless a service manager has made it for us.
        let is_own = |folder: &&Path| {
            let parent = folder.parent().filter(|parent| parent.exists());
            own(folder) || parent.is_none_or(own)
        };
        let runtime = folders.runtime_dir().filter(is_own).map(Path::to_owned);
        Ok(runtime.unwrap_or_else(|| folders.state_dir().unwrap_or_else(|| folders.data_local_dir()).join("run")))
    }

    /// The folder at `path`; made if it is not there.
    ///
    /// # Errors
    /// It cannot be had, or is not safe to use.
    pub fn at(path: PathBuf) -> Result<Self, DoorError> {
        let unusable = |source| DoorError::Unusable { path: path.clone(), source };
        // Not followed: a link could lead to a folder that looks right now, and somewhere else later.
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(unusable)?;
                fs::symlink_metadata(&path).map_err(unusable)?
            }
            found => found.map_err(unusable)?,
        };
        if !found.is_dir() {
            return Err(DoorError::misplaced(&path, "a folder"));
        }
        is_own(&path, &found)?;
        if found.mode() & 0o077 != 0 {
            return Err(DoorError::Unsafe { path, why: "other users can enter it: chmod 700 it".to_owned() });
        }
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the door of an engine.
    ///
    /// # Errors
    /// Another engine has it, or something that is no socket lies there.
    pub fn open_door(&self, name: &EngineName) -> Result<Door, DoorError> {
        let _lock = self.lock()?;
        let path = self.free_path(name)?;
        let unusable = |source| DoorError::Unusable { path: path.clone(), source };
        // Who may connect is decided by the folder, by the umask (077 since the program's first step), and by the
        // server, which looks at the peer's uid.
        let listener = UnixListener::bind(&path).map_err(unusable)?;
        let found = fs::symlink_metadata(&path).map_err(unusable)?;
        let identity = (found.dev(), found.ino());
        listener.set_nonblocking(true).map_err(unusable)?;
        Ok(Door { folder: self.clone(), path, identity, listener })
    }

    /// Paths at which the socket of an engine may lie.
    pub fn candidates(&self, name: &EngineName) -> Vec<PathBuf> {
        sockets_of(name).into_iter().map(|socket| self.path.join(socket)).collect()
    }

    /// Every socket that somebody listens on, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sockets(&self) -> Result<Vec<PathBuf>, DoorError> {
        let unusable = |source| DoorError::Unusable { path: self.path.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            if path.extension().is_some_and(|extension| extension == "sock") && has_listener(&path).unwrap_or(false) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// The first path for `name` that no other engine has; what a dead one left there is removed. Under the lock.
    fn free_path(&self, name: &EngineName) -> Result<PathBuf, DoorError> {
        let mut taken = None;
        for path in self.candidates(name) {
            if path.as_os_str().len() > LONGEST_PATH {
                return Err(DoorError::TooLong { path });
            }
            match Self::make_free(&path) {
                Ok(()) => return Ok(path),
                Err(error @ DoorError::Taken { .. }) => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or(DoorError::Homeless))
    }

    fn make_free(path: &Path) -> Result<(), DoorError> {
        let unusable = |source| DoorError::Unusable { path: path.to_owned(), source };
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unusable(error)),
        };
        if !found.file_type().is_socket() {
            return Err(DoorError::misplaced(path, "a control socket"));
        }
        is_own(path, &found)?;
        if has_listener(path).map_err(unusable)? {
            return Err(DoorError::Taken { path: path.to_owned() });
        }
        tracing::info!(path = %shown(path), "replacing the control socket of an engine that is gone");
        fs::remove_file(path).map_err(unusable)
    }

    fn lock(&self) -> Result<File, DoorError> {
        let path = self.path.join(".lock");
        let unusable = |source| DoorError::Unusable { path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() => return Err(DoorError::misplaced(&path, "a lock file")),
            Ok(found) => is_own(&path, &found)?,
            Err(_) => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(unusable)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => return Err(unusable(io::ErrorKind::ResourceBusy.into())),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
        }
    }
}

fn is_own(path: &Path, found: &Metadata) -> Result<(), DoorError> {
    let is_own = found.uid() == Uid::effective().as_raw();
    if is_own { Ok(()) } else { Err(DoorError::foreign(path, found.uid())) }
}

/// Every socket in the folder of this one.
pub(super) fn sockets_beside(path: &Path) -> Vec<PathBuf> {
    let Some(entries) = path.parent().and_then(|folder| fs::read_dir(folder).ok()) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
}

/// Whether somebody listens there. Never waits: a listener whose queue is full is one, too.
fn has_listener(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(true),
            Some(libc::ECONNREFUSED | libc::ENOENT) => Ok(false),
            _ => Err(error),
        },
    }
}

impl Door {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket; nonblocking.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Moves to where the engine is looked for under another name. Clients that are connected stay so.
    ///
    /// # Errors
    /// As of [`Folder::open_door`]; then it stays where it is.
    pub fn move_to(&mut self, name: &EngineName) -> Result<(), DoorError> {
        if self.folder.candidates(name).first() == Some(&self.path) {
            return Ok(());
        }
        let _lock = self.folder.lock()?;
        if !self.is_ours() {
            // It was taken away; what lies there now is not to be moved.
            return Err(DoorError::Unusable { path: self.path.clone(), source: io::ErrorKind::NotFound.into() });
        }
        let path = match self.folder.free_path(name) {
            // The preferred name is another's, and this is the one for that case.
            Err(DoorError::Taken { .. }) if self.folder.candidates(name).contains(&self.path) => return Ok(()),
            path => path?,
        };
        fs::rename(&self.path, &path).map_err(|source| DoorError::Unusable { path: path.clone(), source })?;
        self.path = path;
        Ok(())
    }

    /// Whether what lies there is still this socket. Under the lock.
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Under the lock, and only if it is still ours: it may have been removed, and another engine's be there.
        let Ok(_lock) = self.folder.lock() else { return };
        if self.is_ours() {
            // What cannot be removed is found to be stale by the next engine.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::at(place.path().join("portolan")).expect("made");
        (place, folder)
    }

    fn profile(name: &str) -> EngineName {
        EngineName::Profile { name: Some(name.into()), key: format!("{name}@1f") }
    }

    #[test]
    fn a_door_is_open_to_its_user_alone_and_gone_when_it_is_dropped() {
        let (_place, folder) = folder();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
        let door = folder.open_door(&profile("dev")).unwrap();
        assert_eq!(door.path(), folder.path().join("dev.sock"));
        UnixStream::connect(door.path()).unwrap();
        assert_eq!(folder.sockets().unwrap(), [door.path()]);
        let path = door.path().to_owned();
        drop(door);
        assert!(fs::symlink_metadata(path).is_err());
        assert!(folder.sockets().unwrap().is_empty());
    }

    #[test]
    fn what_a_dead_engine_left_is_replaced_and_a_living_one_keeps_its_door() {
        let (_place, folder) = folder();
        let left = folder.path().join("dev.sock");
        drop(UnixListener::bind(&left).unwrap());
        let first = folder.open_door(&profile("dev")).unwrap();
        assert_eq!(first.path(), left);
        let second = folder.open_door(&profile("dev")).unwrap();
        assert_eq!(second.path(), folder.path().join("dev@1f.sock"), "another config folder's profile");
        let error = folder.open_door(&profile("dev")).unwrap_err();
        assert!(matches!(error, DoorError::Taken { .. }), "{error}");
        UnixStream::connect(first.path()).unwrap();
    }

    #[test]
    fn links_and_files_in_its_place_are_refused_and_left_alone() {
        let (place, folder) = folder();
        let elsewhere = place.path().join("elsewhere");
        let path = folder.path().join("dev.sock");
        for make in [0, 1, 2] {
            match make {
                0 => symlink(&elsewhere, &path).unwrap(),
                1 => {
                    drop(UnixListener::bind(&elsewhere).unwrap());
                    symlink(&elsewhere, &path).unwrap();
                }
                _ => fs::write(&path, "mine").unwrap(),
            }
            let error = folder.open_door(&profile("dev")).unwrap_err();
            assert!(matches!(error, DoorError::Unsafe { .. }) && error.to_string().contains("remove it"), "{error}");
            assert!(fs::symlink_metadata(&path).is_ok());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_folder_that_others_can_enter_or_that_is_a_link_is_refused() {
        let (place, folder) = folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = Folder::at(folder.path().to_owned()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let link = place.path().join("link");
        symlink(folder.path(), &link).unwrap();
        let error = Folder::at(link).unwrap_err();
        assert!(matches!(error, DoorError::Unsafe { .. }), "{error}");
    }

    #[test]
    fn a_door_moves_with_its_clients_and_another_engine_may_have_the_old_name() {
        let (_place, folder) = folder();
        let mut door = folder.open_door(&profile("dev")).unwrap();
        let client = UnixStream::connect(door.path()).unwrap();
        door.move_to(&profile("prod")).unwrap();
        assert_eq!(door.path(), folder.path().join("prod.sock"));
        UnixStream::connect(door.path()).unwrap();
        assert!(client.peer_addr().is_ok());
        let other = folder.open_door(&profile("dev")).unwrap();
        drop(door);
        UnixStream::connect(other.path()).unwrap();
    }

    #[test]
    fn a_door_that_was_taken_away_moves_nobody_elses() {
        let (_place, folder) = folder();
        let mut door = folder.open_door(&profile("dev")).unwrap();
        fs::remove_file(door.path()).unwrap();
        let other = folder.open_door(&profile("dev")).unwrap();
        let error = door.move_to(&profile("prod")).unwrap_err();
        assert!(matches!(error, DoorError::Unusable { .. }), "{error}");
        drop(door);
        UnixStream::connect(other.path()).unwrap();
    }

    #[test]
    fn a_path_without_room_in_an_address_is_said() {
        let (_place, folder) = folder();
        let error = folder.open_door(&profile(&"x".repeat(120))).unwrap_err();
        assert!(error.to_string().contains("set XDG_RUNTIME_DIR"), "{error}");
    }

    #[test]
    fn an_engine_without_a_profile_is_known_by_its_process() {
        assert_eq!(sockets_of(&EngineName::Session { pid: 7 }), ["session@7.sock"]);
    }
}
