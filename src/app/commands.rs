//! Commands of a running engine: whom they ask, where their answers go, and the exit status.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control;
use super::events::reader_gone;
use super::parts::{Signals, on_own_thread, runtime};
use super::{complain, refuse};
use crate::cli::{Engine, Fields, Filter, Source, To, Which};
use crate::commands::{self, Failure, Output, Remark};
use crate::control::Folder;
use crate::headless::{self, Demand, Ended};
use crate::model::alias::nobody;
use crate::model::{self, request::RequestError};
use crate::service::{self, Handle, OpenError, OpenedProfile, Saved};
use crate::store::ProfileSource;

/// How long a terminal may take to be given back, which does not read perhaps.
const GIVE_BACK: Duration = Duration::from_millis(200);

/// Asks the engine that runs the profile of `source`, and prints what it says.
pub(super) fn run(source: &Source, command: &Engine) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let json = command.to().json;
    // Carries what the command asks, as long as that runs.
    let mut bridge = JoinSet::new();
    let attached = runtime.block_on(control::find(source, command.to().socket.as_deref(), false)).map(|engine| {
        let handle = engine.handle();
        bridge.spawn_on(engine.run(), runtime.handle());
        handle
    });
    let said = match (attached, command) {
        (Ok(handle), Engine::Watch { filter, interval, .. }) => {
            let is_terminal = io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
            let what = commands::Watch {
                filter: text(filter),
                interval: *interval,
                published: filter.published,
                size: is_terminal.then_some(crossterm::terminal::size),
            };
            watch(&runtime, handle, what, json)
        }
        (Ok(handle), Engine::Events { filter, interval, .. }) => {
            let filter = model::filter::Filter::parse(&filter.join(" "));
            let speak = headless::Options { json, interval: *interval, demand: Demand::Nothing, filter };
            events(&runtime, &handle, speak)
        }
        (Ok(handle), command) => Ok(runtime.block_on(answer(&handle, command, &mut Output::new(io::stdout(), json)))),
        // Which ones there are is known without it, unless it was a certain engine that was asked.
        (Err(_), Engine::Profiles { to }) if is_any(source, to) => {
            runtime.block_on(profiles_without_engine(&mut Output::new(io::stdout(), json)))
        }
        // Aliases outlast the engine, unless it was a certain one that was asked.
        (Err(error), Engine::Whois { address, to }) if to.socket.is_none() => {
            whois_without_engine(*address, &error, &mut Output::new(io::stdout(), json))
        }
        (Err(error), _) => Err(error),
    };
    runtime.shutdown_background();
    match said? {
        Ok(remark) => {
            remark.iter().for_each(complain);
            Ok(ExitCode::SUCCESS)
        }
        Err(Failure::Invalid { problems }) => Ok(refuse(&problems)),
        Err(failure) if failure.status() == 0 => Ok(ExitCode::SUCCESS),
        Err(failure) => Err(failure.into()),
    }
}

/// One question, one answer.
async fn answer(handle: &Handle, command: &Engine, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    match command {
        Engine::Ls { filter, .. } => {
            let what = commands::Mappings { filter: text(filter), published: filter.published };
            commands::mappings(handle, &what, out).await
        }
        Engine::Connections { filter, closed, .. } => {
            let what = commands::Connections { filter: text(filter), closed: *closed, published: filter.published };
            commands::connections(handle, &what, out).await
        }
        Engine::Add { mapping, fields, stopped, even_if_busy, .. } => {
            let what = commands::Add {
                mapping: mapping.clone(),
                fields: as_usable(fields),
                stopped: *stopped,
                even_if_busy: *even_if_busy,
            };
            commands::add(handle, &what, out).await
        }
        Engine::Edit { which, mapping, fields, even_if_busy, .. } => {
            let what = commands::Edit {
                which: which.clone(),
                mapping: mapping.clone(),
                fields: as_usable(fields),
                even_if_busy: *even_if_busy,
            };
            commands::edit(handle, &what, out).await
        }
        Engine::Rm { names, .. } => commands::remove(handle, names, out).await,
        Engine::Start { which, .. } => commands::start(handle, &these(which), out).await,
        Engine::Stop { which, .. } => commands::stop(handle, &these(which), out).await,
        Engine::Undo { .. } => commands::undo(handle, out).await,
        Engine::Kill { ids, .. } => commands::kill(handle, ids, out).await,
        Engine::Whois { address, .. } => commands::whois(handle, *address, out).await,
        Engine::Profiles { to } => {
            // What the engine at a certain socket lists may be another user's.
            let folder = to.socket.is_none().then(Folder::of_this_user).and_then(Result::ok);
            commands::profiles(handle, async |names| running(names, folder.as_ref()).await, out).await
        }
        Engine::Open { name, new, .. } => commands::open(handle, name, *new, out).await,
        Engine::Saveas { name, .. } => commands::save_as(handle, name, out).await,
        Engine::Watch { .. } | Engine::Events { .. } => unreachable!("they go on until they are ended"),
    }
}

