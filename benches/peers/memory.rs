//! Memory and descriptors of a contestant with all of its processes.

use std::collections::HashSet;

use procfs::process::all_processes;

/// What a contestant holds at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// Proportional set size: shared pages count in proportion to who shares them.
    pub(crate) pss: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    /// Processes.
    pub(crate) processes: u64,
}

/// The process and its descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| {
            let stat = process.ok()?.stat().ok()?;
            Some((u32::try_from(stat.pid).ok()?, u32::try_from(stat.ppid).ok()?))
        })
        .collect();
    let mut family = HashSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if family.len() == before {
            return family.into_iter().collect();
        }
    }
}

/// What these processes hold. One that has just ended holds nothing.
pub(crate) fn held(pids: &[u32]) -> Held {
    let mut held = Held::default();
    for pid in pids {
        let Ok(process) =
            i32::try_from(*pid).map_err(|_| ()).and_then(|pid| procfs::process::Process::new(pid).map_err(|_| ()))
        else {
            continue;
        };
        let Ok(rollup) = process.smaps_rollup() else { continue };
        let pss = rollup.memory_map_rollup.iter().filter_map(|map| map.extension.map.get("Pss")).sum::<u64>();
        held.pss += pss;
        held.descriptors += process.fd_count().unwrap_or(0) as u64;
        held.processes += 1;
    }
    held
}
