//! The row of a published port: what serves it, as far as that is observed, and what of it cannot be seen. Pure.

use std::io;
use std::net::SocketAddr;

use super::joining::MOST_WAITING;
use super::look::{Look, is_listener};
use super::ports::Port;
use super::session::Session;
use super::tracker::{MOST_SESSIONS, Totals};
use crate::host::bound::Holder;
use crate::model::event::MappingState;
use crate::model::mapping::{Family, Protocol};
use crate::model::profile::WrittenMapping;
use crate::model::untrusted::SafeText;
use crate::model::update::{ListenerRow, MappingRow, Owner, Way};

/// Programs by which container engines serve published ports.
const OF_DOCKER: &[&str] = &[
    "docker-proxy",
    "dockerd",
    "rootlesskit",
    "rootlessport",
    "slirp4netns",
    "pasta",
    "podman",
    "conmon",
    "netavark",
    // `com.docker.backend` of Docker Desktop, as long as a name can be.
    "com.docker.back",
];

/// How a family of a port is served.
enum Served {
    /// By a socket that waits there.
    Socket(SocketAddr),
    /// Past every socket: connections were seen to be rewritten.
    Rewritten,
    /// Not by a socket; whether by the packet filter cannot be seen.
    Unseen(&'static str),
    /// Not, and why.
    Not(String),
}

/// Said where sessions go by the packet filter, whoever looks.
const UNCOUNTED: &str = "bytes of sessions via DNAT: the kernel counts whole packets there, not what they carry";

const UNSEEN_YET: &str = "?? no socket listens; whether the packet filter serves it shows with its first session";
const UNSEEN: &str = "?? no socket listens; whether the packet filter serves it is not visible without root";

pub(super) fn row<'a, S>(
    port: &Port,
    totals: Totals,
    sessions: impl Fn() -> S,
    look: &Look,
    is_over: bool,
) -> MappingRow
where
    S: Iterator<Item = &'a Session>,
{
    let mut listeners = Vec::new();
    let (mut served, mut is_unseen) = (0, false);
    for host in &port.hosts {
        let (bound, error) = match served_by(port, *host, look) {
            Served::Socket(bound) => (Some(bound), None),
            Served::Rewritten => (None, None),
            Served::Unseen(why) => {
                is_unseen = true;
                (None, Some(SafeText::new(why)))
            }
            Served::Not(why) => (None, Some(SafeText::new(&why))),
        };
        served += usize::from(error.is_none());
        listeners.push(ListenerRow { family: Family::of(host.ip()), address: host.to_string(), bound, error });
    }
    let state = match served {
        // Neither is known: it is not called up, and not failed.
        0 if is_unseen => MappingState::Waiting,
        0 => MappingState::Failed,
        n if n < listeners.len() => MappingState::Half,
        _ => MappingState::Up,
    };
    let why = listeners.iter().find_map(|listener| Some(format!("{}: {}", listener.address, listener.error.as_ref()?)));
    let clients = || sessions().filter(|session| session.client_leg().is_some() || port.protocol() == Protocol::Udp);
    let sum = clients().fold(totals.bytes, |sum, session| {
        let (bytes_in, bytes_out) = session.bytes();
        (sum.0 + bytes_in, sum.1 + bytes_out)
    });
    let mut unseen = unseen(port, look, is_over);
    let is_uncounted = clients().any(|session| !session.is_counted());
    let is_partial = is_uncounted || !unseen.is_empty();
    if clients().any(|session| !session.is_counted() && session.way() == Way::Dnat) {
        unseen.push(UNCOUNTED.into());
    }
    MappingRow {
        id: totals.id,
        owner: Owner::Docker { unseen, is_partial },
        name: port.name.clone(),
        mapping: port.mapping.clone(),
        written: WrittenMapping {
            listen: port.mapping.listen.to_string(),
            target: port.mapping.target.to_string(),
            protocol: (port.protocol() != Protocol::Tcp).then_some(port.protocol()),
            ..WrittenMapping::default()
        },
        is_session: false,
        state,
        reason: why.as_deref().map(SafeText::new),
        listeners,
        target_addresses: port.targets.iter().map(SocketAddr::ip).collect(),
        connections: clients().count() as u64,
        connections_total: totals.sessions,
        errors: 0,
        bytes_in: sum.0,
        bytes_out: sum.1,
        last_result: None,
        connect_p50_us: None,
    }
}

