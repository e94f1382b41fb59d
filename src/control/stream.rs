//! What goes on: updates for screens, events for scripts, a JSON object a line as each comes.
//!
//! A line is made when the client has taken the one before, so a slow client gets what is newest and is told what it
//! missed (`lost`), and nothing gathers here for it but the rest of one update, of which the doorkeeper is told. Only so
//! many streams are open at once, that clients with a question find room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Described};
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::document::described;
use super::lists::Turn;
use crate::model::event::{Event, EventKind};
use crate::model::narrator::Narrator;
use crate::model::update::Update;
use crate::service::Subscription;

/// Rows in one message at most, so that a message stays within the bound of [`super::server`]; more of them make more
/// messages.
const ROWS: usize = 500;

/// How often a stream of updates says at least that the engine is there.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Marks a response whose body goes on for as long as its client wants it.
#[derive(Clone, Debug)]
pub(super) struct GoesOn(pub(super) Arc<Kept>);

/// What a stream keeps for its client.
#[derive(Debug, Default)]
pub(super) struct Kept {
    rows: AtomicUsize,
    turn: Mutex<Option<Turn>>,
}

impl Kept {
    /// Rows that wait for the client to take them.
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Relaxed)
    }

    /// Keeps the turn until the first update, which holds everything, is taken.
    pub(super) fn hold(&self, turn: Turn) {
        *self.turn() = Some(turn);
    }

    /// Whether it has that still.
    pub(super) fn holds_turn(&self) -> bool {
        self.turn().is_some()
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many are left of an update.
    pub(super) fn keeps(&self, rows: usize) {
        self.rows.store(rows, Relaxed);
        if rows == 0 {
            *self.turn() = None;
        }
    }
}

/// Lines of `T`.
#[derive(Debug)]
pub(super) struct Lines<T> {
    body: Body,
    kept: Arc<Kept>,
    of: std::marker::PhantomData<T>,
}

impl<T> Lines<T> {
    fn new(
        lines: impl futures_util::Stream<Item = Result<Bytes, serde_json::Error>> + Send + 'static,
        kept: Arc<Kept>,
    ) -> Self {
        Self { body: Body::from_stream(lines), kept, of: std::marker::PhantomData }
    }
}

impl<T> IntoResponse for Lines<T> {
    fn into_response(self) -> Response {
        let mut response = ([(CONTENT_TYPE, "application/x-ndjson")], self.body).into_response();
        response.extensions_mut().insert(GoesOn(self.kept));
        response
    }
}

impl<T: JsonSchema> OperationOutput for Lines<T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, _: &mut Operation) -> Option<Described> {
        let description = "One such JSON object a line, until the client leaves or the engine ends.";
        Some(described(description, "application/x-ndjson", ctx.schema.subschema_for::<T>()))
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<u16>, Described)> {
        Self::operation_response(ctx, operation).map(|described| (Some(200), described)).into_iter().collect()
    }
}

/// The updates of a subscription, as they are; and an empty line now and then, by which the client knows that there is
/// nothing to tell, and not nobody.
pub(super) fn updates(subscription: Subscription, place: OwnedSemaphorePermit) -> Lines<Update> {
    let kept = Arc::<Kept>::default();
    let start = (subscription, VecDeque::new(), Arc::clone(&kept), place);
    let lines = stream::unfold(start, |(mut subscription, mut pieces, kept, place)| async move {
        if pieces.is_empty() {
            match timeout(SIGN_OF_LIFE, subscription.next()).await {
                Ok(update) => pieces = in_pieces(update?),
                Err(_) => return Some((Ok(Bytes::from_static(b"\n")), (subscription, pieces, kept, place))),
            }
        }
        let piece = pieces.pop_front()?;
        kept.keeps(pieces.iter().map(rows).sum());
        Some((line(&piece), (subscription, pieces, kept, place)))
    });
    Lines::new(lines, kept)
}

fn rows(update: &Update) -> usize {
    update.mappings.len() + update.connections.len() + update.containers.len()
}

/// The events of a subscription, with `traffic` every so often (contract §5).
pub(super) fn events(subscription: Subscription, every: Duration, place: OwnedSemaphorePermit) -> Lines<Event> {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let kept = Arc::<Kept>::default();
    let narrator = Narrator::new(true, true);
    let (is_over, pieces) = (false, VecDeque::new());
    let teller = Teller { subscription, narrator, tick, is_over, pieces, kept: Arc::clone(&kept), _place: place };
    let lines = stream::unfold(teller, |mut teller| async move {
        let lines = teller.next().await?;
        Some((lines, teller))
    });
    Lines::new(lines, kept)
}

struct Teller {
    subscription: Subscription,
    narrator: Narrator,
    tick: Interval,
    is_over: bool,
    /// The rest of what was long.
    pieces: VecDeque<Event>,
    kept: Arc<Kept>,
    _place: OwnedSemaphorePermit,
}

