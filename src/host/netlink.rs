//! Questions to the kernel over netlink and its answers, as bytes: what stands in them, the callers know.
//!
//! Messages are built and read byte by byte (`linux/netlink.h`), so no `unsafe` is needed, and what is cut or absurd
//! is an error and never a panic.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// `nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// The kernel fills at most 32 KiB a message; a larger buffer is never cut.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most messages that are kept of one list.
const MOST: usize = 65_536;
/// The two upper bits of an attribute's kind are flags.
const KIND: u16 = 0x3fff;

/// An open netlink socket.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Of one of the kernel's netlink families, such as `NETLINK_SOCK_DIAG`.
    pub(super) fn open(family: i32) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(family)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Asks for a list and hands each message of it over.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.send(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, body)?;
        loop {
            for message in self.receive()? {
                match message? {
                    Message::Data(data) => each(data)?,
                    Message::Done => return Ok(()),
                }
            }
        }
    }

    /// Asks for one thing: the first message of the answer, if it has one.
    pub(super) fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Option<&[u8]>> {
        self.send(kind, libc::NLM_F_REQUEST, body)?;
        match self.receive()?.next() {
            Some(Ok(Message::Data(data))) => Ok(Some(data)),
            Some(Err(error)) => Err(error),
            Some(Ok(Message::Done)) | None => Ok(None),
        }
    }

    /// Changes something, and waits for the kernel's word that it is done.
    pub(super) fn change(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags, body)?;
        match self.receive()?.next() {
            Some(Ok(Message::Done)) => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(Message::Data(_))) | None => Err(io::Error::other("no answer")),
        }
    }

    /// A list as it comes, [`MOST`] messages of it at most.
    pub(super) fn table(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut table = Vec::new();
        self.dump(kind, body, |message| {
            if table.len() == MOST {
                return Err(io::Error::other("more than can be read"));
            }
            table.push(message.to_vec());
            Ok(())
        })?;
        Ok(table)
    }

    fn send(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        self.socket.write_all(&message)
    }

    fn receive(&mut self) -> io::Result<Messages<'_>> {
        let read = self.socket.read(&mut self.buffer)?;
        Ok(Messages(&self.buffer[..read]))
    }
}

/// What a message of the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Data(&'a [u8]),
    Done,
}

/// The messages in one datagram of the kernel.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 4)?;
        let message = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(match i32::from(kind) {
            libc::NLMSG_DONE => Ok(Message::Done),
            libc::NLMSG_ERROR => {
                let code = u32_at(message, 0).unwrap_or(0).cast_signed();
                if code == 0 { Ok(Message::Done) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
            }
            _ => Ok(Message::Data(message)),
        })
    }
}

/// The attributes of a message, kind and content; those after a cut one are left out.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND;
        let content = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    }
}

/// The value of the first attribute of that number.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
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

/// An IPv4 or IPv6 address, by its length.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_and_absurd_messages_are_never_read_past_their_end() {
        let mut whole = vec![0; HEADER + 8];
        let length = u32::try_from(whole.len()).expect("small");
        whole[..4].copy_from_slice(&length.to_ne_bytes());
        whole[4..6].copy_from_slice(&20u16.to_ne_bytes());
        assert!(matches!(Messages(&whole).next(), Some(Ok(Message::Data(data))) if data.len() == 8));
        for cut in 0..whole.len() {
            assert!(Messages(&whole[..cut]).next().is_none(), "{cut}");
        }
        // The number of an error that has no opposite.
        whole[4..6].copy_from_slice(&2u16.to_ne_bytes());
        whole[HEADER..HEADER + 4].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(matches!(Messages(&whole).next(), Some(Err(_))));
        for length in [0u32, 1, 15, u32::MAX] {
            whole[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(Messages(&whole).next().is_none(), "{length}");
        }
    }

    #[test]
    fn attributes_end_where_one_is_cut() {
        let bytes = [5, 0, 1, 0x80, 7, 0, 0, 0, 6, 0, 2, 0, 1, 2, 0, 0, 9, 0, 3, 0, 1];
        let told: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(told, [(1, &[7u8][..]), (2, &[1, 2][..])]);
        for length in 0u8..4 {
            assert!(Attributes(&[length, 0, 1, 0, 0, 0, 0, 0]).next().is_none());
        }
    }
}
