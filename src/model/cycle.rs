//! Finds mappings that would forward to themselves, before anything is bound. Pure: which addresses are this
//! host's and what names mean comes in as values.
//!
//! A connection to one port goes to one target port, so the question is asked port by port: a range that
//! shifts ports is a cycle only where the ports meet again. What cannot be known here (`auto` ports, names
//! that resolve later) is left to the engine, which notices at run time.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::mapping::{HostPort, ListenAddress, Mapping, PortRange, Protocol, ScopedIp, TargetHost};

/// Ports looked at in one search. Beyond it the search ends without a finding: the run-time check remains.
const MAX_STEPS: usize = 2_000_000;
/// Steps of a cycle that are spelled out; of a longer one the middle is left out.
const MAX_SHOWN: usize = 8;

/// Mappings that lead back to where they began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Their places in the list, in the order in which a connection would pass them.
    pub members: Vec<usize>,
    path: String,
}

/// For example `would forward to itself: :8080 -> :9090 -> :8080`.
impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "would forward to itself: {}", self.path)
    }
}

/// Finds the first cycle. `own_addresses` are this host's beside loopback; `resolved` gives the addresses that a
/// mapping's container or DNS name, by the mapping's place in the list, has now, as far as that is known.
pub fn find_cycle(
    mappings: &[&Mapping],
    own_addresses: &[IpAddr],
    resolved: impl Fn(usize) -> Vec<IpAddr>,
) -> Option<Cycle> {
    let search = Search::new(mappings, own_addresses, resolved);
    let mut seen = HashMap::new();
    (0..mappings.len()).find_map(|index| search.walk_mapping(index, &mut seen))
}

/// Finds all cycles that have no mapping in common.
pub fn find_cycles(
    mappings: &[&Mapping],
    own_addresses: &[IpAddr],
    resolved: impl Fn(usize) -> Vec<IpAddr>,
) -> Vec<Cycle> {
    let search = Search::new(mappings, own_addresses, resolved);
    let (mut seen, mut cycles) = (HashMap::new(), Vec::<Cycle>::new());
    for index in 0..mappings.len() {
        if cycles.iter().any(|cycle| cycle.members.contains(&index)) {
            continue;
        }
        if let Some(cycle) = search.walk_mapping(index, &mut seen)
            && !cycles.iter().any(|known| known.members.iter().any(|member| cycle.members.contains(member)))
        {
            cycles.push(cycle);
        }
    }
    cycles
}

/// A port of a mapping's listen side.
type Step = (usize, u16);

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    OnThisPath,
    /// Or to a cycle that is reported already.
    LeadsNowhere,
}

struct Search<'a> {
    mappings: &'a [&'a Mapping],
    /// Where each mapping's connections arrive, as far as that can be this host.
    targets: Vec<Vec<ScopedIp>>,
    own: Vec<IpAddr>,
    /// By what is bound: ports, and whose they are. Sorted by the first port.
    listeners: HashMap<(Protocol, ScopedIp), Vec<(PortRange, usize)>>,
}

