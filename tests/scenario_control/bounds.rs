//! The bounds of the control socket: how long a message may be, how long it may take, how many may be there at once, and
//! who makes way.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::beside::{Beat, echo_server};
use crate::client::{Answer, ask, connect, get, read_all, request, socket_of, start, write_profile};
use crate::common::gauge::Sample;
use crate::common::program::{Home, Run};
use crate::common::soak::within;
use crate::common::{SOON, wait_for, wait_until};

const MEBIBYTE: usize = 1 << 20;
/// Clients and streams at once.
const CLIENTS: usize = 64;
const STREAMS: usize = 48;
/// Questions that are looked into at once.
const QUESTIONS: usize = 32;
/// How long a client may take, and how much later it may be noticed.
const PATIENCE: Duration = Duration::from_secs(10);
const NOTICED: Duration = Duration::from_secs(3);
/// Within so long a client that means well is answered.
const ANSWER: Duration = Duration::from_millis(100);
/// Connections that the program remembers after they have closed.
const REMEMBERED: usize = 5_000;
/// What the program may grow by, in KiB: for each message that is not whole yet, and in all besides.
const MESSAGE_GROWTH: u64 = 1_280;
const GROWTH: u64 = 16 * 1_024;

/// An engine that forwards to an echo.
struct Scene {
    _home: Home,
    run: Run,
    socket: PathBuf,
    forwarded: SocketAddr,
}

impl Scene {
    #[track_caller]
    fn new() -> Self {
        let home = Home::new();
        write_profile(&home, "default", echo_server());
        let mut run = start(&home);
        let forwarded = run.listening("127.0.0.1");
        Self { socket: socket_of(&home, "default"), _home: home, run, forwarded }
    }

    fn sample(&self) -> Sample {
        Sample::take(self.run.pid(), Instant::now())
    }

    /// Opens a stream, and reads so much of it that it is one.
    #[track_caller]
    fn stream(&self, request: &[u8]) -> Result<UnixStream, Answer> {
        let mut stream = connect(&self.socket).expect("it listens");
        stream.write_all(request).expect("taken");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer");
        if start == *b"HTTP/1.1 200" {
            return Ok(stream);
        }
        let rest = read_some(&mut stream);
        Err(Answer::parse(&[&start, rest.as_slice()].concat()).expect("an answer"))
    }

    #[track_caller]
    fn end(self) {
        assert!(self.run.stop().status.success());
    }
}

/// What there is at once of an answer after which the connection stays.
fn read_some(stream: &mut UnixStream) -> Vec<u8> {
    let mut buffer = vec![0; 16 << 10];
    let count = stream.read(&mut buffer).expect("the rest");
    buffer.truncate(count);
    buffer
}

const EVENTS: &[u8] = b"GET /v1/events?interval=20ms HTTP/1.1\r\nhost: portolan\r\n\r\n";

fn updates(more: &str) -> Vec<u8> {
    let interest = r#"{"mappings":true,"connections":true,"events":true,"sample_ms":20}"#;
    let head = format!("POST /v1/updates HTTP/1.1\r\nhost: portolan\r\ncontent-length: {}\r\n\r\n", interest.len());
    [&head, interest, more].concat().into_bytes()
}

/// A request to check a mapping, of exactly so many bytes.
fn long(length: usize) -> Vec<u8> {
    let mut body = br#"{"mapping":{"listen":"auto","target":"127.0.0.1:9"}}"#.to_vec();
    body.resize(length, b' ');
    body
}

#[test]
fn a_message_has_a_mebibyte_and_not_a_byte_more() {
    let scene = Scene::new();
    let chunked = |length: usize| {
        let mut text =
            b"POST /v1/validate HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in long(length).chunks(60_000) {
            text.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            text.extend([piece, b"\r\n"].concat());
        }
        text.extend(b"0\r\n\r\n");
        text
    };
    for (what, text, status) in [
        ("1 MiB", request("POST", "/v1/validate", &long(MEBIBYTE)), 200),
        ("1 MiB and a byte", request("POST", "/v1/validate", &long(MEBIBYTE + 1)), 413),
        ("1 MiB in chunks", chunked(MEBIBYTE), 200),
        ("1 MiB and a byte in chunks", chunked(MEBIBYTE + 1), 413),
        ("20 MiB", request("POST", "/v1/validate", &long(20 * MEBIBYTE)), 413),
        ("100 GiB announced", b"POST /v1/validate HTTP/1.1\r\ncontent-length: 107374182400\r\n\r\n".to_vec(), 413),
        ("a head of 1 MiB", format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(MEBIBYTE)).into_bytes(), 431),
    ] {
        let mut stream = connect(&scene.socket).expect("it listens");
        // Whoever is refused before all is said may still read why.
        let _ = stream.write_all(&text);
        let start = Instant::now();
        let answer = Answer::parse(&read_all(&mut stream).expect("an end")).expect("an answer");
        println!("{what}: {} after {:?}", answer.status, start.elapsed());
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if status == 413 {
            assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
            assert_eq!(
                (answer.json()["error"].as_str(), answer.message().as_str()),
                (Some("failed"), "a message may have 1 MiB")
            );
        }
        assert!(start.elapsed() < within(Duration::from_secs(1)), "{what}: {:?}", start.elapsed());
    }
    scene.end();
}

