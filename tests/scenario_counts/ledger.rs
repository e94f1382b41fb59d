//! The event stream as a bookkeeper reads it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::SOON;
use crate::common::program::Run;

/// Bytes and datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) datagrams: u64,
}

/// What peers received, by the address from which it came to them, or to which they took it. A port may be used
/// again by a later connection: then both are in one figure, on both sides of the account.
pub(crate) type Received = HashMap<SocketAddr, Amount>;

/// Every connection of a stream from its `opened` to its only `closed`.
pub(crate) struct Ledger {
    pub(crate) closed: Vec<Value>,
}

impl Amount {
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.datagrams += other.datagrams;
    }

    pub(crate) fn of(connection: &Value, direction: &str) -> Self {
        let figure = |what: &str| connection[format!("{what}_{direction}")].as_u64().unwrap_or_default();
        Self { bytes: figure("bytes"), datagrams: figure("datagrams") }
    }
}

/// The sum over all peers.
pub(crate) fn sum(received: &Received) -> Amount {
    received.values().fold(Amount::default(), |mut sum, amount| {
        sum.add(*amount);
        sum
    })
}

impl Ledger {
    /// Reads the events of a whole run, in which nothing may be lost.
    pub(crate) fn read(events: &[Value]) -> Self {
        let mut open = HashMap::new();
        let mut closed: BTreeMap<u64, Value> = BTreeMap::new();
        for event in events {
            let connection = &event["connection"];
            let id = connection["id"].as_u64().unwrap_or_default();
            match event["event"].as_str().expect("an event has a name") {
                "opened" => {
                    assert!(!closed.contains_key(&id), "opened after it closed: {connection}");
                    assert!(open.insert(id, connection).is_none(), "opened twice: {connection}");
                }
                "closed" => {
                    let opened = open.remove(&id).unwrap_or_else(|| panic!("closed twice or unopened: {connection}"));
                    assert_eq!(connection["client"], opened["client"]);
                    assert_eq!(connection["state"], "closed");
                    closed.insert(id, connection.clone());
                }
                "lost" => panic!("the reader of this test was too slow: {event}"),
                _ => {}
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        Self { closed: closed.into_values().collect() }
    }

    /// How many ended for each reason.
    pub(crate) fn reasons(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for connection in &self.closed {
            *reasons.entry(connection["reason"].as_str().expect("a reason")).or_default() += 1;
        }
        reasons
    }

    /// Fails unless the connections of `mapping` carried towards each peer what that peer received. `peer` is the
    /// field that tells whose it was.
    pub(crate) fn expect(&self, mapping: &str, direction: &str, peer: &str, received: &Received) {
        let mut told = Received::new();
        for connection in self.closed.iter().filter(|connection| connection["mapping"] == mapping) {
            let amount = Amount::of(connection, direction);
            match connection[peer].as_str() {
                Some(address) => told.entry(address.parse().expect("an address")).or_default().add(amount),
                None => assert_eq!(amount, Amount::default(), "it was never connected: {connection}"),
            }
        }
        for (address, told) in &told {
            // Who was never heard of received nothing.
            let received = received.get(address).copied().unwrap_or_default();
            assert_eq!(*told, received, "{mapping}, {direction}: told of {address}, and received there");
        }
        for (address, received) in received {
            let is_told = told.contains_key(address) || *received == Amount::default();
            assert!(is_told, "{mapping}, {direction}: {address} received {received:?} untold");
        }
        assert_eq!(sum(&told), sum(received), "{mapping}, {direction}");
    }
}

/// Waits until the last totals that were told of a mapping are what its peers received. A target may look at its
/// last bytes a moment after the connection has closed.
pub(crate) fn wait_for_totals(run: &mut Run, mapping: &str, at_target: impl Fn() -> Received, at_clients: &Received) {
    let (mut told, mut expected) = ((0, 0), (0, 0));
    let mut read = 0;
    let end = Instant::now() + SOON;
    while told != expected || told == (0, 0) {
        assert!(Instant::now() < end, "{mapping}: told {told:?}, received {expected:?}");
        std::thread::sleep(Duration::from_millis(20));
        expected = (sum(&at_target()).bytes, sum(at_clients).bytes);
        let events = run.events();
        for event in events[read..].iter().filter(|event| event["event"] == "traffic") {
            let totals = event["mappings"].as_array().expect("a list");
            for totals in totals.iter().filter(|totals| totals["mapping"] == mapping) {
                let figure = |name: &str| totals[name].as_u64().expect("a figure");
                told = (figure("bytes_in"), figure("bytes_out"));
            }
        }
        read = events.len();
    }
    println!("{mapping}: {} bytes in, {} bytes out, as told and as received", told.0, told.1);
}
