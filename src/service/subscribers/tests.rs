//! What a client gets of a registry, with every clock and channel in the test's hands.

use super::*;
use crate::forward::meter::MappingMeter;
use crate::forward::registry::{EVENTS, OpenConnection};
use crate::model::event::{CloseReason, EventKind};
use crate::model::mapping::Protocol;

/// As many updates as the handle lets wait for a client.
const PENDING: usize = 4;

struct Bench {
    registry: Arc<Registry>,
    meter: Arc<MappingMeter>,
    overview: Overview,
}

impl Bench {
    fn new() -> Self {
        let config = MappingConfig::from_argument("8080:192.0.2.1:80").expect("a mapping");
        let meter = MappingMeter::new(MappingId(1), Arc::new(config));
        Self { registry: Registry::new(), meter, overview: Overview::default() }
    }

    fn subscribe(&self, interest: Interest) -> (Subscriber, mpsc::Receiver<Update>) {
        let (sender, updates) = mpsc::channel(PENDING);
        (Subscriber::new(interest, sender, &self.registry), updates)
    }

    fn open(&self) -> OpenConnection {
        let (client, listener) = (([127, 0, 0, 1], 40_000).into(), ([127, 0, 0, 1], 8080).into());
        self.registry.open(&self.meter, Protocol::Tcp, client, listener, "192.0.2.1:80".into())
    }

    /// Opens and closes so many.
    fn churn(&self, count: usize) {
        for _ in 0..count {
            self.open().close(CloseReason::Finished, None);
        }
    }

    fn sample(&self, subscriber: &mut Subscriber) {
        let snapshot = Snapshot {
            published: Arc::default(),
            at_ms: self.registry.now_ms(),
            overview: self.overview.clone(),
            mappings: Vec::new(),
            open: self.registry.open_connections(),
            containers: Arc::default(),
        };
        subscriber.sample(Instant::now(), &snapshot, &self.registry, &Processes::new());
    }

    /// The update of one sample, if it is worth one.
    fn update(&self, subscriber: &mut Subscriber, updates: &mut mpsc::Receiver<Update>) -> Option<Update> {
        self.sample(subscriber);
        updates.try_recv().ok()
    }
}

fn connections() -> Interest {
    Interest { connections: true, ..Interest::default() }
}

fn events() -> Interest {
    Interest { events: true, ..Interest::default() }
}

fn ids(update: &Update) -> Vec<u64> {
    update.connections.iter().map(|row| row.connection.id.0).collect()
}

#[test]
fn without_a_subscriber_nothing_is_built() {
    let bench = Bench::new();
    let must_not = || -> EventKind { panic!("an event was built for nobody") };
    bench.registry.tell(must_not);
    // Nor for one who asked for other things, nor when the lease of the last one has ended.
    let (subscriber, updates) = bench.subscribe(connections());
    bench.registry.tell(must_not);
    drop((subscriber, updates));
    let (subscriber, updates) = bench.subscribe(events());
    assert!(!subscriber.is_gone());
    drop(updates);
    assert!(subscriber.is_gone(), "the lease ends with the client");
    drop(subscriber);
    bench.registry.tell(must_not);
}

#[test]
fn what_was_not_asked_for_is_not_built() {
    let bench = Bench::new();
    let (mut subscriber, mut updates) = bench.subscribe(Interest::default());
    let first = bench.update(&mut subscriber, &mut updates).expect("the first one always comes");
    assert!(first.is_full && first.overview.is_some());
    bench.churn(3);
    let _open = bench.open();
    assert_eq!(bench.update(&mut subscriber, &mut updates), None);
    assert!(subscriber.connections.is_empty());
}

#[test]
fn a_client_that_has_gone_costs_no_more_than_noticing_it() {
    let bench = Bench::new();
    let (mut subscriber, updates) = bench.subscribe(Interest { events: true, ..connections() });
    drop(updates);
    bench.churn(3);
    bench.sample(&mut subscriber);
    assert_eq!((subscriber.seq, subscriber.closed_seen), (0, 0), "no row was looked at");
    assert!(!subscriber.flush_events(0));
    assert!(subscriber.wait_for_room().is_none(), "nobody waits for room that never comes");
}

