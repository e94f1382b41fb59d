//! Reaches the target: its addresses in order, the next at once on a failure or after 250 ms, and all of
//! them within one time. Gives an owned descriptor.
//!
//! It resolves no names and keeps no state between dials.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::libc;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use crate::forward::descriptors::{DescriptorBudget, DescriptorPermit};
use crate::forward::own::{Chain, OwnConnections, OwnSource};
use crate::forward::sys;
use crate::model::mapping::Protocol;
use crate::model::update::LastOutcome;

/// An address that has not answered for that long no longer holds up the next one.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Attempts that may run at once. Later addresses wait for a failure.
const AT_ONCE: usize = 4;
/// A peer that is gone without a word is noticed after some such spans.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(15);

/// What can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An Internet address.
    Inet(SocketAddr),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// A connected, non-blocking socket towards the target.
#[derive(Debug)]
pub struct Dialed {
    pub(crate) fd: AsyncFd<OwnedFd>,
    /// Our address.
    pub source: SocketAddr,
    /// The target's.
    pub target: SocketAddr,
    /// By which error it has reset the connection already; what it sent before can still be received.
    pub(crate) broken: Option<io::ErrorKind>,
    pub(crate) own: Option<OwnSource>,
}

/// Why no address was reached. Of several failures, the one that says most about the target.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Something else.
    #[error("cannot connect: {0}")]
    Other(#[source] io::Error),
    /// This process or host is out of descriptors or memory.
    #[error("cannot connect: {0}")]
    Exhausted(#[source] io::Error),
    /// No way to it.
    #[error("the target cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// No answer in time.
    #[error("the target has not answered in time")]
    Timeout,
    /// Its host answers, and nobody listens there.
    #[error("the target refused the connection")]
    Refused,
}

/// Who dials, so that a connection to ourselves is known again.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) own: Arc<OwnConnections>,
    pub(crate) chain: Arc<Chain>,
    /// For attempts beside the first, whose descriptor is the connection's.
    pub(crate) descriptors: Arc<DescriptorBudget>,
}

/// Tries `endpoints` in order, all within `within`.
pub(crate) async fn dial(
    endpoints: &[Endpoint],
    protocol: Protocol,
    within: Duration,
    caller: &Caller,
) -> Result<Dialed, DialError> {
    let attempts = async {
        match endpoints {
            [] => Err(DialError::Unreachable(io::ErrorKind::AddrNotAvailable.into())),
            [only] => attempt(*only, protocol, Some(caller)).await,
            several => race(several, protocol, caller).await,
        }
    };
    timeout(within, attempts).await.unwrap_or(Err(DialError::Timeout))
}

/// Connects to one address, without a limit in time but the kernel's.
pub async fn connect(address: SocketAddr) -> Result<Dialed, DialError> {
    attempt(address.into(), Protocol::Tcp, None).await
}

async fn race(endpoints: &[Endpoint], protocol: Protocol, caller: &Caller) -> Result<Dialed, DialError> {
    let mut rest = endpoints.iter();
    let mut attempts = FuturesUnordered::new();
    let mut worst: Option<DialError> = None;
    // An attempt beside others holds a descriptor of its own until it ends; one that has taken over holds none.
    let beside = async |endpoint: Endpoint, permit: Option<DescriptorPermit>| {
        let result = attempt(endpoint, protocol, Some(caller)).await;
        drop(permit);
        result
    };
    loop {
        if attempts.is_empty() {
            match rest.next() {
                Some(next) => attempts.push(beside(*next, None)),
                None => return Err(worst.unwrap_or(DialError::Timeout)),
            }
        }
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(dialed) => return Ok(dialed),
                Err(error) => {
                    if worst.as_ref().is_none_or(|worst| error.rank() > worst.rank()) {
                        worst = Some(error);
                    }
                    // The first attempt's descriptor may have become free by this, or another's: whoever goes on beside
                    // others counts its own.
                    if !attempts.is_empty()
                        && let Some(permit) = rest.len().checked_sub(1).and_then(|_| caller.descriptors.take(1))
                    {
                        attempts.extend(rest.next().map(|next| beside(*next, Some(permit))));
                    }
                }
            },
            () = sleep(NEXT_ADDRESS), if rest.len() > 0 && attempts.len() < AT_ONCE => {
                // Without a descriptor to spare, the addresses are tried one after the other.
                if let Some(permit) = caller.descriptors.take(1) {
                    attempts.extend(rest.next().map(|next| beside(*next, Some(permit))));
                }
            }
        }
    }
}

