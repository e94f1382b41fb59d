//! How the container learns who its client is: the ways that a mapping can choose from, in words and as data.
//!
//! A proxy opens its own connection to the container, so without help every client has the host's address there. Which
//! protocol carries what is checked by [`super::config`].

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mapping::Protocol;

/// The pool of alias addresses, where a mapping names none: 198.18.0.0/15, set aside for benchmarks (RFC 2544), so nobody
/// on the Internet has an address of it.
pub const DEFAULT_ALIAS_POOL: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15));

/// How the target learns who its client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Not at all: every client has this host's address.
    #[default]
    None,
    /// By a line of text ahead of the stream (PROXY protocol, version 1).
    ProxyV1,
    /// By a binary header ahead of the stream, or of each datagram (PROXY protocol, version 2).
    ProxyV2,
    /// By fields of each HTTP request: Forwarded (RFC 7239), X-Forwarded-For, -Proto and -Host.
    Http,
    /// By the address: each client has one of its own out of a pool, always the same.
    Alias,
}

/// What is looked for in the traffic, which is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Inspect {
    /// HTTP requests: method, path, status, time.
    Http,
}

impl Identity {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Self; 5] = [Self::None, Self::ProxyV1, Self::ProxyV2, Self::Http, Self::Alias];

    /// As a profile writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ProxyV1 => "proxy-v1",
            Self::ProxyV2 => "proxy-v2",
            Self::Http => "http",
            Self::Alias => "alias",
        }
    }

    /// Whether it can be had with `protocol`. SCTP has messages, which a header ahead of the stream would become one of.
    pub fn goes_with(self, protocol: Protocol) -> bool {
        match self {
            Self::None => true,
            Self::ProxyV1 | Self::Http => protocol == Protocol::Tcp,
            Self::ProxyV2 | Self::Alias => protocol != Protocol::Sctp,
        }
    }

    /// What the container sees of a client, in one line.
    pub fn seen_as(self) -> &'static str {
        match self {
            Self::None => "the container sees this host's address for every client",
            Self::ProxyV1 => {
                "the container reads the client's address from a PROXY v1 line; its server must expect one"
            }
            Self::ProxyV2 => {
                "the container reads the client's address from a PROXY v2 header; its server must expect one"
            }
            Self::Http => "each HTTP request names its client in Forwarded and X-Forwarded-For",
            Self::Alias => "the container sees each client as an IPv4 address of its own; needs a route once",
        }
    }
}

/// Whether `ip` is in one of `networks`.
pub fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    // A client of IPv4 may come by an IPv6 socket; it is in the networks of either.
    let plain = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip) || network.contains(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_cross() {
        for identity in Identity::ALL {
            assert_eq!(serde_json::to_value(identity).unwrap(), identity.word());
        }
        assert_eq!(DEFAULT_ALIAS_POOL.to_string(), "198.18.0.0/15");
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_in_the_networks_of_ipv4() {
        let networks = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (ip, is_in) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("fd00::1", true), ("11.0.0.1", false)] {
            assert_eq!(contains(&networks, ip.parse().unwrap()), is_in, "{ip}");
        }
    }
}
