//! The way from clients to the listener: who can come, and who sends them elsewhere before.

use super::finding::{Finding, listed};
use super::firewall::{self, from_clients, may_redirect, redirect};
use super::listener;
use super::subject::Subject;
use crate::host::addresses::{OwnAddress, Reach};
use crate::host::conntrack::Rewritten;
use crate::model::mapping::{Family, ListenAddress, Protocol};
use crate::model::report::{CauseKind, StepKind, Verdict};

/// UDP flows that the kernel sends elsewhere; `None` where it was not asked.
pub(super) type Tracked = Option<Result<Vec<Rewritten>, String>>;

/// The step, and what is wrong.
pub(super) fn judge(
    subject: &Subject,
    listen: &listener::Facts,
    rules: &firewall::Facts,
    tracked: &Tracked,
) -> Finding {
    let mut finding = Finding::default();
    if !subject.config.mapping.is_exposed() {
        let text = "only this machine can connect";
        finding.add(StepKind::Clients, None, Verdict::Ok, text);
        return finding;
    }
    if let ListenAddress::Ip(scoped) = &subject.config.mapping.listen.address
        && !subject.own.contains(scoped.ip)
    {
        let text = format!("{} is not an address of this host: nobody comes to it", scoped.ip);
        finding.add(StepKind::Clients, None, Verdict::Skipped, &text);
        return finding;
    }
    let mut is_bad = by_rule(subject, rules, &mut finding);
    is_bad = is_bad || by_publication(subject, listen, rules, &mut finding);
    is_bad = is_bad || by_tracking(subject, rules, tracked, &mut finding);
    if !is_bad {
        let ips = addresses(subject, |own| own.reach == Reach::Global && !own.is_of_containers());
        let unread = tracked.as_ref().and_then(|tracked| tracked.as_ref().err());
        match unread {
            Some(error) => finding.add(StepKind::Clients, None, Verdict::Unknown, error),
            None if ips.is_empty() => {
                finding.add(StepKind::Clients, None, Verdict::Ok, "this host is on no network: none can come");
            }
            None => {
                let mut text = format!("other machines come to {}", listed(ips.iter().map(|own| own.ip)));
                if subject.config.accept_proxy {
                    let trusted = listed(subject.config.trusted_cidrs.iter());
                    text = format!("{text}; only those of {trusted} are let in, by a PROXY header");
                }
                finding.add(StepKind::Clients, None, Verdict::Ok, &text);
            }
        }
    }
    over_ipv6(subject, listen.has_ipv6, &mut finding);
    finding
}

fn addresses(subject: &Subject, fits: impl Fn(&OwnAddress) -> bool) -> Vec<&OwnAddress> {
    let wanted = subject.listen().address.addresses();
    let is_asked = |own: &&OwnAddress| {
        wanted.iter().any(|scoped| {
            Family::of(scoped.ip) == Family::of(own.ip) && (scoped.ip.is_unspecified() || scoped.ip == own.ip)
        })
    };
    subject.own.0.iter().filter(is_asked).filter(|own| fits(own)).collect()
}

/// A rule takes them before any socket of this host sees them.
fn by_rule(subject: &Subject, rules: &firewall::Facts, finding: &mut Finding) -> bool {
    for packet in from_clients(subject) {
        let Some((to, rule)) = redirect(rules, &packet) else { continue };
        let interface = packet.came_in.clone().unwrap_or_default();
        let text = format!("clients by {interface} are sent to {to}: {rule}");
        finding.add(StepKind::Clients, Some(Family::of(packet.destination)), Verdict::Bad, &text);
        shadowed(subject, finding, &to);
        return true;
    }
    false
}

/// Docker publishes the same port, and the mapping listens all the same: so it does it by rules, which are not seen.
fn by_publication(subject: &Subject, listen: &listener::Facts, rules: &firewall::Facts, finding: &mut Finding) -> bool {
    if rules.rules.unseen.is_empty() {
        return false;
    }
    let Some(port) = subject.listen_port() else { return false };
    let wanted = subject.listen().address.addresses();
    for container in subject.containers.iter().filter(|container| container.is_running()) {
        let found = container.publications.iter().find(|publication| {
            let ip = publication.host.ip();
            publication.host.port() == port
                && publication.protocol == subject.protocol()
                && !ip.is_loopback()
                && is_ours_or_free(subject, listen, Family::of(ip))
                && wanted.iter().any(|scoped| {
                    scoped.ip.is_ipv4() == ip.is_ipv4()
                        && (scoped.ip == ip || scoped.ip.is_unspecified() || ip.is_unspecified())
                })
        });
        let Some(publication) = found.filter(|_| subject.is_on_our_network(container)) else { continue };
        let to = format!("the container {}", container.name);
        let text = format!("Docker publishes {} for {to}, by rules and no socket", publication.host);
        finding.add(StepKind::Clients, Some(Family::of(publication.host.ip())), Verdict::Bad, &text);
        shadowed(subject, finding, &to);
        return true;
    }
    false
}

