//! Whether the mapping listens: as its engine says, or, from outside, whether it could.

use std::net::{IpAddr, SocketAddr};

use super::finding::Finding;
use super::subject::{ListenProblem, Subject};
use crate::host::limits::{has_ipv6, may_bind};
use crate::host::listeners::Listening;
use crate::host::{holders, listeners, processes};
use crate::model::container::Publication;
use crate::model::mapping::{Family, HostPort, ListenAddress, Mapping, Protocol, ScopedIp};
use crate::model::report::{CauseKind, StepKind, Verdict};
use crate::model::request::PortConflict;

/// What this host says of the listen side.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) has_ipv6: bool,
    pub(super) has_protocol: bool,
    /// The kernel lets addresses be bound that are not there: of IPv4, of IPv6.
    pub(super) binds_foreign: [bool; 2],
    /// Ports that this process may not bind.
    pub(super) privileged: Option<u16>,
    /// Who is in the way; of a mapping that runs, nobody is asked.
    pub(super) conflicts: Result<Vec<PortConflict>, String>,
    /// Our own sockets with their queues.
    pub(super) listening: Vec<Listening>,
}

impl Facts {
    /// Reads them.
    pub(super) fn read(subject: &Subject) -> Self {
        let listen = subject.listen();
        let privileged = match listen.port {
            HostPort::Ports(ports) if !may_bind(ports.first()) => Some(ports.first()),
            _ => None,
        };
        let conflicts = if subject.engine.is_some() {
            Ok(Vec::new())
        } else {
            holders::holders(&listen, subject.protocol(), &[]).map_err(|error| error.to_string())
        };
        let is_set = |key: &str| std::fs::read_to_string(key).is_ok_and(|value| value.trim() == "1");
        Self {
            has_ipv6: has_ipv6(),
            has_protocol: has_protocol(subject.protocol()),
            binds_foreign: ["ipv4", "ipv6"].map(|of| is_set(&format!("/proc/sys/net/{of}/ip_nonlocal_bind"))),
            privileged,
            conflicts,
            listening: listeners::here(subject.protocol()).unwrap_or_default(),
        }
    }
}

/// Whether the kernel has the protocol: a socket of it can be made, which is not bound.
fn has_protocol(protocol: Protocol) -> bool {
    protocol != Protocol::Sctp
        || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(socket2::Protocol::SCTP)).is_ok()
}

/// The steps, one for each family, and what is wrong.
pub(super) fn judge(subject: &Subject, facts: &Facts) -> Finding {
    if !subject.config.enabled {
        let name = &subject.config.name;
        let mut finding = Finding::step(StepKind::Listener, None, Verdict::Bad, "the mapping is stopped");
        finding.cause(CauseKind::MappingStopped, &format!("{name} is stopped: it does not listen."), &["t starts it"]);
        return finding;
    }
    if !facts.has_protocol {
        let text = "this kernel has no SCTP";
        let mut finding = Finding::step(StepKind::Listener, None, Verdict::Bad, text);
        let remedies = ["modprobe sctp", "a kernel with SCTP"];
        finding.cause(CauseKind::ProtocolUnsupported, "This kernel has no SCTP.", &remedies);
        return finding;
    }
    let mut finding = Finding::default();
    match &subject.engine {
        Some(engine) => {
            for listener in &engine.listeners {
                match (&listener.problem, listener.bound) {
                    (Some((problem, text)), None) => {
                        refused(&mut finding, subject, listener.family, problem, text.as_str());
                    }
                    (_, Some(bound)) => bound_step(&mut finding, listener.family, bound, facts),
                    (None, None) => {
                        finding.add(StepKind::Listener, Some(listener.family), Verdict::Bad, "not bound yet");
                    }
                }
            }
        }
        None => {
            for scoped in subject.listen().address.addresses() {
                from_outside(&mut finding, subject, facts, &scoped);
            }
        }
    }
    without_ipv6(&mut finding, subject, facts);
    finding
}

