//! What black-box tests share: what they need from the machine, and waiting for conditions.
//!
//! `tests/run` prepares the machine and says by the environment what it has. A test that goes without says so and
//! passes; with CI=true it fails instead, so that nothing is skipped unseen.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod control;
pub mod docker;
pub mod docker_proxy;
pub mod echo;
pub mod gauge;
pub mod hostile;
pub mod hosts;
pub mod metrics;
pub mod netns;
pub mod observer;
pub mod peers;
pub mod podman;
pub mod ports;
pub mod program;
pub mod pty;
pub mod renamed;
pub mod screen;
pub mod servers;
pub mod soak;
pub mod terminal;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

/// Long enough for a busy machine with two cores; a test that meets it has failed.
pub const SOON: Duration = Duration::from_secs(20);

/// Something that a machine need not have.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Network namespaces: root, `ip` and `nsenter`.
    Namespaces,
    /// The private Docker engine of `tests/run`.
    Docker,
    /// Podman, with what it takes to run a container without the machine's own networks.
    Podman,
    /// A terminal to run in.
    Tmux,
    /// A client.
    Curl,
    /// A small server.
    Python,
    /// The packages of `tests/requirements.txt`.
    PythonPackages,
    /// The kernel's own list of sockets.
    Ss,
    /// A hard limit of at least so many descriptors.
    Descriptors(u64),
    /// User namespaces, whose limits are a test's own.
    UserNamespaces,
    /// To be root, and thereby whoever else.
    Root,
    /// Docker's stock proxy.
    DockerProxy,
    /// A certificate for a server of a test's own.
    Openssl,
    /// Systemd's tools; it need not run itself.
    Systemd,
    /// A systemd that runs in namespaces of a test's own, on files of this machine that it may change in memory.
    OwnSystemd,
    /// A reader of manual pages that says what is wrong with them.
    Mandoc,
    /// nginx with its module for streams, and HAProxy.
    Servers,
}

impl Need {
    /// What is missing, or `None`.
    fn missing(self) -> Option<String> {
        let program = |name: &str| (!has_program(name)).then(|| name.to_owned());
        match self {
            Self::Namespaces if !nix::unistd::geteuid().is_root() => Some("root".to_owned()),
            Self::Namespaces => program("ip").or_else(|| program("nsenter")),
            Self::Docker if std::env::var_os("PORTOLAN_TEST_DOCKER").is_none() => Some(
                std::env::var("PORTOLAN_TEST_DOCKER_MISSING").unwrap_or_else(|_| "its own Docker engine".to_owned()),
            ),
            Self::Docker => None,
            Self::Podman => {
                let netavark = ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"];
                let netavark = (!netavark.iter().any(|path| Path::new(path).is_file())).then(|| "netavark".to_owned());
                ["podman", "crun", "docker", "busybox", "tar"].into_iter().find_map(program).or(netavark)
            }
            Self::Tmux => program("tmux"),
            Self::Curl => program("curl"),
            Self::Python => program("python3"),
            Self::PythonPackages => std::env::var_os("PORTOLAN_TEST_PYTHON")
                .is_none()
                .then(|| "the Python packages of tests/requirements.txt".to_owned()),
            Self::Ss => program("ss"),
            Self::Descriptors(count) => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
                (hard < count).then(|| format!("a hard limit of {count} descriptors (ulimit -Hn; it is {hard})"))
            }
            Self::UserNamespaces => {
                let made = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
                (!made.is_ok_and(|end| end.success())).then(|| "user namespaces".to_owned())
            }
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "root".to_owned()),
            Self::DockerProxy => program("docker-proxy"),
            Self::Openssl => program("openssl"),
            Self::Systemd => ["systemd-socket-activate", "systemd-analyze", "setpriv"].into_iter().find_map(program),
            Self::OwnSystemd => (!can_boot()).then(|| "root, systemd, overlays and control groups".to_owned()),
            Self::Mandoc => program("mandoc"),
            Self::Servers => ["nginx", "haproxy"].into_iter().find_map(program).or_else(|| {
                (!Path::new(servers::STREAM_MODULE).is_file()).then(|| "nginx's module for streams".to_owned())
            }),
        }
    }
}

/// Whether `tests/lib/systemd-inside.sh` can do what it does.
fn can_boot() -> bool {
    let script = "folder=$(mktemp -d) && trap 'umount $folder; rmdir $folder' EXIT || exit
        mount -t cgroup2 cgroup2 $folder && umount $folder && mount -t tmpfs tmpfs $folder || exit
        cd $folder && mkdir upper work root && options=lowerdir=/,upperdir=$folder/upper,workdir=$folder/work || exit
        mount -t overlay overlay -o $options root && test -x root/bin/sh; end=$?
        umount root; cd /; exit $end";
    let tried = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]).output();
    let has_systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].iter().any(|path| Path::new(path).is_file());
    has_systemd && tried.is_ok_and(|end| end.status.success())
}

/// Whether the machine has all of it. If not, the test is to return at once: it counts as skipped.
#[must_use]
pub fn require(needs: &[Need]) -> bool {
    let mut missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    missing.dedup();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "needs {missing}, and in CI a skip is a failure");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: needs {missing} (tests/run --install)");
    if let Some(list) = std::env::var_os("PORTOLAN_TEST_SKIPS") {
        let mut list = OpenOptions::new().append(true).open(list).expect("the list of skips can be written");
        writeln!(list, "{test}: needs {missing} (tests/run --install)").expect("the list of skips can be written");
    }
    false
}

fn has_program(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|folder| Path::new(&folder).join(name).is_file())
}

/// The interpreter that has the packages of `tests/requirements.txt`.
pub fn python() -> Command {
    Command::new(std::env::var_os("PORTOLAN_TEST_PYTHON").expect("Need::PythonPackages was asked for"))
}

/// Polls until `condition` holds, and fails with `what` after `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Polls until `look` finds something, and fails with `what` after `deadline`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end and gives what it printed; fails when it fails.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let result = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut text = String::from_utf8_lossy(&result.stdout).into_owned();
    if !result.status.success() {
        let _ = write!(text, "{}", String::from_utf8_lossy(&result.stderr));
        panic!("{command:?} ended with {}: {text}", result.status);
    }
    text
}

/// A process that ends with its test.
#[derive(Debug)]
pub struct Running(pub std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first child of a process.
pub fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A process and all that descend from it.
pub fn family_of(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(family_of);
    std::iter::once(pid).chain(below).collect()
}
