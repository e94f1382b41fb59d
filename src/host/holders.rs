//! Who holds a port, and which one is free instead.
//!
//! What conflicts, as Linux has it (ours are the listening sockets of a mapping; IPv6 ones are V6ONLY):
//! - the same port, and one of the two addresses is the family's wildcard or both are the same;
//! - a dual-stack `::` socket holds the port for IPv4 too, a V6ONLY one does not, and one bound to an
//!   IPv4-mapped address holds that IPv4 address;
//! - sockets tied to two different interfaces (link-local ones are) leave each other alone;
//! - TCP: listening sockets. A connection of somebody's that runs from this port may be in the way too, but
//!   only if its owner did not allow sharing (`SO_REUSEADDR`), which the kernel does not tell: it is named by
//!   [`holders_of`], after a bind was refused, and [`next_free`] keeps away from it;
//! - UDP: every bound socket, connected or not.
//!
//! Nothing is bound or connected to find out.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::addresses::{OwnAddresses, interface_index};
use super::limits::first_unprivileged_port;
use super::processes::{Process, owners};
use super::sockets::{Socket, State, Which, list};
use crate::model::mapping::{Family, HostPort, Listen, PortRange, Protocol};
use crate::model::request::{PortConflict, PortReport};
use crate::model::untrusted::SafeText;

/// Most conflicts that are told of one range; nobody reads more, and the first busy port is among them.
const MOST_TOLD: usize = 64;

/// The sockets in the way of `listen`, lowest port first, at most 64. Listeners at exactly the addresses in
/// `except` do not count: they belong to the mapping that is being edited. Empty with `auto`.
pub fn holders(listen: &Listen, protocol: Protocol, except: &[SocketAddr]) -> io::Result<Vec<PortConflict>> {
    let HostPort::Ports(ports) = listen.port else { return Ok(Vec::new()) };
    let one_port = (ports.count() == 1).then_some(ports.first());
    let sockets = list(protocol, Which::Holding, one_port)?;
    let wanted = Wanted::of(listen);
    let mut in_the_way: Vec<(Family, Socket)> = Vec::new();
    for socket in sockets {
        if (ports.first()..=ports.last()).contains(&socket.local.port()) && !except.contains(&socket.local) {
            in_the_way.extend(wanted.families_blocked_by(&socket).into_iter().map(|family| (family, socket.clone())));
        }
    }
    in_the_way.sort_by_key(|(family, socket)| (socket.local.port(), *family, socket.local));
    Ok(name(in_the_way))
}

/// Who holds each of these addresses although a bind of it has just been refused as in use: a listener, or else
/// whoever has a connection from that port. `None` where it has become free in the meantime. However many are
/// asked for, the kernel's tables and `/proc` are read once.
pub fn holders_of(refused: &[(SocketAddr, Protocol)]) -> io::Result<Vec<Option<PortConflict>>> {
    let mut by_port: HashMap<(Protocol, u16), Vec<Socket>> = HashMap::new();
    let protocols: HashSet<Protocol> = refused.iter().map(|(_, protocol)| *protocol).collect();
    for protocol in protocols {
        let mut ports = refused.iter().filter(|(_, of)| *of == protocol).map(|(address, _)| address.port());
        let first = ports.next();
        let one_port = first.filter(|first| ports.all(|port| port == *first));
        for socket in list(protocol, Which::All, one_port)? {
            by_port.entry((protocol, socket.local.port())).or_default().push(socket);
        }
    }
    let blockers: Vec<Option<(Family, &Socket)>> = refused
        .iter()
        .map(|(address, protocol)| {
            let end = End::of(*address);
            let sockets = by_port.get(&(*protocol, address.port())).into_iter().flatten();
            // A listener explains more than a connection, a connection more than its leftover.
            let rank = |socket: &&Socket| match socket.state {
                State::Listen => 0,
                State::Other => 1,
                State::TimeWait => 2,
            };
            let blocker = sockets.filter(|socket| blocks(socket, end)).min_by_key(rank)?;
            Some((Family::of(end.ip), blocker))
        })
        .collect();
    let inodes = blockers.iter().flatten().map(|(_, socket)| socket.inode).filter(|inode| *inode != 0).collect();
    let owners = owners(&inodes);
    let is_root = nix::unistd::geteuid().is_root();
    let named = blockers.into_iter().map(|blocker| {
        let (family, socket) = blocker?;
        let holder = holder(socket, owners.get(&socket.inode), is_root);
        Some(PortConflict { address: socket.local, family, holder })
    });
    Ok(named.collect())
}

/// The next port after that of `listen` (with a range, the next first port) at which nothing is in the way in
/// every family asked for; past 65535 it goes on at the first port that needs no capability. `None` when there
/// is none, and with `auto`.
pub fn next_free(listen: &Listen, protocol: Protocol, except: &[SocketAddr]) -> io::Result<Option<u16>> {
    let HostPort::Ports(ports) = listen.port else { return Ok(None) };
    let wanted = Wanted::of(listen);
    let busy: HashSet<u16> = list(protocol, Which::All, None)?
        .iter()
        .filter(|socket| !except.contains(&socket.local) && !wanted.families_blocked_by(socket).is_empty())
        .map(|socket| socket.local.port())
        .collect();
    Ok(first_gap(ports, first_unprivileged_port().max(1), &busy))
}