/// `localhost` and `any` mean IPv4 alone on a host without IPv6, which is as it should be.
fn without_ipv6(finding: &mut Finding, subject: &Subject, facts: &Facts) {
    let both = matches!(subject.config.mapping.listen.address, ListenAddress::Localhost | ListenAddress::Any);
    if both && !facts.has_ipv6 {
        finding.steps.retain(|step| step.family != Some(Family::V6));
        let text = "this host has no IPv6: IPv4 alone";
        finding.add(StepKind::Listener, Some(Family::V6), Verdict::Skipped, text);
    }
}

fn bound_step(finding: &mut Finding, family: Family, bound: SocketAddr, facts: &Facts) {
    let own = facts.listening.iter().find(|listening| listening.listener.address == bound);
    let queue = own.and_then(|own| Some((own.waiting, own.most_waiting?)));
    let queue = queue.map(|(waiting, most)| format!(", queue {waiting}/{most}")).unwrap_or_default();
    finding.add(StepKind::Listener, Some(family), Verdict::Ok, &format!("bound {bound}{queue}"));
}

fn refused(finding: &mut Finding, subject: &Subject, family: Family, problem: &ListenProblem, text: &str) {
    finding.add(StepKind::Listener, Some(family), Verdict::Bad, text);
    match problem {
        ListenProblem::InUse { address, holder } => {
            held(
                finding,
                subject,
                *address,
                holder.as_ref().map_or("a process that is not seen", |holder| holder.as_str()),
            );
        }
        ListenProblem::Privileged(port) => privileged(finding, *port),
        ListenProblem::NotLocal => not_local(finding, text),
        ListenProblem::NoFamily => no_ipv6(finding),
        ListenProblem::NoProtocol => {
            let remedies = ["modprobe sctp", "a kernel with SCTP"];
            finding.cause(CauseKind::ProtocolUnsupported, "This kernel has no SCTP.", &remedies);
        }
        ListenProblem::Descriptors => super::limits::out_of_descriptors(finding, text),
        ListenProblem::Other => {}
    }
}

/// Whether one address of the listen side could be bound, or is by a portolan that runs.
fn from_outside(finding: &mut Finding, subject: &Subject, facts: &Facts, scoped: &ScopedIp) {
    let (family, listen) = (Family::of(scoped.ip), subject.listen());
    let place = format!("{scoped}:{}", listen.port);
    let add = |finding: &mut Finding, verdict, text: &str| {
        finding.add(StepKind::Listener, Some(family), verdict, text);
    };
    if family == Family::V6 && !facts.has_ipv6 {
        add(finding, Verdict::Bad, "this host has no IPv6");
        if !matches!(listen.address, ListenAddress::Localhost | ListenAddress::Any) {
            no_ipv6(finding);
        }
        return;
    }
    if !subject.own.contains(scoped.ip) && !facts.binds_foreign[usize::from(family == Family::V6)] {
        let text = format!("{} is not an address of this host", scoped.ip);
        add(finding, Verdict::Bad, &text);
        return not_local(finding, &text);
    }
    let conflicts = match &facts.conflicts {
        Ok(conflicts) => conflicts,
        Err(error) => return add(finding, Verdict::Unknown, &format!("cannot read who holds ports: {error}")),
    };
    if let Some(conflict) = conflicts.iter().find(|conflict| conflict.family == family) {
        let (address, holder) = (conflict.address, conflict.holder.as_str());
        if is_portolan(holder) {
            return match said_to_run(subject, holder) {
                Some(true) => add(finding, Verdict::Ok, &format!("{address} is held by {holder}, which runs it")),
                Some(false) => {
                    add(finding, Verdict::Bad, &format!("{address} is in use by {holder}, for another mapping"));
                    held(finding, subject, address, &format!("{holder}, for another mapping"));
                }
                None => {
                    let text =
                        format!("{address} is held by {holder}: press w there to see whether it is this mapping");
                    add(finding, Verdict::Unknown, &text);
                }
            };
        }
        let container = publication_at(subject, address);
        if container.is_none() && !holder.contains("(pid ") && !holder.starts_with("the kernel") {
            let text = format!("{address} is in use by {holder}; it may be portolan itself");
            return add(finding, Verdict::Unknown, &text);
        }
        add(finding, Verdict::Bad, &format!("{address} is in use by {holder}"));
        return held(finding, subject, address, holder);
    }
    if let Some(port) = facts.privileged {
        let text = format!("port {port} needs the capability CAP_NET_BIND_SERVICE");
        add(finding, Verdict::Bad, &text);
        return privileged(finding, port);
    }
    add(finding, Verdict::Ok, &format!("{place} is free: a mapping can listen there"));
}

