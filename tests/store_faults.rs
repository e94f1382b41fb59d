//! Fault 20: a profile is never torn and no edit is lost, whoever is killed, races or runs out of disk.
//!
//! The processes that are killed and race are this test binary again, in the role that the environment names.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan::model::profile::{MappingConfig, Profile};
use portolan::model::profile_read::read_profile;
use portolan::store::{ClaimError, Locations, ProfileSource, SaveError, Store};

const ROLE: &str = "PORTOLAN_STORE_ROLE";
const FILE: &str = "PORTOLAN_STORE_FILE";

const KILLS: u64 = 500;
const EDITORS: usize = 20;
const EDITS: usize = 50;

/// Does nothing in a test run of its own; in a child it plays its role.
#[test]
fn role_of_a_child_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let file = PathBuf::from(env::var(FILE).unwrap());
    let store = open(&file);
    match role.as_str() {
        "saves without end" => save_without_end(&store),
        "makes its edits" => make_edits(&store),
        "holds the claim" => {
            let _claim = store.claim().unwrap();
            report("claimed");
            sleep(Duration::from_mins(1));
        }
        "fills the disk" => fill_the_disk(&store),
        "may write little" => meet_refusal(&store, "file too large"),
        "may write nothing" => meet_refusal(&store, "read-only"),
        other => panic!("no such role: {other}"),
    }
}

fn open(file: &Path) -> Store {
    let folder = file.parent().unwrap();
    let locations = Locations::new(folder.join("config"), folder.join("state"));
    Store::open_in(ProfileSource::File(file.into()), locations).unwrap()
}

/// Tells the parent, past the test harness.
fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

fn child(role: &str, file: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "role_of_a_child_process", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(FILE, file).stdin(Stdio::null());
    command
}

/// A child that is killed and waited for when the test ends early.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every mapping carries the number, so that a mixture of two profiles is seen.
fn numbered(number: u64) -> Profile {
    let configs = (0..12).map(|index| {
        let mapping = format!("{}:web:80", 1000 + index).parse().unwrap();
        MappingConfig::new(format!("n{number}-m{index}"), mapping)
    });
    Profile::from_configs(configs.collect()).unwrap()
}

/// The number of a whole profile; of none, 0.
fn number_of(profile: &Profile) -> u64 {
    let Some(first) = profile.mappings.first() else { return 0 };
    let number = first.name.trim_start_matches('n').split('-').next().unwrap().parse().unwrap();
    assert_eq!(*profile, numbered(number), "a mixture of two profiles");
    number
}

fn save_without_end(store: &Store) {
    let mut number = number_of(&store.load(&[]).unwrap().profile);
    loop {
        number += 1;
        store.save(&numbered(number)).unwrap();
        report(&format!("saved {number}"));
    }
}

#[test]
fn a_killed_writer_leaves_the_old_or_the_new_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.json");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut random = u64::from(seed) | 1;
    let (mut on_disk, mut saves, mut torn_by_us) = (0, 0, 0);
    for kill in 0..KILLS {
        let child = child("saves without end", &file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = Killed(child.unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged = on_disk;
        let number_in = |line: &str| line.strip_prefix("saved ").map(|number| number.parse::<u64>().unwrap());
        // Every other one is let into its loop first; the rest are killed around their start and first save,
        // in which the backup is written.
        if kill % 2 == 0 {
            acknowledged = lines.by_ref().find_map(|line| number_in(&line)).unwrap();
        }
        random = xorshift(random);
        sleep(Duration::from_micros(random % 20_000));
        child.kill();
        acknowledged = lines.filter_map(|line| number_in(&line)).last().unwrap_or(acknowledged);

        let number = match fs::read(&file) {
            Ok(bytes) => number_of(&read_profile(&bytes, &"p.json".into(), &[]).unwrap()),
            Err(error) => {
                assert_eq!((error.kind(), acknowledged), (std::io::ErrorKind::NotFound, 0));
                0
            }
        };
        assert!(
            number == acknowledged || number == acknowledged + 1,
            "kill {kill}, seed {seed}: {acknowledged} was acknowledged, {number} is on the disk"
        );
        torn_by_us += u64::from(number > acknowledged);
        let backup = fs::read(folder.path().join("p.json.bak")).ok();
        let backup = backup.map(|bytes| number_of(&read_profile(&bytes, &"p.json.bak".into(), &[]).unwrap()));
        // Each child is a run of its own and backs up what it found, once; one that found nothing keeps nothing.
        let is_right = match backup {
            None => number == on_disk || on_disk == 0,
            Some(backup) if number > on_disk => on_disk > 0 && backup == on_disk,
            Some(backup) => backup <= on_disk,
        };
        assert!(is_right, "{on_disk} was found, {number} written, {backup:?} is the backup");
        saves += number - on_disk;
        on_disk = number;
        // What the killed left is removed by the next save: there is never more than the last kill's.
        let leftovers = fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "tmp"));
        assert!(leftovers.count() <= 20, "leftovers gather");
    }
    println!("{KILLS} kills during {saves} saves; {torn_by_us} fell between the rename and its acknowledgement");
    assert!(saves >= KILLS / 2, "the writers hardly wrote: {saves} saves");
    // The lock of the dead is gone and the next save works.
    let store = open(&file);
    store.load(&[]).unwrap();
    store.save(&numbered(on_disk + 1)).unwrap();
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "only the profile and its backup remain: {names:?}");
}

fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

