//! The control socket of an engine of ours, and the engines of others that commands mean.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::parts::on_own_thread;
use super::print;
use super::sources::profile_source;
use crate::cli::Source;
use crate::control::{self, Attached, Folder, metrics_port};
use crate::host::holders;
use crate::host::processes::Life;
use crate::model::engine::EngineName;
use crate::model::mapping::{HostPort, Listen, ListenAddress, PortRange, Protocol};
use crate::model::request::{Reply, Request};
use crate::model::untrusted::SafeText;
use crate::service::{OpenedProfile, Running};

/// How long clients may take to hear the last of an engine that ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often it is looked whether an engine has ended, or whether one that starts can be reached.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long an engine that has its profile may take to open its control socket.
const OPENING: Duration = Duration::from_secs(2);

/// How long an engine may take to say that it ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// The control socket that this engine serves, on a thread of its own.
#[derive(Debug)]
pub(super) struct Control {
    place: SafeText,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Control {
    /// Opens it. An engine that cannot have one forwards without, and a warning says so. `clients` may be connected at
    /// once.
    pub(super) fn open(running: &Running, clients: usize) -> anyhow::Result<Option<Self>> {
        let names = running.name();
        let opened = Folder::of_this_user().and_then(|folder| folder.open_door(&names.borrow()));
        let door = match opened {
            Ok(door) => door,
            Err(error) => {
                tracing::warn!("no control socket: {error}");
                return Ok(None);
            }
        };
        let place = shown(door.path());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ended = on_own_thread("control", running.handle(), move |handle| {
            control::serve(door, handle, names, clients, stopped)
        })?;
        Ok(Some(Self { place, stop, ended }))
    }

    /// Where it was opened.
    pub(super) fn place(&self) -> &SafeText {
        &self.place
    }

    /// Serves metrics on the port.
    fn of_metrics(port: MetricsPort, running: &Running) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let MetricsPort(listener) = port;
        let place = listener.local_addr().map(|address| SafeText::new(&address.to_string())).unwrap_or_default();
        let ended = on_own_thread("metrics", running.handle(), move |handle| {
            control::serve_metrics(listener, handle, stopped)
        })?;
        Ok(Self { place, stop, ended })
    }

    /// Lets nobody in any more, and waits until its clients have heard the last, for a moment.
    pub(super) async fn end(control: Option<Self>) {
        if let Some(control) = control {
            control.stop.cancel();
            let _ = timeout(LAST_WORDS, control.ended).await;
        }
    }
}

/// The port at which metrics are served, too.
#[derive(Debug)]
pub(super) struct MetricsPort(TcpListener);

impl MetricsPort {
    /// Takes the port. Whoever asks for metrics would not notice that they are not there, so it is that or no start.
    pub(super) fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        match metrics_port::listen(address) {
            Ok(listener) => Ok(Self(listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let holder = holder_of(address).map(|holder| format!(" by {holder}")).unwrap_or_default();
                anyhow::bail!("cannot serve metrics: {address} is in use{holder}; choose another port for --metrics")
            }
            Err(error) => Err(error).with_context(|| format!("cannot serve metrics at {address}")),
        }
    }

    pub(super) fn serve(self, running: &Running) -> anyhow::Result<Control> {
        Control::of_metrics(self, running)
    }
}

fn holder_of(address: SocketAddr) -> Option<SafeText> {
    let listen = Listen {
        address: ListenAddress::Ip(address.ip().into()),
        port: HostPort::Ports(PortRange::single(address.port())?),
    };
    let report = holders::report(&listen, Protocol::Tcp, &[]).ok()?;
    report.conflicts.into_iter().next().map(|conflict| conflict.holder)
}

/// The running engine that is meant: by its socket, or by the profile that it runs. `or_only`: where no profile is named
/// and nobody runs the default one, the only engine there is will do.
pub(super) async fn find(source: &Source, socket: Option<&Path>, or_only: bool) -> anyhow::Result<Attached> {
    if let Some(path) = socket {
        return at(path).await;
    }
    let from = profile_source(source).unwrap_or_default();
    let (name, last_runner) = OpenedProfile::engine_of(from).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let folder = Folder::of_this_user()?;
    if let Some(attached) = runner(&folder, &name, last_runner).await {
        return Ok(attached);
    }
    let others = folder.sockets()?;
    if let ([only], true, None, None) = (&others[..], or_only, &source.profile, &source.file) {
        return at(only).await;
    }
    anyhow::bail!("{}", nobody(source, &name, &others))
}

