//! `--metrics ADDRESS:PORT`: metrics for scrapers, which speak TCP alone, and nothing else for anybody.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::control::{Answer, curl};
use common::echo::{echo_server, exchange};
use common::metrics::{ACCEPT_OPEN_METRICS, OLDER, OPEN_METRICS, Samples};
use common::ports::{closed_port, free_port};
use common::program::{Home, Run};
use common::terminal::Terminal;
use common::{Need, SOON, require, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

/// `portolan run --metrics` at this address, with one mapping.
fn run(home: &Home, metrics: SocketAddr) -> (Run, SocketAddr) {
    let mapping = format!("127.0.0.1:auto:{}", echo_server());
    let mut run = home.run(None, ["-p", &mapping, "--metrics", &metrics.to_string()]);
    let web = run.listening("127.0.0.1");
    run.ready();
    (run, web)
}

fn ask(metrics: SocketAddr) -> Option<Answer> {
    curl(|command| {
        command.arg(format!("http://{metrics}/metrics"));
    })
}

fn get(metrics: SocketAddr) -> Answer {
    ask(metrics).expect("it listens")
}

#[test]
fn a_scraper_gets_the_metrics_at_an_address_of_either_family() {
    if !require(&[Need::Curl, Need::PythonPackages]) {
        return;
    }
    for ip in ["127.0.0.1", "::1"] {
        let home = Home::new();
        let metrics = closed_port(ip);
        let (mut run, web) = run(&home, metrics);
        exchange(web, b"hello");
        run.event("it has closed", SOON, |event| event["event"] == "closed");
        let older = get(metrics);
        let new = curl(|command| {
            command.args(["--header", ACCEPT_OPEN_METRICS, &format!("http://{metrics}/metrics")]);
        });
        let new = new.expect("it listens");
        for (answer, content_type, samples) in
            [(&older, OLDER, Samples::read_older(&older.body)), (&new, OPEN_METRICS, Samples::read(&new.body))]
        {
            assert_eq!((answer.status, answer.content_type.as_str()), (200, content_type), "{answer:?}");
            let samples = samples.expect("a scraper takes it");
            let of_it = [("mapping", "auto-tcp"), ("direction", "in")];
            assert_eq!(samples.find("mapping_bytes_total", &of_it), Some(5.0), "{samples:#?}");
        }
        let ended = run.stop();
        assert!(ended.status.success(), "{ended:?}");
        assert!(TcpStream::connect(metrics).is_err(), "the port is given back");
    }
}

#[test]
fn there_is_nothing_else_and_only_for_who_asks_by_a_name_of_this_machine() {
    if !require(&[Need::Curl]) {
        return;
    }
    let home = Home::new();
    let metrics = closed_port("127.0.0.1");
    let (_run, _) = run(&home, metrics);
    for (status, method, path, host) in [
        (200, "GET", "/metrics", "localhost"),
        (200, "GET", "/metrics?from=prometheus", "[::1]:9464"),
        (403, "GET", "/metrics", "evil.example"),
        (403, "GET", "/metrics", "127.0.0.1.evil.example:9464"),
        (403, "POST", "/v1/shutdown", "evil.example"),
        (404, "GET", "/", "127.0.0.1"),
        (404, "GET", "/metrics/", "127.0.0.1"),
        (404, "GET", "/openapi.json", "127.0.0.1"),
        (404, "GET", "/v1/mappings", "127.0.0.1"),
        (404, "POST", "/v1/shutdown", "127.0.0.1"),
        (405, "POST", "/metrics", "127.0.0.1"),
        (405, "DELETE", "/metrics", "127.0.0.1"),
    ] {
        let answer = curl(|command| {
            command.args(["--request", method, "--header", &format!("Host: {host}"), "--path-as-is"]);
            command.arg(format!("http://{metrics}{path}"));
        });
        let answer = answer.expect("it listens");
        assert_eq!(answer.status, status, "{method} {path} of {host}: {answer:?}");
        assert_eq!(answer.body.contains("portolan_ready 1"), status == 200, "{answer:?}");
    }
    let mut stream = TcpStream::connect(metrics).expect("it listens");
    stream.write_all(b"PUT /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it ends after an answer");
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET\r\n"), "{answer}");
}

/// How long a scrape may take while others stand in its way; a debug build beside other tests takes its time.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn clients_that_say_nothing_are_sent_away_and_hold_no_scraper_up() {
    if !require(&[Need::Curl]) {
        return;
    }
    let home = Home::new();
    let metrics = closed_port("127.0.0.1");
    let (_run, _) = run(&home, metrics);
    // More than there are places for, and some that stop in the middle.
    let mut silent: Vec<TcpStream> = Vec::new();
    for at in 0..20 {
        let mut stream = TcpStream::connect(metrics).expect("it listens");
        if at % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: local").expect("it takes a piece");
        }
        silent.push(stream);
    }
    let start = Instant::now();
    assert_eq!(get(metrics).status, 200);
    println!("a scrape among 20 silent clients took {:?}", start.elapsed());
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    for mut stream in silent {
        let mut rest = Vec::new();
        // By an end, or by a reset where something was left unread.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert!(start.elapsed() < 2 * AT_ONCE, "they were sent away after {:?}", start.elapsed());
}

