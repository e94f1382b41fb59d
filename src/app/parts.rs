//! The parts that the screen and `run` have in common: runtime, service, threads, signals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::control::{Control, MetricsPort};
use super::sources::Sources;
use super::systemd;
use crate::control::{self, metrics_port};
use crate::docker::Endpoint;
use crate::forward::descriptors::raise_limit;
use crate::logging::{self, Log};
use crate::model::engine::EngineName;
use crate::model::untrusted::SafeText;
use crate::sample::Sample;
use crate::service::{self, Running};

/// Descriptors kept for files, Docker, the terminal and look-ups.
const RESERVE: u64 = 64;

/// Within so long, a second signal is the first one again.
const ECHO: Duration = Duration::from_millis(100);

/// Exit status when a signal ends the end at once, as shells give it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Two workers: what forwarding needs on any machine of today, and no thread for each core. HTTP connections take as many
/// more, once there are any (`forward::lanes`).
pub(super) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("portolan")
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Starts the service on the runtime. `always_docker`: look for it even while no mapping names a container. `metrics`:
/// where they are served, too.
pub(super) fn start_service(
    runtime: &Runtime,
    sources: Sources,
    warnings: mpsc::Receiver<SafeText>,
    always_docker: bool,
    metrics: Option<SocketAddr>,
) -> anyhow::Result<Engine> {
    // Before anything is forwarded: a port that somebody else has ends it here.
    let metrics = metrics.map(MetricsPort::listen).transpose()?;
    // Where the limit cannot even be read, the usual soft one is assumed.
    let (soft, _) = raise_limit().unwrap_or((1024, 1024));
    let scrapers = metrics.as_ref().map_or(0, |_| metrics_port::SCRAPERS);
    let sockets = systemd::handed_in();
    // Each is there twice: as it came, and as the engine keeps it.
    let of_them = 2 * sockets.len() as u64;
    let options = service::Options {
        profile: sources.profile,
        session: sources.session,
        docker: Endpoint::from_env(),
        always_docker,
        descriptor_limit: soft.saturating_sub(RESERVE + (clients(soft) + scrapers) as u64 + of_them),
        sockets,
        warnings,
        session_name: EngineName::Session { pid: std::process::id() },
    };
    let _guard = runtime.enter();
    let running = Running::start(options);
    let metrics = metrics.map(|port| port.serve(&running)).transpose()?;
    Ok(Engine { running, control: None, metrics, clients: clients(soft), sample: sources.sample })
}

/// An engine of ours with what goes with it.
pub(super) struct Engine {
    pub(super) running: Running,
    pub(super) control: Option<Control>,
    /// Clients that the control socket may have.
    clients: usize,
    /// What serves metrics on a port.
    metrics: Option<Control>,
    /// The page of `try`.
    pub(super) sample: Option<Sample>,
}

impl Engine {
    /// Opens the control socket. It is for the client for whom the program was started to subscribe before: what is told
    /// when the first one comes would be another's.
    pub(super) fn open_door(&mut self) -> anyhow::Result<()> {
        self.control = Control::open(&self.running, self.clients)?;
        Ok(())
    }

    /// Ends it in order: the service drains, during which its clients are answered; then the control socket lets nobody
    /// in any more, and whoever listens hears the last of it.
    pub(super) async fn shut_down(self, drain: Duration) {
        self.running.shutdown(drain).await;
        Control::end(self.metrics).await;
        Control::end(self.control).await;
    }
}

/// Clients that the control socket may have, out of so many descriptors.
fn clients(descriptors: u64) -> usize {
    usize::try_from(descriptors / 16).unwrap_or(usize::MAX).clamp(4, control::CLIENTS)
}

/// Serves the sample page, if there is one, for ever.
pub(super) async fn serve(sample: Option<Sample>) {
    match sample {
        Some(sample) => sample.serve().await,
        None => std::future::pending().await,
    }
}

/// Runs a client of the service, who gets `holds`, on a thread with a runtime of its own, so that a terminal or reader
/// that blocks holds up nothing else. The receiver gets what the client returned.
pub(super) fn on_own_thread<H, T, F>(
    name: &str,
    holds: H,
    client: impl FnOnce(H) -> F + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<T>>
where
    H: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waits when the program has given up on this thread.
            let _ = done.send(runtime.block_on(client(holds)));
        })
        .context("cannot start a thread")?;
    Ok(ended)
}

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// To end.
    End,
    /// That the terminal is gone, or the process in front.
    Hangup,
}

/// SIGINT, SIGTERM and SIGHUP.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Within so long, a second signal is the first one again.
    echo: Duration,
}

impl Signals {
    /// Listens from now on. Call inside a runtime.
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            echo: Duration::ZERO,
        })
    }

    /// The same for an engine with a process in front, which passes on what the terminal's group has heard, too.
    pub(super) fn behind_a_front() -> anyhow::Result<Self> {
        Ok(Self { echo: ECHO, ..Self::new()? })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.interrupt.recv() => Heard::End,
            _ = self.terminate.recv() => Heard::End,
            _ = self.hangup.recv() => Heard::Hangup,
        }
    }

    /// The next one that asks for an end, for a program that has no terminal any more.
    pub(super) async fn next_end(&mut self) {
        while self.next().await == Heard::Hangup {}
    }

    /// Returns at another signal than the one that came at `start`.
    pub(super) async fn again(&mut self, start: Instant) {
        loop {
            self.next().await;
            if start.elapsed() >= self.echo {
                return;
            }
        }
    }

    /// What comes of `last`, the end of the program; one more signal ends it at once.
    pub(super) async fn or_exit<T>(&mut self, last: impl Future<Output = T>) -> T {
        tokio::select! {
            done = last => done,
            () = self.again(Instant::now()) => std::process::exit(INTERRUPTED),
        }
    }
}

/// A failed engine ends the program.
pub(super) fn engine_ended() -> anyhow::Error {
    match log_folder() {
        Ok(folder) => anyhow::anyhow!("the engine has ended by itself; the log in {} says why", folder.display()),
        Err(_) => anyhow::anyhow!("the engine has ended by itself"),
    }
}

/// Starts the log, which comes before everything that may have something to say.
pub(super) fn start_log() -> anyhow::Result<Log> {
    Ok(logging::start(&log_folder()?))
}

/// Where the log goes.
pub(super) fn log_folder() -> anyhow::Result<PathBuf> {
    service::log_folder().map_err(|problem| anyhow::anyhow!("{problem}"))
}
