//! Which mappings would take a port from each other. Pure: it compares what was written, it looks at no socket.
//!
//! IPv6 sockets are V6ONLY, so only listeners of one family are in each other's way: on the same address, or
//! where one of them takes every address of the family.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::mapping::{Family, HostPort, Listen, PortRange, Protocol, ScopedIp};

/// Two listeners that cannot both be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The one that comes later in the list.
    pub later: usize,
    /// The one that had the port first.
    pub earlier: usize,
    /// What both listen on, such as `127.0.0.1:8080/tcp`.
    pub listener: String,
}

/// Ports in use on one address, disjoint: first port to last port and mapping.
type Taken = BTreeMap<u16, (u16, usize)>;

/// Finds, for each listener, the first one before it that is in its way. `auto` is in nobody's way, nor is what is not
/// known.
pub fn find_clashes<'a>(listeners: impl IntoIterator<Item = Option<(&'a Listen, Protocol)>>) -> Vec<Clash> {
    let mut taken: HashMap<(Protocol, Family), HashMap<ScopedIp, Taken>> = HashMap::new();
    let mut clashes = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let Some((Listen { address, port: HostPort::Ports(ports) }, protocol)) = listener else { continue };
        let ports = *ports;
        let mut clash: Option<Clash> = None;
        for address in address.addresses() {
            let by_address = taken.entry((protocol, Family::of(address.ip))).or_default();
            match find_overlap(by_address, &address, ports) {
                None => {
                    by_address.entry(address).or_default().insert(ports.first(), (ports.last(), index));
                }
                Some((shared, both, earlier)) if clash.as_ref().is_none_or(|known| earlier < known.earlier) => {
                    let listener = format!("{shared}:{both}/{protocol}");
                    clash = Some(Clash { later: index, earlier, listener });
                }
                Some(_) => {}
            }
        }
        clashes.extend(clash);
    }
    clashes
}

/// The address and ports that are wanted twice, and by whom first.
fn find_overlap(
    by_address: &HashMap<ScopedIp, Taken>,
    address: &ScopedIp,
    ports: PortRange,
) -> Option<(ScopedIp, PortRange, usize)> {
    let in_one = |at: &ScopedIp| {
        let below_end = by_address.get(at)?.range(..=ports.last()).rev();
        let in_the_way = below_end.take_while(|(_, (last, _))| *last >= ports.first());
        let (first, (last, owner)) = in_the_way.min_by_key(|(_, (_, owner))| *owner)?;
        let both = PortRange::new(ports.first().max(*first), ports.last().min(*last))?;
        let shared = if address.ip.is_unspecified() { at } else { address };
        Some((shared.clone(), both, *owner))
    };
    if address.ip.is_unspecified() {
        by_address.keys().filter_map(in_one).min_by_key(|(shared, _, owner)| (*owner, shared.clone()))
    } else {
        let every = match address.ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        in_one(address).into_iter().chain(in_one(&every.into())).min_by_key(|(_, _, owner)| *owner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::Mapping;
    use super::*;

    fn clashes(texts: &[&str]) -> Vec<(usize, usize, String)> {
        let mappings: Vec<Mapping> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let listeners = mappings.iter().map(|mapping| Some((&mapping.listen, mapping.protocol)));
        find_clashes(listeners).into_iter().map(|clash| (clash.later, clash.earlier, clash.listener)).collect()
    }

    #[test]
    fn mappings_that_take_a_port_from_each_other_are_named() {
        for (texts, listener) in [
            (["8080:a:80", "8080:b:80"], "127.0.0.1:8080/tcp"),
            (["127.0.0.1:8080:a:80", "8080:b:80"], "127.0.0.1:8080/tcp"),
            (["[::1]:8080:a:80", "8080:b:80"], "[::1]:8080/tcp"),
            (["any:8080:a:80", "127.0.0.2:8080:b:80"], "127.0.0.2:8080/tcp"),
            (["127.0.0.2:8080:a:80", "any:8080:b:80"], "127.0.0.2:8080/tcp"),
            (["[::]:8080:a:80", "[fe80::1%eth0]:8080:b:80"], "[fe80::1%eth0]:8080/tcp"),
            (["any:8080:a:80", "0.0.0.0:8080:b:80"], "0.0.0.0:8080/tcp"),
            (["8000-8010:a:80-90", "8005-8020:b:80-95"], "127.0.0.1:8005-8010/tcp"),
            (["8000-8010:a:80-90", "8010:b:80"], "127.0.0.1:8010/tcp"),
            (["53:a:53/udp", "53:b:53/udp"], "127.0.0.1:53/udp"),
        ] {
            assert_eq!(clashes(&texts), [(1, 0, listener.to_owned())], "{texts:?}");
        }
    }

    #[test]
    fn mappings_that_can_live_side_by_side_are_left_alone() {
        for texts in [
            ["8080:a:80", "8080:a:80/udp"],
            ["127.0.0.1:8080:a:80", "[::1]:8080:a:80"],
            ["0.0.0.0:8080:a:80", "[::]:8080:a:80"],
            ["127.0.0.1:8080:a:80", "127.0.0.2:8080:a:80"],
            ["[fe80::1%eth0]:80:a:80", "[fe80::1%eth1]:80:a:80"],
            ["8000-8010:a:80-90", "8011:a:80"],
            ["auto:a:80", "auto:b:80"],
            ["0.0.0.0:80:a:80", "[::1]:80:a:80"],
        ] {
            assert_eq!(clashes(&texts), [], "{texts:?}");
        }
    }

    #[test]
    fn each_mapping_is_told_of_the_first_in_its_way() {
        let said = clashes(&["80:a:80", "81:a:80", "80:b:80", "80-81:c:80-81", "any:81:d:80"]);
        let pairs: Vec<_> = said.iter().map(|(later, earlier, _)| (*later, *earlier)).collect();
        assert_eq!(pairs, [(2, 0), (3, 0), (4, 1)]);
    }
}
