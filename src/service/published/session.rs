//! One session of a published port: what is known of its two legs, and the row that clients see. Pure.
//!
//! `in` is what the container's kernel has acknowledged on the target's leg, where that is known; else what has arrived
//! on the client's. `out` is what the client's kernel has acknowledged; where only the target's leg is known, what has
//! arrived on that.

use std::net::{Ipv6Addr, SocketAddr};

use jiff::Timestamp;

use super::ports::Port;
use crate::host::conntrack::{Rewritten, TrackedState};
use crate::host::tcp::{TcpSocket, TcpState};
use crate::model::event::{CloseReason, Connection, ConnectionState, Side};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Observed, Way};

/// One leg: its two ends, and the kernel's word for its state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leg {
    local: SocketAddr,
    remote: SocketAddr,
    state: &'static str,
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: ConnectionId,
    pub(super) mapping_id: MappingId,
    protocol: Protocol,
    way: Way,
    /// It was there when the first look came.
    is_older: bool,
    opened_at_ms: u64,
    opened_at: Timestamp,
    pub(super) process: Option<SafeText>,
    /// `local` is the client and `remote` the listener.
    client: Option<Leg>,
    /// `local` is the source and `remote` the target.
    target: Option<Leg>,
    /// The socket of the target's leg, once joined.
    pub(super) joined: Option<u64>,
    bytes: Option<(u64, u64)>,
    state: ConnectionState,
    closed_side: Option<Side>,
    /// The ends of both sides were seen.
    ends_seen: (bool, bool),
    /// The client's process was asked for.
    was_named: bool,
}

impl Session {
    pub(super) fn new(
        id: ConnectionId,
        mapping_id: MappingId,
        protocol: Protocol,
        way: Way,
        now: (u64, Timestamp),
        is_older: bool,
    ) -> Self {
        Self {
            is_older,
            id,
            mapping_id,
            protocol,
            way,
            opened_at_ms: now.0,
            opened_at: now.1,
            process: None,
            client: None,
            target: None,
            joined: None,
            bytes: None,
            state: ConnectionState::Open,
            closed_side: None,
            ends_seen: (false, false),
            was_named: false,
        }
    }

    /// Client and listener, where the client's leg is known.
    pub(super) fn client_leg(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.client.as_ref().map(|leg| (leg.local, leg.remote))
    }

    /// Whether its client's process has not been asked for; from now on it has.
    pub(super) fn must_be_named(&mut self) -> bool {
        !std::mem::replace(&mut self.was_named, true)
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Which way it takes.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Whether its bytes are counted.
    pub(super) fn is_counted(&self) -> bool {
        self.bytes.is_some()
    }

    /// Bytes in and out, as far as they are counted.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.bytes.unwrap_or_default()
    }

    /// Takes in the two sockets of a session through docker-proxy, as far as they are known and still there.
    pub(super) fn see_sockets(&mut self, client: Option<&TcpSocket>, target: Option<&TcpSocket>) {
        use TcpState::{FinWait1, FinWait2, SynSent};
        let state = |socket: Option<&TcpSocket>| socket.map_or(TcpState::Close, |socket| socket.state);
        let (near, far) = (state(client), state(target));
        see(&mut self.client, client.map(|socket| (socket.remote, socket.local)), near.word());
        see(&mut self.target, target.map(|socket| (socket.local, socket.remote)), far.word());
        // What the one side has ended, the proxy ends towards the other.
        let ended_by =
            |received: TcpState, sent: TcpState| received.has_received_end() || matches!(sent, FinWait1 | FinWait2);
        let (client_ended, target_ended) = (ended_by(near, far), ended_by(far, near));
        self.ends_seen.0 |= near.has_received_end();
        self.ends_seen.1 |= far.has_received_end();
        (self.state, self.closed_side) = match (client_ended, target_ended) {
            _ if far == SynSent => (ConnectionState::Connecting, None),
            (false, false) => (ConnectionState::Open, None),
            (true, false) => (ConnectionState::HalfClosed, Some(Side::Client)),
            (false, true) => (ConnectionState::HalfClosed, Some(Side::Target)),
            (true, true) => (ConnectionState::Closing, None),
        };
        let (old_in, old_out) = self.bytes();
        // Of a leg that is gone, the last figure stays.
        let (bytes_in, bytes_out) = match (&self.client, &self.target) {
            (Some(_), Some(_)) => {
                (target.and_then(|socket| socket.sent(true)), client.and_then(|socket| socket.sent(false)))
            }
            (Some(_), None) => (client.and_then(TcpSocket::received), client.and_then(|socket| socket.sent(false))),
            (None, _) => (target.and_then(|socket| socket.sent(true)), target.and_then(TcpSocket::received)),
        };
        self.bytes = Some((bytes_in.unwrap_or(old_in), bytes_out.unwrap_or(old_out)));
    }

