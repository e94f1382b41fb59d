//! What was measured, raw, and where: the file from which every figure of the tables can be computed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cases::Case;
use crate::contestants::Contestant;
use crate::load::Figures;
use crate::packages;

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    /// Where and with what.
    pub(crate) setting: Setting,
    /// Every piece of work that counts.
    pub(crate) cells: Vec<Cell>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
    /// True if ours or the load itself could not do something: then the bench has failed.
    pub(crate) has_failed: bool,
    /// Pieces of work that were done again, since the machine was slow.
    pub(crate) discarded: u32,
    /// Seconds of waiting for the machine to be fast again.
    pub(crate) waited_s: f64,
    /// Seconds in all.
    pub(crate) took_s: f64,
}

/// One piece of work by one contestant.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    /// The test.
    pub(crate) case: &'static str,
    /// The round; figures of one round are a pair.
    pub(crate) round: u32,
    /// Who.
    pub(crate) contestant: &'static str,
    /// What was found.
    pub(crate) figures: Figures,
    /// True if the machine stayed slow or busy with something else.
    pub(crate) is_slow: bool,
}

/// Where and with what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    commit: String,
    kernel: String,
    processor: String,
    processors: usize,
    /// Rounds that each test was to have.
    pub(crate) rounds: u32,
    /// Length of one piece of work.
    millis: u64,
    versions: BTreeMap<&'static str, String>,
}

impl Setting {
    /// That of this machine.
    pub(crate) fn new(contestants: &[Contestant], portolan: &Path, rounds: u32, millis: u64) -> Self {
        let mut versions: BTreeMap<&'static str, String> = contestants
            .iter()
            .filter_map(|contestant| Some((contestant.name(), packages::version(contestant.packages().first()?)?)))
            .collect();
        versions.insert(Contestant::Portolan.name(), said(Command::new(portolan).arg("--version")));
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let folder = env!("CARGO_MANIFEST_DIR");
        Self {
            commit: said(Command::new("git").args(["-C", folder, "describe", "--always", "--dirty", "--abbrev=12"])),
            kernel: said(Command::new("uname").arg("-srm")),
            processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            rounds,
            millis,
            versions,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!(
            "{}; {} × {}; commit {}; {} rounds of {} ms; {}",
            self.kernel,
            self.processors,
            self.processor,
            self.commit,
            self.rounds,
            self.millis,
            versions.join(", ")
        )
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

impl Record {
    /// The pieces of work of a test that tables show: those of slow phases are left out, unless most are.
    pub(crate) fn shown(&self, case: &Case) -> impl Iterator<Item = &Cell> {
        let (id, is_mostly_slow) = (case.id, self.is_mostly_slow(case));
        self.cells.iter().filter(move |cell| cell.case == id && (is_mostly_slow || !cell.is_slow))
    }

    /// True if most of a test was measured in slow phases.
    pub(crate) fn is_mostly_slow(&self, case: &Case) -> bool {
        let of_case = || self.cells.iter().filter(|cell| cell.case == case.id);
        of_case().filter(|cell| cell.is_slow).count() * 2 > of_case().count()
    }

    /// The values of a figure, by round.
    pub(crate) fn values(&self, case: &Case, contestant: Contestant, key: &str) -> BTreeMap<u32, f64> {
        self.shown(case)
            .filter(|cell| cell.contestant == contestant.name())
            .filter_map(|cell| Some((cell.round, *cell.figures.get(key)?)))
            .collect()
    }

    /// The values of ours and of another one, of the rounds that have both.
    pub(crate) fn pairs(&self, case: &Case, other: Contestant, key: &str) -> Vec<(f64, f64)> {
        let others = self.values(case, other, key);
        let ours = self.values(case, Contestant::Portolan, key);
        ours.into_iter().filter_map(|(round, value)| Some((value, *others.get(&round)?))).collect()
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}