/// The answer to `WhoHolds`: conflicts, the next free port if there are any, and whether the address is ours.
pub fn report(listen: &Listen, protocol: Protocol, except: &[SocketAddr]) -> io::Result<PortReport> {
    // Without the list of addresses nothing is said of them.
    let problem = OwnAddresses::read().ok().and_then(|own| own.problem_of(listen));
    let conflicts = holders(listen, protocol, except)?;
    let next_free = if conflicts.is_empty() { None } else { next_free(listen, protocol, except)? };
    Ok(PortReport { conflicts, next_free, problem })
}

/// The first start after `ports` of as many ports in a row that are not busy.
fn first_gap(ports: PortRange, lowest: u16, busy: &HashSet<u16>) -> Option<u16> {
    let length = ports.count();
    let after = u32::from(ports.first()) + 1;
    let starts = (after.max(u32::from(lowest))..=65535).chain(u32::from(lowest)..after);
    let mut free_in_a_row = 0;
    let mut previous = 0;
    for port in starts {
        // Where the search goes on from the bottom, a row does not.
        let follows_on = port == previous + 1;
        previous = port;
        let port = u16::try_from(port).ok()?;
        free_in_a_row = match (busy.contains(&port), follows_on) {
            (true, _) => 0,
            (false, true) => free_in_a_row + 1,
            (false, false) => 1,
        };
        if free_in_a_row == length {
            let first = u16::try_from(u32::from(port) + 1 - length).ok()?;
            // The range asked for is what is in the way; it is no answer.
            if first != ports.first() {
                return Some(first);
            }
            free_in_a_row -= 1;
        }
    }
    None
}

/// What a listener will bind, without its port.
struct Wanted(Vec<End>);

/// One address to bind.
#[derive(Clone, Copy)]
struct End {
    ip: IpAddr,
    interface: Option<u32>,
}

impl End {
    fn of(address: SocketAddr) -> Self {
        let interface = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
            _ => None,
        };
        Self { ip: address.ip(), interface }
    }
}

impl Wanted {
    fn of(listen: &Listen) -> Self {
        let end = |scoped: crate::model::mapping::ScopedIp| End {
            ip: scoped.ip,
            interface: scoped.zone.as_deref().and_then(interface_index),
        };
        Self(listen.address.addresses().into_iter().map(end).collect())
    }

    fn families_blocked_by(&self, socket: &Socket) -> Vec<Family> {
        self.0.iter().filter(|end| blocks(socket, **end)).map(|end| Family::of(end.ip)).collect()
    }
}

