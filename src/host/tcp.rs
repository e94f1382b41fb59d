//! TCP connections with what the kernel has counted of them, and the filter by which it leaves out all others.
//!
//! `bytes_acked` and `bytes_received` count sequence numbers, and the two ends of a connection take one each: the SYN
//! of the side that connected, and each side's FIN. [`TcpSocket::sent`] and [`TcpSocket::received`] are payload alone.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;

use super::netlink::u64_at;
use super::sock_diag::SockDiag;
use super::sockets::Socket;
use crate::model::mapping::Family;

/// States of the kernel, as `ss` and `netstat` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// Both sides may send.
    Established,
    /// It connects.
    SynSent,
    /// It is being connected to.
    SynRecv,
    /// It has sent its end, which is not acknowledged yet.
    FinWait1,
    /// Its end is acknowledged, the peer still sends.
    FinWait2,
    /// What is left of a connection that both sides have ended, this one first.
    TimeWait,
    /// It has ended.
    Close,
    /// The peer has sent its end, this side has not.
    CloseWait,
    /// The peer has sent its end, and this side's is not acknowledged yet.
    LastAck,
    /// It waits for connections.
    Listen,
    /// Both have sent their ends at once.
    Closing,
}

impl TcpState {
    /// From the kernel's number (`net/tcp_states.h`).
    pub fn from_kernel(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Close,
        }
    }

    /// The kernel's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// Whether the peer's end has come.
    pub fn has_received_end(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing | Self::TimeWait)
    }

    /// Whether this side has sent its end.
    pub fn has_sent_end(self) -> bool {
        matches!(self, Self::FinWait1 | Self::FinWait2 | Self::Closing | Self::LastAck | Self::TimeWait)
    }

    /// Whether this side's end has been acknowledged.
    pub fn is_end_acked(self) -> bool {
        matches!(self, Self::FinWait2 | Self::TimeWait)
    }
}

/// What the kernel has counted of one connection, SYN and FIN among it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCounts {
    /// `tcpi_bytes_acked`.
    pub acked: u64,
    /// `tcpi_bytes_received`.
    pub received: u64,
}

/// A TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// This end.
    pub local: SocketAddr,
    /// The other end; port 0 of a listener.
    pub remote: SocketAddr,
    /// Its state.
    pub state: TcpState,
    /// The number under which a process holds it; 0 when none does: not accepted yet, or closed already.
    pub inode: u64,
    /// A number that no other socket has had since the machine started.
    pub cookie: u64,
    /// Whether it leaves IPv4 alone, of an IPv6 one.
    pub is_v6_only: Option<bool>,
    /// What was counted; `None` for listeners and leftovers.
    pub counts: Option<RawCounts>,
}

impl TcpSocket {
    pub(super) fn read(socket: &Socket, state: u8, cookie: u64, info: Option<&[u8]>) -> Self {
        let state = TcpState::from_kernel(state);
        Self {
            local: socket.local,
            remote: socket.remote,
            state,
            inode: socket.inode,
            cookie,
            is_v6_only: socket.is_v6_only,
            // Of a listener these are the lengths of its queues and the like.
            counts: info.filter(|_| !matches!(state, TcpState::Listen | TcpState::TimeWait)).and_then(raw_counts),
        }
    }

    /// Payload bytes that the peer's kernel has acknowledged. `has_connected`: this side made the connection.
    pub fn sent(&self, has_connected: bool) -> Option<u64> {
        self.counts.map(|counts| sent(counts, self.state, has_connected))
    }

    /// Payload bytes that have arrived.
    pub fn received(&self) -> Option<u64> {
        self.counts.map(|counts| received(counts, self.state))
    }
}

fn sent(counts: RawCounts, state: TcpState, has_connected: bool) -> u64 {
    counts.acked.saturating_sub(u64::from(has_connected)).saturating_sub(u64::from(state.is_end_acked()))
}

fn received(counts: RawCounts, state: TcpState) -> u64 {
    counts.received.saturating_sub(u64::from(state.has_received_end()))
}

/// Out of `struct tcp_info` (`linux/tcp.h`), which grows at its end.
fn raw_counts(info: &[u8]) -> Option<RawCounts> {
    Some(RawCounts { acked: u64_at(info, 120)?, received: u64_at(info, 128)? })
}

