//! Mappings of HTTP, and clients and servers that speak it by hand.

use std::net::SocketAddr;
use std::time::Duration;

use portolan::model::identity::Identity;
use portolan::model::profile::MappingConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::sockets::{Bench, PATIENCE, Server, at, bound, config, connect};

/// A mapping from a port of `listen` whose requests name their client.
pub(crate) async fn map(bench: &Bench, id: u64, listen: &str, target: SocketAddr) -> SocketAddr {
    map_with(bench, id, listen, target, |_| {}).await
}

pub(crate) async fn map_with(
    bench: &Bench,
    id: u64,
    listen: &str,
    target: SocketAddr,
    change: impl FnOnce(&mut MappingConfig),
) -> SocketAddr {
    let mut config = config(&format!("{listen}:auto:{}", at(target)));
    config.identity = Identity::Http;
    change(&mut config);
    bound(&bench.apply(id, &config, &[target]).await)
}

/// For what is read at once.
const ROOM: usize = 64 * 1024;

/// One side of a connection, which reads messages off it.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(connect(address).await)
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// Sends a GET of `path`.
    pub(crate) async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
    }

    /// More bytes; false at the end. Fails where nothing comes.
    async fn more(&mut self) -> bool {
        self.read.reserve(ROOM);
        let reading = self.stream.read_buf(&mut self.read);
        timeout(PATIENCE, reading).await.expect("something comes").unwrap_or(0) > 0
    }

    /// The next head, in small letters as far as the names of its fields go, without its empty line; nothing at the end.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                return Some(String::from_utf8(head[..end].to_vec()).unwrap());
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.read));
                return None;
            }
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more().await, "{count} bytes, not {}", self.read.len());
        }
        self.read.drain(..count).collect()
    }

    /// A response with a body of a stated length: its status line, and the body.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let head = self.head().await.expect("a response");
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = self.exactly(length).await;
        (head.lines().next().unwrap().to_owned(), String::from_utf8(body).unwrap())
    }

    /// All that comes until the end; `Err` where that is a reset.
    pub(crate) async fn rest(mut self) -> Result<Vec<u8>, Vec<u8>> {
        loop {
            self.read.reserve(ROOM);
            match timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("an end") {
                Ok(0) => return Ok(self.read),
                Ok(_) => {}
                Err(_) => return Err(self.read),
            }
        }
    }

    /// Whether nothing comes for a moment.
    pub(crate) async fn is_silent(&mut self) -> bool {
        let mut buffer = [0; 1];
        self.read.is_empty() && timeout(Duration::from_millis(200), self.stream.peek(&mut buffer)).await.is_err()
    }
}

/// The value of a field.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A server that answers each request with its own head as the body.
pub(crate) fn mirror(ip: &str) -> Server {
    Server::start(ip, |stream| async move {
        let mut peer = Peer::new(stream);
        while let Some(head) = peer.head().await {
            let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            let body = peer.exactly(length).await;
            let text = head + "\n" + &String::from_utf8_lossy(&body);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if peer.stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
}
