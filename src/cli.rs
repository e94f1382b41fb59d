//! Arguments as typed. What they mean is decided in `app`.

mod engine;
mod serving;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use ipnet::IpNet;

use crate::model::cidr::parse_cidr;
use crate::model::duration::parse_timeout;
use crate::model::identity::DEFAULT_ALIAS_POOL;
use crate::model::untrusted::SafeText;

pub use engine::{Engine, Fields, Filter, To, Which};
pub use serving::Serving;

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
    /// Which mappings, wherever on the command line that stands.
    #[command(flatten)]
    pub source: Source,
    /// What the engine serves beside.
    #[command(flatten)]
    pub serving: Serving,
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
        Self::read_from(std::env::args_os())
    }

    fn read_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::command_with_help()
            .try_get_matches_from(arguments)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(made_safe)?
            .joined()
    }

    /// Brings what stands before a subcommand together with what stands behind it. Either place will do; what is said
    /// in both must go together, and what the subcommand has no use for is refused: nothing is silently ignored.
    fn joined(mut self) -> Result<Self, clap::Error> {
        let name = match &mut self.command {
            None => return Ok(self),
            Some(Command::Run { source, serving, .. }) => {
                self.source.join(std::mem::take(source))?;
                self.serving.join(std::mem::take(serving))?;
                None
            }
            Some(Command::Check { source } | Command::Doctor { source, .. }) => {
                self.source.join(std::mem::take(source))?;
                None
            }
            Some(Command::Attach { source, .. } | Command::Shutdown { source, .. }) => {
                self.source.join(std::mem::take(source))?;
                if let Some(given) = self.source.mappings.first().map(|_| PUBLISH) {
                    return Err(conflict(&format!("the argument '{given}' cannot be used with a running engine")));
                }
                None
            }
            Some(Command::Engine(engine)) => {
                if !self.source.mappings.is_empty() {
                    let name = engine.name();
                    return Err(conflict(&format!("the argument '{PUBLISH}' cannot be used with '{name}'")));
                }
                let To { profile, file, .. } = engine.to().clone();
                self.source.join(Source { profile, file, mappings: Vec::new() })?;
                None
            }
            Some(Command::Try(_)) => Some("try"),
            Some(Command::Keys { .. }) => Some("keys"),
            Some(Command::Schema) => Some("schema"),
            Some(Command::Completions { .. }) => Some("completions"),
            Some(Command::Man) => Some("man"),
            Some(Command::AliasRoute { .. }) => Some("alias-route"),
        };
        if let (Some(name), Some(given)) = (name, self.source.first_given()) {
            return Err(conflict(&format!("the argument '{given}' cannot be used with '{name}'")));
        }
        if self.serving.metrics.is_some() && !matches!(self.command, Some(Command::Run { .. })) {
            let given = serving::METRICS;
            return Err(conflict(&format!("the argument '{given}' cannot be used with a subcommand other than 'run'")));
        }
        if self.screen.no_attach {
            return Err(conflict("the argument '--no-attach' cannot be used with a subcommand"));
        }
        if self.screen.demo {
            return Err(conflict("the argument '--demo' cannot be used with a subcommand: it is a screen by itself"));
        }
        Ok(self)
    }

    /// The command, whose help lists with each subcommand what has an effect there. How the screen looks may be said
    /// everywhere, such as in an alias.
    pub(crate) fn command_with_help() -> clap::Command {
        let mut command = Self::command();
        command.build();
        command.mut_subcommands(|subcommand| {
            // It may show the screen.
            if subcommand.get_name() == "try" {
                return subcommand;
            }
            // Who speaks to a running engine names it, and brings no mappings.
            let is_client = ["attach", "shutdown"].contains(&subcommand.get_name());
            subcommand.mut_args(|arg| match arg.get_id().as_str() {
                "ascii" | "light" => arg.hide(true),
                "mappings" if is_client => arg.hide(true),
                "profile" if is_client => arg.help(engine::PROFILE),
                "file" if is_client => arg.help(engine::FILE),
                _ => arg,
            })
        })
    }
}

fn conflict(message: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ArgumentConflict, message)
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
///
/// Not `global`, although the arguments may stand before a subcommand too: clap would drop those before it when there
/// are some behind it.
#[derive(Clone, Debug, Default, Args)]
pub struct Source {
    /// Profile to open [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub profile: Option<String>,
    /// Profile file anywhere
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Mapping for this session; alone it opens no profile. Can be repeated
    #[arg(short = 'p', long = "publish", value_name = "MAPPING")]
    pub mappings: Vec<String>,
}

