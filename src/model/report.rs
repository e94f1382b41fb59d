//! Why a mapping does not work, as `w` and `portolan doctor` tell it: steps, the cause, and what to try.
//!
//! It never guesses: a step that cannot be seen is [`Verdict::Unknown`] and says what it needs, and there is a cause
//! only where a step has found one.

use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mapping::Family;
use super::untrusted::SafeText;

/// What was found of one mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// The mapping as text.
    pub mapping: String,
    /// Every step, in the order in which a connection takes them; for each family where they differ.
    pub steps: Vec<Step>,
    /// What is wrong; of several, what a connection meets first. Empty when it works as far as can be seen.
    pub causes: Vec<Cause>,
    /// Who can connect, as one sentence.
    pub who: SafeText,
    /// Addresses under which clients find it, best first.
    pub will_be_at: Vec<SocketAddr>,
    /// How long the checks took.
    pub took_ms: u64,
}

/// One step on the way of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Which.
    pub kind: StepKind,
    /// The family it is about; `None`: both, or neither.
    pub family: Option<Family>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen; of a step that cannot be seen, what it needs.
    pub text: SafeText,
}

/// The steps, in the order in which a connection takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// The listening socket on this host.
    Listener,
    /// The way from clients to it: addresses of this host, DNAT in front of it.
    Clients,
    /// Where the target is: the container, the name.
    Target,
    /// The way to the target's address.
    Route,
    /// The pool of addresses that clients appear under, with the identity `alias`.
    Alias,
    /// The packet filter.
    Firewall,
    /// Connecting to the target.
    Connect,
    /// Who listens inside the container.
    Inside,
    /// What is spoken: TLS or plain text.
    Speech,
    /// Limits: descriptors, connections.
    Limits,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// `ok`
    Ok,
    /// `!!`
    Bad,
    /// `??`: it cannot be seen from here.
    Unknown,
    /// Not looked at: it does not apply, or an earlier step has failed.
    Skipped,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cause {
    /// Which of the causes that can be told apart.
    pub kind: CauseKind,
    /// One or two sentences.
    pub text: SafeText,
    /// What to try, the likeliest remedy first.
    pub remedies: Vec<SafeText>,
}

/// The causes that can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// A process holds the port.
    PortHeldByProcess,
    /// A container's publication holds the port.
    PortHeldByContainer,
    /// Docker's packet filter takes the clients away before they reach the listener.
    ShadowedByDnat,
    /// The port needs a capability.
    PrivilegedPort,
    /// The listen address is not of this host.
    AddressNotOfThisHost,
    /// This host has no IPv6.
    Ipv6Disabled,
    /// Other machines cannot come over IPv6: this host has no global address.
    NoGlobalIpv6,
    /// There is no such container.
    ContainerMissing,
    /// The container does not run.
    ContainerStopped,
    /// The container has no network address.
    ContainerWithoutAddress,
    /// The container is on a network that this host cannot reach.
    NetworkUnreachable,
    /// The container is on an `--internal` network that this host cannot reach.
    NetworkInternal,
    /// The engine's network is not this host's.
    EngineElsewhere,
    /// Docker cannot be asked.
    DockerUnavailable,
    /// The application listens on its own loopback alone.
    AppOnLoopback,
    /// The application listens on another port.
    AppOnAnotherPort,
    /// The application listens on IPv6 alone.
    AppOnIpv6Only,
    /// Nothing listens inside.
    AppNotListening,
    /// The target refuses, and no more can be seen.
    TargetRefused,
    /// The target does not answer, and no more can be seen.
    TargetTimedOut,
    /// There is no way to the target.
    TargetUnreachable,
    /// The kernel drops answers that come by another way (`rp_filter`).
    ReversePathFilter,
    /// A rule of a packet filter drops or rejects.
    Firewall,
    /// This process is out of file descriptors.
    DescriptorLimit,
    /// The application does not take connections in: its backlog is full.
    BacklogFull,
    /// The name of the target is not resolved.
    NameNotResolved,
    /// It would forward to itself.
    ForwardsToItself,
    /// The kernel's connection tracking still sends a client's datagrams elsewhere.
    StaleUdpConntrack,
    /// Clients speak TLS to a target that does not.
    TlsToPlainPort,
    /// Clients speak plain text to a target that wants TLS.
    PlainToTlsPort,
    /// The mapping is stopped.
    MappingStopped,
    /// The kernel has no such protocol (SCTP).
    ProtocolUnsupported,
    /// The mapping has as many connections as it may have.
    ConnectionLimit,
    /// The route is missing that makes the pool of aliases local.
    AliasRouteMissing,
    /// The pool of aliases cannot be used: somebody else has addresses of it.
    AliasPool,
    /// A rule of a packet filter gives connections from aliases another source.
    AliasRewritten,
    /// The container has no way to answer an alias: no gateway.
    AliasNoWayBack,
}

