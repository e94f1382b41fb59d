//! How flows begin and end: idle, killed, rerouted, drained.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use portolan::forward::context::Addresses;
use portolan::model::event::CloseReason;
use portolan::model::untrusted::SafeText;

use crate::support::{Forwarder, Manner, Server, client, echo, wait_until};

const PACE: Duration = Duration::from_millis(100);
const SHORT: Duration = Duration::from_secs(1);

#[test]
fn a_one_way_flow_in_use_does_not_expire() {
    let target = Server::start("127.0.0.1:0", Manner::Silent);
    let mut forwarder = Forwarder::new(target.address, |config| config.idle_timeout = Some(SHORT));
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    for _ in 0..15 {
        client.send_to(b"log line", bound).unwrap();
        std::thread::sleep(PACE);
    }
    wait_until("all arrive", || target.seen().len() == 15);
    assert_eq!(target.sources().len(), 1, "one source port");
    assert_eq!(target.sources(), [forwarder.only_flow().source().unwrap()]);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn replies_alone_keep_a_flow_and_then_it_expires() {
    let target = Server::start("127.0.0.1:0", Manner::EchoPings);
    let mut forwarder = Forwarder::new(target.address, |config| config.idle_timeout = Some(SHORT));
    let bound = forwarder.listen("[::1]:0");
    let client = client("[::1]:0");
    echo(&client, b"ping", bound);
    let flow = forwarder.only_flow();
    for _ in 0..15 {
        target.socket.send_to(b"news", flow.source().unwrap()).unwrap();
        assert_eq!(client.recv_from(&mut [0; 9]).unwrap(), (4, bound));
        std::thread::sleep(PACE);
    }
    assert_eq!(forwarder.only_flow().id, flow.id);
    wait_until("it expires", || forwarder.registry.open_connections().is_empty());
    let closed = flow.connection();
    assert_eq!(closed.reason, Some(CloseReason::IdleTimeout));
    let lived = Duration::from_millis(closed.duration_ms);
    assert!(lived >= PACE * 14 + SHORT, "it lived {lived:?}");
    // Its record closes a moment before its socket.
    wait_until("its descriptor is given back", || forwarder.descriptors.usage().0 == 0);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn killing_one_flow_leaves_the_others() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let (first, second) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    echo(&first, b"first", bound);
    let killed = forwarder.only_flow();
    echo(&second, b"second", bound);
    assert!(forwarder.registry.kill(killed.id, CloseReason::Killed));
    wait_until("it is gone", || forwarder.registry.open_connections().len() == 1);
    assert_eq!(killed.connection().reason, Some(CloseReason::Killed));
    let source = killed.source().unwrap();
    wait_until("its socket is closed, after the time of a late reply", || UdpSocket::bind(source).is_ok());
    let kept = forwarder.only_flow();
    echo(&second, b"second again", bound);
    assert_eq!(forwarder.only_flow().id, kept.id);
    echo(&first, b"first again", bound);
    assert_eq!(forwarder.registry.open_connections().len(), 2, "the client may come back");
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_flow_keeps_its_target_while_it_answers_and_moves_when_it_does_not() {
    let old = Server::start("127.0.0.1:0", Manner::Echo);
    let new = Server::start("127.0.0.2:0", Manner::Echo);
    let mut forwarder = Forwarder::new(old.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let (standing, later) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    echo(&standing, b"before", bound);
    let first = forwarder.only_flow();
    forwarder.retarget(new.address);
    wait_until("new flows take the new address", || {
        let fresh = client("127.0.0.1:0");
        echo(&fresh, b"where?", bound);
        !new.seen().is_empty()
    });
    echo(&later, b"later", bound);
    let heard = old.seen().len();
    echo(&standing, b"standing", bound);
    assert_eq!(old.seen().len(), heard + 1, "a flow that is answered stays");

    drop(old);
    // The first is refused by the old address, which is known when the next one comes.
    wait_until("it goes on with the new address", || {
        standing.send_to(b"again", bound).unwrap();
        first.connection().reason.is_some()
    });
    assert_eq!(first.connection().reason, Some(CloseReason::TargetUnreachable));
    wait_until("the new address hears it", || new.seen().iter().any(|(_, length)| *length == 5));
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_one_way_flow_follows_its_target() {
    let old = Server::start("127.0.0.1:0", Manner::Silent);
    let new = Server::start("[::1]:0", Manner::Silent);
    let mut forwarder = Forwarder::new(old.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    client.send_to(b"log line", bound).unwrap();
    wait_until("it arrives", || old.seen().len() == 1);
    forwarder.retarget(new.address);
    wait_until("it goes on with the new address", || {
        client.send_to(b"log line", bound).unwrap();
        !new.seen().is_empty()
    });
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn without_an_address_datagrams_are_dropped_and_no_flow_opens() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    forwarder.reroute(Addresses::Waiting { reason: SafeText::new("container web is stopped") });
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    for _ in 0..20 {
        client.send_to(b"anybody?", bound).unwrap();
    }
    wait_until("all are counted", || forwarder.meter.dropped_datagrams() == 20);
    assert!(forwarder.closed().is_empty());
    forwarder.reroute(Addresses::Known(vec![target.address]));
    echo(&client, b"now", bound);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn draining_lets_flows_go_on_takes_no_new_ones_and_then_frees_the_port() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let (standing, late) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    echo(&standing, b"before", bound);
    forwarder.drain.cancel();
    for sent in 1..=10 {
        late.send_to(b"late", bound).unwrap();
        wait_until("a newcomer is dropped", || forwarder.meter.dropped_datagrams() == sent);
        echo(&standing, b"still", bound);
    }
    let record = forwarder.only_flow();
    assert!(forwarder.closed().is_empty(), "newcomers leave no record");
    record.kill(CloseReason::MappingRemoved);
    assert!(forwarder.ended().iter().all(Result::is_ok));
    assert_eq!(record.connection().reason, Some(CloseReason::MappingRemoved));
    assert!(portolan::forward::udp::bind(bound).is_ok(), "the port is free");
}

#[test]
fn an_idle_listener_ends_as_soon_as_it_is_drained() {
    let mut forwarder = Forwarder::new(SocketAddr::from(([127, 0, 0, 1], 9)), |_| {});
    let bound = forwarder.listen("[::1]:0");
    forwarder.drain.cancel();
    assert!(forwarder.ended().iter().all(Result::is_ok));
    assert!(portolan::forward::udp::bind(bound).is_ok());
}

#[test]
fn a_dead_listening_socket_is_an_error_to_its_owner() {
    let mut forwarder = Forwarder::new(SocketAddr::from(([127, 0, 0, 1], 9)), |_| {});
    // A socket of another kind stands for one that can never receive again.
    let wrong = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    forwarder.serve(UdpSocket::from(OwnedFd::from(wrong)));
    assert!(forwarder.ended().iter().all(Result::is_err));
}
