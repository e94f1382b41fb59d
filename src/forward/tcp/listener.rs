//! One listening socket: accepts, and outlasts the connections that came through it.
//!
//! The accept policy is [`Verdict`]: a fault of one connection concerns nobody else, a lack of descriptors or
//! memory is waited out, and only a socket that is itself broken is given up, which its mapping is told.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use nix::libc;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::dial::local_address;
use super::{ListenerEvent, MappingLinks, gate, serve};
use crate::forward::context::{Addresses, ListenerContext, Route};
use crate::forward::pressure::Limit;
use crate::forward::registry::Registry;
use crate::forward::relay::{Leg, Outcome};
use crate::forward::sys;
use crate::model::event::CloseReason;
use crate::model::id::MappingId;
use crate::model::identity::Identity;
use crate::model::mapping::Protocol;

/// How long accepting pauses when descriptors or memory have run out, unless a descriptor is given back before.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client that was there before us waits for the first look at where the target is.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// A listening socket and where it listens.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) fd: AsyncFd<OwnedFd>,
    pub(crate) bound: SocketAddr,
    pub(crate) protocol: Protocol,
    /// The program may have been started for the first client: it is not to be lost to a target that is still looked for.
    pub(crate) is_awaited: bool,
    /// Dropped with the socket, so that the mapping knows the address to be free again.
    pub(crate) closed: oneshot::Sender<()>,
}

/// What an error of accept means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It was of one connection: the next one may be had at once.
    Next,
    /// A limit: it may be better after a pause.
    Pause(Limit),
    /// The listening socket is of no use any more.
    Broken,
}

/// Accepts until told to drain or the socket breaks, and returns when the last of its connections has ended.
pub(crate) async fn run(listener: Listener, context: ListenerContext, links: Arc<MappingLinks>) {
    let Listener { fd, bound, protocol, is_awaited, closed } = listener;
    let port = links.own.listen(bound.port());
    let mut connections = Connections::new(&context, bound);
    let mut pause: Option<Instant> = None;
    // What is given back may be had: not so when the last one was not.
    let mut is_hopeful = true;
    {
        let drain = context.drain.cancelled();
        tokio::pin!(drain);
        if is_awaited {
            tokio::select! {
                () = &mut drain => {}
                _ = timeout(FIRST_LOOK, found(context.route.clone())) => {}
            }
        }
        loop {
            tokio::select! {
                biased;
                () = &mut drain => break,
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {
                    (pause, is_hopeful) = (None, true);
                }
                () = context.descriptors.given_back(), if is_hopeful && pause.is_some() => {
                    (pause, is_hopeful) = (None, false);
                }
                accepted = accept(&fd), if pause.is_none() => match accepted {
                    Ok((socket, client)) => {
                        is_hopeful = true;
                        let local = if bound.ip().is_unspecified() { None } else { Some(bound) };
                        let opened = open(socket, client, local, protocol, &context, &links, &mut connections);
                        if let Err(error) = opened {
                            tracing::debug!(%bound, %client, %error, "a client was let in and could not be served");
                            // Most likely it is gone already, which is not this listener's fault.
                            if let Verdict::Pause(limit) = Verdict::of(&error) {
                                links.pressure.press(limit);
                                pause = Some(Instant::now() + PAUSE);
                            }
                        }
                    }
                    Err(error) => match Verdict::of(&error) {
                        Verdict::Next => {}
                        Verdict::Pause(limit) => {
                            links.pressure.press(limit);
                            is_hopeful &= limit == Limit::OutOfDescriptors;
                            pause = Some(Instant::now() + PAUSE);
                        }
                        Verdict::Broken => {
                            tracing::warn!(%bound, %error, "the listening socket is broken");
                            drop(fd);
                            drop(closed);
                            let text = format!("the listening socket on {bound} has failed: {error}");
                            // When the queue is full, the end of `closed` is found with the next event.
                            let _ = links.events.try_send(Box::new(ListenerEvent::Broken(text)));
                            return connections.ended().await;
                        }
                    }
                },
            }
        }
    }
    drop(fd);
    drop(port);
    drop(closed);
    connections.ended().await;
}

/// Waits until the target has an address, or must not be dialled.
async fn found(mut route: watch::Receiver<Arc<Route>>) {
    // An error is the end of the mapping, which ends its listeners.
    let _ = route.wait_for(|route| !matches!(route.addresses, Addresses::Waiting { .. })).await;
}

/// The target as written, made anew when the route changes.
#[derive(Debug, Default)]
struct TargetText(Option<(Arc<Route>, Arc<str>)>);

