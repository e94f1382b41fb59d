//! What is to go on beside clients that mean ill: transactions through the forwarder, held against the same ones
//! without it; a transfer whose bytes are compared; questions of clients that mean well; a stream of updates.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::client::{connect, get};
use crate::common::SOON;
use crate::common::gauge::p99;

/// Connections with transactions on each side, and the bytes of one.
const CONNECTIONS: usize = 8;
const TRANSACTION: usize = 64;
/// Pause after a round of transactions, so that the load leaves the processor to others.
const PAUSE: Duration = Duration::from_millis(1);
/// A piece of the transfer, and how often one goes.
const PIECE: usize = 32 << 10;
const PIECES: Duration = Duration::from_millis(10);
/// How often a client that means well asks, and at least how many times.
const QUESTIONS: Duration = Duration::from_millis(50);
const LEAST: usize = 100;

/// Echoes, at once, until the test ends.
pub(crate) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; PIECE];
                stream.set_nodelay(true).expect("it can be set");
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// What went on for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// The slow ones of transactions directly and through the forwarder.
    pub(crate) direct: Duration,
    pub(crate) forwarded: Duration,
    pub(crate) transactions: usize,
    /// Bytes that were transferred, each of them compared.
    pub(crate) bytes: usize,
    /// The slow ones of questions, and the slowest.
    pub(crate) answer: Duration,
    pub(crate) slowest: Duration,
    pub(crate) questions: usize,
    /// The slowest that curl had, as it says.
    pub(crate) curl: Duration,
}

impl Figures {
    /// Lets all of it go on for so long.
    #[track_caller]
    pub(crate) fn of(length: Duration, direct: SocketAddr, forwarded: SocketAddr, socket: &Path) -> Self {
        let is_over = AtomicBool::new(false);
        let is_over = &is_over;
        std::thread::scope(|scope| {
            let transactions = scope.spawn(move || transactions(direct, forwarded, is_over));
            let transfer = scope.spawn(move || transfer(forwarded, is_over));
            let questions = scope.spawn(move || questions(socket, is_over));
            let curls = scope.spawn(move || curls(socket, is_over));
            sleep(length);
            is_over.store(true, Relaxed);
            let [mut direct, mut forwarded] = transactions.join().expect("transactions go on");
            let mut answers = questions.join().expect("questions are answered");
            Self {
                transactions: direct.len(),
                direct: p99(&mut direct),
                forwarded: p99(&mut forwarded),
                bytes: transfer.join().expect("the transfer goes on"),
                questions: answers.len(),
                answer: p99(&mut answers),
                slowest: *answers.last().expect("there were questions"),
                curl: curls.join().expect("curl is answered"),
            }
        })
    }

    /// By how much slower the slow ones are for the forwarder.
    pub(crate) fn extra(&self) -> Duration {
        self.forwarded.saturating_sub(self.direct)
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("it can be set");
    stream.set_read_timeout(Some(SOON)).expect("it can be set");
    stream
}

/// In turn, so that whatever else the machine does meets both alike.
fn transactions(direct: SocketAddr, forwarded: SocketAddr, is_over: &AtomicBool) -> [Vec<Duration>; 2] {
    let mut sides = [direct, forwarded].map(|address| (0..CONNECTIONS).map(|_| open(address)).collect::<Vec<_>>());
    let mut times = [Vec::new(), Vec::new()];
    while !is_over.load(Relaxed) {
        for number in 0..CONNECTIONS {
            for (side, times) in sides.iter_mut().zip(&mut times) {
                let start = Instant::now();
                side[number].write_all(&[7; TRANSACTION]).expect("taken");
                side[number].read_exact(&mut [0; TRANSACTION]).expect("an echo");
                times.push(start.elapsed());
            }
        }
        sleep(PAUSE);
    }
    times
}

fn transfer(address: SocketAddr, is_over: &AtomicBool) -> usize {
    let mut stream = open(address);
    let (mut state, mut bytes) = (0x9E37_79B9_7F4A_7C15_u64, 0);
    let (mut sent, mut came) = (vec![0; PIECE], vec![0; PIECE]);
    while !is_over.load(Relaxed) {
        for word in sent.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        stream.write_all(&sent).expect("taken");
        stream.read_exact(&mut came).expect("an echo");
        assert!(sent == came, "other bytes after {bytes}");
        bytes += PIECE;
        sleep(PIECES);
    }
    bytes
}

fn questions(socket: &Path, is_over: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !is_over.load(Relaxed) || times.len() < LEAST {
        let start = Instant::now();
        let answer = get(socket, "/v1/mappings").expect("an answer");
        times.push(start.elapsed());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["mappings"][0]["name"], "default");
        sleep(QUESTIONS);
    }
    times
}

