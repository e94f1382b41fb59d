//! What lies where the socket is to be: it is left alone, said, and the engine forwards without a control socket.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::client::{get, serves, socket_of, write_profile};
use crate::common::echo::{echo_server, echoes};
use crate::common::observer::NOBODY;
use crate::common::program::Home;
use crate::common::{Need, SOON, require};

/// A home with a control folder as the engine makes it, and a file of somebody's elsewhere.
struct Scene {
    home: Home,
    folder: PathBuf,
    socket: PathBuf,
    lock: PathBuf,
    elsewhere: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        let folder = home.path().join("run/portolan");
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("ours");
        let elsewhere = home.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a folder");
        fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).expect("ours");
        fs::write(elsewhere.join("file"), "mine").expect("a file");
        let (socket, lock) = (socket_of(&home, "default"), folder.join(".lock"));
        Self { home, folder, socket, lock, elsewhere }
    }

    /// Everything in the home's folders of sockets, as it lies there.
    fn picture(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for place in [&self.folder, &self.elsewhere] {
            look(place, &mut seen);
            let inside = fs::read_dir(place).into_iter().flatten().map(|entry| entry.expect("an entry").path());
            inside.filter(|path| *path != self.lock).for_each(|path| look(&path, &mut seen));
        }
        look(&self.lock, &mut seen);
        // The lock is made by whoever comes first.
        seen.retain(|line| !line.contains("0600 file \"\" .lock"));
        seen.sort();
        seen
    }
}

fn look(path: &Path, seen: &mut Vec<String>) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let kind = found.file_type();
    let what = if kind.is_symlink() {
        format!("link to {}", fs::read_link(path).expect("a link").display())
    } else if kind.is_file() {
        format!("file {:?}", fs::read_to_string(path).expect("it can be read"))
    } else if kind.is_dir() {
        "folder".to_owned()
    } else {
        let kind = if kind.is_fifo() { "pipe" } else { "socket" };
        format!("{kind} {}", found.ino())
    };
    let name = path.file_name().expect("a name").to_string_lossy();
    seen.push(format!("{:04o} {what} {name} of {}", found.mode() & 0o7777, found.uid()));
}

/// Starts the engine with something planted: it forwards, says what is the matter, and nothing is changed there.
#[track_caller]
fn is_refused(what: &str, said: &[&str], plant: impl FnOnce(&Scene)) {
    let scene = Scene::new();
    write_profile(&scene.home, "default", echo_server());
    plant(&scene);
    let before = scene.picture();
    let mut run = scene.home.run(None, ["--drain", "0s"]);
    run.ready();
    let listener = run.listening("127.0.0.1");
    assert!(echoes(&mut TcpStream::connect(listener).expect("it listens")), "{what}: it forwards");
    let is_said = |event: &serde_json::Value| {
        event["event"] == "warning" && event["message"].as_str().is_some_and(|text| text.contains("no control socket"))
    };
    let warning = run.event(&format!("{what}: a warning"), SOON, is_said);
    let message = warning["message"].as_str().expect("a text");
    println!("{what}: {message}");
    for part in said {
        assert!(message.contains(part), "{what}: {message:?} lacks {part:?}");
    }
    assert_eq!(scene.picture(), before, "{what}: it is left alone");
    assert!(run.stop().status.success());
    assert_eq!(scene.picture(), before, "{what}: it is left alone to the end");
}

fn instead_of(path: &Path) {
    fs::remove_dir(path).expect("it was empty");
}

#[test]
fn a_folder_that_is_not_the_engines_own_is_refused() {
    let remove = ["portolan: ", "remove it"];
    is_refused("a link to a folder", &remove, |scene| {
        instead_of(&scene.folder);
        symlink(&scene.elsewhere, &scene.folder).expect("a link");
    });
    is_refused("a link to nothing", &remove, |scene| {
        instead_of(&scene.folder);
        symlink(scene.home.path().join("nothing"), &scene.folder).expect("a link");
    });
    is_refused("a file as the folder", &remove, |scene| {
        instead_of(&scene.folder);
        fs::write(&scene.folder, "mine").expect("a file");
    });
    is_refused("a folder for all", &["other users can enter it", "chmod 700"], |scene| {
        fs::set_permissions(&scene.folder, Permissions::from_mode(0o755)).expect("ours");
    });
    is_refused("a folder for the group", &["other users can enter it", "chmod 700"], |scene| {
        fs::set_permissions(&scene.folder, Permissions::from_mode(0o710)).expect("ours");
    });
}

