//! `run`: the service with a printer of events.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::timeout;

use super::parts::{Signals, engine_ended, log_folder, on_own_thread, serve, start_service};
use super::sources::Sources;
use crate::cli::Run;
use crate::headless::{self, Ended};
use crate::logging;
use crate::service::Running;

/// How long a printer that nobody reads may hold up the end.
const LAST_LINE: Duration = Duration::from_millis(200);

/// What ended first.
#[derive(Debug)]
enum End {
    /// The user wants an end.
    Signal,
    /// Nobody reads any more, or too little listens.
    Client(Ended),
    /// What should never end; in words.
    Fault(anyhow::Error),
}

/// What comes out of the printer's thread.
type Printed = Result<io::Result<Ended>, RecvError>;

/// Runs until a signal, a closed reader, or until it is clear that too little listens.
pub(super) fn run(runtime: Runtime, sources: Sources, options: Run) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = logging::start(&log_folder()?);
    let (mut running, sample) = start_service(&runtime, sources, warnings, false);
    let speak = headless::Options { json: options.json, interval: options.interval, strict: options.strict };
    let mut printer =
        on_own_thread("events", running.handle(), move |handle| headless::run(handle, speak, io::stdout()))?;
    let end = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let end = first_end(&mut running, &mut printer, signals.next(), serve(sample)).await;
        let rest = async {
            match end {
                End::Signal => {
                    running.shutdown(options.drain).await;
                    // The printer says what is left; a reader that stopped reading is not waited for.
                    match timeout(LAST_LINE, &mut printer).await {
                        Ok(said) => ended(said).map_or_else(End::Fault, |_| End::Signal),
                        Err(_) => End::Signal,
                    }
                }
                end => {
                    // By itself: nobody waits for connections then.
                    running.shutdown(Duration::ZERO).await;
                    end
                }
            }
        };
        anyhow::Ok(signals.or_exit(rest).await)
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    match end? {
        End::Signal | End::Client(Ended::Finished | Ended::OutputClosed) => Ok(ExitCode::SUCCESS),
        End::Client(Ended::NotListening(reason)) => anyhow::bail!("{reason}"),
        End::Fault(error) => Err(error),
    }
}

/// Waits for whatever ends it.
async fn first_end(
    running: &mut Running,
    mut printer: impl Future<Output = Printed> + Unpin,
    signal: impl Future<Output = ()>,
    sample: impl Future<Output = ()>,
) -> End {
    tokio::select! {
        said = &mut printer => match ended(said) {
            // The service says its last word when it is told to end, which it was not.
            Ok(Ended::Finished) => End::Fault(engine_ended()),
            Ok(by_itself) => End::Client(by_itself),
            Err(error) => End::Fault(error),
        },
        () = running.ended() => {
            // What it had said before is said all the same.
            let _ = timeout(LAST_LINE, &mut printer).await;
            End::Fault(engine_ended())
        }
        () = signal => End::Signal,
        () = sample => End::Fault(anyhow::anyhow!("the sample page has ended")),
    }
}

fn ended(said: Printed) -> anyhow::Result<Ended> {
    said.context("the printer ended without a word")?.context("cannot write events to stdout")
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn an_engine_that_ends_by_itself_is_a_fault_whoever_notices_first() {
        let mut running = Running::of(ready(()));
        let end = first_end(&mut running, pending(), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
        let mut running = Running::of(async { panic!("as the test wants it") });
        let end = first_end(&mut running, pending(), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
        let mut running = Running::of(pending());
        let end = first_end(&mut running, ready(Ok(Ok(Ended::Finished))), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_signal_or_a_closed_reader_is_no_fault() {
        let mut running = Running::of(pending());
        let end = first_end(&mut running, pending(), ready(()), pending()).await;
        assert!(matches!(end, End::Signal), "{end:?}");
        let end = first_end(&mut running, ready(Ok(Ok(Ended::OutputClosed))), pending(), pending()).await;
        assert!(matches!(end, End::Client(Ended::OutputClosed)), "{end:?}");
    }
}
