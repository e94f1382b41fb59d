//! The processes of a container, found by the control groups that Docker puts them in: that one of them is seen is
//! proof that the engine runs on this host.

use std::fs;
use std::io;

use super::listeners::{self, Listening};
use super::machine::container_in;
use crate::model::mapping::Protocol;

/// Most processes that are looked at.
const MOST_PROCESSES: usize = 32_768;
/// Digits of a full container id; a shorter text could stand in a path by chance.
const ID_DIGITS: usize = 64;

/// A process of the container with that full id: the one with the lowest pid.
pub fn process_of(container: &str) -> Option<u32> {
    if container.len() != ID_DIGITS || !container.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(MOST_PROCESSES)
        .filter(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            groups.is_ok_and(|groups| container_in(&groups) == Some(container))
        })
        .collect();
    pids.sort_unstable();
    pids.first().copied()
}

/// Who listens in the container with that full id, with names; `None` when none of its processes is seen here.
pub fn listeners_of(container: &str) -> Option<io::Result<Vec<Listening>>> {
    let pid = process_of(container)?;
    let both = [Protocol::Tcp, Protocol::Udp].map(|protocol| listeners::of(pid, protocol));
    let all: io::Result<Vec<Vec<Listening>>> = both.into_iter().collect();
    Some(all.map(|all| {
        let mut all: Vec<Listening> = all.into_iter().flatten().filter(|one| !is_docker_dns(one)).collect();
        all.sort_by_key(|one| (one.listener.address.port(), one.listener.protocol, one.listener.address));
        listeners::name(&mut all);
        all
    }))
}

/// Docker's own name server, which it puts into every container on a network of the user's.
pub fn is_docker_dns(listening: &Listening) -> bool {
    listening.listener.address.ip() == std::net::IpAddr::from([127, 0, 0, 11])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_id_is_looked_for() {
        for id in ["", "f00d", &"g".repeat(64), &"/".repeat(64)] {
            assert_eq!(process_of(id), None, "{id}");
        }
        assert_eq!(process_of(&"0".repeat(64)), None);
    }
}
