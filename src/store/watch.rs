//! Tells when somebody else changed the profile's file.
//!
//! The folder is watched, not the file: editors write a new file and rename it, and a deleted file may come
//! back. What counts is the content: a save of our own, a touch, and a write of the same text tell nothing.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::disk::{Content, Place, folder_of, read};
use super::error::LoadError;
use super::{Memory, Store};

/// The file is looked at once nothing has happened for that long, so that a file written in pieces is read whole.
const QUIET: Duration = Duration::from_millis(60);
/// But not later than that after the first sign.
const PATIENCE: Duration = Duration::from_secs(1);
/// The folder itself may go and come back, and some file systems tell nothing: look again that often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What happened to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It holds something else: load it.
    Edited,
    /// It is gone. What runs goes on; the next save writes it again.
    Gone,
}

/// Watches until it is dropped; owns and joins its thread.
#[derive(Debug)]
pub struct Watch {
    wakes: SyncSender<Wake>,
    thread: Option<JoinHandle<()>>,
}

enum Wake {
    Event,
    Stop,
}

impl Watch {
    pub(super) fn start(store: Store, changes: mpsc::Sender<FileChange>) -> Result<Self, LoadError> {
        // One waiting event is as good as many: the file is looked at after it anyway.
        let (wakes, woken) = sync_channel(1);
        let path = store.path().to_owned();
        let failed = |source| LoadError::unreadable(&path, source);
        let names = Arc::new(Mutex::new(Vec::new()));
        let (on_event, interesting) = (wakes.clone(), Arc::clone(&names));
        let watcher = notify::recommended_watcher(move |event| {
            if concerns(&event, &interesting) {
                // A full channel holds such an event already, and a closed one has nobody to tell.
                let _ = on_event.try_send(Wake::Event);
            }
        });
        // This user has no free one (EMFILE: fs.inotify.max_user_instances). The file is looked at all the same.
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(
                "the profile's file is looked at every {} s alone, since it cannot be watched: {error}",
                LOOK_AGAIN.as_secs()
            );
        });
        let mut folders = Folders { watcher: watcher.ok(), watched: Vec::new(), names };
        folders.follow(&store.place);
        let watching = Watching { store, folders, changes };
        let thread = std::thread::Builder::new().name("profile-watch".into()).spawn(move || watching.run(&woken));
        Ok(Self { wakes, thread: Some(thread.map_err(failed)?) })
    }
}

/// Whether an event can mean that the file changed. Opening and reading cannot, and our own would never end.
fn concerns(event: &notify::Result<Event>, names: &Mutex<Vec<OsString>>) -> bool {
    let Ok(event) = event else { return true };
    let wrote = AccessKind::Close(AccessMode::Write);
    if matches!(event.kind, EventKind::Access(kind) if kind != wrote) {
        return false;
    }
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    event.need_rescan()
        || event.paths.iter().any(|path| path.file_name().is_none_or(|name| names.iter().any(|n| n == name)))
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread empties the channel until it meets this; if it is gone already, there is none to stop.
        let _ = self.wakes.send(Wake::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch of the profile's file ended by a panic");
        }
    }
}

struct Watching {
    store: Store,
    folders: Folders,
    changes: mpsc::Sender<FileChange>,
}

