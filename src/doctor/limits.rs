//! The limits of the engine that runs the mapping: descriptors, its own `max_connections`.

use super::finding::Finding;
use super::subject::{LimitView, Subject};
use crate::model::mapping::Protocol;
use crate::model::report::{CauseKind, StepKind, Verdict};

/// The step, and what is wrong.
pub(super) fn judge(subject: &Subject) -> Finding {
    let Some(engine) = &subject.engine else {
        return Finding::step(StepKind::Limits, None, Verdict::Skipped, "only the portolan that runs it knows them");
    };
    let (used, most) = engine.descriptors;
    let mut finding = Finding::default();
    match &engine.limit {
        Some(LimitView::Descriptors(text)) => {
            finding.add(StepKind::Limits, None, Verdict::Bad, text.as_str());
            out_of_descriptors(&mut finding, text.as_str());
        }
        Some(LimitView::Memory(text) | LimitView::Aliases(text)) => {
            finding.add(StepKind::Limits, None, Verdict::Bad, text.as_str());
        }
        Some(LimitView::Connections(text)) => {
            finding.add(StepKind::Limits, None, Verdict::Bad, text.as_str());
            let name = &subject.config.name;
            finding.cause(
                CauseKind::ConnectionLimit,
                &format!("{name} has as many connections as it may have: {text}."),
                &["e: a higher max_connections", "K resets a connection that is not needed"],
            );
        }
        None => {
            let most_connections = subject.config.max_connections;
            let connections = engine.connections;
            let of = most_connections.map(|most| format!(" of {most}")).unwrap_or_default();
            let text = format!("{used} of {most} descriptors, {connections}{of} connections");
            // What the next one takes.
            let needed = if subject.protocol() == Protocol::Udp { 1 } else { 2 };
            if used + needed > most {
                finding.add(StepKind::Limits, None, Verdict::Bad, &text);
                out_of_descriptors(&mut finding, &text);
            // A new UDP flow takes the place of an old one.
            } else if needed > 1 && most_connections.is_some_and(|most| connections >= u64::from(most)) {
                finding.add(StepKind::Limits, None, Verdict::Bad, &text);
                let name = &subject.config.name;
                finding.cause(
                    CauseKind::ConnectionLimit,
                    &format!("{name} has as many connections as it may have ({connections}{of})."),
                    &["e: a higher max_connections", "K resets a connection that is not needed"],
                );
            } else {
                finding.add(StepKind::Limits, None, Verdict::Ok, &text);
            }
        }
    }
    finding
}

pub(super) fn out_of_descriptors(finding: &mut Finding, text: &str) {
    finding.cause(
        CauseKind::DescriptorLimit,
        &format!("portolan is out of file descriptors: {text}."),
        &["ulimit -n, or LimitNOFILE= of the service, before portolan starts"],
    );
}
