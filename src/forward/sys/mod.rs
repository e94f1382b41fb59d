//! The one module with unsafe code: the few things that neither std, nix, socket2 nor tokio offers as safe.
//!
//! Each function takes and gives owned or borrowed descriptors, so callers cannot break what is stated here; [`duplicate`]
//! takes a number, with which nothing can be broken either.
//! Many datagrams in one call are a file of their own ([`datagrams`]).

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::libc;
use socket2::{SockAddr, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) mod datagrams;

mod ioctl {
    #![allow(missing_docs)]
    use nix::libc;

    /// Bytes unsent on a TCP socket (linux/sockios.h); libc names it for some systems only.
    const SIOCOUTQNSD: libc::c_int = 0x894B;

    // TIOCOUTQ is the value of SIOCOUTQ.
    nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);
    nix::ioctl_read_bad!(siocoutqnsd, SIOCOUTQNSD, libc::c_int);
}

/// Registers a descriptor with the reactor of the current runtime.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, always names the same descriptor, and the
    // `AsyncFd` owns it: only shared references to it are handed out, so nobody can take it away.
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|failed| {
        let (fd, error) = failed.into_parts();
        // A connection ends by a reset then: no fault of ours is to look like a clean end. Other sockets have no linger.
        let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
        error
    })
}

/// A descriptor of our own for what `number` names, which stays open. For descriptors that this process was started
/// with: nothing in it owns those, so they come as numbers.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1, and it is lent for one call of fcntl, which duplicates what is open under it, or
    // says that nothing is. Whoever may own it keeps it: it is never closed here, nor kept under this number.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Accepts one connection, non-blocking and close-on-exec, with its peer's address, in one system call.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: `try_init` hands out storage of the size that `length` says; accept4 writes a valid address
    // of at most that size and its true length. The descriptor that it returns is new and ours alone.
    let (fd, peer) = unsafe {
        SockAddr::try_init(|storage, length| {
            match libc::accept4(raw, storage.cast(), length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        })
    }?;
    // Only a peer that is gone already has no address.
    let peer = peer.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    Ok((fd, peer))
}

/// Bytes (a FIN counts as one) that the peer's kernel has not yet acknowledged.
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut count = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int.
    unsafe { ioctl::siocoutq(socket.as_fd().as_raw_fd(), &raw mut count) }?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Bytes (a FIN counts as one) that have not yet left this host's kernel for the first time.
pub(crate) fn unsent(socket: impl AsFd) -> io::Result<u64> {
    let mut count = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int.
    unsafe { ioctl::siocoutqnsd(socket.as_fd().as_raw_fd(), &raw mut count) }?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Breaks a connection off with a reset and keeps the descriptor (connect(2): an address of family `AF_UNSPEC`).
pub(crate) fn disconnect(socket: impl AsFd) -> io::Result<()> {
    let nowhere =
        libc::sockaddr { sa_family: u16::try_from(libc::AF_UNSPEC).unwrap_or_default(), sa_data: Default::default() };
    let size = libc::socklen_t::try_from(size_of_val(&nowhere)).unwrap_or_default();
    // SAFETY: the descriptor is open, and the kernel reads at most `size` bytes of what `nowhere` is.
    match unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const nowhere, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
