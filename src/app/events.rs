//! `run`: the service with a printer of events.

use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::runtime::Runtime;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::timeout;

use super::parts::{Signals, engine_ended, on_own_thread, serve, start_service};
use super::sources::Sources;
use super::systemd::Manager;
use crate::cli::Run;
use crate::headless::{self, Demand, Ended};
use crate::logging::Log;
use crate::model::filter::Filter;
use crate::service::Running;

/// How long a printer that nobody reads may hold up the end.
const LAST_LINE: Duration = Duration::from_millis(200);
/// How long one may that is read, however slowly: what is left to say is bounded, but a reader of a byte a second is not
/// waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What ended first.
#[derive(Debug)]
enum End {
    /// The user wants an end.
    Signal,
    /// A client of the control socket does, after so long.
    Asked(Duration),
    /// Nobody reads any more, or too little listens.
    Client(Ended),
    /// What should never end; in words.
    Fault(anyhow::Error),
}

/// What comes out of the printer's thread.
type Printed = Result<io::Result<Ended>, RecvError>;

/// Runs until a signal, a closed reader, or until it is clear that too little listens.
pub(super) fn run(
    runtime: Runtime,
    sources: Sources,
    options: Run,
    metrics: Option<SocketAddr>,
    log: Log,
) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = log;
    let mut engine = start_service(&runtime, sources, warnings, false, metrics)?;
    let sample = engine.sample.take();
    let demand = if options.strict { Demand::Every } else { Demand::Any };
    let speak = headless::Options { json: options.json, interval: options.interval, demand, filter: Filter::default() };
    let output = Output::default();
    let written = Arc::clone(&output.written);
    let handle = engine.running.handle();
    let events = runtime.block_on(handle.subscribe(speak.interest())).map_err(|_| engine_ended())?;
    // Whoever comes now is not the first.
    engine.open_door()?;
    let mut printer = on_own_thread("events", events, move |events| headless::run(events, speak, output))?;
    let manager = Manager::attend(handle, options.strict)?;
    let end = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let end =
            first_end(&mut engine.running, &mut printer, signals.next().map(drop), serve(sample), reader_gone()).await;
        let rest = async {
            if let Some(manager) = manager {
                manager.stopping().await;
            }
            let drain = match end {
                End::Signal => options.drain,
                End::Asked(drain) => drain,
                end => {
                    // By itself: nobody waits for connections then.
                    engine.shut_down(Duration::ZERO).await;
                    return end;
                }
            };
            engine.shut_down(drain).await;
            // The printer says what is left; a reader that stopped reading is not waited for.
            match last_words(&mut printer, &written).await {
                Some(said) => ended(said).map_or_else(End::Fault, |_| End::Signal),
                None => End::Signal,
            }
        };
        anyhow::Ok(signals.or_exit(rest).await)
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    match end? {
        End::Signal | End::Asked(_) | End::Client(Ended::Finished | Ended::OutputClosed) => Ok(ExitCode::SUCCESS),
        End::Client(Ended::NotListening(reason)) => anyhow::bail!("{reason}"),
        End::Fault(error) => Err(error),
    }
}

/// Standard output, and how much of it was taken by whoever reads.
#[derive(Default)]
struct Output {
    written: Arc<AtomicU64>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = io::stdout().write(bytes)?;
        self.written.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Waits for the printer to say what is left, as long as somebody reads it, so that the last line is a whole one.
async fn last_words(mut printer: impl Future<Output = Printed> + Unpin, written: &AtomicU64) -> Option<Printed> {
    let waiting = async {
        loop {
            let before = written.load(Ordering::Relaxed);
            match timeout(LAST_LINE, &mut printer).await {
                Ok(said) => return Some(said),
                Err(_) if written.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    };
    timeout(LAST_WORDS, waiting).await.ok().flatten()
}

/// Waits for whatever ends it.
async fn first_end(
    running: &mut Running,
    mut printer: impl Future<Output = Printed> + Unpin,
    signal: impl Future<Output = ()>,
    sample: impl Future<Output = ()>,
    reader_gone: impl Future<Output = ()>,
) -> End {
    let asked = running.asked_to_end();
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
        drain = asked => End::Asked(drain),
        () = sample => End::Fault(anyhow::anyhow!("the sample page has ended")),
        () = reader_gone => End::Client(Ended::OutputClosed),
    }
}

/// Returns when nobody reads stdout any more (`| head -1`), even while there is nothing to print. Of a file that is
/// never told.
pub(super) async fn reader_gone() {
    let watched = io::stdout().as_fd().try_clone_to_owned();
    // Some kinds of reader end by an error, others by hanging up, which a writer is told. Not READABLE: for the runtime
    // a reader that has said its last word is an end that stays.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an `OwnedFd` owns its descriptor and always tells the same"
    )]
    let watched = watched.and_then(|stdout| AsyncFd::with_interest(stdout, Interest::WRITABLE | Interest::ERROR));
    let Ok(stdout) = watched else { return pending().await };
    loop {
        let Ok(mut ready) = stdout.ready(Interest::WRITABLE | Interest::ERROR).await else { return pending().await };
        // Of what woke us, only this means that there is no reader: asked for nothing, poll tells of nothing else.
        let mut asked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        if poll(&mut asked, PollTimeout::ZERO).is_ok_and(|told| told > 0) {
            return;
        }
        ready.clear_ready();
    }
}

fn ended(said: Printed) -> anyhow::Result<Ended> {
    said.context("the printer ended without a word")?.context("cannot write events to stdout")
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn an_engine_that_ends_by_itself_is_a_fault_whoever_notices_first() {
        let mut running = Running::of(ready(()));
        let end = first_end(&mut running, pending(), pending(), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
        let mut running = Running::of(async { panic!("as the test wants it") });
        let end = first_end(&mut running, pending(), pending(), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
        let mut running = Running::of(pending());
        let end = first_end(&mut running, ready(Ok(Ok(Ended::Finished))), pending(), pending(), pending()).await;
        assert!(matches!(end, End::Fault(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_signal_or_a_closed_reader_is_no_fault() {
        let mut running = Running::of(pending());
        let end = first_end(&mut running, pending(), ready(()), pending(), pending()).await;
        assert!(matches!(end, End::Signal), "{end:?}");
        let end = first_end(&mut running, ready(Ok(Ok(Ended::OutputClosed))), pending(), pending(), pending()).await;
        assert!(matches!(end, End::Client(Ended::OutputClosed)), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_words_are_waited_for_while_they_are_read() {
        let slow = |written: Arc<AtomicU64>, lines: u64| {
            Box::pin(async move {
                for _ in 0..lines {
                    tokio::time::sleep(LAST_LINE / 2).await;
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Ok(Ended::Finished))
            })
        };
        let written: Arc<AtomicU64> = Arc::default();
        assert!(last_words(slow(Arc::clone(&written), 20), &written).await.is_some());
        assert!(last_words(slow(Arc::clone(&written), 1_000), &written).await.is_none(), "but not for ever");
        let start = tokio::time::Instant::now();
        assert!(last_words(pending(), &written).await.is_none());
        assert_eq!(start.elapsed(), LAST_LINE, "nobody reads");
    }
}
