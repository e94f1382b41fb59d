//! Whether memory grows, and the log of a long run.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::common::gauge::Sample;

/// By how many KiB memory grows in ten minutes: the slope of the line with the least squares.
pub(crate) fn slope(samples: &[Sample], memory: impl Fn(&Sample) -> u64) -> f64 {
    let points: Vec<(f64, f64)> =
        samples.iter().map(|sample| (sample.at.as_secs_f64() / 600.0, memory(sample) as f64)).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in &points {
        covariance += (x - mean_x) * (y - mean_y);
        variance += (x - mean_x).powi(2);
    }
    covariance / variance
}

/// The median of what `memory` says.
pub(crate) fn median(samples: &[Sample], memory: impl Fn(&Sample) -> u64) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(memory).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// Lines on stdout and in a file, which outlives a run that is cut off.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Begins with what was tested.
    pub(crate) fn start(length: Duration) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak.log");
        let mut log = Self { file: File::create(&path).expect("the log can be made"), path };
        log.line(&format!("commit {}; mixed load with faults for {length:?}", commit()));
        log
    }

    /// One more line.
    pub(crate) fn line(&mut self, text: &str) {
        println!("{text}");
        writeln!(self.file, "{text}").unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

/// The commit of the sources, and whether they have changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(mut commit) = git(&["rev-parse", "HEAD"]) else { return "unknown (no git)".to_owned() };
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty()) {
        let _ = write!(commit, " with changes");
    }
    commit
}

#[test]
fn the_slope_of_a_line_is_found_through_its_noise() {
    let samples: Vec<Sample> = (0_u64..600)
        .map(|second| Sample {
            at: Duration::from_secs(second),
            rss: 20_000 + second * 2 + second * 7_919 % 100,
            pss: 15_000,
            anonymous: 0,
            descriptors: 0,
            pipe_ends: 0,
            threads: 0,
        })
        .collect();
    let grown = slope(&samples, |sample| sample.rss);
    assert!((1_150.0..1_250.0).contains(&grown), "{grown} KiB in ten minutes, of 1,200");
    assert!(slope(&samples, |sample| sample.pss).abs() < 0.001);
}
