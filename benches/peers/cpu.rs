//! Processor time of a contestant, finer than the ten milliseconds of /proc/PID/stat.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Where processor time is read. The load reads it, at the very start and end of what it times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum CpuMeter {
    /// Nobody's: there is no proxy.
    Nobody,
    /// A file with one number: cpuacct.usage.
    Nanoseconds(PathBuf),
    /// A cpu.stat of a control group of the second version.
    CpuStat(PathBuf),
    /// The processes themselves; the time of threads and processes that have ended is lost.
    Processes(Vec<u32>),
}

impl CpuMeter {
    /// The time used so far, or `None` if there is nobody to use any.
    pub(crate) fn read(&self) -> Result<Option<Duration>> {
        Ok(match self {
            Self::Nobody => None,
            Self::Nanoseconds(path) => Some(Duration::from_nanos(fs::read_to_string(path)?.trim().parse()?)),
            Self::CpuStat(path) => {
                let text = fs::read_to_string(path)?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Some(Duration::from_micros(usage.context("no usage_usec in cpu.stat")?.parse()?))
            }
            Self::Processes(pids) => Some(pids.iter().map(|pid| of_process(*pid)).sum()),
        })
    }
}

/// The sum over the threads that live: the first figure of schedstat is time on a processor in nanoseconds.
fn of_process(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    tasks
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        })
        .map(Duration::from_nanos)
        .sum()
}
