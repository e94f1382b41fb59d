//! `doctor`: reports on stdout, and the exit status that says whether a cause was found.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use tokio::runtime::Runtime;

use crate::docker::Endpoint;
use crate::model::profile::MappingConfig;
use crate::service;

/// Looks at each mapping, and prints what was found.
pub(super) fn run(runtime: Runtime, configs: Vec<MappingConfig>, json: bool) -> anyhow::Result<ExitCode> {
    let reports = runtime.block_on(service::examine(configs, Endpoint::from_env()));
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    let text = if json {
        serde_json::to_string_pretty(&reports).context("a report is not JSON")? + "\n"
    } else {
        let mut text = String::new();
        for report in &reports {
            let gap = if text.is_empty() { "" } else { "\n" };
            write!(text, "{gap}{report}")?;
            writeln!(text, " {}", report.who)?;
            let addresses: Vec<String> = report.will_be_at.iter().map(ToString::to_string).collect();
            if !addresses.is_empty() {
                writeln!(text, " will be at {}", addresses.join("  "))?;
            }
        }
        if reports.is_empty() {
            text.push_str("there is no mapping to look at\n");
        }
        text
    };
    let is_healthy = reports.iter().all(crate::model::report::Report::is_healthy);
    let printed = super::print(&text)?;
    Ok(if is_healthy { printed } else { ExitCode::from(1) })
}
