//! Where the target is: the container, the name, the address. Pure.

use super::finding::{Finding, listed};
use super::subject::{Subject, Whereabouts};
use crate::docker::lookup::{self, LookupError};
use crate::model::container::{Container, ContainerNetwork, DockerState, EnginePlace, Publication};
use crate::model::mapping::TargetHost;
use crate::model::report::{CauseKind, StepKind, Verdict};
use crate::model::untrusted::SafeText;

/// The step, and what is wrong.
pub(super) fn judge(subject: &Subject) -> Finding {
    let host = &subject.config.mapping.target.host;
    if let Some(circle) = &subject.circle {
        let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, circle.as_str());
        finding.cause(
            CauseKind::ForwardsToItself,
            &format!("Its connections would come back to it: {circle}."),
            &["e: another target, or another port"],
        );
        return finding;
    }
    match host {
        TargetHost::Container { .. } | TargetHost::Compose { .. } => container(subject),
        TargetHost::Dns(name) => name_of(subject, name),
        TargetHost::Ip(_) | TargetHost::Localhost => match &subject.target {
            Whereabouts::Known(_) => {
                let of = subject.dialled().first().and_then(|address| subject.container_at(*address));
                let of = of.map(|container| format!(", the container {}", container.name)).unwrap_or_default();
                Finding::step(StepKind::Target, None, Verdict::Ok, &format!("{host} by its address{of}"))
            }
            Whereabouts::Nowhere(reason) => {
                let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, reason.as_str());
                let text = format!("{host} cannot be reached: {reason}.");
                finding.cause(CauseKind::TargetUnreachable, &text, &["ip link shows the interfaces"]);
                finding
            }
        },
    }
}

fn name_of(subject: &Subject, name: &str) -> Finding {
    match &subject.target {
        Whereabouts::Known(addresses) => {
            let ips = listed(addresses.iter().map(std::net::SocketAddr::ip));
            Finding::step(StepKind::Target, None, Verdict::Ok, &format!("{name} is {ips}"))
        }
        Whereabouts::Nowhere(reason) => {
            let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, reason.as_str());
            let text = format!("The name {name} has no address: {reason}.");
            let remedies = [format!("getent ahosts {name} asks as portolan does"), "an entry in /etc/hosts".to_owned()];
            finding.cause(CauseKind::NameNotResolved, &text, &remedies.each_ref().map(String::as_str));
            finding
        }
    }
}

fn container(subject: &Subject) -> Finding {
    let host = &subject.config.mapping.target.host;
    let bad = |text: &str| Finding::step(StepKind::Target, None, Verdict::Bad, text);
    let found = lookup::find(&subject.containers, host, subject.kept.as_deref());
    match (&subject.target, &subject.docker) {
        (Whereabouts::Nowhere(_), DockerState::Unavailable { reason }) => {
            let mut finding = bad(reason.as_str());
            finding.cause(
                CauseKind::DockerUnavailable,
                &format!("Docker cannot be asked where {host} is: {reason}."),
                &["start Docker, or join its group (docker)", "a target by address still works"],
            );
            return finding;
        }
        (Whereabouts::Nowhere(reason), DockerState::Unknown) => {
            return Finding::step(StepKind::Target, None, Verdict::Unknown, reason.as_str());
        }
        _ => {}
    }
    match found {
        Some(Err(error)) => missing(&subject.config.mapping.target.host, &error),
        Some(Ok(found)) => as_last_seen(subject, standing(subject, found.container)),
        None => Finding::default(),
    }
}

/// While Docker is out of reach, what it said last is no observation.
fn as_last_seen(subject: &Subject, mut finding: Finding) -> Finding {
    if let DockerState::Unavailable { reason } = &subject.docker {
        for step in finding.steps.iter_mut().filter(|step| step.verdict == Verdict::Ok) {
            step.verdict = Verdict::Unknown;
            step.text = SafeText::new(&format!("{}, as last seen; Docker cannot be asked: {reason}", step.text));
        }
    }
    finding
}

