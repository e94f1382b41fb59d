//! Fault 1, through the program: out of descriptors, it lives, says so, serves whom it has, takes
//! new clients as soon as others go, and ends with what it began with.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::SOON;
use common::gauge::{p99, used};
use common::program::{Home, PORTOLAN, Run};
use common::soak::{amount, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CLIENTS: usize = 2_000;
/// Figures of fault 1: an echo, until a newcomer is in, and records of the log and share of a core while they wait.
const ECHO: Duration = Duration::from_millis(50);
const NEWCOMER: Duration = Duration::from_secs(1);
const RECORDS: f64 = 2.0;
const SHARE: f64 = 0.1;

/// `portolan run` in a process of 256 descriptors, of which it is given `taken` in use.
fn hungry(home: &Home, target: SocketAddr, taken: usize) -> Run {
    let script =
        r#"ulimit -n 256 && for ((n = 10; n < 10 + $1; n++)); do eval "exec $n</dev/null"; done; shift; exec "$@""#;
    let mut command = Command::new("bash");
    command.env_clear().envs(home.environment());
    command.args(["-c", script, "bash", &taken.to_string(), PORTOLAN]);
    command.args(["run", "--json", "-p", &format!("127.0.0.1:auto:{target}")]);
    Run::start(command)
}

fn descriptors(run: &Run) -> usize {
    fs::read_dir(format!("/proc/{}/fd", run.pid())).expect("it is alive").count()
}

/// What these are.
fn open_files(run: &Run) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{}/fd", run.pid())).expect("it is alive");
    links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).collect()
}

/// Records of the log.
fn records(home: &Home) -> usize {
    let folder = home.path().join(".local/state/portolan");
    let logs = fs::read_dir(folder).expect("there is a log").map(|entry| entry.expect("an entry").path());
    logs.filter(|path| path.extension().is_some_and(|end| end == "log"))
        .map(|path| fs::read_to_string(path).expect("it can be read").lines().count())
        .sum()
}

/// A server that sends back what it gets, until the test ends.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

/// Asks for an echo in time.
async fn echo_in(stream: &mut TcpStream, time: Duration) -> bool {
    matches!(tokio::time::timeout(time, echo(stream)).await, Ok(Ok(())))
}

