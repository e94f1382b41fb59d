//! Transfers on fifty mappings while a fifty-first is edited by hand in the profile's file (fault 26).

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::SOON;
use common::ports::free_port;
use common::program::Home;
use serde_json::Value;
use sockets::{PATIENCE, Server, connect, noise, try_connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const MAPPINGS: u64 = 50;
const EDITS: usize = 200;

/// What an edit makes of the fifty-first mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Edit {
    /// It listens elsewhere and goes where the others go.
    Moved,
    /// The same by another family's wildcard, with timeouts and a cap of its own.
    Exposed,
    /// It is a range.
    Range,
    /// It is a mapping of datagrams.
    Udp,
    /// Its port is somebody else's.
    Busy,
    /// Its target is a name that does not exist.
    Nameless,
    /// It is stopped.
    Stopped,
    /// It is gone.
    Gone,
    /// It is wrong, and so the whole edit is refused.
    Wrong,
    /// It listens where one of the others does, and so the whole edit is refused.
    Twice,
    /// The file ends in the middle.
    Torn,
}

impl Edit {
    const ALL: [Self; 11] = [
        Self::Moved,
        Self::Exposed,
        Self::Range,
        Self::Udp,
        Self::Busy,
        Self::Nameless,
        Self::Stopped,
        Self::Gone,
        Self::Wrong,
        Self::Twice,
        Self::Torn,
    ];

    /// The mapping as text; `None` where there is none.
    fn text(self, name: &str, port: u16, others: &[u16], target: SocketAddr) -> Option<String> {
        let (busy, next) = (target.port(), port + 3);
        let (listen, to, more) = match self {
            Self::Moved => (format!("{port}"), format!("{target}"), ""),
            Self::Exposed => (
                format!("any:{port}"),
                format!("{target}"),
                ", \"connect_timeout\": \"1s\", \"idle_timeout\": \"1m\", \"max_connections\": 7",
            ),
            Self::Range => {
                (format!("127.0.0.1:{port}-{next}"), format!("127.0.0.1:{busy}-{}", u32::from(busy) + 3), "")
            }
            Self::Udp => (format!("{port}"), format!("{target}"), ", \"protocol\": \"udp\""),
            Self::Busy => (format!("127.0.0.1:{busy}"), "192.0.2.1:80".to_owned(), ""),
            Self::Nameless => (format!("{port}"), "host/no-such-name.invalid:80".to_owned(), ""),
            Self::Stopped => (format!("{port}"), format!("{target}"), ", \"enabled\": false"),
            Self::Gone => return None,
            Self::Wrong => ("70000".to_owned(), format!("{target}"), ", \"tarket\": 5"),
            Self::Twice => (format!("any:{}", others[usize::from(port) % others.len()]), format!("{target}"), ""),
            Self::Torn => (format!("{port}"), "127.0.0.1".to_owned(), ""),
        };
        Some(format!("{{ \"name\": \"{name}\", \"listen\": \"{listen}\", \"target\": \"{to}\"{more} }}"))
    }

    /// The event that tells of such an edit.
    fn heard_by(self) -> &'static str {
        if matches!(self, Self::Wrong | Self::Twice | Self::Torn) { "profile_rejected" } else { "profile_applied" }
    }
}

/// The fifty, and somewhere between them the other one.
fn profile(ports: &[u16], target: SocketAddr, edited: Option<String>, place: usize) -> String {
    let listen = |at: usize| if at.is_multiple_of(2) { "127.0.0.1" } else { "[::1]" };
    let mut mappings: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(at, port)| {
            format!("{{ \"name\": \"kept-{at}\", \"listen\": \"{}:{port}\", \"target\": \"{target}\" }}", listen(at))
        })
        .collect();
    if let Some(edited) = edited {
        mappings.insert(place % (mappings.len() + 1), edited);
    }
    format!("{{ \"version\": 1, \"mappings\": [\n{}\n] }}\n", mappings.join(",\n"))
}

