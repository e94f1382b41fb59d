//! Who listens where the target is: inside its container, or on this host itself.

use std::net::SocketAddr;

use super::connect::{Attempt, Outcome};
use super::experiment::Observed;
use super::finding::{Finding, listed};
use super::subject::Subject;
use crate::host::listeners::{Listening, takes};
use crate::model::container::Container;
use crate::model::mapping::{Family, Protocol};
use crate::model::report::{CauseKind, StepKind, Verdict};

/// What was seen where one address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On another host, where nobody can look.
    Elsewhere,
    /// In a container that is of this host, but whose processes are not seen.
    Hidden {
        /// What it would need.
        needs: String,
    },
    /// Seen.
    Seen {
        /// Name of the container; `None`: this host.
        container: Option<String>,
        /// Who listens there, by the protocol of the mapping.
        listening: Vec<Listening>,
    },
}

/// The step, and what is wrong.
pub(super) fn judge(
    subject: &Subject,
    places: &[(SocketAddr, Place)],
    attempts: &[Attempt],
    observed: &[Observed],
    sent_on: Vec<Option<bool>>,
) -> Finding {
    let mut finding = Finding::default();
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    // Several addresses of one container, or of this host, have one and the same inside.
    let mut told: Option<&Place> = None;
    for ((address, place), sent_on) in places.iter().zip(sent_on) {
        let outcome = attempts.iter().find(|attempt| attempt.address == *address).map(|attempt| &attempt.outcome);
        if told == Some(place) && is_reached {
            continue;
        }
        told = Some(place);
        match place {
            Place::Elsewhere => {
                let text = "the target is not on this host, or no container of it";
                finding.add(StepKind::Inside, None, Verdict::Skipped, text);
            }
            Place::Hidden { .. } if is_reached => {
                finding.add(StepKind::Inside, None, Verdict::Ok, "somebody answers");
            }
            Place::Hidden { needs } => finding.add(StepKind::Inside, None, Verdict::Unknown, needs),
            Place::Seen { container, listening } => {
                let full = observed.iter().any(|observed| observed.address == *address && observed.full_queue);
                let seen = Seen { subject, address: *address, container: container.as_deref(), listening, sent_on };
                seen.judge(outcome, is_reached, full, &mut finding);
            }
        }
    }
    finding
}

struct Seen<'a> {
    subject: &'a Subject,
    address: SocketAddr,
    container: Option<&'a str>,
    listening: &'a [Listening],
    /// Of this host: a rule sends what is sent there elsewhere, or may; `None`: not seen.
    sent_on: Option<bool>,
}

