//! State of a mapping (contract §3) and the reasons for it, in the words that users read.
//!
//! The state is a pure function of what is known of the listeners, the target and the limits ([`derive`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::context::Addresses;
use super::descriptors::Shortage;
use super::meter::MappingMeter;
use super::pressure::Limit;
use crate::model::event::MappingState;
use crate::model::id::MappingId;
use crate::model::mapping::{Family, Protocol};
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;

/// Where a mapping stands.
#[derive(Clone, Debug)]
pub struct MappingStatus {
    /// Which.
    pub id: MappingId,
    /// As it was last applied.
    pub config: Arc<MappingConfig>,
    /// Its state.
    pub state: MappingState,
    /// Why, where there is more to say than the state.
    pub reason: Option<StateReason>,
    /// Each family asked for, IPv4 first; a family that this host lacks is not listed.
    pub listeners: Vec<ListenerStatus>,
    /// Where the target is.
    pub addresses: Addresses,
    /// Its counters.
    pub meter: Arc<MappingMeter>,
}

/// One family of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Which family.
    pub family: Family,
    /// `[::1]:8000-8010`; with `auto`, the port that was taken once it is bound.
    pub wanted: String,
    /// The first bound address.
    pub bound: Option<SocketAddr>,
    /// Why it is not bound.
    pub error: Option<ListenError>,
}

/// Why a mapping is in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateReason {
    /// Both families were asked for, and this host has no IPv6.
    Ipv4Alone,
    /// A family is not bound.
    NotBound(ListenError),
    /// The target has no address now.
    Waiting(SafeText),
    /// It must not be dialled.
    Refused(SafeText),
    /// A connection has come back to this mapping; the way it took.
    SelfForwarding(String),
    /// A limit that clients meet.
    Limit(Limit),
    /// The task of this mapping has panicked.
    Fault,
}

/// Why an address cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("{address}/{protocol} is in use")]
    InUse {
        /// Where.
        address: SocketAddr,
        /// By which protocol.
        protocol: Protocol,
    },
    /// No number was free in both families.
    #[error("no port is free in both families")]
    NoneFree,
    /// A port below 1024 without the right to it.
    #[error("port {0} needs the capability CAP_NET_BIND_SERVICE, or a port from 1024")]
    Privileged(u16),
    /// An address of another host.
    #[error("{0} is not an address of this host")]
    NotLocal(IpAddr),
    /// The interface of a link-local address.
    #[error("this host has no interface {0}")]
    NoInterface(SafeText),
    /// The kernel lacks the family.
    #[error("this host has no IPv{}", if *.0 == Family::V4 { 4 } else { 6 })]
    NoFamily(Family),
    /// The kernel lacks SCTP.
    #[error("this kernel has no SCTP (try: modprobe sctp)")]
    NoSctp,
    /// Too many ports for the descriptors that are left.
    #[error(transparent)]
    Descriptors(#[from] Shortage),
    /// The listening socket has failed after it was bound.
    #[error("{0}")]
    Broken(String),
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// The system's word for it.
        error: String,
    },
}

/// What is known of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FamilyState {
    /// All its sockets are bound.
    Bound,
    /// This host has no such family, and the mapping did not insist on it.
    Absent,
    /// None of its sockets is bound.
    NotBound(ListenError),
}

/// What a mapping's state is made of.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) enabled: bool,
    pub(crate) families: &'a [FamilyState],
    pub(crate) addresses: &'a Addresses,
    pub(crate) self_forwarding: Option<&'a str>,
    pub(crate) limit: Option<Limit>,
}

