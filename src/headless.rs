//! `run` and `events`: what happens, as lines. An equal client of the service: it knows `model` and the handle.
//!
//! It lives on a thread of its own, so that a reader that stops reading stops this thread alone; the service
//! then counts what it drops and says `lost`.
//!
//! A filter is the screen's: of events it takes those whose line of text it would take there, and `traffic` tells of
//! the mappings and connections that it would take in their lists. `lost` is told whatever the filter: what was lost
//! may have been what is waited for.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use crate::model::count::count;
use crate::model::event::{Event, EventKind, MappingState};
use crate::model::filter::Filter;
use crate::model::id::MappingId;
use crate::model::narrator::Narrator;
use crate::model::update::{Interest, MappingRow, Update};
use crate::service::Subscription;

/// How often rows are read, or as often as `traffic` is printed if that is more often.
const SAMPLE: Duration = Duration::from_millis(250);

/// Mappings that are named when too little listens; the events have named them all.
const MOST_NAMED: usize = 10;

/// How `run` and `events` speak.
#[derive(Clone, Debug)]
pub struct Options {
    /// JSON objects instead of text.
    pub json: bool,
    /// Time between two `traffic` events.
    pub interval: Duration,
    /// When to give up.
    pub demand: Demand,
    /// What is told; the rest is left out.
    pub filter: Filter,
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

impl Options {
    /// What to subscribe to: before any other client does, since it is to miss no event.
    pub fn interest(&self) -> Interest {
        let sample_ms = u64::try_from(SAMPLE.min(self.interval).as_millis()).unwrap_or(u64::MAX);
        // A line of text has no room for each connection that changed, so nobody looks for them.
        Interest { mappings: true, connections: self.json, events: true, sample_ms, ..Interest::default() }
    }
}

/// Prints events to `out` until the service ends. The subscription is that of [`Options::interest`].
///
/// # Errors
/// When writing fails for another reason than a closed reader.
pub async fn run(mut subscription: Subscription, options: Options, out: impl Write) -> io::Result<Ended> {
    let filter = Sieve { filter: options.filter, ..Sieve::default() };
    let mut printer = Printer { out: io::BufWriter::new(out), json: options.json, text: String::new(), filter };
    // Who only looks on comes to connections that are open already.
    let mut narrator = Narrator::new(options.json, options.demand == Demand::Nothing);
    let mut rows: HashMap<MappingId, MappingRow> = HashMap::new();
    let (mut is_judged, mut is_said) = (options.demand == Demand::Nothing, false);
    let mut reason = None;
    let mut tick = tokio::time::interval(options.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update = tokio::select! {
            update = subscription.next() => update,
            _ = tick.tick() => match printer.traffic(&mut narrator) {
                Ok(()) => continue,
                Err(error) => return output_failed(error),
            },
        };
        let Some(mut update) = update else { break };
        if !is_judged {
            for id in &update.mappings_removed {
                rows.remove(id);
            }
            rows.extend(update.mappings.iter().map(|row| (row.id, row.clone())));
        }
        // By the overview, which comes with its rows; events come in their own time.
        if let Some(overview) = update.overview.as_ref().filter(|overview| overview.is_ready && !is_judged) {
            is_judged = true;
            reason = shortfall(overview.order.iter().filter_map(|id| rows.get(id)), options.demand == Demand::Every);
            rows = HashMap::new();
        }
        // What failed is said before it ends; unless that was lost, because the reader was too slow.
        is_said |= update.lost > 0 || update.events.iter().any(|event| matches!(event.kind, EventKind::Ready { .. }));
        printer.filter.rows(&mut update);
        match printer.print(&narrator.hear(update, Timestamp::now())) {
            Ok(()) => {}
            Err(error) => return output_failed(error),
        }
        if let Some(reason) = reason.take_if(|_| is_said) {
            return Ok(Ended::NotListening(reason));
        }
    }
    // The totals as they stand at the end.
    match printer.traffic(&mut narrator) {
        Ok(()) => Ok(Ended::Finished),
        Err(error) => output_failed(error),
    }
}

/// That nobody reads any more is an end like another.
fn output_failed(error: io::Error) -> io::Result<Ended> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(Ended::OutputClosed) } else { Err(error) }
}

/// Whether it gives up, once every mapping has bound or failed: nothing listens, or with `strict` not everything is as
/// asked.
pub(crate) fn is_short(states: impl Iterator<Item = MappingState>, strict: bool) -> bool {
    let enabled = states.filter(|state| *state != MappingState::Stopped);
    let (good, bad): (Vec<_>, Vec<_>) = enabled.partition(|state| !is_bad(*state, strict));
    !bad.is_empty() && (strict || good.is_empty())
}

fn is_bad(state: MappingState, strict: bool) -> bool {
    match state {
        MappingState::Up | MappingState::Waiting | MappingState::Stopped => false,
        MappingState::Failed => true,
        _ => strict,
    }
}

/// Why it gives up, if it does.
fn shortfall<'a>(rows: impl Iterator<Item = &'a MappingRow>, strict: bool) -> Option<String> {
    let rows: Vec<&MappingRow> = rows.collect();
    if !is_short(rows.iter().map(|row| row.state), strict) {
        return None;
    }
    let bad: Vec<_> = rows.into_iter().filter(|row| is_bad(row.state, strict)).collect();
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
    filter: Sieve,
}

/// What is told.
#[derive(Debug, Default)]
struct Sieve {
    filter: Filter,
    /// Connections whose `opened` and `closed` were told since the last `traffic`, which counts those.
    opened: u64,
    closed: u64,
}

impl Sieve {
    /// Leaves the rows of which `traffic` is to tell.
    fn rows(&self, update: &mut Update) {
        if !self.filter.is_empty() {
            update.mappings.retain(|row| self.filter.takes_mapping(row));
            update.connections.retain(|row| self.filter.takes_connection(row));
        }
    }

    fn takes(&mut self, event: &Event) -> bool {
        if self.filter.is_empty() || matches!(event.kind, EventKind::Lost { .. }) {
            return true;
        }
        let is_taken = self.filter.takes_event(event, &event.kind.to_string());
        match event.kind {
            EventKind::Opened { .. } => self.opened += u64::from(is_taken),
            EventKind::Closed { .. } => self.closed += u64::from(is_taken),
            _ => {}
        }
        is_taken
    }

    /// `traffic` of what is told alone.
    fn counts(&mut self, event: &mut Event) {
        if let EventKind::Traffic { opened, closed, .. } = &mut event.kind
            && !self.filter.is_empty()
        {
            (*opened, *closed) = (mem::take(&mut self.opened), mem::take(&mut self.closed));
        }
    }
}

impl<W: Write> Printer<W> {
    fn print(&mut self, events: &[Event]) -> io::Result<()> {
        for event in events {
            if self.filter.takes(event) {
                self.line(event)?;
            }
        }
        self.out.flush()
    }

    fn traffic(&mut self, narrator: &mut Narrator) -> io::Result<()> {
        let Some(mut event) = narrator.traffic(Timestamp::now()) else { return Ok(()) };
        self.filter.counts(&mut event);
        self.line(&event)?;
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