impl Seen<'_> {
    fn judge(&self, outcome: Option<&Outcome>, is_reached: bool, is_full: bool, finding: &mut Finding) {
        let family = Some(Family::of(self.address.ip()));
        let mut add = |verdict, text: &str| finding.add(StepKind::Inside, family, verdict, text);
        let taking: Vec<&Listening> = self.that(|one| takes(&one.listener, self.address) == Some(true));
        if let Some(one) = taking.first() {
            let queue = one
                .most_waiting
                .map_or_else(|| format!(", {} waiting", one.waiting), |most| format!(", queue {}/{most}", one.waiting));
            let queue = if self.subject.protocol() == Protocol::Udp { String::new() } else { queue };
            let text = format!("{} listens on {}{queue}", who(one), one.listener.address);
            let is_over = one.most_waiting.is_some_and(|most| one.waiting > most);
            if !is_reached && outcome == Some(&Outcome::TimedOut) && (is_full || is_over) {
                add(Verdict::Bad, &format!("{text}: full"));
                return self.backlog(one, finding);
            }
            return add(Verdict::Ok, &text);
        }
        let at_port = self.that(|one| one.listener.address.port() == self.address.port());
        let open: Vec<&&Listening> =
            at_port.iter().filter(|one| takes(&one.listener, self.address).is_none()).collect();
        if let Some(one) = open.first() {
            let text = format!("listens on {}; whether it takes IPv4 is not seen without root", one.listener.address);
            if !is_reached && outcome == Some(&Outcome::TimedOut) && is_full {
                // Its queue is met, so it does take them.
                add(Verdict::Bad, &format!("listens on {}, and its queue is full", one.listener.address));
                return self.backlog(one, finding);
            }
            let verdict = if is_reached { Verdict::Ok } else { Verdict::Unknown };
            return add(verdict, &text);
        }
        let others = self.that(|_| true);
        let nothing = format!("nothing on :{}", self.address.port());
        let text = match (at_port.is_empty(), self.container) {
            (false, _) => format!("listens on {} alone", listed(at_port.iter().map(|one| one.listener.address))),
            (true, None) => nothing,
            (true, Some(_)) if others.is_empty() => format!("{nothing}; nobody listens"),
            (true, Some(_)) => {
                format!("{nothing}; the app listens on {}", listed(others.iter().map(|one| one.listener.address)))
            }
        };
        if is_reached {
            // Something that is not a socket answers, such as a rule that sends it on.
            return add(Verdict::Ok, &text);
        }
        // Nobody has to listen on an address of this host whose packets go elsewhere. Loopback's do not.
        if self.container.is_none() && !self.address.ip().is_loopback() {
            match self.sent_on {
                Some(true) => return add(Verdict::Skipped, "a rule sends it elsewhere, or may"),
                None if self.subject.protocol() == Protocol::Udp => {
                    return add(
                        Verdict::Unknown,
                        &format!("{text}; cannot see without root whether a rule sends it on"),
                    );
                }
                _ => {}
            }
        }
        add(Verdict::Bad, &text);
        let is_explained = match self.subject.protocol() {
            Protocol::Udp => true,
            _ => outcome == Some(&Outcome::Refused),
        };
        if is_explained {
            self.cause(&at_port, &others, finding);
        }
    }

    fn that(&self, fits: impl Fn(&Listening) -> bool) -> Vec<&Listening> {
        self.listening.iter().filter(|one| fits(one)).collect()
    }

    fn cause(&self, at_port: &[&Listening], others: &[&Listening], finding: &mut Finding) {
        let port = self.address.port();
        let name = self.container.map_or_else(|| "The application".to_owned(), str::to_owned);
        let all = if at_port.is_empty() { others } else { at_port };
        let is_v4 = self.address.is_ipv4();
        let wildcard = if is_v4 { "0.0.0.0" } else { "[::]" };
        let ports = {
            let mut ports: Vec<u16> = all.iter().map(|one| one.listener.address.port()).collect();
            ports.dedup();
            listed(ports)
        };
        let first = all.first().map_or(port, |one| one.listener.address.port());
        let set_port = if first == port { String::new() } else { format!(", then e: set target port {first}") };
        // Of this host, only who is on that port has anything to do with it.
        if all.is_empty() || (at_port.is_empty() && self.container.is_none()) {
            finding.cause(
                CauseKind::AppNotListening,
                &match self.container {
                    Some(name) => format!("Nothing listens inside {name}."),
                    None => format!("Nothing on this host listens on port {port}."),
                },
                &["see that the application runs (docker logs), and which port it opens"],
            );
        } else if all.iter().all(|one| one.listener.address.ip().to_canonical().is_loopback())
            && !self.address.ip().is_loopback()
        {
            let on = if first == port { String::new() } else { format!(", on port {ports}") };
            finding.cause(
                CauseKind::AppOnLoopback,
                &format!("{name} listens only on its own loopback{on}."),
                &[&format!("make it listen on {wildcard}:{first}{set_port}")],
            );
        } else if !at_port.is_empty() && is_v4 && at_port.iter().all(|one| one.listener.address.is_ipv6()) {
            finding.cause(
                CauseKind::AppOnIpv6Only,
                &format!("{name} listens on IPv6 alone ({}), and is asked over IPv4.", at_port[0].listener.address),
                &[
                    &format!("make it listen on 0.0.0.0:{port} too"),
                    "give its network IPv6 (docker network create --ipv6)",
                ],
            );
        } else if at_port.is_empty() {
            finding.cause(
                CauseKind::AppOnAnotherPort,
                &format!("{name} listens on port {ports}, not on {port}."),
                &[&format!("e: set target port {first}")],
            );
        }
    }

    fn backlog(&self, one: &Listening, finding: &mut Finding) {
        let name = self.container.unwrap_or("The application");
        finding.cause(
            CauseKind::BacklogFull,
            &format!(
                "{name} does not take connections in: {} wait in the queue of {}, which is full.",
                one.waiting, one.listener.address
            ),
            &["see why the application does not accept (stopped, deadlocked, overloaded), or restart it"],
        );
    }
}

