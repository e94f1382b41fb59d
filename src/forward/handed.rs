//! Sockets that were handed in, bound by somebody else (socket activation): for ports that this process may not bind.
//!
//! A mapping that listens where such a socket is bound takes a duplicate of it and binds nothing, so that it can stop,
//! start and be edited, and take it again. The socket itself stays open for as long as the engine runs, and listens on:
//! while no mapping has it, whoever comes is reset at once (a datagram is dropped), as the clients of a mapping that
//! waits are. From the shutdown on nobody is: they are left to whoever handed it in, and to the next start. Whoever came
//! before its first mapping did is not turned away for a target that is still looked for, either.
//!
//! Where the sockets come from is none of the engine's business; it reads no environment.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::libc;
use socket2::{SockRef, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use super::listen::{BACKLOG, Bound, BoundSocket};
use super::status::ListenError;
use super::tcp::dial::local_address;
use super::{sys, udp};
use crate::model::mapping::Protocol;
use crate::model::untrusted::SafeText;

/// How long nobody is turned away when accepting fails, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that was handed in.
#[derive(Debug)]
pub struct HandedSocket {
    /// As its giver calls it.
    pub name: String,
    /// Itself.
    pub fd: OwnedFd,
}

impl HandedSocket {
    /// A duplicate of a descriptor that this process was started with. The original stays as it is.
    ///
    /// # Errors
    /// When there is no such descriptor, or no further one is to be had.
    pub fn of_descriptor(number: RawFd, name: String) -> io::Result<Self> {
        Ok(Self { name, fd: sys::duplicate(number)? })
    }
}

/// Every socket that was handed in and is of use.
#[derive(Debug, Default)]
pub(super) struct Handed {
    sockets: Vec<Arc<Held>>,
}

#[derive(Debug)]
struct Held {
    protocol: Protocol,
    address: SocketAddr,
    name: SafeText,
    fd: OwnedFd,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No mapping has asked for it yet; who comes may be for one that is about to.
    Unasked,
    /// A mapping has it.
    Lent,
    /// No mapping has it: who comes is turned away.
    Idle,
    /// The engine is ending.
    Left,
}

/// A mapping's hold on a socket that was handed in; to be dropped when its duplicate is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    of: Arc<Held>,
    is_first: bool,
}

impl Lease {
    /// Whether nobody had it before: clients may be waiting for whom the program was started.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.of.pass(State::Lent, State::Idle);
    }
}

impl Handed {
    /// Sorts out what is of use, and says of the rest what is wrong with it.
    pub(super) fn new(given: Vec<HandedSocket>) -> Self {
        let mut sockets = Vec::new();
        for HandedSocket { name, fd } in given {
            let name = SafeText::quoted(&name);
            match prepare(&fd) {
                Ok((protocol, address)) => {
                    let state = watch::Sender::new(State::Unasked);
                    sockets.push(Arc::new(Held { protocol, address, name, fd, state }));
                }
                Err(problem) => tracing::warn!("the socket that was handed in as {name} is not used: {problem}"),
            }
        }
        Self { sockets }
    }

    /// The socket that is bound there, if one was handed in, ready to be served.
    pub(super) fn take(&self, protocol: Protocol, address: SocketAddr) -> Option<Result<Bound, ListenError>> {
        let is_there = |held: &&Arc<Held>| held.protocol == protocol && is_same(held.address, address);
        let mut in_use = false;
        for held in self.sockets.iter().filter(is_there) {
            let before = [State::Unasked, State::Idle].into_iter().find(|before| held.pass(*before, State::Lent));
            let Some(before) = before else {
                in_use = true;
                continue;
            };
            let lease = Lease { of: Arc::clone(held), is_first: before == State::Unasked };
            let duplicate =
                held.fd.try_clone().map_err(|error| ListenError::Other { address, error: error.to_string() });
            return Some(duplicate.map(|fd| {
                let is_datagram = protocol == Protocol::Udp;
                let socket = if is_datagram { BoundSocket::Datagram(fd.into()) } else { BoundSocket::Stream(fd) };
                Bound { address: held.address, socket, lease: Some(lease) }
            }));
        }
        in_use.then_some(Err(ListenError::InUse { address, protocol }))
    }

