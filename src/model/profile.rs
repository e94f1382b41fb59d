//! A profile: as written in the file, and as usable (contract §2).

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::identity::{DEFAULT_ALIAS_POOL, Identity, Inspect};
use super::mapping::{Mapping, Protocol};
use super::problem::Problem;

/// The format version that this release writes and the newest that it reads.
pub const VERSION: u32 = 1;
/// The longest name of a network.
pub const MAX_NETWORK_NAME: usize = 255;
/// Most mappings of one profile.
pub const MAX_MAPPINGS: usize = 10_000;
/// Most networks that a mapping trusts.
pub const MAX_TRUSTED: usize = 64;

/// The file as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "portolan profile", description = "Which ports of this host go to which containers.")]
pub struct WrittenProfile {
    /// Format version: 1.
    #[schemars(range(min = 1, max = VERSION))]
    pub version: u32,
    /// The mappings, in the order in which they are shown.
    #[serde(default)]
    #[schemars(length(max = MAX_MAPPINGS))]
    pub mappings: Vec<WrittenMapping>,
}

/// One mapping as written, in the file or by a form; nothing about it need be valid.
///
/// A field is either left out or has a value: `with` keeps null out of the schema, and `given` out of the type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "One mapping: listen here, forward there.")]
#[schemars(example = example("any:8080", "web_1:80"), example = example("auto", "compose/shop/web:80"))]
pub struct WrittenMapping {
    /// Unique name: letters, digits, `.`, `_` and `-`, up to 64. Left out, it is made from `listen`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = super::name::PATTERN))]
    pub name: Option<String>,
    /// The host's side: `[ADDRESS:]PORT[-PORT]`.
    #[schemars(regex(pattern = super::pattern::LISTEN))]
    pub listen: String,
    /// The container's side: `TARGET:PORT[-PORT]`.
    #[schemars(regex(pattern = super::pattern::TARGET))]
    pub target: String,
    /// tcp (default), udp or sctp.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Protocol")]
    pub protocol: Option<Protocol>,
    /// Of a container on several networks: the one by which it is reached. Left out, one that this host can reach.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = MAX_NETWORK_NAME), regex(pattern = r"^\S+$"))]
    pub network: Option<String>,
    /// Whether it listens; true by default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub enabled: Option<bool>,
    /// How long all attempts to reach the target may take together, such as `5s` (default).
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = super::duration::PATTERN))]
    pub connect_timeout: Option<String>,
    /// A connection without a byte for that long ends; by default none for tcp and `90s` for udp.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = super::duration::PATTERN))]
    pub idle_timeout: Option<String>,
    /// How long a connection may stay half-closed without a byte; `1h` by default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = super::duration::PATTERN))]
    pub half_close_timeout: Option<String>,
    /// Most connections (tcp, none by default) or flows (udp, 4096 by default) at once.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = u32::MAX))]
    pub max_connections: Option<u32>,
    /// How the target learns who its client is; `none` by default: every client has this host's address.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Identity")]
    pub identity: Option<Identity>,
    /// With the identity `alias`: the network out of which clients get their addresses; 198.18.0.0/15 by default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = super::cidr::PATTERN))]
    pub alias_pool: Option<String>,
    /// Whether clients come by proxies of `trusted_cidrs`, which name them by PROXY headers; all others are refused.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub accept_proxy: Option<bool>,
    /// Networks of proxies in front, whose word is taken by `accept_proxy` and in the fields of the identity `http`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = MAX_TRUSTED), inner(regex(pattern = super::cidr::PATTERN)))]
    pub trusted_cidrs: Option<Vec<String>>,
    /// `http`: list the requests of each connection, without changing a byte.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Inspect")]
    pub inspect: Option<Inspect>,
}

fn example(listen: &str, target: &str) -> WrittenMapping {
    WrittenMapping { listen: listen.into(), target: target.into(), ..WrittenMapping::default() }
}

/// The value of a field that is there: null is none.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A mapping as usable: everything valid, every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingConfig {
    /// Unique name.
    pub name: String,
    /// The user wrote the name; otherwise it follows the listen side and is not written to the file.
    pub name_is_given: bool,
    /// Listen, target and protocol.
    pub mapping: Mapping,
    /// The network by which a container is reached; `None`: one that this host can reach.
    pub network: Option<String>,
    /// Whether it listens.
    pub enabled: bool,
    /// All attempts to reach the target together.
    pub connect_timeout: Duration,
    /// Ends a connection without traffic; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Ends a half-closed connection without traffic.
    pub half_close_timeout: Duration,
    /// Most connections or flows at once; `None`: no cap.
    pub max_connections: Option<u32>,
    /// How the target learns who its client is.
    pub identity: Identity,
    /// Where alias addresses come from.
    pub alias_pool: IpNet,
    /// Whether clients come with a PROXY header.
    pub accept_proxy: bool,
    /// Whose word about a client is taken.
    pub trusted_cidrs: Vec<IpNet>,
    /// What is looked for in the traffic.
    pub inspect: Option<Inspect>,
}

/// The desired state, as usable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The mappings, in the order of the file; names and listeners are unique.
    pub mappings: Vec<MappingConfig>,
}

impl MappingConfig {
    /// A mapping with every default.
    pub fn new(name: impl Into<String>, mapping: Mapping) -> Self {
        let udp = mapping.protocol == Protocol::Udp;
        Self {
            name: name.into(),
            name_is_given: true,
            network: None,
            enabled: true,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: udp.then_some(Duration::from_secs(90)),
            half_close_timeout: Duration::from_hours(1),
            max_connections: udp.then_some(4096),
            identity: Identity::None,
            alias_pool: DEFAULT_ALIAS_POOL,
            accept_proxy: false,
            trusted_cidrs: Vec::new(),
            inspect: None,
            mapping,
        }
    }
}

/// Every problem found, never the first alone.
pub type Problems = Vec<Problem>;
