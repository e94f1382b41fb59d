//! Who holds a port: against the kernel's own verdict, against `ss`, and against a real server.

mod common;

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use common::{Need, Running, SOON, output, require, wait_until};
use portolan::host::holders::{holders, holders_of, next_free, report};
use portolan::model::mapping::{Family, HostPort, Listen, ListenAddress, PortRange, Protocol};
use portolan::model::request::PortConflict;
use socket2::{Domain, Socket, Type};

fn listen(address: ListenAddress, first: u16, last: u16) -> Listen {
    Listen { address, port: HostPort::Ports(PortRange::new(first, last).expect("range")) }
}

fn at(ip: IpAddr, port: u16) -> Listen {
    listen(ListenAddress::Ip(ip.into()), port, port)
}

/// Binds as a mapping does: IPv6 alone with V6ONLY, `SO_REUSEADDR` for TCP only.
fn bind(ip: IpAddr, port: u16, protocol: Protocol, v6_only: bool) -> std::io::Result<Socket> {
    let (domain, kind) = (
        if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 },
        if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM },
    );
    let socket = Socket::new(domain, kind, None)?;
    if ip.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::new(ip, port).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(16)?;
    }
    Ok(socket)
}

/// Who is told to be in the way, and what the kernel says. Other programs take and leave ports meanwhile, so the
/// two are read again if they differ.
fn told_and_bound(ip: IpAddr, port: u16, protocol: Protocol) -> (Vec<PortConflict>, std::io::Result<Socket>) {
    let read = || (holders(&at(ip, port), protocol, &[]).expect("tables"), bind(ip, port, protocol, true));
    let agree = |(told, bound): &(Vec<PortConflict>, std::io::Result<Socket>)| told.is_empty() == bound.is_ok();
    (0..3).map(|_| read()).find(agree).unwrap_or_else(read)
}

fn port_of(socket: &Socket) -> u16 {
    socket.local_addr().expect("local").as_socket().expect("inet").port()
}

/// The rules of conflict are the kernel's: for every pair of addresses, "somebody is in the way" is said exactly
/// when a bind is refused.
#[test]
fn a_conflict_is_told_exactly_when_the_kernel_refuses_the_bind() {
    let ips: Vec<IpAddr> = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "::ffff:127.0.0.1"]
        .iter()
        .map(|ip| ip.parse().expect("address"))
        .collect();
    let mut refused = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for theirs in &ips {
            for v6_only in [false, true] {
                let is_mapped = matches!(theirs, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
                if v6_only && (theirs.is_ipv4() || is_mapped) {
                    continue;
                }
                let first = bind(*theirs, 0, protocol, v6_only).expect("a free port");
                let port = port_of(&first);
                for ours in &ips[..5] {
                    let (told, bound) = told_and_bound(*ours, port, protocol);
                    refused += usize::from(bound.is_err());
                    assert_eq!(
                        told.is_empty(),
                        bound.is_ok(),
                        "{protocol} theirs {theirs} (V6ONLY {v6_only}), ours {ours}: told {told:?}, kernel {bound:?}"
                    );
                    if let Some(conflict) = told.iter().find(|conflict| conflict.holder.as_str() == "this program") {
                        assert_eq!(conflict.address, SocketAddr::new(*theirs, port));
                        assert_eq!(conflict.family, Family::of(*ours));
                        let rest = holders(&at(*ours, port), protocol, &[conflict.address]).expect("tables");
                        assert!(!rest.contains(conflict), "{rest:?}");
                    }
                }
            }
        }
    }
    assert!(refused >= 20, "the kernel refused only {refused} binds: the test proves nothing");
}

#[test]
fn both_families_of_localhost_are_told_apart() {
    let v6 = TcpListener::bind("[::1]:0").expect("bind");
    let port = v6.local_addr().expect("local").port();
    let told = holders(&listen(ListenAddress::Localhost, port, port), Protocol::Tcp, &[]).expect("tables");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].family, Family::V6);
    assert_eq!(told[0].address, v6.local_addr().expect("local"));
}

#[test]
fn the_first_busy_port_of_a_range_comes_first_and_the_next_free_range_is_free() {
    let (low, high, _third) = three_in_a_row();
    let range = listen(ListenAddress::Localhost, low, high);
    let taken = TcpListener::bind(("127.0.0.1", high)).expect("just freed");
    let told = holders(&range, Protocol::Tcp, &[]).expect("tables");
    assert_eq!(told.iter().map(|conflict| conflict.address.port()).collect::<Vec<_>>(), [high]);
    let next = next_free(&range, Protocol::Tcp, &[]).expect("tables").expect("a free pair");
    assert!(next > high, "{next} overlaps {high}");
    drop(taken);
    assert!(holders(&range, Protocol::Tcp, &[]).expect("tables").is_empty());
    assert_eq!(report(&range, Protocol::Tcp, &[]).expect("tables").next_free, None);
}

