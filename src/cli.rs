//! Arguments as typed. What they mean is decided in `app`.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::model::duration::parse_timeout;
use crate::model::untrusted::SafeText;

/// Maps host ports to containers and shows what flows through them.
#[derive(Debug, Parser)]
// The name is set, since otherwise help and errors would repeat whatever the program was called as.
#[command(name = "portolan", bin_name = "portolan", version, about, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
A MAPPING is [ADDRESS:]PORT[-PORT]:TARGET:PORT[-PORT][/tcp|/udp|/sctp]:
  8080:web_1:80                  this machine only, to the container web_1
  any:8080:compose/shop/web:80   every address of this host, to a Compose service
  '[::1]:8080:172.17.0.2:80'     one address, to an address
  5353:172.17.0.3:53/udp         UDP
  auto:web:80                    any free port

portolan try                     shows it all in one command")]
pub struct Cli {
    /// What to do; the terminal interface when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Which mappings.
    #[command(flatten)]
    pub source: Source,
    /// How the screen looks.
    #[command(flatten)]
    pub screen: Screen,
}

impl Cli {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    /// What is wrong with them (or the help that was asked for), to be printed; nothing of what it repeats acts on a
    /// terminal.
    pub fn read() -> Result<Self, clap::Error> {
        Self::command_with_help()
            .try_get_matches()
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(made_safe)
    }

    /// The command, whose help lists with each subcommand what has an effect there. The general options are
    /// understood everywhere, so that they may stand before the subcommand as well as behind it.
    fn command_with_help() -> clap::Command {
        let mut command = Self::command();
        command.build();
        let unused: [(&str, &[&str]); 6] = [
            ("try", &["profile", "file", "mappings"]),
            ("run", &["ascii", "light"]),
            ("check", &["ascii", "light"]),
            ("doctor", &["ascii", "light"]),
            ("keys", &["profile", "file", "mappings", "ascii", "light"]),
            ("schema", &["profile", "file", "mappings", "ascii", "light"]),
        ];
        for (name, unused) in unused {
            command = command.mut_subcommand(name, |subcommand| {
                subcommand.mut_args(|arg| if unused.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg })
            });
        }
        command
    }
}

/// Makes what the error repeats of the arguments safe to show, and quotes at most 80 characters of each.
fn made_safe(mut error: clap::Error) -> clap::Error {
    let quoted = |text: &String| SafeText::quoted(text).to_string();
    let safe: Vec<(ContextKind, ContextValue)> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(quoted(text)))),
            ContextValue::Strings(texts) => Some((kind, ContextValue::Strings(texts.iter().map(quoted).collect()))),
            // The other kinds are no text, or written by clap.
            _ => None,
        })
        .collect();
    let mut is_changed = false;
    for (kind, value) in safe {
        let before = error.insert(kind, value);
        is_changed |= before.as_ref() != error.get(kind);
    }
    if is_changed {
        // Tips repeat the argument in the middle of their styled text, and are of no use for such a one.
        error.remove(ContextKind::Suggested);
    }
    error
}

/// Where the mappings come from.
#[derive(Clone, Debug, Default, Args)]
pub struct Source {
    /// Profile to open [default: default]
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "file")]
    pub profile: Option<String>,
    /// Profile file anywhere
    #[arg(long, value_name = "PATH", global = true)]
    pub file: Option<PathBuf>,
    /// Mapping for this session; alone it opens no profile. Can be repeated
    #[arg(short = 'p', long = "publish", value_name = "MAPPING", global = true)]
    pub mappings: Vec<String>,
}

/// How the screen looks.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Screen {
    /// No byte above 0x7f on the screen
    #[arg(long, global = true)]
    pub ascii: bool,
    /// Colours for a light terminal
    #[arg(long, global = true)]
    pub light: bool,
    /// Show a simulated engine: touches no port, no file, no Docker
    #[arg(long)]
    pub demo: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a small web page, mapped, watched, with the curl line to run
    #[command(after_help = "Without a terminal, or with --json, it prints events as `portolan run` does.")]
    Try(Run),
    /// Forward without a screen, printing events, until SIGINT or SIGTERM
    Run(Run),
    /// Parse and validate; print every problem; open no port
    Check,
    /// Why does a mapping not work? Every step of a connection, the cause, and what to try
    #[command(after_help = "\
The target is connected to once for each of its addresses. Root sees more: steps that cannot be seen say what they need.
Exit status: 0 nothing wrong, as far as can be seen; 1 a cause was found; 2 the command line or a file is wrong.")]
    Doctor {
        /// A mapping as text, or the name of one of the profile; every one of the profile when left out
        #[arg(value_name = "MAPPING|NAME")]
        which: Option<String>,
        /// As JSON: an array of reports
        #[arg(long)]
        json: bool,
    },
    /// Print every key binding that works now
    Keys {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of profile files
    Schema,
}

/// How to run without a screen.
#[derive(Clone, Copy, Debug, Args)]
pub struct Run {
    /// One JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 unless every enabled mapping is up or waiting
    #[arg(long)]
    pub strict: bool,
    /// How long connections may finish when it stops, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub drain: std::time::Duration,
    /// Time between two traffic events, such as 1s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: std::time::Duration,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    // No time at all is fine here: it means "at once".
    if matches!(text, "0" | "0s" | "0ms") {
        return Ok(std::time::Duration::ZERO);
    }
    parse_timeout("", text).map_err(|problem| problem.to_string())
}

fn interval(text: &str) -> Result<std::time::Duration, String> {
    let interval = duration(text)?;
    if interval < std::time::Duration::from_millis(20) {
        return Err("the shortest interval is 20ms".into());
    }
    Ok(interval)
}
