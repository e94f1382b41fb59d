//! The PROXY protocol (HAProxy's `proxy-protocol.txt`): who the client is, ahead of what the client says.
//!
//! The codec is the `proxy-header` crate. It reads what it needs and lets more through than the specification does, so
//! what stands around it here is strict, and what it refuses of itself is refused with a reason:
//!
//! - a header of version 1 is at most 107 bytes with its CRLF, of exactly the words and single spaces that it takes,
//!   without leading zeros, `+` or lone line ends;
//! - one of version 2 is at most [`MOST`] bytes, far more than the 536 that the specification has in mind: its
//!   addresses fit into its length and its transport is the socket's, its fields are whole, what they hold is what
//!   their type says, and a checksum is right where there is one;
//! - `LOCAL`, `UNKNOWN`, `UNSPEC` and Unix sockets are headers that tell nothing: the socket's addresses hold. Of `LOCAL`
//!   and `UNSPEC` everything behind the length is passed over, as the specification wants it.
//!
//! What begins wrong is refused before it is whole, and no refusal changes with what follows. Addresses of version 1 may
//! be written as `inet_ntop` writes them (`::ffff:192.0.2.1`): HAProxy sends them so.
//!
//! Headers of ours carry no checksum: TCP and UDP have theirs.

mod v1;
mod v2;
#[cfg(test)]
mod vectors;

use std::net::{IpAddr, SocketAddr};

use proxy_header::{Protocol as Codec, ProxiedAddress};

use crate::model::mapping::Protocol;

/// Longest header that is read, of either version.
pub const MOST: usize = 16 * 1024;

/// The type of the field that holds the mapping's name, of those that the specification leaves to applications.
pub const TYPE_MAPPING: u8 = 0xE0;

/// What carries the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: the header comes first, once, perhaps in pieces.
    Stream,
    /// UDP: each datagram begins with one, of version 2, and holds all of it. One that is [`Parsed::Incomplete`] stays so.
    Datagram,
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        if protocol == Protocol::Udp { Self::Datagram } else { Self::Stream }
    }
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// The client.
    pub client: SocketAddr,
    /// The address that the client dialled.
    pub listener: SocketAddr,
}

/// What begins with a header so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It is right as far as it goes, and not all there.
    Incomplete,
    /// A whole header.
    Header {
        /// Its bytes; what comes behind them is payload.
        length: usize,
        /// What it tells; `None` where the socket's own addresses are to be used.
        told: Option<Told>,
    },
}

/// Why it is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is something else.
    #[error("no PROXY header, which has to come first")]
    Absent,
    /// It has no end.
    #[error("a PROXY header of version 1 does not end within 107 bytes")]
    Endless,
    /// CR or LF by itself.
    #[error("a line of a PROXY header ends with CR and LF, and not with one of them")]
    LineEnd,
    /// Not TCP4, TCP6 or UNKNOWN.
    #[error("a PROXY header of version 1 is for TCP4, TCP6 or UNKNOWN")]
    Family,
    /// Not two addresses and two ports, or not written as they have to be.
    #[error(
        "a PROXY header of version 1 does not have two addresses of its family and two ports, each behind one space"
    )]
    Fields,
    /// Not version 2.
    #[error("a PROXY header of version {0}, where 1 and 2 are known")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("a PROXY header with the command {0}, where 0 and 1 are known")]
    Command(u8),
    /// Of another kind of socket, or of none.
    #[error("a PROXY header for the addresses and transport 0x{0:02x}, which cannot come this way")]
    Transport(u8),
    /// Its addresses have no room in it.
    #[error("a PROXY header of {0} bytes, too short for its addresses")]
    Short(usize),
    /// It would be too long to wait for.
    #[error("a PROXY header of {0} bytes, where {MOST} are read")]
    Long(usize),
    /// A field that is cut off, or does not hold what its type says.
    #[error("a PROXY header with a broken field of type 0x{0:02x}")]
    Field(u8),
    /// Its checksum is not that of its bytes.
    #[error("a PROXY header whose checksum is wrong")]
    Checksum,
}

/// Reads the header that `bytes` begin with.
pub fn parse(bytes: &[u8], transport: Transport) -> Result<Parsed, Malformed> {
    match bytes.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'P') if transport == Transport::Stream => v1::parse(bytes),
        Some(b'\r') => v2::parse(bytes, transport),
        Some(_) => Err(Malformed::Absent),
    }
}

/// A header of version 1. It is a stream's: version 1 knows no datagrams.
pub fn version_1(told: Told) -> Vec<u8> {
    v1::encode(told)
}

/// A header of version 2, with the connection's id as its `PP2_TYPE_UNIQUE_ID` and the mapping's name, if it has one,
/// as [`TYPE_MAPPING`].
///
/// Neither is long: an id has at most 128 bytes, which is the caller's to keep, and a mapping's name 64.
pub fn version_2(told: Told, transport: Transport, unique_id: &str, mapping: Option<&str>) -> Vec<u8> {
    v2::encode(told, transport, unique_id, mapping)
}

/// Whether `bytes` are as far as they go the beginning of `whole`, or begin with it.
fn agrees(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(one, other)| one == other)
}

/// What a header says, for whoever knows an address by one of its forms alone.
fn told(address: &ProxiedAddress) -> Told {
    Told { client: canonical(address.source), listener: canonical(address.destination) }
}

/// What is to be said, as the codec takes it. A header has addresses of one family: beside an IPv6 address, an IPv4 one
/// is mapped (`::ffff:192.0.2.1`).
fn address(told: Told, protocol: Codec) -> ProxiedAddress {
    let (client, listener) = (canonical(told.client), canonical(told.listener));
    let (source, destination) =
        if client.is_ipv4() == listener.is_ipv4() { (client, listener) } else { (mapped(client), mapped(listener)) };
    ProxiedAddress { protocol, source, destination }
}

/// An IPv4 address that came as an IPv6 one is itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}
