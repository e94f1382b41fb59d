//! The fields of a request that say who its client is.
//!
//! What a client that is not trusted says of itself is removed: `Forwarded`, `X-Forwarded`, all of `X-Forwarded-*` and
//! `X-Real-IP`, in a head and in a trailer section, in every spelling that some server takes for the real one. Other
//! fields that products have invented for it (`True-Client-IP`, `CF-Connecting-IP`) pass: there is no end to them, and
//! whoever believes them has to take care of who can set them.
//!
//! A trusted proxy is believed in all of these, not in the address alone: what it says in `Forwarded` and
//! `X-Forwarded-For` is added to, `X-Forwarded-Proto` and `-Host` are ours only where it has none, and the others stay as
//! they are. So it must itself remove or replace what its clients send. Its odd spellings are removed.
//!
//! Fields of a hop are taken away before ours are set, so that none of ours can be named away by a `Connection` field.

use std::fmt::Write as _;
use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HOST, HeaderName, HeaderValue};

use super::census::{Census, Spelling, is_of_identity};
use super::hop::{Wishes, strip_hop_of_request};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Tells targets who the client of one connection is.
#[derive(Debug)]
pub(super) struct Teller {
    /// Whether what the client says of others is taken over.
    is_trusted: bool,
    /// `for="192.0.2.7:1234"`.
    node: String,
    /// The address alone.
    address: HeaderValue,
    /// The last host that was asked for, and our `Forwarded` for it.
    last: Option<(HeaderValue, HeaderValue)>,
}

impl Teller {
    pub(super) fn new(client: SocketAddr, is_trusted: bool) -> Self {
        let ip = client.ip().to_canonical();
        let port = client.port();
        let node = if ip.is_ipv6() { format!("for=\"[{ip}]:{port}\"") } else { format!("for=\"{ip}:{port}\"") };
        let address = HeaderValue::from_str(&ip.to_string()).expect("an address has no control character");
        Self { is_trusted, node, address, last: None }
    }

    /// Makes the fields of a request of the client those of one of ours. `authority` is the host where it stands outside
    /// of the fields, as it does in HTTP/2.
    pub(super) fn tell(
        &mut self,
        fields: &mut HeaderMap,
        census: Census,
        is_2: bool,
        authority: Option<&str>,
    ) -> Wishes {
        let wishes = strip_hop_of_request(fields, is_2, census);
        let theirs = self.strip_identity(fields, census);
        let host = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
        let host = host.or_else(|| fields.get(HOST).cloned());
        let ours = self.forwarded(host.as_ref());
        if let Some(Theirs { forwarded, addresses }) = theirs {
            fields.insert(FORWARDED, appended(forwarded, ours));
            fields.insert(X_FORWARDED_FOR, appended(addresses, self.address.clone()));
            fields.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
            if let Some(host) = host {
                fields.entry(X_FORWARDED_HOST).or_insert(host);
            }
        } else {
            fields.insert(FORWARDED, ours);
            fields.insert(X_FORWARDED_FOR, self.address.clone());
            fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
            if let Some(host) = host {
                fields.insert(X_FORWARDED_HOST, host);
            }
        }
        wishes
    }

    /// Removes from a trailer section what would be believed in a head.
    pub(super) fn strip_trailers(fields: &mut HeaderMap) {
        remove_where(fields, |name| is_of_identity(name).is_some());
    }

    /// Removes what is said of the client, or of a trusted one takes out what is added to.
    fn strip_identity(&self, fields: &mut HeaderMap, census: Census) -> Option<Theirs> {
        if !self.is_trusted {
            if census.has_identity {
                remove_where(fields, |name| is_of_identity(name).is_some());
            }
            return None;
        }
        if census.has_identity {
            // A spelling that a proxy would not use has come through it from somebody else.
            remove_where(fields, |name| is_of_identity(name) == Some(Spelling::Variant));
        }
        let joined = |name: &HeaderName| joined(fields, name);
        Some(Theirs { forwarded: joined(&FORWARDED), addresses: joined(&X_FORWARDED_FOR) })
    }

    fn forwarded(&mut self, host: Option<&HeaderValue>) -> HeaderValue {
        match (&self.last, host) {
            (Some((last, forwarded)), Some(host)) if last == host => return forwarded.clone(),
            _ => {}
        }
        let mut text = self.node.clone();
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            text.push_str(";host=\"");
            for c in host.chars() {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
        }
        // Writing to a string does not fail.
        let _ = write!(text, ";proto=http");
        let forwarded = HeaderValue::from_str(&text).expect("a host and an address have no control character");
        self.last = host.map(|host| (host.clone(), forwarded.clone()));
        forwarded
    }
}

/// What a trusted proxy has said.
struct Theirs {
    forwarded: Option<Vec<u8>>,
    addresses: Option<Vec<u8>>,
}

/// All fields of that name as one.
fn joined(fields: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut values = fields.get_all(name).iter();
    let mut all = values.next()?.as_bytes().to_vec();
    for value in values {
        all.extend_from_slice(b", ");
        all.extend_from_slice(value.as_bytes());
    }
    Some(all)
}

fn appended(theirs: Option<Vec<u8>>, ours: HeaderValue) -> HeaderValue {
    let Some(mut all) = theirs else { return ours };
    all.extend_from_slice(b", ");
    all.extend_from_slice(ours.as_bytes());
    HeaderValue::from_maybe_shared(all).unwrap_or(ours)
}

