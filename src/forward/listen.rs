//! Binds what a mapping listens on: each family a socket of its own, IPv6 always V6ONLY, a range whole or not
//! at all, `auto` with one number for every family.
//!
//! It knows nothing of who serves the sockets, nor of retries.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;

use nix::libc;
use socket2::{Domain, Socket};

use super::handed::{Handed, Lease};
use super::status::ListenError;
use super::tcp::dial::{local_address, stream_type};
use super::udp;
use crate::model::mapping::{Family, HostPort, Listen, ListenAddress, Protocol, ScopedIp};
use crate::model::untrusted::SafeText;

/// Clients that may wait to be accepted; the kernel's `somaxconn` caps it.
pub(super) const BACKLOG: i32 = 4096;
/// Numbers that `auto` tries before it gives up for now.
const AUTO_TRIES: usize = 64;
/// Sockets bound before other tasks get their turn.
const AT_A_STRETCH: usize = 64;

/// One family of a mapping, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) family: Family,
    pub(crate) ip: ScopedIp,
    pub(crate) port: HostPort,
    /// Asked for as one of both families, so a host without it does without.
    pub(crate) optional: bool,
}

/// A bound socket, not yet served.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) socket: BoundSocket,
    /// It was handed in, and is given back when this is dropped.
    pub(crate) lease: Option<Lease>,
}

/// By kind of service.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    /// Listens for TCP or SCTP.
    Stream(OwnedFd),
    /// UDP.
    Datagram(UdpSocket),
}

/// What a mapping asks for, IPv4 before IPv6.
pub(crate) fn wanted(listen: &Listen) -> Vec<Wanted> {
    let optional = !matches!(listen.address, ListenAddress::Ip(_));
    let families = listen.address.addresses().into_iter();
    families.map(|ip| Wanted { family: Family::of(ip.ip), ip, port: listen.port, optional }).collect()
}

impl Wanted {
    /// Whether a socket of this family that is bound to `port` would be one of those asked for.
    pub(crate) fn covers(&self, port: u16) -> bool {
        match self.port {
            HostPort::Auto => false,
            HostPort::Ports(range) => (range.first()..=range.last()).contains(&port),
        }
    }

    /// The address with a port, its interface looked up.
    pub(crate) fn address(&self, port: u16) -> Result<SocketAddr, ListenError> {
        let scope = match &self.ip.zone {
            None => 0,
            Some(zone) => nix::net::if_::if_nametoindex(zone.as_str())
                .map_err(|_| ListenError::NoInterface(SafeText::quoted(zone)))?,
        };
        Ok(match self.ip.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
        })
    }

    /// Whether `error` says that this host has no such family, which the mapping can do without.
    pub(crate) fn is_absent(&self, error: &ListenError) -> bool {
        let lacking = match error {
            ListenError::NoFamily(_) => true,
            // The loopback address is there wherever the family is.
            ListenError::NotLocal(ip) => ip.is_loopback(),
            _ => false,
        };
        self.optional && self.family == Family::V6 && lacking
    }

    /// `[::1]:8000-8010`, or with the port that `auto` took.
    pub(crate) fn text(&self, chosen: Option<u16>) -> String {
        match (self.port, chosen) {
            (HostPort::Auto, Some(port)) => format!("{}:{port}", self.ip),
            _ => format!("{}:{}", self.ip, self.port),
        }
    }
}

/// Binds every port of `ports` on the family's address, or none of them; takes what was handed in before it binds.
pub(crate) async fn bind_all(
    protocol: Protocol,
    wanted: &Wanted,
    handed: &Handed,
    ports: impl Iterator<Item = u16>,
) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    for port in ports {
        let address = wanted.address(port)?;
        bound.push(handed.take(protocol, address).unwrap_or_else(|| bind(protocol, address))?);
        if bound.len() % AT_A_STRETCH == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(bound)
}