/// An attempt on its way. Given up, it is reset: the target may have accepted it already, and must not take it for
/// a client that came and left in order.
struct Pending(Option<AsyncFd<OwnedFd>>);

impl Pending {
    fn fd(&self) -> &AsyncFd<OwnedFd> {
        self.0.as_ref().expect("taken only when it ends")
    }

    fn succeed(mut self) -> AsyncFd<OwnedFd> {
        self.0.take().expect("taken only here")
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(fd) = &self.0 {
            let _ = SockRef::from(fd).set_linger(Some(Duration::ZERO));
        }
    }
}

/// A socket that is on its way to `endpoint`.
struct Started {
    fd: OwnedFd,
    source: SocketAddr,
}

/// Opens a socket and starts to connect it. It never blocks and knows no runtime, so it can run wherever the target
/// is reached from: also on a thread in another network namespace, which a descriptor outlives.
fn start(endpoint: Endpoint, protocol: Protocol) -> io::Result<Started> {
    let Endpoint::Inet(address) = endpoint;
    let (kind, number) = stream_type(protocol);
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(number))?;
    if protocol == Protocol::Tcp {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        // The kernel has chosen our address by now, and forgets it with the connection.
        _ => Ok(Started { source: local_address(&socket)?, fd: socket.into() }),
    }
}

async fn attempt(endpoint: Endpoint, protocol: Protocol, caller: Option<&Caller>) -> Result<Dialed, DialError> {
    let Endpoint::Inet(address) = endpoint;
    let (Started { fd, source }, own) = match caller.filter(|caller| caller.own.may_reach(address.port())) {
        None => (start(endpoint, protocol)?, None),
        Some(Caller { own, chain, .. }) => {
            let start = || start(endpoint, protocol).map(|started| (started.source, started));
            own.connect(Arc::clone(chain), start).map(|(started, own)| (started, Some(own)))?
        }
    };
    // Registered only now: an unconnected socket counts as hung up, and that sticks.
    let pending = Pending(Some(sys::register(fd)?));
    let fd = pending.fd();
    fd.writable().await?.retain_ready();
    let socket = SockRef::from(fd);
    let broken = match socket.take_error()? {
        None => None,
        // A refusal has an error of its own: this target has accepted, perhaps answered (perhaps to the end, which
        // makes it EPIPE), and then reset.
        Some(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Some(error.kind())
        }
        Some(error) => return Err(error.into()),
    };
    // A target without an address (0.0.0.0, ::) is this host by another, which only the kernel knows.
    let target = if address.ip().is_unspecified() { peer_address(&socket)? } else { address };
    if source.ip() == target.ip() && source.port() == target.port() {
        // The kernel has picked the very port that was dialled and connected the socket to itself: nobody
        // listens there. The reset leaves no TIME_WAIT in the way of who wants to.
        return Err(DialError::Refused);
    }
    Ok(Dialed { fd: pending.succeed(), source, target, broken, own })
}

/// What `socket` wants to be told for a stream protocol.
pub(crate) fn stream_type(protocol: Protocol) -> (Type, socket2::Protocol) {
    let number = if protocol == Protocol::Sctp { socket2::Protocol::SCTP } else { socket2::Protocol::TCP };
    (Type::STREAM, number)
}

fn peer_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.peer_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The address that a socket is bound to.
pub(crate) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

impl DialError {
    /// How it counts in the health of the target.
    pub(crate) fn outcome(&self) -> LastOutcome {
        match self {
            Self::Refused => LastOutcome::Refused,
            Self::Unreachable(_) => LastOutcome::Unreachable,
            Self::Timeout => LastOutcome::Timeout,
            Self::Exhausted(_) | Self::Other(_) => LastOutcome::Error,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Other(_) => 0,
            Self::Exhausted(_) => 1,
            Self::Unreachable(_) => 2,
            Self::Timeout => 3,
            Self::Refused => 4,
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            // No address of ours of that family; a firewall of this host that rejects, a family that it lacks, an
            // interface that is gone.
            Some(
                libc::ENETUNREACH
                | libc::EADDRNOTAVAIL
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EACCES
                | libc::EPERM
                | libc::EAFNOSUPPORT
                | libc::ENODEV,
            ) => Self::Unreachable(error),
            Some(libc::ETIMEDOUT) => Self::Timeout,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted(error),
            _ => Self::Other(error),
        }
    }
}
