//! `run` and `events`: what happens, as lines. An equal client of the service: it knows `model` and the handle.
//!
//! It lives on a thread of its own, so that a reader that stops reading stops this thread alone; the service
//! then counts what it drops and says `lost`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use crate::model::count::count;
use crate::model::event::{Connection, ConnectionState, Event, EventKind, MappingState, MappingTraffic, Side};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::update::{ConnectionRow, Interest, MappingRow, Update};
use crate::service::Handle;

/// How often rows are read, or as often as `traffic` is printed if that is more often.
const SAMPLE: Duration = Duration::from_millis(250);

/// Mappings that are named when too little listens; the events have named them all.
const MOST_NAMED: usize = 10;

/// How `run` speaks.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// JSON objects instead of text.
    pub json: bool,
    /// Time between two `traffic` events.
    pub interval: Duration,
    /// When to give up.
    pub demand: Demand,
}

/// What must listen once all mappings are bound or failed, or it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It only looks on.
    Nothing,
    /// One of those that are enabled.
    Any,
    /// Every enabled one is `up` or `waiting`.
    Every,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The service has ended; everything is said.
    Finished,
    /// Nobody reads any more.
    OutputClosed,
    /// Too little listens; why.
    NotListening(String),
}

/// Prints events to `out` until the service ends.
///
/// # Errors
/// When writing fails for another reason than a closed reader.
pub async fn run(handle: Handle, options: Options, out: impl Write) -> io::Result<Ended> {
    let sample_ms = u64::try_from(SAMPLE.min(options.interval).as_millis()).unwrap_or(u64::MAX);
    // A line of text has no room for each connection that changed, so nobody looks for them.
    let connections = options.json;
    let interest = Interest { mappings: true, connections, events: true, sample_ms, ..Interest::default() };
    let Ok(mut subscription) = handle.subscribe(interest).await else { return Ok(Ended::Finished) };
    let mut printer = Printer { out: io::BufWriter::new(out), json: options.json, text: String::new() };
    // Who only looks on comes to connections that are open already.
    let is_patchy = options.demand == Demand::Nothing;
    let mut traffic = Traffic { follows: connections, is_patchy, ..Traffic::default() };
    let mut rows: HashMap<MappingId, MappingRow> = HashMap::new();
    let (mut is_judged, mut is_said) = (options.demand == Demand::Nothing, false);
    let mut reason = None;
    let mut tick = tokio::time::interval(options.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update = tokio::select! {
            update = subscription.next() => update,
            _ = tick.tick() => match printer.traffic(&mut traffic) {
                Ok(()) => continue,
                Err(error) => return output_failed(error),
            },
        };
        let Some(update) = update else { break };
        if !is_judged {
            for id in &update.mappings_removed {
                rows.remove(id);
            }
            rows.extend(update.mappings.iter().map(|row| (row.id, row.clone())));
        }
        match printer.print(&update, &mut traffic) {
            Ok(()) => {}
            Err(error) => return output_failed(error),
        }
        // By the overview, which comes with its rows; events come in their own time.
        if let Some(overview) = update.overview.filter(|overview| overview.is_ready && !is_judged) {
            is_judged = true;
            reason = shortfall(overview.order.iter().filter_map(|id| rows.get(id)), options.demand);
            rows = HashMap::new();
        }
        // What failed is said before it ends; unless that was lost, because the reader was too slow.
        is_said |= update.lost > 0 || update.events.iter().any(|event| matches!(event.kind, EventKind::Ready { .. }));
        if let Some(reason) = reason.take_if(|_| is_said) {
            return Ok(Ended::NotListening(reason));
        }
    }
    // The totals as they stand at the end.
    match printer.traffic(&mut traffic) {
        Ok(()) => Ok(Ended::Finished),
        Err(error) => output_failed(error),
    }
}

/// That nobody reads any more is an end like another.
fn output_failed(error: io::Error) -> io::Result<Ended> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(Ended::OutputClosed) } else { Err(error) }
}

/// Why it cannot go on: less listens than is demanded.
fn shortfall<'a>(rows: impl Iterator<Item = &'a MappingRow>, demand: Demand) -> Option<String> {
    let strict = demand == Demand::Every;
    let enabled: Vec<&MappingRow> = rows.filter(|row| row.state != MappingState::Stopped).collect();
    let is_bad = |row: &&&MappingRow| match row.state {
        MappingState::Up | MappingState::Waiting => false,
        MappingState::Failed => true,
        _ => strict,
    };
    let bad: Vec<_> = enabled.iter().filter(is_bad).collect();
    if bad.is_empty() || (!strict && bad.len() < enabled.len()) {
        return None;
    }
    let mut texts: Vec<String> = bad
        .iter()
        .take(MOST_NAMED)
        .map(|row| match &row.reason {
            Some(reason) => format!("{} is {}: {reason}", row.name, row.state),
            None => format!("{} is {}", row.name, row.state),
        })
        .collect();
    if bad.len() > MOST_NAMED {
        texts.push(format!("and {}", count((bad.len() - MOST_NAMED) as u64, "more mapping")));
    }
    Some(texts.join("; "))
}

