//! One engine to a pool of aliases on this machine, whoever runs it and wherever it keeps its files.
//!
//! Two engines that give out the addresses of one pool would each have a client behind one alias. The lock of the file
//! tells engines with one state folder from each other; this one tells all of them: an abstract Unix socket with the
//! pool's name, which is the network namespace's as the pool's route is, and ends with its process. Pools that overlap
//! are found by the names of all such sockets. Engines of other network namespaces are not seen: they have routes and
//! addresses of their own.
//!
//! Anybody on this machine may take such a name, and so keep a mapping from running; it is told with the process and the
//! user that do.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, getsockopt, listen, socket, sockopt,
};

use super::error::reason;
use crate::model::alias::Pool;

/// What every such name begins with.
const NAME: &str = "portolan-alias-";
/// Who asks for the holder connects, and is turned away by it: so many at once, and the others learn no more than that
/// there is one.
const ASKING: i32 = 16;
/// Every Unix socket of this thread's network namespace.
const UNIX_SOCKETS: &str = "/proc/thread-self/net/unix";

/// Holds a pool until it is dropped, or the process ends.
#[derive(Debug)]
pub struct PoolHold {
    listener: UnixListener,
}

/// Why a pool cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum PoolHoldError {
    /// Somebody else has it, or one that overlaps it.
    #[error(
        "the aliases of {pool} are held by {}: give this mapping another alias_pool",
        by.map_or("another process".to_owned(), |by| by.to_string())
    )]
    Held {
        /// The pool that is held.
        pool: IpNet,
        /// Who has it; unknown in the moment before it says so, and when many ask at once.
        by: Option<Holder>,
    },
    /// The system has no such socket to give.
    #[error("{pool} cannot be held: {}", reason(.source))]
    Unholdable {
        /// The pool.
        pool: IpNet,
        /// Why not.
        source: io::Error,
    },
}

/// A process as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id; 0 where it cannot be seen from here.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            0 => write!(f, "a process of user {} elsewhere", self.uid),
            pid => write!(f, "process {pid} of user {}", self.uid),
        }
    }
}

impl PoolHold {
    /// Holds a pool, if nobody has it nor one that overlaps it.
    pub fn take(pool: &Pool) -> Result<Self, PoolHoldError> {
        let network = pool.network();
        let failed = |source| PoolHoldError::Unholdable { pool: network, source };
        let address = SocketAddr::from_abstract_name(name(network)).map_err(failed)?;
        let listener = match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(PoolHoldError::Held { pool: network, by: holder(network) });
            }
            bound => bound.map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let few = |backlog| listen(&listener, backlog);
        Backlog::new(ASKING).and_then(few).map_err(|errno: Errno| failed(errno.into()))?;
        // Two that do this at one moment find each other, and neither goes on: better than both.
        let sockets = fs::read(UNIX_SOCKETS).map_err(failed)?;
        // The kernel shows names as they are, whatever bytes somebody has put there.
        match held(&String::from_utf8_lossy(&sockets)).find(|other| *other != network && pool.overlaps(*other)) {
            Some(other) => Err(PoolHoldError::Held { pool: other, by: holder(other) }),
            None => Ok(Self { listener }),
        }
    }

    /// Lets those go that have asked who this is.
    pub fn turn_away(&self) {
        while self.listener.accept().is_ok() {}
    }
}

/// The pools that are held, by the names of all sockets.
fn held(sockets: &str) -> impl Iterator<Item = IpNet> {
    sockets.lines().filter_map(|line| line.rsplit(' ').next()?.strip_prefix('@')?.strip_prefix(NAME)?.parse().ok())
}

/// Who holds a pool.
fn holder(network: IpNet) -> Option<Holder> {
    let socket = stream().ok()?;
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name(network).as_bytes()).ok()?).ok()?;
    let told = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    Some(Holder { pid: u32::try_from(told.pid()).ok()?, uid: told.uid() })
}

fn stream() -> nix::Result<OwnedFd> {
    // Whoever has the name need not answer: it is not waited for.
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

fn name(network: IpNet) -> String {
    format!("{NAME}{network}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn of_pools_that_overlap_one_is_held_and_who_has_it_is_told() {
        let first = PoolHold::take(&pool("203.0.112.0/22")).unwrap();
        let said = format!(
            "the aliases of 203.0.112.0/22 are held by process {} of user {}: give this mapping another alias_pool",
            std::process::id(),
            nix::unistd::geteuid()
        );
        for other in ["203.0.112.0/22", "203.0.113.0/24", "203.0.0.0/16"] {
            assert_eq!(PoolHold::take(&pool(other)).unwrap_err().to_string(), said, "{other}");
        }
        assert!(PoolHold::take(&pool("203.0.120.0/22")).is_ok());
        // However many ask, nobody waits, and there is room again once they were turned away.
        let asked = (0..100).filter(|_| holder(first_network()).is_none()).count();
        assert!(asked > 0);
        first.turn_away();
        assert!(holder(first_network()).is_some());
        drop(first);
        assert!(PoolHold::take(&pool("203.0.113.0/24")).is_ok());
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other() {
        let odd = SocketAddr::from_abstract_name(b"\xff\xfe portolan").unwrap();
        let _odd = UnixListener::bind_addr(&odd).unwrap();
        let _first = PoolHold::take(&pool("203.0.96.0/22")).unwrap();
        assert!(matches!(PoolHold::take(&pool("203.0.97.0/24")), Err(PoolHoldError::Held { .. })));
    }

    fn first_network() -> IpNet {
        "203.0.112.0/22".parse().unwrap()
    }

    #[test]
    fn names_of_others_are_no_pools() {
        let lines = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     00000000: 00000002 00000000 00010000 0001 01 1 @portolan-alias-198.18.0.0/15\n\
                     00000000: 00000002 00000000 00010000 0001 01 2 @portolan-alias-fd00:a1a5::/64\n\
                     00000000: 00000002 00000000 00010000 0001 01 3 @portolan-alias-198.18.0.0/33\n\
                     00000000: 00000002 00000000 00010000 0001 01 4 /run/portolan-alias-10.0.0.0/8\n\
                     00000000: 00000002 00000000 00000000 0002 01 5\n";
        let found: Vec<String> = held(lines).map(|network| network.to_string()).collect();
        assert_eq!(found, ["198.18.0.0/15", "fd00:a1a5::/64"]);
    }
}
