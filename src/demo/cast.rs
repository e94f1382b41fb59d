//! Who takes part: mappings, clients, and who else holds ports.

use std::net::SocketAddr;

use crate::model::untrusted::SafeText;

/// A client that is there when the story begins, or comes in its course.
pub(super) struct Part {
    /// Name of its mapping.
    pub(super) mapping: &'static str,
    /// Its address.
    pub(super) client: &'static str,
    /// The address that it dialled.
    pub(super) listener: &'static str,
    /// Its process, where it is local.
    pub(super) process: Option<&'static str>,
    /// How long before the present it came.
    pub(super) age_ms: u64,
    /// Bytes at the beginning, and about how many come each second: from the client, to the client.
    pub(super) bytes: (u64, u64),
    /// See above.
    pub(super) rates: (u64, u64),
    /// The client has finished sending.
    pub(super) is_half: bool,
}

/// The connections of the beginning, in the order in which they were opened.
pub(super) const PARTS: [Part; 8] = [
    part("web", "198.51.100.7:60090", "192.0.2.10:8080", None, 190_000, (312, 0), (0, 0), true),
    part(
        "web",
        "[::1]:41534",
        "[::1]:8080",
        Some("curl 4242"),
        123_000,
        (380_000, 700_000),
        (12_000, 1_050_000),
        false,
    ),
    part("api", "127.0.0.1:52110", "127.0.0.1:9000", Some("node 4810"), 95_000, (5_120, 88_400), (0, 0), false),
    part("api", "127.0.0.1:52116", "127.0.0.1:9000", Some("node 4810"), 94_000, (2_048, 12_300), (0, 0), false),
    part(
        "web",
        "[2001:db8:2::41]:51520",
        "[2001:db8:2::2]:8080",
        None,
        74_000,
        (9_000, 1_200),
        (326_000, 88_000),
        false,
    ),
    part("web", "198.51.100.7:60112", "192.0.2.10:8080", None, 61_000, (312, 512), (0, 0), false),
    part("web", "[2001:db8:2::41]:51544", "[2001:db8:2::2]:8080", None, 60_500, (0, 0), (0, 0), false),
    part("web", "[2001:db8:9::7]:40022", "[2001:db8:2::2]:8080", None, 60_200, (1_000, 0), (0, 0), false),
];

#[allow(clippy::too_many_arguments, reason = "one line of the table above")]
const fn part(
    mapping: &'static str,
    client: &'static str,
    listener: &'static str,
    process: Option<&'static str>,
    age_ms: u64,
    bytes: (u64, u64),
    rates: (u64, u64),
    is_half: bool,
) -> Part {
    Part { mapping, client, listener, process, age_ms, bytes, rates, is_half }
}

/// The mappings of the beginning: name, mapping, enabled.
pub(super) const MAPPINGS: [(&str, &str, bool); 4] = [
    ("web", "any:8080:web_1:80", true),
    ("api", "localhost:9000:api_1:9000", true),
    ("web-tls", "any:8443:web_1:443", true),
    ("dns", "localhost:5353:dns_1:53/udp", false),
];

/// Sockets of others: address, and who holds it.
const HELD: [(&str, &str); 8] = [
    ("0.0.0.0:80", "nginx (pid 123, www)"),
    ("[::]:80", "nginx (pid 123, www)"),
    ("[::1]:9000", "node (pid 812)"),
    ("127.0.0.1:5432", "postgres (pid 700, postgres)"),
    ("[::1]:5432", "postgres (pid 700, postgres)"),
    ("127.0.0.1:8082", "vite (pid 5120)"),
    ("0.0.0.0:3000", "docker-proxy (pid 930, root)"),
    ("[::]:3000", "docker-proxy (pid 937, root)"),
];

/// Sockets of others, with their holders.
pub(super) fn held() -> Vec<(SocketAddr, SafeText)> {
    HELD.iter().filter_map(|(address, holder)| Some((address.parse().ok()?, SafeText::new(holder)))).collect()
}

/// How the rates swing from second to second, in percent.
const SWING: [u64; 24] =
    [62, 55, 60, 72, 85, 97, 104, 100, 92, 80, 71, 66, 70, 88, 97, 112, 131, 150, 158, 141, 128, 104, 90, 71];

/// The share of its usual rate that something has at a moment, in percent.
pub(super) fn swing(at_ms: u64, shift: u64) -> u64 {
    let at = usize::try_from(at_ms / 1000 + shift).unwrap_or(0);
    SWING[at % SWING.len()]
}
