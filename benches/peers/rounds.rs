//! Who works when. In each round of a test everybody does the same work once, in an order that rotates, so that nobody
//! always follows the same one, and figures of one round can be compared as a pair.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::cases::{Case, Work};
use crate::contestants::{Contestant, Plan, Running, TARGET};
use crate::counting;
use crate::cpu::CpuMeter;
use crate::listening::Ports;
use crate::load::{Figures, MODE, Order};
use crate::options::Options;
use crate::phase::Phase;
use crate::record::{Cell, Record, Setting};
use crate::standing;

/// Attempts at a piece of work that falls into slow phases.
const ATTEMPTS: u32 = 4;

/// Measures everything that was asked for.
pub(crate) fn run(options: &Options, cases: &[&'static Case], who: &[Contestant], folder: &Path) -> Result<Record> {
    let (start, portolan) = (Instant::now(), options.portolan()?);
    let setting = Setting::new(who, &portolan, options.rounds(), options.millis());
    let record = Record {
        setting,
        cells: Vec::new(),
        failures: Vec::new(),
        has_failed: false,
        discarded: 0,
        waited_s: 0.0,
        took_s: 0.0,
    };
    let phase = Phase::new(options.patience());
    let mut bench = Bench { folder: folder.to_owned(), portolan, millis: options.millis(), phase, record };
    for (nth, case) in cases.iter().enumerate() {
        let elapsed = start.elapsed().as_secs();
        eprintln!("peers: {:>2}:{:02}  {}/{} {}", elapsed / 60, elapsed % 60, nth + 1, cases.len(), case.id);
        bench.run_case(case, who)?;
    }
    bench.record.waited_s = bench.phase.waited().as_secs_f64();
    bench.record.took_s = start.elapsed().as_secs_f64();
    Ok(bench.record)
}

struct Bench {
    folder: PathBuf,
    portolan: PathBuf,
    millis: u64,
    phase: Phase,
    record: Record,
}

impl Bench {
    fn run_case(&mut self, case: &'static Case, who: &[Contestant]) -> Result<()> {
        let mut who: Vec<Contestant> = who.iter().copied().filter(|who| case.is_for(*who)).collect();
        let rounds = self.record.setting.rounds.min(case.most_rounds);
        let mut running = BTreeMap::new();
        // Those that stand are started anew for each figure.
        if !is_standing(case.work) {
            for contestant in &who {
                running.insert(*contestant, self.start(*contestant, case)?);
            }
            // Once with every byte compared. Who fails here is told of, and not measured.
            let mut sound = Vec::new();
            for contestant in who {
                let result = load(&self.order(contestant, case, &running[&contestant], true)?);
                if self.is_success(case, contestant, result).is_some() {
                    sound.push(contestant);
                }
            }
            who = sound;
        }
        for round in 0..rounds {
            for nth in 0..who.len() {
                let contestant = who[(nth + round as usize) % who.len()];
                self.run_cell(case, round, contestant, running.get(&contestant))?;
            }
        }
        Ok(())
    }

    fn start(&self, contestant: Contestant, case: &Case) -> Result<Running> {
        contestant.start(plan(contestant, case), &self.folder, &self.portolan)
    }

    /// One piece of work, in a fast phase if there is one. What is counted is the same in a slow one.
    fn run_cell(&mut self, case: &'static Case, round: u32, who: Contestant, running: Option<&Running>) -> Result<()> {
        let is_timed = !matches!(case.work, Work::Count { .. });
        for attempt in 1..=ATTEMPTS {
            let is_fast_before = !is_timed || self.phase.wait()?;
            let result = self.work(case, who, running);
            let Some(figures) = self.is_success(case, who, result) else { return Ok(()) };
            let is_slow = is_timed && !(is_fast_before && self.phase.is_fast_soon()?);
            if is_slow && attempt < ATTEMPTS && !self.phase.is_out_of_patience() {
                self.record.discarded += 1;
                continue;
            }
            self.record.cells.push(Cell { case: case.id, round, contestant: who.name(), figures, is_slow });
            return Ok(());
        }
        Ok(())
    }

    fn work(&self, case: &Case, contestant: Contestant, running: Option<&Running>) -> Result<Figures> {
        match (case.work, running) {
            (Work::Mappings, _) => standing::mappings(contestant, &self.folder, &self.portolan),
            (Work::Idle { connections }, _) => {
                let running = self.start(contestant, case)?;
                let order = self.order(contestant, case, &running, false)?;
                standing::idle(contestant, &running, &order, connections)
            }
            (Work::Count { transactions }, _) => counting::count(transactions, &self.folder, |above, transactions| {
                let running = contestant.start_under(above, plan(contestant, case), &self.folder, &self.portolan)?;
                let order = self.order(contestant, case, &running, false)?;
                load(&Order { work: Work::Count { transactions }, ..order })?;
                running.finish()
            }),
            (_, Some(running)) => load(&self.order(contestant, case, running, false)?),
            (_, None) => bail!("{} does not run", contestant.name()),
        }
    }

    fn order(&self, contestant: Contestant, case: &Case, running: &Running, is_check: bool) -> Result<Order> {
        let order = Order {
            work: case.work,
            told: case.mode.told_by(contestant),
            client: contestant.client(contestant.port()),
            target: TARGET,
            millis: if is_check { 100 } else { self.millis },
            is_check,
            cpu: running.cpu(),
        };
        ensure!(order.cpu.read().is_ok(), "the processor time of {} cannot be read", contestant.name());
        Ok(order)
    }

    /// What somebody cannot do is told, and the rest goes on.
    fn is_success(&mut self, case: &Case, who: Contestant, result: Result<Figures>) -> Option<Figures> {
        match result {
            Ok(figures) => Some(figures),
            Err(error) => {
                let failure = format!("{}, {}: {error:#}", case.id, who.name());
                eprintln!("peers: failed: {failure}");
                self.record.has_failed |=
                    matches!(who, Contestant::Direct | Contestant::Portolan | Contestant::PlainPortolan);
                self.record.failures.push(failure);
                None
            }
        }
    }
}

fn is_standing(work: Work) -> bool {
    matches!(work, Work::Mappings | Work::Idle { .. } | Work::Count { .. })
}

/// One mapping, with the contestant's own port.
fn plan(contestant: Contestant, case: &Case) -> Plan {
    let listen = Ports { first: contestant.port(), count: 1 };
    Plan { listen, target: TARGET.port(), has_udp: case.work.is_udp(), mode: case.mode }
}

/// A load as a process of its own, with its input and output in hand.
pub(crate) fn start_load(order: &Order) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args([MODE, &serde_json::to_string(order)?])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the load")
}

/// Lets a load do its work.
fn load(order: &Order) -> Result<Figures> {
    let output = start_load(order)?.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the load said no figures")
}

impl Order {
    /// The same once more.
    pub(crate) fn again(&self) -> Self {
        Self { work: self.work, client: self.client, target: self.target, cpu: CpuMeter::clone(&self.cpu), ..*self }
    }
}
