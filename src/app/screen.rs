//! The terminal interface over the service, or over the demo.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::parts::{Signals, engine_ended, on_own_thread, runtime, serve, start_service};
use super::print;
use super::sources::Sources;
use crate::cli::Screen;
use crate::demo;
use crate::logging::Log;
use crate::model::untrusted::SafeText;
use crate::service::Handle;
use crate::tui::{self, ColorMode, Outcome};

type Shown = Result<Outcome, tui::Error>;

/// How long the screen may take to give the terminal back when a second signal comes.
const GIVE_BACK: Duration = Duration::from_millis(500);

/// Shows the screen until the user quits or a signal comes.
pub(super) fn run(
    runtime: Runtime,
    sources: Sources,
    screen: Screen,
    hint: Option<SafeText>,
    log: Log,
) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = log;
    let (mut running, sample) = start_service(&runtime, sources, warnings, true);
    let shutdown = CancellationToken::new();
    let ended = show(running.handle(), screen, hint, &shutdown)?;
    let status = runtime.block_on(async {
        let mut signals = Signals::new()?;
        // An engine that ends is said on the screen, which stays until it is left.
        let outcome = screen_or_signal(ended, &shutdown, &mut signals, serve(sample)).await;
        let is_faulty = running.ended().now_or_never().is_some();
        let last = async {
            running.shutdown(Duration::ZERO).await;
            let outcome = outcome?;
            if is_faulty { Err(engine_ended()) } else { goodbye(outcome).await }
        };
        signals.or_exit(last).await
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    status
}

/// The same screen over a simulated service.
pub(super) fn demo(screen: Screen) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let handle = {
        let _guard = runtime.enter();
        demo::start().context("cannot start the demo")?
    };
    let shutdown = CancellationToken::new();
    let ended = show(handle, screen, None, &shutdown)?;
    let status = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let outcome = screen_or_signal(ended, &shutdown, &mut signals, std::future::pending()).await?;
        signals.or_exit(goodbye(outcome)).await
    });
    runtime.shutdown_background();
    status
}

fn show(
    handle: Handle,
    screen: Screen,
    hint: Option<SafeText>,
    shutdown: &CancellationToken,
) -> anyhow::Result<oneshot::Receiver<Shown>> {
    let options = tui::Options { ascii: screen.ascii || !is_utf8_locale(), color: color(screen), hint };
    let shutdown = shutdown.clone();
    on_own_thread("screen", handle, move |handle| tui::run(handle, options, shutdown))
}

async fn screen_or_signal(
    mut ended: oneshot::Receiver<Shown>,
    shutdown: &CancellationToken,
    signals: &mut Signals,
    sample: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    tokio::select! {
        outcome = &mut ended => return shown(outcome),
        () = signals.next() => shutdown.cancel(),
        () = sample => anyhow::bail!("the sample page has ended"),
    }
    let given_back = tokio::select! {
        outcome = &mut ended => return shown(outcome),
        () = signals.next() => timeout(GIVE_BACK, &mut ended).await,
    };
    match given_back {
        Ok(outcome) => shown(outcome),
        Err(_) => anyhow::bail!("the screen did not end"),
    }
}

fn shown(outcome: Result<Shown, RecvError>) -> anyhow::Result<Outcome> {
    Ok(outcome.context("the screen ended without a word")??)
}

/// Prints the last words, on a thread of their own: the terminal may have stopped reading.
async fn goodbye(outcome: Outcome) -> anyhow::Result<ExitCode> {
    let Outcome::Quit { message } = outcome;
    if message.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let (done, said) = oneshot::channel();
    // Nobody waits when a signal has ended the program first.
    std::thread::spawn(move || drop(done.send(print(&format!("{message}\n")))));
    said.await.context("cannot print the last words")?
}

fn color(screen: Screen) -> ColorMode {
    // https://no-color.org: set and not empty.
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        ColorMode::None
    } else if screen.light {
        ColorMode::Light
    } else {
        ColorMode::Dark
    }
}

/// Whether the locale says UTF-8: the first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set decides (POSIX).
fn is_utf8_locale() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}