#[test]
fn the_last_five_thousand_closings_are_remembered_and_no_more() {
    assert_eq!(RECENT, 5_000);
    let bench = Bench::new();
    bench.churn(RECENT + 7);
    let open = bench.open();
    let (mut subscriber, mut updates) = bench.subscribe(connections());
    let update = bench.update(&mut subscriber, &mut updates).expect("the first one always comes");
    let newest = RECENT as u64 + 7;
    let expected: Vec<u64> = std::iter::once(open.record().id.0).chain(8..=newest).collect();
    assert_eq!(ids(&update), expected, "the open one, then the last closed ones, oldest first");
    assert_eq!(bench.registry.closed_count(), newest, "the count goes on");
    // Each is told once.
    assert_eq!(bench.update(&mut subscriber, &mut updates), None);
}

#[test]
fn more_closings_than_are_remembered_void_what_a_client_has() {
    let bench = Bench::new();
    let (mut subscriber, mut updates) = bench.subscribe(connections());
    let before = bench.open();
    let first = bench.update(&mut subscriber, &mut updates).expect("the first one always comes");
    assert_eq!((first.is_full, ids(&first)), (true, vec![1]));
    // So many can still be told one by one.
    bench.churn(RECENT);
    let update = bench.update(&mut subscriber, &mut updates).expect("there is news");
    assert_eq!((update.is_full, update.connections.len()), (false, RECENT));
    // Of one more, some have closed unseen: what the client has of them cannot be mended row by row.
    before.close(CloseReason::Finished, None);
    bench.churn(RECENT);
    let still = bench.open();
    let update = bench.update(&mut subscriber, &mut updates).expect("there is news");
    assert!(update.is_full && update.overview.is_some());
    assert_eq!(update.connections.len(), RECENT + 1);
    assert!(ids(&update).contains(&still.record().id.0) && !ids(&update).contains(&1));
    bench.churn(1);
    let update = bench.update(&mut subscriber, &mut updates).expect("there is news");
    assert_eq!((update.is_full, update.connections.len()), (false, 1));
}

#[test]
fn a_full_channel_gathers_no_backlog_and_then_has_the_newest_figures() {
    let bench = Bench::new();
    let (mut subscriber, mut updates) = bench.subscribe(connections());
    for _ in 0..PENDING {
        bench.churn(1);
        bench.sample(&mut subscriber);
    }
    let open = bench.open();
    bench.sample(&mut subscriber);
    open.close(CloseReason::Killed, None);
    bench.sample(&mut subscriber);
    let waiting: Vec<Update> = std::iter::from_fn(|| updates.try_recv().ok()).collect();
    assert_eq!(waiting.iter().map(|update| update.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let update = bench.update(&mut subscriber, &mut updates).expect("there is news");
    assert_eq!((update.seq, update.is_full), (5, false));
    let reasons: Vec<_> = update.connections.iter().map(|row| row.connection.reason).collect();
    assert_eq!(reasons, [Some(CloseReason::Killed)], "only as it is now");
}

#[test]
fn a_state_or_a_target_leg_is_news_without_a_byte() {
    let bench = Bench::new();
    let (mut subscriber, mut updates) = bench.subscribe(connections());
    let open = bench.open();
    let mut state = || {
        let update = bench.update(&mut subscriber, &mut updates)?;
        update.connections.first().map(|row| (row.connection.state, row.connection.closed_side))
    };
    assert_eq!(state(), Some((ConnectionState::Connecting, None)));
    assert_eq!(state(), None);
    open.connected(([127, 0, 0, 1], 5).into(), ([192, 0, 2, 1], 80).into());
    assert_eq!(state(), Some((ConnectionState::Open, None)));
    open.set_state(ConnectionState::HalfClosed, Some(Side::Target));
    assert_eq!(state(), Some((ConnectionState::HalfClosed, Some(Side::Target))));
    assert_eq!(state(), None);
}

#[test]
fn events_that_fell_out_of_the_ring_are_counted_in_front_of_those_that_are_left() {
    let bench = Bench::new();
    let (mut subscriber, mut updates) = bench.subscribe(events());
    bench.update(&mut subscriber, &mut updates).expect("the first one always comes");
    let told = EVENTS + 100;
    for number in 0..told {
        bench.registry.tell(|| EventKind::Removed { mapping: number.to_string() });
    }
    let mut seen = Vec::new();
    let mut lost = 0;
    while subscriber.flush_events(0) {
        let update = updates.try_recv().expect("it was sent");
        assert!(update.events.len() <= EVENTS_AT_ONCE);
        lost += usize::try_from(update.lost).expect("a count");
        seen.extend(update.events.into_iter().map(|event| event.kind));
    }
    assert_eq!(lost + seen.len(), told);
    assert_eq!(seen.last(), Some(&EventKind::Removed { mapping: (told - 1).to_string() }));
    assert_eq!(seen.first(), Some(&EventKind::Removed { mapping: lost.to_string() }));
}
