//! Gives a socket an alias as its address, before it is connected.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Socket, Type};

/// Binds `socket` to `alias`. A stream gets its port when it is connected, where a port that is in use towards another
/// target is as good as any.
pub(crate) fn bind(socket: &Socket, alias: IpAddr) -> io::Result<()> {
    if socket.r#type()? == Type::STREAM {
        setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    }
    if alias.is_ipv6() {
        // IPv6 binds to addresses of interfaces alone, whatever is local by a route. That the route stands is seen to
        // by the service: this would hide that it does not.
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(alias, 0).into()).map_err(|error| match error.raw_os_error() {
        // A target of the other family has no address of the pool's.
        Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::EAFNOSUPPORT) => io::Error::other(Unbound { alias, error }),
        _ => error,
    })
}

/// The kernel does not let the client have its alias.
#[derive(Debug, thiserror::Error)]
#[error("cannot speak from the alias {alias}: {error}; is the route of its pool gone (portolan alias-route --print)?")]
struct Unbound {
    alias: IpAddr,
    error: io::Error,
}

#[cfg(test)]
mod tests {
    use socket2::Domain;

    use super::*;

    #[test]
    fn a_socket_has_its_alias_and_one_that_cannot_says_what_may_be_missing() {
        for (alias, kind) in [("127.9.8.7", Type::STREAM), ("127.9.8.7", Type::DGRAM), ("::1", Type::STREAM)] {
            let alias: IpAddr = alias.parse().unwrap();
            let domain = if alias.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, kind, None).unwrap();
            bind(&socket, alias).unwrap();
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!((bound.ip(), bound.port() == 0), (alias, kind == Type::STREAM));
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let error = bind(&socket, "203.0.113.77".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), None);
        let said = "cannot speak from the alias 203.0.113.77: Cannot assign requested address (os error 99); is the \
                    route of its pool gone (portolan alias-route --print)?";
        assert_eq!(error.to_string(), said);
    }
}