/// The state and its reason. Of several that hold: what is wrong with the listeners before what is wrong with the
/// target, and that before limits.
pub(crate) fn derive(facts: &Facts<'_>) -> (MappingState, Option<StateReason>) {
    if !facts.enabled {
        return (MappingState::Stopped, None);
    }
    if let Some(way) = facts.self_forwarding {
        return (MappingState::Failed, Some(StateReason::SelfForwarding(way.to_owned())));
    }
    if let Addresses::Refused { reason } = facts.addresses {
        return (MappingState::Failed, Some(StateReason::Refused(reason.clone())));
    }
    let error = facts.families.iter().find_map(|family| match family {
        FamilyState::NotBound(error) => Some(StateReason::NotBound(error.clone())),
        _ => None,
    });
    if !facts.families.contains(&FamilyState::Bound) {
        return (MappingState::Failed, error);
    }
    if error.is_some() {
        return (MappingState::Half, error);
    }
    if let Addresses::Waiting { reason } = facts.addresses {
        return (MappingState::Waiting, Some(StateReason::Waiting(reason.clone())));
    }
    if let Some(limit) = facts.limit {
        return (MappingState::Degraded, Some(StateReason::Limit(limit)));
    }
    let alone = facts.families.contains(&FamilyState::Absent).then_some(StateReason::Ipv4Alone);
    (MappingState::Up, alone)
}

impl MappingStatus {
    /// Whether clients would see another status. Counters change all the time and do not count.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.state != other.state
            || self.reason != other.reason
            || self.listeners != other.listeners
            || self.addresses != other.addresses
            || !Arc::ptr_eq(&self.config, &other.config)
    }
}

impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4Alone => f.write_str("this host has no IPv6: IPv4 alone"),
            Self::NotBound(error) => error.fmt(f),
            Self::Waiting(reason) | Self::Refused(reason) => reason.fmt(f),
            Self::SelfForwarding(way) => write!(f, "would forward to itself: {way}"),
            Self::Limit(limit) => limit.fmt(f),
            Self::Fault => f.write_str("its task has panicked (this is a defect of portolan; the log has more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_use() -> ListenError {
        ListenError::InUse { address: "127.0.0.1:8080".parse().expect("an address"), protocol: Protocol::Tcp }
    }

    fn state(families: &[FamilyState], addresses: &Addresses, limit: Option<Limit>) -> (MappingState, String) {
        let facts = Facts { enabled: true, families, addresses, self_forwarding: None, limit };
        let (state, reason) = derive(&facts);
        (state, reason.map(|reason| reason.to_string()).unwrap_or_default())
    }

    #[test]
    fn the_state_says_what_keeps_most_clients_away() {
        use FamilyState::{Absent, Bound, NotBound};
        let known = Addresses::Known(vec![]);
        let waiting = Addresses::Waiting { reason: "container web_1 is stopped: the mapping waits".into() };
        let refused = Addresses::Refused { reason: "would forward to itself: :1 -> :1".into() };
        let cap = || Some(Limit::Connections(2));
        let busy = || NotBound(in_use());
        let text = "127.0.0.1:8080/tcp is in use";
        let cases = [
            (vec![Bound, Bound], &known, None, MappingState::Up, ""),
            (vec![Bound, Absent], &known, None, MappingState::Up, "this host has no IPv6: IPv4 alone"),
            (vec![busy(), Bound], &known, None, MappingState::Half, text),
            (vec![busy(), Bound], &waiting, cap(), MappingState::Half, text),
            (vec![busy(), Absent], &known, None, MappingState::Failed, text),
            (vec![busy(), busy()], &waiting, None, MappingState::Failed, text),
            (vec![Bound], &waiting, cap(), MappingState::Waiting, "container web_1 is stopped: the mapping waits"),
            (vec![Bound], &refused, None, MappingState::Failed, "would forward to itself: :1 -> :1"),
            (vec![], &refused, None, MappingState::Failed, "would forward to itself: :1 -> :1"),
            (
                vec![Bound, Bound],
                &known,
                cap(),
                MappingState::Degraded,
                "max_connections (2) is reached: more clients are turned away",
            ),
        ];
        for (families, addresses, limit, expected, reason) in cases {
            assert_eq!(state(&families, addresses, limit), (expected, reason.to_owned()), "{families:?}");
        }
    }

    #[test]
    fn a_disabled_mapping_is_stopped_whatever_else_is_known() {
        let facts = Facts {
            enabled: false,
            families: &[FamilyState::NotBound(in_use())],
            addresses: &Addresses::Waiting { reason: "".into() },
            self_forwarding: Some(":1 -> :1"),
            limit: Some(Limit::OutOfDescriptors),
        };
        assert_eq!(derive(&facts), (MappingState::Stopped, None));
    }
}