fn missing(host: &TargetHost, error: &LookupError) -> Finding {
    let text = error.to_string();
    let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, &text);
    let sentence = format!("{}{}.", text[..1].to_uppercase(), &text[1..]);
    match error {
        LookupError::NotFound { .. }
        | LookupError::LooksLikeDns { .. }
        | LookupError::Ambiguous { .. }
        | LookupError::NoService { .. } => {
            let remedies = ["docker ps --all lists what there is", "e: the right name"];
            finding.cause(CauseKind::ContainerMissing, &sentence, &remedies);
        }
        LookupError::NotRunning { state, .. } => {
            let (start, logs) = match host {
                TargetHost::Compose { project, service } => {
                    let compose = format!("docker compose -p {project}");
                    (format!("{compose} start {service}"), format!("{compose} logs {service} says why it ended"))
                }
                other => {
                    let name = other.to_string();
                    let name = name.strip_prefix("container/").unwrap_or(&name);
                    (format!("docker start {name}"), format!("docker logs {name} says why it ended"))
                }
            };
            // One that is started again and again needs no start.
            let remedies = [start.as_str(), logs.as_str()];
            let remedies = if state.as_str() == "restarting" { &remedies[1..] } else { &remedies[..] };
            finding.cause(CauseKind::ContainerStopped, &sentence, remedies);
        }
        LookupError::NoAddress { .. } => {
            let remedies = ["docker network connect NETWORK CONTAINER"];
            finding.cause(CauseKind::ContainerWithoutAddress, &sentence, &remedies);
        }
    }
    finding
}

/// The container is there and has an address; whether that may be dialled is another matter.
fn standing(subject: &Subject, container: &Container) -> Finding {
    let name = &container.name;
    match (&subject.target, &subject.place) {
        (Whereabouts::Nowhere(reason), EnginePlace::Elsewhere { reason: why, published_at }) => {
            let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, reason.as_str());
            let (port, protocol) = (subject.config.mapping.target.ports.first(), subject.protocol());
            let of_port = |publication: &&Publication| publication.port == port && publication.protocol == protocol;
            let published = container.publications.iter().find(of_port).zip(published_at.as_ref());
            let remedy = published.map_or_else(
                || format!("publish the port of {name} (docker run -p), and map to where it is published"),
                |(publication, at)| {
                    format!("e: the target {at}:{}, where Docker publishes it", publication.host.port())
                },
            );
            let text = format!("{name} runs in a network that is not this host's: {why}.");
            finding.cause(CauseKind::EngineElsewhere, &text, &[remedy.as_str()]);
            finding
        }
        (Whereabouts::Nowhere(reason), _) => {
            let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, reason.as_str());
            match subject.config.network.as_deref() {
                Some(asked) if !container.networks.iter().any(|network| network.name.as_str() == asked) => {
                    let asked = SafeText::quoted(asked);
                    let connect = format!("docker network connect {asked} {name}");
                    let text = format!("{name} has no address on the network {asked}, which the mapping asks for.");
                    let remedies = [connect.as_str(), "e: another network, or none"];
                    finding.cause(CauseKind::ContainerWithoutAddress, &text, &remedies);
                }
                _ => network(subject, container, &mut finding),
            }
            finding
        }
        (Whereabouts::Known(addresses), _) if container.state.as_str() == "paused" => {
            let ips = listed(addresses.iter().map(std::net::SocketAddr::ip));
            let text = format!("{name} is paused, {ips}");
            let mut finding = Finding::step(StepKind::Target, None, Verdict::Bad, &text);
            let unpause = format!("docker unpause {name}");
            finding.cause(CauseKind::ContainerStopped, &format!("{name} is paused: it answers nobody."), &[&unpause]);
            finding
        }
        (Whereabouts::Known(addresses), _) => {
            let ips = listed(addresses.iter().map(std::net::SocketAddr::ip));
            let text = format!("{name} {}, {ips}", container.state);
            Finding::step(StepKind::Target, None, Verdict::Ok, &text)
        }
    }
}

/// The container is on networks on which this host has no address.
pub(super) fn network(subject: &Subject, container: &Container, finding: &mut Finding) {
    let name = &container.name;
    let of_ours = |ip: &std::net::IpAddr| subject.own.contains(*ip);
    let is_asked = |network: &&ContainerNetwork| {
        subject.config.network.as_deref().is_none_or(|asked| network.name.as_str() == asked)
    };
    let asked = container.networks.iter().filter(is_asked);
    let foreign: Vec<_> = asked.filter(|network| !network.gateways.iter().any(of_ours)).collect();
    let names = listed(foreign.iter().map(|network| &network.name));
    let add = format!("docker network connect bridge {name}");
    if !foreign.is_empty() && foreign.iter().all(|network| network.is_internal) {
        finding.cause(
            CauseKind::NetworkInternal,
            &format!("{name} is on an internal network ({names}) on which this host has no address."),
            &[&add, "a network without --internal"],
        );
    } else {
        let drivers =
            listed(foreign.iter().map(|network| &network.driver).filter(|driver| !driver.as_str().is_empty()));
        let drivers = if drivers.is_empty() { String::new() } else { format!(" ({drivers})") };
        finding.cause(
            CauseKind::NetworkUnreachable,
            &format!("{name} is on the network {names}{drivers}, on which this host has no address."),
            &[&add, "a bridge network"],
        );
    }
}
