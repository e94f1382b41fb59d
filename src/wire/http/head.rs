//! What a head says of its message: how long the body is, and whether everybody would say the same.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::{Asked, MAX_CHUNK_LINE, MAX_FIELDS, Refusal, Seen, Strictness};

/// Digits of a length that fits into 64 bits whatever they are.
const MAX_LENGTH_DIGITS: usize = 18;
/// Digits of the size of a chunk.
const MAX_SIZE_DIGITS: usize = 15;

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    UntilEnd,
}

/// What matters of a request's head.
pub(super) struct Head {
    pub(super) body: Body,
    pub(super) is_upgrade: bool,
}

/// What the fields say of the framing and the host.
#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    is_chunked: bool,
    host: Option<&'a [u8]>,
    hosts: usize,
    has_upgrade: bool,
    is_connection_upgrade: bool,
}

/// Takes the whole head of a request apart.
pub(super) fn request(bytes: &[u8], strictness: Strictness, see: &mut impl FnMut(Seen<'_>)) -> Result<Head, Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut fields)? {
        Status::Complete(length) if length == bytes.len() => {}
        // It has ended elsewhere than we think.
        _ => return Err(Refusal::LineEnd),
    }
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Err(Refusal::Malformed(httparse::Error::Token));
    };
    let fields = Fields::of(head.headers, version, strictness)?;
    if method == "CONNECT" {
        // What follows is not HTTP, or is: that is the server's to say.
        return Err(Refusal::Connect);
    }
    if strictness == Strictness::Gate {
        fields.check_host(version, authority(method, target)?)?;
    }
    let is_upgrade = version == 1 && fields.has_upgrade && fields.is_connection_upgrade;
    see(Seen::Request { method, target, asked: Asked { is_head: method == "HEAD", is_upgrade } });
    let body = if fields.is_chunked { Body::Chunked } else { Body::Length(fields.length.unwrap_or(0)) };
    Ok(Head { body, is_upgrade })
}

/// Takes the whole head of a response apart.
pub(super) fn response(bytes: &[u8], asked: Asked, strictness: Strictness) -> Result<(u16, Body), Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    if !bytes.starts_with(b"HTTP/") {
        return Err(Refusal::Malformed(httparse::Error::Version));
    }
    match ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, &mut fields)? {
        Status::Complete(length) if length == bytes.len() => {}
        _ => return Err(Refusal::LineEnd),
    }
    let (Some(status @ 100..=999), Some(version)) = (head.code, head.version) else {
        return Err(Refusal::Malformed(httparse::Error::Status));
    };
    let fields = Fields::of(head.headers, version, strictness)?;
    let body = match status {
        101 if !asked.is_upgrade => return Err(Refusal::UnaskedUpgrade),
        100..200 | 204 | 304 => Body::Length(0),
        _ if asked.is_head => Body::Length(0),
        _ if fields.is_chunked => Body::Chunked,
        _ => fields.length.map_or(Body::UntilEnd, Body::Length),
    };
    Ok((status, body))
}

/// The authority of a target in absolute form; `None` where it is a path.
fn authority<'a>(method: &str, target: &'a str) -> Result<Option<&'a str>, Refusal> {
    if target.starts_with('/') || target == "*" && method == "OPTIONS" {
        return Ok(None);
    }
    let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::Target);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() { Err(Refusal::Target) } else { Ok(Some(authority)) }
}

