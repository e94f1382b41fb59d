//! Which container a target means: a pure function of the list of containers.

use std::net::IpAddr;

use crate::model::container::Container;
use crate::model::mapping::TargetHost;
use crate::model::untrusted::SafeText;

/// Fewer digits of an id than this name no container.
const SHORTEST_PREFIX: usize = 4;
/// How alike two names are when one is offered for the other (Jaro-Winkler, 1 is equal).
const SIMILAR: f64 = 0.8;
/// Most names that are offered.
const MOST_OFFERED: usize = 3;

/// The container that a target means now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// Which. Its id is what `kept` should be next time.
    pub container: &'a Container,
    /// Its addresses in the order of trying; never empty.
    pub addresses: &'a [IpAddr],
}

/// Why a target means no container that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such name or id.
    #[error("container \"{name}\" not found{}", offered(.similar))]
    NotFound {
        /// As written.
        name: SafeText,
        /// Names much like it.
        similar: Vec<SafeText>,
    },
    /// No such name, and it looks like one of DNS.
    #[error("container \"{name}\" not found; for a DNS name write host/{name}")]
    LooksLikeDns {
        /// As written.
        name: SafeText,
    },
    /// An id prefix of several containers.
    #[error("\"{prefix}\" fits {count} containers: give more characters")]
    Ambiguous {
        /// As written.
        prefix: SafeText,
        /// How many.
        count: usize,
    },
    /// No container of that Compose service.
    #[error("no container of Compose service \"{service}\" in project \"{project}\"{}", offered(.similar))]
    NoService {
        /// The project.
        project: SafeText,
        /// The service.
        service: SafeText,
        /// `PROJECT/SERVICE` much like it.
        similar: Vec<SafeText>,
    },
    /// It is there but does not run.
    #[error("{what} is {}: the mapping waits", if .state.as_str() == "restarting" { "restarting" } else { "stopped" })]
    NotRunning {
        /// `container "web"` or `compose/shop/web`.
        what: SafeText,
        /// Docker's word.
        state: SafeText,
    },
    /// It runs without a network.
    #[error("{what} has no network address")]
    NoAddress {
        /// `container "web"` or `compose/shop/web`.
        what: SafeText,
    },
}

/// The container that `host` means; `None` when it means no container at all (an address, a DNS name).
///
/// By name: the exact name first, then an id prefix of at least 4 hex digits. By Compose service: the replica
/// whose id is `kept` while it runs, so that a mapping does not move without need; else the lowest-numbered
/// one that runs.
pub fn find<'a>(
    containers: &'a [Container],
    host: &TargetHost,
    kept: Option<&str>,
) -> Option<Result<Found<'a>, LookupError>> {
    match host {
        TargetHost::Container { name, explicit } => Some(by_name(containers, name, *explicit)),
        TargetHost::Compose { project, service } => Some(by_service(containers, project, service, kept)),
        TargetHost::Ip(_) | TargetHost::Localhost | TargetHost::Dns(_) => None,
    }
}

fn by_name<'a>(containers: &'a [Container], name: &str, explicit: bool) -> Result<Found<'a>, LookupError> {
    let container = match containers.iter().find(|container| container.name.as_str() == name) {
        Some(container) => container,
        None => by_id(containers, name)?.ok_or_else(|| not_found(containers, name, explicit))?,
    };
    dialable(container, || SafeText::new(&format!("container \"{}\"", SafeText::quoted(name))))
}

fn by_id<'a>(containers: &'a [Container], prefix: &str) -> Result<Option<&'a Container>, LookupError> {
    if prefix.len() < SHORTEST_PREFIX || !prefix.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let lower = prefix.to_ascii_lowercase();
    let fitting: Vec<&Container> =
        containers.iter().filter(|container| container.id.as_str().starts_with(&lower)).collect();
    match fitting[..] {
        [] => Ok(None),
        [container] => Ok(Some(container)),
        _ => Err(LookupError::Ambiguous { prefix: SafeText::quoted(prefix), count: fitting.len() }),
    }
}

