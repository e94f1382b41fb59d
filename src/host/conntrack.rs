//! Connections that the packet filter has rewritten on their way (DNAT), out of the kernel's connection tracking.
//!
//! The kernel tells it to those alone who may administer the network. It is read over netlink, or, where the kernel
//! was built without that, out of `/proc`. Nothing is changed: the one message sent asks for the list.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

use super::netlink::{Attributes, Netlink};
use crate::model::mapping::Protocol;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// `nfgenmsg`.
const GENERIC: usize = 4;

/// A connection whose destination was rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rewritten {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Whom the client addressed.
    pub listener: SocketAddr,
    /// As whom the target sees the client.
    pub source: SocketAddr,
    /// Who answers.
    pub target: SocketAddr,
    /// Of TCP.
    pub state: Option<TrackedState>,
    /// The target has answered.
    pub is_answered: bool,
}

/// States of a tracked TCP connection. Of an end they tell that it was sent, not by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrackedState {
    /// Seen for the first time in its midst.
    None,
    /// The client has begun.
    SynSent,
    /// The target has answered.
    SynRecv,
    /// Both may send.
    Established,
    /// One side has sent its end.
    FinWait,
    /// That was acknowledged.
    CloseWait,
    /// Both sides have sent their ends.
    LastAck,
    /// Both ends were acknowledged.
    TimeWait,
    /// It was reset.
    Close,
}

impl TrackedState {
    /// From the kernel's number (`linux/netfilter/nf_conntrack_tcp.h`).
    fn from_kernel(number: u8) -> Self {
        match number {
            1 | 9 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            _ => Self::None,
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let all = [
            Self::None,
            Self::SynSent,
            Self::SynRecv,
            Self::Established,
            Self::FinWait,
            Self::CloseWait,
            Self::LastAck,
            Self::TimeWait,
            Self::Close,
        ];
        if word == "SYN_SENT2" {
            return Some(Self::SynSent);
        }
        all.into_iter().find(|state| state.word() == word)
    }

    /// The kernel's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
        }
    }
}

