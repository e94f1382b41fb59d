//! Version 1: a line of text.

use proxy_header::{ParseConfig, Protocol, ProxyHeader};

use super::{Malformed, Parsed, Told, address, agrees, told};

const GREETING: &[u8] = b"PROXY ";
/// The longest line with its CRLF.
const LONGEST: usize = 107;
const CODEC: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: false };

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !agrees(bytes, GREETING) {
        return Err(Malformed::Absent);
    }
    let line = &bytes[..bytes.len().min(LONGEST)];
    let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let text = &line[..end.unwrap_or(line.len())];
    check_so_far(text)?;
    let Some(end) = end else { return unended(line) };
    match (line[end], line.get(end + 1)) {
        (b'\r', Some(b'\n')) => whole(&bytes[..end + 2], text),
        (b'\r', None) => unended(line),
        _ => Err(Malformed::LineEnd),
    }
}

/// There is more to come, if there may be.
fn unended(line: &[u8]) -> Result<Parsed, Malformed> {
    if line.len() < LONGEST { Ok(Parsed::Incomplete) } else { Err(Malformed::Endless) }
}

/// What can be said of a line before its end has come.
fn check_so_far(text: &[u8]) -> Result<(), Malformed> {
    let Some(rest) = text.get(GREETING.len()..) else { return Ok(()) };
    if agrees(rest, b"UNKNOWN") {
        // Another word may begin like it. What follows is to be ignored, and is a line of ASCII all the same.
        let is_it = rest.get(7).is_none_or(|byte| *byte == b' ');
        let refused = if is_it { Malformed::Fields } else { Malformed::Family };
        return if is_it && text.is_ascii() { Ok(()) } else { Err(refused) };
    }
    if !agrees(rest, b"TCP4 ") && !agrees(rest, b"TCP6 ") {
        return Err(Malformed::Family);
    }
    let may_be = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b' ' | b'.' | b':');
    if rest.get(5..).is_none_or(|fields| fields.iter().all(may_be)) { Ok(()) } else { Err(Malformed::Fields) }
}

/// A line with its end, as `header`, and without, as `text`.
fn whole(header: &[u8], text: &[u8]) -> Result<Parsed, Malformed> {
    let length = header.len();
    let rest = text.get(GREETING.len()..).ok_or(Malformed::Absent)?;
    if rest.starts_with(b"UNKNOWN") {
        return Ok(Parsed::Header { length, told: None });
    }
    let Some((b"TCP4 " | b"TCP6 ", fields)) = rest.split_at_checked(5) else { return Err(Malformed::Family) };
    let mut fields = fields.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(source), Some(destination), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed::Fields);
    };
    let (header, _) = ProxyHeader::parse(header, CODEC).map_err(|_| Malformed::Fields)?;
    let address = header.proxied_address().ok_or(Malformed::Fields)?;
    // Numbers have more than one text (`+80`, `080`) for the codec.
    let is_plain = |text: &[u8], port: u16| text == port.to_string().as_bytes();
    if is_plain(source, address.source.port()) && is_plain(destination, address.destination.port()) {
        Ok(Parsed::Header { length, told: Some(told(address)) })
    } else {
        Err(Malformed::Fields)
    }
}

pub(super) fn encode(told: Told) -> Vec<u8> {
    let mut line = Vec::with_capacity(LONGEST);
    ProxyHeader::with_address(address(told, Protocol::Stream))
        .encode_v1(&mut line)
        .expect("a stream's addresses of one family have a line");
    line
}