struct Printer<W: Write> {
    out: io::BufWriter<W>,
    json: bool,
    /// The last line of text: pieces are put together here for less than in `out`.
    text: String,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, update: &Update, traffic: &mut Traffic) -> io::Result<()> {
        if update.lost > 0 {
            traffic.is_patchy = true;
            self.line(&Event::new(Timestamp::now(), EventKind::Lost { count: update.lost }))?;
        }
        for event in &update.events {
            traffic.heard(&event.kind);
            self.line(event)?;
        }
        traffic.note(&update.mappings, &update.connections);
        self.out.flush()
    }

    fn traffic(&mut self, traffic: &mut Traffic) -> io::Result<()> {
        let Some(kind) = traffic.take() else { return Ok(()) };
        self.line(&Event::new(Timestamp::now(), kind))?;
        self.out.flush()
    }

    fn line(&mut self, event: &Event) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, event)?;
            writeln!(self.out)
        } else {
            self.text.clear();
            // A string takes everything.
            let _ = fmt::Write::write_fmt(&mut self.text, format_args!("{event}\n"));
            self.out.write_all(self.text.as_bytes())
        }
    }
}

/// What was said of mappings and connections, and what changed since.
#[derive(Default)]
struct Traffic {
    /// Single connections are spoken of, too.
    follows: bool,
    /// Open connections and bytes.
    mappings: HashMap<MappingId, (u64, u64, u64)>,
    /// Connections between their `opened` and their `closed`: only those are spoken of.
    connections: HashMap<ConnectionId, Said>,
    changed_mappings: BTreeMap<MappingId, MappingTraffic>,
    changed_connections: BTreeMap<ConnectionId, Connection>,
    opened: u64,
    closed: u64,
    /// Some `opened` was lost or came before, so an unknown id may well be open.
    is_patchy: bool,
}

/// What of a connection changes while it is open. Its age does so all the time and is no news.
#[derive(PartialEq)]
struct Said {
    counts: (u64, u64, u64, u64),
    state: (ConnectionState, Option<Side>),
    /// It comes once, and stays.
    has_target_leg: bool,
}

impl Traffic {
    fn heard(&mut self, kind: &EventKind) {
        match kind {
            EventKind::Opened { connection } => {
                self.opened += 1;
                if self.follows {
                    self.connections.insert(connection.id, Said::of(connection));
                }
            }
            EventKind::Closed { connection } => {
                self.connections.remove(&connection.id);
                self.changed_connections.remove(&connection.id);
                self.closed += 1;
            }
            _ => {}
        }
    }

    fn note(&mut self, mappings: &[MappingRow], connections: &[ConnectionRow]) {
        for row in mappings {
            let now = (row.connections, row.bytes_in, row.bytes_out);
            if self.mappings.insert(row.id, now).unwrap_or_default() != now {
                let traffic = MappingTraffic {
                    mapping: row.name.clone(),
                    connections: row.connections,
                    bytes_in: row.bytes_in,
                    bytes_out: row.bytes_out,
                };
                self.changed_mappings.insert(row.id, traffic);
            }
        }
        for connection in connections.iter().map(|row| &row.connection).filter(|c| c.reason.is_none()) {
            let now = Said::of(connection);
            let is_news = match self.connections.get_mut(&connection.id) {
                Some(said) if *said == now => false,
                Some(said) => {
                    *said = now;
                    true
                }
                None if self.is_patchy => {
                    self.connections.insert(connection.id, now);
                    true
                }
                None => false,
            };
            if is_news {
                self.changed_connections.insert(connection.id, connection.clone());
            }
        }
    }

    /// What changed since the last call; `None` when nothing did.
    fn take(&mut self) -> Option<EventKind> {
        let mappings: Vec<_> = std::mem::take(&mut self.changed_mappings).into_values().collect();
        let connections: Vec<_> = std::mem::take(&mut self.changed_connections).into_values().collect();
        // Who came and went is counted with the totals that tell of it.
        if mappings.is_empty() && connections.is_empty() {
            return None;
        }
        let (opened, closed) = (std::mem::take(&mut self.opened), std::mem::take(&mut self.closed));
        Some(EventKind::Traffic { mappings, connections, opened, closed })
    }
}

impl Said {
    fn of(connection: &Connection) -> Self {
        let Connection { bytes_in, bytes_out, datagrams_in, datagrams_out, .. } = connection;
        Self {
            counts: (*bytes_in, *bytes_out, datagrams_in.unwrap_or(0), datagrams_out.unwrap_or(0)),
            state: (connection.state, connection.closed_side),
            has_target_leg: connection.source.is_some(),
        }
    }
}
