//! What tells this machine from another one: its kernel and its memory, and whether processes of containers run here.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// This machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The release of the kernel, as `uname -r` prints it.
    pub kernel: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

impl Machine {
    /// As it is now.
    pub fn read() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_in(&text));
        Self { kernel: kernel.map(|text| text.trim().to_owned()), memory }
    }
}

/// Out of `/proc/meminfo`.
pub(super) fn memory_in(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The network that the processes of a container have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessNetwork {
    /// This process's own.
    Ours,
    /// Another one.
    Another,
    /// It may not be looked at without root.
    Unseen,
}

/// Those of the containers `ids` that have a process on this machine as far as it is in sight, and its network. A
/// process belongs to the container whose full id is in the name of its control group; processes in other pid
/// namespaces than ours and those below are not in sight.
pub fn networks_of(ids: &[&str]) -> HashMap<String, ProcessNetwork> {
    let mut found = HashMap::new();
    let own = fs::read_link("/proc/self/ns/net").ok();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let is_process = process.file_name().to_str().is_some_and(|name| name.bytes().all(|c| c.is_ascii_digit()));
        if found.len() == ids.len() || !is_process {
            continue;
        }
        let Some(id) = container_of(&process.path(), ids).filter(|id| !found.contains_key(*id)) else { continue };
        let network = match (fs::read_link(process.path().join("ns/net")), &own) {
            (Ok(network), Some(own)) if network == *own => ProcessNetwork::Ours,
            (Ok(_), Some(_)) => ProcessNetwork::Another,
            _ => ProcessNetwork::Unseen,
        };
        found.insert(id.to_owned(), network);
    }
    found
}

fn container_of<'a>(process: &Path, ids: &[&'a str]) -> Option<&'a str> {
    // Gone in the meantime, or hidden: the same as not there.
    let groups = fs::read_to_string(process.join("cgroup")).ok()?;
    id_in(&groups, ids)
}

/// The id that is in the name of a control group.
fn id_in<'a>(groups: &str, ids: &[&'a str]) -> Option<&'a str> {
    let own = container_in(groups)?;
    ids.iter().find(|id| **id == own).copied()
}

/// The full id of the container that a process is in, by its control groups: of one in another, the inner one's.
pub(super) fn container_in(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.split(|c: char| !c.is_ascii_hexdigit()).rfind(|word| word.len() == ID_DIGITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let machine = Machine::read();
        let uname = std::process::Command::new("uname").arg("-r").output().expect("uname").stdout;
        assert_eq!(machine.kernel.as_deref(), Some(String::from_utf8_lossy(&uname).trim()));
        assert!(machine.memory.is_some_and(|bytes| bytes > 1 << 24), "{machine:?}");
    }

    #[test]
    fn a_process_is_its_containers_by_the_name_of_its_control_group() {
        let (one, two) = ("a".repeat(64), "b1".repeat(32));
        let ids = [one.as_str(), two.as_str()];
        for (groups, expected) in [
            (format!("0::/system.slice/docker-{one}.scope\n"), Some(one.as_str())),
            (format!("12:cpu:/docker/{two}\n0::/\n"), Some(two.as_str())),
            (format!("0::/machine.slice/libpod-{two}.scope/container\n"), Some(two.as_str())),
            (format!("0::/../../docker/{one}\n"), Some(one.as_str())),
            (format!("0::/docker/{one}/docker/{two}\n"), Some(two.as_str())),
            (format!("0::/docker/{one}/docker/{}\n", "c".repeat(64)), None),
            (format!("0::/docker/{one}0\n"), None),
            (format!("0::/docker/{}\n", "c".repeat(64)), None),
            (String::new(), None),
        ] {
            assert_eq!(id_in(&groups, &ids), expected, "{groups}");
        }
        assert!(networks_of(&ids).is_empty(), "nobody is in such a group");
        assert!(networks_of(&[]).is_empty());
    }
}