/// Whether no certain engine is meant.
fn is_any(source: &Source, to: &To) -> bool {
    source.profile.is_none() && source.file.is_none() && to.socket.is_none()
}

/// The profiles of this user's folder. That the engines cannot be looked for is said; that none is found is no mistake.
async fn profiles_without_engine(out: &mut Output<impl Write>) -> anyhow::Result<Result<Remark, Failure>> {
    let folder = Folder::of_this_user()?;
    match OpenedProfile::list().await {
        Ok(names) => {
            let running = running(&names, Some(&folder)).await;
            Ok(commands::say_profiles(&commands::Profiles { names, open: None, running }, out))
        }
        Err(OpenError::Invalid(problems)) => Ok(Err(Failure::Invalid { problems })),
        Err(OpenError::Running(message) | OpenError::Failed(message)) => Err(anyhow::anyhow!("{message}")),
    }
}

/// Who is behind an address by what was saved; that it is not asked of an engine is said.
fn whois_without_engine(
    address: IpAddr,
    error: &anyhow::Error,
    out: &mut Output<impl Write>,
) -> anyhow::Result<Result<Remark, Failure>> {
    let Saved { found, unread } = service::who_is_saved(address);
    match found {
        Some(found) => Ok(commands::say_whois(&found, out)
            .map(|_| Some("no engine was asked: this is what was saved last".to_owned()))),
        None => anyhow::bail!("{} is not found among the aliases that were saved; {error}", nobody(address, &unread)),
    }
}

/// Which of these profiles an engine runs that listens in the folder.
async fn running(names: &[String], folder: Option<&Folder>) -> Vec<String> {
    let mut running = Vec::new();
    let Some(folder) = folder else { return running };
    for name in names {
        let Ok((engine, last_runner)) = OpenedProfile::engine_of(ProfileSource::Named(name.clone())) else { continue };
        if control::runner(folder, &engine, last_runner).await.is_some() {
            running.push(name.clone());
        }
    }
    running
}

/// Watches until a signal comes or nobody reads any more.
fn watch(
    runtime: &Runtime,
    handle: Handle,
    what: commands::Watch,
    json: bool,
) -> anyhow::Result<Result<Remark, Failure>> {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let mut ended = on_own_thread("watch", handle, move |handle| async move {
        commands::watch(&handle, &what, Output::new(io::stdout(), json), stopped).await
    })?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            said = &mut ended => return said.context("watching ended without a word"),
            _ = signals.next() => stop.cancel(),
            () = reader_gone() => return Ok(Err(Failure::ReaderGone)),
        }
        match timeout(GIVE_BACK, ended).await {
            Ok(said) => said.context("watching ended without a word"),
            Err(_) => Ok(Ok(None)),
        }
    })
}

/// Prints events until a signal comes or nobody reads any more.
fn events(runtime: &Runtime, handle: &Handle, speak: headless::Options) -> anyhow::Result<Result<Remark, Failure>> {
    let events = runtime.block_on(handle.subscribe(speak.interest()))?;
    let ended = on_own_thread("events", events, move |events| headless::run(events, speak, io::stdout()))?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            said = ended => match said.context("the printer ended without a word")? {
                Ok(Ended::Finished) => Ok(Err(RequestError::Gone.into())),
                Ok(Ended::OutputClosed | Ended::NotListening(_)) => Ok(Ok(None)),
                Err(error) => Ok(Err(error.into())),
            },
            _ = signals.next() => Ok(Ok(None)),
            () = reader_gone() => Ok(Err(Failure::ReaderGone)),
        }
    })
}

/// As it would be typed on the screen.
fn text(filter: &Filter) -> String {
    filter.filter.join(" ")
}

fn these(which: &Which) -> commands::Which {
    if which.all { commands::Which::All } else { commands::Which::These(which.names.clone()) }
}

fn as_usable(typed: &Fields) -> commands::Fields {
    let Fields {
        name,
        network,
        connect_timeout,
        idle_timeout,
        half_close_timeout,
        max_connections,
        identity,
        alias_pool,
        accept_proxy,
        trusted_cidrs,
        inspect,
    } = typed.clone();
    commands::Fields {
        name,
        network,
        connect_timeout,
        idle_timeout,
        half_close_timeout,
        max_connections,
        identity,
        alias_pool,
        accept_proxy,
        trusted_cidrs,
        inspect,
    }
}
