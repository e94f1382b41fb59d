//! PROXY headers of datagrams: ahead of each one to the target, and taken off those of a proxy in front.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use portolan::forward::meter::Counts;
use portolan::model::event::CloseReason;
use portolan::model::identity::Identity;
use portolan::model::profile::MappingConfig;
use portolan::wire::proxy::{Parsed, Told, Transport, parse, version_1, version_2};

use crate::support::{DEADLINE, Forwarder, client, wait_until};

fn target() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends all of `payload` in one call, a datagram for every `segment` bytes.
fn send_as_one(socket: &UdpSocket, payload: &[u8], segment: usize, to: SocketAddr) {
    let (parts, segment) = ([IoSlice::new(payload)], u16::try_from(segment).unwrap());
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let sent = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&SockaddrStorage::from(to)));
    assert_eq!(sent, Ok(payload.len()));
}

/// Headers of loopback are believed.
fn accept(config: &mut MappingConfig) {
    config.accept_proxy = true;
    config.trusted_cidrs = ["127.0.0.0/8", "::1/128"].map(|text| text.parse().unwrap()).into();
}

/// The `nth` client of a proxy in front.
fn told(nth: u16) -> Told {
    let listener = "[2001:db8::1]:443".parse().unwrap();
    Told { client: SocketAddr::new("2001:db8::42".parse().unwrap(), 40_000 + nth), listener }
}

/// A datagram as such a proxy sends it.
fn headed(nth: u16, payload: &[u8]) -> Vec<u8> {
    [&version_2(told(nth), Transport::Datagram, "in-front", None)[..], payload].concat()
}

/// What the header of a datagram tells, and what is behind it.
fn split(datagram: &[u8]) -> (Option<Told>, &[u8]) {
    match parse(datagram, Transport::Datagram) {
        Ok(Parsed::Header { length, told }) => (told, &datagram[length..]),
        other => panic!("{other:?} in {datagram:?}"),
    }
}

/// Datagrams of one size, but for the last.
fn burst(count: usize, size: usize) -> Vec<Vec<u8>> {
    let length = |nth| if nth + 1 == count { size / 3 } else { size };
    (0..count).map(|nth| (0..=250).cycle().skip(nth * 31 % 251).take(length(nth)).collect()).collect()
}

