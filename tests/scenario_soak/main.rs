//! Many minutes of mixed load with faults through `portolan run`: memory, descriptors, threads and connections stay
//! flat, every connection that opened closes, and what was counted is what the peers received (fault 25).
//!
//! `tests/run --soak -- --test scenario_soak` runs it for 30 minutes, or for `PORTOLAN_TEST_SOAK_MINUTES`; else it takes
//! 20 seconds. Its log is printed and left in `target/tmp/soak.log`.

mod book;
#[path = "../common/mod.rs"]
mod common;
mod growth;
#[path = "../common/sockets.rs"]
mod sockets;
mod targets;
mod ways;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use book::{Bytes, Keeper, differences};
use common::gauge::Sample;
use common::program::Home;
use common::soak::is_soak;
use common::{Running, SOON, wait_until};
use growth::{Log, median, slope};
use sockets::{noise, until};
use targets::Targets;
use ways::{LONGEST, Way};

/// Connections and flows that begin each second.
const RATE: u64 = 200;
/// So many begin at once before that, so that memory for a crowd is not taken for growth when one comes later.
const CROWD: u64 = 600;
/// So many at most are under way: on a machine that cannot keep up, the rate falls.
const AT_ONCE: usize = 1_000;
/// How long the mapping that is taken away stands before the next edit of it.
const BETWEEN_EDITS: Duration = Duration::from_secs(1);
/// Growth that is allowed, in KiB: in ten minutes of the long form, and in all of the short one, which is mostly the
/// filling of bounded tables.
const SLOPE: f64 = 1_024.0;
const SHORT_GROWTH: u64 = 16 * 1_024;
/// Ends of pipes that may lie in the program's pool.
const POOLED: usize = 32;
/// Mappings whose peers' figures are held against what was told: all but those whose connections are cut.
const EXACT: &[&str] = &["to-v4", "to-v6", "datagrams"];

/// For how long load is given, how often it is logged, and after which time memory is to be flat.
struct Plan {
    length: Duration,
    log_every: Duration,
    warm_up: Duration,
}

impl Plan {
    fn new() -> Self {
        if !is_soak() {
            let [length, log_every, warm_up] = [20, 5, 8].map(Duration::from_secs);
            return Self { length, log_every, warm_up };
        }
        let minutes = std::env::var("PORTOLAN_TEST_SOAK_MINUTES").ok();
        let minutes = minutes.map_or(30, |text| text.parse().expect("PORTOLAN_TEST_SOAK_MINUTES is a number"));
        let length = Duration::from_mins(minutes);
        Self { length, log_every: Duration::from_secs(30), warm_up: (length / 4).min(Duration::from_mins(3)) }
    }
}

/// Writes the profile as editors do: a new file takes the old one's name.
fn write(home: &Home, text: &str) {
    home.write_profile("saved", text);
    std::fs::rename(home.profile("saved"), home.profile("default")).expect("the same folder");
}

/// What clients received, and how many went which way.
#[derive(Default)]
struct Clients {
    received: Bytes,
    ways: BTreeMap<Way, u64>,
}

impl Clients {
    fn take(&mut self, (mapping, way, outcome): (&str, Way, Option<(SocketAddr, u64)>)) {
        if let Some((local, bytes)) = outcome {
            *self.received.entry((mapping.to_owned(), local)).or_default() += bytes;
            *self.ways.entry(way).or_default() += 1;
        }
    }
}

/// Gives load until told to stop, and waits for its last clients.
async fn load(keeper: Arc<Keeper>, payload: Arc<[u8]>, stop: Arc<AtomicBool>) -> Clients {
    let (mut done, mut under_way) = (Clients::default(), JoinSet::new());
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(RATE).expect("small"));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        if number == CROWD {
            tick.reset();
        }
        if number >= CROWD {
            tick.tick().await;
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
        while let Some(ended) = under_way.try_join_next() {
            done.take(ended.expect("the client's part went well"));
        }
        if under_way.len() >= AT_ONCE {
            continue;
        }
        let way = Way::of(number);
        let mapping = way.mapping(number);
        let Some(listener) = keeper.listener(mapping, number) else {
            assert_eq!(way, Way::Cut, "{mapping} listens");
            continue;
        };
        let payload = Arc::clone(&payload);
        under_way.spawn(async move { (mapping, way, ways::client(listener, number, way, &payload).await) });
    }
    while let Some(ended) = timeout(9 * SOON, under_way.join_next()).await.expect("clients end") {
        done.take(ended.expect("the client's part went well"));
    }
    done
}