async fn a_crowd_at_the_door(taken: usize) {
    portolan::forward::descriptors::raise_limit().expect("2,000 clients need as many descriptors");
    let target = echo_server().await;
    let home = Home::new();
    let mut run = tokio::task::block_in_place(|| {
        let mut run = hungry(&home, target, taken);
        run.ready();
        run
    });
    let listening = run.events().iter().find(|event| event["event"] == "listening").expect("it listens").clone();
    let listener: SocketAddr = listening["listener"].as_str().expect("text").parse().expect("an address");
    let baseline = descriptors(&run);

    let mut crowd = JoinSet::new();
    for _ in 0..CLIENTS {
        // Whoever is reset at once may hear of it while it still connects.
        if let Ok(mut client) = TcpStream::connect(listener).await {
            crowd.spawn(async move { echo(&mut client).await.is_ok().then_some(client) });
        }
    }
    // Some are served, some are reset, and some may wait until there is room.
    let mut lucky = Vec::new();
    let (mut refused, until) = (CLIENTS - crowd.len(), Instant::now() + Duration::from_secs(3));
    while let Ok(Some(ended)) = tokio::time::timeout_at(until.into(), crowd.join_next()).await {
        match ended.expect("the client's part went well") {
            Some(client) => lucky.push(client),
            None => refused += 1,
        }
    }
    let waiting = CLIENTS - lucky.len() - refused;
    assert!(lucky.len() >= 50, "{} were served", lucky.len());
    assert!(lucky.len() < 128, "{} were served with 256 descriptors: nothing was short", lucky.len());
    println!("{} served, {refused} reset, {waiting} wait; {} descriptors of 256", lucky.len(), descriptors(&run));

    // How long the crowd stands at the door.
    let held = amount(Duration::from_secs(4), Duration::from_secs(10));
    let (before, logged, start) = (used(run.pid()), records(&home), Instant::now());
    let mut echoes = Vec::new();
    'held: loop {
        for client in &mut lucky {
            let one = Instant::now();
            assert!(echo_in(client, SOON).await, "an accepted connection echoes");
            echoes.push(one.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
            if start.elapsed() > held {
                break 'held;
            }
        }
    }
    let share = used(run.pid()).saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    let logs = (records(&home) - logged) as f64 / start.elapsed().as_secs_f64();
    let p99 = p99(&mut echoes);
    println!(
        "held: {:.1} % of a core, {logs:.1} records a second, {} echoes, p99 {p99:?}",
        share * 100.0,
        echoes.len()
    );
    // A core that is all used up says that it spins, on any machine.
    assert!(share < amount(5.0 * SHARE, SHARE), "{:.0} % of a core", share * 100.0);
    assert!(logs <= amount(10.0 * RECORDS, RECORDS), "{logs:.0} records a second");
    assert!(p99 < within(ECHO), "p99 {p99:?}");

    // Half of them close: a new one gets in.
    lucky.truncate(lucky.len() / 2);
    drop(crowd);
    let start = Instant::now();
    let newcomer = loop {
        assert!(start.elapsed() < within(NEWCOMER), "a new client did not get in");
        if let Ok(mut client) = TcpStream::connect(listener).await
            && echo_in(&mut client, Duration::from_secs(1)).await
        {
            break client;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    println!("a new client was in after {:?}", start.elapsed());
    for client in &mut lucky {
        assert!(echo_in(client, SOON).await, "those who stayed are still served");
    }
    drop((lucky, newcomer));
    tokio::task::block_in_place(|| {
        let end = Instant::now() + SOON;
        while descriptors(&run) > baseline {
            assert!(Instant::now() < end, "{baseline} descriptors at the beginning, and now: {:?}", open_files(&run));
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("{} descriptors at the end, {baseline} at the beginning", descriptors(&run));
        let is_degraded = |event: &serde_json::Value| event["event"] == "mapping_state" && event["state"] == "degraded";
        let degraded = run.event("the shortage is told", SOON, is_degraded);
        assert!(degraded["reason"].as_str().is_some_and(|reason| reason.contains("ulimit -n")), "{degraded}");
        let is_up = |event: &serde_json::Value| event["event"] == "mapping_state" && event["state"] == "up";
        run.event("its end is told", SOON, is_up);
        let ended = run.stop();
        assert!(ended.status.success(), "{}", ended.errors);
        assert_eq!(ended.errors, "");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_at_256_descriptors_end_nothing_but_themselves() {
    a_crowd_at_the_door(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_when_the_kernel_has_no_descriptor_left() {
    // More than the reserve is in use before the first client comes.
    a_crowd_at_the_door(90).await;
}

/// Descriptors that a process may have open, by its soft and by its hard limit.
fn limits(run: &Run) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", run.pid())).expect("it is alive");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit is told");
    let mut figures = line.split_whitespace().filter_map(|word| word.parse().ok());
    (figures.next().expect("the soft limit"), figures.next().expect("the hard limit"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_raised_and_clients_leave_a_reserve_for_files() {
    const HARD: usize = 300;
    const RESERVE: usize = 32;
    let target = echo_server().await;
    let home = Home::new();
    let profile = |name: &str, more: &str| {
        let mapping = format!(r#"{{ "name": "{name}", "listen": "127.0.0.1:auto", "target": "{target}" }}"#);
        format!(r#"{{ "version": 1, "mappings": [{mapping}{more}] }}"#)
    };
    home.write_profile("default", &profile("before", ""));
    let mut command = Command::new("bash");
    command.env_clear().envs(home.environment());
    let script = format!("ulimit -Sn 100 && ulimit -Hn {HARD} && exec \"$@\"");
    command.args(["-c", &script, "bash", PORTOLAN, "run", "--json", "--drain", "0s"]);
    let mut run = tokio::task::block_in_place(|| {
        let mut run = Run::start(command);
        run.ready();
        run
    });
    assert_eq!(limits(&run), (HARD as u64, HARD as u64));
    let listener = tokio::task::block_in_place(|| run.listening("127.0.0.1"));
    let mut clients = Vec::new();
    for _ in 0..HARD {
        if let Ok(client) = TcpStream::connect(listener).await {
            clients.push(client);
        }
    }
    tokio::task::block_in_place(|| {
        let is_degraded = |event: &serde_json::Value| event["event"] == "mapping_state" && event["state"] == "degraded";
        run.event("the shortage is told", SOON, is_degraded);
        let open = descriptors(&run);
        println!("{open} descriptors of {HARD} with {} clients", clients.len());
        assert!(open > 100, "{open} descriptors: the raised limit is of use");
        assert!(open + RESERVE <= HARD, "{open} of {HARD} descriptors");
        // Files are read and written as before: an edit is heard, and one that needs more than is left is told so.
        home.write_profile("default", &profile("after", ""));
        run.event("the edit", SOON, |event| event["event"] == "profile_applied" && event["changed"] == 1);
        home.write_profile(
            "default",
            &profile("after", r#", { "name": "one-more", "listen": "auto", "target": "1.2.3.4:5" }"#),
        );
        let failed = run.event("the new mapping's failure", SOON, |event| {
            event["mapping"] == "one-more" && event["event"] == "mapping_state" && event["state"] == "failed"
        });
        assert!(failed["reason"].as_str().is_some_and(|reason| reason.contains("ulimit -n")), "{failed}");
        drop(clients);
        let is_up = |event: &serde_json::Value| event["mapping"] == "one-more" && event["state"] == "up";
        run.event("it is bound as soon as there is room", SOON, is_up);
        assert!(run.stop().status.success());
    });
}
