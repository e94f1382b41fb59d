//! HTTP/1.x as it stands on the wire: where one message ends and the next begins, for one direction of a connection.
//!
//! It reads along and changes nothing. As the gate in front of an HTTP library it lets through only what no two servers
//! understand differently ([`Strictness::Gate`]); whoever only looks on follows whatever can be followed
//! ([`Strictness::Onlooker`]). Heads and sizes are taken apart by `httparse`; what is refused beyond that is a table of
//! reasons ([`Refusal`]), and each is a way in which a request has been smuggled past a proxy before.
//!
//! The bytes are the caller's: those of a head, a chunk's size or a trailer section that are not whole yet are not let
//! through, and are to be given again with what follows them.

mod head;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use memchr::memchr_iter;

pub(crate) use self::head::{is_look_alike, is_of_head, is_of_host};
pub use self::refusal::Refusal;

use self::head::{Body, Head};

/// Longest head, and longest trailer section, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most fields of a head or a trailer section.
pub const MAX_FIELDS: usize = 100;
/// Longest line that gives the size of a chunk, its extensions and end included.
pub const MAX_CHUNK_LINE: usize = 256;
/// What a client that speaks HTTP/2 with prior knowledge says first.
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of what can be understood is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// What every server understands alike.
    Gate,
    /// What can be followed at all.
    Onlooker,
}

/// What matters of a request to who reads its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its response has no body, whatever that says (`HEAD`).
    pub is_head: bool,
    /// It asks for another protocol on its connection.
    pub is_upgrade: bool,
}

