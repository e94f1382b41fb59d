//! A profile's file: created, kept, refused, watched. Killed writers and full disks are in `store_faults.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use portolan::model::profile::{MappingConfig, Profile};
use portolan::store::{ClaimError, FileChange, LoadError, Locations, ProfileSource, SaveError, Store};
use tempfile::TempDir;
use tokio::sync::mpsc;

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn locations(&self) -> Locations {
        Locations::new(self.0.path().join("config"), self.0.path().join("state"))
    }

    fn named(&self, name: &str) -> Store {
        Store::open_in(ProfileSource::Named(name.into()), self.locations()).unwrap()
    }

    fn file(&self, path: &Path) -> Store {
        Store::open_in(ProfileSource::File(path.into()), self.locations()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of the user's own.
    fn written(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn profile(texts: &[&str]) -> Profile {
    let configs = texts.iter().map(|text| MappingConfig::from_argument(text).unwrap());
    Profile::from_configs(configs.collect()).unwrap()
}

fn text(texts: &[&str]) -> String {
    profile(texts).to_text()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

const WEB: &str = "8080:web:80";
const DB: &str = "5432:db:5432";

#[test]
fn a_missing_profile_is_empty_and_the_first_save_creates_it_for_its_owner_alone() {
    let home = Home::new();
    let store = home.named("dev");
    let loaded = store.load(&[]).unwrap();
    assert_eq!((loaded.profile, loaded.exists), (Profile::default(), false));
    assert_eq!(store.list().unwrap(), Vec::<String>::new());
    assert!(!home.path("config").exists(), "reading creates nothing");

    store.save(&profile(&[WEB])).unwrap();
    let path = home.path("config/profiles/dev.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[WEB]));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&home.path("config/profiles")), 0o700);
    assert_eq!(mode(&home.path("config")), 0o700);
    assert_eq!(store.list().unwrap(), ["dev"]);
    assert_eq!(fs::read_dir(home.path("config/profiles")).unwrap().count(), 1, "no backup of nothing, no leftovers");
    assert_eq!(home.named("dev").load(&[]).unwrap().profile, profile(&[WEB]));
}

#[test]
fn a_file_keeps_its_permissions_and_owner() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    }
    let store = home.file(&path);
    store.load(&[]).unwrap();
    store.save(&profile(&[DB])).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[DB]));
    for file in [&path, &store.backup_path()] {
        assert_eq!(mode(file), 0o640);
        if root {
            let metadata = fs::metadata(file).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
        }
    }
}

#[test]
fn the_backup_is_the_file_as_it_was_when_this_run_first_changed_it() {
    let home = Home::new();
    let path = home.written("p.json", &format!(" {}", text(&[WEB])));
    let store = home.file(&path);
    store.load(&[]).unwrap();
    store.save(&profile(&[DB])).unwrap();
    store.save(&profile(&[WEB, DB])).unwrap();
    fs::write(&path, text(&[])).unwrap();
    store.load(&[]).unwrap();
    store.save(&profile(&[DB])).unwrap();
    assert_eq!(fs::read_to_string(home.path("p.json.bak")).unwrap(), format!(" {}", text(&[WEB])));
    assert_eq!(store.backup_path(), home.path("p.json.bak"));
    // Closing and opening it again is the same run. (That another run keeps its own is seen where writers are killed.)
    let reopened = home.file(&path);
    reopened.load(&[]).unwrap();
    reopened.save(&profile(&[])).unwrap();
    assert_eq!(fs::read_to_string(home.path("p.json.bak")).unwrap(), format!(" {}", text(&[WEB])));
}

#[test]
fn what_this_run_wrote_itself_is_no_backup_and_an_older_one_stays() {
    let home = Home::new();
    let path = home.path("p.json");
    let precious = home.written("p.json.bak", "precious");
    let store = home.file(&path);
    store.load(&[]).unwrap();
    for texts in [&[WEB][..], &[WEB, DB], &[DB]] {
        store.save(&profile(texts)).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }
    // Nor is it after it was deleted, and read by another name.
    fs::remove_file(&path).unwrap();
    store.save(&profile(&[WEB])).unwrap();
    symlink(&path, home.path("link")).unwrap();
    let linked = home.file(&home.path("link"));
    linked.load(&[]).unwrap();
    linked.save(&profile(&[DB])).unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    // What somebody else has put there before our first change is kept.
    let path = home.path("q.json");
    let store = home.file(&path);
    store.load(&[]).unwrap();
    fs::write(&path, text(&[WEB])).unwrap();
    store.load(&[]).unwrap();
    store.save(&profile(&[DB])).unwrap();
    assert_eq!(fs::read_to_string(home.path("q.json.bak")).unwrap(), text(&[WEB]));
}

#[test]
fn saving_what_is_there_already_writes_nothing() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let before = fs::metadata(&path).unwrap().ino();
    let store = home.file(&path);
    let loaded = store.load(&[]).unwrap();
    store.save(&loaded.profile).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    assert!(!home.path("p.json.bak").exists());
}