#[test]
fn each_datagram_of_a_burst_tells_who_sent_it_and_replies_are_as_they_were() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let target = target();
        let change = |config: &mut MappingConfig| config.identity = Identity::ProxyV2;
        let mut forwarder = Forwarder::new(target.local_addr().unwrap(), change);
        let bound = forwarder.listen(listen);
        let client = client(listen);
        let told = Told { client: client.local_addr().unwrap(), listener: bound };
        // 54 of 1,200 bytes are what one send can hold; with a header each, fewer.
        let datagrams = burst(54, 1_200);
        send_as_one(&client, &datagrams.concat(), 1_200, bound);
        let (mut buffer, mut flow) = (vec![0; 1 << 16], None);
        for expected in &datagrams {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(split(&buffer[..length]), (Some(told), &expected[..]));
            flow = Some(from);
        }
        let id = forwarder.registry.unique_id(forwarder.only_flow().id);
        assert!(buffer.windows(id.len()).any(|window| window == id.as_bytes()));
        client.send_to(b"", bound).unwrap();
        let (length, _) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(split(&buffer[..length]), (Some(told), &b""[..]));
        send_as_one(&target, &datagrams.concat(), 1_200, flow.unwrap());
        for expected in &datagrams {
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&expected[..], bound));
        }
        let bytes = datagrams.concat().len() as u64;
        let expected = Counts { bytes_in: bytes, bytes_out: bytes, datagrams_in: 55, datagrams_out: 54 };
        wait_until("payload is counted, and nothing else", || forwarder.registry.totals(&forwarder.meter) == expected);
        let (together, singly) = forwarder.meter.runs();
        assert!(together >= 3 && singly == 0, "{together} runs, {singly} cut up");
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn a_datagram_too_long_with_its_header_is_dropped_and_counted() {
    let target = target();
    let change = |config: &mut MappingConfig| config.identity = Identity::ProxyV2;
    let mut forwarder = Forwarder::new(target.local_addr().unwrap(), change);
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    client.send_to(&vec![7; 65_507], bound).unwrap();
    client.send_to(b"fits", bound).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (length, _) = target.recv_from(&mut buffer).unwrap();
    assert_eq!(split(&buffer[..length]).1, b"fits");
    wait_until("it is counted", || forwarder.meter.dropped_datagrams() == 1);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn a_burst_of_a_proxy_in_front_is_parted_into_its_clients_flows() {
    for identity in [Identity::None, Identity::ProxyV2] {
        let target = target();
        let change = |config: &mut MappingConfig| {
            accept(config);
            config.identity = identity;
        };
        let mut forwarder = Forwarder::new(target.local_addr().unwrap(), change);
        let bound = forwarder.listen("[::1]:0");
        let proxy = client("[::1]:0");
        // Two clients, by turns of three, in datagrams that the kernel hands over as one.
        let of = |nth: usize| u16::from(nth / 3 % 2 == 1);
        let datagrams = burst(40, 900);
        let sent: Vec<u8> = datagrams.iter().enumerate().flat_map(|(nth, text)| headed(of(nth), text)).collect();
        send_as_one(&proxy, &sent, headed(0, &datagrams[0]).len(), bound);
        let mut buffer = vec![0; 1 << 16];
        let mut flows = [None; 2];
        // Each flow keeps its order.
        let mut expected = [0, 1].map(|who| (0..40).filter(move |nth| of(*nth) == who));
        for _ in 0..40 {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            let who = match (flows, identity) {
                ([Some(first), _], _) => u16::from(first != from),
                _ => 0,
            };
            let payload = match identity {
                Identity::ProxyV2 => {
                    let (said, payload) = split(&buffer[..length]);
                    assert_eq!(said, Some(told(who)));
                    payload
                }
                _ => &buffer[..length],
            };
            flows[usize::from(who)] = Some(from);
            let nth = expected[usize::from(who)].next().expect("as many as were sent");
            assert_eq!(payload, datagrams[nth], "datagram {nth}");
        }
        for (who, flow) in flows.into_iter().enumerate() {
            target.send_to(format!("for {who}").as_bytes(), flow.unwrap()).unwrap();
            let (length, from) = proxy.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (format!("for {who}").as_bytes(), bound));
        }
        let peer = Some(proxy.local_addr().unwrap());
        let mut rows: Vec<_> = forwarder.registry.open_connections().iter().map(|flow| flow.connection()).collect();
        rows.sort_by_key(|row| row.id);
        let seen: Vec<_> = rows.iter().map(|row| (row.client, row.peer, row.listener)).collect();
        assert_eq!(seen, [0, 1].map(|who| (told(who).client, peer, bound)));
        let payload = datagrams.concat().len() as u64;
        assert_eq!(rows.iter().map(|row| row.bytes_in).sum::<u64>(), payload);
        assert!(forwarder.meter.runs().0 > 0, "what belongs together has left together");
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn what_is_no_header_or_of_nobody_trusted_opens_no_flow() {
    let target = target();
    let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |config| {
        config.accept_proxy = true;
        config.trusted_cidrs = vec!["127.0.0.1/32".parse().unwrap()];
    });
    let bound = forwarder.listen("127.0.0.1:0");
    let (proxy, stranger) = (client("127.0.0.1:0"), client("127.0.0.2:0"));
    let whole = headed(0, b"hello");
    let wrong = [
        b"hello".to_vec(),
        Vec::new(),
        whole[..20].to_vec(),
        [&version_1(told(0))[..], b"hello"].concat(),
        [&version_2(told(0), Transport::Stream, "", None)[..], b"hello"].concat(),
    ];
    for datagram in &wrong {
        proxy.send_to(datagram, bound).unwrap();
    }
    stranger.send_to(&whole, bound).unwrap();
    send_as_one(&stranger, &whole.repeat(5), whole.len(), bound);
    wait_until("all are dropped", || forwarder.meter.dropped_datagrams() == wrong.len() as u64 + 6);
    assert_eq!(forwarder.registry.open_count(), 0);
    let refusals: Vec<_> = forwarder.closed().iter().map(|record| record.connection()).collect();
    // They are told of now and then.
    assert!(!refusals.is_empty() && refusals.iter().all(|row| row.reason == Some(CloseReason::Rejected)));
    // One that says that it speaks for nobody is its sender's own.
    proxy.send_to(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0mine", bound).unwrap();
    let mut buffer = [0; 99];
    let (length, _) = target.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"mine", "the first that the target hears");
    let row = forwarder.only_flow().connection();
    assert_eq!((row.client, row.peer), (proxy.local_addr().unwrap(), None));
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn an_edit_gives_headers_to_new_flows_and_takes_them_from_every_datagram() {
    let target = target();
    let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let (before, after) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    let mut buffer = [0; 99];
    let mut heard = || {
        let (length, _) = target.recv_from(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    before.send_to(b"one", bound).unwrap();
    assert_eq!(heard(), b"one");
    forwarder.edit(|config| config.identity = Identity::ProxyV2);
    // The edit is heard of within some datagrams of another client's.
    wait_until("a flow with headers", || {
        client("127.0.0.1:0").send_to(b"two", bound).unwrap();
        heard() != b"two"
    });
    before.send_to(b"three", bound).unwrap();
    assert_eq!(heard(), b"three", "a flow that stands keeps what it had");
    after.send_to(b"four", bound).unwrap();
    let said = heard();
    assert_eq!(split(&said), (Some(Told { client: after.local_addr().unwrap(), listener: bound }), &b"four"[..]));
    forwarder.edit(accept);
    let dropped = || forwarder.meter.dropped_datagrams();
    wait_until("datagrams without a header are dropped", || {
        before.send_to(b"five", bound).unwrap();
        target.set_nonblocking(true).unwrap();
        while target.recv(&mut [0; 99]).is_ok() {}
        target.set_nonblocking(false).unwrap();
        dropped() > 0
    });
    assert!(forwarder.stop().iter().all(Result::is_ok));
}