fn not_found(containers: &[Container], name: &str, explicit: bool) -> LookupError {
    if !explicit && name.contains('.') {
        return LookupError::LooksLikeDns { name: SafeText::quoted(name) };
    }
    let names = containers.iter().map(|container| container.name.clone());
    LookupError::NotFound { name: SafeText::quoted(name), similar: similar(name, names) }
}

fn by_service<'a>(
    containers: &'a [Container],
    project: &str,
    service: &str,
    kept: Option<&str>,
) -> Result<Found<'a>, LookupError> {
    let mut replicas: Vec<(u32, &Container)> = containers
        .iter()
        .filter_map(|container| {
            let label = container.compose.as_ref()?;
            let is_it = label.project.as_str() == project && label.service.as_str() == service;
            is_it.then_some((label.number, container))
        })
        .collect();
    // Running before stopped, with an address before without, then by number; the id decides between equals.
    replicas.sort_by(|(a_number, a), (b_number, b)| {
        let rank = |container: &Container| (!container.is_running(), container.addresses.is_empty());
        (rank(a), a_number, &a.id).cmp(&(rank(b), b_number, &b.id))
    });
    let is_kept = |container: &Container| kept == Some(container.id.as_str()) && container.is_running();
    let chosen = replicas.iter().find(|(_, container)| is_kept(container)).or(replicas.first());
    let Some((_, container)) = chosen else {
        let services = containers.iter().filter_map(|container| container.compose.as_ref());
        let names = services.map(|label| SafeText::new(&format!("{}/{}", label.project, label.service)));
        return Err(LookupError::NoService {
            project: SafeText::quoted(project),
            service: SafeText::quoted(service),
            similar: similar(&format!("{project}/{service}"), names),
        });
    };
    dialable(container, || SafeText::new(&format!("compose/{project}/{service}")))
}

fn dialable(container: &Container, what: impl FnOnce() -> SafeText) -> Result<Found<'_>, LookupError> {
    if !container.is_running() {
        return Err(LookupError::NotRunning { what: what(), state: container.state.clone() });
    }
    if container.addresses.is_empty() {
        return Err(LookupError::NoAddress { what: what() });
    }
    Ok(Found { container, addresses: &container.addresses })
}

/// The names most like `name`, the likest first.
fn similar(name: &str, names: impl Iterator<Item = SafeText>) -> Vec<SafeText> {
    let likeness = |other: &str| {
        let is_part = name.len() >= 3 && !other.is_empty() && (other.contains(name) || name.contains(other));
        strsim::jaro_winkler(name, other) + f64::from(u8::from(is_part))
    };
    let mut alike: Vec<(f64, SafeText)> =
        names.map(|other| (likeness(other.as_str()), other)).filter(|(score, _)| *score >= SIMILAR).collect();
    alike.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
    alike.dedup_by(|(_, a), (_, b)| a == b);
    alike.into_iter().map(|(_, name)| name).take(MOST_OFFERED).collect()
}

