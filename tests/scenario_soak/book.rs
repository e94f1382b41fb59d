//! The event stream of a long run, kept in little memory: what is open, how each ended, and what was told of each peer.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde_json::Value;

/// Bytes by the mapping and the peer's address. A port is used again after a while: then several connections are in
/// one figure, on both sides of the account.
pub(crate) type Bytes = HashMap<(String, SocketAddr), u64>;

/// What the events have said so far.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Ids of open connections, and the mapping of each.
    pub(crate) open: HashMap<u64, String>,
    pub(crate) opened: u64,
    /// How many have closed, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Towards targets, by our source address, and towards clients.
    pub(crate) told_in: Bytes,
    pub(crate) told_out: Bytes,
    /// Where each mapping listens.
    pub(crate) listeners: HashMap<String, Vec<SocketAddr>>,
    /// Connections of each mapping, as the last totals had them.
    pub(crate) totals: HashMap<String, u64>,
    pub(crate) is_ready: bool,
    pub(crate) edits: u64,
    /// What must not be: lines that are no events, ends without a beginning, lost events.
    pub(crate) faults: Vec<String>,
    pub(crate) has_ended: bool,
}

/// A book that a thread keeps while the program speaks.
pub(crate) struct Keeper {
    book: Arc<Mutex<Book>>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Reads events from `output`, and takes every line on `errors` as a fault.
    pub(crate) fn start(output: impl Read + Send + 'static, errors: impl Read + Send + 'static) -> Self {
        let book: Arc<Mutex<Book>> = Arc::default();
        let (told, complained) = (Arc::clone(&book), Arc::clone(&book));
        let events = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str::<Value>(&line);
                let mut book = lock(&told);
                match event {
                    Ok(event) => book.take(&event),
                    Err(error) => book.faults.push(format!("{error} in {line:?}")),
                }
            }
            lock(&told).has_ended = true;
        });
        let errors = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                lock(&complained).faults.push(format!("stderr: {line}"));
            }
        });
        Self { book, threads: vec![events, errors] }
    }

    /// The book as it stands.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// A listener of a mapping, the `number`-th of them in turn; `None` while it listens nowhere.
    pub(crate) fn listener(&self, mapping: &str, number: u64) -> Option<SocketAddr> {
        let book = self.book();
        let all = book.listeners.get(mapping)?;
        all.get(usize::try_from(number).expect("few") % all.len().max(1)).copied()
    }

    /// Waits until all was read; the program has ended.
    pub(crate) fn finish(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().expect("the reader reads to the end");
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("no panic")
}

impl Book {
    fn take(&mut self, event: &Value) {
        let connection = &event["connection"];
        let id = connection["id"].as_u64().unwrap_or_default();
        let mapping = || text(&event["mapping"]);
        match event["event"].as_str().unwrap_or_default() {
            "opened" => {
                self.opened += 1;
                if self.open.insert(id, text(&connection["mapping"])).is_some() {
                    self.faults.push(format!("opened twice: {connection}"));
                }
            }
            "closed" => match self.open.remove(&id) {
                Some(mapping) if connection["mapping"] == mapping => self.settle(mapping, connection),
                _ => self.faults.push(format!("closed twice, unopened, or another's: {connection}")),
            },
            "listening" => {
                if let Some(listener) = address(&event["listener"]) {
                    let listeners = self.listeners.entry(mapping()).or_default();
                    // Both families share a number: one of another number has moved.
                    listeners.retain(|other| other.port() == listener.port());
                    listeners.push(listener);
                }
            }
            "mapping_state" if event["state"] != "up" => {
                self.listeners.remove(&mapping());
            }
            "removed" => {
                self.listeners.remove(&mapping());
                self.totals.remove(&mapping());
            }
            "traffic" => {
                for totals in event["mappings"].as_array().into_iter().flatten() {
                    let count = totals["connections"].as_u64().unwrap_or(u64::MAX);
                    self.totals.insert(text(&totals["mapping"]), count);
                }
            }
            "ready" => self.is_ready = true,
            "profile_applied" => self.edits += 1,
            "lost" | "profile_rejected" | "mapping_failed" => self.faults.push(event.to_string()),
            _ => {}
        }
    }

    fn settle(&mut self, mapping: String, connection: &Value) {
        *self.closed.entry(text(&connection["reason"])).or_default() += 1;
        if connection["reason"] == "fault" {
            self.faults.push(connection.to_string());
        }
        let figure = |name: &str| connection[name].as_u64().unwrap_or_default();
        if let Some(source) = address(&connection["source"]) {
            *self.told_in.entry((mapping.clone(), source)).or_default() += figure("bytes_in");
        }
        if let Some(client) = address(&connection["client"]) {
            *self.told_out.entry((mapping, client)).or_default() += figure("bytes_out");
        }
    }

    /// How many have closed for this reason.
    pub(crate) fn closed_for(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or_default()
    }
}

/// Peers of `mappings` that were told of with other figures than they received.
pub(crate) fn differences(told: &Bytes, received: &Bytes, mappings: &[&str]) -> Vec<String> {
    let mut differences = Vec::new();
    for (peer, told) in told.iter().filter(|(peer, _)| mappings.contains(&peer.0.as_str())) {
        let received = received.get(peer).copied().unwrap_or_default();
        if *told != received {
            differences.push(format!("{peer:?}: told {told}, received {received}"));
        }
    }
    for (peer, received) in received.iter().filter(|(peer, count)| **count > 0 && !told.contains_key(peer)) {
        differences.push(format!("{peer:?}: received {received}, untold"));
    }
    differences
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn address(value: &Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}
