//! Figures of a contestant that only stands there: an idle connection, a thousand mappings. They are read from the
//! outside, with a new process for each round.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::contestants::{Contestant, Plan, Running};
use crate::listening::Ports;
use crate::load::{Figures, HELD, Order};
use crate::memory::held;
use crate::mode::Mode;
use crate::rounds::start_load;

/// Mappings of the test of that name.
const MAPPINGS: u16 = 1_000;

/// Of those with a process for each mapping, so many are started, and the figures multiplied.
const SAMPLE: u16 = 50;

/// Of those with a process for each connection, so many connections stand for all.
const FORKED: usize = 200;

/// What one of them holds, with the kernel's share.
#[derive(Clone, Copy, Debug)]
struct Total {
    pss: f64,
    kernel: Option<f64>,
    descriptors: f64,
    processes: f64,
}

impl Total {
    fn of(running: &Running) -> Self {
        let held = held(&running.pids());
        Self {
            pss: held.pss as f64,
            kernel: running.kernel_bytes().map(|bytes| bytes as f64),
            descriptors: held.descriptors as f64,
            processes: held.processes as f64,
        }
    }

    /// Waits until two looks in a row find the same, roughly: what was just freed or is still being set up settles.
    fn settled(running: &Running) -> Self {
        let mut before = Self::of(running);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let now = Self::of(running);
            if (now.pss - before.pss).abs() < 32_768.0 && (now.descriptors - before.descriptors).abs() < 0.5 {
                return now;
            }
            before = now;
        }
        before
    }
}

/// What each of many idle connections takes.
pub(crate) fn idle(contestant: Contestant, running: &Running, order: &Order, connections: usize) -> Result<Figures> {
    let count = if contestant.is_process_per_connection() { connections.min(FORKED) } else { connections };
    // Each has had some connections, so that what it allocates once is not counted.
    held_by_load(running, &Order { work: crate::cases::Work::Idle { connections: 10 }, ..order.again() })?;
    let before = Total::settled(running);
    let with =
        held_by_load(running, &Order { work: crate::cases::Work::Idle { connections: count }, ..order.again() })?;
    let each = |before: f64, with: f64| (with - before) / count as f64;
    let mut figures = Figures::new();
    let pss = each(before.pss, with.pss);
    figures.insert("pss_bytes".into(), pss);
    if let (Some(before), Some(with)) = (before.kernel, with.kernel) {
        figures.insert("total_bytes".into(), pss + each(before, with));
    }
    figures.insert("descriptors".into(), each(before.descriptors, with.descriptors));
    figures.insert("processes".into(), each(before.processes, with.processes));
    Ok(figures)
}

/// What is held while a load holds its connections.
fn held_by_load(running: &Running, order: &Order) -> Result<Total> {
    let mut load = start_load(order)?;
    let (life, output) = (load.stdin.take(), load.stdout.take().expect("it is piped"));
    let mut output = BufReader::new(output);
    let mut said = String::new();
    output.read_line(&mut said)?;
    let total = (said.trim() == HELD).then(|| Total::settled(running));
    drop(life);
    output.read_to_string(&mut String::new())?;
    let ended = load.wait_with_output()?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr).trim());
    total.ok_or_else(|| anyhow!("the load said {said:?}"))
}

/// A thousand mappings: until all are listened on, and what they take.
pub(crate) fn mappings(contestant: Contestant, folder: &Path, portolan: &Path) -> Result<Figures> {
    let count = if contestant.is_process_per_mapping() { SAMPLE } else { MAPPINGS };
    let factor = f64::from(MAPPINGS) / f64::from(count);
    let plan = Plan { listen: Ports { first: 3_000, count }, target: 5_000, has_udp: false, mode: Mode::Plain };
    let start = Instant::now();
    let running = contestant.start(plan, folder, portolan)?;
    let ready = start.elapsed().as_secs_f64();
    let total = Total::settled(&running);
    let mut figures = Figures::from([
        ("ready_s".into(), ready * factor),
        ("pss_mb".into(), total.pss * factor / 1e6),
        ("processes".into(), total.processes * factor),
        ("started".into(), f64::from(count)),
    ]);
    if let Some(kernel) = total.kernel {
        figures.insert("total_mb".into(), (total.pss + kernel) * factor / 1e6);
    }
    Ok(figures)
}