fn served_by(port: &Port, host: SocketAddr, look: &Look) -> Served {
    let mut at_host =
        look.listeners.iter().filter(|(protocol, socket)| *protocol == port.protocol() && is_listener(socket, host));
    if let Some((_, socket)) = at_host.next() {
        let holder = look.holders.get(&socket.inode);
        return match holder {
            Some(holder) if holder.is_this_program() => Served::Not("in use by this program".to_owned()),
            Some(Holder { pid, name }) if !OF_DOCKER.contains(&name.as_str()) => {
                Served::Not(format!("in use by {name} (pid {pid}), not by Docker"))
            }
            _ => Served::Socket(socket.local),
        };
    }
    let is_rewritten = look.rewritten.as_ref().is_ok_and(|(entries, _)| {
        let is_at = |at: SocketAddr| super::ports::is_at(host, at);
        entries.iter().any(|entry| {
            entry.protocol == port.protocol() && port.targets.contains(&entry.target) && is_at(entry.listener)
        })
    });
    if is_rewritten {
        return Served::Rewritten;
    }
    // The packet filter may serve it all the same, within the family.
    let may_be_rewritten = port.targets.iter().any(|target| target.is_ipv4() == host.is_ipv4());
    match &look.rewritten {
        _ if !may_be_rewritten || port.protocol() == Protocol::Sctp => {
            Served::Not("Docker publishes it, but nobody listens here".to_owned())
        }
        Ok(_) => Served::Unseen(UNSEEN_YET),
        Err(_) => Served::Unseen(UNSEEN),
    }
}

/// What of its sessions cannot be seen, and what that needs.
fn unseen(port: &Port, look: &Look, is_over: bool) -> Vec<SafeText> {
    let mut unseen = Vec::new();
    if port.protocol() == Protocol::Sctp {
        unseen.push("sessions of SCTP: not looked at".to_owned());
        return unseen.iter().map(|text| SafeText::new(text)).collect();
    }
    if let Err(error) = &look.rewritten {
        for family in [Family::V4, Family::V6] {
            // Rewriting stays within a family.
            let is_of = |address: &SocketAddr| Family::of(address.ip()) == family;
            if port.hosts.iter().any(is_of) && port.targets.iter().any(is_of) {
                let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
                unseen.push(match error.kind() {
                    io::ErrorKind::PermissionDenied => format!("{name} via DNAT: not visible without root"),
                    _ => format!("{name} via DNAT: the kernel does not tell: {error}"),
                });
            }
        }
    }
    let mut proxies = look.proxies.iter().filter(|seen| {
        port.protocol() == seen.proxy.protocol
            && port.hosts.contains(&seen.proxy.host)
            && port.targets.contains(&seen.proxy.container)
    });
    let first = proxies.next();
    if first.is_some() && port.protocol() == Protocol::Udp {
        unseen.push("UDP clients through docker-proxy: known to it alone".to_owned());
    }
    if first.into_iter().chain(proxies).any(|seen| seen.held.is_none()) {
        unseen.push(match port.protocol() {
            Protocol::Udp => "source addresses of docker-proxy: not visible without root".to_owned(),
            _ => "which connection to the container is whose: not visible without root".to_owned(),
        });
    }
    if let Some(error) = &look.tcp_error
        && port.protocol() == Protocol::Tcp
    {
        unseen.push(format!("sessions through docker-proxy: the kernel does not tell: {error}"));
    }
    if is_over {
        unseen
            .push(format!("some sessions or pairs: more than are followed ({MOST_SESSIONS} sessions, {MOST_WAITING} without their pair)"));
    }
    unseen.iter().map(|text| SafeText::new(text)).collect()
}