impl<'a> Fields<'a> {
    fn of(fields: &[Header<'a>], version: u8, strictness: Strictness) -> Result<Self, Refusal> {
        let is_gate = strictness == Strictness::Gate;
        let mut said = Self::default();
        let mut has_coding = false;
        for Header { name, value } in fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            match name.len() {
                4 if is("host") => {
                    said.hosts += 1;
                    said.host = Some(value);
                }
                7 if is("upgrade") => said.has_upgrade = true,
                10 if is("connection") => {
                    said.is_connection_upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
                }
                14 if is("content-length") => {
                    let length = length(value)?;
                    // Who only looks on takes one that is said twice.
                    if said.length.replace(length).is_some_and(|before| is_gate || before != length) {
                        return Err(Refusal::Length);
                    }
                }
                17 if is("transfer-encoding") => {
                    if std::mem::replace(&mut has_coding, true) || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::Coding);
                    }
                    if version == 0 {
                        return Err(Refusal::Coding);
                    }
                    said.is_chunked = true;
                }
                14 | 17 if is_gate && is_look_alike(name) => return Err(Refusal::LookAlike),
                _ => {}
            }
        }
        if said.is_chunked && said.length.is_some() {
            return Err(Refusal::LengthAndCoding);
        }
        Ok(said)
    }

    fn check_host(&self, version: u8, authority: Option<&str>) -> Result<(), Refusal> {
        match (self.hosts, version) {
            (0, 0) => return Ok(()),
            (1, _) => {}
            _ => return Err(Refusal::Hosts),
        }
        let host = self.host.unwrap_or_default();
        let is_contradicted = authority.is_some_and(|authority| !authority.as_bytes().eq_ignore_ascii_case(host));
        if is_contradicted || !host.iter().all(|byte| is_of_host(*byte)) { Err(Refusal::Host) } else { Ok(()) }
    }
}

/// The members of a list, without the blanks around them.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Of a name, an address with or without brackets, a port, or what RFC 3986 takes for a name.
pub(crate) fn is_of_host(byte: u8) -> bool {
    let is_mark = matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*');
    byte.is_ascii_alphanumeric() || is_mark || matches!(byte, b'+' | b';' | b'=' | b':' | b'[' | b']')
}

/// Whether a server that makes variables of names would take it for one that delimits messages.
pub(crate) fn is_look_alike(name: &str) -> bool {
    let is = |known: &str| {
        name.len() == known.len()
            && name.bytes().zip(known.bytes()).all(|(byte, known)| {
                byte.eq_ignore_ascii_case(&known) || known == b'-' && !byte.is_ascii_alphanumeric()
            })
    };
    is("content-length") || is("transfer-encoding")
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    let is_odd = value.is_empty()
        || value.len() > MAX_LENGTH_DIGITS
        || !value.iter().all(u8::is_ascii_digit)
        || value.len() > 1 && value[0] == b'0';
    if is_odd {
        return Err(Refusal::Length);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The size of the chunk that begins with `bytes`, and how long the line is that gives it; `None` while that is not whole.
pub(super) fn chunk_size(bytes: &[u8], strictness: Strictness) -> Result<Option<(usize, u64)>, Refusal> {
    let Some(end) = bytes.iter().take(MAX_CHUNK_LINE).position(|byte| *byte == b'\n').map(|at| at + 1) else {
        // What has come must be able to become one, so that a stream of rubbish is not waited for.
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let is_odd = digits > MAX_SIZE_DIGITS || bytes.get(digits).is_some_and(|byte| !b"; \t\r".contains(byte));
        return if is_odd || bytes.len() >= MAX_CHUNK_LINE { Err(Refusal::Chunk) } else { Ok(None) };
    };
    let line = &bytes[..end];
    let text = line.strip_suffix(b"\r\n").ok_or(Refusal::LineEnd)?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let is_extension = match text.get(digits) {
        None => true,
        Some(b';') => text[digits..].iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()),
        // Some servers pad the size.
        Some(b' ') => strictness == Strictness::Onlooker,
        Some(_) => false,
    };
    if !(1..=MAX_SIZE_DIGITS).contains(&digits) || !is_extension {
        return Err(Refusal::Chunk);
    }
    match httparse::parse_chunk_size(line) {
        Ok(Status::Complete((length, size))) if length == end => Ok(Some((length, size))),
        _ => Err(Refusal::Chunk),
    }
}

/// Whether a field has no place in a trailer section.
pub(crate) fn is_of_head(name: &str) -> bool {
    ["host", "connection", "upgrade", "content-length", "transfer-encoding", "trailer", "te"]
        .iter()
        .any(|of_head| name.eq_ignore_ascii_case(of_head))
        || is_look_alike(name)
}

/// Looks through a whole trailer section.
pub(super) fn trailers(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes == b"\r\n" {
        return Ok(());
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == bytes.len() => {
            if fields.iter().any(|field| is_of_head(field.name)) { Err(Refusal::Trailer) } else { Ok(()) }
        }
        Err(httparse::Error::TooManyHeaders) => Err(Refusal::TooManyFields),
        _ => Err(Refusal::Trailer),
    }
}