fn curls(socket: &Path, is_over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !is_over.load(Relaxed) {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "20", "-w", "\n%{time_total}", "--unix-socket"]).arg(socket);
        let said = crate::common::output(curl.arg("http://portolan/v1/mappings"));
        let (answer, time) = said.rsplit_once('\n').expect("an answer and a time");
        assert!(answer.contains(r#""name":"default""#), "{said}");
        slowest = slowest.max(Duration::from_secs_f64(time.parse().expect("seconds")));
        sleep(20 * QUESTIONS);
    }
    slowest
}

/// A connection whose counters never rest: something to tell of, all the while.
#[derive(Debug)]
pub(crate) struct Beat {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beat {
    #[track_caller]
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&stop);
        let mut stream = open(address);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Relaxed) {
                stream.write_all(b"x").expect("taken");
                stream.read_exact(&mut [0]).expect("an echo");
                sleep(PIECES);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A stream of updates that is read by somebody who looks at the clock.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicUsize>,
    last: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<Duration>,
    stream: UnixStream,
    _beat: Beat,
}

impl Watcher {
    /// Opens it, with something to tell of through the forwarder.
    #[track_caller]
    pub(crate) fn start(socket: &Path, forwarded: SocketAddr) -> Self {
        let (stop, heard) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let last = Arc::<Mutex<Vec<u8>>>::default();
        let mut stream = connect(socket).expect("it listens");
        let interest = r#"{"mappings":true,"connections":true,"events":true,"sample_ms":100}"#;
        let request = "POST /v1/updates HTTP/1.1\r\nhost: portolan\r\n";
        write!(stream, "{request}content-length: {}\r\n\r\n{interest}", interest.len()).expect("taken");
        let reader = stream.try_clone().expect("another descriptor");
        let (is_over, count, words) = (Arc::clone(&stop), Arc::clone(&heard), Arc::clone(&last));
        let listens = std::thread::spawn(move || longest_gap(reader, &is_over, &count, &words));
        Self { stop, heard, last, reader: listens, stream, _beat: Beat::start(forwarded) }
    }

    /// Bytes that have come.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Relaxed)
    }

    /// Whether this was said of late.
    pub(crate) fn has_heard(&self, words: &str) -> bool {
        let last = self.last.lock().expect("nobody has failed");
        last.windows(words.len()).any(|said| said == words.as_bytes())
    }

    /// The longest time without any of it.
    #[track_caller]
    pub(crate) fn end(self) -> Duration {
        self.stop.store(true, Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.reader.join().expect("it goes on")
    }
}

fn longest_gap(mut stream: UnixStream, is_over: &AtomicBool, heard: &AtomicUsize, words: &Mutex<Vec<u8>>) -> Duration {
    let mut buffer = vec![0; 64 << 10];
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        let count = stream.read(&mut buffer).expect("something comes");
        if is_over.load(Relaxed) {
            return longest;
        }
        assert!(count > 0, "the updates have ended");
        heard.fetch_add(count, Relaxed);
        let mut words = words.lock().expect("nobody has failed");
        words.extend_from_slice(&buffer[..count]);
        let old = words.len().saturating_sub(buffer.len());
        words.drain(..old);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
}