/// The engine in the folder that is called so, if it is the process that ran the profile last: a socket of that name may
/// be of another config folder's engine.
pub(super) async fn runner(folder: &Folder, name: &EngineName, last_runner: Option<u32>) -> Option<Attached> {
    for path in folder.candidates(name) {
        if let Ok(attached) = control::attach(path).await
            && attached.pid().and_then(|pid| u32::try_from(pid).ok()) == last_runner
        {
            return Some(attached);
        }
    }
    None
}

async fn at(path: &Path) -> anyhow::Result<Attached> {
    control::attach(path.to_owned()).await.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => anyhow::anyhow!("will not speak to what is at {}: {error}", shown(path)),
        _ => anyhow::anyhow!("no engine listens at {}: {error}", shown(path)),
    })
}

/// The engine that runs what is meant, as has been found otherwise: it may be about to open its socket.
pub(super) async fn find_soon(source: &Source) -> anyhow::Result<Attached> {
    let start = Instant::now();
    loop {
        match find(source, None, false).await {
            Err(_) if start.elapsed() < OPENING => sleep(LOOK_AGAIN).await,
            found => return found,
        }
    }
}

/// That no engine runs what is meant, and what to do.
fn nobody(source: &Source, name: &EngineName, others: &[PathBuf]) -> String {
    let (what, how) = match (&source.profile, &source.file) {
        (_, Some(file)) => (format!("{}", shown(file)), format!(" --file {}", shown(file))),
        (Some(profile), _) => (format!("profile {}", SafeText::quoted(profile)), format!(" --profile {profile}")),
        _ => {
            let name = if let EngineName::Profile { name: Some(name), .. } = name { name.as_str() } else { "default" };
            (format!("profile {name}"), String::new())
        }
    };
    let mut text = format!("no engine runs {what}: start one with `portolan{how}` or `portolan run{how}`");
    if !others.is_empty() {
        let meant = if let EngineName::Profile { name, .. } = name { name.as_deref() } else { None };
        let listed: Vec<String> = others.iter().map(|path| named(path, meant)).collect();
        let verb = if others.len() == 1 { "another is" } else { "others are" };
        text = format!("{text}; {verb} running: {}", listed.join(", "));
    }
    text
}

/// How commands name the engine of a socket of the folder: by its profile, unless that is a file or the one that was
/// `meant` and is another config folder's.
fn named(path: &Path, meant: Option<&str>) -> String {
    let profile = path.file_stem().and_then(|name| name.to_str());
    let profile = profile.filter(|name| !name.contains('@') && Some(*name) != meant);
    profile.map_or_else(|| format!("--socket {}", shown(path)), |name| format!("--profile {name}"))
}

fn shown(path: &Path) -> SafeText {
    SafeText::from_bytes(path.as_os_str().as_encoded_bytes())
}

/// Ends a running engine, and waits until it has ended: then its profile and its ports are free.
pub(super) fn shut_down(
    runtime: &Runtime,
    source: &Source,
    socket: Option<&Path>,
    drain: Duration,
    waits: bool,
) -> anyhow::Result<ExitCode> {
    runtime.block_on(async {
        let engine = find(source, socket, false).await?;
        let handle = engine.handle();
        let life = engine.pid().and_then(Life::of);
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let reply = tokio::select! {
            reply = timeout(PATIENCE, handle.request(Request::Shutdown { drain_ms })) => reply,
            () = engine.run() => anyhow::bail!("the engine does not answer"),
        };
        let Ok(reply) = reply else {
            anyhow::bail!("the engine does not answer: is it stopped (SIGCONT lets it go on)?")
        };
        if let Reply::Done { message, .. } = reply? {
            print(&format!("{message}\n"))?;
        }
        while waits && life.as_ref().is_some_and(Life::goes_on) {
            sleep(LOOK_AGAIN).await;
        }
        Ok(ExitCode::SUCCESS)
    })
}
