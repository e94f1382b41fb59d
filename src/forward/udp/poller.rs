//! One descriptor that tells which of a listener's flows have something to read.
//!
//! An epoll inside the runtime's epoll: registering a flow costs one system call and no memory of the runtime,
//! and one wake-up hands out many flows. It is level-triggered, so whoever reads too little is told again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::table::FlowId;
use crate::forward::descriptors::DescriptorPermit;

/// Flows handed out at once; the others come next.
const BATCH: usize = 64;

/// Watches the flows of one listener. A flow leaves it by closing its socket, too.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: AsyncFd<Inner>,
    _permit: DescriptorPermit,
}

impl Poller {
    /// Watches nothing yet.
    pub(super) fn new(permit: DescriptorPermit) -> io::Result<Self> {
        let epoll = Inner(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        #[expect(deprecated, reason = "its successor is unsafe; `Inner` owns its descriptor and always tells the same")]
        let epoll = AsyncFd::with_interest(epoll, Interest::READABLE)?;
        Ok(Self { epoll, _permit: permit })
    }

    /// Tells from now on when `socket` has a datagram or an error.
    pub(super) fn add(&self, socket: &impl AsFd, id: FlowId) -> io::Result<()> {
        Ok(self.epoll.get_ref().0.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, id.to_bits()))?)
    }

    /// Tells of `socket` no more.
    pub(super) fn remove(&self, socket: &impl AsFd) -> io::Result<()> {
        Ok(self.epoll.get_ref().0.delete(socket)?)
    }

    /// Waits until a flow has something to read. Without a poller nothing ever has.
    pub(super) async fn readable(poller: Option<&Self>) -> io::Result<()> {
        match poller {
            Some(poller) => {
                poller.epoll.readable().await?.retain_ready();
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Tells the flows that have something to read, without waiting; none when the runtime has not heard of any.
    pub(super) fn ready(&self, flows: &mut Vec<FlowId>) -> io::Result<()> {
        let looked = self.epoll.try_io(Interest::READABLE, |inner| {
            inner.look(flows)?;
            // Only this clears the readiness, so that the next event wakes us.
            if flows.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match looked {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            looked => looked,
        }
    }

    /// Asks the kernel even if the runtime has not heard of any: with much to do, it hears late.
    pub(super) fn look(&self, flows: &mut Vec<FlowId>) -> io::Result<()> {
        self.epoll.get_ref().look(flows)
    }
}

/// An epoll that the runtime can watch.
#[derive(Debug)]
struct Inner(Epoll);

impl Inner {
    /// Puts the flows that have something to read in the place of what was there.
    fn look(&self, flows: &mut Vec<FlowId>) -> io::Result<()> {
        flows.clear();
        let mut events = [EpollEvent::empty(); BATCH];
        let count = self.0.wait(&mut events, EpollTimeout::ZERO)?;
        flows.extend(events[..count].iter().map(|event| FlowId::from_bits(event.data())));
        Ok(())
    }
}

impl AsRawFd for Inner {
    fn as_raw_fd(&self) -> RawFd {
        let Self(Epoll(descriptor)) = self;
        descriptor.as_raw_fd()
    }
}