    /// Takes in a session that the packet filter has rewritten. Its counters are of packets, not of payload.
    pub(super) fn see_rewritten(&mut self, entry: &Rewritten) {
        let word = entry.state.map_or(if entry.is_answered { "ANSWERED" } else { "UNREPLIED" }, TrackedState::word);
        see(&mut self.client, Some((entry.client, entry.listener)), word);
        see(&mut self.target, Some((entry.source, entry.target)), word);
        self.state = match entry.state {
            Some(TrackedState::SynSent | TrackedState::SynRecv) => ConnectionState::Connecting,
            // Whose end it was is not told.
            Some(TrackedState::FinWait | TrackedState::CloseWait) => ConnectionState::HalfClosed,
            Some(TrackedState::LastAck) => ConnectionState::Closing,
            _ => ConnectionState::Open,
        };
        if matches!(entry.state, Some(TrackedState::LastAck | TrackedState::TimeWait)) {
            self.ends_seen = (true, true);
        }
    }

    /// Takes in a connected UDP socket of docker-proxy: whose datagrams it carries is not told.
    pub(super) fn see_udp(&mut self, local: SocketAddr, remote: SocketAddr) {
        see(&mut self.target, Some((local, remote)), "ESTABLISHED");
    }

    /// What is left of one of its sockets says that both sides of that leg have ended.
    pub(super) fn see_leftover(&mut self, of_client: bool) {
        if of_client {
            self.ends_seen.0 = true;
        } else {
            self.ends_seen.1 = true;
        }
    }

    /// Whether it is certain that both client and target have finished sending.
    pub(super) fn is_finished(&self) -> bool {
        self.ends_seen == (true, true)
    }

    /// As clients see it. The age of an open one is left for them to make.
    pub(super) fn row(&self, port: &Port) -> ConnectionRow {
        let nobody = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let client = self.client_leg();
        let listener = client.map_or_else(|| port.hosts.first().copied().unwrap_or(nobody), |(_, listener)| listener);
        let word = |leg: &Option<Leg>| leg.as_ref().map_or("??", |leg| leg.state).into();
        let (bytes_in, bytes_out) = self.bytes();
        ConnectionRow {
            mapping_id: self.mapping_id,
            opened_at_ms: self.opened_at_ms,
            closed_at_ms: None,
            process: self.process.clone(),
            observed: Some(Observed {
                way: self.way,
                client_leg: client.is_some(),
                bytes: self.bytes.is_some(),
                is_older: self.is_older,
                states: [word(&self.client), word(&self.target)],
            }),
            exchanges: Vec::new(),
            exchanges_end: None,
            connection: Connection {
                id: self.id,
                mapping: port.name.clone(),
                protocol: self.protocol,
                client: client.map_or(nobody, |(client, _)| client),
                listener,
                source: self.target.as_ref().map(|leg| leg.local),
                target: port.mapping.target.to_string(),
                target_address: self.target.as_ref().map(|leg| leg.remote),
                state: self.state,
                closed_side: self.closed_side,
                opened_at: self.opened_at,
                duration_ms: 0,
                bytes_in,
                bytes_out,
                datagrams_in: None,
                datagrams_out: None,
                peer: None,
                alias: None,
                requests: None,
                reason: None,
                error: None,
            },
        }
    }

    /// The last row of one that has finished.
    pub(super) fn closed_row(&self, port: &Port, now_ms: u64) -> ConnectionRow {
        let mut row = self.row(port);
        row.closed_at_ms = Some(now_ms);
        row.connection.state = ConnectionState::Closed;
        row.connection.closed_side = None;
        row.connection.reason = Some(CloseReason::Finished);
        row.connection.duration_ms = now_ms.saturating_sub(self.opened_at_ms);
        row
    }
}

/// A leg that was known stays so, with a state that says that it is gone.
fn see(leg: &mut Option<Leg>, ends: Option<(SocketAddr, SocketAddr)>, state: &'static str) {
    match (leg.as_mut(), ends) {
        (Some(leg), _) => leg.state = state,
        (None, Some((local, remote))) => *leg = Some(Leg { local: plain(local), remote: plain(remote), state }),
        (None, None) => {}
    }
}