/// Removes the fields of some names.
pub(super) fn remove_where(fields: &mut HeaderMap, which: impl Fn(&str) -> bool) {
    // Mostly there are none, which takes no memory.
    let names: Vec<HeaderName> = fields.keys().filter(|name| which(name.as_str())).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONNECTION, TE, UPGRADE};

    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn tell(teller: &mut Teller, fields: &mut HeaderMap) -> Wishes {
        teller.tell(fields, Census::of(fields), false, None)
    }

    fn told(client: &str, is_trusted: bool, lines: &[(&'static str, &str)]) -> Vec<String> {
        let mut fields = fields(lines);
        tell(&mut Teller::new(client.parse().unwrap(), is_trusted), &mut fields);
        let mut lines: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_target_learns_the_client_in_all_usual_ways() {
        assert_eq!(
            told("[2001:db8::1]:1234", false, &[("host", "a.example:8080")]),
            [
                r#"forwarded: for="[2001:db8::1]:1234";host="a.example:8080";proto=http"#,
                "host: a.example:8080",
                "x-forwarded-for: 2001:db8::1",
                "x-forwarded-host: a.example:8080",
                "x-forwarded-proto: http",
            ]
        );
        assert_eq!(
            told("[::ffff:192.0.2.7]:99", false, &[]),
            [r#"forwarded: for="192.0.2.7:99";proto=http"#, "x-forwarded-for: 192.0.2.7", "x-forwarded-proto: http"]
        );
    }

    #[test]
    fn what_a_stranger_says_of_itself_is_removed_in_every_spelling() {
        let spoofed = [
            ("forwarded", "for=evil"),
            ("x-forwarded-for", "evil"),
            ("x_forwarded_for", "evil"),
            ("x-forwarded_for", "evil"),
            ("x.forwarded.for", "evil"),
            ("x-forwarded-port", "evil"),
            ("x-forwarded", "evil"),
            ("x-real-ip", "evil"),
            ("x_real_ip", "evil"),
            ("x-forwarded-for", "evil again"),
        ];
        let lines = told("192.0.2.7:99", false, &spoofed);
        assert!(!lines.join("\n").contains("evil"), "{lines:?}");
        let harmless = [("x-forward", "1"), ("x-forwardedness", "1"), ("forwarded-by", "1"), ("x-real-ipp", "1")];
        assert_eq!(told("192.0.2.7:99", false, &harmless).len(), harmless.len() + 3);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_added_to() {
        let lines = [
            ("host", "inner"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
            ("x_forwarded_for", "evil"),
            ("x-real-ip", "203.0.113.9"),
        ];
        assert_eq!(
            told("192.0.2.7:99", true, &lines),
            [
                r#"forwarded: for=10.0.0.1, for="192.0.2.7:99";host="inner";proto=http"#,
                "host: inner",
                "x-forwarded-for: 203.0.113.9, 10.0.0.1, 192.0.2.7",
                "x-forwarded-host: a.example",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.9",
            ]
        );
    }

    #[test]
    fn fields_of_a_hop_stay_at_the_hop_and_ours_cannot_be_named_away() {
        let lines = [
            ("connection", "keep-alive, x-forwarded-for, X-Private, host, content-length"),
            ("host", "a"),
            ("content-length", "0"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, gzip"),
            ("x-private", "1"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
        ];
        let lines = told("192.0.2.7:99", false, &lines);
        let names: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "connection",
                "content-length",
                "forwarded",
                "host",
                "te",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
        assert!(lines.contains(&"connection: te".to_owned()) && lines.contains(&"te: trailers".to_owned()));
    }

    #[test]
    fn a_member_that_is_no_text_hides_no_other_one_of_its_list() {
        let mut asks = fields(&[("http2-settings", "AAA"), ("x-private", "1")]);
        for (name, value) in [
            (UPGRADE, &b"h2c, \xff"[..]),
            (CONNECTION, b"Upgrade, \xff, X-Private, HTTP2-Settings"),
            (TE, b"\xff, trailers"),
        ] {
            asks.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let wishes = tell(&mut Teller::new("192.0.2.7:99".parse().unwrap(), false), &mut asks);
        assert!(!wishes.upgrade);
        for name in ["upgrade", "http2-settings", "x-private"] {
            assert!(!asks.contains_key(name), "{name}: {asks:?}");
        }
        assert_eq!((&asks[TE], &asks[CONNECTION]), (&"trailers".parse().unwrap(), &"te".parse().unwrap()));
    }

    #[test]
    fn another_protocol_is_asked_for_as_the_client_does() {
        let mut asks = fields(&[("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket")]);
        let mut teller = Teller::new("192.0.2.7:99".parse().unwrap(), false);
        assert!(tell(&mut teller, &mut asks).upgrade);
        assert_eq!(
            (&asks[CONNECTION], &asks[UPGRADE]),
            (&HeaderValue::from_static("upgrade"), &HeaderValue::from_static("websocket"))
        );
        for lines in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
        ] {
            let mut asks = fields(lines);
            assert!(!tell(&mut teller, &mut asks).upgrade && !asks.contains_key(UPGRADE), "{lines:?}");
        }
    }
}
