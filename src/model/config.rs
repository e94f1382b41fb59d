//! One mapping: as written -> as usable, and back.
//!
//! Every client's wish passes through here, be it a line of a file, `-p`, the form or the palette, so they
//! are judged alike. What several mappings do to each other is judged in [`super::assemble`].

mod identity;

use std::time::Duration;

use super::assemble::Usable;
use super::duration::{parse_timeout, show_timeout};
use super::identity::Identity;
use super::mapping::{HostPort, Listen, Mapping, Protocol, Target, TargetHost};
use super::name::check_name;
use super::problem::Problem;
use super::profile::{MAX_NETWORK_NAME, MappingConfig, Problems, WrittenMapping};
use super::untrusted::{SafeText, acts_on_a_terminal};

impl MappingConfig {
    /// Checks what was written; every problem has the field as its path. A left-out name is made from the
    /// listen side and may change when mappings are put together.
    pub fn from_written(written: &WrittenMapping) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        convert(written, &[], &mut problems).0.ok_or(problems)
    }

    /// Reads mapping text as `-p` takes it; the problem has the argument as its path.
    pub fn from_argument(text: &str) -> Result<Self, Problem> {
        match text.parse::<Mapping>() {
            Ok(mapping) => Ok(Self { name_is_given: false, ..Self::new(made_up_name(&mapping), mapping) }),
            Err(error) => Err(Problem::new(format!("-p {}", SafeText::quoted(text)), error.to_string())),
        }
    }

    /// What its user should know before clients do.
    pub fn warnings(&self) -> Vec<SafeText> {
        let is_local = self.mapping.target.host.is_loopback();
        let looks_local = self.mapping.is_exposed() && is_local && self.identity == Identity::None;
        let text = "other machines can connect, and to the target, on this host's loopback, every remote client will look \
                    local; an \"identity\" tells it who they are";
        let looks_local = looks_local.then(|| SafeText::new(text));
        let pool = self.alias_pool;
        let is_unreachable = self.identity == Identity::Alias
            && matches!(&self.mapping.target.host, TargetHost::Ip(ip) if ip.ip.to_canonical().is_ipv4() != pool.addr().is_ipv4());
        let unreachable = is_unreachable.then(|| {
            SafeText::new(&format!(
                "the target's address is of the other family than the aliases of {pool}: set \"alias_pool\" to one of its \
                 own family"
            ))
        });
        looks_local.into_iter().chain(unreachable).collect()
    }

    /// As it stands in the file: defaults and made-up names are left out.
    pub fn to_written(&self) -> WrittenMapping {
        let default = Self::new("", self.mapping.clone());
        let unless = |value: Duration, default: Duration| (value != default).then(|| show_timeout(value));
        WrittenMapping {
            name: self.name_is_given.then(|| self.name.clone()),
            network: self.network.clone(),
            enabled: (!self.enabled).then_some(false),
            connect_timeout: unless(self.connect_timeout, default.connect_timeout),
            idle_timeout: self.idle_timeout.filter(|_| self.idle_timeout != default.idle_timeout).map(show_timeout),
            half_close_timeout: unless(self.half_close_timeout, default.half_close_timeout),
            max_connections: self.max_connections.filter(|_| self.max_connections != default.max_connections),
            identity: (self.identity != default.identity).then_some(self.identity),
            alias_pool: (self.alias_pool != default.alias_pool).then(|| self.alias_pool.to_string()),
            accept_proxy: self.accept_proxy.then_some(true),
            trusted_cidrs: (!self.trusted_cidrs.is_empty())
                .then(|| self.trusted_cidrs.iter().map(ToString::to_string).collect()),
            inspect: self.inspect,
            ..WrittenMapping::from(self.mapping.clone())
        }
    }
}

/// A mapping with nothing but defaults.
impl From<Mapping> for WrittenMapping {
    fn from(mapping: Mapping) -> Self {
        Self {
            listen: mapping.listen.to_string(),
            target: mapping.target.to_string(),
            protocol: (mapping.protocol != Protocol::Tcp).then_some(mapping.protocol),
            ..Self::default()
        }
    }
}

/// The name of a mapping that was given none, before others of the same name are known: `8080-tcp`.
pub fn made_up_name(mapping: &Mapping) -> String {
    match mapping.listen.port {
        HostPort::Auto => format!("auto-{}", mapping.protocol),
        HostPort::Ports(ports) => format!("{ports}-{}", mapping.protocol),
    }
}