impl Source {
    /// Adds what stands behind the subcommand.
    fn join(&mut self, behind: Self) -> Result<(), clap::Error> {
        let twice = |argument: &str| conflict(&format!("the argument '{argument}' cannot be used multiple times"));
        let (profile, file) = (PROFILE, FILE);
        match (&self.profile, &self.file, &behind.profile, &behind.file) {
            (Some(_), _, Some(_), _) => return Err(twice(profile)),
            (_, Some(_), _, Some(_)) => return Err(twice(file)),
            (Some(_), _, _, Some(_)) | (_, Some(_), Some(_), _) => {
                return Err(conflict(&format!("the argument '{profile}' cannot be used with '{file}'")));
            }
            _ => {}
        }
        self.profile = self.profile.take().or(behind.profile);
        self.file = self.file.take().or(behind.file);
        self.mappings.extend(behind.mappings);
        Ok(())
    }

    /// One of the arguments that were given.
    fn first_given(&self) -> Option<&'static str> {
        let profile = self.profile.as_ref().map(|_| PROFILE);
        let mapping = || self.mappings.first().map(|_| PUBLISH);
        profile.or(self.file.as_ref().map(|_| FILE)).or_else(mapping)
    }
}

/// As clap itself calls them.
const PROFILE: &str = "--profile <NAME>";
const FILE: &str = "--file <PATH>";
const PUBLISH: &str = "--publish <MAPPING>";

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
    #[arg(long, conflicts_with_all = ["profile", "file", "mappings", "metrics"])]
    pub demo: bool,
    /// Where an engine runs the profile already, do not attach to it: fail
    #[arg(long, conflicts_with = "demo")]
    pub no_attach: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a small web page, mapped, watched, with the curl line to run
    #[command(after_help = "Without a terminal, or with --json, it prints events as `portolan run` does.")]
    Try(Run),
    /// Forward without a screen, printing events, until SIGINT or SIGTERM
    Run {
        /// Which mappings.
        #[command(flatten)]
        source: Source,
        /// What the engine serves beside.
        #[command(flatten)]
        serving: Serving,
        /// How to speak and to end.
        #[command(flatten)]
        options: Run,
    },
    /// Open a window on a running engine; leaving it leaves the engine running
    #[command(after_help = "\
Where none is named, and no engine runs the profile default, it is the only engine that runs.")]
    Attach {
        /// Which engine: the one that runs this profile.
        #[command(flatten)]
        source: Source,
        /// The engine with this control socket
        #[arg(long, value_name = "PATH", conflicts_with_all = ["profile", "file"])]
        socket: Option<PathBuf>,
    },
    /// End a running engine, for every window
    Shutdown {
        /// Which engine: the one that runs this profile.
        #[command(flatten)]
        source: Source,
        /// The engine with this control socket
        #[arg(long, value_name = "PATH", conflicts_with_all = ["profile", "file"])]
        socket: Option<PathBuf>,
        /// How long connections may finish, such as 5s
        #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
        drain: std::time::Duration,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
    /// Parse and validate; print every problem; open no port
    Check {
        /// Which mappings.
        #[command(flatten)]
        source: Source,
    },
    /// Why does a mapping not work? Every step of a connection, the cause, and what to try
    #[command(after_help = "\
The target is connected to once for each of its addresses. Root sees more: steps that cannot be seen say what they need.
Exit status: 0 nothing wrong, as far as can be seen; 1 a cause was found; 2 the command line or a file is wrong.")]
    Doctor {
        /// A mapping as text, or the name of one of the profile; every one of the profile when left out
        #[arg(value_name = "MAPPING|NAME")]
        which: Option<String>,
        /// Which mappings.
        #[command(flatten)]
        source: Source,
        /// As JSON: an array of reports
        #[arg(long)]
        json: bool,
    },
    /// The route that gives each client an address of its own (identity alias): print it, add it, remove it
    #[command(after_help = "\
portolan alias-route --print     the command, and how to keep it across restarts
sudo portolan alias-route --add  until the machine restarts

Exit status: 0 it is as it was asked for; 1 it could not be done (adding and removing need root).")]
    AliasRoute {
        /// What to do.
        #[command(flatten)]
        action: RouteAction,
        /// The pool of aliases, where the mapping has another one
        #[arg(long, value_name = "CIDR", default_value_t = DEFAULT_ALIAS_POOL, value_parser = parse_cidr)]
        pool: IpNet,
    },
    /// Something of a running engine.
    #[command(flatten)]
    Engine(Box<Engine>),
    /// Print every key binding that works now
    Keys {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of profile files
    Schema,
    /// Print completions for a shell, to be read by it
    #[command(after_help = "\
Put them where the shell looks for them; they are there from its next start on:
  bash   portolan completions bash >~/.local/share/bash-completion/completions/portolan
  zsh    portolan completions zsh >~/.zfunc/_portolan   (~/.zfunc must be in $fpath)
  fish   portolan completions fish >~/.config/fish/completions/portolan.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    #[command(after_help = "Shown by: portolan man | man -l -")]
    Man,
}

/// What to do with a route.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RouteAction {
    /// Print the command that adds it, and what keeps it across restarts
    #[arg(long)]
    pub print: bool,
    /// Add it until the machine restarts; needs root
    #[arg(long)]
    pub add: bool,
    /// Remove it; needs root
    #[arg(long)]
    pub remove: bool,
}

