//! Arguments of the commands that speak to a running engine, as typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::interval;

/// The grammar of a mapping.
const MAPPING: &str = "[ADDRESS:]PORT[-PORT]:TARGET:PORT[-PORT][/tcp|/udp|/sctp]";

/// How an engine is named.
pub(super) const PROFILE: &str = "The engine that runs this profile [default: default]";
pub(super) const FILE: &str = "The engine that runs this profile file";

/// Which engine, and how it answers.
#[derive(Clone, Debug, Default, Args)]
pub struct To {
    /// Of the engine.
    #[arg(long, help = PROFILE, value_name = "NAME", conflicts_with = "file")]
    pub profile: Option<String>,
    /// Of the engine.
    #[arg(long, help = FILE, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// The engine with this control socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["profile", "file"])]
    pub socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// What takes a filter, as the screen's `/` does.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Words, and port:8080 fam:6 state:up; all of them must hold
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// List what Docker itself publishes, too
    #[arg(long)]
    pub published: bool,
}

/// Fields of a mapping that have a default.
#[derive(Clone, Debug, Default, Args)]
pub struct Fields {
    /// Its name; when left out, or empty, it is made from the listen side
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Of a container on several networks: the one by which it is reached
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// All attempts to reach the target together, such as 5s (default)
    #[arg(long, value_name = "DURATION")]
    pub connect_timeout: Option<String>,
    /// Ends a connection without traffic; by default none for tcp, 90s for udp
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<String>,
    /// Ends a half-closed connection without traffic; 1h by default
    #[arg(long, value_name = "DURATION")]
    pub half_close_timeout: Option<String>,
    /// Most connections at once; by default no limit for tcp, 4096 for udp
    #[arg(long, value_name = "NUMBER")]
    pub max_connections: Option<String>,
    /// How the container learns who its client is
    #[arg(long, value_name = "IDENTITY", value_parser = ["none", "proxy-v1", "proxy-v2", "http", "alias"])]
    pub identity: Option<String>,
    /// With the identity alias: the network of the addresses given to clients; 198.18.0.0/15 by default
    #[arg(long, value_name = "CIDR")]
    pub alias_pool: Option<String>,
    /// Whether proxies in front name the client by a PROXY header (see --trusted-cidrs)
    #[arg(long, value_name = "WHETHER", value_parser = ["true", "false"], num_args = 0..=1, default_missing_value = "true")]
    pub accept_proxy: Option<String>,
    /// Networks of the proxies in front whose word is taken, with commas between; or default
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_cidrs: Option<Vec<String>>,
    /// Lists the requests of each connection, without changing a byte
    #[arg(long, value_name = "WHAT", value_parser = ["http", "default"])]
    pub inspect: Option<String>,
}

/// Mappings by name or id.
#[derive(Clone, Debug, Default, Args)]
pub struct Which {
    /// Names or ids, as `ls` lists them
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
    /// Every mapping
    #[arg(long)]
    pub all: bool,
}

