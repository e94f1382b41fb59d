//! The addresses of this machine, and what they mean for who can connect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::model::mapping::{HostPort, Listen, ListenAddress, ScopedIp};
use crate::model::untrusted::SafeText;

/// Most addresses that [`OwnAddresses::will_be_at`] lists; the best come first, and a host with hundreds of
/// bridges would fill a screen otherwise.
const MOST_LISTED: usize = 16;

/// How far an address reaches. The order is the order of listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This machine alone.
    Loopback,
    /// Whoever has a route.
    Global,
    /// One network segment alone (`fe80::/10`, 169.254.0.0/16).
    LinkLocal,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub ip: IpAddr,
    /// How far it reaches.
    pub reach: Reach,
    /// Its interface.
    pub interface: SafeText,
    /// The interface's index: the scope id of a link-local address.
    pub index: u32,
    /// Bits of the network part: what else is said to be on the interface's segment.
    pub prefix: u8,
}

impl OwnAddress {
    /// Whether it is on an interface that a container engine or a virtual machine has made for itself (their usual names):
    /// other machines do not come by it.
    pub fn is_of_containers(&self) -> bool {
        let name = self.interface.as_str();
        let is_bridge_of_docker = name
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        is_bridge_of_docker || ["docker", "veth", "podman", "cni", "virbr"].iter().any(|start| name.starts_with(start))
    }

    /// Whether `ip` is on the same subnet: the kernel looks for it on this interface.
    pub fn has_on_its_subnet(&self, ip: IpAddr) -> bool {
        is_on_subnet(self.ip, self.prefix, ip.to_canonical())
    }
}

/// Whether `ip` has the first `prefix` bits of `network`.
pub(super) fn is_on_subnet(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let same = |a: u128, b: u128, bits: u32| {
        let host_bits = bits.saturating_sub(u32::from(prefix));
        // Shifting by all bits leaves nothing to differ.
        a.checked_shr(host_bits).unwrap_or(0) == b.checked_shr(host_bits).unwrap_or(0)
    };
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => same(network.to_bits().into(), ip.to_bits().into(), 32),
        (IpAddr::V6(network), IpAddr::V6(ip)) => same(network.to_bits(), ip.to_bits(), 128),
        _ => false,
    }
}

/// The addresses of this machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses(pub Vec<OwnAddress>);

impl Reach {
    /// Of any unicast address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if ip.is_link_local() => Self::LinkLocal,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Self::LinkLocal,
            _ => Self::Global,
        }
    }
}