    /// Where a mapping would find a socket that no other has.
    pub(super) fn free(&self, protocol: Protocol) -> Vec<SocketAddr> {
        let is_free = |held: &&Arc<Held>| held.protocol == protocol && *held.state.borrow() != State::Lent;
        self.sockets.iter().filter(is_free).map(|held| held.address).collect()
    }

    /// Those that no mapping has asked for so far; from now on, who comes there is turned away.
    pub(super) fn unasked(&self) -> Vec<String> {
        let unasked = self.sockets.iter().filter(|held| held.pass(State::Unasked, State::Idle));
        unasked.map(ToString::to_string).collect()
    }

    /// From now on nobody takes one, and nobody is turned away.
    pub(super) fn leave(&self) {
        for held in &self.sockets {
            held.state.send_replace(State::Left);
        }
    }

    /// Turns away whoever comes where no mapping listens. Never ends.
    pub(super) async fn turn_away(&self) {
        join_all(self.sockets.iter().map(|held| held.turn_away())).await;
        std::future::pending::<()>().await;
    }
}

impl Held {
    /// Goes from one state to another; false when it is in neither.
    fn pass(&self, before: State, next: State) -> bool {
        self.state.send_if_modified(|state| {
            let passes = *state == before;
            if passes {
                *state = next;
            }
            passes
        })
    }

    async fn turn_away(&self) {
        let mut state = self.state.subscribe();
        while state.wait_for(|state| *state == State::Idle).await.is_ok() {
            // Another than the one that a mapping gets: the reactor wakes nobody here while that one is served.
            let Ok(fd) = self.fd.try_clone().and_then(sys::register) else {
                sleep(PAUSE).await;
                continue;
            };
            loop {
                let turned = tokio::select! {
                    _ = state.changed() => break,
                    turned = self.turn_one_away(&fd) => turned,
                };
                match turned {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => sleep(PAUSE).await,
                }
            }
        }
    }

    /// Waits for the next one; false when the socket is a mapping's by then.
    async fn turn_one_away(&self, fd: &AsyncFd<OwnedFd>) -> io::Result<bool> {
        loop {
            let mut ready = fd.readable().await?;
            // Held meanwhile, so that a mapping that takes the socket finds all who come from then on.
            let state = self.state.borrow();
            if *state != State::Idle {
                return Ok(false);
            }
            let turned = ready.try_io(|fd| match self.protocol {
                Protocol::Udp => SockRef::from(fd).recv(&mut [MaybeUninit::uninit()]).map(drop),
                Protocol::Tcp | Protocol::Sctp => {
                    let (client, _) = sys::accept(fd)?;
                    SockRef::from(&client).set_linger(Some(Duration::ZERO))
                }
            });
            if let Ok(turned) = turned {
                return turned.map(|()| true);
            }
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.address, self.protocol, self.name)
    }
}

