//! What one transaction takes, counted instead of timed: instructions and system calls.
//!
//! The program runs under one that counts, once with few transactions on a connection and once with many. Starting,
//! the connection itself and ending are the same in both, so the difference is that of transactions alone. Nothing of
//! it is sensitive to what else the machine does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::load::Figures;

/// Of each pair of runs, the one with few transactions has one for so many of the other's.
const SHARE: u32 = 4;

/// How figures of these tests come about.
pub(crate) const HOW: &str = "Counted, of one connection: instructions in all by the processor's counters (perf stat; \
    – where the machine has none, as most virtual ones), those in user mode by valgrind (cachegrind), system calls by strace. \
    What the kernel takes is in the processor time of the timed tests.";

/// One who counts.
#[derive(Clone, Copy, Debug)]
struct Counter {
    /// The figure.
    key: &'static str,
    /// The program, and what makes it write to a file, of which `{}` is the path.
    command: &'static [&'static str],
    /// The count in what it wrote.
    count: fn(&str) -> Option<u64>,
}

const COUNTERS: [Counter; 3] = [
    Counter {
        key: "instructions",
        command: &["/usr/bin/perf", "stat", "-x,", "-e", "instructions", "-o", "{}", "--"],
        count: by_perf,
    },
    Counter {
        key: "user_instructions",
        command: &[
            "/usr/bin/valgrind",
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
            "--log-file={}",
        ],
        count: by_cachegrind,
    },
    Counter {
        key: "calls",
        command: &["/usr/bin/strace", "--follow-forks", "-c", "-U", "calls,name", "-o", "{}"],
        count: by_strace,
    },
];

impl Counter {
    fn command(&self, path: &Path) -> Vec<String> {
        self.command.iter().map(|word| word.replace("{}", &path.display().to_string())).collect()
    }

    /// Whether it counts anything on this machine.
    fn works(&self, path: &Path) -> bool {
        let command = self.command(path);
        let ended = (Command::new(&command[0]).args(&command[1..]).arg("/bin/true"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        ended.is_ok_and(|status| status.success()) && self.read(path).is_ok_and(|count| count > 0)
    }

    fn read(&self, path: &Path) -> Result<u64> {
        let text = fs::read_to_string(path)?;
        (self.count)(&text).with_context(|| format!("{} found nothing: {text:?}", self.command[0]))
    }
}

/// Counts by all who can; `run` runs what is counted under the command that it is given, with so many transactions.
pub(crate) fn count(
    transactions: u32,
    folder: &Path,
    mut run: impl FnMut(&[String], u32) -> Result<()>,
) -> Result<Figures> {
    let path = folder.join("count");
    let mut figures = Figures::new();
    for counter in COUNTERS.iter().filter(|counter| counter.works(&path)) {
        let mut counted = |transactions| -> Result<f64> {
            run(&counter.command(&path), transactions).with_context(|| format!("under {}", counter.command[0]))?;
            Ok(counter.read(&path)? as f64)
        };
        let few = transactions / SHARE;
        let (before, after) = (counted(few)?, counted(transactions)?);
        figures.insert(counter.key.to_owned(), (after - before) / f64::from(transactions - few));
    }
    ensure!(!figures.is_empty(), "neither perf nor valgrind nor strace can count here");
    Ok(figures)
}

/// `123,,instructions,…`, one line for each kind of processor; `<not supported>` in place of the number.
fn by_perf(text: &str) -> Option<u64> {
    let counts = text.lines().filter(|line| line.contains("instructions"));
    counts.map(|line| line.split(',').next()?.parse::<u64>().ok()).sum()
}

/// `==1== I refs: 1,234`
fn by_cachegrind(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().skip(1).take(2).eq(["I", "refs:"]))?;
    line.split_whitespace().nth(3)?.replace(',', "").parse().ok()
}

/// `123 recvfrom` for each call, and `456 total`.
fn by_strace(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().next()?.parse().ok()
}
