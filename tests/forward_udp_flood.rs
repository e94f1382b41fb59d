//! What a flood of made-up sources costs. In a program of its own: it measures the memory of the whole process.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[expect(dead_code, reason = "shared with the tests of forwarding, which use the rest")]
#[path = "forward_udp/support.rs"]
mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use support::{Forwarder, Manner, Server, client, dropped_by_kernel, echo, wait_until};

const SOURCES: u32 = 200_000;
const CAP: usize = 4_096;
const PACE: u32 = 50;
const MOST_MEMORY: u64 = 64 << 20;

fn resident() -> u64 {
    let process = procfs::process::Process::myself().unwrap();
    process.statm().unwrap().resident * procfs::page_size()
}

#[test]
fn a_flood_takes_no_more_than_the_cap_and_an_established_flow_loses_nothing() {
    let target = Server::start("127.0.0.1:0", Manner::EchoPings);
    let mut forwarder = Forwarder::new(target.address, |config| config.idle_timeout = Some(Duration::from_secs(2)));
    let bound = forwarder.listen("127.0.0.1:0");
    let talker = client("127.0.0.1:0");
    echo(&talker, b"ping", bound);
    let flow = forwarder.only_flow();
    let (before, mut most, mut memory, mut echoes) = (resident(), 0, 0, 1);
    for number in 0..SOURCES {
        let source = Ipv4Addr::from(0x7f01_0000 + number);
        UdpSocket::bind((source, 0)).unwrap().send_to(b"flood", bound).unwrap();
        if number % PACE == 0 {
            // Each reply comes, or this fails.
            echo(&talker, format!("ping {number}").as_bytes(), bound);
            echoes += 1;
            most = most.max(forwarder.meter.open_connections());
            memory = memory.max(resident());
            target.forget();
        }
    }
    let grown = memory.saturating_sub(before);
    println!("{most} flows at most, {} KiB more memory", grown >> 10);
    assert_eq!(most, CAP as u64);
    assert!(grown <= MOST_MEMORY, "{} MiB", grown >> 20);
    assert_eq!(flow.connection().reason, None);
    let counts = || forwarder.registry.totals(&forwarder.meter);
    let lost = || forwarder.meter.dropped_datagrams() + dropped_by_kernel(bound);
    wait_until("every datagram is passed on or counted as dropped", || {
        counts().datagrams_in + lost() == u64::from(SOURCES) + echoes
    });
    assert_eq!(counts().datagrams_out, echoes, "of {echoes} replies none is lost");
    println!("{} datagrams of the flood were dropped, all counted; {echoes} replies, none lost", lost());
    wait_until("every flow expires", || forwarder.registry.open_connections().is_empty());
    wait_until("their descriptors are given back", || forwarder.descriptors.usage().0 == 0);
    assert!(forwarder.stop().iter().all(Result::is_ok));
}
