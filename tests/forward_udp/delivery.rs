//! Datagrams arrive whole, once, from the right address, and are counted exactly.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use portolan::forward::meter::Counts;
use portolan::model::event::CloseReason;
use portolan::model::update::LastOutcome;

use crate::support::{Forwarder, Manner, Server, client, echo, wait_until};

#[test]
fn replies_leave_from_the_ipv4_address_dialled() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("0.0.0.0:0");
    let client = client("127.0.0.1:0");
    let dialled: Vec<_> = (1..=3).map(|last| SocketAddr::from(([127, 0, 0, last], bound.port()))).collect();
    for round in 0..300_usize {
        echo(&client, format!("{round}").as_bytes(), dialled[round % 3]);
    }
    let mut listeners: Vec<_> = forwarder.registry.open_connections().iter().map(|flow| flow.listener).collect();
    listeners.sort_unstable();
    assert_eq!(listeners, dialled, "a flow for each address dialled");
    assert_eq!(target.sources().len(), 3);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn replies_leave_from_the_ipv6_address_dialled() {
    let target = Server::start("[::1]:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("[::]:0");
    let client = client("[::]:0");
    let mut dialled = vec![format!("[::1]:{}", bound.port()).parse().unwrap()];
    dialled.extend(link_local(bound.port()));
    for round in 0..300_usize {
        echo(&client, format!("{round}").as_bytes(), dialled[round % dialled.len()]);
    }
    let mut listeners: Vec<_> = forwarder.registry.open_connections().iter().map(|flow| flow.listener).collect();
    listeners.sort_unstable();
    dialled.sort_unstable();
    assert_eq!(listeners, dialled, "a flow for each address dialled");
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

/// This host's link-local addresses with their interfaces; a machine may have none.
fn link_local(port: u16) -> Vec<SocketAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    let addresses = interfaces.filter_map(|interface| {
        let mut address = std::net::SocketAddrV6::from(*interface.address?.as_sockaddr_in6()?);
        address.set_port(port);
        address.ip().is_unicast_link_local().then_some(address.into())
    });
    addresses.collect()
}

#[test]
fn every_size_passes_both_ways_and_both_families() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let payload: Vec<u8> = (0..65_507_u32).map(|at| at.to_le_bytes()[(at % 3) as usize]).collect();
    for (listen, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        let bound = forwarder.listen(listen);
        let client = client(from);
        for size in [0, 1, 1_200, 65_507, 0] {
            echo(&client, &payload[..size], bound);
        }
    }
    let sizes: Vec<_> = target.seen().iter().map(|(_, length)| *length).collect();
    assert_eq!(sizes, [0, 1, 1_200, 65_507, 0, 0, 1, 1_200, 65_507, 0]);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn what_ipv4_cannot_carry_is_dropped_and_counted_and_harms_nothing() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("[::1]:0");
    let client = client("[::1]:0");
    echo(&client, b"before", bound);
    client.send_to(&vec![7; 65_527], bound).unwrap();
    echo(&client, b"after", bound);
    assert_eq!(forwarder.meter.dropped_datagrams(), 1);
    assert_eq!(target.seen().len(), 2);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn forged_replies_do_not_reach_the_client() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    echo(&client, b"first", bound);
    let source = forwarder.only_flow().source().expect("connected");
    // One from another port of the target's address, one from another address with the target's port.
    let forgers =
        [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind(("127.0.0.9", target.address.port())).unwrap()];
    for round in 0..1_000 {
        forgers[round % 2].send_to(b"forged", source).unwrap();
        if round % 100 == 0 {
            // A forged datagram would have come before this one.
            echo(&client, b"true", bound);
        }
    }
    echo(&client, b"last", bound);
    wait_until("nothing but the echoes is counted", || forwarder.registry.totals(&forwarder.meter).datagrams_out == 12);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_target_that_comes_back_is_heard_at_once() {
    for (listen, from, at) in [("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0", "[::1]:0")] {
        let address = UdpSocket::bind(at).unwrap().local_addr().unwrap();
        let mut forwarder = Forwarder::new(address, |_| {});
        let bound = forwarder.listen(listen);
        let client = client(from);
        for _ in 0..100 {
            client.send_to(b"anybody?", bound).unwrap();
        }
        let outcome = || forwarder.meter.last_result().map(|result| result.outcome);
        wait_until("the refusal is seen", || outcome() == Some(LastOutcome::Refused));
        wait_until("all is sent", || {
            let counts = forwarder.registry.totals(&forwarder.meter);
            counts.datagrams_in + forwarder.meter.dropped_datagrams() == 100
        });
        let flow = forwarder.only_flow();

        let target = Server::start(&address.to_string(), Manner::Echo);
        client.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        echo(&client, b"back", bound);
        assert_eq!(outcome(), Some(LastOutcome::Ok));
        assert_eq!(forwarder.only_flow().id, flow.id, "the flow stays");
        assert_eq!(target.sources(), [flow.source().unwrap()]);
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn a_dead_client_costs_the_others_nothing() {
    let target = Server::start("127.0.0.1:0", Manner::EchoPings);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let dead = client("127.0.0.1:0");
    echo(&dead, b"ping", bound);
    let dead_flow = forwarder.only_flow().source().unwrap();
    drop(dead);
    let alive = client("127.0.0.1:0");
    for round in 0..1_000 {
        target.socket.send_to(b"to the dead", dead_flow).unwrap();
        echo(&alive, format!("ping {round}").as_bytes(), bound);
    }
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn counts_are_what_the_peers_received() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let listeners = [forwarder.listen("127.0.0.1:0"), forwarder.listen("[::1]:0")];
    let (mut bytes, mut datagrams) = (0, 0);
    for round in 0..200_u64 {
        let bound = listeners[usize::from(round % 2 == 1)];
        let client = client(if bound.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
        for size in [round * 300 % 9_000, 0, 17] {
            echo(&client, &vec![1; usize::try_from(size).unwrap()], bound);
            bytes += size;
            datagrams += 1;
        }
        if round % 3 == 0 {
            // Killed midway: what it carried stays counted.
            let flows = forwarder.registry.open_connections();
            let flow = flows.iter().find(|flow| flow.client() == client.local_addr().unwrap()).unwrap();
            assert!(forwarder.registry.kill(flow.id, CloseReason::Killed));
        }
    }
    let heard = target.seen();
    assert_eq!((heard.len() as u64, heard.iter().map(|(_, length)| *length as u64).sum()), (datagrams, bytes));
    let (registry, meter) = (Arc::clone(&forwarder.registry), Arc::clone(&forwarder.meter));
    let expected = Counts { bytes_in: bytes, bytes_out: bytes, datagrams_in: datagrams, datagrams_out: datagrams };
    // The client may have the last reply a moment before it is counted.
    wait_until("the open flows are counted", || registry.totals(&meter) == expected);
    assert!(forwarder.stop().iter().all(Result::is_ok));
    assert_eq!(registry.totals(&meter), expected, "closing changes no count");
    assert_eq!(meter.open_connections(), 0);
}
