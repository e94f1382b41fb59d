//! An engine whose control socket is looked at, and a client of it that does no more than it is told.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::program::{Home, Run};
use crate::common::{SOON, wait_until};

/// Where the control socket of the engine that runs the profile NAME of a home lies.
pub(crate) fn socket_of(home: &Home, name: &str) -> PathBuf {
    home.path().join("run/portolan").join(format!("{name}.sock"))
}

/// Writes a profile of one mapping, which forwards to `target`.
pub(crate) fn write_profile(home: &Home, name: &str, target: impl std::fmt::Display) {
    let mapping = format!(r#"{{ "name": "{name}", "listen": "127.0.0.1:auto", "target": "{target}" }}"#);
    home.write_profile(name, &format!(r#"{{ "version": 1, "mappings": [{mapping}] }}"#));
}

/// `portolan run` of the default profile, with its control socket open.
#[track_caller]
pub(crate) fn start(home: &Home) -> Run {
    let mut run = home.run(None, ["--drain", "0s"]);
    run.ready();
    serves(&socket_of(home, "default"));
    run
}

/// Waits until an engine answers there.
#[track_caller]
pub(crate) fn serves(socket: &Path) {
    wait_until("an engine that answers", SOON, || get(socket, "/v1/engine").is_ok_and(|answer| answer.status == 200));
}

/// The process that answers there.
pub(crate) fn pid_at(socket: &Path) -> Option<u64> {
    get(socket, "/v1/engine").ok()?.json()["pid"].as_u64()
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// As it was sent, up to the end of the connection.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let invalid = || io::Error::other(format!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").ok_or_else(invalid)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
        Ok(Self { status, head, body: bytes[end + 4..].to_vec() })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What is said to people.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().expect("a refusal has a message").to_owned()
    }
}

/// A connection that waits for nothing longer than a test does.
pub(crate) fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// A whole request, after which the connection is to be closed.
pub(crate) fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: portolan\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Everything up to the end of the connection.
pub(crate) fn read_all(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // What was not read any more before the end makes it a reset.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(bytes),
    }
}

/// Asks over a connection of its own.
pub(crate) fn ask(socket: &Path, method: &str, target: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(socket)?;
    // Whoever is refused before all is said may still read why.
    let sent = stream.write_all(&request(method, target, body));
    let bytes = read_all(&mut stream)?;
    if bytes.is_empty() {
        sent?;
    }
    Answer::parse(&bytes)
}

/// Asks for something that changes nothing.
pub(crate) fn get(socket: &Path, target: &str) -> io::Result<Answer> {
    ask(socket, "GET", target, b"")
}
