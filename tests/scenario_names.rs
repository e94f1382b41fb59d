//! A name server that never answers holds up nobody but those who ask it (fault 17).

mod common;

use std::collections::BTreeSet;
use std::fs::write;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::gauge::{Sample, p99};
use common::netns::Namespace;
use common::program::{Home, PORTOLAN, Run};
use common::soak::within;
use common::{Need, SOON, require, wait_until};

/// Names that nobody tells anything about.
const STUCK: usize = 100;
/// Look-ups at once: so many that are within their time, and threads for those, and for all.
const IN_TIME: usize = 64;
const THREADS: usize = 192;
/// What each of their mappings says of it.
const OVERDUE: &str = "no answer within 5 s";
/// Exchanges, and by how much their slow ones may be slower than without all those names.
const EXCHANGES: usize = 2_000;
const SLOWER: Duration = Duration::from_millis(5);

/// A host with a name server that takes every question and answers none.
struct Silence {
    host: Namespace,
    server: UdpSocket,
}

impl Silence {
    fn new() -> Self {
        let host = Namespace::new("silence");
        let server = host.enter(|| UdpSocket::bind("127.0.0.1:53").expect("the host is this test's"));
        server.set_nonblocking(true).expect("it can be set");
        Self { host, server }
    }

    /// The program with this server, by a profile of one mapping by address and `stuck` ones by name.
    fn run(&self, home: &Home, target: SocketAddr, stuck: usize) -> Run {
        let names = (0..stuck).map(|number| {
            format!(r#", {{ "listen": "[::1]:{}", "target": "host/stuck-{number}.test:80" }}"#, 10_000 + number)
        });
        let healthy = format!(r#"{{ "name": "healthy", "listen": "[::1]:8080", "target": "{target}" }}"#);
        let mappings = names.fold(healthy, |mappings, name| mappings + &name);
        home.write_profile("default", &format!(r#"{{ "version": 1, "mappings": [{mappings}] }}"#));
        let resolver = home.path().join("resolv.conf");
        write(&resolver, "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n").expect("it can be written");
        let order = home.path().join("nsswitch.conf");
        write(&order, "hosts: dns\n").expect("it can be written");
        let mount = "mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\" && \
                     mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";
        let mut command = self.host.command("unshare");
        command.args(["--mount", "--", "sh", "-c", mount, "sh"]).arg(resolver).arg(order).arg(PORTOLAN);
        command.env_clear().envs(home.environment()).args(["run", "--json", "--drain", "0s"]);
        let mut run = Run::start(command);
        let is_up = |event: &Value| event["event"] == "listening" && event["mapping"] == "healthy";
        run.event("the healthy mapping listens", SOON, is_up);
        run
    }

    /// Questions that have come since the last look.
    fn questions(&self) -> usize {
        let mut count = 0;
        while self.server.recv_from(&mut [0; 512]).is_ok() {
            count += 1;
        }
        count
    }

    /// The slow ones of many exchanges over one connection and of as many connects.
    fn slow_ones(&self) -> [Duration; 2] {
        let connect = || {
            let stream = self.host.enter(|| TcpStream::connect("[::1]:8080").expect("the mapping listens"));
            stream.set_nodelay(true).expect("it can be set");
            stream.set_read_timeout(Some(SOON)).expect("it can be set");
            stream
        };
        let exchange = |stream: &mut TcpStream| {
            stream.write_all(b"x").expect("taken");
            stream.read_exact(&mut [0]).expect("an echo");
        };
        let mut stream = connect();
        let timed = |work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            start.elapsed()
        };
        let mut exchanges: Vec<_> = (0..EXCHANGES).map(|_| timed(&mut || exchange(&mut stream))).collect();
        let mut connects: Vec<_> = (0..EXCHANGES / 10).map(|_| timed(&mut || exchange(&mut connect()))).collect();
        [p99(&mut exchanges), p99(&mut connects)]
    }
}

/// An echo server on the host, for many connections.
fn echo_server(host: &Namespace) -> SocketAddr {
    let listener = host.enter(|| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.set_nodelay(true).and_then(|()| stream.write_all(&buffer[..count])).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_hundred_stuck_look_ups_slow_no_other_mapping_down() {
    if !require(&[Need::Namespaces]) {
        return;
    }
    let silence = Silence::new();
    let target = echo_server(&silence.host);
    let home = Home::new();
    let run = silence.run(&home, target, 0);
    let alone = silence.slow_ones();
    let threads = Sample::take(run.pid(), Instant::now()).threads;
    assert!(run.stop().status.success());
    assert_eq!(silence.questions(), 0);

    let home = Home::new();
    let mut run = silence.run(&home, target, STUCK);
    let mut questions = 0;
    wait_until("look-ups to be stuck", SOON, || {
        questions += silence.questions();
        questions > IN_TIME / 2
    });
    let beside = silence.slow_ones();
    let stuck_threads = Sample::take(run.pid(), Instant::now()).threads;
    questions += silence.questions();
    println!(
        "p99 of an exchange {:?} alone, {:?} beside {STUCK} names that are asked for ({questions} questions), with a \
         connect {:?} and {:?}; threads {threads} and {stuck_threads}",
        alone[0], beside[0], alone[1], beside[1]
    );
    for (alone, beside) in alone.into_iter().zip(beside) {
        assert!(beside < alone + within(SLOWER), "{alone:?} alone, {beside:?} beside them");
    }
    assert!(stuck_threads > threads, "the look-ups are still under way");
    assert!(stuck_threads <= threads + THREADS + 4, "{stuck_threads} threads");
    // Each is told in its time, though its look-up goes on.
    let told = |run: &mut Run| -> usize {
        let is_overdue = |event: &&Value| event["reason"].as_str().is_some_and(|reason| reason.ends_with(OVERDUE));
        let overdue = run.events().iter().filter(is_overdue);
        overdue.map(|event| event["mapping"].to_string()).collect::<BTreeSet<_>>().len()
    };
    wait_until("each stuck mapping to say so", 3 * SOON, || told(&mut run) == STUCK);
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
}
