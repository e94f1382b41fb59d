//! Clients that mean ill, each in a way of its own: they stall, send without end, send what is no request, ask and
//! never read. Whoever is cut off comes back.
//!
//! All of them live on one thread, and none sends as fast as it can: what a program is given that takes the processor
//! from everybody says nothing of whether the engine treats its clients well. What they send in all is the figures'.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two writes of one that sends without end, of so many bytes.
const PACE: Duration = Duration::from_millis(20);
const PIECE: usize = 4 << 10;
/// Before one that was cut off comes back.
const BACK: Duration = Duration::from_millis(200);
/// Requests that are sent at once by one that reads no answer.
const PIPELINED: usize = 10_000;

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Silence,
    HalfALine,
    HeadWithoutEnd,
    LineWithoutEnd,
    Garbage,
    Hello,
    Http2,
    BodyByTheByte,
    BodyButForAByte,
    HugeBody,
    ChunksWithoutEnd,
    AnswerUnread,
    PipelineUnread,
    PipelineRead,
    StreamUnread,
    StreamUnreadWithMore,
}

impl Way {
    pub(crate) const ALL: [Self; 16] = [
        Self::Silence,
        Self::HalfALine,
        Self::HeadWithoutEnd,
        Self::LineWithoutEnd,
        Self::Garbage,
        Self::Hello,
        Self::Http2,
        Self::BodyByTheByte,
        Self::BodyButForAByte,
        Self::HugeBody,
        Self::ChunksWithoutEnd,
        Self::AnswerUnread,
        Self::PipelineUnread,
        Self::PipelineRead,
        Self::StreamUnread,
        Self::StreamUnreadWithMore,
    ];
}

/// What they have done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) connects: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Many of them, until dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) deeds: Arc<Deeds>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// So many, of these ways in turn.
    pub(crate) fn start(socket: &Path, ways: &'static [Way], count: usize) -> Self {
        let (deeds, stop) = (Arc::<Deeds>::default(), Arc::<AtomicBool>::default());
        let (done, until, socket) = (Arc::clone(&deeds), Arc::clone(&stop), socket.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for way in ways.iter().cycle().take(count) {
                    tasks.spawn(again_and_again(*way, socket.clone(), Arc::clone(&done)));
                }
                while !until.load(Relaxed) {
                    sleep(PACE).await;
                }
            });
        });
        Self { deeds, stop, thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn again_and_again(way: Way, socket: PathBuf, deeds: Arc<Deeds>) {
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                deeds.connects.fetch_add(1, Relaxed);
                // However it is ended.
                let _ = behave(way, stream, &deeds.bytes).await;
            }
            Err(_) => {
                deeds.refused.fetch_add(1, Relaxed);
            }
        }
        sleep(BACK).await;
    }
}

/// Until it is cut off.
async fn behave(way: Way, mut stream: UnixStream, bytes: &AtomicU64) -> io::Result<()> {
    let say = async |text: &[u8], stream: &mut UnixStream| {
        bytes.fetch_add(text.len() as u64, Relaxed);
        stream.write_all(text).await
    };
    let stream = &mut stream;
    let endless = async |start: &str, piece: &[u8], stream: &mut UnixStream| -> io::Result<()> {
        say(start.as_bytes(), stream).await?;
        loop {
            say(piece, stream).await?;
            sleep(PACE).await;
        }
    };
    match way {
        Way::Silence => {}
        Way::HalfALine => say(b"GET /v1/mapp", stream).await?,
        Way::HeadWithoutEnd => {
            let lines = b"x-more: and more\r\n".repeat(PIECE / 18);
            endless("GET /v1/mappings HTTP/1.1\r\n", &lines, stream).await?;
        }
        Way::LineWithoutEnd => endless("", &[b'a'; PIECE], stream).await?,
        Way::Garbage => {
            let garbage: Vec<u8> = (0..=u8::MAX).map(|byte| byte.wrapping_mul(151)).cycle().take(PIECE).collect();
            endless("", &garbage, stream).await?;
        }
        Way::Hello => say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", stream).await?,
        Way::Http2 => say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", stream).await?,
        Way::BodyByTheByte => {
            say(b"POST /v1/validate HTTP/1.1\r\ncontent-length: 1048575\r\n\r\n", stream).await?;
            loop {
                say(b"{", stream).await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Way::BodyButForAByte => {
            say(b"POST /v1/validate HTTP/1.1\r\ncontent-length: 1048576\r\n\r\n", stream).await?;
            say(&vec![b' '; (1 << 20) - 1], stream).await?;
        }
        Way::HugeBody => {
            let head = format!("POST /v1/validate HTTP/1.1\r\ncontent-length: {}\r\n\r\n", 100_u64 << 30);
            endless(&head, &[b' '; PIECE], stream).await?;
        }
        Way::ChunksWithoutEnd => {
            let chunk = [format!("{PIECE:x}\r\n").as_bytes(), &[b' '; PIECE], b"\r\n"].concat();
            endless("POST /v1/call HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", &chunk, stream).await?;
        }
        Way::AnswerUnread => {
            say(b"GET /v1/connections?closed=true HTTP/1.1\r\n\r\n", stream).await?;
            loop {
                // An empty line before a request is none, but shows whether somebody is there.
                say(b"\r\n", stream).await?;
                sleep(PACE).await;
            }
        }
        Way::PipelineUnread => say(&b"GET /openapi.json HTTP/1.1\r\n\r\n".repeat(PIPELINED), stream).await?,
        Way::PipelineRead => {
            let mut buffer = vec![0; 64 << 10];
            loop {
                say(b"GET /v1/mappings HTTP/1.1\r\n\r\n", stream).await?;
                sleep(PACE).await;
                if stream.try_read(&mut buffer).is_ok_and(|count| count == 0) {
                    return Ok(());
                }
            }
        }
        Way::StreamUnread => {
            say(b"GET /v1/events?interval=20ms HTTP/1.1\r\n\r\n", stream).await?;
            // It ends when the engine does, or when it is cut off; neither is to be read.
            while !stream.ready(Interest::WRITABLE).await?.is_write_closed() {
                sleep(PACE).await;
            }
            return Ok(());
        }
        Way::StreamUnreadWithMore => {
            say(b"GET /v1/events?interval=20ms HTTP/1.1\r\n\r\n", stream).await?;
            loop {
                say(b"\r\n", stream).await?;
                sleep(PACE).await;
            }
        }
    }
    // Whatever comes, to the end.
    let mut buffer = [0; PIECE];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
