//! Metrics, judged and read by the parser of Prometheus' own client library.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

/// What a scraper says that knows `OpenMetrics`.
pub const ACCEPT_OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3";
/// Media types of both formats.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub const OLDER: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One series and its value.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Every series of a text.
#[derive(Debug)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// Reads a text of `OpenMetrics` by `metrics_check.py`, which refuses what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::read_as("openmetrics", text)
    }

    /// As [`Self::read`], of the older format.
    pub fn read_older(text: &str) -> Result<Self, String> {
        Self::read_as("0.0.4", text)
    }

    fn read_as(format: &str, text: &str) -> Result<Self, String> {
        let mut command = super::python();
        command.arg("-c").arg(include_str!("metrics_check.py")).arg(format);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = piped.spawn().expect("Python starts");
        // One that has seen enough does not take the rest.
        let _ = check.stdin.take().expect("it is piped").write_all(text.as_bytes());
        let told = check.wait_with_output().expect("it ends");
        if !told.status.success() {
            return Err(String::from_utf8_lossy(&told.stderr).into_owned());
        }
        let lines = String::from_utf8(told.stdout).expect("it prints UTF-8");
        let samples = lines.lines().map(|line| {
            let (name, rest) = line.split_once(' ').expect("the name stands first");
            let (labels, value) = rest.rsplit_once(' ').expect("and the value last");
            let labels = serde_json::from_str(labels).expect("labels are JSON");
            Sample { name: name.to_owned(), labels, value: value.parse().expect("a value is a number") }
        });
        Ok(Self(samples.collect()))
    }

    /// The value of one series, without the `portolan_` before its name; none if it is not there.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is_it = |sample: &&Sample| {
            sample.name.strip_prefix("portolan_") == Some(name)
                && sample.labels.len() == labels.len()
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.0.iter().find(is_it).map(|sample| sample.value)
    }

    /// As [`Self::find`], of one that has to be there.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.0))
    }
}
