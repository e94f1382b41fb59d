//! Floods, caps, descriptors and loops: what is bounded, and who gives way.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portolan::forward::descriptors::DescriptorBudget;
use portolan::model::event::CloseReason;

use crate::support::{Forwarder, Manner, Server, client, echo, wait_until};

const CAP: u32 = 64;
const FLOOD: u32 = 20_000;

/// A flood of made-up sources, one datagram each, beside one client that talks.
fn an_established_flow_survives_a_flood(manner: Manner) {
    let target = Server::start("127.0.0.1:0", manner);
    let mut forwarder = Forwarder::new(target.address, |config| config.max_connections = Some(CAP));
    let bound = forwarder.listen("127.0.0.1:0");
    let talker = client("127.0.0.1:0");
    echo(&talker, b"ping first", bound);
    let flow = forwarder.only_flow();
    let mut most = 0;
    for number in 0..FLOOD {
        let source = Ipv4Addr::from(0x7f01_0000 + number);
        UdpSocket::bind((source, 0)).unwrap().send_to(b"flood", bound).unwrap();
        if number % 20 == 19 {
            echo(&talker, format!("ping {number}").as_bytes(), bound);
            most = most.max(forwarder.registry.open_connections().len());
            target.forget();
        }
    }
    assert!(most <= CAP as usize, "{most} flows");
    assert!(most > CAP as usize / 2, "the flood filled the table: {most}");
    assert_eq!(flow.connection().reason, None, "the talker kept its flow");
    let replies = u64::from(FLOOD / 20) + 1;
    wait_until("every reply is counted", || flow.counters.read().datagrams_out == replies);
    let evicted = forwarder.closed();
    assert!(evicted.iter().all(|flow| flow.connection().reason == Some(CloseReason::Evicted)));
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn an_established_flow_survives_a_flood_that_is_not_answered() {
    an_established_flow_survives_a_flood(Manner::EchoPings);
}

#[test]
fn an_established_flow_survives_a_flood_that_is_answered() {
    an_established_flow_survives_a_flood(Manner::Echo);
}

#[test]
fn a_newcomer_is_refused_while_every_flow_is_in_use() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |config| config.max_connections = Some(1));
    let bound = forwarder.listen("127.0.0.1:0");
    let (talker, newcomer) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    echo(&talker, b"one", bound);
    let flow = forwarder.only_flow();
    wait_until("the newcomer is refused", || {
        echo(&talker, b"two", bound);
        newcomer.send_to(b"me too", bound).unwrap();
        forwarder.meter.dropped_datagrams() > 0
    });
    assert_eq!(forwarder.only_flow().id, flow.id);
    let refused = forwarder.closed();
    assert_eq!(refused[0].connection().reason, Some(CloseReason::Limit));
    assert_eq!(refused[0].client(), newcomer.local_addr().unwrap());
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

/// Many more clients than places, whose replies are on their way when their flows give way: the source port that a
/// reply is sent to must not be another's by then.
#[test]
fn a_late_reply_to_an_evicted_flow_reaches_nobody_else() {
    const CLIENTS: usize = 200;
    const ROUNDS: usize = 40;
    const LATE: Duration = Duration::from_millis(20);
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    target.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let address = target.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let answering = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut waiting = VecDeque::new();
            let mut sources = HashSet::new();
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) || !waiting.is_empty() {
                if let Ok((length, from)) = target.recv_from(&mut buffer) {
                    sources.insert(from);
                    waiting.push_back((Instant::now() + LATE, from, buffer[..length].to_vec()));
                }
                while waiting.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
                    let (_, to, payload) = waiting.pop_front().unwrap();
                    // Where nobody is any more, the kernel refuses it.
                    let _ = target.send_to(&payload, to);
                }
            }
            sources.len()
        })
    };
    let mut forwarder = Forwarder::new(address, |config| config.max_connections = Some(CAP));
    let bound = forwarder.listen("127.0.0.1:0");
    let (mut own, mut buffer) = (0, [0; 64]);
    for round in 0..ROUNDS {
        // An address of each round's own: on a slow machine a reply comes after its client has closed, and the kernel may
        // have given that one's port to a client of the next round.
        let address = format!("127.1.{round}.1:0");
        let clients: Vec<_> = (0..CLIENTS).map(|_| client(&address)).collect();
        for (number, client) in clients.iter().enumerate() {
            client.send_to(format!("{round} {number}").as_bytes(), bound).unwrap();
        }
        std::thread::sleep(3 * LATE);
        for (number, client) in clients.iter().enumerate() {
            client.set_nonblocking(true).unwrap();
            while let Ok(length) = client.recv(&mut buffer) {
                let reply = std::str::from_utf8(&buffer[..length]).unwrap();
                assert_eq!(reply, format!("{round} {number}"), "the reply to another client");
                own += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    println!("{own} replies, each its client's own, over {} source ports", answering.join().unwrap());
    assert!(own >= ROUNDS * CAP as usize / 8, "most of the quarter that is left to newcomers was answered: {own}");
    wait_until("the ports of those that lost it are given back", || {
        forwarder.descriptors.usage().0 <= forwarder.registry.open_connections().len() as u64 + 1
    });
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn refusals_are_counted_and_their_records_are_few() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |config| config.max_connections = Some(0));
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    for sent in 1..=500 {
        client.send_to(b"me", bound).unwrap();
        wait_until("it is counted", || forwarder.meter.dropped_datagrams() == sent);
    }
    let records = forwarder.closed().len();
    assert!((1..100).contains(&records), "{records} records of 500 refusals");
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn out_of_descriptors_the_oldest_one_way_flow_gives_way() {
    let target = Server::start("127.0.0.1:0", Manner::EchoPings);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    // Two flows and what tells of them.
    forwarder.descriptors = DescriptorBudget::new(3);
    let bound = forwarder.listen("127.0.0.1:0");
    let clients: Vec<_> = (0..3).map(|_| client("127.0.0.1:0")).collect();
    echo(&clients[0], b"ping", bound);
    clients[1].send_to(b"silent", bound).unwrap();
    wait_until("two flows stand", || forwarder.registry.open_connections().len() == 2);
    assert_eq!(forwarder.descriptors.usage(), (3, 3));
    echo(&clients[2], b"ping", bound);
    let closed = forwarder.closed();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].client(), clients[1].local_addr().unwrap());
    assert_eq!(closed[0].connection().reason, Some(CloseReason::Evicted));
    let descriptors = Arc::clone(&forwarder.descriptors);
    assert!(forwarder.stop().iter().all(Result::is_ok));
    assert_eq!(descriptors.usage().0, 0);
}