/// What to ask of a running engine.
#[derive(Clone, Debug, Subcommand)]
pub enum Engine {
    /// List the mappings of the running engine
    #[command(after_help = "\
portolan ls state:fail           those that do not listen
portolan ls --json | jq -r '.[] | select(.state != \"up\") | .name'

STATE is the listener's side, LAST RESULT the target's; WHO can connect: me (this machine) or net (others, too).
IN is from clients to the target, OUT is back; k, M and G are powers of 1000.")]
    Ls {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Add a mapping to the running engine and its profile
    #[command(after_help = "\
portolan add 8080:web_1:80 --name web
portolan add any:5353:172.17.0.3:53/udp --idle-timeout 10s

It is added when it is valid and its port is free. What does not listen all the same is tried again; stderr says why.")]
    Add {
        /// As mapping text.
        #[arg(help = MAPPING)]
        mapping: String,
        /// The rest of it.
        #[command(flatten)]
        fields: Fields,
        /// Do not let it listen yet
        #[arg(long)]
        stopped: bool,
        /// Add it although its port is in use; it listens once the port is free
        #[arg(long)]
        even_if_busy: bool,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Change a mapping; what is not given stays as it is
    #[command(after_help = "\
portolan edit web any:8080:web_1:80
portolan edit web --name shop --idle-timeout default

`default` takes an option back. Connections stay where the listen side stays as it is.")]
    Edit {
        /// Its name or id
        #[arg(value_name = "NAME")]
        which: String,
        /// As mapping text.
        #[arg(help = MAPPING)]
        mapping: Option<String>,
        /// What else changes.
        #[command(flatten)]
        fields: Fields,
        /// Change it although its port is in use; it listens once the port is free
        #[arg(long)]
        even_if_busy: bool,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Remove mappings, resetting their connections
    #[command(after_help = "portolan undo brings them back, but not their connections.")]
    Rm {
        /// Names or ids, as `ls` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Let mappings listen
    Start {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Stop mappings: listeners close, connections are reset
    Stop {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Take the last change of the profile back
    Undo {
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// List the connections of the running engine
    #[command(after_help = "\
portolan connections web fam:6
portolan connections --json state:half | jq '.[].id' | xargs -r portolan kill")]
    Connections {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// List those that have ended, too, as far as the engine remembers them
        #[arg(long)]
        closed: bool,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Reset connections
    Kill {
        /// Ids, as `connections` lists them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Tell the client behind an alias address, or the alias of a client
    #[command(after_help = "\
portolan whois 198.18.3.7        the client that a container's log calls 198.18.3.7
portolan whois 2001:db8::41      as which address its targets see it

Without an engine it answers by what was saved last. An alias that was handed on is told with the clients that had it
before.")]
    Whois {
        /// An alias, or the address of a client; a port or a zone behind it is left out of account
        #[arg(value_parser = address)]
        address: IpAddr,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Show mappings and open connections with what flows, again and again
    #[command(after_help = "\
portolan watch                   in place, until ^C
portolan watch web --interval 10s >>web.log
portolan watch --json | jq '.mappings[] | [.name, .in_rate, .out_rate]'

IN/s and OUT/s are means over the interval. The filter holds for both tables.")]
    Watch {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Time between two looks, such as 1s
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
        interval: Duration,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Print events of the running engine as they happen, as `portolan run` does
    #[command(after_help = "\
portolan events web              what has to do with web
portolan events --json closed port:8080 | jq -r '.connection.reason'

The filter looks into the line of text of an event, with --json, too. `traffic` is of the mappings and connections that
pass; `lost` is told whatever the filter, since the event that is waited for may be among those.")]
    Events {
        /// Words, and port:8080 fam:6; all of them must hold
        #[arg(value_name = "FILTER")]
        filter: Vec<String>,
        /// Time between two traffic events, such as 1s
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
        interval: Duration,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// List the profiles, and which ones an engine runs
    #[command(after_help = "\
STATE is `open` for the profile of the engine that is asked, `running` for one that another engine runs.
Without an engine, and with none named by --profile, --file or --socket, the profiles are listed all the same.")]
    Profiles {
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Let the running engine open another profile; connections of mappings that are the same in both stay
    Open {
        /// The profile
        name: String,
        /// Make it if it is not there
        #[arg(long)]
        new: bool,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
    /// Write the mappings of the running engine, those of its session included, to a new profile and open that
    Saveas {
        /// The new profile
        name: String,
        /// Whom to ask.
        #[command(flatten)]
        to: To,
    },
}

/// An address as logs have it, perhaps with a port.
fn address(text: &str) -> Result<IpAddr, String> {
    // The zone of a link-local address is not part of what is known of a client.
    let without_zone = text.split_once('%').map(|(before, zone)| {
        let after = zone.find(']').map_or("", |end| &zone[end..]);
        format!("{before}{after}")
    });
    let text = without_zone.as_deref().unwrap_or(text);
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = plain.parse().or_else(|_| text.parse().map(|with_port: SocketAddr| with_port.ip()));
    parsed.map_err(|_| "write an IP address, such as 198.18.3.7 or 2001:db8::41".to_owned())
}

impl Engine {
    /// As it is typed.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ls { .. } => "ls",
            Self::Add { .. } => "add",
            Self::Edit { .. } => "edit",
            Self::Rm { .. } => "rm",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Undo { .. } => "undo",
            Self::Connections { .. } => "connections",
            Self::Kill { .. } => "kill",
            Self::Whois { .. } => "whois",
            Self::Watch { .. } => "watch",
            Self::Events { .. } => "events",
            Self::Profiles { .. } => "profiles",
            Self::Open { .. } => "open",
            Self::Saveas { .. } => "saveas",
        }
    }

    /// Whom to ask, and how it answers.
    pub fn to(&self) -> &To {
        match self {
            Self::Ls { to, .. }
            | Self::Add { to, .. }
            | Self::Edit { to, .. }
            | Self::Rm { to, .. }
            | Self::Start { to, .. }
            | Self::Stop { to, .. }
            | Self::Undo { to }
            | Self::Connections { to, .. }
            | Self::Kill { to, .. }
            | Self::Whois { to, .. }
            | Self::Watch { to, .. }
            | Self::Events { to, .. }
            | Self::Profiles { to }
            | Self::Open { to, .. }
            | Self::Saveas { to, .. } => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_stand_with_its_zone_and_its_port() {
        for (text, expected) in [
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%eth0]", "fe80::1"),
            ("[fe80::1%eth0]:53", "fe80::1"),
            ("[fe80::1]:53", "fe80::1"),
            ("198.18.3.7:80", "198.18.3.7"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().unwrap()), "{text}");
        }
        assert!(address("%eth0").is_err() && address("fe80::1]%eth0").is_err());
    }
}
