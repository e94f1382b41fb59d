//! Which fields a head has, in one look.

use hyper::HeaderMap;

/// Which fields there are that are looked for one by one. Most requests have none of them, and looking once is cheaper
/// than asking for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) has_host: bool,
    pub(super) has_expect: bool,
    pub(super) has_connection: bool,
    /// `Keep-Alive` or `Proxy-Connection`.
    pub(super) has_hop: bool,
    pub(super) has_te: bool,
    pub(super) has_upgrade: bool,
    pub(super) has_identity: bool,
}

impl Census {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let mut census = Self::default();
        for name in fields.keys() {
            match name.as_str() {
                "host" => census.has_host = true,
                "expect" => census.has_expect = true,
                "connection" => census.has_connection = true,
                "keep-alive" | "proxy-connection" => census.has_hop = true,
                "te" => census.has_te = true,
                "upgrade" => census.has_upgrade = true,
                other => census.has_identity |= is_of_identity(other).is_some(),
            }
        }
        census
    }
}

/// How a field of identity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Usual,
    /// Such as `x_forwarded_for`, which servers that make variables of names cannot tell from the real one.
    Variant,
}

/// Whether a field says who the client is. Names are in small letters here.
pub(super) fn is_of_identity(name: &str) -> Option<Spelling> {
    const KNOWN: [&str; 3] = ["x-forwarded", "forwarded", "x-real-ip"];
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f')) {
        return None;
    }
    let is_like = |known: &str, byte: u8, at: usize| match known.as_bytes()[at] {
        b'-' => !byte.is_ascii_alphanumeric(),
        letter => byte == letter,
    };
    for known in KNOWN {
        let begins = name.len() >= known.len()
            && name.bytes().take(known.len()).enumerate().all(|(at, byte)| is_like(known, byte, at));
        let rest = &name.as_bytes()[known.len().min(name.len())..];
        // `X-Forwarded-` with anything behind it.
        let is_whole = rest.is_empty() || known == "x-forwarded" && !rest[0].is_ascii_alphanumeric();
        if begins && is_whole {
            let is_usual = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            return Some(if is_usual { Spelling::Usual } else { Spelling::Variant });
        }
    }
    None
}