#[test]
fn somebody_elses_change_is_never_overwritten() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let (mine, other) = (home.file(&path), home.file(&path));
    mine.load(&[]).unwrap();
    other.load(&[]).unwrap();
    other.save(&profile(&[DB])).unwrap();
    assert!(matches!(mine.save(&profile(&[])), Err(SaveError::StaleOnDisk { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[DB]));
    // One byte by hand is enough.
    mine.load(&[]).unwrap();
    fs::write(&path, text(&[DB]) + "\n").unwrap();
    assert!(matches!(mine.save(&profile(&[])), Err(SaveError::StaleOnDisk { .. })));
    // A file that appeared where there was none is a change too.
    let new = home.path("new.json");
    let store = home.file(&new);
    store.load(&[]).unwrap();
    fs::write(&new, text(&[WEB])).unwrap();
    assert!(matches!(store.save(&profile(&[DB])), Err(SaveError::StaleOnDisk { .. })));
    // Looking again makes it right.
    mine.load(&[]).unwrap();
    mine.save(&profile(&[WEB])).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[WEB]));
}

#[test]
fn a_deleted_file_is_written_again() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let store = home.file(&path);
    store.load(&[]).unwrap();
    fs::remove_file(&path).unwrap();
    store.save(&profile(&[WEB, DB])).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[WEB, DB]));
}

