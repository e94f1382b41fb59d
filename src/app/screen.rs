//! The terminal interface over the service, or over the demo.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::control;
use super::front::Front;
use super::parts::{Engine, Heard, Signals, engine_ended, on_own_thread, runtime, serve, start_service};
use super::print;
use super::sources::Sources;
use crate::cli::{Screen, Source};
use crate::demo;
use crate::logging::Log;
use crate::model::engine::EngineName;
use crate::model::untrusted::SafeText;
use crate::service::{Handle, OpenedProfile};
use crate::tui::{self, ColorMode, Outcome, Standing};

type Shown = Result<Outcome, tui::Error>;

/// How long connections may finish when an engine without a screen is told to end by a signal.
const LEFT_DRAIN: Duration = Duration::from_secs(5);

/// How long the screen may take to give the terminal back when a second signal comes.
const GIVE_BACK: Duration = Duration::from_millis(500);

/// Shows the screen until the user quits or a signal comes. The engine can also be left running: the user says so, or
/// the window closes or the screen fails while a profile is run. It then goes on until somebody ends it.
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
    engine.open_door()?;
    // One that cannot be reached any more is not left.
    let front = front.filter(|_| engine.control.is_some());
    let standing = Standing::Owner { can_leave: front.is_some() };
    let shutdown = CancellationToken::new();
    let ended = show(engine.running.handle(), screen, hint, standing, None, &shutdown)?;
    let (mut signals, end) = {
        let mut sample = pin!(serve(engine.sample.take()));
        let (mut signals, end) = runtime.block_on(async {
            let mut signals = if front.is_some() { Signals::behind_a_front() } else { Signals::new() }?;
            // An engine that ends is said on the screen, which stays until it is left.
            let asked = engine.running.asked_to_end();
            let end = screen_or_end(ended, &shutdown, &mut signals, &mut sample, asked).await;
            anyhow::Ok((signals, end))
        })?;
        let left = match &end {
            Ok(End { outcome: Outcome::Left { listening }, .. }) => {
                Some(left_running(*listening, &how_to_name(&engine, profile.as_ref())))
            }
            Ok(End { by: By::Hangup, .. }) if profile.is_some() => Some(String::new()),
            Err(Failed::Screen) if profile.is_some() => Some(screen_failed(&how_to_name(&engine, profile.as_ref()))),
            _ => None,
        };
        match (left, front) {
            (Some(said), Some(front)) => {
                // A terminal that takes it no more is no reason to end.
                let saying = async { if said.is_empty() { None } else { timeout(GIVE_BACK, say(said)).await.ok() } };
                runtime.block_on(saying);
                // On the main thread, which has to do with the process in front.
                match front.leave() {
                    Ok(_left) => {
                        tracing::info!("the engine goes on without a screen");
                        let drain = runtime.block_on(without_screen(&mut engine, &mut signals, sample));
                        (signals, Ok(End { outcome: Outcome::Quit { message: String::new() }, by: By::Asked(drain) }))
                    }
                    Err(error) => (signals, Err(Failed::Leaving(error))),
                }
            }
            (_, front) => {
                front.iter().for_each(Front::wake);
                (signals, end)
            }
        }
    };
    let status = runtime.block_on(async {
        let is_faulty = engine.running.ended().now_or_never().is_some();
        let last = async {
            let drain = if let Ok(End { by: By::Asked(drain), .. }) = &end { *drain } else { Duration::ZERO };
            engine.shut_down(drain).await;
            let end = end?;
            if is_faulty { Err(engine_ended()) } else { goodbye(end.outcome).await }
        };
        signals.or_exit(last).await
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    status
}

/// Waits until an engine that was left running is to end; with the time that its connections have to finish.
async fn without_screen(engine: &mut Engine, signals: &mut Signals, sample: impl Future<Output = ()>) -> Duration {
    let asked = engine.running.asked_to_end();
    tokio::select! {
        () = signals.next_end() => LEFT_DRAIN,
        drain = asked => drain,
        () = engine.running.ended() => Duration::ZERO,
        () = sample => Duration::ZERO,
    }
}

/// What is said when the engine goes on without a screen. `named`: how commands name it.
fn left_running(listening: usize, named: &str) -> String {
    let going = if listening == 1 { "1 mapping goes on".to_owned() } else { format!("{listening} mappings go on") };
    let pid = std::process::id();
    format!(
        "{going} without a screen (pid {pid}).\nportolan attach{named} comes back; portolan shutdown{named} ends it."
    )
}

/// How commands name an engine of ours: by the profile that it runs now, else by its socket.
fn how_to_name(engine: &Engine, opened: Option<&SafeText>) -> String {
    match &*engine.running.name().borrow() {
        EngineName::Profile { name: Some(name), .. } if name == "default" => String::new(),
        EngineName::Profile { name: Some(name), .. } => format!(" --profile {name}"),
        EngineName::Profile { name: None, .. } => opened.map(|path| format!(" --file {path}")).unwrap_or_default(),
        EngineName::Session { .. } => {
            engine.control.as_ref().map(|control| format!(" --socket {}", control.place())).unwrap_or_default()
        }
    }
}

/// What is said of a screen that has failed while the engine goes on.
fn screen_failed(named: &str) -> String {
    let pid = std::process::id();
    format!(
        "The screen has failed (this is a defect of portolan; the log has more). The engine goes on without it (pid {pid}).\n\
         portolan attach{named} opens another; portolan shutdown{named} ends it."
    )
}

/// Shows the screen over an engine in another process. Leaving it leaves that as it is. `runs` says who runs what was to
/// be opened here, if that is how it came to this.
pub(super) fn attach(
    runtime: Runtime,
    source: &Source,
    socket: Option<&Path>,
    screen: Screen,
    runs: Option<&SafeText>,
) -> anyhow::Result<ExitCode> {
    let status = runtime.block_on(async {
        let engine = match runs {
            Some(runs) => control::find_soon(source).await.map_err(|_| {
                anyhow::anyhow!("{runs}, and cannot be reached by a control socket (its log says why, unless it ends)")
            })?,
            None => control::find(source, socket, true).await?,
        };
        let shutdown = CancellationToken::new();
        let named = SafeText::from_bytes(engine.path().as_os_str().as_encoded_bytes());
        let ended = show(engine.handle(), screen, None, Standing::Attached, Some(named), &shutdown)?;
        let mut signals = Signals::new()?;
        // It carries what the screen asks, which has nothing more to ask when it has ended.
        let carrying = async {
            engine.run().await;
            pending::<()>().await;
        };
        let End { outcome, .. } = screen_or_end(ended, &shutdown, &mut signals, carrying, pending()).await?;
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
    let ended = show(handle, screen, None, Standing::default(), None, &shutdown)?;
    let status = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let End { outcome, .. } = screen_or_end(ended, &shutdown, &mut signals, pending(), pending()).await?;
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
    socket: Option<SafeText>,
    shutdown: &CancellationToken,
) -> anyhow::Result<oneshot::Receiver<Shown>> {
    let options =
        tui::Options { ascii: screen.ascii || !is_utf8_locale(), color: color(screen), hint, standing, socket };
    let shutdown = shutdown.clone();
    on_own_thread("screen", handle, move |handle| tui::run(handle, options, shutdown))
}

/// How the screen has ended.
struct End {
    outcome: Outcome,
    by: By,
}

/// Who wanted that.
enum By {
    /// The user, at the screen; or a signal.
    User,
    /// The window has closed.
    Hangup,
    /// A client of the control socket; connections have so long to finish.
    Asked(Duration),
}

/// Why there is no screen any more.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the screen ended without a word")]
    Screen,
    #[error("the screen did not end")]
    Stuck,
    #[error("the sample page has ended")]
    Sample,
    #[error("cannot leave the terminal: {0}")]
    Leaving(std::io::Error),
    #[error(transparent)]
    Terminal(#[from] tui::Error),
}

/// Waits until the screen ends, by itself or because a signal or a client asked for the end.
async fn screen_or_end(
    mut ended: oneshot::Receiver<Shown>,
    shutdown: &CancellationToken,
    signals: &mut Signals,
    sample: impl Future<Output = ()>,
    asked: impl Future<Output = Duration>,
) -> Result<End, Failed> {
    let by = tokio::select! {
        outcome = &mut ended => {
            let outcome = shown(outcome);
            // A window that closes is met by its screen, too, perhaps before the signal comes.
            let is_closed = matches!(outcome, Err(Failed::Terminal(tui::Error::Terminal(_))))
                && timeout(GIVE_BACK, signals.next()).await == Ok(Heard::Hangup);
            return match outcome {
                Err(_) if is_closed => Ok(End { outcome: Outcome::Quit { message: String::new() }, by: By::Hangup }),
                outcome => Ok(End { outcome: outcome?, by: By::User }),
            };
        }
        heard = signals.next() => if heard == Heard::Hangup { By::Hangup } else { By::User },
        drain = asked => By::Asked(drain),
        () = sample => return Err(Failed::Sample),
    };
    shutdown.cancel();
    let start = Instant::now();
    let mut again = pin!(signals.again(start));
    let given_back = tokio::select! {
        outcome = &mut ended => Ok(outcome),
        () = &mut again => timeout(GIVE_BACK, &mut ended).await,
    };
    match (given_back, by) {
        // A window that has closed takes nothing back: its screen may fail as well as end.
        (given_back, By::Hangup) => {
            let outcome = given_back.ok().and_then(|outcome| shown(outcome).ok());
            let silent = Outcome::Quit { message: String::new() };
            Ok(End { outcome: outcome.unwrap_or(silent), by: By::Hangup })
        }
        (Ok(outcome), by) => Ok(End { outcome: shown(outcome)?, by }),
        (Err(_), _) => Err(Failed::Stuck),
    }
}

fn shown(outcome: Result<Shown, RecvError>) -> Result<Outcome, Failed> {
    Ok(outcome.map_err(|_| Failed::Screen)??)
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