/// Each editor counts its edits in a mapping of its own. An edit that is overwritten by another process is
/// missing from the count for good, since the next one goes on from what is on the disk.
fn make_edits(store: &Store) {
    let mine = format!("p{}", std::process::id());
    let mut stale = 0;
    let mut random = u64::from(std::process::id());
    for _ in 0..EDITS {
        loop {
            let mut configs = store.load(&[]).unwrap().profile.mappings;
            match configs.iter_mut().find(|config| config.name == mine) {
                Some(config) => config.max_connections = config.max_connections.map(|count| count + 1),
                None => configs.push(MappingConfig {
                    max_connections: Some(1),
                    ..MappingConfig::new(mine.as_str(), "auto:web:80".parse().unwrap())
                }),
            }
            match store.save(&Profile::from_configs(configs).unwrap()) {
                Ok(()) => break,
                Err(SaveError::StaleOnDisk { .. } | SaveError::Busy { .. }) => {
                    stale += 1;
                    random = xorshift(random);
                    sleep(Duration::from_millis(random % 20));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    report(&format!("stale {stale}"));
}

#[test]
fn no_edit_of_twenty_processes_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.json");
    let editors: Vec<Killed> =
        (0..EDITORS).map(|_| Killed(child("makes its edits", &file).stdout(Stdio::piped()).spawn().unwrap())).collect();
    let mut stale = 0;
    for mut editor in editors {
        let lines = BufReader::new(editor.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        stale += lines.filter_map(|line| line.strip_prefix("stale ")?.parse::<usize>().ok()).sum::<usize>();
        assert!(editor.0.wait().unwrap().success());
    }
    println!("{} edits, {stale} times refused as stale and made again", EDITORS * EDITS);
    let profile = open(&file).load(&[]).unwrap().profile;
    let counts: Vec<u32> = profile.mappings.iter().filter_map(|config| config.max_connections).collect();
    assert_eq!(counts, vec![u32::try_from(EDITS).unwrap(); EDITORS]);
    assert!(stale > 0, "they never met: nothing was tested");
}

#[test]
fn a_killed_engine_gives_its_profile_free() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.json");
    let mut holder = Killed(child("holds the claim", &file).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(holder.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "claimed"));
    match open(&file).claim() {
        Err(ClaimError::Running { pid, .. }) => assert_eq!(pid, Some(holder.0.id())),
        other => panic!("{other:?}"),
    }
    holder.kill();
    open(&file).claim().unwrap();
}

/// The edit is refused with the reason, and nothing but the old file is left.
fn meet_refusal(store: &Store, reason: &str) {
    let before = fs::read(store.path()).unwrap();
    store.load(&[]).unwrap();
    let larger: Vec<MappingConfig> = (1..=2000)
        .map(|port| MappingConfig::new(format!("mapping-{port}"), format!("{port}:web:80").parse().unwrap()))
        .collect();
    let larger = Profile::from_configs(larger).unwrap();
    for _ in 0..3 {
        let error = store.save(&larger).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("p.json"), "{error}");
        assert_eq!(fs::read(store.path()).unwrap(), before);
        let left: Vec<_> = fs::read_dir(store.path().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["p.json", "p.json.bak", "filler"].contains(&name.as_str()))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
    assert_eq!(store.load(&[]).unwrap().profile, numbered(1), "it can still be read");
}

fn fill_the_disk(store: &Store) {
    let filler = store.path().with_file_name("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[0; 1024]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    meet_refusal(store, "no space left on device");
    fs::remove_file(filler).unwrap();
    store.save(&numbered(2)).unwrap();
    assert_eq!(number_of(&store.load(&[]).unwrap().profile), 2, "with space, the same edit works");
}

/// Runs a role behind a script that ends with `exec "$@"`.
fn run_prepared(prepare: &str, role: &str, file: &Path) {
    let direct = child(role, file);
    let script = format!("{prepare}\nexec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-ec", &script, "sh"]).arg(direct.get_program()).args(direct.get_args());
    command.env(ROLE, role).env(FILE, file).env("FOLDER", file.parent().unwrap()).stdin(Stdio::null());
    assert!(command.status().unwrap().success(), "see above");
}

/// As root in a mount namespace of its own, which nobody else sees and which ends with the child.
fn run_with_mounts(mounts: &str, role: &str, file: &Path) {
    let in_namespace = format!("exec unshare --mount --propagation private sh -ec '{mounts}\nexec \"$@\"' sh \"$@\"\n");
    run_prepared(&in_namespace, role, file);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn written(folder: &Path) -> PathBuf {
    let file = folder.join("p.json");
    fs::write(&file, numbered(1).to_text()).unwrap();
    file
}

#[test]
fn a_full_disk_leaves_the_old_file_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path());
    if is_root() {
        let mounts = "cp \"$FOLDER/p.json\" /tmp/p.json.$$ && mount -t tmpfs -o size=64k tmpfs \"$FOLDER\" && mv /tmp/p.json.$$ \"$FOLDER/p.json\"";
        run_with_mounts(mounts, "fills the disk", &file);
    }
    // Anybody can meet the limit of a file's size, which fails in the middle of a write like a full disk.
    run_prepared("trap '' XFSZ; ulimit -f 16", "may write little", &file);
    assert_eq!(fs::read_to_string(&file).unwrap(), numbered(1).to_text());
}

#[test]
fn a_read_only_folder_leaves_the_old_file_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path());
    if is_root() {
        let mounts = "mount --bind \"$FOLDER\" \"$FOLDER\" && mount -o remount,bind,ro \"$FOLDER\"";
        run_with_mounts(mounts, "may write nothing", &file);
    } else {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        meet_refusal(&open(&file), "read-only");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), numbered(1).to_text());
}
