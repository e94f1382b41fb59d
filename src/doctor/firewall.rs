//! Whether a packet filter of this host, or the container's own, is in the way of clients or of the target.

use std::net::IpAddr;

use super::connect::{Attempt, Outcome};
use super::experiment::{IN, Observed, Trial, passages};
use super::finding::Finding;
use super::subject::Subject;
use super::walk::{End, walk};
use crate::host::addresses::Reach;
use crate::host::packet_filter::{Packet, Rules, State};
use crate::model::mapping::Family;
use crate::model::report::{CauseKind, StepKind, Verdict};

/// What was read of the rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) rules: Rules,
    /// Those of the target's own network namespace, where it has one on this host.
    pub(super) inside: Rules,
}

/// The step, and what is wrong.
pub(super) fn judge(
    subject: &Subject,
    facts: &Facts,
    trials: &[Trial],
    attempts: &[Attempt],
    observed: &[Observed],
) -> Finding {
    let mut finding = Finding::default();
    let mut in_the_way = for_clients(subject, facts, &mut finding);
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    if !is_reached {
        in_the_way |= for_target(facts, trials, attempts, observed, &mut finding);
    }
    if in_the_way {
        return finding;
    }
    let is_exposed = subject.config.mapping.is_exposed();
    let unseen = facts.rules.unseen.iter().chain(&facts.inside.unseen).next();
    match unseen {
        // What is not exposed meets no rule but on the way to the target, and that is open.
        Some(_) if is_reached && !is_exposed => {
            finding.add(StepKind::Firewall, None, Verdict::Ok, "connections to the target pass");
        }
        Some(unseen) => finding.add(StepKind::Firewall, None, Verdict::Unknown, unseen.as_str()),
        None => {
            let count = facts.rules.count() + facts.inside.count();
            let text = match count {
                0 => "there are no rules".to_owned(),
                1 => "1 rule, not in the way".to_owned(),
                more => format!("{more} rules, none in the way"),
            };
            finding.add(StepKind::Firewall, None, Verdict::Ok, &text);
        }
    }
    finding
}

/// The packets by which clients elsewhere come to the listener: by each interface, to the address on it.
pub(super) fn from_clients(subject: &Subject) -> Vec<Packet> {
    let Some(port) = subject.listen_port() else { return Vec::new() };
    let wanted = subject.listen().address.addresses();
    let is_asked = |ip: IpAddr| {
        wanted
            .iter()
            .any(|scoped| Family::of(scoped.ip) == Family::of(ip) && (scoped.ip.is_unspecified() || scoped.ip == ip))
    };
    let reachable = subject.own.0.iter().filter(|own| own.reach == Reach::Global && is_asked(own.ip));
    reachable
        .map(|own| Packet {
            protocol: subject.protocol(),
            source: None,
            source_port: None,
            destination: own.ip,
            destination_port: Some(port),
            came_in: Some(own.interface.to_string()),
            goes_out: Some(String::new()),
            is_for_this_host: true,
            state: State::New,
        })
        .collect()
}

fn for_clients(subject: &Subject, facts: &Facts, finding: &mut Finding) -> bool {
    for packet in from_clients(subject) {
        let end = walk(&facts.rules, &IN, &packet).end;
        let Some(end) = end.filter(|end| end.redirects_to().is_none()) else { continue };
        let interface = packet.came_in.clone().unwrap_or_default();
        let port = packet.destination_port.unwrap_or(0);
        let does = if end.rejects() { "refuses" } else { "drops" };
        let text = format!("clients by {interface}: {}", end.text());
        finding.add(StepKind::Firewall, Some(Family::of(packet.destination)), Verdict::Bad, &text);
        let sentence = format!("A firewall of this host {does} clients that come by {interface} to port {port}.");
        finding.cause(CauseKind::Firewall, &sentence, &[&remedy(&end.text())]);
        return true;
    }
    false
}

