//! The way to the target's address: route, neighbour, and the filter on the way back.

use std::net::{IpAddr, SocketAddr};

use super::connect::{Attempt, Outcome};
use super::experiment::Observed;
use super::finding::{Finding, listed};
use super::subject::Subject;
use super::{listener, target};
use crate::host::routes::{self, Neighbour, NoRoute, Route};
use crate::model::mapping::Family;
use crate::model::report::{CauseKind, StepKind, Verdict};

/// The way to one address.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) address: SocketAddr,
    pub(super) route: Result<Route, NoRoute>,
    pub(super) neighbour: Neighbour,
}

impl Facts {
    /// Reads it, best after connecting, when the neighbour has been asked for.
    pub(super) fn read(address: SocketAddr) -> Self {
        let route = routes::route_to(address);
        let neighbour = match &route {
            Ok(route) if !route.is_local => {
                let next = route.gateway.unwrap_or(address.ip());
                routes::neighbour(route.index, next).unwrap_or(Neighbour::Unknown)
            }
            _ => Neighbour::NotNeeded,
        };
        Self { address, route, neighbour }
    }
}

/// The steps, one for each address, and what is wrong.
pub(super) fn judge(
    subject: &Subject,
    facts: &[Facts],
    attempts: &[Attempt],
    observed: &[Observed],
    strict: &[crate::model::untrusted::SafeText],
    has_ipv6: bool,
) -> Finding {
    let mut finding = Finding::default();
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    for Facts { address, route, neighbour } in facts {
        let attempt = attempts.iter().find(|attempt| attempt.address == *address);
        let is_lost = attempt
            .is_some_and(|attempt| matches!(attempt.outcome, Outcome::TimedOut | Outcome::Unreachable(_)))
            && !is_reached;
        let family = Some(Family::of(address.ip()));
        let mut add = |verdict, text: &str| {
            let verdict = if is_reached && verdict == Verdict::Bad { Verdict::Ok } else { verdict };
            finding.add(StepKind::Route, family, verdict, text);
        };
        let ip = address.ip();
        match route {
            Ok(route) if route.is_local => add(Verdict::Ok, &format!("{ip} is of this host")),
            Ok(route) => {
                let via = route.gateway.map(|gateway| format!(" by {gateway}")).unwrap_or_default();
                let way = format!("{ip} via {}{via}", route.interface);
                let filtered = observed.iter().find(|observed| observed.address == *address && observed.reverse_path);
                match neighbour {
                    _ if filtered.is_some() => {
                        let text = format!("{way}; answers come in by another interface and are dropped (rp_filter)");
                        add(Verdict::Bad, &text);
                        reverse_path(&mut finding, ip, route, strict);
                    }
                    Neighbour::Silent if is_lost => {
                        let who = route.gateway.unwrap_or(ip);
                        add(Verdict::Bad, &format!("{way}: nobody there answers for {who}"));
                        silent(&mut finding, subject, *address, who);
                    }
                    Neighbour::Silent => add(Verdict::Ok, &format!("{way}, neighbour silent")),
                    Neighbour::Reachable => add(Verdict::Ok, &format!("{way}, neighbour reachable")),
                    Neighbour::Unknown | Neighbour::NotNeeded => add(Verdict::Ok, &way),
                }
            }
            Err(NoRoute::Unreadable(error)) => {
                add(Verdict::Unknown, &format!("cannot look the route to {ip} up: {error}"));
            }
            Err(none) => {
                let word = match none {
                    NoRoute::Prohibited => "a route of this host prohibits it",
                    NoRoute::Blackhole => "a route of this host swallows it (blackhole)",
                    _ => "no route leads there",
                };
                add(Verdict::Bad, &format!("{ip}: {word}"));
                if !is_reached {
                    no_route(&mut finding, subject, *address, word, has_ipv6);
                }
            }
        }
    }
    finding
}

/// The container's own networks explain more than that there is no way to it.
fn of_container(finding: &mut Finding, subject: &Subject, address: SocketAddr) -> bool {
    let Some(container) = subject.container_at(address) else { return false };
    if subject.is_on_our_network(container) {
        return false;
    }
    target::network(subject, container, finding);
    true
}

fn silent(finding: &mut Finding, subject: &Subject, address: SocketAddr, who: IpAddr) {
    if of_container(finding, subject, address) {
        return;
    }
    finding.cause(
        CauseKind::TargetUnreachable,
        &format!("Nobody on the network answers for {who}: {} is down or not there.", address.ip()),
        &["see that its host is up and has that address"],
    );
}

fn no_route(finding: &mut Finding, subject: &Subject, address: SocketAddr, word: &str, has_ipv6: bool) {
    if address.is_ipv6() && !has_ipv6 {
        return listener::no_ipv6(finding);
    }
    if of_container(finding, subject, address) {
        return;
    }
    finding.cause(
        CauseKind::TargetUnreachable,
        &format!("There is no way to {}: {word}.", address.ip()),
        &["ip route shows the routes", "see that its network is up"],
    );
}

fn reverse_path(finding: &mut Finding, ip: IpAddr, route: &Route, strict: &[crate::model::untrusted::SafeText]) {
    let others: Vec<_> = strict.iter().filter(|name| **name != route.interface).collect();
    let first = others.first().map_or("INTERFACE", |name| name.as_str()).to_owned();
    finding.cause(
        CauseKind::ReversePathFilter,
        &format!(
            "The kernel drops the answers of {ip}: they come in by another interface than {}, and rp_filter is strict on {}.",
            route.interface,
            listed(others)
        ),
        &[
            &format!("sysctl net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{first}.rp_filter=2 (loose)"),
            "routes by which answers come back the same way",
        ],
    );
}
