//! Questions to the kernel over netlink, for the tables that have no file: routes, neighbours, tracked connections,
//! names of packet-filter tables, queues of listening sockets.
//!
//! Messages are built and read byte by byte, so no `unsafe` is needed. An answer has an end: [`MOST`] messages.

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Most messages that are read of one answer.
const MOST: usize = 65_536;
/// `nlmsghdr`.
const HEADER: usize = 16;
/// The kernel fills at most 32 KiB a message; a larger buffer is never cut.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// An open netlink socket. It belongs to the network namespace in which it was opened.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// What the message names.
    One,
    /// The whole table.
    All,
}

impl Netlink {
    /// `family` is one of `NETLINK_ROUTE` and the like.
    pub(super) fn open(family: i32) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(family)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// The bodies of the messages that answer.
    pub(super) fn ask(&mut self, kind: u16, ask: Ask, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let flags = libc::NLM_F_REQUEST | if ask == Ask::All { libc::NLM_F_DUMP } else { 0 };
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        self.socket.write_all(&message)?;
        let mut answer = Vec::new();
        loop {
            let read = self.socket.read(&mut self.buffer)?;
            for (kind, body) in Messages(&self.buffer[..read]) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(answer),
                    libc::NLMSG_ERROR => {
                        let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                        return if code == 0 { Ok(answer) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ if answer.len() == MOST => return Err(io::Error::other("more than can be read")),
                    _ => answer.push(body.to_vec()),
                }
            }
            if ask == Ask::One && !answer.is_empty() {
                return Ok(answer);
            }
        }
    }
}

/// The messages in one datagram of the kernel; what is cut ends them.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 4)?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

/// The attributes in `bytes`: number without flags, and value. What is cut ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that number.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// An attribute as bytes.
pub(super) fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An IPv4 or IPv6 address, by its length.
pub(super) fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_absurd_attributes_end_the_list_and_never_a_panic() {
        let whole = [encoded(1, &[1, 2, 3, 4]), encoded(2, &[5])].concat();
        let read: Vec<_> = attributes(&whole).collect();
        assert_eq!(read, [(1, &[1, 2, 3, 4][..]), (2, &[5][..])]);
        assert_eq!(attribute(&whole, 2), Some(&[5][..]));
        for cut in 0..whole.len() {
            assert!(attributes(&whole[..cut]).count() < 3, "{cut}");
        }
        for length in [0u16, 1, 3, u16::MAX] {
            let mut bytes = whole.clone();
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
        assert_eq!(Messages(&[16, 0, 0, 0, 3, 0]).count(), 0);
        assert_eq!(Messages(&u32::MAX.to_ne_bytes()).count(), 0);
    }
}