/// Sends blocks over one connection until told to stop, and compares what comes back; gives the bytes.
async fn transfer(listener: SocketAddr, seed: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut stream = connect(listener).await;
    let mut bytes = 0;
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let block = noise(seed * 100_000 + round, 20_000);
        let (mut read, mut write) = stream.split();
        let mut back = vec![0; block.len()];
        let both = async { tokio::join!(write.write_all(&block), read.read_exact(&mut back)) };
        let (sent, got) = timeout(PATIENCE, both).await.expect("in time");
        sent.expect("taken");
        got.expect("echoed");
        assert!(back == block, "mapping {seed}, round {round}");
        bytes += block.len() as u64;
        // So slowly that tests beside this one have the machine as well.
        sleep(Duration::from_millis(40)).await;
    }
    stream.shutdown().await.expect("the client's end");
    assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_on_fifty_mappings_stand_two_hundred_hand_edits_of_another() {
    let server = Server::echo("127.0.0.1");
    let target = server.address;
    // The same number may be free several times.
    let mut numbers = HashSet::new();
    let mut other_port = || std::iter::repeat_with(free_port).find(|port| numbers.insert(*port)).expect("without end");
    let ports: Vec<u16> = (0..MAPPINGS).map(|_| other_port()).collect();
    // Taken in turn, so that each edit listens elsewhere than the one before.
    let turns = [other_port(), other_port(), other_port()];
    let home = Home::new();
    let write = |text: &str, by_rename: bool| {
        if by_rename {
            // As editors save: a new file takes the old one's name.
            home.write_profile("saved", text);
            std::fs::rename(home.profile("saved"), home.profile("default")).expect("the same folder");
        } else {
            home.write_profile("default", text);
        }
    };
    write(&profile(&ports, target, None, 0), false);
    let mut run = home.run(None, ["--interval", "10s"]);
    assert_eq!(run.ready()["listening"], MAPPINGS);

    let stop: Arc<AtomicBool> = Arc::default();
    let mut transfers = JoinSet::new();
    for (at, port) in (0_u64..).zip(&ports) {
        let ip = if at % 2 == 0 { "127.0.0.1" } else { "::1" };
        let listener = SocketAddr::new(ip.parse().expect("an address"), *port);
        let stop = Arc::clone(&stop);
        transfers.spawn(async move { (at, transfer(listener, at, stop).await) });
    }

    let random = noise(26, EDITS);
    let mut present = false;
    let mut counts: HashMap<Edit, usize> = HashMap::new();
    for (number, random) in random.into_iter().enumerate() {
        let mut edit = Edit::ALL[usize::from(random) % Edit::ALL.len()];
        if edit == Edit::Gone && !present {
            // Each edit changes something, or nothing would tell that it has been heard.
            edit = Edit::Moved;
        }
        if edit.heard_by() == "profile_applied" {
            present = edit != Edit::Gone;
        }
        *counts.entry(edit).or_default() += 1;
        let name = format!("edited-{number}");
        let port = turns[number % turns.len()];
        let mut text = profile(&ports, target, edit.text(&name, port, &ports, target), usize::from(random));
        if edit == Edit::Torn {
            text.truncate(text.len() / 2);
        }
        let mark = run.mark();
        write(&text, number % 3 == 0);
        run.event_after(mark, &format!("{edit:?} as {name}"), SOON, |event| event["event"] == edit.heard_by());
        if matches!(edit, Edit::Moved | Edit::Exposed | Edit::Nameless) {
            // With a connection, which the next edit may reset.
            drop(try_connect(SocketAddr::from(([127, 0, 0, 1], port))).await);
        }
        if let Some(ended) = transfers.try_join_next() {
            panic!("a transfer ended at edit {number}, {edit:?}: {ended:?}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    let bytes: HashMap<u64, u64> = transfers.join_all().await.into_iter().collect();
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);

    println!("{counts:?}; {} bytes through {MAPPINGS} mappings", bytes.values().sum::<u64>());
    for at in 0..MAPPINGS {
        // All that was ever said of it: it listened once, and its only connection came and went.
        let name = format!("kept-{at}");
        let said: Vec<&Value> = ended
            .events
            .iter()
            .filter(|event| event["mapping"] == *name || event["connection"]["mapping"] == *name)
            .collect();
        let events: Vec<&str> = said.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(events, ["listening", "opened", "closed"], "{said:?}");
        let closed = &said[2]["connection"];
        assert_eq!(closed["reason"], "finished");
        let bytes = &bytes[&at];
        assert_eq!((&closed["bytes_in"], &closed["bytes_out"]), (&(*bytes).into(), &(*bytes).into()), "{closed}");
    }
}
