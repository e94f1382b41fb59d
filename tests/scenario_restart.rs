//! A container is killed and comes back with another address while a client opens 50 connections a second and others
//! take its old address: none goes astray, and none is lost that the container could have answered.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::docker::{Container, Engine};
use common::netns::Namespace;
use common::program::Home;
use common::{Need, SOON, require, wait_until};

const BETWEEN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of one connection.
#[derive(Debug)]
struct Outcome {
    number: usize,
    began: Instant,
    answer: Option<String>,
}

/// A container that answers each connection with its name and the number that it was sent.
fn responder(engine: &Engine, name: &str) -> Container {
    let answer = format!("read number; echo {name} $number");
    engine.start(name, &["nc", "-ll", "-p", "7", "-e", "sh", "-c", &answer])
}

/// One connection: sends its number and reads to the end.
fn ask(address: SocketAddr, number: usize) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    writeln!(stream, "{number}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// Opens a connection every 20 ms until `end`, whatever becomes of the earlier ones.
fn open_connections(address: SocketAddr, end: &AtomicBool) -> Vec<Outcome> {
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let start = Instant::now();
        let mut number = 0;
        while !end.load(Ordering::SeqCst) {
            number += 1;
            let outcomes = &outcomes;
            scope.spawn(move || {
                let began = Instant::now();
                let answer = ask(address, number);
                outcomes.lock().expect("no panic").push(Outcome { number, began, answer });
            });
            let next = start + BETWEEN * u32::try_from(number).expect("few");
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic");
    outcomes.sort_by_key(|outcome| outcome.number);
    outcomes
}

#[test]
fn of_fifty_connections_a_second_none_goes_astray_and_none_is_lost() {
    if !require(&[Need::Docker, Need::Namespaces]) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let moving = responder(&engine, "restart_moving");
    let old = moving.address();
    let home = Home::with_docker();
    let mut run = home.run(Some(&docker), ["-p", "127.0.0.1:8210:restart_moving:7"]);
    run.ready();
    let listener: SocketAddr = "127.0.0.1:8210".parse().expect("an address");
    wait_until("the container answers", SOON, || docker.enter(|| ask(listener, 0)).is_some());

    let end = AtomicBool::new(false);
    let mut strangers: Vec<Container> = Vec::new();
    let (outcomes, killing, live) = std::thread::scope(|scope| {
        let client = scope.spawn(|| docker.enter(|| open_connections(listener, &end)));
        // Ends the client also when something below fails.
        let ending = Ending(&end);
        std::thread::sleep(Duration::from_secs(2));
        let killing = Instant::now();
        moving.stop();
        // Others take its address while it is away, and answer there.
        while !strangers.iter().any(|stranger| stranger.address() == old) {
            assert!(strangers.len() < 5, "nobody was given {old}");
            strangers.push(responder(&engine, &format!("restart_stranger_{}", strangers.len())));
        }
        let stranger: SocketAddr = format!("{old}:7").parse().expect("an address");
        wait_until("the stranger answers at the old address", SOON, || {
            docker.enter(|| ask(stranger, 0)).is_some_and(|answer| answer.starts_with("restart_stranger"))
        });
        std::thread::sleep(Duration::from_secs(1));
        moving.start();
        let address = moving.address();
        assert_ne!(address, old);
        let direct: SocketAddr = format!("{address}:7").parse().expect("an address");
        docker.enter(|| {
            while ask(direct, 0).is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let live = Instant::now();
        std::thread::sleep(Duration::from_secs(4));
        drop(ending);
        (client.join().expect("no panic"), killing, live)
    });

    let is_right = |outcome: &&Outcome| outcome.answer == Some(format!("restart_moving {}", outcome.number));
    let astray: Vec<&Outcome> = outcomes.iter().filter(|one| one.answer.is_some() && !is_right(one)).collect();
    let first = outcomes.iter().filter(|one| one.began > killing + Duration::from_millis(500)).find(is_right);
    let first = first.expect("it is reached again");
    let late = first.began.saturating_duration_since(live);
    let before: Vec<&Outcome> =
        outcomes.iter().filter(|one| one.began + Duration::from_millis(500) < killing).collect();
    let after: Vec<&Outcome> = outcomes.iter().filter(|one| one.began > live + Duration::from_secs(1)).collect();
    let away = outcomes.iter().filter(|one| one.began > killing && one.began < live && one.answer.is_none()).count();
    println!(
        "{} connections: {} of {} answered before the kill, {away} reset while it was away, {} astray; \
         {} of {} answered later than 1 s after the new address was live; the first one {late:?} after it",
        outcomes.len(),
        before.iter().filter(|one| is_right(one)).count(),
        before.len(),
        astray.len(),
        after.iter().filter(|one| is_right(one)).count(),
        after.len(),
    );
    assert!(before.len() > 50 && after.len() > 100, "{} and {}", before.len(), after.len());
    assert!(away > 20, "it was away long enough to be missed: {away}");
    // Not after a second, and not before either: a container that is gone is waited for.
    assert!(astray.is_empty(), "{astray:?}");
    let lost: Vec<&&Outcome> = before.iter().chain(&after).filter(|one| !is_right(one)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(run.stop().status.success());
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