/// Whether a socket keeps `end` from being bound on the same port.
fn blocks(socket: &Socket, end: End) -> bool {
    if let (Some(theirs), Some(ours)) = (socket.interface, end.interface)
        && theirs != ours
    {
        return false;
    }
    let overlap = |theirs: IpAddr| theirs.is_unspecified() || end.ip.is_unspecified() || theirs == end.ip;
    match (socket.local.ip(), end.ip) {
        (IpAddr::V4(theirs), IpAddr::V4(_)) => overlap(theirs.into()),
        (IpAddr::V6(theirs), IpAddr::V4(_)) => match theirs.to_ipv4_mapped() {
            Some(mapped) => overlap(mapped.into()),
            None => theirs == Ipv6Addr::UNSPECIFIED && socket.is_v6_only == Some(false),
        },
        (IpAddr::V6(theirs), IpAddr::V6(_)) => theirs.to_ipv4_mapped().is_none() && overlap(theirs.into()),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

/// Adds who holds each; sockets of one holder at one address (workers that share a port) are told once.
fn name(in_the_way: Vec<(Family, Socket)>) -> Vec<PortConflict> {
    let inodes: HashSet<u64> = in_the_way.iter().map(|(_, socket)| socket.inode).filter(|inode| *inode != 0).collect();
    let owners = owners(&inodes);
    let is_root = nix::unistd::geteuid().is_root();
    let mut conflicts: Vec<PortConflict> = Vec::new();
    for (family, socket) in in_the_way {
        let holder = holder(&socket, owners.get(&socket.inode), is_root);
        let conflict = PortConflict { address: socket.local, family, holder };
        if conflicts.last() != Some(&conflict) {
            conflicts.push(conflict);
        }
        if conflicts.len() == MOST_TOLD {
            break;
        }
    }
    conflicts
}

fn holder(socket: &Socket, owner: Option<&Process>, is_root: bool) -> SafeText {
    match owner {
        _ if socket.state == State::TimeWait => {
            SafeText::new("a connection that has just ended (free again within a minute)")
        }
        Some(process) if process.pid == std::process::id() => SafeText::new("this program"),
        Some(process) => SafeText::new(&format!("{} (pid {})", process.name, process.pid)),
        None if socket.inode == 0 => SafeText::new("the kernel"),
        None if is_root => {
            SafeText::new(&format!("a process of user {} (in another container)", user_name(socket.uid)))
        }
        None => SafeText::new(&format!("a process of user {} (run as root for its name)", user_name(socket.uid))),
    }
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mapping::ListenAddress;

    fn socket(local: &str, is_v6_only: Option<bool>, interface: Option<u32>) -> Socket {
        Socket {
            local: local.parse().expect("address"),
            remote: "0.0.0.0:0".parse().expect("address"),
            state: State::Listen,
            uid: 0,
            inode: 1,
            is_v6_only,
            interface,
        }
    }

    fn end(address: &str) -> End {
        End::of(address.parse().expect("address"))
    }

    /// The kernel's own verdict is compared in `tests/host_holders.rs`; here are the cases that need interfaces.
    #[test]
    fn what_conflicts() {
        let (dual, v6_only) = (Some(false), Some(true));
        for (theirs, is_v6_only, interface, ours, expected) in [
            ("0.0.0.0:1", None, None, "127.0.0.1:1", true),
            ("127.0.0.1:1", None, None, "0.0.0.0:1", true),
            ("127.0.0.1:1", None, None, "127.0.0.2:1", false),
            ("127.0.0.1:1", None, None, "[::1]:1", false),
            ("0.0.0.0:1", None, None, "[::]:1", false),
            ("[::]:1", dual, None, "127.0.0.1:1", true),
            ("[::]:1", v6_only, None, "127.0.0.1:1", false),
            ("[::]:1", dual, None, "[::1]:1", true),
            ("[::]:1", v6_only, None, "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", dual, None, "127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", dual, None, "127.0.0.2:1", false),
            ("[::ffff:127.0.0.1]:1", dual, None, "[::]:1", false),
            ("[fe80::1]:1", v6_only, Some(2), "[fe80::1%2]:1", true),
            ("[fe80::1]:1", v6_only, Some(3), "[fe80::1%2]:1", false),
            ("[fe80::1]:1", v6_only, Some(3), "[::]:1", true),
        ] {
            assert_eq!(blocks(&socket(theirs, is_v6_only, interface), end(ours)), expected, "{theirs} and {ours}");
        }
    }

    #[test]
    fn the_next_free_port_lies_after_and_starts_again_below() {
        let range = |first, last| PortRange::new(first, last).expect("range");
        let busy = |ports: &[u16]| ports.iter().copied().collect::<HashSet<u16>>();
        assert_eq!(first_gap(range(8080, 8080), 1024, &busy(&[8080])), Some(8081));
        assert_eq!(first_gap(range(8080, 8080), 1024, &busy(&[8080, 8081, 8082])), Some(8083));
        assert_eq!(first_gap(range(80, 80), 1024, &busy(&[80])), Some(1024));
        assert_eq!(first_gap(range(65535, 65535), 1024, &busy(&[65535, 1024])), Some(1025));
        assert_eq!(first_gap(range(8000, 8010), 1024, &busy(&[8005])), Some(8006));
        assert_eq!(first_gap(range(65530, 65535), 1024, &busy(&[65532])), Some(1024));
        let all: HashSet<u16> = (1..=65535).collect();
        assert_eq!(first_gap(range(8080, 8080), 1024, &all), None);
        // Everything is free: still another one, since the answer is asked for when this one is refused.
        assert_eq!(first_gap(range(1024, 65535), 1024, &busy(&[])), None);
    }

    #[test]
    fn the_holder_is_named_as_well_as_it_can_be() {
        let nginx = Process { pid: 812, name: SafeText::new("nginx") };
        let this = Process { pid: std::process::id(), name: SafeText::new("portolan") };
        let listener = socket("0.0.0.0:1", None, None);
        let told = |socket: &Socket, owner, is_root| holder(socket, owner, is_root).to_string();
        assert_eq!(told(&listener, Some(&nginx), false), "nginx (pid 812)");
        assert_eq!(told(&listener, Some(&this), false), "this program");
        assert_eq!(told(&listener, None, false), "a process of user root (run as root for its name)");
        assert_eq!(told(&listener, None, true), "a process of user root (in another container)");
        let nobody = Socket { uid: 3_999_999_999, ..listener.clone() };
        assert_eq!(told(&nobody, None, false), "a process of user 3999999999 (run as root for its name)");
        let of_the_kernel = Socket { inode: 0, ..listener };
        assert_eq!(told(&of_the_kernel, None, true), "the kernel");
    }

    #[test]
    fn auto_holds_nothing_yet() {
        let listen = Listen { address: ListenAddress::Any, port: HostPort::Auto };
        let report = report(&listen, Protocol::Tcp, &[]).expect("read");
        assert_eq!(report, PortReport { conflicts: vec![], next_free: None, problem: None });
    }
}
