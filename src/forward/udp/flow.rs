//! One flow: its own connected socket towards the target, its record, and what the target's silence, replies
//! and refusals tell.
//!
//! The socket is connected, so the kernel drops datagrams that anybody but the target sends to it. An error on
//! it (ICMP: nobody listens there, no route) is an outcome to show and never the flow's end: the target may be
//! back the next moment, and the client sends again. When flows come and go is the listener's business.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::packet::{SEND_TRIES, is_full};
use super::sources::SourceEntry;
use crate::forward::descriptors::DescriptorPermit;
use crate::forward::meter::{Direction, MappingMeter};
use crate::forward::registry::OpenConnection;
use crate::model::event::CloseReason;
use crate::model::untrusted::SafeText;
use crate::model::update::LastOutcome;

/// Asked of the kernel for the replies of one flow that wait to be forwarded. A limit: it takes no memory.
const FLOW_BUFFER: usize = 1 << 20;

/// So long may a target whose address is no longer the mapping's leave a client without a reply before the
/// client's next datagram goes to the new address.
const SILENCE: Duration = Duration::from_secs(2);

/// New sockets tried when the kernel picks the target's own port as the source.
const DIAL_TRIES: usize = 4;

/// A flow that stands.
#[derive(Debug)]
pub(super) struct Flow {
    socket: UdpSocket,
    record: OpenConnection,
    target: SocketAddr,
    /// The route under which its target was last known to be right.
    pub(super) route: u64,
    /// The first datagram since the last reply, or since the last error.
    asked: Option<Instant>,
    health: Health,
    _entry: SourceEntry,
    _permit: DescriptorPermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Unknown,
    Answers,
    Fails,
    /// Its source is no longer an address of this host: only another socket can help.
    Broken,
}

/// A socket connected to a target.
#[derive(Debug)]
pub(super) struct Dialled {
    socket: UdpSocket,
    source: SocketAddr,
    target: SocketAddr,
}

/// Connects a socket to `target`. Nothing is sent by this.
pub(super) fn dial(target: SocketAddr) -> io::Result<Dialled> {
    // A socket whose source is its own target would hear itself. Such a one is held until another is found,
    // so that the kernel picks a different port.
    let mut echoes = Vec::new();
    loop {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM.nonblocking(), None)?;
        socket.set_recv_buffer_size(FLOW_BUFFER)?;
        socket.connect(&target.into())?;
        let socket = UdpSocket::from(socket);
        let source = socket.local_addr()?;
        // A target without an address (0.0.0.0, ::) is this host by another, which only the kernel knows.
        let target = if target.ip().is_unspecified() { socket.peer_addr()? } else { target };
        if source != target {
            return Ok(Dialled { socket, source, target });
        }
        if echoes.len() == DIAL_TRIES {
            return Err(io::Error::other("the target is the source itself"));
        }
        echoes.push(socket);
    }
}

impl Flow {
    /// A flow over a dialled socket.
    pub(super) fn new(dialled: Dialled, record: OpenConnection, route: u64, permit: DescriptorPermit) -> Self {
        let Dialled { socket, source, target } = dialled;
        record.connected(source, target);
        let entry = {
            let told = record.record();
            record.flow_sources().enter(source, told.mapping.id(), told.listener.port(), told.client)
        };
        let (asked, health) = (None, Health::Unknown);
        Self { socket, record, target, route, asked, health, _entry: entry, _permit: permit }
    }

    /// What is written about it.
    pub(super) fn record(&self) -> &OpenConnection {
        &self.record
    }

    /// The target that it keeps.
    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// Forwards a datagram of the client. What the kernel does not take is dropped and counted.
    pub(super) fn send(&mut self, payload: &[u8], meter: &MappingMeter, now: Instant) {
        let mut tries = 1;
        loop {
            self.asked.get_or_insert(now);
            match self.socket.send(payload) {
                Ok(_) => {
                    self.record.record().counters.add_datagram(Direction::In, payload.len() as u64);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error, meter, now);
                    // Most errors here are those of an earlier datagram, told now in place of sending this one.
                    if tries == SEND_TRIES || is_full(errno(&error)) {
                        meter.drop_datagram();
                        return;
                    }
                    tries += 1;
                }
            }
        }
    }

    /// Takes a reply, if one waits. An error is taken note of, and is no reply.
    pub(super) fn receive(&mut self, payload: &mut [u8], meter: &MappingMeter, now: Instant) -> Received {
        match self.socket.recv(payload) {
            Ok(length) => {
                if self.health != Health::Answers {
                    self.health = Health::Answers;
                    let took = self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
                    meter.attempted(LastOutcome::Ok, took);
                }
                self.asked = None;
                Received::Reply(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(error) => {
                self.failed(&error, meter, now);
                Received::Error
            }
        }
    }

    /// Whether it can never send again.
    pub(super) fn is_broken(&self) -> bool {
        self.health == Health::Broken
    }

    /// Whether its target is dead, as far as can be seen: it fails, or leaves the client without a reply.
    /// One that still answers, or was not asked, is not.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        self.health == Health::Fails
            || self
                .asked
                .is_some_and(|asked| self.health == Health::Unknown || now.saturating_duration_since(asked) >= SILENCE)
    }

    /// Ends it: the socket first, then its record.
    pub(super) fn close(self, reason: CloseReason, error: Option<SafeText>) {
        let Self { socket, record, _permit: permit, .. } = self;
        drop(socket);
        drop(permit);
        // Its watcher has waited for this token, and goes.
        record.record().kill.cancel();
        record.close(reason, error);
    }

    fn failed(&mut self, error: &io::Error, meter: &MappingMeter, now: Instant) {
        let errno = errno(error);
        let Some(outcome) = outcome(errno) else { return };
        let took = self.asked.take().map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        let broken = matches!(errno, Errno::EINVAL | Errno::EADDRNOTAVAIL);
        self.health = if broken { Health::Broken } else { Health::Fails };
        meter.attempted(outcome, took);
    }
}