impl TargetText {
    fn of(&mut self, route: &Arc<Route>, context: &ListenerContext) -> Arc<str> {
        match &self.0 {
            Some((of, text)) if Arc::ptr_eq(of, route) => Arc::clone(text),
            _ => {
                let text = context.target(route);
                self.0 = Some((Arc::clone(route), Arc::clone(&text)));
                text
            }
        }
    }
}

/// A listener's connections: what they share, and their tasks. None tells of its end, which would wake the listener for
/// each.
#[derive(Debug)]
struct Connections {
    tasks: TaskTracker,
    target: TargetText,
    registry: Arc<Registry>,
    mapping: MappingId,
    bound: SocketAddr,
}

impl Connections {
    fn new(context: &ListenerContext, bound: SocketAddr) -> Self {
        let (registry, mapping) = (Arc::clone(&context.registry), context.meter.id());
        Self { tasks: TaskTracker::new(), target: TargetText::default(), registry, mapping, bound }
    }

    /// Waits until the last one has ended.
    async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A listener that goes before its connections has not ended in order, nor do they.
impl Drop for Connections {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.registry.kill_where(CloseReason::Fault, |record| {
                let (at, bound) = (record.listener, self.bound);
                record.mapping.id() == self.mapping && at.port() == bound.port() && at.is_ipv4() == bound.is_ipv4()
            });
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<(OwnedFd, SocketAddr)> {
    loop {
        if let Ok(result) = listener.readable().await?.try_io(sys::accept) {
            return result;
        }
    }
}

/// Enters a client into the registry and starts its task, if the gate lets it in. It has dialled `local`, where the
/// listener has but one address. An error is one of the client's socket, before it was entered.
fn open(
    socket: OwnedFd,
    client: SocketAddr,
    local: Option<SocketAddr>,
    protocol: Protocol,
    context: &ListenerContext,
    links: &Arc<MappingLinks>,
    connections: &mut Connections,
) -> io::Result<()> {
    let local = local.map_or_else(|| local_address(&SockRef::from(&socket)), Ok)?;
    let route = Arc::clone(&context.route.borrow());
    let seat = if route.config.identity == Identity::Http { links.lanes.seat() } else { None };
    let leg = {
        let _lane = seat.as_ref().map(|seat| seat.runtime().enter());
        Leg::new(socket, protocol)?
    };
    let target = connections.target.of(&route, context);
    let connection = context.registry.enter(&context.meter, protocol, client, local, target);
    // Who the client is, and as whom it appears, is told with it.
    if !route.config.accept_proxy && route.config.identity != Identity::Alias {
        connection.announce();
    }
    match gate::admit(client, &route, context, links) {
        Ok((admitted, errand)) => {
            // A panic is that connection's fault alone. No `async` block, which would keep the future twice.
            let serving = AssertUnwindSafe(serve(connection, leg, admitted, errand, context.route.clone()));
            let serving = serving.catch_unwind().map(note);
            match seat {
                Some(seat) => {
                    let runtime = seat.runtime().clone();
                    connections.tasks.spawn_on(serving.map(move |()| drop(seat)), &runtime)
                }
                None => connections.tasks.spawn(serving),
            };
        }
        Err(Outcome { reason, error }) => {
            drop(leg);
            connection.close(reason, error);
        }
    }
    Ok(())
}

/// A connection's task has ended.
fn note(ended: std::thread::Result<()>) {
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        tracing::error!(text, "the task of a connection has panicked; that connection alone has ended");
    }
}

impl Verdict {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Self::Pause(Limit::OutOfDescriptors),
            // The last one is of epoll_ctl(2): what the user may have watched, which is a matter of kernel memory.
            Some(libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => Self::Pause(Limit::OutOfMemory),
            // accept(2): Linux passes on network errors that are pending on the new socket.
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::EAGAIN
                | libc::EPROTO
                | libc::EPERM
                | libc::ECONNRESET
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT,
            )
            | None => Self::Next,
            Some(_) => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_accept_ends_a_listener_only_when_the_socket_itself_is_broken() {
        let verdict = |errno| Verdict::of(&io::Error::from_raw_os_error(errno));
        for errno in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EPERM, libc::ENETDOWN] {
            assert_eq!(verdict(errno), Verdict::Next);
        }
        for errno in [libc::EMFILE, libc::ENFILE] {
            assert_eq!(verdict(errno), Verdict::Pause(Limit::OutOfDescriptors));
        }
        for errno in [libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC] {
            assert_eq!(verdict(errno), Verdict::Pause(Limit::OutOfMemory));
        }
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(verdict(errno), Verdict::Broken);
        }
    }
}
