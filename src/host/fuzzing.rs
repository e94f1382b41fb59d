//! What holds for bytes of the kernel, of routers and of tools: netlink, ICMP, `/proc`, lists of the packet filter.
//!
//! See [`crate::fuzzing`], which is the door to it.

use std::net::{IpAddr, SocketAddr};

use super::conntrack::Rewritten;
use super::netlink::{Attributes, HEADER, Message, Messages, encoded};
use super::packet_filter::{Action, Native, Packet, Rule, State, Table, Truth, nft, save};
use super::{conntrack, drops, listeners, machine, proxies, refusals, routes, sock_diag};
use crate::model::fuzzing::assert_safe;
use crate::model::mapping::{Family, Protocol};

/// Datagrams of netlink, and what routers answer by ICMP.
pub(crate) fn kernel_messages(bytes: &[u8]) {
    let (mut count, mut told) = (0, 0);
    for message in Messages(bytes) {
        count += 1;
        if let Ok(Message::Data(data)) = message {
            told += data.len();
            netlink(data);
        }
    }
    assert!(count * HEADER + told <= bytes.len(), "{count} messages and {told} bytes out of {}", bytes.len());
    // So that what is in a message need not be found behind its head.
    netlink(bytes);
    icmp(bytes);
}

fn netlink(message: &[u8]) {
    let mut size = 0;
    for (kind, content) in Attributes(message) {
        size += 4 + content.len();
        let again = encoded(kind, content);
        assert_eq!(Attributes(&again).collect::<Vec<_>>(), [(kind, content)]);
    }
    assert!(size <= message.len(), "{size} bytes of attributes out of {}", message.len());
    socket(message);
    if let Some(entry) = conntrack::decode(message) {
        assert_is_rewritten(&entry);
    }
    if let Ok(route) = routes::route(message) {
        assert_safe(&route.interface);
    }
    if let Some(table) = Native::of(message) {
        // Each byte that is no text becomes three.
        assert!(table.name.len() <= 3 * message.len());
    }
}

/// Both readers of a socket say the same of it.
fn socket(message: &[u8]) {
    let (socket, tcp) = (sock_diag::socket(message), sock_diag::tcp_socket(message));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let listening = listeners::listening(message, protocol);
        assert_eq!(
            socket.as_ref().map(|socket| (socket.local, socket.inode, socket.is_v6_only)),
            listening.as_ref().map(|one| (one.listener.address, one.inode, one.listener.is_v6_only)),
        );
    }
    assert_eq!(
        socket.map(|socket| (socket.local, socket.remote, socket.inode)),
        tcp.as_ref().map(|tcp| (tcp.local, tcp.remote, tcp.inode)),
    );
    let Some(tcp) = tcp else { return };
    for has_connected in [false, true] {
        assert!(tcp.sent(has_connected) <= tcp.counts.map(|counts| counts.acked));
    }
    assert!(tcp.received() <= tcp.counts.map(|counts| counts.received));
}

fn assert_is_rewritten(entry: &Rewritten) {
    assert_ne!(entry.listener, entry.target, "it is in the list for that alone");
}

/// A refusal is believed of nobody but the target that it names.
fn icmp(packet: &[u8]) {
    let holds = |octets: &[u8], port: u16| {
        packet.windows(octets.len()).any(|window| window == octets)
            && packet.windows(2).any(|window| window == port.to_be_bytes())
    };
    let v4: SocketAddr = ([192, 0, 2, 7], 80).into();
    if let Some(from) = refusals::v4(packet, v4) {
        assert!(from.is_ipv4() && holds(&[192, 0, 2, 7], 80));
    }
    let octets = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    if refusals::v6(packet, (octets, 80).into()) {
        assert!(holds(&octets, 80));
    }
}

/// Files of `/proc`, of which command lines and names are others' words.
pub(crate) fn kernel_texts(bytes: &[u8]) {
    if let Some((protocol, host, container)) = proxies::parse(bytes) {
        let mut again = b"docker-proxy".to_vec();
        for (name, value) in [
            ("proto", protocol.to_string()),
            ("host-ip", host.ip().to_string()),
            ("host-port", host.port().to_string()),
            ("container-ip", container.ip().to_string()),
            ("container-port", container.port().to_string()),
        ] {
            again.extend(format!("\0-{name}\0{value}").as_bytes());
        }
        assert_eq!(proxies::parse(&again), Some((protocol, host, container)));
    }
    let text = &*String::from_utf8_lossy(bytes);
    if let Some((state, started)) = proxies::parse_stat(text) {
        let again = format!("1 (a) b) {state} {}{started}", "0 ".repeat(18));
        assert_eq!(proxies::parse_stat(&again), Some((state, started)));
    }
    for line in text.lines() {
        if let Some(entry) = conntrack::parse(line) {
            assert_is_rewritten(&entry);
        }
    }
    if let Some(drops) = drops::parse(text) {
        let (full, path) = (drops.full_queue, drops.reverse_path);
        let again = format!("TcpExt: ListenOverflows IPReversePathFilter\nTcpExt: {full} {path}\n");
        assert_eq!(drops::parse(&again), Some(drops));
    }
    if let Some(id) = machine::container_in(text) {
        assert!(id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    }
    if let Some(memory) = machine::memory_in(text) {
        assert_eq!(memory % 1024, 0);
    }
}

/// Lists of rules, as `iptables-save -c` and `nft -j list ruleset` print them.
pub(crate) fn packet_filter(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    let saved = save::tables(text, "iptables", Family::V4);
    assert!(rules(&saved).count() <= text.lines().count());
    let listed = nft::tables(text, &[]).unwrap_or_default();
    let all = nft::tables(text, &[(Family::V4, "why".into()), (Family::V6, "why".into())]).unwrap_or_default();
    assert!(listed.iter().all(|table| all.contains(table)), "what is left out is only left out");
    assert!(rules(&all).count() <= text.len());
    for rule in rules(&saved).chain(rules(&all)) {
        assert_safe(&rule.text);
        if let Action::Redirect { to } = &rule.action {
            assert_safe(to);
        }
        packets(rule);
    }
}

fn rules(tables: &[Table]) -> impl Iterator<Item = &Rule> {
    tables.iter().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules)
}

/// What is asked of packets can be asked of any.
fn packets(rule: &Rule) {
    let v4: [IpAddr; 2] = [[192, 0, 2, 7].into(), [198, 51, 100, 1].into()];
    let v6: [IpAddr; 2] = [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()];
    for ([destination, source], state) in [(v4, State::New), (v6, State::Answer)] {
        let packet = Packet {
            protocol: Protocol::Tcp,
            source: Some(source),
            source_port: Some(40_000),
            destination,
            destination_port: Some(80),
            came_in: Some("eth0".into()),
            goes_out: Some("docker0".into()),
            is_for_this_host: true,
            state,
        };
        let mut each = rule.conditions.iter().map(|condition| packet.meets(std::slice::from_ref(condition)));
        assert_eq!(packet.meets(&rule.conditions) == Truth::No, each.any(|truth| truth == Truth::No));
    }
}