/// Which sockets the kernel is to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This end has this port.
    LocalPort(u16),
    /// The other end is this.
    Remote(SocketAddr),
}

/// Sockets of both families for which one of `conditions` holds. With more than 1,500 of them the kernel tells of
/// every socket, and the caller sees more than it asked for. Those that are being connected to are left out.
pub fn sockets(conditions: &[Condition]) -> io::Result<Vec<TcpSocket>> {
    const SYN_RECV: u32 = 1 << 3 | 1 << 12;
    let mut diag = SockDiag::open()?;
    let mut sockets = diag.dump_tcp(Family::V4, !SYN_RECV, conditions)?;
    match diag.dump_tcp(Family::V6, !SYN_RECV, conditions) {
        Ok(v6) => sockets.extend(v6),
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// A jump reaches 64 KiB at most.
const MOST_CONDITIONS: usize = 1_500;
const JUMP: u8 = 1;
const SOURCE: u8 = 7;
const DESTINATION: u8 = 8;

/// The conditions, one of which must hold, as a program of the kernel's (`struct inet_diag_bc_op`): each condition
/// that holds goes on to a jump to the end, which accepts, and one that does not skips that jump. `None` accepts all.
pub(super) fn program(conditions: &[Condition]) -> Option<Vec<u8>> {
    if conditions.is_empty() || conditions.len() > MOST_CONDITIONS {
        return None;
    }
    let mut program = Vec::new();
    // From the end, so that each jump knows how far it has to go.
    for condition in conditions.iter().rev() {
        let (code, family, prefix, port, address) = match *condition {
            Condition::LocalPort(port) => (SOURCE, libc::AF_UNSPEC, 0, port, Vec::new()),
            Condition::Remote(remote) => match remote.ip() {
                IpAddr::V4(ip) => (DESTINATION, libc::AF_INET, 32, remote.port(), ip.octets().to_vec()),
                IpAddr::V6(ip) => (DESTINATION, libc::AF_INET6, 128, remote.port(), ip.octets().to_vec()),
            },
        };
        let length = 4 + 8 + address.len();
        let mut step = vec![code, u8::try_from(length).ok()?];
        step.extend(u16::try_from(length + 4).ok()?.to_ne_bytes());
        step.extend([u8::try_from(family).ok()?, prefix, 0, 0]);
        step.extend(i32::from(port).to_ne_bytes());
        step.extend(address);
        if !program.is_empty() {
            step.extend([JUMP, 4]);
            step.extend(u16::try_from(program.len() + 4).ok()?.to_ne_bytes());
        }
        step.extend(program);
        program = step;
    }
    Some(program)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_syn_and_fin_take_is_no_payload() {
        use TcpState as S;
        // State, and how much of 100 counted both ways is payload: sent by who accepted, by who connected, received.
        for (state, accepted, connected, arrived) in [
            (S::Established, 100, 99, 100),
            (S::FinWait1, 100, 99, 100),
            (S::FinWait2, 99, 98, 100),
            (S::CloseWait, 100, 99, 99),
            (S::LastAck, 100, 99, 99),
            (S::Closing, 100, 99, 99),
            (S::SynSent, 100, 99, 100),
        ] {
            let counts = RawCounts { acked: 100, received: 100 };
            let told = (sent(counts, state, false), sent(counts, state, true), received(counts, state));
            assert_eq!(told, (accepted, connected, arrived), "{state:?}");
        }
        assert_eq!(sent(RawCounts::default(), S::SynSent, true), 0);
    }

    /// Every state that a test can hold still, on real connections of both families: the figures are what was written.
    #[test]
    fn the_kernel_counts_what_was_written_in_every_state() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).expect("bind");
            let at = listener.local_addr().expect("address");
            let mut client = TcpStream::connect(at).expect("connect");
            let (mut server, _) = listener.accept().expect("accept");
            let (near, far) = (client.local_addr().expect("local"), client.peer_addr().expect("peer"));
            let both = |clients: (TcpState, u64, u64), servers: (TcpState, u64, u64)| {
                let end = Instant::now() + Duration::from_secs(10);
                loop {
                    let found = sockets(&[Condition::LocalPort(at.port()), Condition::Remote(at)]).expect("sock_diag");
                    let of = |local: SocketAddr, remote: SocketAddr| {
                        found.iter().find(|socket| socket.local == local && socket.remote == remote).cloned()
                    };
                    let told = (of(near, far), of(far, near));
                    let figures = |socket: &Option<TcpSocket>, connected| {
                        socket.as_ref().and_then(|s| Some((s.state, s.sent(connected)?, s.received()?)))
                    };
                    if (figures(&told.0, true), figures(&told.1, false)) == (Some(clients), Some(servers)) {
                        return;
                    }
                    assert!(Instant::now() < end, "{told:?}, not {clients:?} and {servers:?}");
                    std::thread::yield_now();
                }
            };
            both((TcpState::Established, 0, 0), (TcpState::Established, 0, 0));
            client.write_all(&[1; 1_000]).expect("write");
            server.write_all(&[2; 50]).expect("write");
            both((TcpState::Established, 1_000, 50), (TcpState::Established, 50, 1_000));
            client.shutdown(Shutdown::Write).expect("shutdown");
            both((TcpState::FinWait2, 1_000, 50), (TcpState::CloseWait, 50, 1_000));
            server.write_all(&[3; 7]).expect("write");
            both((TcpState::FinWait2, 1_000, 57), (TcpState::CloseWait, 57, 1_000));
            let mut rest = Vec::new();
            (&server).read_to_end(&mut rest).expect("read");
            assert_eq!(rest.len(), 1_000);
            // The other way round: who accepted ends first.
            let mut client = TcpStream::connect(at).expect("connect");
            let (mut server, _) = listener.accept().expect("accept");
            let (near, far) = (client.local_addr().expect("local"), client.peer_addr().expect("peer"));
            server.write_all(&vec![2; 80_000]).expect("write");
            server.shutdown(Shutdown::Write).expect("shutdown");
            client.write_all(&[1; 3]).expect("write");
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("read");
            let found = sockets(&[Condition::LocalPort(at.port()), Condition::Remote(at)]).expect("sock_diag");
            let of = |local: SocketAddr, remote: SocketAddr| {
                found.iter().find(|socket| socket.local == local && socket.remote == remote).expect("it is there")
            };
            assert_eq!((of(near, far).state, of(near, far).received()), (TcpState::CloseWait, Some(80_000)));
            assert_eq!(of(far, near).received(), Some(3));
        }
    }

    #[test]
    fn the_kernel_leaves_out_what_was_not_asked_for() {
        let listeners: Vec<TcpListener> = (0..40)
            .map(|at| if at % 2 == 0 { "127.0.0.1:0" } else { "[::1]:0" })
            .map(|at| TcpListener::bind(at).expect("bind"))
            .collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().expect("address")).collect();
        let clients: Vec<TcpStream> = addresses.iter().map(|at| TcpStream::connect(at).expect("connect")).collect();
        let (asked, others) = addresses.split_at(30);
        let conditions: Vec<Condition> = asked
            .iter()
            .enumerate()
            .map(
                |(at, address)| {
                    if at % 3 == 0 { Condition::LocalPort(address.port()) } else { Condition::Remote(*address) }
                },
            )
            .collect();
        let found = sockets(&conditions).expect("sock_diag");
        for (at, address) in asked.iter().enumerate() {
            let listener = found.iter().any(|socket| socket.local == *address && socket.state == TcpState::Listen);
            let client = found.iter().any(|socket| socket.remote == *address);
            assert_eq!((listener, client), (at % 3 == 0, at % 3 != 0), "{at} of {conditions:?}: {found:?}");
        }
        assert!(!found.iter().any(|socket| others.contains(&socket.local) || others.contains(&socket.remote)));
        let distinct: std::collections::HashSet<_> = found.iter().map(|socket| socket.cookie).collect();
        assert_eq!(distinct.len(), found.len());
        drop(clients);
    }

    #[test]
    fn as_many_conditions_as_there_may_be_are_taken_by_the_kernel() {
        let many: Vec<Condition> = (0..MOST_CONDITIONS)
            .map(|at| {
                Condition::Remote(SocketAddr::new(
                    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
                    u16::try_from(at).expect("small"),
                ))
            })
            .collect();
        assert_eq!(sockets(&many).expect("sock_diag"), []);
        assert_eq!(program(&[many.clone(), many].concat()), None);
    }
}
