//! One flow: its own connected socket towards the target, its record, and what the target's silence, replies
//! and refusals tell.
//!
//! The socket is connected, so the kernel drops datagrams that anybody but the target sends to it. An error on
//! it (ICMP: nobody listens there, no route) is an outcome to show and never the flow's end: the target may be
//! back the next moment, and the client sends again. When flows come and go is the listener's business; how datagrams
//! leave for the target is [`super::sending`].

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::held::{HeldPort, HeldPorts};
use super::packet::merge_arrivals;
use super::runs::Run;
use super::sources::SourceEntry;
use crate::forward::alias::{self, AliasLease};
use crate::forward::descriptors::DescriptorPermit;
use crate::forward::meter::{Direction, MappingMeter};
use crate::forward::registry::OpenConnection;
use crate::forward::sys::datagrams::Inbox;
use crate::model::event::CloseReason;
use crate::model::untrusted::SafeText;
use crate::model::update::LastOutcome;

/// Asked of the kernel for the replies of one flow that wait to be forwarded. A limit: it takes no memory.
const FLOW_BUFFER: usize = 1 << 20;

/// So long may a target whose address is no longer the mapping's leave a client without a reply before the
/// client's next datagram goes to the new address.
const SILENCE: Duration = Duration::from_secs(2);

/// Replies taken at once, at least: one more than most flows have, so that their queue is seen to be empty.
const FEWEST: usize = 2;
/// At most: then it is the next flow's turn.
const MOST: usize = 32;

/// New sockets tried when the kernel picks the target's own port as the source.
const DIAL_TRIES: usize = 4;

/// A flow that stands.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: UdpSocket,
    pub(super) record: OpenConnection,
    target: SocketAddr,
    /// What each datagram to the target begins with.
    pub(super) header: Option<Arc<[u8]>>,
    /// The route under which its target was last known to be right.
    pub(super) route: u64,
    /// The first datagram since the last reply, or since the last error.
    pub(super) asked: Option<Instant>,
    health: Health,
    /// How many replies are looked for next: more while they come in bulk.
    appetite: usize,
    /// Runs of datagrams of so many bytes or more go one by one, towards the target and towards the client.
    pub(super) singly: [usize; 2],
    entry: SourceEntry,
    permit: DescriptorPermit,
    /// Its client's, until the end.
    alias: Option<AliasLease>,
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