/// Checks every field but the `broken` ones, whose problem is known already; `None` when any has one. Whatever can be
/// used is given in any case.
pub(super) fn convert(
    written: &WrittenMapping,
    broken: &[&str],
    problems: &mut Problems,
) -> (Option<MappingConfig>, Usable) {
    let before = problems.len();
    let usable = |field: &str| !broken.contains(&field);

    let name = written.name.as_ref().filter(|name| keep(check_name(name), "name", problems).is_some());
    let listen = usable("listen").then(|| keep(written.listen.parse::<Listen>(), "listen", problems)).flatten();
    let target = usable("target").then(|| keep(written.target.parse::<Target>(), "target", problems)).flatten();
    let protocol = written.protocol.unwrap_or_default();
    let listener = listen.clone().map(|listen| (listen, protocol));
    let mapping = match (listen, target) {
        (Some(listen), Some(target)) => keep(Mapping::new(listen, target, protocol), "target", problems),
        _ => None,
    };
    if let Some(network) = &written.network
        && let Err(problem) = check_network(network, mapping.as_ref())
    {
        problems.push(problem);
    }
    let mut timeout = |field: &str, text: &Option<String>| {
        text.as_deref().and_then(|text| parse_timeout(field, text).map_err(|problem| problems.push(problem)).ok())
    };
    let connect_timeout = timeout("connect_timeout", &written.connect_timeout);
    let idle_timeout = timeout("idle_timeout", &written.idle_timeout);
    let half_close_timeout = timeout("half_close_timeout", &written.half_close_timeout);
    if written.max_connections == Some(0) {
        let problem = Problem::new("max_connections", "expected a whole number from 1, found 0");
        problems.push(problem.with_hint("\"enabled\": false stops a mapping"));
    }
    let networks = identity::check(written, protocol, &usable, problems);

    let is_whole = usable("protocol");
    let usable = Usable {
        name: name.cloned(),
        listener: listener.filter(|_| is_whole),
        mapping: mapping.clone().filter(|_| is_whole),
    };
    if problems.len() > before || !broken.is_empty() {
        return (None, usable);
    }
    let config = mapping.map(|mapping| {
        let default = MappingConfig::new(made_up_name(&mapping), mapping);
        MappingConfig {
            name: written.name.clone().unwrap_or_else(|| default.name.clone()),
            name_is_given: written.name.is_some(),
            network: written.network.clone(),
            enabled: written.enabled.unwrap_or(default.enabled),
            connect_timeout: connect_timeout.unwrap_or(default.connect_timeout),
            idle_timeout: idle_timeout.or(default.idle_timeout),
            half_close_timeout: half_close_timeout.unwrap_or(default.half_close_timeout),
            max_connections: written.max_connections.or(default.max_connections),
            identity: written.identity.unwrap_or_default(),
            alias_pool: networks.pool.unwrap_or(default.alias_pool),
            accept_proxy: written.accept_proxy.unwrap_or_default(),
            trusted_cidrs: networks.trusted,
            inspect: written.inspect,
            mapping: default.mapping,
        }
    });
    (config, usable)
}

/// A network is one of a container's, by a name as Docker gives them.
fn check_network(network: &str, mapping: Option<&Mapping>) -> Result<(), Problem> {
    let is_name = |c: char| !c.is_whitespace() && !acts_on_a_terminal(c);
    if network.is_empty() || network.len() > MAX_NETWORK_NAME || !network.chars().all(is_name) {
        let text = format!("\"{}\" is no name of a network", SafeText::quoted(network));
        return Err(Problem::new("network", text).with_hint("`docker network ls` lists them"));
    }
    match mapping.map(|mapping| &mapping.target.host) {
        None | Some(TargetHost::Container { .. } | TargetHost::Compose { .. }) => Ok(()),
        Some(_) => Err(Problem::new("network", "only a container is on networks of Docker")
            .with_hint("leave the field out, or name a container as target")),
    }
}

/// The value, or its problem at this field.
fn keep<T, E: std::fmt::Display>(result: Result<T, E>, field: &str, problems: &mut Problems) -> Option<T> {
    result.map_err(|error| problems.push(Problem::new(field, error.to_string()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(listen: &str, target: &str) -> WrittenMapping {
        WrittenMapping { listen: listen.into(), target: target.into(), ..WrittenMapping::default() }
    }

    #[test]
    fn every_field_of_a_mapping_is_judged_at_once() {
        let written = WrittenMapping {
            name: Some("a/b".into()),
            protocol: Some(Protocol::Udp),
            connect_timeout: Some("5".into()),
            idle_timeout: Some("0s".into()),
            half_close_timeout: Some("1".into()),
            max_connections: Some(0),
            ..written("70000", "80")
        };
        let problems = MappingConfig::from_written(&written).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "name: \"a/b\" is no name: names use letters, digits, `.`, `_` and `-`, up to 64",
                "listen: host port 70000 is out of range (1-65535)",
                "target: 80 names no container: write CONTAINER:80",
                "connect_timeout: \"5\" is no duration (give a unit: 5s, 200ms, 2m)",
                "idle_timeout: \"0s\" is no time at all (leave the field out for the default)",
                "half_close_timeout: \"1\" is no duration (give a unit: 5s, 200ms, 2m)",
                "max_connections: expected a whole number from 1, found 0 (\"enabled\": false stops a mapping)",
            ]
        );
        let problems = MappingConfig::from_written(&self::written("8000-8010", "web:80")).unwrap_err();
        assert_eq!(problems, [Problem::new("target", "the ranges differ in length (11 and 1)")]);
    }

    #[test]
    fn defaults_fill_what_is_left_out_and_are_not_written_back() {
        let config = MappingConfig::from_written(&written("8080", "web:80")).unwrap();
        assert_eq!(
            config,
            MappingConfig { name_is_given: false, ..MappingConfig::new("8080-tcp", config.mapping.clone()) }
        );
        assert_eq!(config.to_written(), written("localhost:8080", "web:80"));

        let full = WrittenMapping {
            name: Some("dns".into()),
            protocol: Some(Protocol::Udp),
            enabled: Some(false),
            connect_timeout: Some("2s".into()),
            idle_timeout: Some("1m".into()),
            // A flow has no half-close, so it changes nothing, and it stays as it was written.
            half_close_timeout: Some("1m".into()),
            max_connections: Some(7),
            ..written("any:53", "172.17.0.3:53")
        };
        assert_eq!(MappingConfig::from_written(&full).unwrap().to_written(), full);
    }

    #[test]
    fn an_argument_is_a_mapping_without_a_name() {
        let config = MappingConfig::from_argument("any:8000-8001:web:80-81/udp").unwrap();
        assert_eq!((config.name.as_str(), config.name_is_given), ("8000-8001-udp", false));
        assert_eq!(
            MappingConfig::from_argument("8080:80").unwrap_err().to_string(),
            "-p 8080:80: 8080:80 names no container: write 8080:CONTAINER:80"
        );
        assert_eq!(MappingConfig::from_argument("auto:web:80").unwrap().name, "auto-tcp");
    }
}
