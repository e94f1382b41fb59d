//! Descriptors of UDP flows go back. In a program of its own: it counts those of the whole process.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[expect(dead_code, reason = "shared with the tests of forwarding, which use the rest")]
#[path = "forward_udp/support.rs"]
mod support;

use std::time::Duration;

use support::{Forwarder, Manner, Server, client, echo, wait_until};

const FLOWS: usize = 500;

fn open_descriptors() -> usize {
    // The folder's own descriptor is among them, each time.
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_are_at_the_baseline_after_the_idle_timeout() {
    let target = Server::start("127.0.0.1:0", Manner::Echo);
    let mut forwarder = Forwarder::new(target.address, |config| config.idle_timeout = Some(Duration::from_millis(500)));
    let listeners = [forwarder.listen("127.0.0.1:0"), forwarder.listen("[::1]:0")];
    let baseline = open_descriptors();
    for round in 0..2 {
        let clients: Vec<_> = listeners
            .iter()
            .cycle()
            .take(FLOWS)
            .map(|bound| (client(if bound.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }), *bound))
            .collect();
        for (client, bound) in &clients {
            echo(client, b"open", *bound);
        }
        assert!(forwarder.meter.open_connections() > 0);
        drop(clients);
        wait_until("every flow expires", || forwarder.registry.open_connections().is_empty());
        wait_until("every descriptor is closed", || open_descriptors() == baseline);
        wait_until(&format!("all are given back in round {round}"), || forwarder.descriptors.usage().0 == 0);
    }
    assert!(forwarder.stop().iter().all(Result::is_ok));
}
