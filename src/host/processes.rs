//! Which process owns a socket: `/proc/*/fd`, read in one pass for all the sockets asked for.
//!
//! Only processes that this user may look into are seen; what cannot be seen is not guessed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::sockets::Finder;
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;

/// Most arguments of a process that are read.
const MOST_ARGUMENTS: usize = 4_096;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Command name, at most 15 characters: what `ps` and `ss` show.
    pub(super) name: SafeText,
}

/// The local process behind each client, such as `curl 4242`; `None` where the client is on another machine, in
/// another namespace, or of another user. `pairs` are client and listener addresses as the kernel gives them.
/// One pass through `/proc` answers for all of them, and none is made when no client is local.
pub fn clients(protocol: Protocol, pairs: &[(SocketAddr, SocketAddr)]) -> io::Result<Vec<Option<SafeText>>> {
    let mut finder = Finder::open(protocol)?;
    let inodes: Vec<Option<u64>> = pairs
        .iter()
        .map(|(client, listener)| finder.find(protocol, *client, *listener))
        .map(|socket| socket.map(|socket| socket.inode).filter(|inode| *inode != 0))
        .collect();
    let owners = owners(&inodes.iter().flatten().copied().collect());
    Ok(inodes
        .into_iter()
        .map(|inode| owners.get(&inode?))
        .map(|process| process.map(|process| SafeText::new(&format!("{} {}", process.name, process.pid))))
        .collect())
}

/// A process of this machine, known for itself and not by a pid that may be another's by now.
#[derive(Debug)]
pub struct Life(procfs::process::Process);

impl Life {
    /// Of a process; `None` where it has ended or cannot be seen.
    pub fn of(pid: i32) -> Option<Self> {
        procfs::process::Process::new(pid).ok().map(Self)
    }

    /// Whether it still runs; one that has ended and is not waited for does not.
    pub fn goes_on(&self) -> bool {
        self.0.is_alive()
    }
}

/// Processor time that this thread has had. Zero where the kernel does not count it.
pub fn thread_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

/// The arguments of a process, its name first; empty where it cannot be seen or is gone.
pub fn arguments(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = raw.split(|byte| *byte == 0).take(MOST_ARGUMENTS);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The process that holds each socket: of several (a server that forked its workers) the lowest pid. This
/// process is looked at last, since it may hold thousands of sockets and is seldom the one looked for.
pub(super) fn owners(inodes: &HashSet<u64>) -> HashMap<u64, Process> {
    let mut found = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    let myself = std::process::id();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by_key(|pid| (*pid == myself, *pid));
    for pid in pids {
        let mut name = None;
        for inode in socket_inodes(pid) {
            if inodes.contains(&inode) {
                let name = name.get_or_insert_with(|| command_name(pid));
                found.entry(inode).or_insert_with(|| Process { pid, name: name.clone() });
            }
        }
        if found.len() == inodes.len() {
            break;
        }
    }
    found
}

pub(super) fn socket_inodes(pid: u32) -> impl Iterator<Item = u64> {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// A process may name itself as it likes, so the name is outside text.
fn command_name(pid: u32) -> SafeText {
    let raw = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    SafeText::from_bytes(raw.strip_suffix(b"\n").unwrap_or(&raw))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_thread_knows_what_it_has_cost() {
        let before = thread_time();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while thread_time() == before {
            assert!(std::time::Instant::now() < end, "it has worked all the time");
        }
    }

    #[test]
    fn a_client_of_this_process_is_named_with_its_pid() {
        let listener = TcpListener::bind("[::1]:0").expect("bind");
        let at = listener.local_addr().expect("address");
        let client = TcpStream::connect(at).expect("connect");
        let elsewhere = "198.51.100.7:60112".parse().expect("address");
        let names =
            clients(Protocol::Tcp, &[(client.local_addr().expect("local"), at), (elsewhere, at)]).expect("read");
        let own = command_name(std::process::id());
        assert_eq!(names[0].as_ref().map(SafeText::as_str), Some(format!("{own} {}", std::process::id()).as_str()));
        assert_eq!(names[1], None);
    }
}
