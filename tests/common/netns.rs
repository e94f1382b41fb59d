//! Network namespaces: hosts of a test's own, with documentation addresses, that leave the machine's network alone.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use super::output;

/// A network namespace, as a host by itself. One that was made here goes with its processes on drop.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    owned: bool,
}

impl Namespace {
    /// A new one with nothing but its loopback.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = std::env::var("PORTOLAN_TEST_PREFIX").unwrap_or_else(|_| "ptl".to_owned());
        let name = format!("{prefix}-{}-{}-{label}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        output(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { path: Path::new("/run/netns").join(name), owned: true };
        namespace.ip("link set lo up");
        namespace
    }

    /// That of the private Docker engine; its bridge is 203.0.113.1/24.
    #[track_caller]
    pub fn of_docker() -> Self {
        let path = std::env::var_os("PORTOLAN_TEST_DOCKER_NETNS").expect("Need::Docker was asked for");
        Self { path: path.into(), owned: false }
    }

    /// That of a process, of another's namespace of processes or not.
    pub fn of_process(pid: &str) -> Self {
        Self { path: Path::new("/proc").join(pid).join("ns/net"), owned: false }
    }

    /// A command that runs in it. The process is the command itself: a kill reaches it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(self.net_argument()).arg("--").arg(program);
        command
    }

    /// `--net=PATH` for nsenter.
    pub fn net_argument(&self) -> String {
        format!("--net={}", self.path.display())
    }

    /// `ip ARGUMENTS` in it.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        output(self.command("ip").args(arguments.split_whitespace()))
    }

    /// Sets a value under /proc/sys/net, which shows each process its own namespace.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        output(self.command("sh").args(["-c", "echo \"$2\" >\"/proc/sys/net/$1\"", "sh", key, value]));
    }

    /// Does something in it, on a thread of its own. A socket that is made there belongs there, whoever uses it.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(&self.path).expect("the namespace is there");
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The kernel's counters of everything that came and went, since it was made: `Tcp ActiveOpens` and the like.
    #[track_caller]
    pub fn counters(&self) -> HashMap<String, u64> {
        let mut counters = HashMap::new();
        // Two lines for each protocol, the names and the figures.
        let text = output(self.command("cat").arg("/proc/net/snmp"));
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let protocol = pair[0].split(':').next().expect("the protocol stands first");
            for (name, figure) in pair[0].split_whitespace().zip(pair[1].split_whitespace()).skip(1) {
                // Some, such as a limit of -1, are no counters.
                counters.extend(figure.parse().map(|figure| (format!("{protocol} {name}"), figure)));
            }
        }
        for line in output(self.command("cat").arg("/proc/net/snmp6")).lines() {
            let (name, figure) = line.split_once(char::is_whitespace).expect("a name and its figure");
            counters.extend(figure.trim().parse().map(|figure| (name.to_owned(), figure)));
        }
        counters
    }

    /// Joins two with a cable. Each end gets its interface name and its addresses, usable at once.
    #[track_caller]
    pub fn connect(&self, name: &str, addresses: &[&str], peer: &Self, peer_name: &str, peer_addresses: &[&str]) {
        // Both ends are made where they stay: the machine's own namespace never sees them.
        let peer_namespace = peer.path.file_name().expect("a namespace has a name").to_string_lossy().into_owned();
        self.ip(&format!("link add name {name} type veth peer name {peer_name} netns {peer_namespace}"));
        for (side, name, addresses) in [(self, name, addresses), (peer, peer_name, peer_addresses)] {
            for address in addresses {
                // Without duplicate detection, which would keep an IPv6 address from use for a second or two.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                side.ip(&format!("address add {address} dev {name} {nodad}"));
            }
            side.ip(&format!("link set dev {name} up"));
        }
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().expect("a namespace has a name")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // Everything in it was started by the test that made it.
        if let Ok(pids) = Command::new("ip").args(["netns", "pids"]).arg(self.name()).output() {
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
        }
        let _ = Command::new("ip").args(["netns", "delete"]).arg(self.name()).status();
    }
}
