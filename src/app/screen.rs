//! The terminal interface over the service, or over the demo.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control;
use super::front::Front;
use super::parts::{Signals, engine_ended, on_own_thread, runtime, serve, start_service};
use super::print;
use super::sources::Sources;
use crate::cli::{Screen, Source};
use crate::demo;
use crate::logging::Log;
use crate::model::untrusted::SafeText;
use crate::service::{Handle, OpenedProfile};
use crate::tui::{self, ColorMode, Outcome, Standing};

type Shown = Result<Outcome, tui::Error>;

/// How long connections may finish when an engine without a screen is told to end by a signal.
const LEFT_DRAIN: Duration = Duration::from_secs(5);

/// How long the screen may take to give the terminal back when a second signal comes.
const GIVE_BACK: Duration = Duration::from_millis(500);

/// Shows the screen until the user quits or a signal comes; or leaves the engine running, which then goes on until
/// somebody ends it.
pub(super) fn run(
    runtime: Runtime,
    sources: Sources,
    screen: Screen,
    metrics: Option<SocketAddr>,
    hint: Option<SafeText>,
    log: Log,
    front: Option<Front>,
) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = log;
    let profile = sources.profile.as_ref().map(OpenedProfile::path);
    let mut engine = start_service(&runtime, sources, warnings, true, metrics)?;
    let mut sample = std::pin::pin!(serve(engine.sample.take()));
    let shutdown = CancellationToken::new();
    let standing = Standing::Owner { can_leave: front.is_some() && engine.control.is_some() };
    let ended = show(engine.running.handle(), screen, hint, standing, &shutdown)?;
    // On the main thread, and in steps: what is done between them concerns this thread alone.
    let status = (|| {
        let (mut signals, outcome) = runtime.block_on(async {
            let mut signals = Signals::new()?;
            // An engine that ends is said on the screen, which stays until it is left.
            let asked = engine.running.asked_to_end();
            let outcome = screen_or_end(ended, &shutdown, &mut signals, &mut sample, asked).await;
            anyhow::Ok((signals, outcome))
        })?;
        let mut drain = Duration::ZERO;
        let outcome = match (outcome, front) {
            (Ok((Outcome::Left { listening }, _)), Some(front)) => {
                runtime.block_on(say(left_running(listening, profile.as_ref())))?;
                front.leave().context("cannot leave the terminal")?;
                drain = runtime.block_on(async {
                    tokio::select! {
                        () = signals.next() => LEFT_DRAIN,
                        drain = engine.running.asked_to_end() => drain,
                        () = engine.running.ended() => Duration::ZERO,
                        () = &mut sample => Duration::ZERO,
                    }
                });
                Ok(Outcome::Quit { message: String::new() })
            }
            (outcome, _) => outcome.map(|(outcome, asked)| {
                drain = asked;
                outcome
            }),
        };
        let is_faulty = engine.running.ended().now_or_never().is_some();
        runtime.block_on(async {
            let last = async {
                engine.shut_down(drain).await;
                let outcome = outcome?;
                if is_faulty { Err(engine_ended()) } else { goodbye(outcome).await }
            };
            signals.or_exit(last).await
        })
    })();
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    status
}

/// What is said when the engine goes on without a screen.
fn left_running(listening: usize, profile: Option<&SafeText>) -> String {
    let going = if listening == 1 { "1 mapping goes on".to_owned() } else { format!("{listening} mappings go on") };
    let pid = std::process::id();
    let saved = profile.map(|path| format!(" Saved in {path}.")).unwrap_or_default();
    format!("{going} without a screen (pid {pid}).{saved} portolan attach comes back; portolan shutdown ends it.")
}

/// Shows the screen over an engine in another process. Leaving it leaves that as it is.
pub(super) fn attach(
    runtime: Runtime,
    source: &Source,
    socket: Option<&Path>,
    screen: Screen,
) -> anyhow::Result<ExitCode> {
    let status = runtime.block_on(async {
        let engine = control::find(source, socket, true).await?;
        let shutdown = CancellationToken::new();
        let ended = show(engine.handle(), screen, None, Standing::Attached, &shutdown)?;
        let mut signals = Signals::new()?;
        // It carries what the screen asks, which has nothing more to ask when it has ended.
        let carrying = async {
            engine.run().await;
            pending::<()>().await;
        };
        let (outcome, _) = screen_or_end(ended, &shutdown, &mut signals, carrying, pending()).await?;
        signals.or_exit(goodbye(outcome)).await
    });
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
    let ended = show(handle, screen, None, Standing::default(), &shutdown)?;
    let status = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let (outcome, _) = screen_or_end(ended, &shutdown, &mut signals, pending(), pending()).await?;
        signals.or_exit(goodbye(outcome)).await
    });
    runtime.shutdown_background();
    status
}

fn show(
    handle: Handle,
    screen: Screen,
    hint: Option<SafeText>,
    standing: Standing,
    shutdown: &CancellationToken,
) -> anyhow::Result<oneshot::Receiver<Shown>> {
    let options = tui::Options { ascii: screen.ascii || !is_utf8_locale(), color: color(screen), hint, standing };
    let shutdown = shutdown.clone();
    on_own_thread("screen", handle, move |handle| tui::run(handle, options, shutdown))
}

/// Waits until the screen ends, by itself or because a signal or a client asked for the end: then with the time that
/// connections have to finish.
async fn screen_or_end(
    mut ended: oneshot::Receiver<Shown>,
    shutdown: &CancellationToken,
    signals: &mut Signals,
    sample: impl Future<Output = ()>,
    asked: impl Future<Output = Duration>,
) -> anyhow::Result<(Outcome, Duration)> {
    let drain = tokio::select! {
        outcome = &mut ended => return Ok((shown(outcome)?, Duration::ZERO)),
        () = signals.next() => Duration::ZERO,
        drain = asked => drain,
        () = sample => anyhow::bail!("the sample page has ended"),
    };
    shutdown.cancel();
    let given_back = tokio::select! {
        outcome = &mut ended => return Ok((shown(outcome)?, drain)),
        () = signals.next() => timeout(GIVE_BACK, &mut ended).await,
    };
    match given_back {
        Ok(outcome) => Ok((shown(outcome)?, drain)),
        Err(_) => anyhow::bail!("the screen did not end"),
    }
}

fn shown(outcome: Result<Shown, RecvError>) -> anyhow::Result<Outcome> {
    Ok(outcome.context("the screen ended without a word")??)
}

async fn goodbye(outcome: Outcome) -> anyhow::Result<ExitCode> {
    match outcome {
        Outcome::Quit { message } if !message.is_empty() => say(message).await,
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints the last words, on a thread of their own: the terminal may have stopped reading.
async fn say(message: String) -> anyhow::Result<ExitCode> {
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