/// Whether the port is held by us or by nobody: a socket of Docker's there is another matter.
fn is_ours_or_free(subject: &Subject, listen: &listener::Facts, family: Family) -> bool {
    match (&subject.engine, &listen.conflicts) {
        (Some(engine), _) => {
            engine.listeners.iter().any(|listener| listener.family == family && listener.bound.is_some())
        }
        (None, Ok(conflicts)) => {
            let in_the_way = conflicts.iter().filter(|conflict| conflict.family == family);
            in_the_way.map(|conflict| conflict.holder.as_str()).all(listener::is_portolan)
        }
        (None, Err(_)) => false,
    }
}

fn shadowed(subject: &Subject, finding: &mut Finding, to: &str) {
    let port = subject.listen_port().unwrap_or(0);
    finding.cause(
        CauseKind::ShadowedByDnat,
        &format!("Clients from other machines never reach the mapping: port {port} is sent to {to} before (DNAT)."),
        &["another port for the mapping", "docker ps shows who publishes it; iptables -t nat -S shows the rule"],
    );
}

/// The kernel still sends a flow of before to where it went then.
fn by_tracking(subject: &Subject, rules: &firewall::Facts, tracked: &Tracked, finding: &mut Finding) -> bool {
    let Some(Ok(flows)) = tracked else { return false };
    let ours = addresses(subject, |_| true);
    let is_ours = |flow: &&Rewritten| ours.iter().any(|own| own.ip == flow.listener.ip());
    let Some(flow) = flows.iter().filter(is_ours).find(|flow| !subject.own.contains(flow.target.ip())) else {
        return false;
    };
    // A rule that stands may send it there, and then nothing is stale.
    if !rules.rules.unseen.is_empty() || from_clients(subject).iter().any(|packet| may_redirect(rules, packet)) {
        return false;
    }
    let Rewritten { client, listener: dialled, target: sent_to, .. } = flow;
    let text = format!("{client} to {dialled} is still sent to {sent_to}");
    finding.add(StepKind::Clients, Some(Family::of(dialled.ip())), Verdict::Bad, &text);
    let port = dialled.port();
    finding.cause(
        CauseKind::StaleUdpConntrack,
        &format!("The kernel still sends datagrams of {client} to {sent_to}: it remembers a rule that is gone."),
        &[
            &format!("conntrack -D -p udp --orig-port-dst {port}"),
            "wait until that client has been silent for 3 minutes",
        ],
    );
    true
}

/// Other machines cannot come over IPv6 at all. That is the cause where nobody else is to come; of a mapping that listens
/// for both families it is said, and IPv4 works.
fn over_ipv6(subject: &Subject, has_ipv6: bool, finding: &mut Finding) {
    let wants = subject.listen().address.addresses();
    let wants_v6 = wants.iter().any(|scoped| scoped.ip.is_ipv6() && scoped.ip.is_unspecified());
    let has_global =
        |is_v6: bool| subject.own.0.iter().any(|own| own.reach == Reach::Global && own.ip.is_ipv6() == is_v6);
    let is_on_network = has_global(false) || subject.own.0.iter().any(|own| own.reach == Reach::LinkLocal);
    if !wants_v6 || !has_ipv6 || has_global(true) || !is_on_network || subject.protocol() == Protocol::Sctp {
        return;
    }
    let text = "other machines cannot come over IPv6: this host has no global IPv6 address";
    if wants.len() > 1 && has_global(false) {
        finding.add(StepKind::Clients, Some(Family::V6), Verdict::Skipped, text);
        return;
    }
    finding.add(StepKind::Clients, Some(Family::V6), Verdict::Bad, text);
    finding.cause(
        CauseKind::NoGlobalIpv6,
        "Other machines cannot come over IPv6: this host has no global IPv6 address.",
        &["an IPv6 address from the network (router advertisement, DHCPv6, or by hand)", "clients over IPv4"],
    );
}
