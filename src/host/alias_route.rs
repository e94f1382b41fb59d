//! The route that makes a pool of aliases local to this host, and what may be in its way.
//!
//! Looking costs two questions to the kernel ([`is_local`]), and a list of all routes where it has to be known who else
//! has addresses of the pool ([`look`]). [`add`] and [`remove`] are the only functions of this layer that change
//! anything, for the command that says so; they need `CAP_NET_ADMIN`.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::addresses::OwnAddresses;
use super::netlink::{Netlink, attribute, encoded, ip, u32_at};
use super::routes::interface_name;
use crate::model::alias::Pool;
use crate::model::untrusted::SafeText;

/// The loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;
/// Routes with prefixes no longer than these lead to the rest of the world, such as both halves of it that a VPN takes.
const DEFAULT_ROUTE: (u8, u8) = (3, 4);
/// `rtmsg`.
const ROUTE: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// What was seen of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSight {
    /// The whole of it is local to this host.
    pub is_local: bool,
    /// Who else has addresses of it, such as `the route 198.18.0.0/16 by tun0`.
    pub in_the_way: Option<SafeText>,
    /// A pool of the same family that nobody has, where something is in the way.
    pub free: Option<IpNet>,
}

/// Looks at everything that a pool may meet. Reads every route of its family.
pub fn look(pool: &Pool) -> io::Result<PoolSight> {
    let is_local = is_local(pool)?;
    let mut candidates = candidates(pool);
    let mut in_the_way = None;
    for own in OwnAddresses::read()?.0 {
        candidates.retain(|candidate| !candidate.contains(&own.ip));
        if pool.contains(own.ip) && in_the_way.is_none() {
            let text = format!("the address {} of {}", own.ip, own.interface);
            in_the_way = Some(SafeText::new(&text));
        }
    }
    each_route(pool.network(), |route| {
        candidates.retain(|candidate| !overlap(candidate, &route.network));
        if in_the_way.is_none() && pool.overlaps(route.network) && !route.is_of_aliases() {
            in_the_way = Some(route.text());
        }
    })?;
    let free = candidates.first().copied().filter(|_| in_the_way.is_some());
    Ok(PoolSight { is_local, in_the_way, free })
}

