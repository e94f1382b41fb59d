//! The way to an address as the kernel would take it, and whether the neighbour on that way answers. Nothing is
//! sent: the kernel looks it up in its tables.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;

use super::netlink::{Attributes, Netlink, attribute, encoded, ip, u16_at, u32_at};
use crate::model::untrusted::SafeText;

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The address is of this host.
    pub is_local: bool,
    /// By which interface.
    pub interface: SafeText,
    /// Its index.
    pub index: u32,
    /// The router, if there is one between.
    pub gateway: Option<IpAddr>,
    /// Our address on that way.
    pub source: Option<IpAddr>,
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No route leads there, or one that says "unreachable".
    None,
    /// A route says `prohibit`.
    Prohibited,
    /// A route says `blackhole`.
    Blackhole,
    /// The table cannot be read.
    Unreadable(String),
}

/// What the kernel knows of a neighbour on the same segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// It has answered, lately or once.
    Reachable,
    /// It has not answered when it was asked for its link address.
    Silent,
    /// It has not been asked.
    Unknown,
    /// The interface needs no link addresses.
    NotNeeded,
}

/// The way to `address`, whose scope id counts.
pub fn route_to(address: SocketAddr) -> Result<Route, NoRoute> {
    const RTM_GETROUTE: u16 = 26;
    let unreadable = |error: io::Error| NoRoute::Unreadable(error.to_string());
    let mut body = vec![0u8; 12];
    let mut attributes = match address.ip() {
        IpAddr::V4(ip) => {
            body[0..2].copy_from_slice(&[u8::try_from(libc::AF_INET).unwrap_or(0), 32]);
            encoded(libc::RTA_DST, &ip.octets())
        }
        IpAddr::V6(ip) => {
            body[0..2].copy_from_slice(&[u8::try_from(libc::AF_INET6).unwrap_or(0), 128]);
            encoded(libc::RTA_DST, &ip.octets())
        }
    };
    if let SocketAddr::V6(v6) = address
        && v6.scope_id() != 0
    {
        attributes.extend(encoded(libc::RTA_OIF, &v6.scope_id().to_ne_bytes()));
    }
    body.extend(attributes);
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE).map_err(unreadable)?;
    let answer = netlink.ask(RTM_GETROUTE, &body).map_err(|error| match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV | libc::ENETDOWN | libc::EAFNOSUPPORT) => {
            NoRoute::None
        }
        Some(libc::EACCES) => NoRoute::Prohibited,
        Some(libc::EINVAL) => NoRoute::Blackhole,
        _ => NoRoute::Unreadable(error.to_string()),
    })?;
    let message = answer.ok_or_else(|| NoRoute::Unreadable("no answer".to_owned()))?;
    route(message)
}

pub(super) fn route(message: &[u8]) -> Result<Route, NoRoute> {
    let kind = message.get(7).copied().unwrap_or(0);
    let rest = message.get(12..).unwrap_or_default();
    match kind {
        libc::RTN_UNREACHABLE => return Err(NoRoute::None),
        libc::RTN_PROHIBIT => return Err(NoRoute::Prohibited),
        libc::RTN_BLACKHOLE => return Err(NoRoute::Blackhole),
        _ => {}
    }
    let index = attribute(rest, libc::RTA_OIF).and_then(|value| u32_at(value, 0)).unwrap_or(0);
    Ok(Route {
        is_local: kind == libc::RTN_LOCAL,
        interface: interface_name(index),
        index,
        gateway: attribute(rest, libc::RTA_GATEWAY).and_then(ip),
        source: attribute(rest, libc::RTA_PREFSRC).and_then(ip),
    })
}

/// What is known of `ip` as a neighbour on interface `index`.
pub fn neighbour(index: u32, neighbour: IpAddr) -> io::Result<Neighbour> {
    const RTM_GETNEIGH: u16 = 30;
    const NDA_DST: u16 = 1;
    let family = if neighbour.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![0u8; 12];
    body[0] = u8::try_from(family).unwrap_or(0);
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    let table = netlink.table(RTM_GETNEIGH, &body)?;
    let found = table.iter().find(|message| {
        u32_at(message, 4) == Some(index)
            && Attributes(message.get(12..).unwrap_or_default())
                .any(|(kind, value)| kind == NDA_DST && ip(value) == Some(neighbour))
    });
    Ok(match found.and_then(|message| u16_at(message, 8)) {
        // NUD_INCOMPLETE, NUD_FAILED
        Some(state) if state & 0x21 != 0 => Neighbour::Silent,
        // NUD_NOARP
        Some(state) if state & 0x40 != 0 => Neighbour::NotNeeded,
        Some(0) | None => Neighbour::Unknown,
        Some(_) => Neighbour::Reachable,
    })
}

/// The name of an interface, or its number where it has gone.
pub fn interface_name(index: u32) -> SafeText {
    let name = nix::net::if_::if_indextoname(index);
    name.map_or_else(|_| SafeText::new(&index.to_string()), |name| SafeText::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_loopback_is_local_and_cut_answers_are_no_panic() {
        let route_back = route_to("127.0.0.1:1".parse().expect("address")).expect("a way");
        assert!(route_back.is_local);
        assert_eq!(route_back.interface.as_str(), "lo");
        for length in 0..12 {
            let _ = route(&vec![0; length]);
        }
        assert_eq!(neighbour(route_back.index, "127.0.0.1".parse().expect("address")).ok(), Some(Neighbour::Unknown));
    }
}