/// An IPv4 client of a dual-stack socket is shown as one.
fn plain(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    address.set_ip(address.ip().to_canonical());
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tcp::RawCounts;
    use crate::model::mapping::Protocol;
    use crate::service::published::ports::{ports, tests::container};

    fn socket(local: &str, remote: &str, state: TcpState, acked: u64, received: u64) -> TcpSocket {
        TcpSocket {
            local: local.parse().expect("address"),
            remote: remote.parse().expect("address"),
            state,
            inode: 1,
            cookie: 1,
            is_v6_only: None,
            counts: Some(RawCounts { acked, received }),
        }
    }

    fn session() -> Session {
        let now = (5, Timestamp::UNIX_EPOCH);
        Session::new(ConnectionId(1), MappingId(1), Protocol::Tcp, Way::Proxy, now, false)
    }

    fn port() -> Port {
        let published = [("[::]:8080", 80, Protocol::Tcp)];
        ports(&[container("web_1", &["172.17.0.2"], &published)]).remove(0)
    }

    #[test]
    fn states_of_both_legs_say_who_has_finished() {
        use ConnectionState as C;
        use TcpState as S;
        for (near, far, state, side) in [
            (S::Established, S::SynSent, C::Connecting, None),
            (S::Established, S::Established, C::Open, None),
            (S::CloseWait, S::Established, C::HalfClosed, Some(Side::Client)),
            (S::CloseWait, S::FinWait2, C::HalfClosed, Some(Side::Client)),
            (S::Established, S::FinWait1, C::HalfClosed, Some(Side::Client)),
            (S::Established, S::CloseWait, C::HalfClosed, Some(Side::Target)),
            (S::FinWait2, S::CloseWait, C::HalfClosed, Some(Side::Target)),
            (S::LastAck, S::CloseWait, C::Closing, None),
            (S::CloseWait, S::CloseWait, C::Closing, None),
        ] {
            let mut session = session();
            session.see_sockets(
                Some(&socket("[::1]:8080", "[::1]:5", near, 0, 0)),
                Some(&socket("172.17.0.1:6", "172.17.0.2:80", far, 0, 0)),
            );
            assert_eq!((session.state, session.closed_side), (state, side), "{near:?} {far:?}");
        }
    }

    #[test]
    fn bytes_are_what_the_destinations_kernel_has_taken_as_far_as_that_is_known() {
        let client = socket("[::1]:8080", "[::1]:5", TcpState::Established, 40, 100);
        let target = socket("172.17.0.1:6", "172.17.0.2:80", TcpState::Established, 91, 70);
        let bytes = |client: Option<&TcpSocket>, target: Option<&TcpSocket>| {
            let mut session = session();
            session.see_sockets(client, target);
            session.bytes()
        };
        assert_eq!(bytes(Some(&client), Some(&target)), (90, 40));
        assert_eq!(bytes(Some(&client), None), (100, 40));
        assert_eq!(bytes(None, Some(&target)), (90, 70));
        let mut session = session();
        session.see_sockets(Some(&client), Some(&target));
        session.see_sockets(Some(&client), None);
        assert_eq!(session.bytes(), (90, 40));
        let row = session.row(&port());
        let observed = row.observed.expect("it is");
        assert_eq!(observed.states.map(|state| state.to_string()), ["ESTABLISHED", "CLOSE"]);
    }

    #[test]
    fn a_leg_that_is_not_known_is_told_as_such() {
        let mut lone = session();
        lone.see_sockets(None, Some(&socket("172.17.0.1:6", "172.17.0.2:80", TcpState::Established, 1, 0)));
        let row = lone.row(&port());
        let observed = row.observed.clone().expect("it is");
        assert_eq!((observed.client_leg, observed.states[0].as_str()), (false, "??"));
        assert_eq!(row.connection.source, Some("172.17.0.1:6".parse().expect("address")));
        let mut lone = session();
        lone.see_sockets(Some(&socket("[::1]:8080", "[::1]:5", TcpState::Established, 0, 0)), None);
        let row = lone.row(&port());
        assert_eq!((row.connection.source, row.connection.target_address), (None, None));
        assert_eq!(row.observed.expect("it is").states[1].as_str(), "??");
        let text = serde_json::to_string(&lone.row(&port())).expect("it is data");
        assert_eq!(serde_json::from_str::<ConnectionRow>(&text).expect(&text), lone.row(&port()));
    }

    #[test]
    fn an_end_is_called_finished_only_when_both_ends_were_seen() {
        let client = |state| socket("[::1]:8080", "[::1]:5", state, 40, 100);
        let target = |state| socket("172.17.0.1:6", "172.17.0.2:80", state, 91, 70);
        let mut session = session();
        session.see_sockets(Some(&client(TcpState::Established)), Some(&target(TcpState::Established)));
        assert!(!session.is_finished());
        session.see_sockets(Some(&client(TcpState::FinWait2)), Some(&target(TcpState::CloseWait)));
        assert!(!session.is_finished(), "the client may still be reset");
        session.see_leftover(true);
        assert!(session.is_finished());
        let row = session.closed_row(&port(), 1_005);
        assert_eq!((row.connection.reason, row.connection.duration_ms), (Some(CloseReason::Finished), 1_000));
    }
}