/// How to run without a screen.
#[derive(Clone, Copy, Debug, Args)]
// A group is made of the subcommand of the same name already.
#[group(skip)]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, String> {
        Cli::read_from(line.split(' ').map(OsString::from)).map_err(|error| {
            assert_eq!(error.exit_code(), 2, "{line}");
            error.to_string().lines().next().unwrap_or_default().to_owned()
        })
    }

    #[test]
    fn arguments_before_a_subcommand_count_as_those_behind_it() {
        for command in ["run", "check"] {
            let cli = read(&format!("portolan -p A --profile x {command} -p B -p C")).unwrap();
            assert_eq!(cli.source.mappings, ["A", "B", "C"]);
            assert_eq!(cli.source.profile.as_deref(), Some("x"));
            let cli = read(&format!("portolan -p A {command} --file f")).unwrap();
            assert_eq!((cli.source.mappings, cli.source.file), (vec!["A".to_owned()], Some("f".into())));
            let cli = read(&format!("portolan --ascii {command}")).unwrap();
            assert!(cli.screen.ascii);
        }
        assert!(read("portolan --light try --light").unwrap().screen.light);
        assert_eq!(read("portolan -p A -p B").unwrap().source.mappings, ["A", "B"]);
    }

    #[test]
    fn metrics_are_asked_for_before_a_subcommand_or_behind_it() {
        for line in [
            "portolan --metrics 127.0.0.1:9464",
            "portolan --metrics 127.0.0.1:9464 run",
            "portolan run --metrics 127.0.0.1:9464",
        ] {
            assert_eq!(read(line).unwrap().serving.metrics, Some("127.0.0.1:9464".parse().unwrap()), "{line}");
        }
    }

    #[test]
    fn what_contradicts_or_has_no_effect_is_refused() {
        for (line, said) in [
            ("--file a check --file b", "the argument '--file <PATH>' cannot be used multiple times"),
            ("--profile a run --profile b", "the argument '--profile <NAME>' cannot be used multiple times"),
            ("--profile a check --file b", "the argument '--profile <NAME>' cannot be used with '--file <PATH>'"),
            ("--file a run --profile b", "the argument '--profile <NAME>' cannot be used with '--file <PATH>'"),
            ("check --profile a --file b", "the argument '--profile <NAME>' cannot be used with '--file <PATH>'"),
            ("-p A keys", "the argument '--publish <MAPPING>' cannot be used with 'keys'"),
            ("--profile a try", "the argument '--profile <NAME>' cannot be used with 'try'"),
            ("--file a schema", "the argument '--file <PATH>' cannot be used with 'schema'"),
            (
                "--metrics 127.0.0.1:1 run --metrics 127.0.0.1:1",
                "the argument '--metrics <ADDRESS:PORT>' cannot be used multiple times",
            ),
            (
                "--metrics 127.0.0.1:1 check",
                "the argument '--metrics <ADDRESS:PORT>' cannot be used with a subcommand other than 'run'",
            ),
            ("--metrics 127.0.0.1:1 --demo", "the argument '--metrics <ADDRESS:PORT>' cannot be used with '--demo'"),
            ("--file a man", "the argument '--file <PATH>' cannot be used with 'man'"),
            ("-p A completions bash", "the argument '--publish <MAPPING>' cannot be used with 'completions'"),
            ("--demo run", "the argument '--demo' cannot be used with a subcommand: it is a screen by itself"),
            ("--demo -p A", "the argument '--demo' cannot be used with '--publish <MAPPING>'"),
            ("keys -p A", "unexpected argument '-p' found"),
        ] {
            assert_eq!(read(&format!("portolan {line}")).unwrap_err(), format!("error: {said}"), "{line}");
        }
    }
}
