//! Reaches the target: its addresses in order, the next at once on a failure or after 250 ms, and all of
//! them within one time. Gives an owned descriptor.
//!
//! It resolves no names and keeps no state between dials.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use crate::forward::alias;
use crate::forward::descriptors::{DescriptorBudget, DescriptorPermit};
use crate::forward::own::{Chain, OwnConnections, OwnSource};
use crate::forward::sys;
use crate::model::mapping::Protocol;
use crate::model::update::LastOutcome;

/// An address that has not answered for that long no longer holds up the next one.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Attempts that may run at once. Later addresses wait for a failure.
const AT_ONCE: usize = 4;

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

/// Who dials, so that a connection to ourselves is known again, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) own: Arc<OwnConnections>,
    pub(crate) chain: Arc<Chain>,
    /// The address that it has towards the target; `None`: the kernel chooses.
    pub(crate) source: Option<IpAddr>,
    /// For attempts beside the first, whose descriptor is the connection's.
    pub(crate) descriptors: Arc<DescriptorBudget>,
}

/// Sets out to the first of `endpoints`; [`dial`] takes it from there, unless it has arrived already.
pub(crate) fn set_out(endpoints: &[Endpoint], protocol: Protocol, caller: &Caller) -> Result<Underway, DialError> {
    let first = endpoints.first().ok_or_else(|| DialError::Unreachable(io::ErrorKind::AddrNotAvailable.into()))?;
    Underway::new(*first, protocol, Some(caller))
}

/// Tries `endpoints` in order, all within `within`. The attempt at the first of them is `first`.
pub(crate) async fn dial(
    first: Result<Underway, DialError>,
    endpoints: &[Endpoint],
    protocol: Protocol,
    within: Duration,
    caller: &Caller,
) -> Result<Dialed, DialError> {
    let attempts = async {
        match endpoints {
            [] | [_] => first?.finish().await,
            [_, rest @ ..] => race(first, rest, protocol, caller).await,
        }
    };
    timeout(within, attempts).await.unwrap_or(Err(DialError::Timeout))
}

/// Connects to one address, without a limit in time but the kernel's.
pub async fn connect(address: SocketAddr) -> Result<Dialed, DialError> {
    Underway::new(address.into(), Protocol::Tcp, None)?.finish().await
}

async fn race(
    first: Result<Underway, DialError>,
    rest: &[Endpoint],
    protocol: Protocol,
    caller: &Caller,
) -> Result<Dialed, DialError> {
    let mut rest = rest.iter();
    let mut attempts = FuturesUnordered::new();
    let mut worst: Option<DialError> = None;
    // An attempt beside others holds a descriptor of its own until it ends; one that has taken over holds none.
    let finish = async |begun: Result<Underway, DialError>, permit: Option<DescriptorPermit>| {
        let result = begun?.finish().await;
        drop(permit);
        result
    };
    let beside = |endpoint: &Endpoint, permit| finish(Underway::new(*endpoint, protocol, Some(caller)), permit);
    attempts.push(finish(first, None));
    loop {
        if attempts.is_empty() {
            match rest.next() {
                Some(next) => attempts.push(beside(next, None)),
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
                        attempts.extend(rest.next().map(|next| beside(next, Some(permit))));
                    }
                }
            },
            () = sleep(NEXT_ADDRESS), if rest.len() > 0 && attempts.len() < AT_ONCE => {
                // Without a descriptor to spare, the addresses are tried one after the other.
                if let Some(permit) = caller.descriptors.take(1) {
                    attempts.extend(rest.next().map(|next| beside(next, Some(permit))));
                }
            }
        }
    }
}

/// The socket of an attempt on its way. Given up, it is reset: the target may have accepted it already, and must not
/// take it for a client that came and left in order.
#[derive(Debug)]
struct Pending<F: AsFd>(Option<F>);

impl<F: AsFd> Pending<F> {
    fn fd(&self) -> &F {
        self.0.as_ref().expect("taken only when it ends")
    }

    fn succeed(mut self) -> F {
        self.0.take().expect("taken only here")
    }
}

