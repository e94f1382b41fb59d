//! The load: client and target in one process, so that both ends of every byte are known. It is no part of what is
//! measured, and is built to be faster than any proxy: blocking threads where there is one thing to wait for, epoll
//! where there are many, batches of datagrams.

mod bulk;
mod connect;
mod datagrams;
mod download;
mod echo;
mod http;
mod http_text;
mod paced;
mod pingpong;
mod pingpong_many;
mod told;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::cases::Work;
use crate::cpu::CpuMeter;
use crate::mode::Told;

/// First argument of a load.
pub(crate) const MODE: &str = "load";

/// How long a load may take beyond the time that it is to last.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Before the clock starts, so that caches, windows and flows are as in the middle of work.
const WARM_UP: Duration = Duration::from_millis(60);

/// What a load says when it holds its connections.
pub(crate) const HELD: &str = "held";

/// What a load is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The work.
    pub(crate) work: Work,
    /// Where the client connects.
    pub(crate) client: SocketAddr,
    /// Where the target listens.
    pub(crate) target: SocketAddr,
    /// What the target has to be told of its client.
    pub(crate) told: Told,
    /// How long, in milliseconds.
    pub(crate) millis: u64,
    /// Every byte is compared with what was sent; such a round is not timed.
    pub(crate) is_check: bool,
    /// Whose processor time is read beside.
    pub(crate) cpu: CpuMeter,
}

impl Order {
    fn duration(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// What a load found, by the keys of metrics.
pub(crate) type Figures = BTreeMap<String, f64>;

/// The order in the arguments of a load.
pub(crate) fn order_of(arguments: &mut impl Iterator<Item = OsString>) -> Option<Result<Order>> {
    if arguments.next()? != MODE {
        return None;
    }
    let text = arguments.next()?.into_string().ok()?;
    Some(serde_json::from_str(&text).context("not an order"))
}

/// Does the work and prints the figures.
pub(crate) fn run(order: &Order) -> Result<()> {
    let limit = order.duration() + PATIENCE;
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("not done after {limit:?}");
        std::process::exit(1);
    });
    let figures = match order.work {
        Work::Bulk { streams, direction } if order.is_check => bulk::check(order, streams, direction)?,
        Work::Bulk { streams, direction } => bulk::run(order, streams, direction)?,
        Work::PingPong { connections: 1 } => pingpong::run(order)?,
        Work::PingPong { connections } => pingpong_many::run(order, connections)?,
        Work::Connect { idle } => connect::run(order, idle)?,
        Work::Idle { connections } => connect::hold(order, connections)?,
        Work::UdpEcho { flows: 1, size } => echo::run_one(order, size)?,
        Work::UdpEcho { flows, size } => echo::run_many(order, flows, size)?,
        Work::UdpRoundTrip => echo::round_trips(order)?,
        Work::UdpBurst { per_second, size } => paced::run(order, per_second, size)?,
        Work::Http { connections } => http::run(order, connections)?,
        Work::Download { streams } => download::run(order, streams)?,
        Work::Count { transactions } => pingpong::count(order, transactions)?,
        Work::Mappings => bail!("mappings need no load"),
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// The time and the processor time between two moments.
struct Clock<'a> {
    meter: &'a CpuMeter,
    start: Instant,
    cpu: Option<Duration>,
}

impl<'a> Clock<'a> {
    fn start(meter: &'a CpuMeter) -> Result<Self> {
        Ok(Self { meter, cpu: meter.read()?, start: Instant::now() })
    }

    /// Seconds, and seconds of a processor if somebody's are read.
    fn stop(&self) -> Result<(f64, Option<f64>)> {
        let seconds = self.start.elapsed().as_secs_f64();
        let used = match (self.cpu, self.meter.read()?) {
            (Some(before), Some(after)) => Some(after.saturating_sub(before).as_secs_f64()),
            _ => None,
        };
        Ok((seconds, used))
    }
}

/// The figures with a key, without those that nobody measured, or that are shares of nothing.
fn figures<const N: usize>(pairs: [(&str, Option<f64>); N]) -> Figures {
    let found = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    found.filter(|(_, value)| value.is_finite()).collect()
}

/// The target's listener, with a queue that no burst of connections fills.
fn listen(order: &Order) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(order.target), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&order.target.into()).with_context(|| format!("the target cannot bind {}", order.target))?;
    socket.listen(4_096)?;
    Ok(socket.into())
}