pub(super) fn is_portolan(holder: &str) -> bool {
    holder == "portolan" || holder.starts_with("portolan (pid ")
}

/// Whether a portolan that runs has this very mapping on its command line, or another one in its place. What it has out
/// of a profile, its command line does not tell.
fn said_to_run(subject: &Subject, holder: &str) -> Option<bool> {
    let pid = holder.strip_prefix("portolan (pid ")?.strip_suffix(')')?.parse().ok()?;
    let arguments = processes::arguments(pid);
    let mut mappings = arguments.iter().zip(arguments.iter().skip(1)).filter_map(|(option, value)| {
        matches!(option.as_str(), "-p" | "--publish").then(|| value.parse::<Mapping>().ok())?
    });
    let overlaps = |theirs: &Mapping| {
        let ports = |mapping: &Mapping| match mapping.listen.port {
            HostPort::Ports(ports) => Some((ports.first(), ports.last())),
            HostPort::Auto => None,
        };
        let (ours, theirs_ports) = (ports(&subject.config.mapping), ports(theirs));
        theirs.protocol == subject.protocol()
            && ours.zip(theirs_ports).is_some_and(|(ours, theirs)| ours.0 <= theirs.1 && theirs.0 <= ours.1)
    };
    let found = mappings.find(overlaps)?;
    Some(found.listen == subject.config.mapping.listen && found.target == subject.config.mapping.target)
}

/// Who Docker publishes at this address for, by the name of the container.
fn publication_at(subject: &Subject, held: SocketAddr) -> Option<(String, Publication)> {
    let overlaps = |theirs: IpAddr| theirs == held.ip() || theirs.is_unspecified() || held.ip().is_unspecified();
    subject.containers.iter().filter(|container| container.is_running()).find_map(|container| {
        let publication = container.publications.iter().find(|publication| {
            publication.host.port() == held.port()
                && publication.protocol == subject.protocol()
                && publication.host.is_ipv4() == held.is_ipv4()
                && overlaps(publication.host.ip())
        })?;
        Some((container.name.to_string(), *publication))
    })
}

fn held(finding: &mut Finding, subject: &Subject, address: SocketAddr, holder: &str) {
    let is_dockers = ["docker-proxy", "dockerd", "rootlesskit", "a process of", "a process that"]
        .iter()
        .any(|name| holder.starts_with(name));
    match publication_at(subject, address).filter(|_| is_dockers) {
        Some((name, publication)) => finding.cause(
            CauseKind::PortHeldByContainer,
            &format!(
                "Docker publishes {} for the container {name} (its port {}/{}), and so holds {address}.",
                publication.host, publication.port, publication.protocol
            ),
            &["another port for the mapping", &format!("run {name} without publishing that port")],
        ),
        None => finding.cause(
            CauseKind::PortHeldByProcess,
            &format!("{address}/{} is in use by {holder}.", subject.protocol()),
            &["another port for the mapping", &format!("stop {holder}")],
        ),
    }
}

fn privileged(finding: &mut Finding, port: u16) {
    finding.cause(
        CauseKind::PrivilegedPort,
        &format!("Port {port} needs a right that this user lacks (CAP_NET_BIND_SERVICE)."),
        &[
            "a port from 1024",
            "setcap cap_net_bind_service=+ep on the program",
            &format!("sysctl net.ipv4.ip_unprivileged_port_start={port}"),
        ],
    );
}

fn not_local(finding: &mut Finding, text: &str) {
    let first = text.chars().next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let text = format!("{first}{}.", text.chars().skip(1).collect::<String>());
    finding.cause(CauseKind::AddressNotOfThisHost, &text, &["an address of this host, or any, or localhost"]);
}

pub(super) fn no_ipv6(finding: &mut Finding) {
    finding.cause(
        CauseKind::Ipv6Disabled,
        "IPv6 is disabled on this host.",
        &["sysctl net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0", "an IPv4 address"],
    );
}