fn for_target(
    facts: &Facts,
    trials: &[Trial],
    attempts: &[Attempt],
    observed: &[Observed],
    finding: &mut Finding,
) -> bool {
    let mut found = false;
    for trial in trials {
        let outcome = attempts.iter().find(|attempt| attempt.address == trial.address).map(|attempt| &attempt.outcome);
        let fits = |rejects: bool| match outcome {
            Some(Outcome::TimedOut) => !rejects,
            Some(Outcome::Refused | Outcome::Unreachable(_)) => rejects,
            Some(Outcome::Connected | Outcome::Failed(_)) => false,
            // Datagrams are lost or refused without a word.
            None => true,
        };
        let grown = observed.iter().find(|observed| observed.address == trial.address);
        let grown = grown.and_then(|observed| observed.rules.first()).cloned();
        let certain = || {
            passages(trial).iter().find_map(|passage| {
                let rules = if passage.is_inside { &facts.inside } else { &facts.rules };
                let end = walk(rules, passage.hooks, &passage.packet).end?;
                (end.redirects_to().is_none() && fits(end.rejects())).then(|| (end.text(), passage.is_inside))
            })
        };
        let Some((text, is_inside)) = grown.or_else(certain) else {
            found |= on_the_way(trial, observed, finding);
            continue;
        };
        let place = if is_inside { "in the container: " } else { "" };
        let family = Some(Family::of(trial.address.ip()));
        finding.add(StepKind::Firewall, family, Verdict::Bad, &format!("{place}{text}"));
        let whose = if is_inside { "A firewall inside the container" } else { "A firewall of this host" };
        let does = if matches!(outcome, Some(Outcome::TimedOut) | None) { "drops" } else { "refuses" };
        let sentence = format!("{whose} {does} connections to {}.", trial.address);
        finding.cause(CauseKind::Firewall, &sentence, &[&remedy(&text)]);
        found = true;
    }
    found
}

/// Somebody between says that it refuses.
fn on_the_way(trial: &Trial, observed: &[Observed], finding: &mut Finding) -> bool {
    let of_trial = observed.iter().find(|observed| observed.address == trial.address);
    let Some(by) = of_trial.and_then(|observed| observed.refused_by) else { return false };
    let family = Some(Family::of(trial.address.ip()));
    let text = format!("{by} says that it prohibits connections to {}", trial.address);
    finding.add(StepKind::Firewall, family, Verdict::Bad, &text);
    let sentence = format!("A firewall at {by} refuses connections to {}.", trial.address);
    finding.cause(CauseKind::Firewall, &sentence, &[&format!("see the rules of {by}")]);
    true
}

fn remedy(text: &str) -> String {
    format!("take the rule out, or let it pass before: {text}")
}

/// Whether a rule may answer a connection to the target with a refusal.
pub(super) fn may_reject(facts: &Facts, trial: &Trial) -> bool {
    passages(trial).iter().any(|passage| {
        let rules = if passage.is_inside { &facts.inside } else { &facts.rules };
        walk(rules, passage.hooks, &passage.packet).suspects.iter().any(|one| one.rejects)
    })
}

/// Whether a rule sends clients elsewhere, or may.
pub(super) fn may_redirect(facts: &Facts, packet: &Packet) -> bool {
    walk(&facts.rules, &IN[..1], packet).may_redirect
}

/// Whether connections of ours to the target are sent elsewhere by a rule, or may be; `None` where rules are not seen.
pub(super) fn may_be_sent_on(facts: &Facts, trial: &Trial) -> Option<bool> {
    let [out, ..] = passages(trial);
    facts.rules.unseen.is_empty().then(|| walk(&facts.rules, out.hooks, &out.packet).may_redirect)
}

/// The rule that sends clients elsewhere before they reach the listener, with the interface.
pub(super) fn redirect<'a>(facts: &'a Facts, packet: &'a Packet) -> Option<(String, String)> {
    match walk(&facts.rules, &IN[..1], packet).end {
        Some(end @ End::Rule(_)) => Some((end.redirects_to()?.to_owned(), end.text())),
        _ => None,
    }
}