/// Those for which `is_wanted` holds, `most` at most, and whether there were more. An error of the kind
/// `PermissionDenied` where this user may not see them.
pub fn rewritten(most: usize, is_wanted: impl Fn(&Rewritten) -> bool) -> io::Result<(Vec<Rewritten>, bool)> {
    let (mut found, mut has_more) = (Vec::new(), false);
    let mut keep = |entry: Option<Rewritten>| {
        if let Some(entry) = entry.filter(|entry| is_wanted(entry)) {
            if found.len() < most {
                found.push(entry);
            } else {
                has_more = true;
            }
        }
    };
    let listed = Netlink::open(libc::NETLINK_NETFILTER).and_then(|mut netlink| {
        // Of both families, in version 0, of no queue.
        netlink.dump(GET, &[0; GENERIC], |message| {
            keep(message.get(GENERIC..).and_then(decode));
            Ok(())
        })
    });
    match listed {
        Ok(()) => Ok((found, has_more)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Without netlink for it; what there is of the list is dropped.
        Err(error) => {
            (found, has_more) = (Vec::new(), false);
            let text =
                fs::read_to_string("/proc/thread-self/net/nf_conntrack").map_err(|other| match other.kind() {
                    io::ErrorKind::NotFound => error,
                    _ => other,
                })?;
            for entry in text.lines().filter_map(parse).filter(|entry| is_wanted(entry)) {
                if found.len() == most {
                    has_more = true;
                    break;
                }
                found.push(entry);
            }
            Ok((found, has_more))
        }
    }
}

/// Two ends and their protocol.
#[derive(Clone, Copy)]
struct Tuple {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
}

impl Rewritten {
    /// `None` where nothing was rewritten.
    fn of(original: Tuple, reply: Tuple, state: Option<TrackedState>, is_answered: bool) -> Option<Self> {
        (original.destination != reply.source).then_some(Self {
            protocol: original.protocol,
            client: original.source,
            listener: original.destination,
            source: reply.destination,
            target: reply.source,
            state,
            is_answered,
        })
    }
}

/// Reads the attributes of one entry (`linux/netfilter/nfnetlink_conntrack.h`).
pub(super) fn decode(attributes: &[u8]) -> Option<Rewritten> {
    const SEEN_REPLY: u32 = 1 << 1;
    let (mut original, mut reply, mut state, mut is_answered) = (None, None, None, false);
    for (kind, content) in Attributes(attributes) {
        match kind {
            1 => original = tuple(content),
            2 => reply = tuple(content),
            3 => is_answered = u32::from_be_bytes(content.get(..4)?.try_into().ok()?) & SEEN_REPLY != 0,
            4 => {
                let tcp = Attributes(content).find(|(kind, _)| *kind == 1)?.1;
                let number = Attributes(tcp).find(|(kind, _)| *kind == 1)?.1;
                state = Some(TrackedState::from_kernel(*number.first()?));
            }
            _ => {}
        }
    }
    Rewritten::of(original?, reply?, state, is_answered)
}

fn tuple(content: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (None, None);
    let port = |content: &[u8]| Some(u16::from_be_bytes(content.get(..2)?.try_into().ok()?));
    for (kind, content) in Attributes(content) {
        match kind {
            1 => {
                for (kind, content) in Attributes(content) {
                    match kind {
                        1 | 3 => source = address(content),
                        2 | 4 => destination = address(content),
                        _ => {}
                    }
                }
            }
            2 => {
                for (kind, content) in Attributes(content) {
                    match kind {
                        1 => protocol = content.first().copied().and_then(protocol_of),
                        2 => source_port = port(content),
                        3 => destination_port = port(content),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple {
        source: SocketAddr::new(source?, source_port?),
        destination: SocketAddr::new(destination?, destination_port?),
        protocol: protocol?,
    })
}

fn address(content: &[u8]) -> Option<IpAddr> {
    match content.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(content).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(content).ok()?).into()),
        _ => None,
    }
}

fn protocol_of(number: u8) -> Option<Protocol> {
    match i32::from(number) {
        libc::IPPROTO_TCP => Some(Protocol::Tcp),
        libc::IPPROTO_UDP => Some(Protocol::Udp),
        libc::IPPROTO_SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Reads one line of `/proc/net/nf_conntrack`: its first words, then both directions as `src= dst= sport= dport=`.
pub(super) fn parse(line: &str) -> Option<Rewritten> {
    let mut words = line.split_ascii_whitespace().skip(3);
    let protocol = protocol_of(words.next()?.parse().ok()?)?;
    let rest: Vec<&str> = words.skip(1).collect();
    let values = |key: &str| -> Vec<&str> { rest.iter().filter_map(|word| word.strip_prefix(key)).collect() };
    let (sources, destinations) = (values("src="), values("dst="));
    let (source_ports, destination_ports) = (values("sport="), values("dport="));
    let tuple = |at: usize| {
        let end = |ips: &[&str], ports: &[&str]| {
            Some(SocketAddr::new(ips.get(at)?.parse().ok()?, ports.get(at)?.parse().ok()?))
        };
        let (source, destination) = (end(&sources, &source_ports)?, end(&destinations, &destination_ports)?);
        Some(Tuple { source, destination, protocol })
    };
    let state = rest.first().and_then(|word| TrackedState::from_word(word));
    Rewritten::of(tuple(0)?, tuple(1)?, state, !rest.contains(&"[UNREPLIED]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(content.len() + 4).expect("small").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn ends(kind: u16, source: [u8; 4], source_port: u16, destination: [u8; 4], destination_port: u16) -> Vec<u8> {
        let ip = [attribute(1, &source), attribute(2, &destination)].concat();
        let ports = [
            attribute(1, &[6]),
            attribute(2, &source_port.to_be_bytes()),
            attribute(3, &destination_port.to_be_bytes()),
        ];
        attribute(kind | 0x8000, &[attribute(0x8001, &ip), attribute(0x8002, &ports.concat())].concat())
    }

    fn entry() -> Vec<u8> {
        [
            ends(1, [198, 51, 100, 7], 41_000, [192, 0, 2, 1], 8080),
            ends(2, [203, 0, 113, 2], 80, [203, 0, 113, 1], 41_001),
            attribute(3, &(1u32 << 1 | 1 << 3).to_be_bytes()),
            attribute(0x8004, &attribute(0x8001, &attribute(1, &[3]))),
        ]
        .concat()
    }

    #[test]
    fn both_sources_are_read_alike() {
        let expected = Rewritten {
            protocol: Protocol::Tcp,
            client: "198.51.100.7:41000".parse().expect("address"),
            listener: "192.0.2.1:8080".parse().expect("address"),
            source: "203.0.113.1:41001".parse().expect("address"),
            target: "203.0.113.2:80".parse().expect("address"),
            state: Some(TrackedState::Established),
            is_answered: true,
        };
        assert_eq!(decode(&entry()), Some(expected.clone()));
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=198.51.100.7 dst=192.0.2.1 sport=41000 dport=8080 \
            src=203.0.113.2 dst=203.0.113.1 sport=80 dport=41001 [ASSURED] mark=0 zone=0 use=2";
        assert_eq!(parse(line), Some(expected.clone()));
        let udp = "ipv6 10 udp 17 29 src=2001:db8::7 dst=2001:db8::1 sport=5 dport=53 [UNREPLIED] \
            src=fd00::2 dst=2001:db8::7 sport=53 dport=5 mark=0 use=1";
        let udp = parse(udp).expect("it is rewritten");
        assert_eq!((udp.protocol, udp.state, udp.is_answered), (Protocol::Udp, None, false));
        assert_eq!(udp.target, "[fd00::2]:53".parse().expect("address"));
    }

    #[test]
    fn what_was_not_rewritten_and_what_is_cut_is_left_out() {
        let plain = [ends(1, [1; 4], 1, [2; 4], 2), ends(2, [2; 4], 2, [1; 4], 1)].concat();
        assert_eq!(decode(&plain), None);
        let whole = entry();
        for cut in 0..whole.len() {
            // Without its last attribute it is still an entry; never a panic.
            let _ = decode(&whole[..cut]);
        }
        for line in
            ["", "ipv4", "ipv4 2 tcp 6", "ipv4 2 icmp 1 29 src=1.2.3.4 dst=1.2.3.4 type=8", "ipv4 2 tcp 6 1 X src=x"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn who_may_not_see_them_is_told_so() {
        let list = rewritten(10, |_| true);
        if nix::unistd::geteuid().is_root() {
            // A container's root need not be allowed; it is an answer all the same.
            assert!(list.is_ok() || list.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
        } else {
            assert_eq!(list.expect_err("an ordinary user").kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