#[test]
fn a_hundred_clients_that_come_back_hold_no_scraper_up() {
    const CLIENTS: usize = 100;
    const SCRAPES: u32 = 10;
    if !require(&[Need::Curl]) {
        return;
    }
    let home = Home::new();
    let metrics = closed_port("127.0.0.1");
    let (_run, _) = run(&home, metrics);
    let (is_over, comings) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (is_over, comings) = (Arc::clone(&is_over), Arc::clone(&comings));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(metrics) else { continue };
                    comings.fetch_add(1, Ordering::Relaxed);
                    // Until it is sent away.
                    let _ = stream.read(&mut [0]);
                }
            })
        })
        .collect();
    wait_until("each has come, and many have come back", SOON, || comings.load(Ordering::Relaxed) > 3 * CLIENTS);
    let mut longest = Duration::ZERO;
    for _ in 0..SCRAPES {
        let start = Instant::now();
        let answer = get(metrics);
        longest = longest.max(start.elapsed());
        assert!(answer.status == 200 && answer.body.contains("\nportolan_ready 1\n"), "{answer:?}");
    }
    let comings_then = comings.load(Ordering::Relaxed);
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("it does not panic");
    }
    println!(
        "of {SCRAPES} scrapes beside {CLIENTS} clients that came {comings_then} times, the longest took {longest:?}"
    );
    assert!(longest < AT_ONCE, "{longest:?}");
}

/// Each asks, as a scraper does, but takes nothing of an answer that has no room in the kernel's buffers.
#[test]
fn clients_that_do_not_take_their_answers_hold_no_scraper_up() {
    if !require(&[Need::Curl]) {
        return;
    }
    let home = Home::new();
    let mappings: Vec<_> = (0..600)
        .map(|at| serde_json::json!({ "name": format!("m{at}"), "listen": "127.0.0.1:auto", "target": "127.0.0.1:9" }))
        .collect();
    home.write_profile("default", &serde_json::json!({ "version": 1, "mappings": mappings }).to_string());
    let metrics = closed_port("127.0.0.1");
    let mut run = home.run(None, ["--metrics", &metrics.to_string()]);
    run.ready();
    let length = get(metrics).body.len();
    let ask = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("it may be small");
        socket.connect(&metrics.into()).expect("it listens");
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it takes a request");
        stream
    };
    let _asked: Vec<TcpStream> = (0..20).map(|_| ask()).collect();
    let start = Instant::now();
    let answer = get(metrics);
    println!("an answer of {length} bytes among 20 clients that take none took {:?}", start.elapsed());
    assert!(answer.status == 200 && answer.body.len() > length / 2, "{}", answer.body.len());
    assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn a_port_in_use_ends_the_start_before_anything_listens() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let metrics = taken.local_addr().expect("it is bound").to_string();
    let home = Home::new();
    let mapping = format!("127.0.0.1:{}:127.0.0.1:1", free_port());
    let ended = home.run(None, ["--metrics", &metrics, "-p", &mapping]).wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.events.is_empty(), "{ended:?}");
    let pid = format!("(pid {})", std::process::id());
    for said in [&format!("cannot serve metrics: {metrics} is in use by "), &pid, "choose another port for --metrics"] {
        assert!(ended.errors.contains(said), "{said:?} in {}", ended.errors);
    }
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let home = Home::new();
    let ended = home.run(None, ["--metrics", "0.0.0.0:9464"]).wait();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.errors.contains("served without a login: use 127.0.0.1:9464 or [::1]:9464"), "{}", ended.errors);
}

#[test]
fn an_engine_with_a_screen_serves_them_too() {
    if !require(&[Need::Tmux, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let metrics = closed_port("127.0.0.1");
    let mut command = home.command(None);
    command.args(["--metrics", &metrics.to_string(), "-p", &format!("127.0.0.1:auto:{}", echo_server())]);
    let terminal = Terminal::start(80, 24, &command);
    let answer = wait_for("the metrics are there", SOON, || ask(metrics));
    assert!(answer.body.contains("portolan_mapping_info{mapping=\"auto-tcp\",protocol=\"tcp\"} 1"), "{answer:?}");
    let program = Pid::from_raw(i32::try_from(terminal.pid()).expect("a pid is positive"));
    kill(program, Signal::SIGTERM).expect("it runs");
    wait_for("it ends", SOON, || terminal.exit_status());
    assert!(TcpStream::connect(metrics).is_err(), "the port is given back");
}
