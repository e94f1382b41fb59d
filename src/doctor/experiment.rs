//! Which counter of the kernel's grows when packets to the target get lost.
//!
//! Others send packets too, so one that grows proves nothing. A few connections are begun at once, and what grew by
//! as many in that moment, and not in the moment before, is what drops them. It is done only where connecting has
//! failed already, and what comes of these connections is of no interest.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use super::walk::{Suspect, walk};
use crate::host::drops::{self, Drops};
use crate::host::namespace::within;
use crate::host::packet_filter::{Hook, Packet, Rules, State};
use crate::host::refusals::Refusals;
use crate::host::routes::Route;
use crate::model::mapping::Protocol;

/// Connections that are begun at once.
const BURST: u64 = 4;
/// How long answers are waited for.
const MOMENT: Duration = Duration::from_millis(90);

/// Where packets to the target come by.
pub(super) const OUT: [Hook; 2] = [Hook::Output, Hook::Postrouting];
/// Where packets come by that are for this host.
pub(super) const IN: [Hook; 2] = [Hook::Prerouting, Hook::Input];

/// A way to an address, to be tried.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) route: Option<Route>,
    /// A process in the network namespace of the target, where it is of this host.
    pub(super) inside: Option<u32>,
}

/// What grew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) address: SocketAddr,
    /// Answers were dropped by the reverse-path filter, here.
    pub(super) reverse_path: bool,
    /// The listener's queue was full.
    pub(super) full_queue: bool,
    /// The rules that dropped or refused, as they are shown, and whether each is the container's own.
    pub(super) rules: Vec<(String, bool)>,
    /// Who on the way has said that it refuses to pass packets on.
    pub(super) refused_by: Option<IpAddr>,
}

/// Everything that is compared, at one moment.
struct Reading {
    here: Option<Drops>,
    inside: Option<Drops>,
    rules: Rules,
    rules_inside: Rules,
}

impl Reading {
    fn new(trial: &Trial) -> Self {
        Self {
            here: drops::read(None),
            inside: drops::read(trial.inside),
            rules: Rules::read(),
            rules_inside: trial.inside.and_then(|pid| within(pid, Rules::read).ok()).unwrap_or_default(),
        }
    }
}

/// Tries. Takes about a quarter of a second.
pub(super) fn observe(trial: &Trial) -> Observed {
    let before = Reading::new(trial);
    sleep(MOMENT);
    let middle = Reading::new(trial);
    let mut refusals = Refusals::listen(trial.address).ok();
    let begun = burst(trial.address);
    sleep(MOMENT);
    let after = Reading::new(trial);
    drop(begun);
    let drop_counts = |of: fn(&Reading) -> Option<Drops>, which: fn(Drops) -> u64| {
        [&before, &middle, &after].map(|reading| of(reading).map(which))
    };
    let mut observed = Observed {
        address: trial.address,
        reverse_path: grew_by_burst(drop_counts(|reading| reading.here, |drops| drops.reverse_path)),
        full_queue: grew_by_burst(drop_counts(|reading| reading.inside, |drops| drops.full_queue)),
        rules: Vec::new(),
        refused_by: refusals.as_mut().and_then(|refusals| refusals.of(trial.address)),
    };
    for Passage { is_inside, hooks, packet } in passages(trial) {
        let of = |reading: &'_ Reading| -> Vec<Suspect> {
            let rules = if is_inside { &reading.rules_inside } else { &reading.rules };
            walk(rules, hooks, &packet).suspects
        };
        let (first, second) = (of(&before), of(&middle));
        for suspect in of(&after) {
            let at = |list: &[Suspect]| list.iter().find(|same| same.place == suspect.place)?.packets;
            if grew_by_burst([at(&first), at(&second), suspect.packets]) {
                observed.rules.push((suspect.text, is_inside));
            }
        }
    }
    observed
}

/// A packet of a connection to the target, and where it meets rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    /// In the network namespace of the target.
    pub(super) is_inside: bool,
    pub(super) hooks: &'static [Hook],
    pub(super) packet: Packet,
}

/// The packets of a connection to the target: as this host sends and gets them, and as the target does. What goes out
/// comes first.
pub(super) fn passages(trial: &Trial) -> [Passage; 4] {
    let source = trial.route.as_ref().and_then(|route| route.source);
    let interface = trial.route.as_ref().map(|route| route.interface.to_string());
    let there = Packet {
        protocol: trial.protocol,
        source,
        source_port: None,
        destination: trial.address.ip(),
        destination_port: Some(trial.address.port()),
        came_in: Some(String::new()),
        goes_out: interface.clone(),
        is_for_this_host: trial.route.as_ref().is_some_and(|route| route.is_local),
        state: State::New,
    };
    let back = Packet {
        source: Some(trial.address.ip()),
        source_port: Some(trial.address.port()),
        destination: source.unwrap_or(trial.address.ip()),
        destination_port: None,
        // What is of this host itself comes in as it went out; anything else may come in by another one.
        came_in: if there.is_for_this_host { interface } else { None },
        goes_out: Some(String::new()),
        is_for_this_host: true,
        state: State::Answer,
        ..there.clone()
    };
    let arriving = Packet { came_in: None, goes_out: Some(String::new()), is_for_this_host: true, ..there.clone() };
    let answering = Packet { came_in: Some(String::new()), goes_out: None, is_for_this_host: false, ..back.clone() };
    let here = |hooks, packet| Passage { is_inside: false, hooks, packet };
    let inside = |hooks, packet| Passage { is_inside: true, hooks, packet };
    [here(&OUT, there), here(&IN, back), inside(&IN, arriving), inside(&OUT, answering)]
}

fn grew_by_burst([before, middle, after]: [Option<u64>; 3]) -> bool {
    let (Some(before), Some(middle), Some(after)) = (before, middle, after) else { return false };
    let (idle, busy) = (middle.saturating_sub(before), after.saturating_sub(middle));
    // What grows much by itself tells nothing.
    idle <= BURST && busy >= idle + BURST
}

/// Begins connections, and does not wait for them.
fn burst(address: SocketAddr) -> Vec<Socket> {
    let begin = || {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(SocketProtocol::TCP)).ok()?;
        // Whether it is under way, refused or lost is what the counters tell.
        let _ = socket.connect(&address.into());
        Some(socket)
    };
    (0..BURST).filter_map(|_| begin()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_grows_anyway_proves_nothing() {
        let grew = |before, middle, after| grew_by_burst([Some(before), Some(middle), Some(after)]);
        assert!(grew(10, 10, 14));
        assert!(grew(10, 10, 18));
        assert!(grew(10, 11, 16));
        assert!(!grew(10, 10, 13));
        assert!(!grew(10, 10, 10));
        assert!(!grew(10, 50, 92));
        assert!(!grew(10, 16, 20));
        // A counter that was set back.
        assert!(!grew(100, 100, 0));
        assert!(!grew_by_burst([None, Some(1), Some(9)]));
    }
}
