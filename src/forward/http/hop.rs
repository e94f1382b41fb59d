//! Fields that are the affair of one hop (RFC 9110, 7.6.1): what is said to us alone goes no further.
//!
//! `Transfer-Encoding` is the library's matter: what it sends says how it is framed.

use hyper::HeaderMap;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, TE, UPGRADE};

use super::census::Census;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What `Connection` cannot name away: it would change where the message goes or ends.
const NOT_OF_A_HOP: [&str; 5] = ["content-length", "host", "te", "transfer-encoding", "upgrade"];

/// What a request wants of its hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Another protocol, which is not HTTP/2.
    pub(super) upgrade: bool,
}

/// Takes away what was for us alone, and says what of it is to be asked for again.
pub(super) fn strip_hop_of_request(fields: &mut HeaderMap, is_2: bool, census: Census) -> Wishes {
    if !(census.has_connection || census.has_hop || census.has_te || census.has_upgrade) {
        return Wishes::default();
    }
    let takes_trailers = census.has_te
        && fields.get_all(TE).iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")));
    let named = take_hop(fields, census);
    let upgrade = census.has_upgrade && wanted_upgrade(fields, named.wants_upgrade);
    if census.has_te {
        fields.remove(TE);
    }
    if upgrade {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if census.has_upgrade {
        fields.remove(UPGRADE);
        fields.remove(HTTP2_SETTINGS);
    }
    if takes_trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
        if !is_2 {
            fields.append(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    Wishes { upgrade }
}

/// As it was asked for, if it is not HTTP/2: that is spoken from the first byte on, or not at all.
fn wanted_upgrade(fields: &HeaderMap, is_named: bool) -> bool {
    is_named
        && fields.contains_key(UPGRADE)
        && !fields.get_all(UPGRADE).iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"h2c")))
}

/// Takes away what the target said to us alone. An offer of another protocol goes with the status that makes it.
pub(super) fn strip_hop_of_response(fields: &mut HeaderMap, is_offer: bool) {
    let census = Census::of(fields);
    take_hop(fields, census);
    if is_offer {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if census.has_upgrade {
        fields.remove(UPGRADE);
    }
}

/// Adds the head of an interim response (1xx) to `passed`, without what the target said to us alone. It has no body, so what
/// it says of one goes too: who believed that would wait for it.
pub(super) fn strip_hop_of_interim(head: &[u8], passed: &mut Vec<u8>) {
    const OF_A_HOP: [&[u8]; 7] = [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"upgrade",
        b"trailer",
        b"content-length",
        b"transfer-encoding",
    ];
    let lines = || head.split_inclusive(|byte| *byte == b'\n');
    let mut named: Vec<&[u8]> = OF_A_HOP.to_vec();
    for (name, value) in lines().skip(1).filter_map(field_of) {
        if name.eq_ignore_ascii_case(b"connection") {
            named.extend(value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
        }
    }
    for (nth, line) in lines().enumerate() {
        let is_of_a_hop = nth > 0
            && field_of(line).is_some_and(|(name, _)| named.iter().any(|other| name.eq_ignore_ascii_case(other)));
        if !is_of_a_hop {
            passed.extend_from_slice(line);
        }
    }
}

/// The name and the value of a line that was looked at before.
fn field_of(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], &line[colon + 1..]))
}

/// What `Connection` names.
#[derive(Default)]
struct Named {
    names: Vec<HeaderName>,
    wants_upgrade: bool,
}

/// Takes away the fields of the hop and those that `Connection` names.
fn take_hop(fields: &mut HeaderMap, census: Census) -> Named {
    let mut named = Named::default();
    if census.has_hop {
        fields.remove(KEEP_ALIVE);
        fields.remove(PROXY_CONNECTION);
    }
    if !census.has_connection {
        return named;
    }
    for token in fields.get_all(CONNECTION).iter().filter(|value| !is_plain(value)).flat_map(tokens) {
        if token.eq_ignore_ascii_case(b"upgrade") {
            named.wants_upgrade = true;
        } else if !["close", "keep-alive"]
            .iter()
            .chain(&NOT_OF_A_HOP)
            .any(|other| token.eq_ignore_ascii_case(other.as_bytes()))
        {
            named.names.extend(HeaderName::from_bytes(token));
        }
    }
    fields.remove(CONNECTION);
    for name in &named.names {
        fields.remove(name);
    }
    named
}

/// Whether it says only what the library has heard already, as it mostly does.
fn is_plain(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// The members of a list, each by itself: one that is no text hides none of the others.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_response_says_nothing_of_the_hop_nor_of_a_body() {
        let mut passed = b"before".to_vec();
        let head = b"HTTP/1.1 103 Early Hints\r\nLink: </a:b>; rel=preload\r\nContent-Length: 5\r\nCONNECTION: close, x-own\r\n\
            transfer-encoding: chunked\r\nX-Own: 1\r\nUpgrade: x\r\nX-Other: 2\r\n\r\n";
        strip_hop_of_interim(head, &mut passed);
        let rest = b"beforeHTTP/1.1 103 Early Hints\r\nLink: </a:b>; rel=preload\r\nX-Other: 2\r\n\r\n";
        assert_eq!(passed, rest);
    }
}