fn offered(similar: &[SafeText]) -> String {
    if similar.is_empty() {
        return String::new();
    }
    let names: Vec<String> = similar.iter().map(|name| format!("\"{name}\"")).collect();
    format!(" (similar: {})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::ComposeLabel;

    fn container(name: &str, id: &str, state: &str, addresses: &[&str]) -> Container {
        Container {
            id: id.into(),
            name: name.into(),
            image: "busybox".into(),
            state: state.into(),
            addresses: addresses.iter().map(|ip| ip.parse().expect("address")).collect(),
            networks: vec![],
            host_network: false,
            ports: vec![],
            publications: vec![],
            compose: None,
        }
    }

    fn replica(name: &str, number: u32, state: &str) -> Container {
        let compose = ComposeLabel { project: "shop".into(), service: "web".into(), number };
        let addresses: &[&str] = if state == "running" { &["172.17.0.9"] } else { &[] };
        Container { compose: Some(compose), ..container(name, &format!("f00d{number:x}"), state, addresses) }
    }

    fn named(name: &str) -> TargetHost {
        TargetHost::Container { name: name.into(), explicit: false }
    }

    fn answer(containers: &[Container], host: &TargetHost, kept: Option<&str>) -> String {
        match find(containers, host, kept).expect("a container target") {
            Ok(found) => found.container.name.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_and_ids_find_their_container_and_slips_are_answered() {
        let all = [
            container("web-1", "ab12000000", "running", &["172.17.0.2"]),
            container("db_1", "ab12ffffff", "exited", &[]),
            container("ab12", "0123456789", "running", &["172.17.0.3"]),
            container("job", "ab1277", "created", &[]),
            container("flappy", "cdef01", "restarting", &[]),
            container("alone", "cdef02", "running", &[]),
            container("frozen", "beef", "paused", &["172.17.0.4"]),
        ];
        for (name, expected) in [
            ("web-1", "web-1"),
            ("ab12", "ab12"),
            ("ab120", "web-1"),
            ("AB120", "web-1"),
            ("0123", "ab12"),
            ("frozen", "frozen"),
            ("beef", "frozen"),
            ("ab1", "container \"ab1\" not found (similar: \"ab12\")"),
            ("web", "container \"web\" not found (similar: \"web-1\")"),
            ("wbe-1", "container \"wbe-1\" not found (similar: \"web-1\")"),
            ("zzz", "container \"zzz\" not found"),
            ("db.internal", "container \"db.internal\" not found; for a DNS name write host/db.internal"),
            ("db_1", "container \"db_1\" is stopped: the mapping waits"),
            ("job", "container \"job\" is stopped: the mapping waits"),
            ("flappy", "container \"flappy\" is restarting: the mapping waits"),
            ("alone", "container \"alone\" has no network address"),
            ("cdef", "\"cdef\" fits 2 containers: give more characters"),
        ] {
            assert_eq!(answer(&all, &named(name), None), expected, "{name}");
        }
        let three = [&all[0], &all[1], &all[3]].map(Clone::clone);
        assert_eq!(answer(&three, &named("ab12"), None), "\"ab12\" fits 3 containers: give more characters");
        let explicit = TargetHost::Container { name: "db.internal".into(), explicit: true };
        assert_eq!(answer(&all, &explicit, None), "container \"db.internal\" not found");
    }

    #[test]
    fn targets_that_are_no_containers_are_left_to_others() {
        assert_eq!(find(&[], &TargetHost::Localhost, None), None);
        assert_eq!(find(&[], &TargetHost::Dns("db.internal".into()), None), None);
    }

    #[test]
    fn a_service_means_its_lowest_running_replica_and_keeps_it_while_it_runs() {
        let host = TargetHost::Compose { project: "shop".into(), service: "web".into() };
        let mut all =
            vec![replica("web-3", 3, "running"), replica("web-1", 1, "exited"), replica("web-2", 2, "running")];
        assert_eq!(answer(&all, &host, None), "web-2");
        assert_eq!(answer(&all, &host, Some("f00d3")), "web-3");
        // The lower one comes back: no reason to move.
        all[1] = replica("web-1", 1, "running");
        assert_eq!(answer(&all, &host, Some("f00d3")), "web-3");
        assert_eq!(answer(&all, &host, None), "web-1");
        // It stops: the lowest takes over.
        all[0] = replica("web-3", 3, "exited");
        assert_eq!(answer(&all, &host, Some("f00d3")), "web-1");
        assert_eq!(answer(&all, &host, Some("gone")), "web-1");
        let all = [replica("web-2", 2, "exited"), replica("web-1", 1, "exited")];
        assert_eq!(answer(&all, &host, None), "compose/shop/web is stopped: the mapping waits");
        // Ten comes after two.
        let all = [replica("web-10", 10, "running"), replica("web-2", 2, "running")];
        assert_eq!(answer(&all, &host, None), "web-2");
    }

    #[test]
    fn a_service_that_is_not_there_is_answered_with_one_that_is() {
        let host = TargetHost::Compose { project: "shop".into(), service: "wbe".into() };
        assert_eq!(
            answer(&[replica("web-1", 1, "running")], &host, None),
            "no container of Compose service \"wbe\" in project \"shop\" (similar: \"shop/web\")"
        );
        assert_eq!(answer(&[], &host, None), "no container of Compose service \"wbe\" in project \"shop\"");
    }
}