impl Teller {
    /// The next lines; `None` when the engine has ended and the last totals are told.
    async fn next(&mut self) -> Option<Result<Bytes, serde_json::Error>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                self.kept.keeps(self.pieces.len() * ROWS);
                return Some(line(&piece));
            }
            if self.is_over {
                return None;
            }
            tokio::select! {
                update = self.subscription.next() => if let Some(update) = update {
                    self.kept.keeps(0);
                    let events = self.narrator.hear(update, Timestamp::now());
                    if !events.is_empty() {
                        return Some(lines(&events));
                    }
                } else {
                    self.is_over = true;
                    self.pieces = self.traffic();
                },
                _ = self.tick.tick() => self.pieces = self.traffic(),
            }
        }
    }

    fn traffic(&mut self) -> VecDeque<Event> {
        self.narrator.traffic(Timestamp::now()).map(traffic_in_pieces).unwrap_or_default()
    }
}

/// What has flowed, in messages of bounded size: the totals come with the first connections.
fn traffic_in_pieces(event: Event) -> VecDeque<Event> {
    let Event { time, kind: EventKind::Traffic { mappings, mut connections, opened, closed } } = event else {
        return [event].into();
    };
    let mut rest = connections.split_off(connections.len().min(ROWS));
    let mut pieces =
        VecDeque::from([Event { time, kind: EventKind::Traffic { mappings, connections, opened, closed } }]);
    while !rest.is_empty() {
        let more = rest.split_off(rest.len().min(ROWS));
        let connections = std::mem::replace(&mut rest, more);
        let kind = EventKind::Traffic { mappings: Vec::new(), connections, opened: 0, closed: 0 };
        pieces.push_back(Event { time, kind });
    }
    pieces
}

fn line(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    lines(std::slice::from_ref(value))
}

fn lines<T: Serialize>(values: &[T]) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value)?;
        text.push(b'\n');
    }
    Ok(text.into())
}

/// The same update in messages of bounded size. Only the first is full, else each would void the one before.
fn in_pieces(update: Update) -> VecDeque<Update> {
    let mut first = update;
    let mut rest = VecDeque::new();
    while first.mappings.len() > ROWS || first.connections.len() > ROWS || first.containers.len() > ROWS {
        let mappings = first.mappings.split_off(first.mappings.len().min(ROWS));
        let connections = first.connections.split_off(first.connections.len().min(ROWS));
        let containers = first.containers.split_off(first.containers.len().min(ROWS));
        let more =
            Update { seq: first.seq, at_ms: first.at_ms, mappings, connections, containers, ..Update::default() };
        first.has_more = true;
        rest.push_back(std::mem::replace(&mut first, more));
    }
    rest.push_back(first);
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::container::Container;
    use crate::model::id::MappingId;

    #[test]
    fn a_large_update_goes_in_pieces_of_which_the_first_alone_is_full() {
        let removed = vec![MappingId(9)];
        let update = Update { seq: 3, is_full: true, mappings_removed: removed.clone(), ..Update::default() };
        let container: Container = serde_json::from_value(json!({
            "id": "", "name": "", "image": "", "state": "", "addresses": [], "networks": [], "host_network": false,
            "ports": [], "publications": [], "compose": null
        }))
        .expect("a container");
        let containers = vec![container; 1_201];
        let whole = Update { containers, ..update.clone() };
        let pieces = in_pieces(whole.clone());
        assert_eq!(pieces.iter().map(|piece| piece.containers.len()).collect::<Vec<_>>(), [500, 500, 201]);
        assert_eq!(pieces.iter().map(|piece| piece.is_full).collect::<Vec<_>>(), [true, false, false]);
        assert!(pieces.iter().all(|piece| piece.seq == 3));
        assert_eq!(pieces.iter().map(|piece| piece.has_more).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(pieces[0].mappings_removed, removed);
        let mut pieces = pieces.into_iter();
        let mut joined = pieces.next().expect("a first one");
        pieces.for_each(|piece| joined.join(piece));
        assert_eq!(joined, whole);
        assert_eq!(in_pieces(update.clone()), [update]);
    }

    #[test]
    fn traffic_of_many_connections_goes_in_pieces_of_which_the_first_has_the_totals() {
        let connection: crate::model::event::Connection = serde_json::from_value(json!({
            "id": 1, "mapping": "web", "protocol": "tcp", "client": "127.0.0.1:1", "listener": "127.0.0.1:2",
            "source": null, "target": "127.0.0.1:3", "target_address": null, "state": "open", "closed_side": null,
            "opened_at": "2026-01-01T00:00:00.000Z", "duration_ms": 1, "bytes_in": 0, "bytes_out": 0, "reason": null,
            "error": null
        }))
        .expect("a connection");
        let mut connections = vec![connection; 1_201];
        (1..).zip(&mut connections).for_each(|(id, connection)| connection.id = crate::model::id::ConnectionId(id));
        let kind = EventKind::Traffic { mappings: Vec::new(), connections: connections.clone(), opened: 7, closed: 2 };
        let pieces = traffic_in_pieces(Event::new(Timestamp::UNIX_EPOCH, kind));
        let mut told = Vec::new();
        let mut counts = Vec::new();
        for piece in pieces {
            let EventKind::Traffic { connections, opened, closed, .. } = piece.kind else { panic!("{piece:?}") };
            counts.push((connections.len(), opened, closed));
            told.extend(connections);
        }
        assert_eq!(counts, [(500, 7, 2), (500, 0, 0), (201, 0, 0)]);
        assert!(told == connections);
    }
}