impl OwnAddresses {
    /// As they stand now.
    pub fn read() -> io::Result<Self> {
        let mut own = Vec::new();
        for entry in nix::ifaddrs::getifaddrs()? {
            let Some(address) = entry.address else { continue };
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => continue,
            };
            let mask = entry.netmask.and_then(|mask| match (mask.as_sockaddr_in(), mask.as_sockaddr_in6()) {
                (Some(v4), _) => Some(v4.ip().to_bits().leading_ones()),
                (_, Some(v6)) => Some(v6.ip().to_bits().leading_ones()),
                _ => None,
            });
            let host_route = if ip.is_ipv4() { 32 } else { 128 };
            own.push(OwnAddress {
                ip,
                prefix: mask.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(host_route),
                reach: Reach::of(ip),
                index: interface_index(&entry.interface_name).unwrap_or(0),
                interface: SafeText::new(&entry.interface_name),
            });
        }
        Ok(Self(own))
    }

    /// Whether connecting to `ip` reaches this machine: its own addresses, all of loopback, and the unspecified
    /// address, which the kernel takes for loopback.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || self.0.iter().any(|own| own.ip == ip)
    }

    /// Why nobody can listen on this address here. Nothing where the kernel may take it all the same.
    pub fn problem_of(&self, listen: &Listen) -> Option<SafeText> {
        let ListenAddress::Ip(ScopedIp { ip, zone }) = &listen.address else { return None };
        if let Some(zone) = zone
            && interface_index(zone).is_none()
        {
            return Some(SafeText::new(&format!("this host has no interface {}", SafeText::quoted(zone))));
        }
        let is_foreign = !self.contains(*ip) && !takes_foreign(*ip);
        is_foreign.then(|| SafeText::new(&format!("{ip} is not an address of this host")))
    }

    /// An address as people write it: with the name of its interface where it needs one.
    pub fn shown(&self, address: SocketAddr) -> SafeText {
        let name = |index| self.0.iter().find(|own| own.index == index).map(|own| own.interface.as_str());
        let text = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => match name(v6.scope_id()) {
                Some(interface) => format!("[{}%{interface}]:{}", v6.ip(), v6.port()),
                None => v6.to_string(),
            },
            address => address.to_string(),
        };
        SafeText::new(&text)
    }

    /// Addresses under which clients will find a listener, best first: this machine's own loopback, then what
    /// reaches furthest; IPv6 before IPv4, as clients try them. A range is told by its first port. Empty with
    /// `auto`, whose port is not known before it is bound.
    pub fn will_be_at(&self, listen: &Listen) -> Vec<SocketAddr> {
        let HostPort::Ports(ports) = listen.port else { return Vec::new() };
        let port = ports.first();
        let mut found: Vec<(Reach, bool, SocketAddr)> = Vec::new();
        for scoped in listen.address.addresses() {
            if scoped.ip.is_unspecified() {
                let of_family =
                    self.0.iter().filter(|own| own.ip.is_ipv4() == scoped.ip.is_ipv4() && !own.is_of_containers());
                found.extend(of_family.map(|own| (own.reach, own.ip.is_ipv4(), at(own.ip, own.index, port))));
            } else {
                let index = scoped.zone.as_deref().and_then(interface_index).unwrap_or(0);
                found.push((Reach::of(scoped.ip), scoped.ip.is_ipv4(), at(scoped.ip, index, port)));
            }
        }
        // Without IPv6 a `localhost` mapping is IPv4 alone.
        let has_v6_loopback = self.0.iter().any(|own| own.ip == IpAddr::V6(Ipv6Addr::LOCALHOST));
        if listen.address == ListenAddress::Localhost && !has_v6_loopback {
            found.retain(|(_, is_v4, _)| *is_v4);
        }
        found.sort_by_key(|(reach, is_v4, _)| (*reach, *is_v4));
        let mut addresses: Vec<SocketAddr> = found.into_iter().map(|(_, _, address)| address).collect();
        addresses.dedup();
        addresses.truncate(MOST_LISTED);
        addresses
    }
}

/// Who can connect to a listener, as one sentence for the user.
pub fn who_can_connect(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Localhost => "Only this machine can connect".to_owned(),
        ListenAddress::Any => "Other machines can connect, over IPv4 and IPv6, to any address of this one".to_owned(),
        ListenAddress::Ip(ScopedIp { ip, zone }) => match (ip, zone) {
            (ip, _) if ip.is_loopback() => "Only this machine can connect".to_owned(),
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), _) => {
                "Other machines can connect, over IPv4, to any address of this one".to_owned()
            }
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) => {
                "Other machines can connect, over IPv6, to any address of this one".to_owned()
            }
            (_, Some(zone)) => format!("Machines on the network segment of {} can connect", SafeText::quoted(zone)),
            (ip, None) => format!("Other machines can connect, to {ip} alone"),
        },
    }
}

/// The index of an interface: what stands behind `%` of a link-local address, a name or already the number.
pub fn interface_index(zone: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(zone).ok().or_else(|| zone.parse().ok().filter(|index| *index != 0))
}

/// Whether the kernel lets everybody bind addresses that this host does not have (yet).
fn takes_foreign(ip: IpAddr) -> bool {
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.is_ok_and(|setting| setting.trim() == "1")
}

