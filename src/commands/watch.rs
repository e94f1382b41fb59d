//! `watch`: what flows, again and again.
//!
//! A rate is what was counted between two looks over the time between them, in the engine's clock; so what is shown is
//! the mean of the interval, and nothing in it is missed. Counters are read more often than that, which keeps the
//! moment of a look sharp.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::io::{self, Write};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, raise};
use serde::Serialize;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::in_place::{InPlace, Size};
use super::lists::{Told, told};
use super::table::{self, Line, Rate, Rates};
use super::world::{World, gone};
use super::{Failure, Output, Remark};
use crate::model::count::count;
use crate::model::event::to_the_millisecond;
use crate::model::filter::Filter;
use crate::model::format;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::update::{ConnectionRow, Interest, MappingRow};
use crate::service::Handle;

/// The first look is taken so soon, however long the interval: nobody waits long for the first page.
const FIRST: Duration = Duration::from_millis(250);

/// How it watches.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What the screen's `/` would take, of mappings and of connections.
    pub filter: String,
    /// Time between two looks.
    pub interval: Duration,
    /// What Docker publishes, too.
    pub published: bool,
    /// Of a terminal, on which one page takes the place of the other; pages follow each other without it.
    pub size: Option<Size>,
}

/// `watch`: mappings and open connections with what flows, until `stop` is cancelled.
///
/// # Errors
/// When the engine ends, or nobody reads any more.
pub async fn watch(
    handle: &Handle,
    what: &Watch,
    out: Output<impl Write>,
    stop: CancellationToken,
) -> Result<Remark, Failure> {
    // As many samples as keep the moment of a look sharp.
    let sample_ms = u64::try_from(what.interval.as_millis() / 10).unwrap_or(u64::MAX).clamp(20, 250);
    let interest = Interest {
        mappings: true,
        connections: true,
        processes: true,
        published: what.published,
        sample_ms,
        ..Interest::default()
    };
    let (mut world, mut subscription) = World::follow(handle, interest).await?;
    let mut looks = Looks { sample_ms, filter: Filter::parse(&what.filter), ..Looks::default() };
    looks.take(&world);
    let mut paper = Paper::new(out, what.size)?;
    let mut tick = interval_at(Instant::now() + FIRST.min(what.interval), what.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return paper.end(),
            _ = tick.tick() => {
                world.forget_closed();
                let look = looks.take(&world);
                paper.show(&look, &world, &looks.filter)?;
            }
            update = subscription.next() => world.take(update.ok_or_else(gone)?),
            what = paper.signal() => paper.obey(&what)?,
        }
    }
}

/// Sums of bytes, from the client and to it.
type Sums = (u64, u64);

/// What was counted at the last look.
#[derive(Debug, Default)]
struct Looks {
    sample_ms: u64,
    filter: Filter,
    at_ms: u64,
    mappings: HashMap<MappingId, Sums>,
    connections: HashMap<ConnectionId, Sums>,
}

/// What flowed between two looks.
#[derive(Debug, Default)]
struct Look {
    mappings: HashMap<MappingId, Rate>,
    connections: HashMap<ConnectionId, Rate>,
}

impl Looks {
    fn take(&mut self, world: &World) -> Look {
        let at_ms = world.counted_at_ms(self.sample_ms);
        let span_ms = at_ms.saturating_sub(self.at_ms);
        let mappings = world.mappings().map(|row| (row.id, (row.bytes_in, row.bytes_out), row.is_docker()));
        let connections = world.connections.values().map(|row| {
            let connection = &row.connection;
            (connection.id, (connection.bytes_in, connection.bytes_out), row.is_docker())
        });
        self.at_ms = at_ms;
        Look {
            mappings: rates(&mut self.mappings, mappings, span_ms),
            connections: rates(&mut self.connections, connections, span_ms),
        }
    }
}

/// What is new has counted from nothing, but for what was there before anybody looked: that is `seen late`.
fn rates<I: Copy + Eq + Hash>(
    before: &mut HashMap<I, Sums>,
    now: impl Iterator<Item = (I, Sums, bool)>,
    span_ms: u64,
) -> HashMap<I, Rate> {
    let per_second = |more: Option<u64>| more.filter(|_| span_ms > 0).map(|more| more as f64 * 1000.0 / span_ms as f64);
    let mut sums_now = HashMap::new();
    let rates = now.map(|(id, sums, is_seen_late)| {
        let then = before.get(&id).copied().or((!is_seen_late).then_some((0, 0)));
        sums_now.insert(id, sums);
        // Less than before would be another run's.
        let rate = Rate {
            r#in: per_second(then.and_then(|then| sums.0.checked_sub(then.0))),
            out: per_second(then.and_then(|then| sums.1.checked_sub(then.1))),
        };
        (id, rate)
    });
    let rates = rates.collect();
    *before = sums_now;
    rates
}

/// One look as a line of JSON.
#[derive(Serialize)]
struct Page<'a> {
    time: String,
    mappings: Vec<Flow<&'a MappingRow>>,
    connections: Vec<Flow<Told<'a>>>,
}

/// A row, and bytes a second; null where they are not counted.
#[derive(Serialize)]
struct Flow<R> {
    #[serde(flatten)]
    row: R,
    in_rate: Option<u64>,
    out_rate: Option<u64>,
}