impl<F: AsFd> Drop for Pending<F> {
    fn drop(&mut self) {
        if let Some(fd) = &self.0 {
            let _ = SockRef::from(fd).set_linger(Some(Duration::ZERO));
        }
    }
}

/// An attempt at one address.
#[derive(Debug)]
pub(crate) struct Underway {
    fd: Pending<OwnedFd>,
    address: SocketAddr,
    source: SocketAddr,
    own: Option<OwnSource>,
}

/// A socket that is on its way to `endpoint`.
struct Started {
    fd: OwnedFd,
    source: SocketAddr,
}

/// Opens a socket and starts to connect it. It never blocks and knows no runtime, so it can run wherever the target
/// is reached from: also on a thread in another network namespace, which a descriptor outlives.
fn start(endpoint: Endpoint, protocol: Protocol, source: Option<IpAddr>) -> io::Result<Started> {
    let Endpoint::Inet(address) = endpoint;
    let (kind, number) = stream_type(protocol);
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(number))?;
    if protocol == Protocol::Tcp {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(source) = source {
        alias::bind(&socket, source)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        // The kernel has chosen our address by now, and forgets it with the connection.
        _ => Ok(Started { source: local_address(&socket)?, fd: socket.into() }),
    }
}

impl Underway {
    fn new(endpoint: Endpoint, protocol: Protocol, caller: Option<&Caller>) -> Result<Self, DialError> {
        let Endpoint::Inet(address) = endpoint;
        let from = caller.and_then(|caller| caller.source);
        let (Started { fd, source }, own) = match caller.filter(|caller| caller.own.may_reach(address.port())) {
            None => (start(endpoint, protocol, from)?, None),
            Some(Caller { own, chain, .. }) => {
                let start = || start(endpoint, protocol, from).map(|started| (started.source, started));
                own.connect(Arc::clone(chain), start).map(|(started, own)| (started, Some(own)))?
            }
        };
        Ok(Self { fd: Pending(Some(fd)), address, source, own })
    }

    /// Whether it stands already, as it mostly does at once on the way to a container: the kernel does all of it in the
    /// call. Looked at in a way that takes no error away, and nothing that has come.
    pub(crate) fn has_arrived(&self) -> bool {
        let mut look = [PollFd::new(self.fd.fd().as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut look, PollTimeout::ZERO), Ok(1)) && look[0].revents() == Some(PollFlags::POLLOUT)
    }

    /// The connection, which stands.
    pub(crate) fn arrived(self) -> Result<Dialed, DialError> {
        let Self { fd, address, source, own } = self;
        let fd = Pending(Some(sys::register(fd.succeed())?));
        complete(fd, address, source, own, None)
    }

    /// Waits for the connection, without a limit in time but the kernel's.
    async fn finish(self) -> Result<Dialed, DialError> {
        let Self { fd, address, source, own } = self;
        // Registered only now: an unconnected socket counts as hung up, and that sticks.
        let fd = Pending(Some(sys::register(fd.succeed())?));
        fd.fd().writable().await?.retain_ready();
        let broken = match SockRef::from(fd.fd()).take_error()? {
            None => None,
            // A refusal has an error of its own: this target has accepted, perhaps answered (perhaps to the end, which
            // makes it EPIPE), and then reset.
            Some(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                Some(error.kind())
            }
            Some(error) => return Err(error.into()),
        };
        complete(fd, address, source, own, broken)
    }
}

fn complete(
    fd: Pending<AsyncFd<OwnedFd>>,
    address: SocketAddr,
    source: SocketAddr,
    own: Option<OwnSource>,
    broken: Option<io::ErrorKind>,
) -> Result<Dialed, DialError> {
    // A target without an address (0.0.0.0, ::) is this host by another, which only the kernel knows.
    let target = if address.ip().is_unspecified() { peer_address(&SockRef::from(fd.fd()))? } else { address };
    if source.ip() == target.ip() && source.port() == target.port() {
        // The kernel has picked the very port that was dialled and connected the socket to itself: nobody
        // listens there. The reset leaves no TIME_WAIT in the way of who wants to.
        return Err(DialError::Refused);
    }
    Ok(Dialed { fd: fd.succeed(), source, target, broken, own })
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
