//! What holds for bytes of those who speak before the client does.
//!
//! See [`crate::fuzzing`], which is the door to it.

use super::http::{Asked, Follower, MAX_HEAD, Refusal, Seen, Strictness};
use super::proxy::{self, MOST, Malformed, Parsed, Transport};
use crate::model::fuzzing::assert_plain;

/// PROXY headers, of a stream and of a datagram.
pub(crate) fn proxy_headers(bytes: &[u8]) {
    for transport in [Transport::Stream, Transport::Datagram] {
        proxy_header(bytes, transport);
    }
}

fn proxy_header(bytes: &[u8], transport: Transport) {
    let result = proxy::parse(bytes, transport);
    match result {
        Ok(Parsed::Incomplete) => assert!(bytes.len() < MOST, "{} bytes and no end", bytes.len()),
        Ok(Parsed::Header { length, told }) => {
            assert!((1..=bytes.len().min(MOST)).contains(&length), "{length} bytes out of {}", bytes.len());
            assert_eq!(proxy::parse(&bytes[..length], transport), result, "what follows is none of its business");
            // Its first bytes, where the fields are, and all but its last.
            for cut in (0..length.min(128)).chain([length - 1]) {
                assert_eq!(proxy::parse(&bytes[..cut], transport), Ok(Parsed::Incomplete));
            }
            if let Some(told) = told {
                let again = proxy::version_2(told, transport, "id", None);
                assert_eq!(
                    proxy::parse(&again, transport),
                    Ok(Parsed::Header { length: again.len(), told: Some(told) })
                );
            }
        }
        Err(malformed) => {
            assert_refused(bytes, transport, malformed);
            let said = malformed.to_string();
            assert!(said.contains("PROXY"), "{said} says of what");
            assert_plain(&said);
        }
    }
}

/// No prefix of it is a header, and whoever is refused once stays so.
fn assert_refused(bytes: &[u8], transport: Transport, malformed: Malformed) {
    let mut is_refused = false;
    for cut in 0..bytes.len().min(256) {
        match proxy::parse(&bytes[..cut], transport) {
            Ok(Parsed::Incomplete) => assert!(!is_refused, "taken back after {cut} bytes"),
            other => {
                assert_eq!(other, Err(malformed));
                is_refused = true;
            }
        }
    }
}

/// HTTP/1.x: what was seen, how much was let through, and why no more.
type Followed = (Vec<String>, usize, Result<(), Refusal>);

/// Requests and responses, of both degrees of strictness.
pub(crate) fn http_messages(bytes: &[u8]) {
    for strictness in [Strictness::Gate, Strictness::Onlooker] {
        for is_requests in [true, false] {
            let follow = |size| followed(bytes, size, is_requests, strictness);
            let whole = follow(bytes.len().max(1));
            // However it is cut, it is the same.
            for size in [1, 3, 16].into_iter().filter(|_| bytes.len() < 4096) {
                assert_eq!(follow(size), whole, "in pieces of {size}");
            }
            if let (_, _, Err(refusal)) = whole {
                assert!((400..=431).contains(&refusal.status()));
                assert_plain(&refusal.to_string());
            }
        }
    }
}

fn followed(bytes: &[u8], size: usize, is_requests: bool, strictness: Strictness) -> Followed {
    let mut follower = if is_requests { Follower::requests(strictness) } else { Follower::responses(strictness) };
    // A response to each kind of request, as often as it takes.
    for nth in 0..bytes.len().min(64) {
        follower.ask(Asked { is_head: nth % 3 == 1, is_upgrade: nth % 3 == 2 });
    }
    let (mut kept, mut seen, mut passed) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        kept.extend_from_slice(piece);
        loop {
            let took = follower.follow(&kept, |what| {
                if let Seen::Request { method, target, .. } = what {
                    assert!(!method.is_empty() && !method.contains([' ', '\r', '\n']));
                    assert!(!target.is_empty() && !target.contains([' ', '\r', '\n']));
                }
                seen.push(format!("{what:?}"));
            });
            match took {
                Ok(0) => break,
                Ok(count) => {
                    passed += count;
                    kept.drain(..count);
                }
                Err(refusal) => return (seen, passed, Err(refusal)),
            }
        }
        assert!(follower.is_held() || kept.len() <= MAX_HEAD, "{} bytes wait", kept.len());
    }
    (seen, passed, Ok(()))
}