/// Binds one number, chosen by the kernel, in each of `families`, as far as they can be bound at all.
pub(crate) fn bind_auto(protocol: Protocol, families: &[Wanted]) -> Vec<Result<Bound, ListenError>> {
    // Numbers that were free in one family alone are held until the end, so that none is tried twice.
    let mut held = Vec::new();
    for _ in 0..AUTO_TRIES {
        let mut chosen = 0;
        let mut results = Vec::new();
        for wanted in families {
            let result = wanted.address(chosen).and_then(|address| bind(protocol, address));
            if let Ok(bound) = &result {
                chosen = bound.address.port();
            }
            results.push(result);
        }
        let conflict = results.iter().any(|result| matches!(result, Err(ListenError::InUse { .. })));
        if !conflict {
            return results;
        }
        held.extend(results.into_iter().flatten());
    }
    families.iter().map(|_| Err(ListenError::NoneFree)).collect()
}

/// Binds one socket, ready to be served.
pub(crate) fn bind(protocol: Protocol, address: SocketAddr) -> Result<Bound, ListenError> {
    let fail = |error: io::Error| describe(&error, protocol, address);
    match protocol {
        Protocol::Udp => {
            let socket = udp::bind(address).map_err(fail)?;
            let address = socket.local_addr().map_err(fail)?;
            Ok(Bound { address, socket: BoundSocket::Datagram(socket), lease: None })
        }
        Protocol::Tcp | Protocol::Sctp => {
            let socket = listen_stream(protocol, address).map_err(fail)?;
            let address = local_address(&socket).map_err(fail)?;
            Ok(Bound { address, socket: BoundSocket::Stream(socket.into()), lease: None })
        }
    }
}

fn listen_stream(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let (kind, number) = stream_type(protocol);
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(number))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if protocol == Protocol::Tcp {
        // Accepted sockets inherit it, which saves a call for each connection.
        socket.set_tcp_nodelay(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn describe(error: &io::Error, protocol: Protocol, address: SocketAddr) -> ListenError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::InUse { address, protocol },
        Some(libc::EACCES) if address.port() < 1024 => ListenError::Privileged(address.port()),
        Some(libc::EADDRNOTAVAIL) => ListenError::NotLocal(address.ip()),
        Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) if protocol == Protocol::Sctp => ListenError::NoSctp,
        Some(libc::EAFNOSUPPORT) => ListenError::NoFamily(Family::of(address.ip())),
        _ => ListenError::Other { address, error: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_become_the_words_of_the_manual() {
        let address: SocketAddr = "10.9.9.9:80".parse().expect("an address");
        let text = |errno, protocol| describe(&io::Error::from_raw_os_error(errno), protocol, address).to_string();
        assert_eq!(text(libc::EADDRINUSE, Protocol::Udp), "10.9.9.9:80/udp is in use");
        assert_eq!(
            text(libc::EACCES, Protocol::Tcp),
            "port 80 needs the capability CAP_NET_BIND_SERVICE, or a port from 1024"
        );
        assert_eq!(text(libc::EADDRNOTAVAIL, Protocol::Tcp), "10.9.9.9 is not an address of this host");
        assert_eq!(text(libc::EPROTONOSUPPORT, Protocol::Sctp), "this kernel has no SCTP (try: modprobe sctp)");
        assert_eq!(text(libc::EAFNOSUPPORT, Protocol::Tcp), "this host has no IPv4");
        assert!(text(libc::EMFILE, Protocol::Tcp).starts_with("cannot listen on 10.9.9.9:80: Too many open files"));
    }

    #[test]
    fn a_host_without_ipv6_is_no_error_where_both_families_were_meant() {
        let wanted = |optional, family, ip: &str| Wanted {
            family,
            ip: ip.parse::<IpAddr>().expect("an address").into(),
            port: HostPort::Auto,
            optional,
        };
        let loopback = wanted(true, Family::V6, "::1");
        assert!(loopback.is_absent(&ListenError::NoFamily(Family::V6)));
        assert!(loopback.is_absent(&ListenError::NotLocal(loopback.ip.ip)));
        assert!(!loopback.is_absent(&ListenError::NoneFree));
        assert!(!wanted(false, Family::V6, "::1").is_absent(&ListenError::NoFamily(Family::V6)));
        assert!(!wanted(true, Family::V4, "127.0.0.1").is_absent(&ListenError::NoFamily(Family::V4)));
    }
}
