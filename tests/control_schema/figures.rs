//! What schemathesis has asked and how it was answered, out of its report.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// Cases by operation (`GET /v1/mappings`) and status.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, BTreeMap<u64, usize>>);

impl Figures {
    /// Reads a report, an event a line.
    pub(crate) fn add(&mut self, report: &str) {
        for line in report.lines() {
            let event: Value = serde_json::from_str(line).expect("a line is JSON");
            let recorder = &event["ScenarioFinished"]["recorder"];
            for (id, interaction) in recorder["interactions"].as_object().into_iter().flatten() {
                let case = &recorder["cases"][id]["value"];
                let [method, path] =
                    ["method", "path"].map(|field| case[field].as_str().expect("a case says what it asks"));
                let status = interaction["response"]["status_code"].as_u64().unwrap_or(0);
                *self.0.entry(format!("{method} {path}")).or_default().entry(status).or_default() += 1;
            }
        }
    }

    pub(crate) fn cases(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// How often an operation was carried out.
    pub(crate) fn successes(&self, operation: &str) -> usize {
        let statuses = self.0.get(operation).into_iter().flatten();
        statuses.filter(|(status, _)| (200..300).contains(*status)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_document = |statuses: &&BTreeMap<u64, usize>| !statuses.keys().all(|status| *status == 405);
        let operations = self.0.values().filter(of_document).count();
        writeln!(f, "{operations} operations, {} cases; by status:", self.cases())?;
        for (operation, statuses) in self.0.iter().filter(|(_, statuses)| of_document(statuses)) {
            writeln!(f, "  {operation}: {statuses:?}")?;
        }
        Ok(())
    }
}