impl Watching {
    fn run(mut self, woken: &Receiver<Wake>) {
        loop {
            match woken.recv_timeout(LOOK_AGAIN) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Event) => {
                    let latest = Instant::now() + PATIENCE;
                    while Instant::now() < latest {
                        match woken.recv_timeout(QUIET) {
                            Ok(Wake::Event) => {}
                            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                            Err(RecvTimeoutError::Timeout) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.folders.follow(&self.store.place);
            self.look();
        }
    }

    fn look(&self) {
        let mut memory = self.store.memory();
        // What cannot be read now is told as an edit once: loading it will say why.
        let content = read(&self.store.place).unwrap_or_else(|error| Content::Bytes(error.to_string().into_bytes()));
        let Some(change) = judge(&memory, &content) else { return };
        // While the channel is full, the client has not looked at the last change yet, and will read this one too.
        if self.changes.try_send(change).is_ok() {
            memory.told = Some(content);
        }
    }
}

/// What is to be told of the file's content, given what was last read, written or told.
fn judge(memory: &Memory, content: &Content) -> Option<FileChange> {
    let last = memory.told.as_ref().or(memory.known.as_ref());
    match (last, content) {
        (Some(last), now) if last == now => None,
        (None | Some(Content::Missing), Content::Missing) => None,
        (_, Content::Missing) => Some(FileChange::Gone),
        (_, Content::Bytes(_)) => Some(FileChange::Edited),
    }
}

/// The folders in which a change can be seen: the file's, and with `--file` those of the symlinks to it.
struct Folders {
    /// None where the system gives none.
    watcher: Option<RecommendedWatcher>,
    /// With device and inode, since a folder can be replaced by another of the same name.
    watched: Vec<(PathBuf, (u64, u64))>,
    /// What the file and the symlinks to it are called.
    names: Arc<Mutex<Vec<OsString>>>,
}

impl Folders {
    /// Watches what is to be watched now.
    fn follow(&mut self, place: &Place) {
        let mut files = vec![place.path.clone()];
        files.extend(place.resolve());
        let names = files.iter().filter_map(|file| file.file_name().map(OsString::from)).collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let mut wanted: Vec<PathBuf> = files.iter().map(|file| folder_of(file).to_owned()).collect();
        wanted.dedup();
        let wanted: Vec<_> = wanted.into_iter().filter_map(|folder| Some((identity(&folder)?, folder))).collect();
        if wanted.len() == self.watched.len()
            && wanted.iter().zip(&self.watched).all(|(new, old)| new.0 == old.1 && new.1 == old.0)
        {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        for (folder, _) in self.watched.drain(..) {
            // A folder that is gone is no longer watched anyway.
            let _ = watcher.unwatch(&folder);
        }
        for (identity, folder) in wanted {
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched.push((folder, identity)),
                // The file is still looked at every few seconds.
                Err(error) => tracing::warn!(%error, "cannot watch the folder of the profile"),
            }
        }
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    let metadata = folder.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_have_changed_the_file_wakes_the_watch() {
        let names = Mutex::new(vec![OsString::from("dev.json")]);
        let event = |kind, path: &str| concerns(&Ok(Event::new(kind).add_path(path.into())), &names);
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(event(written, "/p/dev.json"));
        assert!(event(EventKind::Create(notify::event::CreateKind::File), "/p/dev.json"));
        assert!(event(EventKind::Remove(notify::event::RemoveKind::File), "/p/dev.json"));
        assert!(!event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/p/dev.json"));
        assert!(!event(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/p/dev.json"));
        assert!(!event(written, "/p/other.json"));
        assert!(concerns(&Err(notify::Error::generic("the queue overflowed")), &names));
    }

    #[test]
    fn only_other_content_than_the_last_known_is_told() {
        let bytes = |text: &str| Content::Bytes(text.as_bytes().to_vec());
        let told_of =
            |known: Option<Content>, told: Option<Content>, now: &Content| judge(&Memory { known, told }, now);
        let a = || Some(bytes("a"));
        assert_eq!(told_of(a(), None, &bytes("a")), None);
        assert_eq!(told_of(a(), None, &bytes("b")), Some(FileChange::Edited));
        assert_eq!(told_of(a(), Some(bytes("b")), &bytes("b")), None);
        // A bad edit that is taken back is told too, so that its complaint can go.
        assert_eq!(told_of(a(), Some(bytes("b")), &bytes("a")), Some(FileChange::Edited));
        assert_eq!(told_of(a(), None, &Content::Missing), Some(FileChange::Gone));
        assert_eq!(told_of(a(), Some(Content::Missing), &Content::Missing), None);
        assert_eq!(told_of(Some(Content::Missing), None, &Content::Missing), None);
        assert_eq!(told_of(None, None, &Content::Missing), None);
        assert_eq!(told_of(Some(Content::Missing), None, &bytes("a")), Some(FileChange::Edited));
    }
}
