//! The terminal interface over the service, or over the demo.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::parts::{Signals, log_folder, on_own_thread, runtime, serve, start_service};
use super::print;
use super::sources::Sources;
use crate::cli::Screen;
use crate::model::untrusted::SafeText;
use crate::service::Handle;
use crate::tui::{self, ColorMode, Outcome};
use crate::{demo, logging};

type Shown = Result<Outcome, tui::Error>;

/// Shows the screen until the user quits or a signal comes.
pub(super) fn run(
    runtime: Runtime,
    sources: Sources,
    screen: Screen,
    hint: Option<SafeText>,
) -> anyhow::Result<ExitCode> {
    let (_log, warnings) = logging::start(&log_folder()?);
    let (running, sample) = start_service(&runtime, sources, warnings, true);
    let shutdown = CancellationToken::new();
    let ended = show(running.handle(), screen, hint, &shutdown)?;
    let outcome = runtime.block_on(async {
        let outcome = screen_or_signal(ended, &shutdown, serve(sample)).await;
        running.shutdown(Duration::ZERO).await;
        outcome
    });
    // A name look-up may be stuck in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    goodbye(outcome?)
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
    let outcome = runtime.block_on(screen_or_signal(ended, &shutdown, std::future::pending()));
    runtime.shutdown_background();
    goodbye(outcome?)
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
    sample: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    let mut signals = Signals::new()?;
    tokio::pin!(sample);
    loop {
        tokio::select! {
            outcome = &mut ended => return Ok(outcome.context("the screen ended without a word")??),
            () = signals.next(), if !shutdown.is_cancelled() => shutdown.cancel(),
            () = &mut sample => anyhow::bail!("the sample page ended"),
        }
    }
}

fn goodbye(outcome: Outcome) -> anyhow::Result<ExitCode> {
    let Outcome::Quit { message } = outcome;
    if message.is_empty() { Ok(ExitCode::SUCCESS) } else { print(&format!("{message}\n")) }
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