/// What has come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The head of a request.
    Request {
        /// Its method.
        method: &'a str,
        /// Its target, as it stands there.
        target: &'a str,
        /// What matters to its response.
        asked: Asked,
    },
    /// The head of a response.
    Response(u16),
    /// The whole head of an interim response (1xx but for 101), another to follow.
    Interim(u16, &'a [u8]),
    /// The end of a message; interim responses, and one that changes the protocol, have none.
    End,
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Follower {
    direction: Direction,
    strictness: Strictness,
    state: State,
    /// Of a head or trailer section that has not ended, looked through already.
    scanned: usize,
    /// Empty lines ahead of the next head.
    blank_lines: u8,
}

/// Which messages it has.
#[derive(Debug)]
enum Direction {
    Requests,
    /// To these requests, the first one first.
    Responses(VecDeque<Asked>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two messages, or in a head.
    Head,
    /// In a body of which so much is to come; `then` after it.
    Fixed { left: u64, is_upgrade: bool },
    /// Before the size of a chunk.
    ChunkSize { is_upgrade: bool },
    /// In a chunk.
    Chunk { left: u64, is_upgrade: bool },
    /// Before the end of line behind a chunk.
    ChunkEnd { is_upgrade: bool },
    /// In the trailer section.
    Trailers { is_upgrade: bool },
    /// In a body that the end of the stream ends.
    UntilEnd,
    /// Behind a request for another protocol, which has not been answered.
    Held,
    /// Not HTTP any more.
    Opaque,
}

/// One step of following.
enum Step {
    /// So many bytes are in order.
    Took(usize),
    /// More are needed.
    Wait,
}

impl Follower {
    /// For what a client sends.
    pub fn requests(strictness: Strictness) -> Self {
        Self::new(Direction::Requests, strictness)
    }

    /// For what a server sends.
    pub fn responses(strictness: Strictness) -> Self {
        Self::new(Direction::Responses(VecDeque::new()), strictness)
    }

    fn new(direction: Direction, strictness: Strictness) -> Self {
        Self { direction, strictness, state: State::Head, scanned: 0, blank_lines: 0 }
    }

    /// A request has been sent, to which a response is to come.
    pub fn ask(&mut self, asked: Asked) {
        if let Direction::Responses(pending) = &mut self.direction {
            pending.push_back(asked);
        }
    }

    /// How many requests have no whole response yet.
    pub fn unanswered(&self) -> usize {
        if let Direction::Responses(pending) = &self.direction { pending.len() } else { 0 }
    }

    /// The latest request, if it was for another protocol, was answered without one: requests go on, be it behind its body
    /// if that is still on its way.
    pub fn stay(&mut self) {
        match &mut self.state {
            State::Held => self.state = State::Head,
            State::Fixed { is_upgrade, .. }
            | State::ChunkSize { is_upgrade }
            | State::Chunk { is_upgrade, .. }
            | State::ChunkEnd { is_upgrade }
            | State::Trailers { is_upgrade } => *is_upgrade = false,
            State::Head | State::UntilEnd | State::Opaque => {}
        }
    }

    /// The other protocol was agreed on.
    pub fn become_opaque(&mut self) {
        self.state = State::Opaque;
    }

    /// Whether it is not HTTP any more.
    pub fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Whether what follows waits for the answer to a request for another protocol.
    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether no message has begun, but for bytes that were not let through.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Head | State::Held)
    }

    /// Looks at `bytes`, which follow those that were let through, tells `see` what comes by, and says how many of them
    /// are in order. What is wrong behind those is told when the rest is looked at again.
    pub fn follow(&mut self, bytes: &[u8], mut see: impl FnMut(Seen<'_>)) -> Result<usize, Refusal> {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.step(&bytes[passed..], &mut see) {
                Ok(Step::Took(count)) => passed += count,
                Ok(Step::Wait) => break,
                Err(_) if passed > 0 => break,
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(passed)
    }

    /// The stream has ended; `rest` was not let through.
    pub fn end(&mut self, rest: &[u8], mut see: impl FnMut(Seen<'_>)) -> Result<(), Refusal> {
        match self.state {
            State::UntilEnd => {
                self.state = State::Head;
                see(Seen::End);
                Ok(())
            }
            State::Head if rest.is_empty() => Ok(()),
            State::Held | State::Opaque => Ok(()),
            _ => Err(Refusal::Truncated),
        }
    }

    fn step(&mut self, bytes: &[u8], see: &mut impl FnMut(Seen<'_>)) -> Result<Step, Refusal> {
        let at_hand = bytes.len() as u64;
        let took = |count: u64| Step::Took(usize::try_from(count).expect("no more than there are bytes"));
        match self.state {
            State::Head => self.head(bytes, see),
            State::Fixed { left, is_upgrade } => {
                let count = left.min(at_hand);
                self.state = State::Fixed { left: left - count, is_upgrade };
                if left == count {
                    self.message_ends(is_upgrade, see);
                }
                Ok(took(count))
            }
            State::ChunkSize { is_upgrade } => {
                let Some((length, size)) = head::chunk_size(bytes, self.strictness)? else { return Ok(Step::Wait) };
                self.state =
                    if size == 0 { State::Trailers { is_upgrade } } else { State::Chunk { left: size, is_upgrade } };
                Ok(Step::Took(length))
            }
            State::Chunk { left, is_upgrade } => {
                let count = left.min(at_hand);
                let left = left - count;
                self.state = if left == 0 { State::ChunkEnd { is_upgrade } } else { State::Chunk { left, is_upgrade } };
                Ok(took(count))
            }
            State::ChunkEnd { is_upgrade } => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize { is_upgrade };
                    Ok(Step::Took(2))
                }
                [b'\r'] => Ok(Step::Wait),
                _ => Err(Refusal::Chunk),
            },
            State::Trailers { is_upgrade } => {
                let end = if bytes.starts_with(b"\r\n") {
                    self.scanned = 0;
                    Some(2)
                } else {
                    self.section_end(bytes)?
                };
                let Some(end) = end else { return Ok(Step::Wait) };
                head::trailers(&bytes[..end])?;
                self.message_ends(is_upgrade, see);
                Ok(Step::Took(end))
            }
            State::UntilEnd | State::Opaque => Ok(Step::Took(bytes.len())),
            State::Held => Ok(Step::Wait),
        }
    }

    fn head(&mut self, bytes: &[u8], see: &mut impl FnMut(Seen<'_>)) -> Result<Step, Refusal> {
        if let Direction::Responses(pending) = &self.direction
            && pending.is_empty()
        {
            return Err(Refusal::Unasked);
        }
        if bytes[0] == b'\r' && matches!(self.direction, Direction::Requests) {
            // Some clients put an empty line behind a body (RFC 9112, 2.2).
            return match bytes {
                [_] => Ok(Step::Wait),
                [_, b'\n', ..] if self.blank_lines == 0 => {
                    self.blank_lines = 1;
                    Ok(Step::Took(2))
                }
                _ => Err(Refusal::LineEnd),
            };
        }
        let Some(end) = self.section_end(bytes)? else { return Ok(Step::Wait) };
        self.blank_lines = 0;
        let bytes = &bytes[..end];
        match &mut self.direction {
            Direction::Requests => {
                let Head { body, is_upgrade } = head::request(bytes, self.strictness, see)?;
                self.begin(body, is_upgrade, see);
            }
            Direction::Responses(pending) => {
                let asked = *pending.front().expect("looked at before");
                let (status, body) = head::response(bytes, asked, self.strictness)?;
                match status {
                    100 | 102..200 => see(Seen::Interim(status, bytes)),
                    101 => {
                        self.state = State::Opaque;
                        see(Seen::Response(status));
                    }
                    _ => {
                        see(Seen::Response(status));
                        self.begin(body, false, see);
                    }
                }
            }
        }
        Ok(Step::Took(end))
    }

    fn begin(&mut self, body: Body, is_upgrade: bool, see: &mut impl FnMut(Seen<'_>)) {
        match body {
            Body::Length(0) => self.message_ends(is_upgrade, see),
            Body::Length(left) => self.state = State::Fixed { left, is_upgrade },
            Body::Chunked => self.state = State::ChunkSize { is_upgrade },
            Body::UntilEnd => self.state = State::UntilEnd,
        }
    }

    fn message_ends(&mut self, is_upgrade: bool, see: &mut impl FnMut(Seen<'_>)) {
        self.state = if is_upgrade { State::Held } else { State::Head };
        if let Direction::Responses(pending) = &mut self.direction {
            pending.pop_front();
        }
        see(Seen::End);
    }

    /// Where the head or trailer section at the beginning of `bytes` ends, its empty line included.
    fn section_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let scanned = std::mem::take(&mut self.scanned);
        for found in memchr_iter(b'\n', &bytes[scanned..]) {
            let end = scanned + found + 1;
            if end > MAX_HEAD {
                return Err(Refusal::TooLong);
            }
            // The end of one line stands right behind that of another.
            match &bytes[end.saturating_sub(4)..end] {
                [.., b'\r', b'\n', b'\r', b'\n'] => return Ok(Some(end)),
                [.., b'\r', b'\n'] => {}
                _ => return Err(Refusal::LineEnd),
            }
        }
        if bytes.len() > MAX_HEAD {
            return Err(Refusal::TooLong);
        }
        self.scanned = bytes.len();
        Ok(None)
    }
}
