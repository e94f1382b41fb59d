//! A port that Docker publishes, and its sessions as the kernel would tell of them: one whose legs are joined, two
//! that stand unjoined, one past every process.

use std::net::SocketAddr;

use jiff::Timestamp;

use super::story::{BEGINNING_MS, time};
use crate::model::event::{Connection, ConnectionState, MappingState};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::{Family, Mapping, Protocol};
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, ListenerRow, MappingRow, Observed, Owner, Way};

/// Far from the numbers of the story.
const ID: u64 = 1_000_000;
const NAME: &str = "grafana-3000";
/// One of them comes and goes, each for so long.
const COMES_AND_GOES_MS: u64 = 45_000;

/// A session: client and listener, source and target, bytes at the beginning and each second.
struct Session {
    way: Way,
    client: Option<(&'static str, &'static str)>,
    target: Option<(&'static str, &'static str)>,
    bytes: Option<(u64, u64)>,
    rates: (u64, u64),
    age_ms: u64,
    state: &'static str,
}

const SESSIONS: [Session; 4] = [
    Session {
        way: Way::Proxy,
        client: Some(("[2001:db8:2::41]:49210", "[2001:db8:2::2]:3000")),
        target: Some(("172.17.0.1:38222", "172.17.0.6:3000")),
        bytes: Some((52_000, 1_840_000)),
        rates: (900, 31_000),
        age_ms: 312_000,
        state: "ESTABLISHED",
    },
    Session {
        way: Way::Proxy,
        client: Some(("[2001:db8:2::41]:49300", "[2001:db8:2::2]:3000")),
        target: None,
        bytes: Some((700, 700)),
        rates: (0, 0),
        age_ms: 122_000,
        state: "ESTABLISHED",
    },
    Session {
        way: Way::Proxy,
        client: None,
        target: Some(("172.17.0.1:38230", "172.17.0.6:3000")),
        bytes: Some((700, 700)),
        rates: (0, 0),
        age_ms: 122_000,
        state: "CLOSE_WAIT",
    },
    Session {
        way: Way::Dnat,
        client: Some(("198.51.100.7:40111", "192.0.2.10:3000")),
        target: Some(("198.51.100.7:40111", "172.17.0.6:3000")),
        bytes: None,
        rates: (0, 0),
        age_ms: 67_000,
        state: "ESTABLISHED",
    },
];

/// Its row at a moment.
pub(super) fn row(now_ms: u64) -> MappingRow {
    let mapping: Mapping = "any:3000:grafana:3000".parse().expect("the cast is valid");
    let sessions = sessions(now_ms);
    let sum = |bytes: fn(&Connection) -> u64| {
        let counted = sessions.iter().filter(|row| row.observed.as_ref().is_some_and(|o| o.bytes && o.client_leg));
        counted.map(|row| bytes(&row.connection)).sum::<u64>()
    };
    let open = sessions.iter().filter(|row| row.observed.as_ref().is_some_and(|o| o.client_leg)).count();
    MappingRow {
        id: MappingId(ID),
        owner: Owner::Docker {
            unseen: vec![SafeText::new("bytes of sessions via DNAT: the kernel counts whole packets there")],
            is_partial: true,
        },
        name: NAME.to_owned(),
        written: mapping.clone().into(),
        mapping,
        is_session: false,
        state: MappingState::Up,
        reason: None,
        listeners: [(Family::V4, "0.0.0.0:3000"), (Family::V6, "[::]:3000")]
            .into_iter()
            .map(|(family, address)| ListenerRow {
                family,
                address: address.to_owned(),
                bound: address.parse().ok(),
                error: None,
            })
            .collect(),
        target_addresses: vec![[172, 17, 0, 6].into()],
        connections: open as u64,
        connections_total: open as u64,
        errors: 0,
        bytes_in: sum(|connection| connection.bytes_in),
        bytes_out: sum(|connection| connection.bytes_out),
        last_result: None,
        connect_p50_us: None,
    }
}

/// Its sessions at a moment.
pub(super) fn sessions(now_ms: u64) -> Vec<ConnectionRow> {
    let last_is_there = (now_ms / COMES_AND_GOES_MS).is_multiple_of(2);
    let count = SESSIONS.len() - usize::from(!last_is_there);
    SESSIONS.iter().take(count).enumerate().map(|(at, session)| connection(at, session, now_ms)).collect()
}

/// Sessions that were there at the first moment and are not at the second.
pub(super) fn gone(before_ms: u64, now_ms: u64) -> Vec<ConnectionId> {
    let now = sessions(now_ms);
    let is_gone = |row: &ConnectionRow| !now.iter().any(|other| other.connection.id == row.connection.id);
    sessions(before_ms).into_iter().filter(is_gone).map(|row| row.connection.id).collect()
}

fn connection(at: usize, session: &Session, now_ms: u64) -> ConnectionRow {
    let address = |text: &str| text.parse::<SocketAddr>().expect("the cast is valid");
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let opened_at_ms = BEGINNING_MS + 60_000 - session.age_ms;
    let so_far = |rate: u64| rate * (now_ms - BEGINNING_MS) / 1_000;
    let bytes = session.bytes.unwrap_or_default();
    let opened_at: Timestamp = time(opened_at_ms);
    ConnectionRow {
        mapping_id: MappingId(ID),
        opened_at_ms,
        closed_at_ms: None,
        process: None,
        observed: Some(Observed {
            is_older: false,
            way: session.way,
            client_leg: session.client.is_some(),
            bytes: session.bytes.is_some(),
            states: [
                SafeText::new(if session.client.is_some() { session.state } else { "??" }),
                SafeText::new(if session.target.is_some() { session.state } else { "??" }),
            ],
        }),
        exchanges: Vec::new(),
        exchanges_end: None,
        connection: Connection {
            id: ConnectionId(ID + at as u64),
            mapping: NAME.to_owned(),
            protocol: Protocol::Tcp,
            client: session.client.map_or(nowhere, |(client, _)| address(client)),
            listener: session.client.map_or(nowhere, |(_, listener)| address(listener)),
            source: session.target.map(|(source, _)| address(source)),
            target: "grafana:3000".to_owned(),
            target_address: session.target.map(|(_, target)| address(target)),
            state: ConnectionState::Open,
            closed_side: None,
            opened_at,
            duration_ms: now_ms.saturating_sub(opened_at_ms),
            bytes_in: bytes.0 + so_far(session.rates.0),
            bytes_out: bytes.1 + so_far(session.rates.1),
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
