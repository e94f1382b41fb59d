//! How the target learns who its client is: the ways that are measured, who of the contestants knows each of them, and
//! what the load's target has to be told then.

use serde::{Deserialize, Serialize};

use crate::contestants::Contestant::{self, Direct, Haproxy, Nginx, PlainPortolan, Portolan};

/// The addresses that clients appear under with [`Mode::Alias`], all local in the bench's own network namespace.
pub(crate) const ALIAS_POOL: &str = "198.18.0.0/15";

/// The one that peers are told to use: they have no table of clients, and the bench's clients have one address.
pub(crate) const ALIAS: &str = "198.18.7.7";

/// What is done besides passing bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Plain,
    /// A PROXY protocol line ahead of the stream.
    ProxyV1,
    /// A binary PROXY protocol header ahead of the stream, or of each datagram.
    ProxyV2,
    /// The client has an IPv4 address of its own towards the target.
    Alias,
    /// HTTP requests with fields that name the client.
    Http,
    /// HTTP requests are listed, and passed on as they are.
    Inspect,
}

/// What the target has to be told of its client. A load whose target is not told fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// A PROXY header of either version, which the target takes away.
    Header,
    /// The connection comes from the alias pool.
    Alias,
    /// X-Forwarded-For in each request.
    Field,
}

impl Mode {
    /// Whether `contestant` can do that.
    pub(crate) fn is_known_to(self, contestant: Contestant, is_udp: bool) -> bool {
        match (self, contestant) {
            (Self::Plain, contestant) => contestant != PlainPortolan && (contestant.does_udp() || !is_udp),
            // Packaged nginx knows the other fields of a log; HAProxy's goes to a syslog server, which is not here.
            (Self::Inspect, Haproxy) => false,
            // nginx sends one header for all datagrams of a flow, in a datagram of its own: that is other work. HAProxy
            // forwards no datagrams.
            (Self::ProxyV2, Nginx) | (_, Haproxy) => !is_udp,
            (_, contestant) => matches!(contestant, Direct | Portolan | PlainPortolan | Nginx),
        }
    }

    /// What the target is told by `contestant` in this mode.
    pub(crate) fn told_by(self, contestant: Contestant) -> Told {
        match self {
            _ if matches!(contestant, Direct | PlainPortolan) => Told::Nothing,
            Self::Plain | Self::Inspect => Told::Nothing,
            Self::ProxyV1 | Self::ProxyV2 => Told::Header,
            Self::Alias => Told::Alias,
            Self::Http => Told::Field,
        }
    }

    /// What a mapping of portolan's profile has more than a plain one.
    pub(crate) fn profile_field(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::ProxyV1 => r#", "identity": "proxy-v1""#,
            Self::ProxyV2 => r#", "identity": "proxy-v2""#,
            Self::Alias => r#", "identity": "alias""#,
            Self::Http => r#", "identity": "http""#,
            Self::Inspect => r#", "inspect": "http""#,
        }
    }

    /// How each is set up, in words.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::ProxyV1 => {
                "portolan: identity proxy-v1; nginx: proxy_protocol on; haproxy: send-proxy. The target takes the \
                 header away; there is none from direct and `portolan, none`."
            }
            Self::ProxyV2 => {
                "portolan: identity proxy-v2; nginx: proxy_protocol on, which is version 1, and TCP alone; haproxy: \
                 send-proxy-v2. The target takes the header away; there is none from direct and `portolan, none`."
            }
            Self::Alias => {
                "portolan: identity alias; nginx: proxy_bind, haproxy: source, both with one fixed address of the pool."
            }
            Self::Http => {
                "portolan: identity http; nginx: proxy_pass with keepalive; haproxy: mode http, http-reuse always; all set \
                 Forwarded, X-Forwarded-For, -Proto and -Host. `portolan, none` passes the same bytes on without a look."
            }
            Self::Inspect => {
                "portolan: inspect http; nginx: proxy_pass with keepalive and an access log. `portolan, none` passes \
                 the same bytes on without a look."
            }
        }
    }
}