fn who(one: &Listening) -> String {
    one.listener.process.as_ref().map_or_else(|| "somebody".to_owned(), ToString::to_string)
}

/// What a hidden container would need to be seen.
pub(super) fn hidden(container: &Container) -> Place {
    let name = &container.name;
    Place::Hidden { needs: format!("the processes of {name} are not seen from here (another host, or hidden)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::subject::Whereabouts;
    use crate::host::addresses::OwnAddresses;
    use crate::model::container::{DockerState, EnginePlace, InsideListener};
    use crate::model::profile::MappingConfig;

    fn subject(mapping: &str) -> Subject {
        Subject {
            config: MappingConfig::new("web", mapping.parse().expect("a mapping")),
            engine: None,
            target: Whereabouts::Known(Vec::new()),
            circle: None,
            alias_refusal: None,
            docker: DockerState::Unknown,
            place: EnginePlace::Unknown,
            containers: std::sync::Arc::default(),
            kept: None,
            own: OwnAddresses::default(),
        }
    }

    fn listening(address: &str, is_v6_only: Option<bool>) -> Listening {
        let address: SocketAddr = address.parse().expect("an address");
        Listening::new(InsideListener { address, protocol: Protocol::Tcp, is_v6_only, process: None })
    }

    /// What is told when a container is dialled at `target` with that outcome.
    fn told(target: &str, outcome: Outcome, sockets: &[(&str, Option<bool>)]) -> (Verdict, Option<CauseKind>) {
        let address: SocketAddr = target.parse().expect("an address");
        let listening = sockets.iter().map(|(address, is_v6_only)| listening(address, *is_v6_only)).collect();
        let place = Place::Seen { container: Some("web_1".into()), listening };
        let attempt = Attempt { address, outcome, took: std::time::Duration::ZERO, source: None };
        let finding = judge(&subject("8080:172.17.0.2:80"), &[(address, place)], &[attempt], &[], vec![Some(false)]);
        (finding.steps[0].verdict, finding.causes.first().map(|cause| cause.kind))
    }

    /// Who listens, the step, and the cause.
    type Case = (&'static [(&'static str, Option<bool>)], Verdict, Option<CauseKind>);

    #[test]
    fn a_refusal_is_explained_by_who_listens_and_nothing_else_is() {
        use CauseKind::{AppNotListening, AppOnAnotherPort, AppOnIpv6Only, AppOnLoopback};
        let v4 = "172.17.0.2:80";
        let cases: [Case; 10] = [
            (&[], Verdict::Bad, Some(AppNotListening)),
            (&[("127.0.0.1:80", None)], Verdict::Bad, Some(AppOnLoopback)),
            (&[("[::1]:8443", None)], Verdict::Bad, Some(AppOnLoopback)),
            (&[("0.0.0.0:81", None)], Verdict::Bad, Some(AppOnAnotherPort)),
            (&[("127.0.0.1:80", None), ("0.0.0.0:81", None)], Verdict::Bad, Some(AppOnLoopback)),
            (&[("127.0.0.1:90", None), ("0.0.0.0:81", None)], Verdict::Bad, Some(AppOnAnotherPort)),
            (&[("[::]:80", Some(true))], Verdict::Bad, Some(AppOnIpv6Only)),
            // Whether it takes IPv4 is not known.
            (&[("[::]:80", None)], Verdict::Unknown, None),
            // It listens, so something else refuses.
            (&[("[::]:80", Some(false))], Verdict::Ok, None),
            (&[("0.0.0.0:80", None)], Verdict::Ok, None),
        ];
        for (sockets, verdict, cause) in cases {
            assert_eq!(told(v4, Outcome::Refused, sockets), (verdict, cause), "{sockets:?}");
            // An answer is not doubted, and silence is not explained by a closed port.
            assert_eq!(told(v4, Outcome::Connected, sockets), (Verdict::Ok, None), "{sockets:?}");
            assert_eq!(told(v4, Outcome::TimedOut, sockets).1, None, "{sockets:?}");
        }
    }
}
