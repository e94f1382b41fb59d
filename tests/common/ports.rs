//! Ports for what a test starts by number.
//!
//! Not those that the kernel gives out (`ip_local_port_range` begins at 32768): between the moment in which such a
//! one is found free and the moment in which it is listened on, the kernel may give it to somebody else, be it the
//! server that the same test starts next.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// The range from which ports are taken. Below are those that a test names itself.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;
/// Ports of a process in a row: test programs that run side by side have process numbers close to each other.
const EACH: u32 = 40;

/// A port that nobody listens on, on any address of either family, and that no other call answers with soon.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let own = process::id() % (COUNT / EACH) * EACH;
    for _ in 0..COUNT {
        let next = (own + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + next).expect("a port");
        // A socket of both families, where there are two, meets whoever listens on any address of one of them.
        let any = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let is_taken = any.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
        drop(any);
        if !is_taken && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// A port of this address that nobody listens on.
pub fn closed_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), free_port())
}
