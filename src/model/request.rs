//! What a client can ask of the service, and what it answers.
//!
//! Requests and replies are plain serialisable data: the screen, `run` and later the control socket use the
//! same ones. A request that changes the desired state may name the revision that it was made from.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alias::WhoIs;
use super::container::{Container, DockerState, InsideListener};
use super::id::{ConnectionId, MappingId, Revision};
use super::mapping::{Family, Listen, Protocol, Target};
use super::metrics::Metrics;
use super::problem::Problem;
use super::profile::WrittenMapping;
use super::report::Report;
use super::untrusted::SafeText;
use super::update::LastOutcome;

/// A request with the revision it expects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    /// Refuse with [`RequestError::Stale`] unless the desired state stands at this revision.
    #[serde(default)]
    pub expected: Option<Revision>,
    /// What is asked.
    pub request: Request,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Adds a mapping. Answer: [`Reply::Done`], with its id. A port held by somebody else is refused
    /// ([`RequestError::PortInUse`]) unless `even_if_busy`: then it is kept as `failed` and retried.
    Add {
        /// The mapping.
        mapping: WrittenMapping,
        /// Keep it although its port is in use.
        even_if_busy: bool,
    },
    /// Replaces a mapping. Connections stay where its listeners stay as they are.
    Edit {
        /// Which.
        id: MappingId,
        /// What it shall be.
        mapping: WrittenMapping,
        /// As with `Add`.
        even_if_busy: bool,
    },
    /// Removes mappings, resetting their connections.
    Remove {
        /// Which.
        ids: Vec<MappingId>,
    },
    /// Sets `enabled`.
    Start {
        /// Which.
        ids: Vec<MappingId>,
    },
    /// Clears `enabled`: listeners close, connections are reset.
    Stop {
        /// Which.
        ids: Vec<MappingId>,
    },
    /// Resets one connection.
    Kill {
        /// Which.
        id: ConnectionId,
    },
    /// Takes the last change of the desired state back. Answer: [`Reply::Done`], saying what was undone.
    Undo,
    /// Opens another profile; connections of mappings that are the same in both stay.
    OpenProfile {
        /// Its name.
        name: String,
    },
    /// Writes the desired state, session mappings included, to another profile and opens that.
    SaveAs {
        /// Its name.
        name: String,
    },
    /// Names of the profiles. Answer: [`Reply::Profiles`].
    Profiles,
    /// Who holds these ports, and which is free. Reads the kernel's tables, touches no port. Answer: [`Reply::Port`].
    WhoHolds {
        /// The listen side as typed so far.
        listen: Listen,
        /// Protocol.
        protocol: Protocol,
        /// A mapping that may hold it already (the one being edited).
        except: Option<MappingId>,
    },
    /// Validates a mapping without adding it. Answer: [`Reply::Valid`] or [`RequestError::Invalid`].
    Validate {
        /// The mapping.
        mapping: WrittenMapping,
        /// The mapping that it would replace.
        replaces: Option<MappingId>,
    },
    /// Connects to each address of a target once (TCP), because the user asked. Answer: [`Reply::Probed`].
    Probe {
        /// Whom.
        target: Target,
        /// By what; UDP cannot be probed and answers so.
        protocol: Protocol,
    },
    /// The containers known now. Answer: [`Reply::Containers`].
    Containers,
    /// Adds several mappings as one change, all or none of them. Answer: [`Reply::Done`], with their ids.
    AddAll {
        /// The mappings.
        mappings: Vec<WrittenMapping>,
        /// As with `Add`.
        even_if_busy: bool,
    },
    /// Who listens inside a container. Reads its network namespace's tables; sends nothing. Answer: [`Reply::Inside`].
    Inside {
        /// The container's full id.
        container: SafeText,
    },
    /// Why a mapping does not work, checked now because the user asked: its target is connected to once for each
    /// address. Answer: [`Reply::Why`].
    Why {
        /// Which.
        id: MappingId,
    },
    /// Ends the engine, as its window or a signal would. Answer: [`Reply::Done`], while it ends.
    Shutdown {
        /// How long connections may finish, in milliseconds.
        drain_ms: u64,
    },
    /// What is counted since the start. Answer: [`Reply::Metrics`].
    Metrics,
    /// Which client is behind an alias, or which alias a client has. Answer: [`Reply::Whois`].
    Whois {
        /// An alias, or the address of a client.
        address: IpAddr,
    },
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Carried out.
    Done {
        /// The mappings it concerned, in the order of the request.
        ids: Vec<MappingId>,
        /// One line for the user, such as `deleted web`.
        message: SafeText,
        /// What the keys of a screen do next, such as `u undoes`; other clients have none to press.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<SafeText>,
    },
    /// Names, sorted, and which is open.
    Profiles {
        /// All.
        names: Vec<String>,
        /// The open one.
        open: Option<String>,
    },
    /// See [`Request::WhoHolds`].
    Port(PortReport),
    /// The mapping is fine; what a user should know of it.
    Valid {
        /// The name that it would get.
        name: String,
        /// Such as `Only this machine can connect`.
        notes: Vec<SafeText>,
        /// Addresses under which clients will find it (`http://` not included), best first.
        will_be_at: Vec<SocketAddr>,
        /// The same as people write them, with the names of interfaces: `[fe80::1%eth0]:8080`.
        #[serde(default)]
        places: Vec<SafeText>,
    },
    /// Outcome per address.
    Probed {
        /// In the order of trying; empty when the target has no address, then `reason` says why.
        results: Vec<ProbeResult>,
        /// Why there is no result.
        reason: Option<SafeText>,
    },
    /// See [`Request::Containers`].
    Containers {
        /// Sorted by name, running ones first.
        containers: Vec<Container>,
        /// Whether the list can be trusted.
        docker: DockerState,
    },
    /// See [`Request::Inside`].
    Inside {
        /// Listening sockets, lowest port first; empty when nobody listens, or with `unseen`.
        listeners: Vec<InsideListener>,
        /// Why they cannot be seen, and what that needs.
        unseen: Option<SafeText>,
    },
    /// See [`Request::Why`].
    Why(Box<Report>),
    /// See [`Request::Metrics`].
    Metrics(Box<Metrics>),
    /// See [`Request::Whois`].
    Whois(Box<WhoIs>),
}