impl AsFd for Flow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What came of a look for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One of so many bytes, which may be none.
    Reply(usize),
    /// None waits.
    Nothing,
    /// An error in its place; there may be more.
    Error,
}

/// What an error tells of the target; `None` when it tells nothing.
pub(super) fn outcome(errno: Errno) -> Option<LastOutcome> {
    match errno {
        Errno::ECONNREFUSED => Some(LastOutcome::Refused),
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN | Errno::EADDRNOTAVAIL => {
            Some(LastOutcome::Unreachable)
        }
        // A firewall of ours (EPERM), a broadcast address (EACCES), ICMP "bad protocol" or "prohibited", and a
        // source address that was taken from this host (EINVAL).
        Errno::EPERM | Errno::EACCES | Errno::ENOPROTOOPT | Errno::EPROTO | Errno::EINVAL => Some(LastOutcome::Error),
        _ => None,
    }
}

/// The number of a system's error.
pub(super) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::forward::descriptors::DescriptorBudget;
    use crate::forward::registry::Registry;
    use crate::model::id::MappingId;
    use crate::model::mapping::{HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, Target, TargetHost};
    use crate::model::profile::MappingConfig;

    #[test]
    fn only_icmp_and_routing_tell_of_the_target() {
        assert_eq!(outcome(Errno::ECONNREFUSED), Some(LastOutcome::Refused));
        assert_eq!(outcome(Errno::EHOSTUNREACH), Some(LastOutcome::Unreachable));
        assert_eq!(outcome(Errno::EMSGSIZE), None);
        assert_eq!(outcome(Errno::ENOBUFS), None);
    }

    #[test]
    fn a_refusal_of_an_earlier_datagram_does_not_cost_the_next_one() {
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mapping = Mapping {
            listen: Listen { address: ListenAddress::Any, port: HostPort::Auto },
            target: Target { host: TargetHost::Localhost, ports: PortRange::single(address.port()).unwrap() },
            protocol: Protocol::Udp,
        };
        let meter = MappingMeter::new(MappingId(1), Arc::new(MappingConfig::new("test", mapping)));
        let client = SocketAddr::from(([127, 0, 0, 1], 9));
        let record = Registry::new().open(&meter, Protocol::Udp, client, address, "localhost".to_owned());
        let permit = DescriptorBudget::new(1).take(1).unwrap();
        let mut flow = Flow::new(dial(address).unwrap(), record, 0, permit);
        let now = Instant::now();
        // Loopback answers within the send: the refusal is pending when the target is back.
        flow.send(b"lost", &meter, now);
        let target = UdpSocket::bind(address).unwrap();
        flow.send(b"heard", &meter, now);
        assert_eq!(meter.last_result().map(|result| result.outcome), Some(LastOutcome::Refused));
        assert_eq!(meter.dropped_datagrams(), 0);
        let mut buffer = [0; 9];
        target.set_nonblocking(true).unwrap();
        let source = flow.socket.local_addr().unwrap();
        assert_eq!(target.recv_from(&mut buffer).unwrap(), (5, source));
        target.send_to(b"", source).unwrap();
        assert_eq!(flow.receive(&mut buffer, &meter, now), Received::Reply(0));
        assert_eq!(flow.receive(&mut buffer, &meter, now), Received::Nothing);
        assert_eq!(meter.last_result().map(|result| result.outcome), Some(LastOutcome::Ok));
        assert!(!flow.is_unanswered(now + SILENCE), "nobody asked since");
    }

    #[test]
    fn a_dialled_socket_hears_its_target_alone() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dialled = dial(target.local_addr().unwrap()).unwrap();
        assert_eq!(dialled.source, dialled.socket.local_addr().unwrap());
        assert_eq!(dialled.socket.peer_addr().unwrap(), target.local_addr().unwrap());
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"forged", dialled.source).unwrap();
        assert_eq!(dialled.socket.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
