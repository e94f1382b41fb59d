//! Lists of connections, as answers and as the beginning of streams: each may be megabytes, so few are made or kept for
//! their clients at once, and their making takes but a part of the time.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::model::update::Interest;

/// Lists at once, from their making until they are taken.
const LISTS: usize = 4;
/// Clients that may wait for one.
const QUEUE: usize = 8;

/// So many times as long as a list took is no further one made.
const REST: u32 = 4;
/// How much of that may be owed: a few in a row are made at once.
const CREDIT: Duration = Duration::from_millis(500);
/// The longest that one list can have taken; more was the machine's doing.
const LONGEST: Duration = Duration::from_millis(250);

/// Turns for lists.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// When all rest is had.
    rested: Arc<Mutex<Instant>>,
}

/// Marks a response that others wait for to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct IsList;

/// The right to have a list made.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Lists {
    pub(super) fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(LISTS)),
            waiting: Arc::default(),
            rested: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Whether the answer to a request is one, or begins with one.
    pub(super) fn is_one(request: &Request<Bytes>) -> bool {
        match request.uri().path() {
            "/v1/events" => true,
            "/v1/updates" => {
                serde_json::from_slice(request.body()).is_ok_and(|interest: Interest| interest.connections)
            }
            path => path.starts_with("/v1/connections") && matches!(*request.method(), Method::GET | Method::HEAD),
        }
    }

    /// Waits for a turn; `None` where too many wait already.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let _waiting = Waiting::begin(&self.waiting)?;
        // It is never closed.
        let permit = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let rested = *self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(soon) = rested.checked_sub(CREDIT) {
            sleep_until(soon).await;
        }
        Some(Turn { _permit: permit })
    }

    /// One has been made, in that time.
    pub(super) fn made(&self, took: Duration) {
        let mut rested = self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        *rested = rested.max(Instant::now()) + REST * took.min(LONGEST);
    }

    /// Whether somebody waits for one that is not taken.
    pub(super) fn are_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0 && self.turns.available_permits() == 0
    }
}

impl Turn {
    /// Keeps the turn until the list is taken, or its client gone.
    pub(super) async fn keep(self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        head.extensions.insert(IsList);
        let Ok(body) = body.collect().await else { return Response::from_parts(head, Body::empty()) };
        Response::from_parts(head, Body::from(Bytes::from_owner(List { text: body.to_bytes(), _turn: self })))
    }
}

/// What is dropped when it has been written.
struct List {
    text: Bytes,
    _turn: Turn,
}

impl AsRef<[u8]> for List {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// One who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        // Dropped again where there are too many.
        (count.fetch_add(1, Relaxed) < QUEUE).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_are_made_at_once_and_few_may_wait() {
        let lists = Lists::new();
        let mut turns = Vec::new();
        for _ in 0..LISTS {
            turns.push(lists.turn().await.expect("a turn"));
        }
        assert!(!lists.are_wanted());
        let mut waiting = JoinSet::new();
        for _ in 0..QUEUE {
            let lists = lists.clone();
            waiting.spawn(async move { lists.turn().await.is_some() });
        }
        tokio::task::yield_now().await;
        assert!(lists.are_wanted());
        assert!(lists.turn().await.is_none(), "too many wait");
        // A list that is taken makes room, one that is not does not.
        let answer = turns.pop().expect("turns").keep(Response::new(Body::from("list"))).await;
        let mut body = answer.into_body();
        let text = body.frame().await.expect("a frame").expect("text").into_data().expect("text");
        drop(body);
        assert!(waiting.join_next().now_or_never().is_none());
        assert_eq!(text, "list");
        drop((text, turns));
        assert!(waiting.join_all().await.into_iter().all(|came| came));
        assert!(!lists.are_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn their_making_takes_but_a_part_of_the_time() {
        let lists = Lists::new();
        let start = Instant::now();
        let took = Duration::from_millis(50);
        for _ in 0..100 {
            let _turn = lists.turn().await.expect("a turn");
            lists.made(took);
        }
        let all = start.elapsed();
        assert!(all + CREDIT + took * REST >= took * REST * 100, "{all:?}");
        // Whoever asks now and then does not wait.
        tokio::time::advance(Duration::from_mins(1)).await;
        let start = Instant::now();
        lists.turn().await.expect("a turn");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