impl<'a> Search<'a> {
    fn new(mappings: &'a [&'a Mapping], own: &[IpAddr], resolved: impl Fn(usize) -> Vec<IpAddr>) -> Self {
        let mut own = own.to_vec();
        let mut listeners: HashMap<_, Vec<_>> = HashMap::new();
        for (index, mapping) in mappings.iter().enumerate() {
            let HostPort::Ports(ports) = mapping.listen.port else { continue };
            if let ListenAddress::Ip(scoped) = &mapping.listen.address {
                // Who asks to listen on an address says that it is this host's.
                own.push(scoped.ip);
            }
            for address in mapping.listen.address.addresses() {
                listeners.entry((mapping.protocol, address)).or_default().push((ports, index));
            }
        }
        for ports in listeners.values_mut() {
            ports.sort_unstable_by_key(|(range, _)| range.first());
        }
        own.sort_unstable();
        own.dedup();
        let hosts = mappings.iter().map(|mapping| &mapping.target.host).enumerate();
        let targets = hosts.map(|(index, host)| target_addresses(host, || resolved(index))).collect();
        Self { mappings, targets, own, listeners }
    }

    fn walk_mapping(&self, index: usize, seen: &mut HashMap<Step, Seen>) -> Option<Cycle> {
        let mapping = self.mappings[index];
        let HostPort::Ports(ports) = mapping.listen.port else { return None };
        if !self.touches_us(index) {
            return None;
        }
        ports.iter().find_map(|port| self.walk_port((index, port), seen))
    }

    /// Walks on from one port, depth first, without recursion.
    fn walk_port(&self, start: Step, seen: &mut HashMap<Step, Seen>) -> Option<Cycle> {
        if seen.len() >= MAX_STEPS || seen.contains_key(&start) {
            return None;
        }
        seen.insert(start, Seen::OnThisPath);
        let mut path = vec![(start, self.next_steps(start))];
        while let Some((step, ahead)) = path.last_mut() {
            let step = *step;
            let Some(next) = ahead.pop() else {
                seen.insert(step, Seen::LeadsNowhere);
                path.pop();
                continue;
            };
            let closes = seen.get(&next) == Some(&Seen::OnThisPath);
            if closes || next.0 == step.0 {
                // A mapping that dials itself is refused even if its ports run out in the end.
                let passed = path.iter().position(|(passed, _)| *passed == next);
                let from = passed.unwrap_or(path.len() - 1);
                let cycle: Vec<Step> = path[from..].iter().map(|(step, _)| *step).chain([next]).collect();
                seen.extend(path.iter().map(|(step, _)| (*step, Seen::LeadsNowhere)));
                return Some(self.describe(&cycle));
            }
            if seen.len() < MAX_STEPS && !seen.contains_key(&next) {
                seen.insert(next, Seen::OnThisPath);
                path.push((next, self.next_steps(next)));
            }
        }
        None
    }

    /// Whether any port of this mapping's target is one of our listeners.
    fn touches_us(&self, index: usize) -> bool {
        let mapping = self.mappings[index];
        let wanted = mapping.target.ports;
        self.binds_reached(index).any(|bind| {
            self.listeners.get(&(mapping.protocol, bind)).is_some_and(|ports| {
                let below_end = ports.partition_point(|(range, _)| range.first() <= wanted.last());
                // They do not overlap in a usable profile, so the last of them reaches furthest.
                ports[..below_end].last().is_some_and(|(range, _)| range.last() >= wanted.first())
            })
        })
    }

    /// The listeners' ports that a connection from this port arrives at.
    fn next_steps(&self, (index, port): Step) -> Vec<Step> {
        let mapping = self.mappings[index];
        let HostPort::Ports(ports) = mapping.listen.port else { return Vec::new() };
        let Some(wanted) = mapping.target.ports.first().checked_add(port - ports.first()) else { return Vec::new() };
        let mut steps: Vec<Step> = self
            .binds_reached(index)
            .filter_map(|bind| {
                let ports = self.listeners.get(&(mapping.protocol, bind))?;
                let below = ports.partition_point(|(range, _)| range.first() <= wanted).checked_sub(1)?;
                let (range, owner) = ports[below];
                (range.last() >= wanted).then_some((owner, wanted))
            })
            .collect();
        steps.dedup();
        steps
    }

    /// What must be bound for a connection of this mapping to arrive at us.
    fn binds_reached(&self, index: usize) -> impl Iterator<Item = ScopedIp> {
        self.targets[index].iter().flat_map(|target| {
            let ours = target.ip.is_loopback() || self.own.binary_search(&target.ip).is_ok();
            let every = match target.ip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            [Some(target.clone()), ours.then(|| every.into())].into_iter().flatten()
        })
    }

    /// Ports alone where they tell the steps apart, else with what is listened on.
    fn describe(&self, steps: &[Step]) -> Cycle {
        let mut members: Vec<usize> = steps.iter().map(|(index, _)| *index).collect();
        members.dedup();
        if members.len() > 1 && members.first() == members.last() {
            members.pop();
        }
        let ambiguous = steps.windows(2).any(|pair| pair[0].1 == pair[1].1 && pair[0].0 != pair[1].0);
        let show = |(index, port): &Step| {
            if ambiguous {
                let listen = &self.mappings[*index].listen.address;
                match listen {
                    ListenAddress::Localhost => format!("localhost:{port}"),
                    ListenAddress::Any => format!("any:{port}"),
                    ListenAddress::Ip(ip) => format!("{ip}:{port}"),
                }
            } else {
                format!(":{port}")
            }
        };
        let mut shown: Vec<String> = steps.iter().map(show).collect();
        if shown.len() > MAX_SHOWN {
            shown.splice(MAX_SHOWN / 2..shown.len() - MAX_SHOWN / 2, ["...".to_owned()]);
        }
        Cycle { members, path: shown.join(" -> ") }
    }
}

