//! What a check gives: steps, and the causes that it has found.

use crate::model::mapping::Family;
use crate::model::report::{Cause, CauseKind, Step, StepKind, Verdict};
use crate::model::untrusted::SafeText;

/// What a check gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) steps: Vec<Step>,
    pub(super) causes: Vec<Cause>,
}

impl Finding {
    /// One step without a cause.
    pub(super) fn step(kind: StepKind, family: Option<Family>, verdict: Verdict, text: &str) -> Self {
        let mut finding = Self::default();
        finding.add(kind, family, verdict, text);
        finding
    }

    pub(super) fn add(&mut self, kind: StepKind, family: Option<Family>, verdict: Verdict, text: &str) {
        self.steps.push(Step { kind, family, verdict, text: SafeText::new(text) });
    }

    /// A cause, told once.
    pub(super) fn cause(&mut self, kind: CauseKind, text: &str, remedies: &[&str]) {
        if self.causes.iter().all(|cause| cause.kind != kind) {
            self.causes.push(Cause {
                kind,
                text: SafeText::new(text),
                remedies: remedies.iter().map(|remedy| SafeText::new(remedy)).collect(),
            });
        }
    }
}

/// Several things in a row, at most three of them.
pub(super) fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    match all.len() {
        0..=3 => all.join(", "),
        more => format!("{}, … ({more} in all)", all[..3].join(", ")),
    }
}
