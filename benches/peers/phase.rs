//! Slow phases of the machine. Neighbours on shared hardware slow everything down for tens of seconds; what is measured
//! then says nothing of a proxy. Before and after each piece of work a fixed one of the bench's own is timed, on every
//! processor: while it is slow, the bench waits, and what fell into such a phase is done again.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Slower than this share of what the machine can do is a slow phase.
const SLOW: f64 = 0.75;

/// How long one probe takes.
const PROBE: Duration = Duration::from_millis(15);

/// Longest wait in one run, all together.
const PATIENCE: Duration = Duration::from_secs(600);

/// Watches the speed of the machine.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    seen: Vec<f64>,
    waited: Duration,
}

impl Phase {
    /// True if the machine is as fast as it usually is.
    pub(crate) fn is_fast(&mut self) -> Result<bool> {
        let speed = probe()?;
        self.seen.push(speed);
        Ok(speed >= SLOW * self.usual())
    }

    /// Waits for a fast phase; false if there was none in the time that the run has for this.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        let start = Instant::now();
        // Right after work, processes may still be ending; that is no phase.
        while !self.is_fast()? {
            if self.waited + start.elapsed() > PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.waited += start.elapsed();
        Ok(true)
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

/// Bytes per second that all processors together pass through the kernel.
fn probe() -> Result<f64> {
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..threads).map(|_| scope.spawn(probe_one)).collect();
        probes.into_iter().map(|probe| probe.join().expect("a probe does not panic")).sum()
    })
}

fn probe_one() -> Result<f64> {
    let (mut near, mut far) = UnixStream::pair()?;
    let mut buffer = vec![7; 32 * 1024];
    let (start, mut bytes) = (Instant::now(), 0_usize);
    while start.elapsed() < PROBE {
        near.write_all(&buffer)?;
        far.read_exact(&mut buffer)?;
        bytes += buffer.len();
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}
