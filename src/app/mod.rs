//! The composition root: turns arguments into parts, wires them, and ends them in order.
//!
//! Order of an end: the client (screen or printer) by itself or by a signal; then the service, which closes
//! listeners, drains and sends the last events; then the log. The terminal was restored by the screen itself.

mod alias_route;
mod commands;
mod control;
mod doctor;
mod events;
mod front;
mod manual;
mod parts;
mod screen;
mod sources;
mod systemd;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{Cli, Command};
use crate::model::problem::Problem;
use crate::model::schema::schema;
use crate::tui::keymap;

use front::Stand;
use sources::Opened;

/// Does what the arguments say. The exit status is 0 when fine, 1 when it failed while running, 2 when the
/// command line or a file is wrong.
///
/// # Errors
/// When it failed while running; the text says what to do.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    // Files that are made here are 0600, folders 0700.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    match &cli.command {
        Some(Command::Keys { json }) => print(&keys(*json)?),
        Some(Command::Schema) => print(&format!("{:#}\n", schema())),
        Some(Command::Completions { shell }) => print(&manual::completions(*shell)),
        Some(Command::Man) => print(&manual::page()?),
        Some(Command::Check { .. }) => match sources::check(&cli.source)? {
            Ok(checked) => {
                checked.warnings.iter().for_each(complain);
                print(&checked.text)
            }
            Err(problems) => Ok(refuse(&problems)),
        },
        Some(Command::Doctor { which, json, .. }) => match sources::chosen(&cli.source, which.as_deref())? {
            Ok(configs) => doctor::run(parts::runtime()?, configs, *json),
            Err(problems) => Ok(refuse(&problems)),
        },
        Some(Command::AliasRoute { action, pool }) => alias_route::run(*action, *pool),
        Some(Command::Engine(command)) => commands::run(&cli.source, command),
        Some(Command::Run { options, .. }) => {
            let log = parts::start_log()?;
            match sources::open(&cli.source, true)? {
                Opened::Ready(sources) => {
                    sources.missing_profile().iter().for_each(complain);
                    events::run(parts::runtime()?, *sources, *options, cli.serving.metrics, log)
                }
                Opened::Wrong(problems) => Ok(refuse(&problems)),
                Opened::Runs(message) => anyhow::bail!("{message}"),
            }
        }
        Some(Command::Attach { socket, .. }) => {
            if !is_terminal {
                complain("not a terminal: use `portolan events`, or `portolan ls`");
                return Ok(ExitCode::from(2));
            }
            let _log = parts::start_log()?;
            screen::attach(parts::runtime()?, &cli.source, socket.as_deref(), cli.screen, None)
        }
        Some(Command::Shutdown { socket, drain, no_wait, .. }) => {
            control::shut_down(&parts::runtime()?, &cli.source, socket.as_deref(), *drain, !no_wait)
        }
        Some(Command::Try(options)) if is_terminal && !options.json => match front::stand() {
            Stand::Front(status) => Ok(status),
            Stand::Engine(front) => {
                let log = parts::start_log()?;
                let runtime = parts::runtime()?;
                let (sources, hint) = sources::sample(&runtime)?;
                screen::run(runtime, sources, cli.screen, None, Some(hint), log, front)
            }
        },
        Some(Command::Try(options)) => {
            let log = parts::start_log()?;
            let runtime = parts::runtime()?;
            let (sources, hint) = sources::sample(&runtime)?;
            complain(&hint);
            events::run(runtime, sources, *options, None, log)
        }
        None if !is_terminal => {
            complain("not a terminal: use `portolan run`, or `portolan run --json`");
            Ok(ExitCode::from(2))
        }
        None if cli.screen.demo => screen::demo(cli.screen),
        None => match front::stand() {
            Stand::Front(status) => Ok(status),
            Stand::Engine(front) => {
                let log = parts::start_log()?;
                match sources::open(&cli.source, false)? {
                    Opened::Ready(sources) => {
                        screen::run(parts::runtime()?, *sources, cli.screen, cli.serving.metrics, None, log, front)
                    }
                    Opened::Wrong(problems) => Ok(refuse(&problems)),
                    Opened::Runs(message) if cli.screen.no_attach => anyhow::bail!("{message}"),
                    Opened::Runs(message) if !cli.source.mappings.is_empty() => {
                        anyhow::bail!("{message}: add mappings to it with `portolan add`, or in its window")
                    }
                    Opened::Runs(message) if cli.serving.metrics.is_some() => {
                        anyhow::bail!("{message}: start that one with --metrics, or read them from its control socket")
                    }
                    Opened::Runs(message) => {
                        screen::attach(parts::runtime()?, &cli.source, None, cli.screen, Some(&message))
                    }
                }
            }
        },
    }
}

/// Every binding that works in this release, from the table that dispatches them.
fn keys(json: bool) -> anyhow::Result<String> {
    let table = keymap::table();
    if json {
        return Ok(serde_json::to_string_pretty(table).context("the table of keys is not JSON")? + "\n");
    }
    let mut text = String::new();
    let mut scope = None;
    for binding in table {
        if scope.replace(binding.scope).is_none_or(|before| before != binding.scope) {
            let gap = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{gap}{}", format!("{:?}", binding.scope).to_lowercase())?;
        }
        writeln!(text, "  {:<16} {}", binding.keys_text(), binding.help)?;
    }
    Ok(text)
}

/// Prints to stdout; a closed reader ends quietly.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a line to stderr. That nobody reads it changes nothing: the exit status says the same.
pub fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints every problem to stderr.
fn refuse(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        complain(problem);
    }
    ExitCode::from(2)
}