impl Reply {
    /// The same with its keys in the line, as a screen shows it.
    #[must_use]
    pub fn with_keys(self) -> Self {
        match self {
            Self::Done { ids, message, keys: Some(keys) } => {
                Self::Done { ids, message: SafeText::new(&format!("{message}; {keys}")), keys: None }
            }
            other => other,
        }
    }
}

/// Who holds a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortReport {
    /// Each socket in the way; empty when the ports are free.
    pub conflicts: Vec<PortConflict>,
    /// The next port (first of a range of the same length) that is free in every family asked for.
    pub next_free: Option<u16>,
    /// Why it cannot be listened on whoever holds what, such as `10.9.9.9 is not an address of this host`.
    #[serde(default)]
    pub problem: Option<SafeText>,
}

/// A socket in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortConflict {
    /// The address it is bound to.
    pub address: SocketAddr,
    /// The family in which it is in the way.
    pub family: Family,
    /// Who holds it, such as `nginx (pid 812)` or `a process of user www-data (run as root for its name)`.
    pub holder: SafeText,
}

/// Outcome of one attempt to connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeResult {
    /// Whom.
    pub address: SocketAddr,
    /// What came of it.
    pub outcome: LastOutcome,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Why a request was not carried out. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum RequestError {
    /// What was asked for is not valid.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid {
        /// Every problem.
        problems: Vec<Problem>,
    },
    /// Somebody else holds the port.
    #[error("{}", .report.conflicts.first().map_or_else(|| "in use".to_owned(), |c| format!("{} is in use by {}", c.address, c.holder)))]
    PortInUse {
        /// Who, and what is free.
        report: PortReport,
    },
    /// The desired state has changed since.
    #[error("changed by somebody else in the meantime: look again, then repeat")]
    Stale {
        /// Where it stands now.
        current: Revision,
    },
    /// There is no such mapping, connection or profile.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: SafeText,
    },
    /// It cannot be done; why and what to do.
    #[error("{message}")]
    Failed {
        /// The text.
        message: SafeText,
    },
    /// The engine is there and does not answer; who, and what may be the matter.
    #[error("{message}")]
    Silent {
        /// The text.
        message: SafeText,
    },
    /// The service has ended.
    #[error("the engine has ended")]
    Gone,
}
