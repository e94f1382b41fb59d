//! Version 2: sixteen bytes, addresses, and fields of type, length and value.

use std::borrow::Cow;

use proxy_header::{ParseConfig, Protocol, ProxyHeader, Tlv};

use super::{MOST, Malformed, Parsed, TYPE_MAPPING, Told, Transport, address, agrees, told};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What stands before the addresses.
const FIXED: usize = 16;
/// Type and length of a field.
const FIELD_HEAD: usize = 3;
const UNIQUE_ID: u8 = 0x05;
const LONGEST_ID: usize = 128;
const CODEC: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };

pub(super) fn parse(bytes: &[u8], transport: Transport) -> Result<Parsed, Malformed> {
    if !agrees(bytes, SIGNATURE) {
        return Err(Malformed::Absent);
    }
    let Some(&command) = bytes.get(12) else { return Ok(Parsed::Incomplete) };
    if command >> 4 != 2 {
        return Err(Malformed::Version(command >> 4));
    }
    let is_local = match command & 0x0F {
        0 => true,
        1 => false,
        other => return Err(Malformed::Command(other)),
    };
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::Incomplete) };
    // The family of LOCAL is ignored, as are its addresses; of UNSPEC nothing is said but the length.
    let addresses = if is_local { None } else { addresses(family, transport)? };
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(Parsed::Incomplete) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(Malformed::Long(length));
    }
    let fields = FIXED + addresses.unwrap_or(0);
    if length < fields {
        return Err(Malformed::Short(length));
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::Incomplete) };
    if addresses.is_none() {
        return Ok(Parsed::Header { length, told: None });
    }
    check_fields(header, fields)?;
    let (codec, _) = ProxyHeader::parse(header, CODEC).map_err(|_| Malformed::Transport(family))?;
    Ok(Parsed::Header { length, told: codec.proxied_address().map(told) })
}

/// How long the addresses are, of a family that may come over `transport`; `None` for one that has none.
fn addresses(family: u8, transport: Transport) -> Result<Option<usize>, Malformed> {
    let kind = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    match (family >> 4, family & 0x0F) {
        (0, 0) => Ok(None),
        (1, of) if of == kind => Ok(Some(2 * 4 + 2 * 2)),
        (2, of) if of == kind => Ok(Some(2 * 16 + 2 * 2)),
        // Paths of Unix sockets.
        (3, of) if of == kind => Ok(Some(2 * 108)),
        _ => Err(Malformed::Transport(family)),
    }
}

/// Checks what stands behind the addresses, from `at` on.
fn check_fields(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut checksum: Option<(usize, u32)> = None;
    while let Some(&kind) = header.get(at) {
        let broken = Malformed::Field(kind);
        let Some(&[_, high, low]) = header.get(at..at + FIELD_HEAD) else { return Err(broken) };
        let start = at + FIELD_HEAD;
        at = start + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(start..at).ok_or(broken)?;
        match Tlv::decode(kind, value).map_err(|_| broken)? {
            Tlv::Crc32c(said) if checksum.is_none() => checksum = Some((start, said)),
            // Each would be part of what the other sums up.
            Tlv::Crc32c(_) => return Err(broken),
            Tlv::UniqueId(id) if id.len() > LONGEST_ID => return Err(broken),
            Tlv::Ssl(ssl) if ssl.tlvs().any(|field| field.is_err()) => return Err(broken),
            _ => {}
        }
    }
    match checksum {
        Some((place, said)) if sum(header, place) != said => Err(Malformed::Checksum),
        _ => Ok(()),
    }
}

/// The checksum of a header whose own is at `place`, where zeros are summed up in its stead.
fn sum(header: &[u8], place: usize) -> u32 {
    let before = crc32c::crc32c(&header[..place]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &[0; 4]), &header[place + 4..])
}

pub(super) fn encode(told: Told, transport: Transport, unique_id: &str, mapping: Option<&str>) -> Vec<u8> {
    let protocol = match transport {
        Transport::Stream => Protocol::Stream,
        Transport::Datagram => Protocol::Datagram,
    };
    debug_assert!(unique_id.len() <= LONGEST_ID, "{unique_id} is too long for a field of type {UNIQUE_ID}");
    let id = Tlv::UniqueId(Cow::Borrowed(unique_id.as_bytes()));
    let name = mapping.map(|name| Tlv::Custom(TYPE_MAPPING, Cow::Borrowed(name.as_bytes())));
    let mut header = Vec::with_capacity(160);
    ProxyHeader::with_tlvs(Some(address(told, protocol)), [id].into_iter().chain(name))
        .encode_v2(&mut header)
        .expect("addresses of one family, and short fields");
    header
}
