//! What holds for bytes of those who speak before the client does.
//!
//! See [`crate::fuzzing`], which is the door to it.

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
