//! Sentences that both the news line and the form say.

use crate::model::request::ProbeResult;
use crate::model::update::LastOutcome;

use super::Severity;
use crate::tui::format;

/// `172.17.0.2:80 answers in 0.4ms; [fd00::2]:80 refused`.
pub fn probe_words(target: &str, results: &[ProbeResult], reason: Option<&str>) -> (Severity, String) {
    if results.is_empty() {
        return (Severity::Error, format!("{target}: {}", reason.unwrap_or("it has no address now")));
    }
    let words: Vec<_> = results
        .iter()
        .map(|result| match result.outcome {
            LastOutcome::Ok => format!("{} answers in {}", result.address, format::latency(result.took_us)),
            other => format!("{} {}", result.address, format::outcome(other)),
        })
        .collect();
    let severity = match results.iter().filter(|result| result.outcome == LastOutcome::Ok).count() {
        0 => Severity::Error,
        some if some < results.len() => Severity::Warn,
        _ => Severity::None,
    };
    (severity, words.join("; "))
}
