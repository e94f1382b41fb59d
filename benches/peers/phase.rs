//! Slow phases of the machine. Neighbours on shared hardware slow everything down for tens of seconds, and so do other
//! programs; what is measured then says nothing of a proxy. Before and after each piece of work a fixed one of the
//! bench's own is timed, on every processor: while it is slow, or does not have the processors for itself, the bench
//! waits, and what fell into such a phase is done again.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// Slower than this share of what the machine can do is a slow phase.
const SLOW: f64 = 0.75;

/// How long one probe takes.
const PROBE: Duration = Duration::from_millis(15);

/// A probe that has less than this share of the processors' time shares them with other programs.
const SHARED: f64 = 0.85;

/// Probes within which processes have done with the aftermath of some work.
const AFTERMATH: u32 = 20;

/// Watches the speed of the machine.
#[derive(Debug)]
pub(crate) struct Phase {
    seen: Vec<f64>,
    waited: Duration,
    patience: Duration,
}

/// What one probe found.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Bytes per second.
    speed: f64,
    /// Of the time that passed, the share that the probe had a processor.
    share: f64,
}

impl Phase {
    /// Waits no longer than that, all together.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { seen: Vec::new(), waited: Duration::ZERO, patience }
    }

    /// True if the machine is as fast as it usually is, and nobody else's.
    pub(crate) fn is_fast(&mut self) -> Result<bool> {
        let probe = probe()?;
        self.seen.push(probe.speed);
        Ok(probe.share >= SHARED && probe.speed >= SLOW * self.usual())
    }

    /// As [`Phase::is_fast`], right after work: what ends there with thousands of connections takes a moment, and is no
    /// phase, which lasts for many seconds.
    pub(crate) fn is_fast_soon(&mut self) -> Result<bool> {
        for _ in 0..AFTERMATH {
            if self.is_fast()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    /// Waits for a fast phase; false if there was none in the time that the run has for this.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        let mut is_fast = self.is_fast()?;
        let start = Instant::now();
        let waited = self.waited;
        while !is_fast && self.waited < self.patience {
            // Right after work, processes may still be ending; that is no phase.
            std::thread::sleep(Duration::from_millis(50));
            is_fast = self.is_fast()?;
            self.waited = waited + start.elapsed();
        }
        Ok(is_fast)
    }

    /// True if there is no time left to wait in.
    pub(crate) fn is_out_of_patience(&self) -> bool {
        self.waited >= self.patience
    }

    /// How long the run has waited.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Four of five probes are slower than this.
    fn usual(&self) -> f64 {
        let mut seen = self.seen.clone();
        seen.sort_unstable_by(f64::total_cmp);
        seen[seen.len() * 4 / 5]
    }
}

/// All processors together.
fn probe() -> Result<Probe> {
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..threads).map(|_| scope.spawn(probe_one)).collect();
        let mut all = Probe { speed: 0.0, share: f64::INFINITY };
        for probe in probes {
            let one = probe.join().expect("a probe does not panic")?;
            all = Probe { speed: all.speed + one.speed, share: all.share.min(one.share) };
        }
        Ok(all)
    })
}

/// Passes bytes through the kernel.
fn probe_one() -> Result<Probe> {
    let processor_time = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let (mut near, mut far) = UnixStream::pair()?;
    let mut buffer = vec![7; 32 * 1024];
    let (start, used, mut bytes) = (Instant::now(), processor_time()?, 0_usize);
    while start.elapsed() < PROBE {
        near.write_all(&buffer)?;
        far.read_exact(&mut buffer)?;
        bytes += buffer.len();
    }
    let used = processor_time()?.saturating_sub(used).as_secs_f64();
    let seconds = start.elapsed().as_secs_f64();
    Ok(Probe { speed: bytes as f64 / seconds, share: used / seconds })
}
