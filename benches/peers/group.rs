//! Control groups: the processor time of a contestant with all of its processes, those that have ended included, and
//! its memory with the kernel's share. Where none can be made (not root, a container), the figures that need one are
//! left out, and processor time comes from /proc.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

use crate::cpu::CpuMeter;

/// Folders of control groups of this run start so; the name of the run keeps others' apart.
fn prefix(run: &str) -> String {
    format!("portolan-peers-{run}-")
}

/// Where control groups of the first version are mounted, each with its controllers' file.
const CPU_V1: &str = "/sys/fs/cgroup/cpuacct";
const MEMORY_V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// The control group of one contestant. It goes on drop, after its processes.
#[derive(Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// A new one, or none where this machine gives none.
    ///
    /// Each has a new name: what the kernel still holds for one of before would count.
    pub(crate) fn new(run: &str, label: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{label}-{}", prefix(run), COUNT.fetch_add(1, Ordering::Relaxed));
        let is_two = Path::new(V2).join("cgroup.controllers").exists();
        let (version, parents) =
            if is_two { (Version::Two, &[V2][..]) } else { (Version::One, &[CPU_V1, MEMORY_V1][..]) };
        let group = Self { folders: parents.iter().map(|parent| Path::new(parent).join(&name)).collect(), version };
        group.folders.iter().all(|folder| fs::create_dir(folder).is_ok()).then_some(group)
    }

    /// A process joins by writing its pid to each of these.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// The processes in it, wherever they come from: a forked one need not be a descendant for long.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.folders[0].join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Where processor time is read.
    pub(crate) fn cpu(&self) -> CpuMeter {
        match self.version {
            Version::One => CpuMeter::Nanoseconds(self.folders[0].join("cpuacct.usage")),
            Version::Two => CpuMeter::CpuStat(self.folders[0].join("cpu.stat")),
        }
    }

    /// Bytes of the kernel: tables, stacks, sockets and what they hold.
    pub(crate) fn kernel_bytes(&self) -> Option<u64> {
        match self.version {
            Version::One => {
                let number =
                    |file: &str| fs::read_to_string(self.folders[1].join(file)).ok()?.trim().parse::<u64>().ok();
                Some(number("memory.kmem.usage_in_bytes")? + number("memory.kmem.tcp.usage_in_bytes")?)
            }
            Version::Two => {
                let text = fs::read_to_string(self.folders[0].join("memory.stat")).ok()?;
                let number = |key: &str| {
                    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok())
                };
                Some(number("kernel")? + number("sock")?)
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Fails while a process is still ending; `remove_all` comes later.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Removes the control groups of a run, once their processes have ended.
pub(crate) fn remove_all(run: &str) {
    let prefix = prefix(run);
    for parent in [CPU_V1, MEMORY_V1, V2] {
        for entry in fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // One that is in use refuses.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}