/// Connects a socket to `target`, from the address `source` or one that the kernel chooses. Nothing is sent by this.
pub(super) fn dial(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Dialled> {
    // A socket whose source is its own target would hear itself. Such a one is held until another is found,
    // so that the kernel picks a different port.
    let mut echoes = Vec::new();
    loop {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM.nonblocking(), None)?;
        socket.set_recv_buffer_size(FLOW_BUFFER)?;
        merge_arrivals(&socket);
        if let Some(source) = source {
            alias::bind(&socket, source)?;
        }
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
    pub(super) fn new(
        dialled: Dialled,
        record: OpenConnection,
        header: Option<Arc<[u8]>>,
        route: u64,
        permit: DescriptorPermit,
    ) -> Self {
        let Dialled { socket, source, target } = dialled;
        record.connected(source, target);
        let entry = {
            let told = record.record();
            record.flow_sources().enter(source, told.mapping.id(), told.listener.port(), told.peer)
        };
        Self {
            socket,
            record,
            target,
            header,
            route,
            asked: None,
            health: Health::Unknown,
            appetite: FEWEST,
            singly: [usize::MAX; 2],
            entry,
            permit,
            alias: None,
        }
    }

    /// Whether its end gives an alias back that nobody has been known by.
    pub(super) fn frees_alias(&self) -> bool {
        self.alias.as_ref().is_some_and(AliasLease::frees_it)
    }

    /// Holds its client's alias until the end.
    pub(super) fn with_alias(self, alias: Option<AliasLease>) -> Self {
        Self { alias, ..self }
    }

    /// What is written about it.
    pub(super) fn record(&self) -> &OpenConnection {
        &self.record
    }

    /// The target that it keeps.
    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// Has everything go one by one from now on, as where the kernel knows no runs.
    #[cfg(test)]
    fn refuse_runs(&mut self) {
        self.singly = [0; 2];
    }

    /// Counts datagrams that a kernel has taken.
    pub(super) fn count(&self, direction: Direction, run: &Run) {
        self.record.record().counters.add_datagrams(direction, run.datagrams as u64, run.bytes as u64);
    }

    /// Takes replies, if any wait, into `slots`, as many as suits it and there is room for. An error is taken note
    /// of, and is no reply.
    pub(super) fn receive(
        &mut self,
        inbox: &mut Inbox,
        slots: Range<usize>,
        meter: &MappingMeter,
        now: Instant,
    ) -> Received {
        let wanted = self.appetite.min(slots.len());
        match inbox.receive(&self.socket, slots.start..slots.start + wanted) {
            Ok(count) => {
                self.appetite =
                    if count == wanted { self.appetite.max(2 * wanted).min(MOST) } else { (count + 1).max(FEWEST) };
                if self.health != Health::Answers {
                    self.health = Health::Answers;
                    if let Some(alias) = &self.alias {
                        alias.prove();
                    }
                    let took = self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
                    meter.attempted(LastOutcome::Ok, took);
                }
                self.asked = None;
                Received::Replies(count)
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

    /// Ends it: the socket first, then its record. Where a reply may be on its way to it, its port is kept from others.
    pub(super) fn close(self, reason: CloseReason, error: Option<SafeText>, held: Option<(&Arc<HeldPorts>, Instant)>) {
        let Self { socket, record, entry, permit, .. } = self;
        let port = HeldPort::new(entry, socket, permit);
        match held {
            Some((ports, now)) => ports.hold(port, now),
            None => drop(port),
        }
        // Its watcher goes.
        record.record().kill.release();
        record.close(reason, error);
    }

    pub(super) fn failed(&mut self, error: &io::Error, meter: &MappingMeter, now: Instant) {
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
    /// So many slots are filled; there may be more.
    Replies(usize),
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
    use std::io::IoSlice;

    use super::*;
    use crate::forward::descriptors::DescriptorBudget;
    use crate::forward::registry::Registry;
    use crate::forward::sys::datagrams::Outbox;
    use crate::model::id::MappingId;
    use crate::model::mapping::{HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, Target, TargetHost};
    use crate::model::profile::MappingConfig;

    /// A target and a flow towards it.
    fn flow() -> (UdpSocket, Flow, Arc<MappingMeter>) {
        flow_with(None)
    }

    /// As [`flow`], whose datagrams begin with `header`.
    fn flow_with(header: Option<&[u8]>) -> (UdpSocket, Flow, Arc<MappingMeter>) {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = target.local_addr().unwrap();
        let mapping = Mapping {
            listen: Listen { address: ListenAddress::Any, port: HostPort::Auto },
            target: Target { host: TargetHost::Localhost, ports: PortRange::single(address.port()).unwrap() },
            protocol: Protocol::Udp,
        };
        let meter = MappingMeter::new(MappingId(1), Arc::new(MappingConfig::new("test", mapping)));
        let client = SocketAddr::from(([127, 0, 0, 1], 9));
        let record = Registry::new().open(&meter, Protocol::Udp, client, address, "localhost".into());
        let permit = DescriptorBudget::new(1).take(1).unwrap();
        (target, Flow::new(dial(address, None).unwrap(), record, header.map(Arc::from), 0, permit), meter)
    }

    #[test]
    fn only_icmp_and_routing_tell_of_the_target() {
        assert_eq!(outcome(Errno::ECONNREFUSED), Some(LastOutcome::Refused));
        assert_eq!(outcome(Errno::EHOSTUNREACH), Some(LastOutcome::Unreachable));
        assert_eq!(outcome(Errno::EMSGSIZE), None);
        assert_eq!(outcome(Errno::ENOBUFS), None);
    }

    #[test]
    fn a_refusal_of_an_earlier_datagram_does_not_cost_the_next_one() {
        let (target, mut flow, meter) = flow();
        let address = target.local_addr().unwrap();
        drop(target);
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
        let mut inbox = Inbox::new(4);
        assert_eq!(flow.receive(&mut inbox, 0..4, &meter, now), Received::Replies(1));
        assert_eq!(inbox.datagram(0).length, 0);
        assert_eq!(flow.receive(&mut inbox, 0..4, &meter, now), Received::Nothing);
        assert_eq!(meter.last_result().map(|result| result.outcome), Some(LastOutcome::Ok));
        assert!(!flow.is_unanswered(now + SILENCE), "nobody asked since");
    }

    #[test]
    fn a_run_arrives_as_the_same_datagrams_together_or_singly() {
        let (target, mut flow, meter) = flow();
        target.set_nonblocking(true).unwrap();
        let payload: Vec<u8> = (0..=255).cycle().take(2_500).collect();
        let parts = [IoSlice::new(&payload[..1_000]), IoSlice::new(&payload[1_000..])];
        let mut run = Run::new(0, 1_000, None);
        assert!(run.extend(&Run::new(1, 1_500, Some(1_000))));
        for (round, expected) in [(1, 0), (1, 1)].into_iter().enumerate() {
            flow.send_run(&run, &parts, &mut Outbox::new(1), &meter, Instant::now());
            assert_eq!(meter.runs(), expected);
            let mut buffer = [0; 3_000];
            for datagram in payload.chunks(1_000) {
                let length = target.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], datagram, "round {round}");
            }
            assert_eq!(target.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            flow.refuse_runs();
        }
        let counts = flow.record().record().counters.read();
        assert_eq!((counts.bytes_in, counts.datagrams_in), (5_000, 6));
    }

    #[test]
    fn each_datagram_of_a_run_has_the_header_and_as_many_leave_together_as_fit() {
        let header = [b'h'; 60];
        // Bytes and datagrams of one send are bounded, with their headers: by 65,000 and by 64.
        for (size, count, sends) in [(1_000, 60, 1), (1_000, 64, 2), (20, 64, 1), (0, 1, 0), (1_200, 1, 0)] {
            let (target, mut flow, meter) = flow_with(Some(&header));
            target.set_nonblocking(true).unwrap();
            let payload: Vec<u8> = (0..=250).cycle().take(size * count - size / 3).collect();
            let parts = [IoSlice::new(&payload)];
            let run = Run::new(0, payload.len(), Some(size));
            assert_eq!(run.datagrams, count);
            flow.send_run(&run, &parts, &mut Outbox::new(1), &meter, Instant::now());
            assert_eq!(meter.runs(), (sends, 0), "{count} of {size}");
            let mut buffer = [0; 3_000];
            for nth in 0..count {
                let length = target.recv(&mut buffer).unwrap();
                let (told, rest) = buffer[..length].split_at(header.len());
                let end = payload.len().min((nth + 1) * size);
                assert_eq!((told, rest), (&header[..], &payload[nth * size..end]), "{count} of {size}");
            }
            assert_eq!(target.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let counts = flow.record().record().counters.read();
            assert_eq!((counts.bytes_in, counts.datagrams_in), (payload.len() as u64, count as u64));
            flow.send(&vec![0; 65_507 - header.len() + 1], &meter, Instant::now());
            assert_eq!(meter.dropped_datagrams(), 1, "no datagram is so long");
        }
    }

    #[test]
    fn a_dialled_socket_hears_its_target_alone() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dialled = dial(target.local_addr().unwrap(), None).unwrap();
        assert_eq!(dialled.source, dialled.socket.local_addr().unwrap());
        assert_eq!(dialled.socket.peer_addr().unwrap(), target.local_addr().unwrap());
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"forged", dialled.source).unwrap();
        assert_eq!(dialled.socket.recv(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
