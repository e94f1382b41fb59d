//! Many datagrams at once, by one send or by many: each arrives as itself, in its place, and what is lost is counted.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use crate::support::{Forwarder, Manner, Server, client, dropped_by_kernel, wait_until};

/// Datagrams of one send, and the bytes of each.
const SEGMENTS: usize = 53;
const SIZE: u16 = 1_200;

/// Datagrams that tell from where and the how manieth they are.
fn datagrams(seed: u8, sizes: &[usize]) -> Vec<Vec<u8>> {
    let datagram = |(number, size): (usize, &usize)| {
        let mut datagram = vec![seed; *size];
        datagram.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        datagram
    };
    sizes.iter().enumerate().map(datagram).collect()
}

/// One send of them all, which the kernel cuts.
fn send_at_once(socket: &UdpSocket, datagrams: &[Vec<u8>], size: u16, to: SocketAddr) {
    let whole = datagrams.concat();
    let to = SockaddrStorage::from(to);
    let cut = [ControlMessage::UdpGsoSegments(&size)];
    let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&whole)], &cut, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(whole.len()));
}

/// Takes so many; gives where they come from, too.
#[track_caller]
fn take(socket: &UdpSocket, count: usize) -> (Vec<Vec<u8>>, Vec<SocketAddr>) {
    let mut buffer = vec![0; 1 << 16];
    let mut take = |number| {
        let (length, from) =
            socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{error} after {number} of {count}"));
        (buffer[..length].to_vec(), from)
    };
    let (taken, mut sources): (Vec<_>, Vec<_>) = (0..count).map(&mut take).unzip();
    sources.sort_unstable();
    sources.dedup();
    (taken, sources)
}

#[track_caller]
fn assert_same(got: &[Vec<u8>], sent: &[Vec<u8>], what: &str) {
    let lengths = |datagrams: &[Vec<u8>]| datagrams.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(got), lengths(sent), "{what}");
    assert!(got == sent, "{what}: other bytes than were sent");
}

#[test]
fn what_one_send_is_cut_into_arrives_as_so_many_datagrams_both_ways_and_in_every_family() {
    for (listen, at) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "127.0.0.1:0"), ("127.0.0.1:0", "[::1]:0"), ("[::1]:0", "[::1]:0")]
    {
        // A target that is this test: it sees each datagram, and answers as it likes.
        let target = client(at);
        let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |_| {});
        let bound = forwarder.listen(listen);
        let client = client(listen);
        for (segments, size, last) in [(SEGMENTS, SIZE, SIZE), (SEGMENTS, SIZE, 1), (64, 1_000, 1_000), (2, 30_000, 9)]
        {
            let mut sizes = vec![usize::from(size); segments];
            sizes[segments - 1] = usize::from(last);
            let (asked, replied) = (datagrams(1, &sizes), datagrams(2, &sizes));
            send_at_once(&client, &asked, size, bound);
            let (got, sources) = take(&target, segments);
            assert_same(&got, &asked, "towards the target");
            assert_eq!(sources, [forwarder.only_flow().source().unwrap()], "one flow");
            send_at_once(&target, &replied, size, sources[0]);
            let (got, sources) = take(&client, segments);
            assert_same(&got, &replied, "towards the client");
            assert_eq!(sources, [bound]);
        }
        let counts = || forwarder.only_flow().counters.read();
        let all = 2 * SEGMENTS as u64 + 64 + 2;
        wait_until("each is counted", || (counts().datagrams_in, counts().datagrams_out) == (all, all));
        assert_eq!(counts().bytes_in, counts().bytes_out);
        assert_eq!(forwarder.meter.dropped_datagrams(), 0);
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn datagrams_of_all_sizes_in_a_row_keep_their_places_and_their_boundaries() {
    // What tempts to be merged: equal ones, a shorter one behind them, a longer one, empty ones, and the largest.
    let rows: &[&[usize]] = &[
        &[1_200, 1_200, 1_200, 700, 1_200, 1_200],
        &[0, 0, 0, 1, 1, 0, 1],
        &[100, 200, 300, 200, 100, 100, 0, 100],
        &[1_200, 65_507, 1_200, 0, 1_200],
        &[9, 9, 9, 10, 9, 9, 9, 8, 9],
    ];
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let target = client("127.0.0.1:0");
        let mut forwarder = Forwarder::new(target.local_addr().unwrap(), |_| {});
        let bound = forwarder.listen(listen);
        let client = client(listen);
        for round in 0..20 {
            let sizes = rows[round % rows.len()];
            let (asked, replied) = (datagrams(3, sizes), datagrams(4, sizes));
            for datagram in &asked {
                client.send_to(datagram, bound).unwrap();
            }
            let (got, sources) = take(&target, sizes.len());
            assert_same(&got, &asked, "towards the target");
            for datagram in &replied {
                target.send_to(datagram, sources[0]).unwrap();
            }
            assert_same(&take(&client, sizes.len()).0, &replied, "towards the client");
        }
        assert!(forwarder.stop().iter().all(Result::is_ok));
    }
}

#[test]
fn bursts_of_many_clients_at_once_are_not_mixed_up() {
    const CLIENTS: u8 = 8;
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client("127.0.0.1:0")).collect();
    for round in 0..20 {
        let sizes = [usize::from(SIZE); 6];
        // By turns, so that neighbours in the queue are of different flows; and then each at once.
        let sent: Vec<_> = (0..CLIENTS).map(|number| datagrams(number, &sizes)).collect();
        if round % 2 == 0 {
            for place in 0..sizes.len() {
                for (client, datagrams) in clients.iter().zip(&sent) {
                    client.send_to(&datagrams[place], bound).unwrap();
                }
            }
        } else {
            for (client, datagrams) in clients.iter().zip(&sent) {
                send_at_once(client, datagrams, SIZE, bound);
            }
        }
        for (client, datagrams) in clients.iter().zip(&sent) {
            assert_same(&take(client, sizes.len()).0, datagrams, "each gets back its own");
        }
    }
    assert_eq!(target.sources().len(), usize::from(CLIENTS));
    assert!(forwarder.stop().iter().all(Result::is_ok));
}

#[test]
fn in_a_burst_beyond_all_buffers_every_datagram_is_delivered_or_counted_as_dropped() {
    const SENT: u64 = 30_000;
    let target = Server::start("127.0.0.1:0", Manner::Silent);
    let mut forwarder = Forwarder::new(target.address, |_| {});
    let bound = forwarder.listen("127.0.0.1:0");
    let client = client("127.0.0.1:0");
    let datagram = [7; 1_400];
    for _ in 0..SENT {
        client.send_to(&datagram, bound).unwrap();
    }
    let arrived = || target.seen().len() as u64 + dropped_by_kernel(target.address);
    let told = || forwarder.registry.totals(&forwarder.meter).datagrams_in;
    wait_until("none is unaccounted for", || {
        arrived() + dropped_by_kernel(bound) + forwarder.meter.dropped_datagrams() == SENT && told() == arrived()
    });
    println!(
        "{SENT} sent: {} delivered, {} dropped at the target, {} before us, {} by us",
        target.seen().len(),
        dropped_by_kernel(target.address),
        dropped_by_kernel(bound),
        forwarder.meter.dropped_datagrams()
    );
    assert!(told() > 0);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}
