//! `run`: the service with a printer of events.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::parts::{Signals, log_folder, on_own_thread, serve, start_service};
use super::sources::Sources;
use crate::cli::Run;
use crate::headless::{self, Ended};
use crate::logging;

/// How long a printer that nobody reads may hold up the end.
const LAST_LINE: Duration = Duration::from_millis(200);
/// Exit status when a second signal ends it at once, as shells give it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Runs until a signal, a closed reader, or until it is clear that too little listens.
pub(super) fn run(runtime: Runtime, sources: Sources, options: Run) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = logging::start(&log_folder()?);
    let (mut running, sample) = start_service(&runtime, sources, warnings, false);
    let speak = headless::Options { json: options.json, interval: options.interval, strict: options.strict };
    let mut printer =
        on_own_thread("events", running.handle(), move |handle| headless::run(handle, speak, io::stdout()))?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let by_itself = tokio::select! {
            ended = &mut printer => Some(ended),
            () = running.ended() => None,
            () = signals.next() => None,
            () = serve(sample) => None,
        };
        if let Some(ended) = by_itself {
            running.shutdown(Duration::ZERO).await;
            return ended.context("the printer ended without a word");
        }
        tokio::select! {
            ended = async {
                running.shutdown(options.drain).await;
                // The printer says what is left; a reader that stopped reading is not waited for.
                timeout(LAST_LINE, &mut printer).await.unwrap_or(Ok(Ok(Ended::Finished)))
            } => ended.context("the printer ended without a word"),
            () = signals.next() => std::process::exit(INTERRUPTED),
        }
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    match ended?.context("cannot write events to stdout")? {
        Ended::Finished | Ended::OutputClosed => Ok(ExitCode::SUCCESS),
        Ended::NotListening(reason) => anyhow::bail!("{reason}"),
    }
}
