//! Mappings put together to a profile: names made and unique, no port taken twice, nothing forwarding to itself.
//!
//! The service calls it for each change and the reader for each file, so both refuse the same.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use super::config::made_up_name;
use super::cycle::find_cycles;
use super::listeners::find_clashes;
use super::mapping::{Listen, Mapping, Protocol};
use super::problem::Problem;
use super::profile::{MAX_MAPPINGS, MappingConfig, Problems, Profile};
use super::untrusted::SafeText;

/// Where a mapping was written, so that a problem can name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the profile, at this place.
    Profile(usize),
    /// On the command line, as this text.
    Argument(SafeText),
    /// Wherever it is: its reader knows it by its name.
    Named(String),
    /// In the request that is judged.
    Asked,
}

impl Origin {
    /// An argument of `-p`.
    pub fn argument(text: &str) -> Self {
        Self::Argument(SafeText::quoted(text))
    }

    fn path(&self, field: &str) -> String {
        match self {
            Self::Profile(_) => format!("{self}.{field}"),
            Self::Argument(_) => self.to_string(),
            // The field is enough for who has a form before the eyes.
            Self::Named(_) | Self::Asked => field.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(index) => write!(f, "mappings[{index}]"),
            Self::Argument(text) => write!(f, "-p {text}"),
            Self::Named(name) => f.write_str(name),
            Self::Asked => f.write_str("this mapping"),
        }
    }
}

impl Profile {
    /// Puts mappings together, as they stand in a profile.
    pub fn from_configs(configs: Vec<MappingConfig>) -> Result<Self, Problems> {
        let located = configs.into_iter().enumerate().map(|(index, config)| (Origin::Profile(index), config));
        Self::from_located(located.collect(), &[])
    }

    /// Puts mappings of any origin together. `own_addresses` are this host's, beside loopback, as far as they
    /// are known: a mapping to one of them may be a cycle.
    pub fn from_located(located: Vec<(Origin, MappingConfig)>, own_addresses: &[IpAddr]) -> Result<Self, Problems> {
        let (origins, mut mappings): (Vec<Origin>, Vec<MappingConfig>) = located.into_iter().unzip();
        if mappings.len() > MAX_MAPPINGS {
            let over = mappings.len() - MAX_MAPPINGS;
            let text = format!("{} mappings are {over} over the limit of {MAX_MAPPINGS}", mappings.len());
            return Err(vec![Problem::new("mappings", text)]);
        }
        name_the_nameless(&mut mappings);
        let usable: Vec<Usable> = mappings.iter().map(Usable::from).collect();
        let problems = find_problems(&origins, &usable, own_addresses);
        if problems.is_empty() { Ok(Self { mappings }) } else { Err(problems) }
    }
}

/// What can be used of a mapping. One that has a problem of its own may still be in the way of others.
#[derive(Clone, Debug, Default)]
pub(super) struct Usable {
    /// If the user gave one.
    pub(super) name: Option<String>,
    pub(super) listener: Option<(Listen, Protocol)>,
    pub(super) mapping: Option<Mapping>,
}

impl From<&MappingConfig> for Usable {
    fn from(config: &MappingConfig) -> Self {
        Self {
            name: config.name_is_given.then(|| config.name.clone()),
            listener: Some((config.mapping.listen.clone(), config.mapping.protocol)),
            mapping: Some(config.mapping.clone()),
        }
    }
}

/// Finds what the mappings do to each other, as far as each of them can be used.
pub(super) fn find_problems(origins: &[Origin], usable: &[Usable], own: &[IpAddr]) -> Problems {
    let mut problems = Problems::new();
    let mut named = HashMap::new();
    for (index, name) in usable.iter().enumerate().filter_map(|(index, usable)| Some((index, usable.name.as_deref()?)))
    {
        let earlier = *named.entry(name).or_insert(index);
        if earlier != index {
            let text = format!("{} and {} are both named \"{name}\"", origins[index], origins[earlier]);
            problems.push(Problem::new(origins[index].path("name"), text));
        }
    }
    let listeners = usable.iter().map(|usable| usable.listener.as_ref().map(|(listen, protocol)| (listen, *protocol)));
    for clash in find_clashes(listeners) {
        let (later, earlier) = (&origins[clash.later], &origins[clash.earlier]);
        let text = format!("{later} and {earlier} both listen on {}", clash.listener);
        problems.push(Problem::new(later.path("listen"), text));
    }
    let (places, mappings): (Vec<usize>, Vec<&Mapping>) =
        usable.iter().enumerate().filter_map(|(index, usable)| Some((index, usable.mapping.as_ref()?))).unzip();
    for cycle in find_cycles(&mappings, own, |_| Vec::new()) {
        let last = cycle.members.iter().map(|member| places[*member]).max().unwrap_or(0);
        problems.push(Problem::new(origins[last].path("target"), cycle.to_string()));
    }
    problems
}