/// Somebody who takes connections in without ever accepting one, and has no room for more: a further one gets no answer.
fn deaf() -> (Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(0).expect("it listens");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (socket, waiting)
}

#[test]
fn one_more_than_there_may_be_is_told_so_while_all_are_being_answered() {
    let scene = Scene::new();
    let (deaf, _waiting) = deaf();
    let target = deaf.local_addr().expect("it is bound").as_socket().expect("an address");
    let probe = format!(r#"{{"target":"{target}"}}"#);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| scene.stream(EVENTS).expect("a stream")).collect();
    let mut questions: Vec<_> = (STREAMS..CLIENTS)
        .map(|_| {
            let mut stream = connect(&scene.socket).expect("it listens");
            stream.write_all(&request("POST", "/v1/probe", probe.as_bytes())).expect("taken");
            stream
        })
        .collect();
    let answer = wait_for("a client too many", SOON, || {
        let answer = get(&scene.socket, "/v1/engine").expect("an answer");
        (answer.status == 503).then_some(answer)
    });
    println!("client {}: {}", CLIENTS + 1, answer.message());
    assert_eq!(answer.json()["error"], "failed");
    assert_eq!(answer.message(), "64 clients are connected, as many as there may be");
    // None of those inside has lost its answer by that.
    for stream in &mut questions {
        let answer = Answer::parse(&read_all(stream).expect("an end")).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["results"].as_array().expect("what came of it").len(), 1);
    }
    wait_until("room for one", SOON, || get(&scene.socket, "/v1/engine").is_ok_and(|answer| answer.status == 200));
    assert!(streams.iter_mut().all(is_open));
    scene.end();
}

/// Whether the other end has not closed it. What has come may be lost.
fn is_open(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).expect("it can be set");
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) => {
                stream.set_nonblocking(false).expect("it can be set");
                return error.kind() == ErrorKind::WouldBlock;
            }
            Ok(0) => return false,
        }
    }
}

/// How long it takes until a client that has sent this and does not read is cut off.
fn cut_off(socket: &Path, text: &[u8], by_the_byte: bool) -> Duration {
    let mut stream = connect(socket).expect("it listens");
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("it can be set");
    let start = Instant::now();
    // So much of it as is taken.
    let _ = stream.write_all(text);
    let is_over = |stream: &mut UnixStream| match stream.write(if by_the_byte { b" " } else { b"" }) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => true,
        _ => stream.peer_addr().is_err() || has_hung_up(stream),
    };
    while !is_over(&mut stream) {
        assert!(start.elapsed() < 2 * SOON, "it is never cut off");
        sleep(Duration::from_millis(50));
    }
    start.elapsed()
}

/// Whether the other end is closed, whatever there is to be read.
fn has_hung_up(stream: &UnixStream) -> bool {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).expect("it can be asked");
    polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[test]
fn whoever_stalls_is_cut_off_after_ten_seconds_and_not_before() {
    let scene = Scene::new();
    let unread = b"GET /openapi.json HTTP/1.1\r\n\r\n".repeat(100);
    let body = b"POST /v1/validate HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n{".as_slice();
    std::thread::scope(|scope| {
        let cases = [
            ("silent", b"".as_slice(), false),
            ("half a line", b"GET /v1/mapp".as_slice(), false),
            ("a body by the byte", body, true),
            ("half a body", body, false),
            ("an unread answer", unread.as_slice(), false),
            ("silent after an answer", b"GET /v1/engine HTTP/1.1\r\n\r\n".as_slice(), false),
        ];
        let socket = &scene.socket;
        let times =
            cases.map(|(what, text, by_the_byte)| (what, scope.spawn(move || cut_off(socket, text, by_the_byte))));
        for (what, time) in times {
            let time = time.join().expect("it is cut off");
            println!("{what}: cut off after {time:?}");
            // A clock that ticks by the millisecond.
            assert!(time + Duration::from_millis(10) >= PATIENCE, "{what}: {time:?}");
            assert!(time <= PATIENCE + NOTICED, "{what}: {time:?}");
        }
    });
    // Whose body does not come is told so.
    let answer = ask(&scene.socket, "POST", "/v1/validate", b"").expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    let mut stream = connect(&scene.socket).expect("it listens");
    stream.write_all(body).expect("taken");
    let answer = Answer::parse(&read_all(&mut stream).expect("an end")).expect("an answer");
    assert_eq!((answer.status, answer.message().as_str()), (408, "a request is sent within 10 s"));
    scene.end();
}

