//! Two hundred clients that mean ill, and what goes on beside them: forwarding as before, answers, bounded memory.
//!
//! It is quiet and crowded in turn, so that whatever else the machine does meets both; what the slow transactions of the
//! forwarder take longer than the direct ones beside them is held against the same of the quiet times.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::beside::{Figures, Watcher, echo_server};
use crate::client::{ask, socket_of, start, write_profile};
use crate::common::echo::echoes;
use crate::common::gauge::{Sample, used, used_by};
use crate::common::program::Home;
use crate::common::soak::{amount, within};
use crate::common::{Need, SOON, require, wait_until};
use crate::ill::{Crowd, Way};

const CROWD: usize = 200;
/// Connections that have closed before and are remembered, so that a list of them is long.
const REMEMBERED: usize = 1_000;
/// By how much more than in quiet times the slow transactions of the forwarder may be slower than the direct ones: what
/// a processor that is somebody else's for a moment does to them.
const NOISE: Duration = Duration::from_millis(2);
/// Within so long a client that means well is answered: by a release build, and by a debug one beside other tests.
const ANSWER: Duration = Duration::from_millis(100);
const ANSWER_SLOWLY: Duration = Duration::from_secs(3);
/// Longest silence of a stream of updates.
const GAP: Duration = Duration::from_secs(1);
/// What the program may grow by, in KiB.
const GROWTH: u64 = 48 * 1_024;

/// Whom it is about.
struct Parts {
    direct: SocketAddr,
    forwarded: SocketAddr,
    socket: PathBuf,
    pid: u32,
}

/// What a time was like.
struct Phase {
    figures: Figures,
    /// When the program held most.
    most: Sample,
}

impl Phase {
    fn of(name: &str, length: Duration, parts: &Parts) -> Self {
        let pid = parts.pid;
        let (before, control, start) = (used(pid), used_by(pid, "control"), Instant::now());
        let (figures, most) = std::thread::scope(|scope| {
            let figures = scope.spawn(|| Figures::of(length, parts.direct, parts.forwarded, &parts.socket));
            let mut most = Sample::take(pid, start);
            while !figures.is_finished() {
                let now = Sample::take(pid, start);
                if now.pss > most.pss {
                    most = now;
                }
                sleep(Duration::from_millis(100));
            }
            (figures.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), most)
        });
        let share = |time: Duration| time.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
        println!(
            "{name}: {} transactions, p99 direct {:?}, forwarded {:?}; {} MiB transferred, exact; {} questions, p99 {:?}, \
             slowest {:?}, by curl {:?}; {} KiB PSS, {} descriptors; {:.0} % of a core, {:.0} % for the control socket",
            figures.transactions,
            figures.direct,
            figures.forwarded,
            figures.bytes >> 20,
            figures.questions,
            figures.answer,
            figures.slowest,
            figures.curl,
            most.pss,
            most.descriptors,
            share(used(pid).saturating_sub(before)),
            share(used_by(pid, "control").saturating_sub(control)),
        );
        Self { figures, most }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn two_hundred_clients_that_mean_ill_slow_nobody_down() {
    if !require(&[Need::Curl]) {
        return;
    }
    let rounds = amount(2, 5);
    let quiet = amount(Duration::from_secs(5), Duration::from_secs(30));
    let crowded = amount(Duration::from_secs(10), Duration::from_mins(1));
    let (home, direct) = (Home::new(), echo_server());
    write_profile(&home, "default", direct);
    let mut run = start(&home);
    let (forwarded, socket) = (run.listening("127.0.0.1"), socket_of(&home, "default"));
    let parts = Parts { direct, forwarded, socket, pid: run.pid() };
    for _ in 0..REMEMBERED {
        assert!(echoes(&mut TcpStream::connect(forwarded).expect("it listens")));
    }
    let watcher = Watcher::start(&parts.socket, forwarded);
    let mut alone = vec![Phase::of("alone", quiet, &parts)];
    let before = Sample::take(parts.pid, Instant::now());
    let mut beside = Vec::new();
    for _ in 0..rounds {
        let crowd = Crowd::start(&parts.socket, &Way::ALL, CROWD);
        wait_until("the crowd to be there", SOON, || crowd.deeds.connects.load(Relaxed) >= CROWD as u64);
        beside.push(Phase::of("beside them", crowded, &parts));
        let [connects, refused, bytes] = [&crowd.deeds.connects, &crowd.deeds.refused, &crowd.deeds.bytes];
        println!(
            "  they: {} connects, {} refused, {} MiB sent",
            connects.load(Relaxed),
            refused.load(Relaxed),
            bytes.load(Relaxed) >> 20
        );
        drop(crowd);
        alone.push(Phase::of("alone", quiet, &parts));
    }

    // What is done now is told on the stream that has been open all the while.
    let mapping = br#"{"name":"one-more","listen":"127.0.0.1:auto","target":"127.0.0.1:9"}"#;
    assert_eq!(ask(&parts.socket, "POST", "/v1/mappings", mapping).expect("an answer").status, 200);
    wait_until("the stream to tell of it", SOON, || watcher.has_heard(r#""name":"one-more""#));
    let heard = watcher.heard();
    let gap = watcher.end();
    wait_until("descriptors at the baseline", SOON, || {
        Sample::take(parts.pid, Instant::now()).descriptors <= before.descriptors
    });
    let last = Sample::take(parts.pid, Instant::now());
    let most = beside.iter().map(|phase| phase.most.pss).max().expect("rounds");
    println!(
        "PSS {} KiB before, {most} at most, {} after; descriptors {} before, {} after; {heard} bytes of updates, their \
         longest gap {gap:?}",
        before.pss, last.pss, before.descriptors, last.descriptors
    );
    let extras = |phases: &[Phase]| phases.iter().map(|phase| phase.figures.extra()).collect::<Vec<_>>();
    let (noise, extra) = (extras(&alone), extras(&beside));
    println!("p99 forwarded beyond direct: {noise:?} alone, {extra:?} beside them");
    let bound = noise.iter().max().copied().expect("rounds") + within(NOISE);
    assert!(median(extra.clone()) <= bound, "{extra:?} beside them, {noise:?} alone");
    let answer = beside.iter().map(|phase| phase.figures.answer).max().expect("rounds");
    assert!(answer <= amount(ANSWER_SLOWLY, ANSWER), "{answer:?}");
    assert!(gap <= within(GAP), "{gap:?}");
    assert!(most <= before.pss + GROWTH, "{most} KiB, {} before", before.pss);
    assert!(run.stop().status.success());
}
