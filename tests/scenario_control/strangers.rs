//! Users who are neither the engine's own nor root: they do not get in, whatever the hour and whatever has become of
//! the permissions.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::client::{ask, get, request, serves, socket_of, write_profile};
use crate::common::observer::NOBODY;
use crate::common::program::{Home, PORTOLAN, Run};
use crate::common::{Need, SOON, require, wait_until};

const SOCKET: &str = "PORTOLAN_TEST_STRANGERS_SOCKET";
const KNOCKS: &str = "PORTOLAN_TEST_STRANGERS_KNOCKS";
/// Another user, who has nothing to do with that one.
const SOMEBODY: u32 = 65533;
/// Between two knocks.
const PAUSE: Duration = Duration::from_micros(200);
/// Starts of the engine while somebody knocks, and knocks at least.
const STARTS: usize = 20;
const ATTEMPTS: u64 = 1_000;

/// What came of knocking.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Knocks {
    attempts: u64,
    /// How often the kernel let it connect.
    connected: u64,
    /// How often a byte came.
    answered: u64,
    /// How often nothing came, not even an end.
    held: u64,
    /// Why it could not connect.
    errors: BTreeMap<String, u64>,
}

impl Knocks {
    fn knock(&mut self, socket: &Path) {
        self.attempts += 1;
        let mut stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) => return *self.errors.entry(format!("{:?}", error.kind())).or_default() += 1,
        };
        self.connected += 1;
        // What is closed already takes nothing any more.
        let _ = stream.write_all(&request("GET", "/v1/engine", b""));
        stream.set_read_timeout(Some(SOON)).expect("it can be set");
        match stream.read(&mut [0; 64]) {
            Ok(1..) => self.answered += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.held += 1,
            Ok(0) | Err(_) => {}
        }
    }
}

/// Not a test: the program that a [`Stranger`] is. It knocks so often, or else until its input ends.
#[test]
#[ignore = "a part of the other tests, which start it themselves"]
fn stranger() {
    let Some(socket) = std::env::var_os(SOCKET).map(PathBuf::from) else { return };
    let most = std::env::var(KNOCKS).map_or(u64::MAX, |count| count.parse().expect("a number"));
    let is_over = Arc::<AtomicBool>::default();
    let over = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Relaxed);
    });
    let mut knocks = Knocks::default();
    while knocks.attempts < most && !is_over.load(Relaxed) {
        knocks.knock(&socket);
        sleep(PAUSE);
    }
    println!("\nKNOCKS {}", serde_json::to_string(&knocks).expect("it is data"));
}

/// Somebody who knocks at a socket.
struct Stranger {
    child: Child,
    input: Option<ChildStdin>,
}

/// This program, at a place where everybody may go.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("ours");
        fs::copy(std::env::current_exe().expect("this program"), folder.path().join("stranger")).expect("a copy");
        Self(folder)
    }

    fn start(&self, user: u32, socket: &Path, knocks: Option<u64>) -> Stranger {
        let mut command = Command::new(self.0.path().join("stranger"));
        command.args(["strangers::stranger", "--exact", "--ignored", "--nocapture"]).uid(user).gid(user);
        command.env(SOCKET, socket).envs(knocks.map(|count| (KNOCKS, count.to_string()))).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = child.stdin.take();
        Stranger { child, input }
    }

    /// What so many knocks of a user bring.
    #[track_caller]
    fn knock(&self, user: u32, socket: &Path, knocks: u64) -> Knocks {
        let mut stranger = self.start(user, socket, Some(knocks));
        wait_until("the knocking to end", 3 * SOON, || stranger.child.try_wait().expect("a child").is_some());
        stranger.end()
    }
}

impl Stranger {
    #[track_caller]
    fn end(mut self) -> Knocks {
        drop(self.input.take());
        let output = self.child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let knocks = text.lines().find_map(|line| line.strip_prefix("KNOCKS ")).unwrap_or_else(|| panic!("{text}"));
        serde_json::from_str(knocks).expect("it is data")
    }
}

/// `portolan run`, started with this umask.
fn start_with(home: &Home, umask: &str) -> Run {
    let mut command = Command::new("sh");
    command.env_clear().envs(home.environment());
    command.args([
        "-c",
        r#"umask "$1" && shift && exec "$@""#,
        "sh",
        umask,
        PORTOLAN,
        "run",
        "--json",
        "--drain",
        "0s",
    ]);
    let mut run = Run::start(command);
    run.ready();
    serves(&socket_of(home, "default"));
    run
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

/// A home that every user may look into, and as far as the folder that the engine makes.
fn open_home() -> Home {
    let home = Home::new();
    fs::create_dir(home.path().join("run")).expect("a folder");
    write_profile(&home, "default", "127.0.0.1:9");
    home.open_to_all();
    home
}

#[test]
fn nobody_else_gets_in_before_while_and_after_the_engine_starts() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = open_home();
    let socket = socket_of(&home, "default");
    let stranger = Place::new().start(NOBODY, &socket, None);
    for start in 0..STARTS {
        let run = start_with(&home, "000");
        match start % 4 {
            0 => drop(run.stop()),
            1 => {
                drop(run.stop());
                // The next one makes the folder anew.
                fs::remove_dir_all(home.path().join("run/portolan")).expect("ours");
            }
            // What it leaves is stale.
            _ => run.signal(Signal::SIGKILL),
        }
    }
    let run = start_with(&home, "000");
    let start = Instant::now();
    wait_until("knocks at an engine at rest", SOON, || start.elapsed() > Duration::from_secs(1));
    let knocks = stranger.end();
    println!(
        "as user {NOBODY}: {} attempts around {STARTS} starts, {} accepted: {:?}",
        knocks.attempts, knocks.connected, knocks.errors
    );
    assert!(knocks.attempts >= ATTEMPTS, "{knocks:?}");
    assert_eq!(knocks.connected, 0, "{knocks:?}");
    assert!(knocks.errors.contains_key("PermissionDenied") && knocks.errors.contains_key("NotFound"), "{knocks:?}");
    assert!(run.stop().status.success());
}

