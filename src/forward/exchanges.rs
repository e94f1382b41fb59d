//! A connection's HTTP requests: how many there were, and the latest of them.
//!
//! Of what was asked for the path alone is kept: the query behind it (`?`) often holds secrets (tokens, signatures,
//! addresses of people), and what is kept here is shown, listed and passed around.
//!
//! Its task writes here and anybody may read. Who sees the requests (the proxy that carries them, or one that only looks
//! on) is not known here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use crate::model::exchange::{Exchange, TOLD};
use crate::model::untrusted::{MAX_CHARS, SafeText};

/// Longest method that is kept: those that are registered have 17 letters at most.
const MOST_METHOD: usize = 32;

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct Exchanges {
    log: Mutex<Log>,
    /// Changes so far, for who has read it before.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Log {
    total: u64,
    /// As many as are ever told, each at its number modulo that: a new one takes the place of the oldest, answered or not.
    latest: Vec<Entry>,
    /// Why no more of them are listed.
    end: Option<SafeText>,
}

#[derive(Debug)]
struct Entry {
    /// Made a time of the calendar when somebody wants to see it.
    at: SystemTime,
    begun: Instant,
    /// As they came, so much of them as may be shown; made safe when somebody wants to see them, as few of them are.
    method: String,
    path: String,
    status: Option<u16>,
    took: Option<Duration>,
}

/// Names a request of its connection, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId(u64);

impl ExchangeId {
    #[expect(clippy::cast_possible_truncation, reason = "it is less than TOLD")]
    const fn place(self) -> usize {
        (self.0 % TOLD as u64) as usize
    }
}

impl Exchanges {
    /// The head of a request has come; a query behind the path is not kept.
    pub fn begin(&self, method: &str, path: &str) -> ExchangeId {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let (method, path) = (cut(method, MOST_METHOD), cut(path, MAX_CHARS));
        let (at, begun) = (SystemTime::now(), Instant::now());
        let mut log = self.log();
        let id = ExchangeId(log.total);
        log.total += 1;
        if let Some(entry) = log.latest.get_mut(id.place()) {
            // The room of the one that gives way serves the new one.
            for (room, text) in [(&mut entry.method, method), (&mut entry.path, path)] {
                room.clear();
                room.push_str(text);
            }
            (entry.at, entry.begun, entry.status, entry.took) = (at, begun, None, None);
        } else {
            let (method, path) = (method.to_owned(), path.to_owned());
            log.latest.push(Entry { at, begun, method, path, status: None, took: None });
        }
        self.has_changed(&log);
        id
    }

    /// The head of its response has come; an interim one (1xx) is followed by another.
    pub fn answered(&self, id: ExchangeId, status: u16) {
        self.change(id, |entry| entry.status = Some(status));
    }

    /// It is over: the response has been passed on whole, or will not come.
    pub fn ended(&self, id: ExchangeId) {
        self.change(id, |entry| entry.took = Some(entry.begun.elapsed()));
    }

    /// There may be more, which nobody will tell of, and why.
    pub fn stop(&self, why: SafeText) {
        let mut log = self.log();
        log.end = Some(why);
        self.has_changed(&log);
    }

    /// Why no more are listed, if that is so.
    pub fn end(&self) -> Option<SafeText> {
        self.log().end.clone()
    }

    /// How many there have been.
    pub fn total(&self) -> u64 {
        self.log().total
    }

    /// A figure that is another when something has changed.
    pub fn version(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// The latest ones, the newest last.
    pub fn latest(&self) -> Vec<Exchange> {
        let log = self.log();
        let kept = (log.total - log.total.min(TOLD as u64)..log.total).map(|nth| ExchangeId(nth).place());
        kept.map(|at| log.latest[at].told()).collect()
    }

    fn change(&self, id: ExchangeId, change: impl FnOnce(&mut Entry)) {
        let mut log = self.log();
        let is_kept = log.total - id.0 <= TOLD as u64;
        if let Some(entry) = log.latest.get_mut(id.place()).filter(|_| is_kept) {
            change(entry);
        }
        self.has_changed(&log);
    }

    /// Whoever holds the log is the only one that counts.
    fn has_changed(&self, _: &MutexGuard<'_, Log>) {
        self.changes.store(self.changes.load(Relaxed) + 1, Relaxed);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many characters of a text, and one more, so that it is seen to be cut.
fn cut(text: &str, most: usize) -> &str {
    text.char_indices().nth(most + 1).filter(|_| text.len() > most).map_or(text, |(end, _)| &text[..end])
}

impl Entry {
    fn told(&self) -> Exchange {
        Exchange {
            at: Timestamp::try_from(self.at).unwrap_or_default(),
            method: SafeText::new(&self.method),
            path: SafeText::new(&self.path),
            status: self.status,
            duration_us: self.took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_what_comes_for_it_later_changes_no_other() {
        let exchanges = Exchanges::default();
        let first = exchanges.begin("GET", "/first");
        let ids: Vec<_> = (0..TOLD).map(|nth| exchanges.begin("GET", &format!("/{nth}"))).collect();
        exchanges.answered(first, 500);
        exchanges.answered(ids[TOLD - 1], 200);
        exchanges.ended(ids[TOLD - 1]);
        let latest = exchanges.latest();
        assert_eq!((exchanges.total(), latest.len()), (TOLD as u64 + 1, TOLD));
        let last = latest.last().unwrap();
        assert_eq!((last.path.as_str(), last.status, last.duration_us.is_some()), ("/15", Some(200), true));
        assert!(latest.iter().rev().skip(1).all(|exchange| exchange.status.is_none()));
    }

    #[test]
    fn a_query_is_not_kept() {
        let exchanges = Exchanges::default();
        for target in ["/a/b?token=secret", "/a/b?", "/a/b?x=secret?y", "/a/b"] {
            exchanges.begin("GET", target);
        }
        assert!(exchanges.latest().iter().all(|exchange| exchange.path.as_str() == "/a/b"));
    }

    #[test]
    fn a_path_of_any_length_and_content_is_kept_short_and_safe() {
        let exchanges = Exchanges::default();
        exchanges.begin("GET", &format!("/\u{1b}[2J{}", "a".repeat(100_000)));
        let exchange = exchanges.latest().pop().unwrap();
        assert!(exchange.path.as_str().len() < 4_096 && !exchange.path.as_str().contains('\u{1b}'));
        // However long, a connection keeps little of them: closed ones are remembered by the thousand.
        for _ in 0..100 {
            exchanges.begin(&"M".repeat(2_000), &"/p".repeat(10_000));
        }
        let log = exchanges.log();
        let bytes: usize = log.latest.iter().map(|entry| entry.method.capacity() + entry.path.capacity()).sum();
        assert!(log.latest.len() == TOLD && bytes <= TOLD * 512, "{bytes}");
    }
}
