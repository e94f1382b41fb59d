//! What the target is told of its client: taken away where it stands ahead of the bytes, and held against the truth.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::Order;
use crate::mode::{ALIAS_POOL, Told};

/// Longest wait for a header.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any header here has.
const ROOM: usize = 1_024;

/// Starts a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before the addresses: signature, version and command, family, length.
const FIXED: usize = 16;

/// Starts a header of version 1, and ends it.
const WORD: &[u8] = b"PROXY ";
const LINE_END: &[u8] = b"\r\n";

/// Takes the next connection of the target, of which everything after this is payload.
pub(super) fn accept(order: &Order, listener: &TcpListener) -> Result<TcpStream> {
    let (stream, peer) = listener.accept()?;
    match order.told {
        Told::Header => take_header(order, &stream)?,
        Told::Alias => ensure_alias(peer.ip())?,
        Told::Nothing | Told::Field => {}
    }
    Ok(stream)
}

/// Looks first: whatever follows the header stays in the socket.
fn take_header(order: &Order, mut stream: &TcpStream) -> Result<()> {
    let mut room = [0; ROOM];
    let mut is_late = false;
    loop {
        // One that is there at once, as it should be, takes no call more.
        let flags = if is_late { MsgFlags::MSG_PEEK } else { MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT };
        let count = match recv(stream.as_raw_fd(), &mut room, flags) {
            Err(Errno::EAGAIN) if is_late => bail!("a connection without a PROXY header"),
            Err(Errno::EAGAIN) => {
                is_late = true;
                stream.set_read_timeout(Some(PATIENCE))?;
                continue;
            }
            count => count?,
        };
        ensure!(count > 0, "a connection ended before its PROXY header");
        if let Some(length) = header(order, &room[..count])? {
            stream.read_exact(&mut room[..length])?;
            if is_late {
                stream.set_read_timeout(None)?;
            }
            return Ok(());
        }
        // Rare: proxies send a header in one piece.
        std::thread::yield_now();
    }
}

/// The length of the header that these bytes start with, or `None` while it is not complete.
fn header(order: &Order, bytes: &[u8]) -> Result<Option<usize>> {
    let (told, length) = if bytes.starts_with(WORD) {
        let Some(end) = bytes.windows(LINE_END.len()).position(|window| window == LINE_END) else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[..end])?;
        let source = line.split(' ').nth(2).with_context(|| format!("a PROXY line without a client: {line:?}"))?;
        (source.parse()?, end + LINE_END.len())
    } else if bytes.len() < FIXED {
        ensure!(is_start_of(bytes, WORD) || is_start_of(bytes, SIGNATURE), "no PROXY header: {bytes:?}");
        return Ok(None);
    } else {
        ensure!(bytes.starts_with(SIGNATURE), "no PROXY header: {:?}", &bytes[..FIXED]);
        let length = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if bytes.len() < length {
            return Ok(None);
        }
        (source(bytes[12], bytes[13], &bytes[FIXED..length])?, length)
    };
    ensure!(told == order.client.ip(), "the target is told of {told}, and the client is {}", order.client.ip());
    Ok(Some(length))
}

/// The client's address in a header of version 2.
fn source(command: u8, family: u8, addresses: &[u8]) -> Result<IpAddr> {
    ensure!(command == 0x21, "a PROXY header with version and command {command:#x}");
    match family >> 4 {
        1 => Ok(Ipv4Addr::from(*addresses.first_chunk::<4>().context("no IPv4 address")?).into()),
        2 => Ok(Ipv6Addr::from(*addresses.first_chunk::<16>().context("no IPv6 address")?).into()),
        _ => bail!("a PROXY header of family {family:#x}"),
    }
}

fn is_start_of(bytes: &[u8], whole: &[u8]) -> bool {
    whole.starts_with(&bytes[..bytes.len().min(whole.len())])
}

/// How many bytes of a datagram from `peer` stand ahead of the payload.
pub(super) fn ahead(order: &Order, datagram: &[u8], peer: IpAddr) -> Result<usize> {
    match order.told {
        Told::Header => header(order, datagram)?.context("a datagram with a part of a PROXY header"),
        Told::Alias => ensure_alias(peer).map(|()| 0),
        Told::Nothing | Told::Field => Ok(0),
    }
}

fn ensure_alias(peer: IpAddr) -> Result<()> {
    let pool: ipnet::IpNet = ALIAS_POOL.parse().expect("it is a network");
    ensure!(pool.contains(&peer), "the target sees {peer}, which is no alias");
    Ok(())
}