impl<R> Flow<R> {
    fn of(row: R, rate: Rate, is_counted: bool) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is no less than nothing")]
        let whole = |rate: Option<f64>| rate.filter(|_| is_counted).map(|rate| rate.round() as u64);
        Self { row, in_rate: whole(rate.r#in), out_rate: whole(rate.out) }
    }
}

/// Where the looks go.
enum Paper<W: Write> {
    Pages(Output<W>),
    InPlace(Box<Screen<W>>),
}

/// A terminal, and what is asked of who writes on it.
struct Screen<W: Write> {
    place: InPlace<W>,
    page: String,
    suspend: Signals,
    resize: Signals,
}

/// What a terminal's user asked for.
enum Asked {
    Suspend,
    Resize,
}

impl<W: Write> Paper<W> {
    fn new(out: Output<W>, size: Option<Size>) -> Result<Self, Failure> {
        let Some(size) = size.filter(|_| !out.json) else { return Ok(Self::Pages(out)) };
        let suspend = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
        let resize = signal(SignalKind::window_change())?;
        let place = InPlace::enter(out.writer, size)?;
        Ok(Self::InPlace(Box::new(Screen { place, page: String::new(), suspend, resize })))
    }

    fn show(&mut self, look: &Look, world: &World, filter: &Filter) -> Result<(), Failure> {
        let mappings: Vec<Line<'_, MappingRow>> = world
            .mappings()
            .filter(|row| filter.takes_mapping(row))
            .map(|row| line(row, look.mappings.get(&row.id), world))
            .collect();
        let mut connections: Vec<Line<'_, ConnectionRow>> = world
            .connections
            .values()
            .filter(|row| filter.takes_connection(row))
            .map(|row| line(row, look.connections.get(&row.connection.id), world))
            .collect();
        // The busiest first, as on the screen; others as they came.
        let busy = |line: &Line<'_, ConnectionRow>| (line.rate.out.unwrap_or(0.0), line.rate.r#in.unwrap_or(0.0));
        connections.sort_by(|a, b| {
            let (a, b) = (busy(a), busy(b));
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        match self {
            Self::Pages(out) if out.json => out.value(&Page {
                time: format!("{:.3}", to_the_millisecond(Timestamp::now())),
                mappings: mappings.iter().map(|l| Flow::of(l.row, l.rate, l.row.counts_bytes())).collect(),
                connections: connections
                    .iter()
                    .map(|l| Flow::of(told(l.row, l.now_ms), l.rate, l.row.counts_bytes()))
                    .collect(),
            }),
            Self::Pages(out) => out.text(&format!("{}\n", page(&mappings, &connections, world, filter))),
            Self::InPlace(screen) => {
                screen.page = page(&mappings, &connections, world, filter);
                Ok(screen.place.page(&screen.page)?)
            }
        }
    }

    /// Gives the terminal back.
    fn end(self) -> Result<Remark, Failure> {
        if let Self::InPlace(mut screen) = self {
            screen.place.leave()?;
        }
        Ok(None)
    }

    async fn signal(&mut self) -> Asked {
        let Self::InPlace(screen) = self else { return std::future::pending().await };
        tokio::select! {
            Some(()) = screen.suspend.recv() => Asked::Suspend,
            Some(()) = screen.resize.recv() => Asked::Resize,
            else => std::future::pending().await,
        }
    }

    fn obey(&mut self, asked: &Asked) -> Result<(), Failure> {
        let Self::InPlace(screen) = self else { return Ok(()) };
        if let Asked::Suspend = asked {
            screen.place.leave()?;
            // To this thread, so that it does not run on before the process stands still.
            raise(Signal::SIGSTOP).map_err(io::Error::from)?;
            screen.place.take()?;
        }
        Ok(screen.place.page(&screen.page)?)
    }
}

fn line<'a, R>(row: &'a R, rate: Option<&Rate>, world: &'a World) -> Line<'a, R> {
    Line { row, rate: rate.copied().unwrap_or_default(), now_ms: world.now_ms(), profile: world.profile() }
}

/// `dev  4 mappings  7 connections  in 340 kB/s  out 1.24 MB/s`, then the tables.
fn page(
    mappings: &[Line<'_, MappingRow>],
    connections: &[Line<'_, ConnectionRow>],
    world: &World,
    filter: &Filter,
) -> String {
    // What Docker publishes is not ours to forward.
    let ours = || mappings.iter().filter(|line| !line.row.is_docker());
    let sum = |of: fn(&Rate) -> Option<f64>| format::rate_long(ours().filter_map(|line| of(&line.rate)).sum());
    let open = connections.iter().filter(|line| !line.row.is_docker()).count();
    let (many, open) = (count(ours().count() as u64, "mapping"), count(open as u64, "connection"));
    let profile = world.profile();
    let mut text = format!("{profile}  {many}  {open}  in {}  out {}", sum(|rate| rate.r#in), sum(|rate| rate.out));
    if !filter.is_empty() {
        // A string takes everything.
        let _ = write!(text, "  /{}", crate::model::untrusted::one_line(filter.text(), usize::MAX));
    }
    text.push_str("\n\n");
    if !mappings.is_empty() {
        text.push_str(&table::mappings(mappings, Rates::Shown));
        text.push('\n');
    }
    if !connections.is_empty() {
        text.push_str(&table::connections(connections, Rates::Shown));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_counted_over_the_time_between() {
        let mut before = HashMap::from([(1, (1_000, 0)), (2, (5, 5))]);
        let now = [(1, (3_000, 500), false), (3, (10, 20), false), (4, (10, 20), true)];
        let told = rates(&mut before, now.into_iter(), 500);
        assert_eq!(told[&1], Rate { r#in: Some(4_000.0), out: Some(1_000.0) });
        assert_eq!(told[&3], Rate { r#in: Some(20.0), out: Some(40.0) }, "new since then");
        assert_eq!(told[&4], Rate::default(), "since when, nobody knows");
        assert_eq!(before.len(), 3, "what is gone is forgotten");
        let told = rates(&mut before, [(1, (3_000, 500), false)].into_iter(), 0);
        assert_eq!(told[&1], Rate::default(), "no time has passed");
    }
}