/// Where a connection to a target goes, in the kernel's terms: to no address at all means to loopback.
fn target_addresses(host: &TargetHost, resolved: impl FnOnce() -> Vec<IpAddr>) -> Vec<ScopedIp> {
    let loopback = || vec![IpAddr::from(Ipv4Addr::LOCALHOST).into(), IpAddr::from(Ipv6Addr::LOCALHOST).into()];
    let dialled = |scoped: ScopedIp| match scoped.ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        // The kernel dials an IPv4-mapped address over IPv4.
        IpAddr::V4(ip) => IpAddr::V4(ip).into(),
        IpAddr::V6(_) => scoped,
    };
    match host {
        TargetHost::Ip(scoped) => vec![dialled(scoped.clone())],
        TargetHost::Localhost => loopback(),
        TargetHost::Dns(_) if host.is_loopback() => loopback(),
        TargetHost::Dns(_) | TargetHost::Container { .. } | TargetHost::Compose { .. } => {
            resolved().into_iter().map(|ip| dialled(ip.into())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(texts: &[&str]) -> Vec<String> {
        let mappings: Vec<Mapping> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let own = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let resolved = |index: usize| match &mappings[index].target.host {
            TargetHost::Container { name, .. } if name == "hostnet" => vec!["127.0.0.1".parse().unwrap()],
            TargetHost::Dns(name) if name == "me.example" => vec!["192.0.2.7".parse().unwrap()],
            _ => vec!["172.17.0.2".parse().unwrap()],
        };
        let borrowed: Vec<&Mapping> = mappings.iter().collect();
        let cycles = find_cycles(&borrowed, &own, resolved);
        assert_eq!(find_cycle(&borrowed, &own, resolved), cycles.first().cloned());
        cycles.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mapping_that_reaches_its_own_listener_is_a_cycle() {
        for text in [
            "8080:localhost:8080",
            "8080:127.0.0.1:8080",
            "8080:[::1]:8080",
            "8080:0.0.0.0:8080",
            "8080:[::]:8080",
            "any:8080:127.5.5.5:8080",
            "any:8080:192.0.2.7:8080",
            "[::]:8080:[2001:db8::7]:8080",
            "198.51.100.1:8080:198.51.100.1:8080",
            "8080:host/localhost:8080",
            "8080:host/db.LOCALHOST.:8080",
            "8080:hostnet:8080",
            "any:8080:host/me.example:8080",
            "8080:localhost:8080/udp",
        ] {
            assert_eq!(search(&[text]), ["would forward to itself: :8080 -> :8080"], "{text}");
        }
    }

    #[test]
    fn what_goes_elsewhere_is_no_cycle() {
        for texts in [
            &["8080:web:8080"][..],
            &["8080:localhost:80"],
            &["8080:127.0.0.2:8080"],
            &["127.0.0.1:8080:[::1]:8080"],
            &["0.0.0.0:8080:[::1]:8080"],
            &["8080:192.0.2.7:8080"],
            &["auto:localhost:8080"],
            &["8080:localhost:9090", "9090:localhost:8080/udp"],
            &["8080:localhost:9090/udp", "9090:localhost:8080/tcp"],
            &["8080:localhost:9090", "9090:localhost:7070", "7070:web:80"],
            &["[fe80::1%eth0]:80:[fe80::1%eth1]:80"],
            // The ports never meet again: 8005 -> 9005 -> 8006 -> 9006, where nobody listens.
            &["8000-8010:localhost:9000-9010", "9005:localhost:8006"],
        ] {
            assert_eq!(search(texts), Vec::<String>::new(), "{texts:?}");
        }
    }

    #[test]
    fn cycles_over_several_mappings_are_spelled_out() {
        assert_eq!(
            search(&["8080:localhost:9090", "9090:localhost:8080"]),
            ["would forward to itself: :8080 -> :9090 -> :8080"]
        );
        assert_eq!(
            search(&["1:localhost:2", "5:web:80", "2:[::1]:3", "any:3:192.0.2.7:4", "any:4:127.0.0.1:1"]),
            ["would forward to itself: :1 -> :2 -> :3 -> :4 -> :1"]
        );
        assert_eq!(
            search(&["127.0.0.1:80:127.0.0.2:80", "127.0.0.2:80:127.0.0.1:80"]),
            ["would forward to itself: 127.0.0.1:80 -> 127.0.0.2:80 -> 127.0.0.1:80"]
        );
        // A way into a cycle is not part of it.
        assert_eq!(
            search(&["1:localhost:2", "2:localhost:3", "3:localhost:2"]),
            ["would forward to itself: :2 -> :3 -> :2"]
        );
        assert_eq!(
            search(&["1:localhost:2", "2:localhost:1", "3:localhost:3", "4:localhost:1"]),
            ["would forward to itself: :1 -> :2 -> :1", "would forward to itself: :3 -> :3"]
        );
    }

    #[test]
    fn ranges_are_followed_port_by_port() {
        assert_eq!(
            search(&["8000-8010:localhost:9000-9010", "9005:localhost:8005"]),
            ["would forward to itself: :8005 -> :9005 -> :8005"]
        );
        assert_eq!(search(&["8000-8010:localhost:8005-8015"]), ["would forward to itself: :8000 -> :8005"]);
        let chain: Vec<String> = (1..=20).map(|port| format!("{port}:localhost:{}", port % 20 + 1)).collect();
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        assert_eq!(search(&chain), ["would forward to itself: :1 -> :2 -> :3 -> :4 -> ... -> :18 -> :19 -> :20 -> :1"]);
    }

    #[test]
    fn ten_thousand_mappings_are_searched_quickly() {
        let mappings: Vec<Mapping> =
            (1..=10_000).map(|port| format!("{port}:localhost:{}", port + 10_000).parse().unwrap()).collect();
        let mut all: Vec<&Mapping> = mappings.iter().collect();
        assert_eq!(find_cycle(&all, &[], |_| Vec::new()), None);
        let wide: Mapping = "20001-60000:localhost:20002-60001".parse().unwrap();
        all.push(&wide);
        assert!(find_cycle(&all, &[], |_| Vec::new()).is_some());
    }
}