#[test]
fn a_client_that_stalls_makes_way_at_once_when_every_place_is_taken() {
    let scene = Scene::new();
    let mut stalled: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut stream = connect(&scene.socket).expect("it listens");
            stream.write_all(if number % 2 == 0 { b"GET /v1/mapp" } else { b"" }).expect("taken");
            stream
        })
        .collect();
    wait_until("all to be in", SOON, || scene.sample().descriptors >= CLIENTS);
    let start = Instant::now();
    assert_eq!(get(&scene.socket, "/v1/mappings").expect("an answer").status, 200);
    let time = start.elapsed();
    let gone: Vec<_> = (0..CLIENTS).filter(|number| !is_open(&mut stalled[*number])).collect();
    println!("with {CLIENTS} that stall: an answer after {time:?}; {gone:?} made way");
    assert!(time <= within(ANSWER), "{time:?}");
    assert_eq!(gone, [0], "the one that has stalled longest");
    scene.end();
}

#[test]
fn questions_that_nobody_waits_for_any_more_hold_nobody_up() {
    let scene = Scene::new();
    let (deaf, _waiting) = deaf();
    let target = deaf.local_addr().expect("it is bound").as_socket().expect("an address");
    let probe = format!(r#"{{"target":"{target}"}}"#);
    let probe = request("POST", "/v1/probe", probe.as_bytes());
    let start = Instant::now();
    for _ in 0..500 {
        // It asks, and does not wait for an answer that takes seconds.
        connect(&scene.socket).expect("it listens").write_all(&probe).expect("taken");
    }
    let asked = start.elapsed();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(get(&scene.socket, "/v1/mappings").expect("an answer").status, 200);
        slowest = slowest.max(start.elapsed());
    }
    println!("500 abandoned questions in {asked:?}, then an answer within {slowest:?}");
    assert!(slowest < within(ANSWER * 5), "{slowest:?}");
    // Those who wait are answered; one question too many is told so.
    let mut waiting: Vec<_> = (0..QUESTIONS).map(|_| connect(&scene.socket).expect("it listens")).collect();
    for stream in &mut waiting {
        stream.write_all(&probe).expect("taken");
    }
    let one_more = wait_for("one question too many", SOON, || {
        let answer = ask(&scene.socket, "POST", "/v1/mappings/default/why", b"").expect("an answer");
        (answer.status == 409).then_some(answer)
    });
    assert!(one_more.message().contains("32 questions are being looked into"), "{one_more:?}");
    for mut stream in waiting {
        let answer = Answer::parse(&read_all(&mut stream).expect("an end")).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    scene.end();
}

#[test]
fn a_stream_that_is_only_asked_for_takes_no_place() {
    let scene = Scene::new();
    let mut asked: Vec<_> = (0..2 * CLIENTS)
        .map(|_| {
            let mut stream = connect(&scene.socket).expect("it listens");
            stream.write_all(b"HEAD /v1/events HTTP/1.1\r\n\r\n").expect("taken");
            let answer = Answer::parse(&read_some(&mut stream)).expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            stream
        })
        .collect();
    assert_eq!(get(&scene.socket, "/v1/mappings").expect("an answer").status, 200);
    assert!(asked.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count() <= CLIENTS);
    assert!(scene.stream(EVENTS).is_ok());
    scene.end();
}

#[test]
fn a_stream_that_nobody_reads_makes_way_only_for_another_stream() {
    let scene = Scene::new();
    let beat = Beat::start(scene.forwarded);
    // One is read all the while.
    let watched = scene.stream(&updates("")).expect("a stream");
    let reader = watched.try_clone().expect("another descriptor");
    let reading = std::thread::spawn(move || read_to_the_end(reader));
    let mut paused: Vec<_> = (0..STREAMS - 2).map(|_| scene.stream(EVENTS).expect("a stream")).collect();
    // What is not read fills up in some seconds; then it rests, and longer than a client may that has to answer.
    let start = Instant::now();
    wait_until("streams at rest", 3 * SOON, || start.elapsed() > 2 * PATIENCE);
    // There is room for one more, so nobody has had to make way, and each goes on as soon as it is read.
    assert!(paused.iter().all(|stream| !has_hung_up(stream)), "a stream may rest");
    let mut resumed = paused.pop().expect("there are streams");
    assert!(is_open(&mut resumed));
    assert!(resumed.read(&mut [0; 1024]).expect("it goes on") > 0);

    let last = scene.stream(EVENTS).expect("the last there may be");
    let start = Instant::now();
    let newcomer = wait_for("a place for a newcomer", SOON, || match scene.stream(EVENTS) {
        Ok(stream) => Some(stream),
        Err(refused) => {
            assert_eq!(refused.status, 503, "{refused:?}");
            assert_eq!(refused.message(), "48 streams are open, as many as there may be");
            assert_eq!(get(&scene.socket, "/v1/engine").expect("questions are answered").status, 200);
            None
        }
    });
    let gone = paused.iter().filter(|stream| has_hung_up(stream)).count();
    println!("a stream found its place after {:?}; {gone} of {} at rest made way", start.elapsed(), paused.len());
    assert!((1..=3).contains(&gone), "{gone} made way");
    assert!(!has_hung_up(&watched) && !has_hung_up(&resumed) && !has_hung_up(&last), "those that are read go on");
    drop((newcomer, beat));
    watched.shutdown(Shutdown::Both).expect("it is open");
    reading.join().expect("it was read");
    scene.end();
}

fn read_to_the_end(mut stream: UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

#[test]
fn a_stream_whose_client_is_gone_leaves_its_place_though_there_is_nothing_to_tell() {
    let scene = Scene::new();
    let before = scene.sample().descriptors;
    for _ in 0..2 {
        for _ in 0..STREAMS {
            let stream = wait_for("a stream", SOON, || scene.stream(&updates("and more")).ok());
            drop(stream);
        }
    }
    wait_until("descriptors at the baseline", SOON, || scene.sample().descriptors <= before);
    scene.end();
}

#[test]
fn memory_is_bounded_whatever_is_begun_and_not_ended() {
    let scene = Scene::new();
    for _ in 0..REMEMBERED {
        let mut stream = TcpStream::connect(scene.forwarded).expect("it listens");
        stream.write_all(b"x").expect("taken");
        stream.read_exact(&mut [0]).expect("an echo");
    }
    let before = scene.sample();
    let text = request("POST", "/v1/validate", &long(MEBIBYTE));
    let mut begun: Vec<_> = (0..CLIENTS).map(|_| connect(&scene.socket).expect("it listens")).collect();
    for stream in &mut begun {
        stream.write_all(&text[..text.len() - 1]).expect("taken");
    }
    let messages = scene.sample();
    drop(begun);
    println!("PSS {} KiB; with {CLIENTS} messages of 1 MiB but for a byte {} KiB", before.pss, messages.pss);
    assert!(messages.pss <= before.pss + MESSAGE_GROWTH * CLIENTS as u64 + GROWTH);

    let mut asked = Vec::new();
    for _ in 0..2 * CLIENTS {
        let mut stream = connect(&scene.socket).expect("it listens");
        stream.write_all(b"GET /v1/connections?closed=true HTTP/1.1\r\n\r\n").expect("taken");
        asked.push(stream);
    }
    let start = Instant::now();
    let mut most = 0;
    wait_until("answers to wait for their readers", SOON, || {
        most = most.max(scene.sample().pss);
        start.elapsed() > Duration::from_secs(3)
    });
    drop(asked);
    let streams: Vec<_> =
        (0..STREAMS).map(|_| wait_for("a stream", SOON, || scene.stream(&updates("")).ok())).collect();
    let beat = Beat::start(scene.forwarded);
    let start = Instant::now();
    let mut stuck = 0;
    wait_until("streams to wait for their readers", SOON, || {
        stuck = stuck.max(scene.sample().pss);
        start.elapsed() > Duration::from_secs(3)
    });
    println!(
        "with lists of {REMEMBERED} connections unread {most} KiB, with {STREAMS} streams that begin so {stuck} KiB"
    );
    drop((streams, beat));
    scene.end();
}
