//! What helps at a shell: completions and the manual page. Both are made of the arguments themselves, so that what they
//! say is what the program takes.

use std::io;

use anyhow::Context;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use jiff::Timestamp;

use crate::cli::Cli;

/// What the arguments themselves do not tell: a heading, and what it says of each thing.
const MORE: [(&str, &[(&str, &str)]); 3] = [
    (
        "EXIT STATUS",
        &[
            ("0", "It went well."),
            ("1", "It failed while running; of doctor: a cause was found."),
            ("2", "The command line or a file is wrong."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("DOCKER_HOST, DOCKER_CONTEXT", "Where the Docker engine listens, as for docker itself."),
            ("NO_COLOR", "When set and not empty, the screen has no colours."),
            ("PORTOLAN_LOG", "What the log keeps, such as debug; info when unset."),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
                "Set by systemd: whom to tell of being ready, alive and stopping, and sockets that are handed in. A mapping that \
                 listens where such a socket is bound takes it, and needs no right to a port below 1024.",
            ),
            ("XDG_CONFIG_HOME, XDG_STATE_HOME", "Where profiles and the log are kept."),
            (
                "XDG_RUNTIME_DIR",
                "Where control sockets lie. They lie in the state folder where it is unset or another user's.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "~/.config/portolan/profiles/NAME.json",
                "The profile NAME. It may be edited by hand while the program runs.",
            ),
            ("~/.local/state/portolan/", "The log; under aliases/, which client has which alias address."),
            (
                "$XDG_RUNTIME_DIR/portolan/NAME.sock, ~/.local/state/portolan/run/NAME.sock",
                "The control socket of the engine that runs the profile NAME, for --socket and for HTTP; FILE@KEY.sock is \
                 that of a profile file, session@PID.sock that of an engine without a profile. Its user and root may \
                 use it: sudo portolan ls --socket PATH.",
            ),
        ],
    ),
];

/// The completions of a shell, to be read by it.
pub(super) fn completions(shell: Shell) -> String {
    let mut command = Cli::command_with_help();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "portolan", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page in roff: one page with every command in it.
pub(super) fn page() -> anyhow::Result<String> {
    let command = Cli::command_with_help().subcommand_value_name("COMMAND");
    let man = Man::new(command.clone()).title("PORTOLAN").date(date()?).manual("User Commands");
    let mut title = Vec::new();
    man.render_title(&mut title)?;
    let mut page = String::from_utf8_lossy(&title).into_owned();
    page += ".SH NAME\n";
    page += &body(|out| man.render_name_section(out))?;
    page += ".SH SYNOPSIS\n";
    page += &body(|out| man.render_synopsis_section(out))?;
    page += ".SH DESCRIPTION\n";
    page += &body(|out| man.render_description_section(out))?;
    page += &after(&command);
    page += ".SH OPTIONS\n";
    page += &body(|out| man.render_options_section(out))?;
    page += ".SH COMMANDS\n";
    for subcommand in command.get_subcommands() {
        add_command(&mut page, subcommand)?;
    }
    for (heading, entries) in MORE {
        let mut roff = Roff::new();
        roff.control("SH", [heading]);
        for (name, text) in entries {
            roff.control("TP", []).text([bold(*name)]).text([roman(*text)]);
        }
        page += &text_of(&roff);
    }
    Ok(page)
}

/// The day of the page: today, or the one that whoever builds a package asks for, so that it comes out the same again.
fn date() -> anyhow::Result<String> {
    let asked = std::env::var("SOURCE_DATE_EPOCH").ok();
    let day = match asked.map(|seconds| seconds.parse().map(Timestamp::from_second)) {
        Some(day) => day.context("SOURCE_DATE_EPOCH is no number")?.context("SOURCE_DATE_EPOCH is no time")?,
        None => Timestamp::now(),
    };
    Ok(day.strftime("%Y-%m-%d").to_string())
}

/// A command, and those below it, each with a heading of its own.
fn add_command(page: &mut String, command: &clap::Command) -> io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let man = Man::new(command.clone());
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    *page += &text_of(Roff::new().control("SS", [name]));
    *page += &body(|out| man.render_synopsis_section(out))?;
    *page += ".PP\n";
    *page += &body(|out| man.render_description_section(out))?;
    *page += &after(command);
    *page += &body(|out| man.render_options_section(out))?;
    command.get_subcommands().try_for_each(|below| add_command(page, below))
}

/// What stands after a command's help. Columns stay as they are.
fn after(command: &clap::Command) -> String {
    let Some(text) = command.get_after_help().map(ToString::to_string) else { return String::new() };
    let is_table = text.lines().any(|line| line.trim().contains("  "));
    let mut roff = Roff::new();
    roff.control("PP", []);
    if is_table {
        roff.control("nf", []);
    }
    for line in text.lines() {
        if line.trim().is_empty() {
            roff.control("sp", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    if is_table {
        roff.control("fi", []);
    }
    text_of(&roff)
}

/// A section without its heading (the page has its own), and without blanks, which roff would take for space.
fn body(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut section = Vec::new();
    render(&mut section)?;
    let section = String::from_utf8_lossy(&section);
    let lines = section.lines().map(str::trim_end).skip_while(|line| !line.starts_with(".SH ")).skip(1);
    let mut body = String::new();
    let mut before = "";
    for line in lines.filter(|line| !line.is_empty()) {
        // Two breaks in a row break nothing more.
        if line != ".br" || before != ".br" {
            body += line;
            body.push('\n');
        }
        before = line;
    }
    Ok(body)
}

/// Without what every document begins with, which stands once, before the title.
fn text_of(roff: &Roff) -> String {
    let (whole, beginning) = (roff.render(), Roff::new().render());
    whole.strip_prefix(&beginning).unwrap_or(&whole).to_owned()
}