/// Made-up names give way to given ones, then follow the order of the list: `8080-tcp`, `8080-tcp-2`.
pub(super) fn name_the_nameless(mappings: &mut [MappingConfig]) {
    let mut taken: HashSet<String> =
        mappings.iter().filter(|config| config.name_is_given).map(|config| config.name.clone()).collect();
    let mut next: HashMap<String, u32> = HashMap::new();
    for config in mappings.iter_mut().filter(|config| !config.name_is_given) {
        let base = made_up_name(&config.mapping);
        let count = next.entry(base.clone()).or_insert(1);
        config.name = loop {
            let name = if *count == 1 { base.clone() } else { format!("{base}-{count}") };
            *count += 1;
            if taken.insert(name.clone()) {
                break name;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> MappingConfig {
        MappingConfig::from_argument(text).unwrap()
    }

    fn named(name: &str, text: &str) -> MappingConfig {
        MappingConfig { name: name.into(), name_is_given: true, ..config(text) }
    }

    fn said(configs: Vec<MappingConfig>) -> Vec<String> {
        Profile::from_configs(configs).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn made_up_names_follow_the_listen_side_and_give_way_to_given_ones() {
        let profile = Profile::from_configs(vec![
            config("127.0.0.1:8080:a:80"),
            config("127.0.0.2:8080:b:80"),
            config("127.0.0.1:8080:c:80/udp"),
            named("8080-tcp", "81:d:80"),
            config("127.0.0.3:8080:e:80"),
        ]);
        let names: Vec<String> = profile.unwrap().mappings.into_iter().map(|config| config.name).collect();
        assert_eq!(names, ["8080-tcp-2", "8080-tcp-3", "8080-udp", "8080-tcp", "8080-tcp-4"]);
    }

    #[test]
    fn names_listeners_and_cycles_are_judged_together() {
        assert_eq!(
            said(vec![named("web", "1:a:80"), named("web", "2:a:80"), named("web", "3:a:80"), config("1-5:b:1-5")]),
            [
                "mappings[1].name: mappings[1] and mappings[0] are both named \"web\"",
                "mappings[2].name: mappings[2] and mappings[0] are both named \"web\"",
                "mappings[3].listen: mappings[3] and mappings[0] both listen on 127.0.0.1:1/tcp",
            ]
        );
        assert_eq!(
            said(vec![config("8080:localhost:9090"), config("9090:localhost:8080")]),
            ["mappings[1].target: would forward to itself: :8080 -> :9090 -> :8080"]
        );
        assert_eq!(
            said(vec![
                config("1:a:80"),
                config("8080:localhost:9090"),
                config("9090:localhost:8080"),
                config("1:b:80")
            ]),
            [
                "mappings[3].listen: mappings[3] and mappings[0] both listen on 127.0.0.1:1/tcp",
                "mappings[2].target: would forward to itself: :8080 -> :9090 -> :8080",
            ]
        );
    }

    #[test]
    fn own_addresses_and_arguments_are_named() {
        let located = vec![
            (Origin::Profile(0), config("any:80:192.0.2.7:80")),
            (Origin::argument("81:web:80"), config("81:web:80")),
            (Origin::argument("81:db:80"), config("81:db:80/udp")),
        ];
        assert!(Profile::from_located(located.clone(), &[]).is_ok());
        let problems = Profile::from_located(located, &["192.0.2.7".parse().unwrap()]).unwrap_err();
        assert_eq!(problems, [Problem::new("mappings[0].target", "would forward to itself: :80 -> :80")]);
        let twice = vec![(Origin::argument("81:web:80"), config("81:web:80")); 2];
        assert_eq!(
            Profile::from_located(twice, &[]).unwrap_err()[0].to_string(),
            "-p 81:web:80: -p 81:web:80 and -p 81:web:80 both listen on 127.0.0.1:81/tcp"
        );
    }

    #[test]
    fn too_many_mappings_are_refused_by_how_many() {
        let configs = vec![config("auto:web:80"); MAX_MAPPINGS + 50];
        assert_eq!(said(configs), ["mappings: 10050 mappings are 50 over the limit of 10000"]);
    }
}
