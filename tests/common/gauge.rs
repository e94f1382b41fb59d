//! What a process holds: memory, descriptors, threads, and the processor time that it has used.

use std::fs;
use std::time::{Duration, Instant};

/// What a process holds at one moment. Memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Duration,
    pub rss: u64,
    pub pss: u64,
    /// Of the resident memory, what is no file's: all but the program's code and tables.
    pub anonymous: u64,
    /// Descriptors but pipes, which the program pools.
    pub descriptors: usize,
    pub pipe_ends: usize,
    pub threads: usize,
}

impl Sample {
    /// Of a living process.
    pub fn take(pid: u32, since: Instant) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it is alive");
        let figure = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name)).expect("the kernel tells it");
            line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
        };
        let (mut descriptors, mut pipe_ends) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("it is alive") {
            // One that closes meanwhile is none.
            let Ok(link) = fs::read_link(entry.expect("an entry").path()) else { continue };
            if link.to_string_lossy().starts_with("pipe:") { pipe_ends += 1 } else { descriptors += 1 }
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive").count();
        let [rss, pss, anonymous] = ["Rss:", "Pss:", "Anonymous:"].map(figure);
        Self { at: since.elapsed(), rss, pss, anonymous, descriptors, pipe_ends, threads }
    }
}

/// Resident memory of a living process, in KiB.
pub fn resident(pid: u32) -> u64 {
    Sample::take(pid, Instant::now()).rss
}

/// Processor time of a living process so far.
pub fn used(pid: u32) -> Duration {
    time_in(&format!("/proc/{pid}"))
}

/// Processor time of a thread of a living process so far.
pub fn used_by(pid: u32, thread: &str) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive");
    let mut threads = threads.map(|entry| entry.expect("an entry").path().display().to_string());
    let is_it = |path: &String| fs::read_to_string(format!("{path}/comm")).is_ok_and(|name| name.trim_end() == thread);
    time_in(&threads.find(is_it).expect("it has the thread"))
}

fn time_in(place: &str) -> Duration {
    let stat = fs::read_to_string(format!("{place}/stat")).expect("it is alive");
    // The second field, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    // Linux gives every program 100 of them a second.
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The time that 99 of 100 did not exceed.
pub fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