#[test]
fn without_any_descriptor_datagrams_are_refused_and_the_listener_lives() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    forwarder.descriptors = DescriptorBudget::new(2);
    let bound = forwarder.listen("127.0.0.1:0");
    let taken = forwarder.descriptors.take(1);
    let client = client("127.0.0.1:0");
    client.send_to(b"too early", bound).unwrap();
    wait_until("it is refused", || forwarder.meter.dropped_datagrams() == 1);
    assert_eq!(forwarder.closed()[0].connection().reason, Some(CloseReason::Limit));
    drop(taken);
    echo(&client, b"now", bound);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn the_other_familys_one_way_flows_make_room_too() {
    let target = Server::start("127.0.0.1:0", Manner::EchoPings);
    let mut forwarder = Forwarder::new(target.address, |config| config.max_connections = Some(8));
    let (v4, v6) = (forwarder.listen("127.0.0.1:0"), forwarder.listen("[::1]:0"));
    let flood: Vec<_> = (0..8).map(|_| client("[::1]:0")).collect();
    for source in &flood {
        source.send_to(b"flood", v6).unwrap();
    }
    wait_until("the mapping is full", || forwarder.registry.open_connections().len() == 8);
    let newcomer = client("127.0.0.1:0");
    newcomer.set_nonblocking(true).unwrap();
    wait_until("a newcomer of the other family is served", || {
        newcomer.send_to(b"ping", v4).unwrap();
        newcomer.recv_from(&mut [0; 9]).is_ok()
    });
    assert!(forwarder.registry.open_connections().len() <= 8);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_target_that_cannot_be_dialled_harms_no_one() {
    // A broadcast address is refused by the kernel at once.
    let mut forwarder = Forwarder::new(SocketAddr::from(([255, 255, 255, 255], 9)), |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    client.send_to(b"lost", bound).unwrap();
    wait_until("it is dropped", || forwarder.meter.dropped_datagrams() == 1);
    let refused = forwarder.closed();
    assert_eq!(refused[0].connection().reason, Some(CloseReason::TargetUnreachable));
    assert!(refused[0].connection().error.is_some());
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    forwarder.retarget(target.address);
    echo(&client, b"found", bound);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_mapping_that_leads_to_itself_opens_one_flow_and_no_more() {
    let other = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(other.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    forwarder.retarget(bound);
    let client = client("127.0.0.1:0");
    client.send_to(b"round", bound).unwrap();
    wait_until("the loop is cut", || forwarder.meter.dropped_datagrams() == 1);
    assert_eq!(forwarder.only_flow().client(), client.local_addr().unwrap());
    assert_eq!(forwarder.closed()[0].connection().reason, Some(CloseReason::Rejected));
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn two_mappings_that_lead_to_each_other_open_two_flows_and_no_more() {
    let other = Server::start("127.0.0.1:0", Manner::Echo);
    let mut first = Forwarder::new(other.address, |_| {});
    let mut second = Forwarder::beside(Arc::clone(&first.registry), 2, other.address, |_| {});
    let (at_first, at_second) = (first.listen("127.0.0.1:0"), second.listen("127.0.0.1:0"));
    first.retarget(at_second);
    // A chain of two mappings is fine.
    let client = client("127.0.0.1:0");
    echo(&client, b"through both", at_first);
    second.retarget(at_first);
    let later = UdpSocket::bind("127.0.0.1:0").unwrap();
    later.send_to(b"round", at_first).unwrap();
    wait_until("the loop is cut", || first.meter.dropped_datagrams() == 1);
    assert_eq!(first.registry.open_connections().len(), 4, "two flows of each client");
    assert!(first.stop().iter().all(Result::is_ok));
    assert!(second.stop().iter().all(Result::is_ok));
}