/// Whether both ends of the pool are local by routes to loopback that reach over all of it.
pub fn is_local(pool: &Pool) -> io::Result<bool> {
    let network = pool.network();
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    for address in [network.network(), network.broadcast()] {
        let found = route_of(&mut netlink, address)?;
        let is_whole =
            found.is_some_and(|route| route.is_of_aliases() && route.network.prefix_len() <= network.prefix_len());
        if !is_whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the pool local. False when it was already by this very route.
pub fn add(pool: &Pool) -> io::Result<bool> {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let is_ipv4 = pool.network().addr().is_ipv4();
    let scope = if is_ipv4 { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
    match change(RTM_NEWROUTE, create, pool, scope, libc::RTPROT_BOOT) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Takes the route away. False when there was none.
pub fn remove(pool: &Pool) -> io::Result<bool> {
    match change(RTM_DELROUTE, 0, pool, libc::RT_SCOPE_NOWHERE, libc::RTPROT_UNSPEC) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        result => result.map(|()| true),
    }
}

fn change(kind: u16, flags: i32, pool: &Pool, scope: u8, protocol: u8) -> io::Result<()> {
    let network = pool.network();
    let mut body = vec![0u8; ROUTE];
    body[0] = family(network);
    body[1] = network.prefix_len();
    body[4] = libc::RT_TABLE_LOCAL;
    body[5] = protocol;
    body[6] = scope;
    body[7] = libc::RTN_LOCAL;
    body.extend(encoded(libc::RTA_DST, &octets(network.network())));
    body.extend(encoded(libc::RTA_OIF, &LOOPBACK.to_ne_bytes()));
    Netlink::open(libc::NETLINK_ROUTE)?.change(kind, flags, &body)
}

/// A route as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    network: IpNet,
    kind: u8,
    interface: u32,
}

impl Found {
    fn of(message: &[u8], whole: IpNet) -> Option<Self> {
        let (length, kind) = (*message.get(1)?, *message.get(7)?);
        let rest = message.get(ROUTE..)?;
        // Without one it is the default route.
        let address = match attribute(rest, libc::RTA_DST) {
            Some(bytes) => ip(bytes)?,
            None if whole.addr().is_ipv4() => IpAddr::V4(0.into()),
            None => IpAddr::V6(0.into()),
        };
        let interface = attribute(rest, libc::RTA_OIF).and_then(|value| u32_at(value, 0)).unwrap_or(0);
        Some(Self { network: IpNet::new(address, length).ok()?, kind, interface })
    }

    /// Whether it makes addresses local that no interface has.
    fn is_of_aliases(&self) -> bool {
        self.kind == libc::RTN_LOCAL && self.interface == LOOPBACK
    }

    /// Whether somebody is reached by it: a route that turns packets away has nobody's addresses.
    fn leads_somewhere(&self) -> bool {
        let longest = if self.network.addr().is_ipv4() { DEFAULT_ROUTE.0 } else { DEFAULT_ROUTE.1 };
        let is_default = self.network.prefix_len() <= longest;
        !is_default
            && matches!(self.kind, libc::RTN_UNICAST | libc::RTN_LOCAL | libc::RTN_BROADCAST | libc::RTN_ANYCAST)
    }

    fn text(&self) -> SafeText {
        let by = if self.interface == 0 { String::new() } else { format!(" by {}", interface_name(self.interface)) };
        SafeText::new(&format!("the route {}{by}", self.network))
    }
}

/// The route by which the kernel finds an address, as it stands in its table.
fn route_of(netlink: &mut Netlink, address: IpAddr) -> io::Result<Option<Found>> {
    const RTM_F_FIB_MATCH: u32 = 0x2000;
    let network = IpNet::from(address);
    let mut body = vec![0u8; ROUTE];
    body[0] = family(network);
    body[1] = network.prefix_len();
    body[8..ROUTE].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    body.extend(encoded(libc::RTA_DST, &octets(address)));
    match netlink.ask(RTM_GETROUTE, &body) {
        Ok(message) => Ok(message.and_then(|message| Found::of(message, network))),
        Err(error) => match error.raw_os_error() {
            // No route leads there, or one that turns packets away.
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EINVAL
                | libc::ENETDOWN
                | libc::ENODEV
                | libc::EAFNOSUPPORT,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Every route of the family of `network` that leads to somebody.
fn each_route(network: IpNet, mut each: impl FnMut(&Found)) -> io::Result<()> {
    let mut body = vec![0u8; ROUTE];
    body[0] = family(network);
    Netlink::open(libc::NETLINK_ROUTE)?.dump(RTM_GETROUTE, &body, |message| {
        // Some kernels list both families whatever is asked.
        let is_of_family = message.first() == Some(&family(network));
        let found = Found::of(message, network).filter(|found| is_of_family && found.leads_somewhere());
        if let Some(found) = found {
            each(&found);
        }
        Ok(())
    })
}

/// Pools to propose, the best first.
fn candidates(pool: &Pool) -> Vec<IpNet> {
    let texts: Vec<String> = if pool.network().addr().is_ipv4() {
        let private = (200..=254).map(|second| format!("10.{second}.0.0/16"));
        ["198.18.0.0/15", "198.19.0.0/16", "198.18.0.0/16"].map(str::to_owned).into_iter().chain(private).collect()
    } else {
        (0..64).map(|fourth| format!("fd00:a1a5:0:{fourth:x}::/64")).collect()
    };
    let all = texts.iter().filter_map(|text| text.parse().ok());
    all.filter(|candidate| !pool.overlaps(*candidate)).collect()
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn family(network: IpNet) -> u8 {
    let family = if network.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().expect("a network")).expect("a pool")
    }

    #[test]
    fn a_network_that_no_route_makes_local_is_not_local() {
        for text in ["203.0.113.0/24", "2001:db8:ffff::/64"] {
            assert!(!is_local(&pool(text)).expect("it can be asked"), "{text}");
        }
    }

    #[test]
    fn default_routes_and_routes_that_turn_away_are_in_nobodys_way() {
        let found = |text: &str, kind| Found { network: text.parse().expect("a network"), kind, interface: 2 };
        for (text, kind, leads) in [
            ("0.0.0.0/0", libc::RTN_UNICAST, false),
            ("128.0.0.0/1", libc::RTN_UNICAST, false),
            ("2000::/3", libc::RTN_UNICAST, false),
            ("198.18.0.0/16", libc::RTN_UNICAST, true),
            ("198.18.0.0/15", libc::RTN_BLACKHOLE, false),
            ("198.18.0.0/15", libc::RTN_UNREACHABLE, false),
            ("fc00::/7", libc::RTN_UNICAST, true),
            ("10.0.0.1/32", libc::RTN_LOCAL, true),
        ] {
            assert_eq!(found(text, kind).leads_somewhere(), leads, "{text} {kind}");
        }
    }

    #[test]
    fn cut_messages_are_no_routes() {
        let mut whole = vec![2, 15, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0];
        whole.extend(encoded(libc::RTA_DST, &[198, 18, 0, 0]));
        whole.extend(encoded(libc::RTA_OIF, &1u32.to_ne_bytes()));
        let network: IpNet = "198.18.0.0/15".parse().expect("a network");
        let found = Found::of(&whole, network).expect("it is whole");
        assert_eq!((found.network, found.is_of_aliases()), (network, true));
        for length in 0..whole.len() {
            let _ = Found::of(&whole[..length], network);
        }
        whole[1] = 33;
        assert_eq!(Found::of(&whole, network), None);
    }

    #[test]
    fn what_is_proposed_is_of_the_family_and_another() {
        for (text, first) in
            [("198.18.0.0/15", "10.200.0.0/16"), ("10.0.0.0/8", "198.18.0.0/15"), ("fd00::/64", "fd00:a1a5::/64")]
        {
            assert_eq!(candidates(&pool(text))[0].to_string(), first);
        }
    }
}
