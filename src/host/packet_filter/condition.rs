//! What a rule asks of a packet, and whether a packet that is known in part fulfils it. Pure.

use crate::host::addresses::is_on_subnet;
use std::net::IpAddr;

use crate::model::mapping::Protocol;

/// One thing that a rule asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub what: What,
    /// It must not be so.
    pub is_negated: bool,
}

/// What can be asked of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its protocol.
    Protocol(Protocol),
    /// A protocol that no mapping has.
    OtherProtocol,
    /// Its source lies in this network.
    Source(IpAddr, u8),
    /// Its destination lies in this network.
    Destination(IpAddr, u8),
    /// Its source port is in one of these ranges.
    SourcePort(Vec<(u16, u16)>),
    /// Its destination port is in one of these ranges.
    DestinationPort(Vec<(u16, u16)>),
    /// It came in by an interface of that name; a trailing `+` stands for any rest.
    In(String),
    /// It goes out by an interface of that name.
    Out(String),
    /// Its destination is an address of this host.
    ToThisHost,
    /// Its source is an address of this host.
    FromThisHost,
    /// Its connection is in one of these states.
    State {
        /// `NEW` is among them.
        new: bool,
        /// `ESTABLISHED` is among them.
        established: bool,
    },
    /// It opens a TCP connection.
    Opens,
    /// Something that is not known here.
    Unknown,
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It may.
    Maybe,
}

/// Where the connection of a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This packet opens it.
    New,
    /// This packet answers.
    Answer,
}

/// A packet, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source; `None`: any.
    pub source: Option<IpAddr>,
    /// Its source port.
    pub source_port: Option<u16>,
    /// Its destination.
    pub destination: IpAddr,
    /// Its destination port.
    pub destination_port: Option<u16>,
    /// The interface by which it came in; empty where it came by none, `None`: any.
    pub came_in: Option<String>,
    /// The interface by which it goes out.
    pub goes_out: Option<String>,
    /// The destination is an address of this host.
    pub is_for_this_host: bool,
    /// Where its connection stands.
    pub state: State,
}

impl Packet {
    /// Whether all of `conditions` hold.
    pub fn meets(&self, conditions: &[Condition]) -> Truth {
        let mut all = Truth::Yes;
        for condition in conditions {
            match self.meets_one(condition) {
                Truth::No => return Truth::No,
                Truth::Maybe => all = Truth::Maybe,
                Truth::Yes => {}
            }
        }
        all
    }

    fn meets_one(&self, condition: &Condition) -> Truth {
        let sure = |holds: bool| if holds { Truth::Yes } else { Truth::No };
        let known = |holds: Option<bool>| holds.map_or(Truth::Maybe, sure);
        let of_ports = |ports: &[(u16, u16)], port: Option<u16>| {
            known(port.map(|port| ports.iter().any(|(first, last)| (*first..=*last).contains(&port))))
        };
        let truth = match &condition.what {
            What::Protocol(protocol) => sure(*protocol == self.protocol),
            What::Source(ip, prefix) => known(self.source.map(|source| is_in(source, *ip, *prefix))),
            What::Destination(ip, prefix) => sure(is_in(self.destination, *ip, *prefix)),
            What::SourcePort(ports) => of_ports(ports, self.source_port),
            What::DestinationPort(ports) => of_ports(ports, self.destination_port),
            What::In(name) => known(self.came_in.as_deref().map(|interface| is_named(interface, name))),
            What::Out(name) => known(self.goes_out.as_deref().map(|interface| is_named(interface, name))),
            What::ToThisHost => sure(self.is_for_this_host),
            // What came in by no interface is of this host; of anything else it is not known.
            What::FromThisHost => {
                if self.came_in.as_deref() == Some("") {
                    Truth::Yes
                } else {
                    Truth::Maybe
                }
            }
            What::State { new, established } => sure(match self.state {
                State::New => *new,
                State::Answer => *established,
            }),
            What::Opens if self.protocol == Protocol::Tcp => sure(self.state == State::New),
            What::OtherProtocol | What::Opens => Truth::No,
            What::Unknown => Truth::Maybe,
        };
        match (truth, condition.is_negated) {
            (Truth::Yes, true) => Truth::No,
            (Truth::No, true) => Truth::Yes,
            (truth, _) => truth,
        }
    }
}

fn is_named(interface: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(start) => interface.starts_with(start),
        None => interface == pattern,
    }
}

fn is_in(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    is_on_subnet(network, prefix, ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn what_is_not_known_of_a_packet_is_neither_met_nor_missed() {
        let packet = Packet {
            protocol: Protocol::Tcp,
            source: None,
            source_port: None,
            destination: ip("192.0.2.7"),
            destination_port: Some(80),
            came_in: Some("eth0".into()),
            goes_out: None,
            is_for_this_host: true,
            state: State::New,
        };
        let cases = [
            (What::Protocol(Protocol::Tcp), Truth::Yes),
            (What::Protocol(Protocol::Udp), Truth::No),
            (What::Source(ip("0.0.0.0"), 0), Truth::Maybe),
            (What::Destination(ip("192.0.2.0"), 24), Truth::Yes),
            (What::Destination(ip("192.0.2.8"), 32), Truth::No),
            (What::Destination(ip("0.0.0.0"), 0), Truth::Yes),
            (What::Destination(ip("::"), 0), Truth::No),
            (What::DestinationPort(vec![(1, 79), (80, 90)]), Truth::Yes),
            (What::SourcePort(vec![(1, 65535)]), Truth::Maybe),
            (What::In("eth+".into()), Truth::Yes),
            (What::In("docker0".into()), Truth::No),
            (What::Out("eth0".into()), Truth::Maybe),
            (What::State { new: false, established: true }, Truth::No),
            (What::Opens, Truth::Yes),
            (What::Unknown, Truth::Maybe),
        ];
        for (what, expected) in cases {
            let one = |is_negated| [Condition { what: what.clone(), is_negated }];
            assert_eq!(packet.meets(&one(false)), expected, "{what:?}");
            let negated = match expected {
                Truth::Yes => Truth::No,
                Truth::No => Truth::Yes,
                Truth::Maybe => Truth::Maybe,
            };
            assert_eq!(packet.meets(&one(true)), negated, "not {what:?}");
        }
    }
}