/// Three ports in a row that are free now.
fn three_in_a_row() -> (u16, u16, u16) {
    for _ in 0..100 {
        let port = port_of(&bind([127, 0, 0, 1].into(), 0, Protocol::Tcp, true).expect("port"));
        let Some(last) = port.checked_add(2) else { continue };
        let all: Vec<_> = (port..=last).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        let v6: Vec<_> = (port..=last).map(|port| TcpListener::bind(("::1", port))).collect();
        if all.iter().chain(&v6).all(Result::is_ok) {
            return (port, port + 1, last);
        }
    }
    panic!("no three free ports in a row");
}

/// A connection that runs from a port is named once a bind was refused for it, and only then.
#[test]
fn a_connection_from_that_port_explains_a_refused_bind() {
    let server = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(server.local_addr().expect("local")).expect("connect");
    let port = client.local_addr().expect("local").port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpListener::bind(address).is_err(), "the kernel now lets a connection share its port");
    let listen = at(address.ip(), port);
    assert!(holders(&listen, Protocol::Tcp, &[]).expect("tables").is_empty());
    let told = holders_of(&[(address, Protocol::Tcp)]).expect("tables");
    assert_eq!(told[0].as_ref().expect("a holder").holder.as_str(), "this program");
    let next = next_free(&at(address.ip(), port - 1), Protocol::Tcp, &[]).expect("tables").expect("a free port");
    assert_ne!(next, port);
    drop((server, client));
}

/// One look answers for many addresses, each with its own holder, whatever the protocol.
#[test]
fn many_addresses_are_answered_together_each_with_its_own_holder() {
    let tcp: Vec<TcpListener> = (0..20).map(|_| TcpListener::bind("127.0.0.1:0").expect("bind")).collect();
    let udp = UdpSocket::bind("[::1]:0").expect("bind");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut asked: Vec<(SocketAddr, Protocol)> =
        tcp.iter().map(|listener| (listener.local_addr().expect("local"), Protocol::Tcp)).collect();
    asked.push((udp.local_addr().expect("local"), Protocol::Udp));
    asked.push((free, Protocol::Tcp));
    let told = holders_of(&asked).expect("tables");
    assert_eq!(told.len(), asked.len());
    for ((address, _), conflict) in asked.iter().zip(&told).take(21) {
        let conflict = conflict.as_ref().unwrap_or_else(|| panic!("nobody holds {address}"));
        assert_eq!((conflict.address, conflict.holder.as_str()), (*address, "this program"));
    }
    assert_eq!(told[21], None);
}

#[test]
fn a_free_udp_port_of_a_tcp_server_is_free() {
    // Another program may hold the UDP port of that number.
    let (tcp, udp) = (0..100)
        .find_map(|_| {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
            UdpSocket::bind(tcp.local_addr().expect("local")).ok().map(|udp| (tcp, udp))
        })
        .expect("a port that is free for both");
    let address = udp.local_addr().expect("local");
    drop(udp);
    let listen = at(address.ip(), address.port());
    assert!(holders(&listen, Protocol::Udp, &[]).expect("tables").is_empty());
    let udp = UdpSocket::bind(address).expect("bind");
    assert_eq!(holders(&listen, Protocol::Udp, &[]).expect("tables").len(), 1);
    drop((tcp, udp));
}

/// Nothing of a kernel without SCTP holds an SCTP port.
#[test]
fn sctp_is_answered_with_or_without_the_kernel_having_it() {
    assert_eq!(holders(&at([127, 0, 0, 1].into(), 80), Protocol::Sctp, &[]).expect("tables"), vec![]);
}

/// `python3 -m http.server`, as a newcomer would have it running, and the port it says.
fn http_server() -> (Running, u16) {
    let child = Command::new("python3")
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut server = Running(child.expect("python3 starts"));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1).and_then(|word| word.parse().ok());
    (server, port.expect("it says its port"))
}

#[test]
fn a_server_of_somebody_else_is_named_with_the_pid_that_ss_shows() {
    if !require(&[Need::Python, Need::Ss]) {
        return;
    }
    let (server, port) = http_server();
    let listen = listen(ListenAddress::Any, port, port);
    let before = connections_to(port);
    let told = report(&listen, Protocol::Tcp, &[]).expect("tables");
    assert_eq!(told.conflicts.len(), 1, "{told:?}");
    let holder = told.conflicts[0].holder.as_str();
    let (name, pid) = holder.split_once(" (pid ").expect("a name and a pid");
    assert!(name.starts_with("python3"), "{holder}");
    assert_eq!(pid, format!("{})", server.0.id()));
    let next = told.next_free.expect("a free port");
    assert!(TcpListener::bind(("0.0.0.0", next)).is_ok(), "{next} is not free");
    assert_eq!(connections_to(port), before, "asking who holds a port reached the server");

    let shown = output(Command::new("ss").args(["-Hltnp", &format!("sport = :{port}")]));
    assert!(shown.contains(&format!("(\"{name}\",pid={},", server.0.id())), "ss says: {shown}");
    drop(server);
    wait_until("the port is free again", SOON, || holders(&listen, Protocol::Tcp, &[]).expect("tables").is_empty());
}

/// Lines of the connection table that name this port.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("table");
    table.matches(&format!(":{port:04X} ")).count()
}