impl CauseKind {
    /// All of them.
    pub const ALL: [Self; 37] = [
        Self::PortHeldByProcess,
        Self::PortHeldByContainer,
        Self::ShadowedByDnat,
        Self::PrivilegedPort,
        Self::AddressNotOfThisHost,
        Self::Ipv6Disabled,
        Self::NoGlobalIpv6,
        Self::ContainerMissing,
        Self::ContainerStopped,
        Self::ContainerWithoutAddress,
        Self::NetworkUnreachable,
        Self::NetworkInternal,
        Self::EngineElsewhere,
        Self::DockerUnavailable,
        Self::AppOnLoopback,
        Self::AppOnAnotherPort,
        Self::AppOnIpv6Only,
        Self::AppNotListening,
        Self::TargetRefused,
        Self::TargetTimedOut,
        Self::TargetUnreachable,
        Self::ReversePathFilter,
        Self::Firewall,
        Self::DescriptorLimit,
        Self::BacklogFull,
        Self::NameNotResolved,
        Self::ForwardsToItself,
        Self::StaleUdpConntrack,
        Self::TlsToPlainPort,
        Self::PlainToTlsPort,
        Self::MappingStopped,
        Self::ProtocolUnsupported,
        Self::ConnectionLimit,
        Self::AliasRouteMissing,
        Self::AliasPool,
        Self::AliasRewritten,
        Self::AliasNoWayBack,
    ];
}

impl Report {
    /// Whether nothing is wrong, as far as can be seen.
    pub fn is_healthy(&self) -> bool {
        self.causes.is_empty()
    }

    /// What is wrong first.
    pub fn cause(&self) -> Option<&Cause> {
        self.causes.first()
    }
}

impl StepKind {
    /// The word that stands in front of a step.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Clients => "clients",
            Self::Target => "target",
            Self::Route => "route",
            Self::Alias => "alias",
            Self::Firewall => "firewall",
            Self::Connect => "connect",
            Self::Inside => "inside",
            Self::Speech => "speech",
            Self::Limits => "limits",
        }
    }
}

impl Verdict {
    /// `ok`, `!!`, `??` or `--`.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Bad => "!!",
            Self::Unknown => "??",
            Self::Skipped => "--",
        }
    }
}

/// As it is printed and copied: one step a line, then the causes with what to try.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.name, self.mapping)?;
        let digits = self.steps.len().to_string().len();
        for (number, step) in self.steps.iter().enumerate() {
            let family = step.family.map(|family| format!(" {family}")).unwrap_or_default();
            let what = format!("{}{family}", step.kind.word());
            writeln!(f, " {} {:>digits$} {what:<12} {}", step.verdict.mark(), number + 1, step.text)?;
        }
        for cause in &self.causes {
            writeln!(f, " CAUSE  {}", cause.text)?;
            for remedy in &cause.remedies {
                writeln!(f, " TRY    {remedy}")?;
            }
        }
        if self.causes.is_empty() {
            let unseen = self.steps.iter().any(|step| step.verdict == Verdict::Unknown);
            writeln!(f, " {}", if unseen { "nothing wrong, as far as can be seen" } else { "nothing wrong" })?;
        }
        Ok(())
    }
}