#[test]
fn a_folder_of_another_user_is_refused() {
    if require(&[Need::Root]) {
        is_refused("another user's folder", &["belongs to user 65534", "remove it"], |scene| {
            chown(&scene.folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        });
        is_refused("another user's socket", &["belongs to user 65534", "remove it"], |scene| {
            drop(UnixListener::bind(&scene.socket).expect("a socket"));
            chown(&scene.socket, Some(NOBODY), Some(NOBODY)).expect("root may");
        });
        is_refused("another user's lock", &["belongs to user 65534", "remove it"], |scene| {
            fs::write(&scene.lock, "").expect("a file");
            chown(&scene.lock, Some(NOBODY), Some(NOBODY)).expect("root may");
        });
    }
}

#[test]
fn what_is_no_socket_in_its_place_is_refused() {
    let said = ["default.sock: it is not a control socket", "remove it"];
    is_refused("a link to a file", &said, |scene| {
        symlink(scene.elsewhere.join("file"), &scene.socket).expect("a link");
    });
    is_refused("a link to nothing", &said, |scene| {
        symlink(scene.elsewhere.join("nothing"), &scene.socket).expect("a link");
    });
    let mut listeners = Vec::new();
    is_refused("a link to a socket", &said, |scene| {
        let target = scene.elsewhere.join("other.sock");
        listeners.push(UnixListener::bind(&target).expect("a socket"));
        symlink(target, &scene.socket).expect("a link");
    });
    is_refused("a link to a stale socket", &said, |scene| {
        let target = scene.elsewhere.join("other.sock");
        drop(UnixListener::bind(&target).expect("a socket"));
        symlink(target, &scene.socket).expect("a link");
    });
    is_refused("a file", &said, |scene| fs::write(&scene.socket, "mine").expect("a file"));
    is_refused("a pipe", &said, |scene| mkfifo(&scene.socket, Mode::S_IRWXU).expect("a pipe"));
    is_refused("a folder", &said, |scene| fs::create_dir(&scene.socket).expect("a folder"));
}

#[test]
fn a_lock_that_is_no_file_is_refused() {
    let said = [".lock: it is not a lock file", "remove it"];
    is_refused("a lock that is a link to a file", &said, |scene| {
        symlink(scene.elsewhere.join("file"), &scene.lock).expect("a link");
    });
    is_refused("a lock that is a link to nothing", &said, |scene| {
        symlink(scene.elsewhere.join("nothing"), &scene.lock).expect("a link");
    });
    is_refused("a lock that is a folder", &said, |scene| fs::create_dir(&scene.lock).expect("a folder"));
    is_refused("a lock that is a pipe", &said, |scene| mkfifo(&scene.lock, Mode::S_IRWXU).expect("a pipe"));
}

#[test]
fn what_is_planted_where_a_profile_leads_leaves_the_socket_where_it_is() {
    let scene = Scene::new();
    write_profile(&scene.home, "default", "127.0.0.1:9");
    write_profile(&scene.home, "other", "127.0.0.1:9");
    let mut run = crate::client::start(&scene.home);
    let planted = socket_of(&scene.home, "other");
    symlink(scene.elsewhere.join("file"), &planted).expect("a link");
    let answer = crate::client::ask(&scene.socket, "PUT", "/v1/profile", br#"{"name":"other"}"#).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let kept = run.event("a warning", SOON, |event| {
        event["event"] == "warning" && event["message"].as_str().is_some_and(|text| text.contains("keeps its old name"))
    });
    println!("a link where the socket is to move: {}", kept["message"]);
    assert!(fs::symlink_metadata(&planted).expect("it is there").is_symlink());
    serves(&scene.socket);
    assert!(run.stop().status.success());
    assert!(fs::symlink_metadata(&planted).expect("it is there").is_symlink());
    assert!(get(&scene.socket, "/v1/engine").is_err());
}
