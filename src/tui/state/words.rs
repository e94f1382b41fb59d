//! Sentences that both the news line and the form say.

use crate::model::request::ProbeResult;
use crate::model::update::LastOutcome;

use super::{MappingItem, Severity};
use crate::model::event::MappingState;
use crate::model::format;
use crate::model::untrusted::SafeText;

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

/// What became of a mapping that was just added: `message` where all went well. Nothing while it is not known.
pub fn saved_words(item: &MappingItem, message: &SafeText) -> Option<(Severity, String)> {
    let row = &item.row;
    Some(match row.state {
        MappingState::Starting => return None,
        MappingState::Up => (Severity::None, message.to_string()),
        MappingState::Stopped => (Severity::None, format!("added {}; it is stopped: t starts it", row.name)),
        MappingState::Half | MappingState::Waiting | MappingState::Failed | MappingState::Degraded => {
            let reason = row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            (item.severity(), format!("saved as {}{reason}", format::mapping_state_word(row.state)))
        }
    })
}
