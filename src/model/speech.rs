//! What the first bytes of each side of a connection say of the language that it speaks. Pure.

use serde::{Deserialize, Serialize};

/// What a side has said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A TLS handshake.
    Tls,
    /// A TLS alert: it did not understand, and said so in TLS.
    TlsAlert,
    /// An answer of HTTP that says that it wants TLS.
    WantsTls,
    /// Anything else.
    Plain,
}

/// One conversation: what each side has said first; `None`: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// The client.
    pub client: Option<Said>,
    /// The target.
    pub target: Option<Said>,
}

/// How far into an answer it is looked for what servers say to plain HTTP on a TLS port.
const LOOKED_AT: usize = 1024;

impl Said {
    /// From the first bytes that were received together; `None` when there are none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [] => return None,
            // The record type, and the version of any TLS (and SSL 3).
            [0x16, 3, 0..=4, ..] => Self::Tls,
            [0x15, 3, 0..=4, ..] => Self::TlsAlert,
            [b'H', b'T', b'T', b'P', b'/', ..] if wants_tls(&bytes[..bytes.len().min(LOOKED_AT)]) => Self::WantsTls,
            _ => Self::Plain,
        })
    }
}

/// What nginx, Go, Apache and their kin say to plain HTTP on a port for TLS.
fn wants_tls(answer: &[u8]) -> bool {
    let is_refusal = answer.get(8..12) == Some(b" 400");
    let says = |words: &[u8]| answer.windows(words.len()).any(|window| window.eq_ignore_ascii_case(words));
    is_refusal && [&b"https port"[..], b"https server", b"ssl-enabled", b"tls port"].iter().any(|words| says(words))
}

impl Conversation {
    /// The client spoke TLS, and the target did not answer in it.
    pub fn is_tls_to_plain(self) -> bool {
        self.client == Some(Said::Tls) && !matches!(self.target, Some(Said::Tls | Said::TlsAlert))
    }

    /// The client spoke plainly, and the target answered as one that wants TLS; or hung up without a word, which
    /// many do then, and others for other reasons.
    pub fn is_plain_to_tls(self) -> bool {
        let answer = matches!(self.target, None | Some(Said::TlsAlert | Said::WantsTls));
        matches!(self.client, Some(Said::Plain)) && answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_tls_from_everything_else() {
        let cases: [(&[u8], Option<Said>); 9] = [
            (b"", None),
            (b"\x16\x03\x01\x02\x00", Some(Said::Tls)),
            (b"\x15\x03\x03\x00\x02\x02\x0a", Some(Said::TlsAlert)),
            (b"\x16", Some(Said::Plain)),
            (b"\x16\x05\x01", Some(Said::Plain)),
            (b"GET / HTTP/1.1\r\n", Some(Said::Plain)),
            (b"HTTP/1.1 200 OK\r\n\r\nhttps port", Some(Said::Plain)),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n<title>400 The plain HTTP request was sent to HTTPS port</title>",
                Some(Said::WantsTls),
            ),
            (
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
                Some(Said::WantsTls),
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Said::of(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_conversation_in_one_language_is_no_evidence() {
        let of = |client, target| Conversation { client, target };
        assert!(of(Some(Said::Tls), Some(Said::Plain)).is_tls_to_plain());
        assert!(of(Some(Said::Tls), None).is_tls_to_plain());
        assert!(!of(Some(Said::Tls), Some(Said::Tls)).is_tls_to_plain());
        assert!(of(Some(Said::Plain), Some(Said::TlsAlert)).is_plain_to_tls());
        assert!(of(Some(Said::Plain), Some(Said::WantsTls)).is_plain_to_tls());
        assert!(!of(Some(Said::Plain), Some(Said::Plain)).is_plain_to_tls());
        assert!(!of(None, None).is_tls_to_plain() && !of(None, None).is_plain_to_tls());
    }
}