/// Makes it what a socket of our own would be, or says why it cannot be one.
fn prepare(fd: &OwnedFd) -> Result<(Protocol, SocketAddr), String> {
    let socket = SockRef::from(fd);
    let other = "it is no socket of TCP, UDP or SCTP";
    let failed =
        |error: io::Error| if error.raw_os_error() == Some(libc::ENOTSOCK) { other.into() } else { error.to_string() };
    let kind = (socket.r#type().map_err(failed)?, socket.protocol().map_err(failed)?);
    let protocol = match kind {
        (Type::STREAM, Some(socket2::Protocol::TCP)) => Protocol::Tcp,
        (Type::STREAM, Some(socket2::Protocol::SCTP)) => Protocol::Sctp,
        (Type::DGRAM, Some(socket2::Protocol::UDP)) => Protocol::Udp,
        _ => return Err(other.into()),
    };
    let address = local_address(&socket).map_err(failed)?;
    if address.is_ipv6() && !socket.only_v6().map_err(failed)? {
        return Err(format!("{address}/{protocol} takes IPv4 too: put BindIPv6Only=ipv6-only into its unit"));
    }
    socket.set_nonblocking(true).map_err(failed)?;
    socket.set_cloexec(true).map_err(failed)?;
    if protocol == Protocol::Udp {
        // Its giver allows others to share the address, and we do not.
        socket.set_reuse_address(false).map_err(failed)?;
        udp::prepare(&socket, address.is_ipv6()).map_err(failed)?;
        return Ok((protocol, address));
    }
    if !socket.is_listener().map_err(failed)? {
        return Err(format!("{address}/{protocol} does not listen: put Accept=no into its unit"));
    }
    if protocol == Protocol::Tcp {
        socket.set_tcp_nodelay(true).map_err(failed)?;
    }
    // Again, for a queue as long as ours.
    socket.listen(BACKLOG).map_err(failed)?;
    Ok((protocol, address))
}

/// Whether two addresses are one to bind: what else an IPv6 one carries does not matter.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address| if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    (one.ip(), one.port(), scope(one)) == (other.ip(), other.port(), scope(other))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use socket2::{Domain, Socket};

    use super::*;

    fn problem(socket: impl Into<OwnedFd>) -> String {
        prepare(&socket.into()).expect_err("it is refused")
    }

    #[test]
    fn what_is_refused_says_what_to_put_into_the_unit() {
        let any = SocketAddr::from(([0; 16], 0)).into();
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.bind(&any).unwrap();
        both.listen(1).unwrap();
        assert!(problem(both).ends_with("/tcp takes IPv4 too: put BindIPv6Only=ipv6-only into its unit"));
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        assert!(problem(silent).ends_with("/tcp does not listen: put Accept=no into its unit"));
        let other = "it is no socket of TCP, UDP or SCTP";
        assert_eq!(problem(std::os::unix::net::UnixDatagram::unbound().unwrap()), other);
        assert_eq!(problem(std::fs::File::open("/dev/null").unwrap()), other);
    }

    #[test]
    fn what_is_taken_is_like_one_of_our_own() {
        let stream = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = stream.local_addr().unwrap();
        let stream = OwnedFd::from(stream);
        assert_eq!(prepare(&stream), Ok((Protocol::Tcp, address)));
        let socket = SockRef::from(&stream);
        assert!(socket.nonblocking().unwrap() && socket.tcp_nodelay().unwrap());
        let datagram = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let own = Socket::from(OwnedFd::from(udp::bind("127.0.0.1:0".parse().unwrap()).unwrap()));
        let address = local_address(&SockRef::from(&datagram)).unwrap();
        assert_eq!(prepare(&datagram), Ok((Protocol::Udp, address)));
        let socket = SockRef::from(&datagram);
        assert_eq!(socket.recv_buffer_size().unwrap(), own.recv_buffer_size().unwrap());
        assert_eq!(socket.send_buffer_size().unwrap(), own.send_buffer_size().unwrap());
        assert!(socket.nonblocking().unwrap());
    }

    #[test]
    fn a_number_without_a_descriptor_is_an_error() {
        for number in [-1, RawFd::MAX] {
            let error = HandedSocket::of_descriptor(number, String::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let handed = HandedSocket::of_descriptor(file.as_raw_fd(), String::new()).unwrap();
        assert_ne!(handed.fd.as_raw_fd(), file.as_raw_fd());
    }

    #[test]
    fn an_interface_makes_another_address_and_the_rest_does_not() {
        let address =
            |scope, flow| SocketAddr::from(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 1, flow, scope));
        assert!(is_same(address(3, 0), address(3, 7)));
        assert!(!is_same(address(3, 0), address(4, 0)));
    }
}
