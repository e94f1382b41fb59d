//! Many datagrams in one call, and several in one send: what the peers see is the same as one by one.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use portolan::forward::meter::Counts;

use crate::support::{DEADLINE, Forwarder, client, wait_until};

/// A datagram that tells its number, so that order and content can be checked.
fn numbered(number: usize, length: usize) -> Vec<u8> {
    (0..=250).cycle().skip(number * 31 % 251).take(length).collect()
}

/// Sends all of `payload` in one call, a datagram for every `segment` bytes.
fn send_as_one(socket: &UdpSocket, payload: &[u8], segment: u16, to: SocketAddr) {
    let parts = [IoSlice::new(payload)];
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let to = SockaddrStorage::from(to);
    let sent = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(payload.len()));
}

/// A target that a test reads from by itself.
fn target(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

#[test]
fn what_was_sent_as_one_arrives_as_so_many_datagrams_both_ways_and_both_families() {
    for (listen, at) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        let target = target(at);
        let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |_| {});
        let bound = forwarder.listen(listen);
        let client = client(listen);
        // The last one is shorter.
        let datagrams: Vec<Vec<u8>> =
            (0..53).map(|number| numbered(number, if number == 52 { 7 } else { 1_200 })).collect();
        send_as_one(&client, &datagrams.concat(), 1_200, bound);
        let mut buffer = vec![0; 1 << 16];
        let mut flow = None;
        for expected in &datagrams {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
            flow = Some(from);
        }
        send_as_one(&target, &datagrams.concat(), 1_200, flow.unwrap());
        for expected in &datagrams {
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&expected[..], bound));
        }
        let bytes = 52 * 1_200 + 7;
        let expected = Counts { bytes_in: bytes, bytes_out: bytes, datagrams_in: 53, datagrams_out: 53 };
        wait_until("they are counted", || forwarder.registry.totals(&forwarder.meter) == expected);
        let (together, singly) = forwarder.meter.runs();
        assert!(together >= 2 && singly == 0, "{together} runs, {singly} cut up");
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn bursts_of_any_sizes_keep_boundaries_and_order_for_each_of_several_clients() {
    let target = target("127.0.0.1:0");
    let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let clients: Vec<_> = (0..3).map(|_| client("127.0.0.1:0")).collect();
    // Equal ones in a row, shorter and longer ones between them, empty ones. All of them fit into one receive queue.
    let sizes = [100, 100, 100, 40, 100, 0, 0, 100, 1_400, 1_400, 1_400, 1_400, 1, 3_000, 3_000, 3];
    for (who, client) in clients.iter().enumerate() {
        // Opens the flow, and says whose it is.
        client.send_to(&[u8::try_from(who).unwrap()], bound).unwrap();
    }
    let mut buffer = vec![0; 1 << 16];
    let mut flows = vec![None; clients.len()];
    for _ in &clients {
        let (length, from) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(length, 1);
        flows[usize::from(buffer[0])] = Some(from);
    }
    let flows: Vec<SocketAddr> = flows.into_iter().flatten().collect();
    assert_eq!(flows.len(), clients.len());
    for round in 0..20 {
        let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| numbered(round + at, *size)).collect();
        // One whole client after the other in even rounds, datagram by datagram in odd ones.
        let order: Vec<(usize, usize)> = if round % 2 == 0 {
            (0..clients.len()).flat_map(|who| (0..sent.len()).map(move |at| (who, at))).collect()
        } else {
            (0..sent.len()).flat_map(|at| (0..clients.len()).map(move |who| (who, at))).collect()
        };
        for &(who, at) in &order {
            clients[who].send_to(&sent[at], bound).unwrap();
        }
        let mut heard = vec![Vec::new(); clients.len()];
        for _ in &order {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            let who = flows.iter().position(|flow| *flow == from).unwrap();
            heard[who].push(buffer[..length].to_vec());
        }
        for (who, heard) in heard.iter().enumerate() {
            assert!(heard == &sent, "round {round}: client {who}'s datagrams are not as sent");
        }
        for &(who, at) in &order {
            target.send_to(&sent[at], flows[who]).unwrap();
        }
        for (who, client) in clients.iter().enumerate() {
            for expected in &sent {
                let (length, _) = client.recv_from(&mut buffer).unwrap();
                assert!(buffer[..length] == **expected, "round {round}: replies of client {who} are not as sent");
            }
        }
    }
    let (together, singly) = forwarder.meter.runs();
    assert!(together > 0, "nothing was sent together");
    assert_eq!(singly, 0);
    assert_eq!(forwarder.meter.dropped_datagrams(), 0);
    assert!(clients[0].set_read_timeout(Some(Duration::from_millis(1))).is_ok());
    assert!(clients[0].recv_from(&mut buffer).is_err(), "a reply too many");
    assert!(forwarder.stop().iter().all(Result::is_ok));
}