#[test]
fn what_could_not_be_read_is_not_overwritten() {
    let home = Home::new();
    for (name, content) in [
        ("empty", ""),
        ("newer", "{\"version\": 99, \"mappings\": []}"),
        ("invalid", "{\"version\": 1, \"mappings\": [{}]}"),
        ("truncated", "{\"version\": 1,"),
    ] {
        let path = home.written(name, content);
        let store = home.file(&path);
        let error = store.load(&[]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{}", path.display())), "{error}");
        let refused = store.save(&profile(&[WEB])).unwrap_err();
        assert!(matches!(refused, SaveError::NotRead { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        // Nor is it when it had been readable before.
        fs::write(&path, text(&[WEB])).unwrap();
        store.load(&[]).unwrap();
        fs::write(&path, content).unwrap();
        assert!(store.load(&[]).is_err());
        assert!(matches!(store.save(&profile(&[DB])), Err(SaveError::StaleOnDisk { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    // Nor a file that nobody looked at.
    let path = home.written("unseen", &text(&[WEB]));
    assert!(matches!(home.file(&path).save(&profile(&[DB])), Err(SaveError::NotRead { .. })));
}

#[test]
fn a_symlink_is_refused_in_the_config_folder() {
    let home = Home::new();
    let elsewhere = home.written("elsewhere.json", &text(&[WEB]));
    fs::create_dir_all(home.path("config/profiles")).unwrap();
    symlink(&elsewhere, home.path("config/profiles/dev.json")).unwrap();
    symlink(home.path("nowhere"), home.path("config/profiles/dangling.json")).unwrap();
    for name in ["dev", "dangling"] {
        let store = home.named(name);
        assert!(matches!(store.load(&[]), Err(LoadError::Symlink { .. })), "{name}");
        assert!(matches!(store.save(&profile(&[DB])), Err(SaveError::Unusable(LoadError::Symlink { .. }))), "{name}");
    }
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), text(&[WEB]));
    assert!(!home.path("nowhere").exists());
    assert_eq!(home.named("dev").list().unwrap(), Vec::<String>::new());
}

#[test]
fn a_symlink_named_with_file_leads_to_what_is_written() {
    let home = Home::new();
    fs::create_dir(home.path("real")).unwrap();
    let target = home.written("real/p.json", &text(&[WEB]));
    symlink("real/p.json", home.path("relative")).unwrap();
    symlink(home.path("relative"), home.path("link.json")).unwrap();
    let store = home.file(&home.path("link.json"));
    store.load(&[]).unwrap();
    store.save(&profile(&[DB])).unwrap();
    assert!(fs::symlink_metadata(home.path("link.json")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), text(&[DB]));
    assert!(home.path("real/p.json.bak").exists());
    // Also when there is nothing yet, and not when it leads in a circle.
    symlink("real/new.json", home.path("new")).unwrap();
    let store = home.file(&home.path("new"));
    assert!(!store.load(&[]).unwrap().exists);
    store.save(&profile(&[WEB])).unwrap();
    assert_eq!(fs::read_to_string(home.path("real/new.json")).unwrap(), text(&[WEB]));
    symlink("circle", home.path("circle")).unwrap();
    let circle = home.file(&home.path("circle"));
    let error = circle.load(&[]).unwrap_err().to_string();
    assert!(error.contains("too many levels of symbolic links"), "{error}");
    assert!(circle.save(&profile(&[WEB])).is_err());
}

#[test]
fn folders_and_fifos_are_no_profiles() {
    let home = Home::new();
    nix::unistd::mkfifo(&home.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.path("socket")).unwrap();
    for path in [home.path("fifo"), home.path("socket"), home.0.path().to_owned(), "/dev/zero".into()] {
        let store = home.file(&path);
        let error = store.load(&[]).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: not a regular file", path.display()));
        assert_eq!(error.problems()[0].to_string(), error.to_string());
        assert!(store.save(&profile(&[WEB])).is_err());
    }
    fs::create_dir_all(home.path("config/profiles/dev.json")).unwrap();
    assert!(matches!(home.named("dev").load(&[]), Err(LoadError::NotRegular { .. })));
    assert!(home.path("config/profiles/dev.json").is_dir());
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let home = Home::new();
    let path = home.written("p.json", "");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = home.file(&path).load(&[]).unwrap_err().to_string();
    assert!(error.ends_with("the file has 1099511627776 bytes, 1099503239168 over the limit of 8388608 (8 MiB)"));
}

#[test]
fn a_file_closed_for_writing_is_left_alone() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let store = home.file(&path);
    store.load(&[]).unwrap();
    let error = store.save(&profile(&[DB])).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is read-only", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&[WEB]));
    assert!(!home.path("p.json.bak").exists());
}

#[test]
fn a_file_in_no_folder_says_so() {
    let home = Home::new();
    let store = home.file(&home.path("no/such/p.json"));
    assert!(!store.load(&[]).unwrap().exists);
    let error = store.save(&profile(&[WEB])).unwrap_err().to_string();
    assert_eq!(error, format!("cannot write {}: no such file or directory", home.path("no/such").display()));
}

#[test]
fn one_engine_runs_a_profile_at_a_time() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    symlink(&path, home.path("link")).unwrap();
    let claim = home.file(&path).claim().unwrap();
    for other in [home.file(&path), home.file(&home.path("link"))] {
        match other.claim() {
            Err(ClaimError::Running { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }
    let said = home.file(&path).claim().unwrap_err().to_string();
    assert_eq!(said, format!("{} is already run by another portolan (pid {})", path.display(), std::process::id()));
    // Another profile is free, and so is this one afterwards.
    let _other = home.named("dev").claim().unwrap();
    drop(claim);
    let _again = home.file(&path).claim().unwrap();
}

#[test]
fn a_killed_holders_pid_is_not_told_for_the_next_ones() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let store = home.file(&path);
    drop(store.claim().unwrap());
    assert_eq!(store.last_runner(), None);
    let mut locks = fs::read_dir(store.locations().state().join("engines")).unwrap().map(|lock| lock.unwrap().path());
    let lock = locks.next().unwrap();
    // More than the kernel gives out.
    fs::write(&lock, "4194305\n").unwrap();
    let next = fs::File::options().read(true).write(true).open(&lock).unwrap();
    next.lock().unwrap();
    let told = || match store.claim() {
        Err(ClaimError::Running { pid, .. }) => pid,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(), None, "it has not said yet who it is");
    fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
    assert_eq!(told(), Some(std::process::id()));
}

/// Waits for the next change.
fn next(changes: &mut mpsc::Receiver<FileChange>) -> FileChange {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match changes.try_recv() {
            Ok(change) => return change,
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
            Err(error) => panic!("no change was told: {error}"),
        }
    }
}

/// Nothing may come; only time can show it.
fn expect_silence(changes: &mut mpsc::Receiver<FileChange>) {
    let until = Instant::now() + Duration::from_millis(400);
    while Instant::now() < until {
        assert!(changes.try_recv().is_err(), "a change was told that was none");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn edits_by_hand_are_told_however_they_are_made() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let store = home.file(&path);
    store.load(&[]).unwrap();
    let (sender, mut changes) = mpsc::channel(4);
    let _watch = store.watch(sender).unwrap();

    // Written in place, in pieces.
    fs::write(&path, "{").unwrap();
    fs::write(&path, text(&[DB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    while store.load(&[]).is_err() {
        assert_eq!(next(&mut changes), FileChange::Edited);
    }
    assert_eq!(store.load(&[]).unwrap().profile, profile(&[DB]));

    // Replaced by a rename, as editors do; more than once.
    for texts in [&[WEB][..], &[WEB, DB], &[DB]] {
        fs::write(home.path("p.json~"), text(texts)).unwrap();
        fs::rename(home.path("p.json~"), &path).unwrap();
        assert_eq!(next(&mut changes), FileChange::Edited);
        assert_eq!(store.load(&[]).unwrap().profile, profile(texts));
    }

    // A bad edit, and its undoing.
    fs::write(&path, "{}").unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    assert!(store.load(&[]).is_err());
    fs::write(&path, text(&[DB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    store.load(&[]).unwrap();

    // Deleted, and back again.
    fs::remove_file(&path).unwrap();
    assert_eq!(next(&mut changes), FileChange::Gone);
    fs::write(&path, text(&[WEB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    assert_eq!(store.load(&[]).unwrap().profile, profile(&[WEB]));
}

#[test]
fn what_changes_nothing_is_not_told() {
    let home = Home::new();
    let path = home.written("p.json", &text(&[WEB]));
    let store = home.file(&path);
    store.load(&[]).unwrap();
    let (sender, mut changes) = mpsc::channel(4);
    let _watch = store.watch(sender).unwrap();
    store.save(&profile(&[DB])).unwrap();
    expect_silence(&mut changes);
    store.save(&profile(&[WEB])).unwrap();
    fs::write(&path, text(&[WEB])).unwrap();
    fs::write(home.path("another.json"), "x").unwrap();
    expect_silence(&mut changes);
    // The watch is awake all the same.
    fs::write(&path, text(&[WEB, DB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    store.load(&[]).unwrap();
    store.save(&profile(&[])).unwrap();
    expect_silence(&mut changes);
}

#[test]
fn a_file_that_does_not_exist_yet_and_a_folder_that_is_replaced_are_watched() {
    let home = Home::new();
    let store = home.named("dev");
    store.load(&[]).unwrap();
    let (sender, mut changes) = mpsc::channel(4);
    let watch = store.watch(sender).unwrap();
    let profiles = home.path("config/profiles");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("dev.json"), text(&[WEB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    store.load(&[]).unwrap();

    fs::remove_dir_all(&profiles).unwrap();
    assert_eq!(next(&mut changes), FileChange::Gone);
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("dev.json"), text(&[DB])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    store.load(&[]).unwrap();
    fs::write(profiles.join("dev.json"), text(&[])).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    drop(watch);
    assert!(changes.try_recv().is_err(), "the watch has ended");
}

#[test]
fn a_symlink_that_is_turned_elsewhere_is_a_change() {
    let home = Home::new();
    fs::create_dir(home.path("a")).unwrap();
    fs::create_dir(home.path("b")).unwrap();
    home.written("a/one.json", &text(&[WEB]));
    home.written("b/two.json", &text(&[DB]));
    symlink("a/one.json", home.path("link")).unwrap();
    let store = home.file(&home.path("link"));
    store.load(&[]).unwrap();
    let (sender, mut changes) = mpsc::channel(4);
    let _watch = store.watch(sender).unwrap();
    home.written("a/one.json", &text(&[]));
    assert_eq!(next(&mut changes), FileChange::Edited);
    store.load(&[]).unwrap();
    symlink("b/two.json", home.path("link~")).unwrap();
    fs::rename(home.path("link~"), home.path("link")).unwrap();
    assert_eq!(next(&mut changes), FileChange::Edited);
    assert_eq!(store.load(&[]).unwrap().profile, profile(&[DB]));
    home.written("b/two.json", &text(&[WEB, DB]));
    assert_eq!(next(&mut changes), FileChange::Edited);
    assert_eq!(store.load(&[]).unwrap().profile, profile(&[WEB, DB]));
}