#[test]
fn whoever_opens_the_folder_and_the_socket_by_hand_lets_no_other_user_in() {
    if !require(&[Need::Root]) {
        return;
    }
    let (place, home) = (Place::new(), open_home());
    let socket = socket_of(&home, "default");
    let mut run = start_with(&home, "022");
    set_mode(&home.path().join("run/portolan"), 0o755);
    set_mode(&socket, 0o777);
    let knocks = place.knock(NOBODY, &socket, ATTEMPTS);
    println!("folder and socket opened by hand, as user {NOBODY}: {knocks:?}");
    assert_eq!((knocks.attempts, knocks.answered, knocks.held), (ATTEMPTS, 0, 0), "{knocks:?}");
    assert!(knocks.connected > 0, "the kernel let it connect, so the engine refused it: {knocks:?}");
    assert_eq!(get(&socket, "/v1/engine").expect("root is let in").status, 200);
    // That is said, but not a thousand times.
    let is_told = |event: &&serde_json::Value| {
        event["event"] == "warning" && event["message"].as_str().is_some_and(|text| text.contains("another user"))
    };
    run.event("a warning of strangers", SOON, |event| is_told(&event));
    assert_eq!(run.events().iter().filter(is_told).count(), 1);
    assert!(run.stop().status.success());
}

#[test]
fn an_ordinary_users_engine_answers_that_user_and_root_alone() {
    if !require(&[Need::Root]) {
        return;
    }
    let (place, home) = (Place::new(), open_home());
    let socket = socket_of(&home, "default");
    // The folder that it was built in may be closed to others.
    let program = home.path().join("program");
    fs::copy(PORTOLAN, &program).expect("it can be copied");
    set_mode(&program, 0o755);
    for entry in [
        "",
        "run",
        ".config",
        ".config/portolan",
        ".config/portolan/profiles",
        ".config/portolan/profiles/default.json",
    ] {
        chown(home.path().join(entry), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let mut command = Command::new(&program);
    command.env_clear().envs(home.environment()).args(["run", "--json", "--drain", "0s"]).uid(NOBODY).gid(NOBODY);
    let mut run = Run::start(command);
    run.ready();
    serves(&socket);
    assert_eq!((mode(&home.path().join("run/portolan")), mode(&socket) & 0o077), (0o700, 0));
    set_mode(&home.path().join("run/portolan"), 0o755);
    set_mode(&socket, 0o777);
    let own = place.knock(NOBODY, &socket, 100);
    assert_eq!((own.connected, own.answered), (100, 100), "{own:?}");
    let other = place.knock(SOMEBODY, &socket, ATTEMPTS);
    println!("an engine of user {NOBODY}: its own {own:?}, user {SOMEBODY} {other:?}");
    assert_eq!((other.answered, other.held), (0, 0), "{other:?}");
    assert_eq!(get(&socket, "/v1/engine").expect("root is let in").status, 200);
    assert_eq!(ask(&socket, "POST", "/v1/shutdown", b"").expect("root is let in").status, 200);
    assert!(run.wait().status.success());
}

#[test]
fn whatever_the_umask_the_folder_and_the_socket_are_closed_to_others() {
    for umask in ["000", "022", "077", "007", "777"] {
        let home = Home::new();
        write_profile(&home, "default", "127.0.0.1:9");
        let run = start_with(&home, umask);
        let folder = home.path().join("run/portolan");
        let modes = [mode(&folder), mode(&socket_of(&home, "default")) & 0o077, mode(&folder.join(".lock"))];
        println!("umask {umask}: folder {:o}, lock {:o}, socket for others {:o}", modes[0], modes[2], modes[1]);
        assert_eq!(modes, [0o700, 0, 0o600], "umask {umask}");
        assert!(run.stop().status.success());
    }
}

#[test]
fn without_a_runtime_folder_it_lies_in_the_state_folder_and_is_as_closed() {
    let home = Home::new();
    write_profile(&home, "default", "127.0.0.1:9");
    let mut command = home.command(None);
    command.env_remove("XDG_RUNTIME_DIR").args(["run", "--json", "--drain", "0s"]);
    let mut run = Run::start(command);
    run.ready();
    let folder = home.path().join(".local/state/portolan/run");
    serves(&folder.join("default.sock"));
    assert_eq!((mode(&folder), mode(&folder.join("default.sock")) & 0o077), (0o700, 0));
    assert!(run.stop().status.success());
}