fn at(ip: IpAddr, index: u32, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, index).into(),
        ip => SocketAddr::new(ip, port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mapping::PortRange;

    fn own(ip: &str) -> OwnAddress {
        let ip = ip.parse().expect("address");
        OwnAddress { ip, reach: Reach::of(ip), interface: SafeText::new("eth0"), index: 7, prefix: 24 }
    }

    fn listen(address: ListenAddress) -> Listen {
        Listen { address, port: HostPort::Ports(PortRange::single(8080).expect("port")) }
    }

    fn texts(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn this_machine_has_its_loopback() {
        let own = OwnAddresses::read().expect("interfaces");
        assert!(own.0.iter().any(|own| own.ip == IpAddr::from([127, 0, 0, 1]) && own.index != 0), "{own:?}");
        assert_eq!(interface_index("lo"), own.0.iter().find(|own| own.ip.is_loopback()).map(|own| own.index));
        assert_eq!(interface_index("no such interface"), None);
        let prefixes = own.0.iter().filter(|own| own.ip.is_loopback()).map(|own| (own.ip.is_ipv4(), own.prefix));
        assert!(prefixes.into_iter().all(|known| matches!(known, (true, 8) | (false, 128))), "{own:?}");
    }

    #[test]
    fn addresses_of_a_listener_come_best_first() {
        let own = OwnAddresses(
            ["192.0.2.7", "fe80::1", "127.0.0.1", "2001:db8::2", "::1"].iter().map(|ip| own(ip)).collect(),
        );
        assert_eq!(texts(&own.will_be_at(&listen(ListenAddress::Localhost))), ["[::1]:8080", "127.0.0.1:8080"]);
        assert_eq!(
            texts(&own.will_be_at(&listen(ListenAddress::Any))),
            ["[::1]:8080", "127.0.0.1:8080", "[2001:db8::2]:8080", "192.0.2.7:8080", "[fe80::1%7]:8080"]
        );
        let v4 = ListenAddress::Ip(IpAddr::from([0, 0, 0, 0]).into());
        assert_eq!(texts(&own.will_be_at(&listen(v4))), ["127.0.0.1:8080", "192.0.2.7:8080"]);
        let auto = Listen { address: ListenAddress::Any, port: HostPort::Auto };
        assert!(own.will_be_at(&auto).is_empty());
    }

    #[test]
    fn an_address_of_another_host_is_told_and_an_interface_is_named() {
        let own = OwnAddresses(vec![own("192.0.2.7"), own("fe80::1")]);
        let told = |ip: &str, zone: Option<&str>| {
            let ip = ip.parse().expect("address");
            own.problem_of(&listen(ListenAddress::Ip(ScopedIp { ip, zone: zone.map(str::to_owned) })))
        };
        assert_eq!(told("192.0.2.7", None), None);
        assert_eq!(told("127.5.5.5", None), None);
        assert_eq!(told("203.0.113.9", None), Some("203.0.113.9 is not an address of this host".into()));
        assert_eq!(told("fe80::1", Some("none0")), Some("this host has no interface none0".into()));
        assert_eq!(own.problem_of(&listen(ListenAddress::Any)), None);
        let shown = |address: &str| own.shown(address.parse().expect("address")).to_string();
        assert_eq!(shown("[fe80::1%7]:8080"), "[fe80::1%eth0]:8080");
        assert_eq!(shown("[fe80::1%9]:8080"), "[fe80::1%9]:8080", "an interface that is gone keeps its number");
        assert_eq!(shown("[2001:db8::2]:8080"), "[2001:db8::2]:8080");
    }

    #[test]
    fn a_subnet_ends_where_its_prefix_says() {
        let on = |own: &str, prefix, ip: &str| {
            OwnAddress { prefix, ..self::own(own) }.has_on_its_subnet(ip.parse().expect("address"))
        };
        assert!(on("172.17.0.1", 16, "172.17.255.9") && !on("172.17.0.1", 16, "172.18.0.2"));
        assert!(on("10.0.0.1", 0, "192.0.2.1") && !on("10.0.0.1", 32, "10.0.0.2") && on("10.0.0.1", 32, "10.0.0.1"));
        assert!(on("fd00::1", 64, "fd00::ffff") && !on("fd00::1", 64, "fd00:0:0:1::2") && on("fd00::1", 0, "2001::1"));
        assert!(!on("10.0.0.1", 0, "fd00::1") && on("10.0.0.1", 8, "::ffff:10.9.9.9"));
    }

    #[test]
    fn without_ipv6_localhost_is_ipv4() {
        let own = OwnAddresses(vec![own("127.0.0.1")]);
        assert_eq!(texts(&own.will_be_at(&listen(ListenAddress::Localhost))), ["127.0.0.1:8080"]);
    }

    #[test]
    fn what_reaches_this_machine_is_its_own() {
        let own = OwnAddresses(vec![own("192.0.2.7")]);
        for ip in ["127.9.9.9", "::1", "0.0.0.0", "::", "192.0.2.7", "::ffff:192.0.2.7"] {
            assert!(own.contains(ip.parse().expect("address")), "{ip}");
        }
        assert!(!own.contains("192.0.2.8".parse().expect("address")));
    }
}