fn start(home: &Home) -> (Running, Keeper) {
    let mut command = home.command(None);
    command.args(["run", "--json", "--drain", "0s", "--interval", "500ms"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Running(command.spawn().expect("the program starts"));
    let output = program.0.stdout.take().expect("stdout is piped");
    let errors = program.0.stderr.take().expect("stderr is piped");
    (program, Keeper::start(output, errors))
}

fn line(sample: &Sample, keeper: &Keeper) -> String {
    let book = keeper.book();
    format!(
        "{:>5} s  RSS {} KiB  PSS {} KiB  descriptors {} + {} of pipes  threads {}  open {}  opened {}  closed {:?}",
        sample.at.as_secs(),
        sample.rss,
        sample.pss,
        sample.descriptors,
        sample.pipe_ends,
        sample.threads,
        book.open.len(),
        book.opened,
        book.closed
    )
}

/// Samples, logs and edits until the load has been given for long enough.
async fn watch(plan: &Plan, pid: u32, keeper: &Keeper, log: &mut Log, mut edit: impl FnMut(u64)) -> Vec<Sample> {
    let start = Instant::now();
    let (mut samples, mut edits, mut next_line) = (Vec::new(), 0, Duration::ZERO);
    while start.elapsed() < plan.length {
        let sample = Sample::take(pid, start);
        samples.push(sample);
        if sample.at >= next_line {
            log.line(&line(&sample, keeper));
            next_line += plan.log_every;
        }
        assert!(keeper.book().faults.is_empty(), "{:?}", keeper.book().faults);
        sleep(BETWEEN_EDITS).await;
        edits += 1;
        edit(edits);
        until("the edit to be applied", || (keeper.book().edits >= edits).then_some(())).await;
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_mixed_load_with_faults_nothing_grows_and_nothing_is_left() {
    portolan::forward::descriptors::raise_limit().expect("thousands of clients need as many descriptors");
    let plan = Plan::new();
    let payload: Arc<[u8]> = noise(25, LONGEST).into();
    let targets = Targets::start(&payload).await;
    let home = Home::new();
    write(&home, &targets.profile(0));
    let (mut program, keeper) = start(&home);
    let (pid, keeper) = (program.0.id(), Arc::new(keeper));
    let all = targets.addresses.len();
    until("every mapping to listen", || {
        let book = keeper.book();
        (book.is_ready && book.listeners.len() == all).then_some(())
    })
    .await;

    let mut log = Log::start(plan.length);
    let baseline = Sample::take(pid, Instant::now());
    log.line(&format!("baseline: {}", line(&baseline, &keeper)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut giving = JoinSet::new();
    giving.spawn(load(Arc::clone(&keeper), Arc::clone(&payload), Arc::clone(&stop)));
    let watching = watch(&plan, pid, &keeper, &mut log, |edit| write(&home, &targets.profile(edit)));
    let samples = tokio::select! {
        samples = watching => samples,
        Some(Err(failed)) = giving.join_next() => panic!("the load has ended: {failed}"),
    };
    stop.store(true, Ordering::SeqCst);
    // Connections that only an edit ends.
    write(&home, &targets.profile(3));
    let clients = giving.join_next().await.expect("one task").expect("the load went well");

    tokio::task::block_in_place(|| {
        wait_until("every connection that opened to close", 3 * SOON, || keeper.book().open.is_empty());
        let open_of = || keeper.book().totals.iter().find(|(_, open)| **open > 0).map(|(name, _)| name.clone());
        wait_until("the totals to say so", SOON, || open_of().is_none());
        let is_back = || {
            let now = Sample::take(pid, Instant::now());
            // The mapping that is stopped listened at the beginning.
            now.descriptors < baseline.descriptors
                && now.threads <= baseline.threads
                && now.pipe_ends <= baseline.pipe_ends + POOLED
        };
        wait_until("descriptors and threads at the baseline", SOON, is_back);
    });
    log.line(&format!("after it: {}", line(&Sample::take(pid, Instant::now()), &keeper)));
    let pipes = samples.iter().map(|sample| sample.pipe_ends).max().unwrap_or_default();
    assert!(pipes > baseline.pipe_ends, "bulk was never spliced");

    judge_memory(&plan, &samples, &mut log);
    judge_counts(&keeper, &clients, &targets, &mut log);

    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGINT).expect("a child can be signalled");
    tokio::task::block_in_place(|| {
        wait_until("the program ends", SOON, || program.0.try_wait().expect("a child").is_some());
    });
    assert!(program.0.wait().expect("it has ended").success());
    let mut keeper = Arc::into_inner(keeper).expect("the load has let it go");
    keeper.finish();
    assert!(keeper.book().faults.is_empty() && keeper.book().has_ended, "{:?}", keeper.book().faults);
}

fn judge_memory(plan: &Plan, samples: &[Sample], log: &mut Log) {
    let warm: Vec<Sample> = samples.iter().copied().filter(|sample| sample.at >= plan.warm_up).collect();
    let [rss, pss] = [slope(&warm, |sample| sample.rss), slope(&warm, |sample| sample.pss)];
    let quarter = warm.len().div_ceil(4);
    let first = median(&warm[..quarter], |sample| sample.rss);
    let last = median(&warm[warm.len() - quarter..], |sample| sample.rss);
    log.line(&format!(
        "after {:?} of warming up, {} samples: slope of RSS {rss:.0} KiB, of PSS {pss:.0} KiB in ten minutes; median \
         of RSS in the first quarter {first} KiB, in the last {last} KiB",
        plan.warm_up,
        warm.len(),
    ));
    // A line through less than ten minutes tells more of noise than of leaks.
    if plan.length >= Duration::from_mins(10) {
        assert!(rss < SLOPE && pss < SLOPE, "memory grows: {rss:.0} and {pss:.0} KiB in ten minutes");
    } else {
        assert!(last < first + SHORT_GROWTH, "memory grows: from {first} to {last} KiB");
    }
}

fn judge_counts(keeper: &Keeper, clients: &Clients, targets: &Targets, log: &mut Log) {
    let book = keeper.book();
    let received = targets.received.lock().expect("no panic").clone();
    let of = |bytes: &Bytes| -> u64 {
        bytes.iter().filter(|(peer, _)| EXACT.contains(&peer.0.as_str())).map(|(_, bytes)| bytes).sum()
    };
    log.line(&format!("clients by way: {:?}", clients.ways));
    log.line(&format!("told {} bytes in, {} bytes out of those not cut", of(&book.told_in), of(&book.told_out)));
    log.line(&format!("peers received {} bytes in, {} bytes out", of(&received), of(&clients.received)));
    let exact = |bytes: &Bytes| -> Bytes {
        bytes
            .iter()
            .filter(|(peer, _)| EXACT.contains(&peer.0.as_str()))
            .map(|(peer, sum)| (peer.clone(), *sum))
            .collect()
    };
    let wrong = differences(&exact(&book.told_in), &exact(&received), EXACT);
    assert!(wrong.is_empty(), "{} peers behind targets, the first: {:?}", wrong.len(), wrong.first());
    let wrong = differences(&exact(&book.told_out), &exact(&clients.received), EXACT);
    assert!(wrong.is_empty(), "{} clients, the first: {:?}", wrong.len(), wrong.first());

    let way = |way: Way| clients.ways.get(&way).copied().unwrap_or_default();
    assert_eq!(book.closed_for("target_refused"), way(Way::Refused));
    assert_eq!(book.closed_for("connect_timeout"), way(Way::Swallowed));
    assert_eq!(book.closed_for("half_close_timeout"), way(Way::HalfClosed));
    assert_eq!(book.closed_for("target_reset"), way(Way::TargetResetsMidway));
    assert!(book.closed_for("idle_timeout") >= way(Way::Mute), "{:?}", book.closed);
    assert!(book.closed_for("mapping_removed") > 0, "{:?}", book.closed);
    let ended = [Way::Whole, Way::Bulk, Way::Standing, Way::SlowReader, Way::ClientEndsFirst, Way::TargetEndsFirst];
    assert_eq!(book.closed_for("finished"), ended.into_iter().map(way).sum::<u64>());
}
