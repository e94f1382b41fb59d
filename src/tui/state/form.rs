//! The form that adds or edits a mapping: what is typed, and what the service says of it.

use tui_input::Input;

use crate::model::container::{Container, DockerState, EnginePlace};
use crate::model::id::MappingId;
use crate::model::identity::Identity;
use crate::model::mapping::{Family, HostPort, Listen, ListenAddress, PortRange, Protocol, Target, TargetHost};
use crate::model::problem::Problem;
use crate::model::profile::WrittenMapping;
use crate::model::request::{PortReport, ProbeResult};
use crate::model::untrusted::SafeText;

use super::fuzzy;
use super::offer;

/// A mapping as it is being typed.
#[derive(Clone, Debug)]
pub struct Form {
    /// The mapping that is edited; none: a new one.
    pub edits: Option<MappingId>,
    /// That mapping as it was when the form was filled in from it.
    pub was: Option<WrittenMapping>,
    /// What the fields that the form does not show start from.
    pub base: WrittenMapping,
    /// Who can connect.
    pub who: Who,
    /// The address of [`Who::One`].
    pub address: Input,
    /// Host port, range or `auto`.
    pub port: Input,
    /// Protocol.
    pub protocol: Protocol,
    /// The target without its port.
    pub host: Input,
    /// The target's port or ports.
    pub target_port: Input,
    /// How the target learns who its client is.
    pub identity: Identity,
    /// The name, if one is given.
    pub name: Input,
    /// Where the cursor is.
    pub focus: Field,
    /// Known containers.
    pub containers: Vec<Container>,
    /// Whether that list can be trusted.
    pub docker: DockerState,
    /// Whether they can be reached from here; if not, their published ports are offered.
    pub place: EnginePlace,
    /// The chosen line of the containers that match; none until an arrow was pressed.
    pub chosen: Option<usize>,
    /// Counts the changes; answers to older ones are dropped.
    pub generation: u64,
    /// When the service is to be asked about what was typed last.
    pub ask_at_ms: Option<u64>,
    /// Who holds the port.
    pub port_report: Option<PortReport>,
    /// What the service says of the whole.
    pub verdict: Option<Verdict>,
    /// How the target answered, and for which target that holds.
    pub probe: Option<Probe>,
    /// The first save was refused since the port of this mapping is in use: a second one keeps it all the same.
    pub refused_busy: Option<String>,
    /// Why the last save failed otherwise.
    pub save_error: Option<SafeText>,
    /// A save is under way.
    pub is_saving: bool,
}

/// Who can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Loopback.
    ThisMachine,
    /// Every address.
    ThisNetwork,
    /// One address.
    One,
}

/// A field of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Who can connect.
    Who,
    /// The one address.
    Address,
    /// Host port.
    Port,
    /// Protocol.
    Protocol,
    /// Target.
    Host,
    /// Target port.
    TargetPort,
    /// How the target learns who its client is.
    Identity,
    /// Name.
    Name,
}

/// What the service says of the mapping as typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It could be added.
    Valid {
        /// The name that it would get.
        name: String,
        /// What to know of it.
        notes: Vec<SafeText>,
        /// Where clients will find it: addresses with their port.
        places: Vec<SafeText>,
    },
    /// It could not.
    Invalid(Vec<Problem>),
}

/// How a target answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Which.
    pub target: String,
    /// Nothing yet: it is being tried.
    pub results: Option<Vec<ProbeResult>>,
    /// Why there is no result.
    pub reason: Option<SafeText>,
}

impl Form {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            edits: None,
            was: None,
            base: WrittenMapping::default(),
            who: Who::ThisMachine,
            address: Input::default(),
            port: Input::default(),
            protocol: Protocol::Tcp,
            host: Input::default(),
            target_port: Input::default(),
            identity: Identity::None,
            name: Input::default(),
            focus: Field::Port,
            containers: Vec::new(),
            docker: DockerState::Unknown,
            place: EnginePlace::Unknown,
            chosen: None,
            generation: 0,
            ask_at_ms: None,
            port_report: None,
            verdict: None,
            probe: None,
            refused_busy: None,
            save_error: None,
            is_saving: false,
        }
    }

    /// Filled in from a mapping.
    pub fn of(written: &WrittenMapping, listen: &Listen, target: &Target, protocol: Protocol) -> Self {
        let mut form = Self::new();
        form.base = written.clone();
        form.set(listen, target, protocol);
        form.identity = written.identity.unwrap_or_default();
        form.name = Input::new(written.name.clone().unwrap_or_default());
        form
    }

    /// Fills in listen side, target and protocol.
    pub fn set(&mut self, listen: &Listen, target: &Target, protocol: Protocol) {
        match &listen.address {
            ListenAddress::Localhost => self.who = Who::ThisMachine,
            ListenAddress::Any => self.who = Who::ThisNetwork,
            ListenAddress::Ip(ip) => {
                self.who = Who::One;
                self.address = Input::new(ip.to_string());
            }
        }
        self.port = Input::new(listen.port.to_string());
        self.host = Input::new(target.host.to_string());
        self.target_port = Input::new(target.ports.to_string());
        self.protocol = protocol;
    }

    /// The fields that can be gone to, in order.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = vec![Field::Who, Field::Address, Field::Port, Field::Protocol];
        if self.who != Who::One {
            fields.remove(1);
        }
        fields.extend([Field::Host, Field::TargetPort, Field::Identity, Field::Name]);
        fields
    }

    /// The line of text under the cursor.
    pub fn input(&mut self) -> Option<&mut Input> {
        match self.focus {
            Field::Who | Field::Protocol | Field::Identity => None,
            Field::Address => Some(&mut self.address),
            Field::Port => Some(&mut self.port),
            Field::Host => Some(&mut self.host),
            Field::TargetPort => Some(&mut self.target_port),
            Field::Name => Some(&mut self.name),
        }
    }

    /// The listen side as the grammar writes it.
    pub fn listen_text(&self) -> String {
        let port = self.port.value().trim();
        match self.who {
            Who::ThisMachine => format!("localhost:{port}"),
            Who::ThisNetwork => format!("any:{port}"),
            Who::One => {
                let address = self.address.value().trim();
                if address.contains(':') && !address.starts_with('[') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            }
        }
    }

    /// The target side as the grammar writes it.
    pub fn target_text(&self) -> String {
        let host = self.host.value().trim();
        let port = self.target_port.value().trim();
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The mapping as typed.
    pub fn written(&self) -> WrittenMapping {
        let name = self.name.value().trim();
        WrittenMapping {
            name: (!name.is_empty()).then(|| name.to_owned()),
            listen: self.listen_text(),
            target: self.target_text(),
            protocol: (self.protocol != Protocol::Tcp).then_some(self.protocol),
            identity: (self.identity != Identity::None).then_some(self.identity),
            // What only the identity reads that was there before goes with it.
            alias_pool: self.base.alias_pool.clone().filter(|_| self.identity == Identity::Alias),
            trusted_cidrs: self
                .base
                .trusted_cidrs
                .clone()
                .filter(|_| self.base.accept_proxy == Some(true) || self.identity == Identity::Http),
            ..self.base.clone()
        }
    }

    /// What the container will see of a client, in plain words.
    pub fn seen_as(&self) -> String {
        let from = match (self.base.accept_proxy, self.identity) {
            (Some(true), Identity::None) => "; proxies in front name it by a PROXY header, which it ends at",
            (Some(true), _) => "; the client is the one that proxies in front name",
            _ => "",
        };
        let is_v6 = self.base.alias_pool.as_ref().is_some_and(|pool| pool.contains(':'));
        let seen_as = self.identity.seen_as();
        let seen_as =
            if is_v6 { seen_as.replace("as an IPv4 address", "as an IPv6 address") } else { seen_as.to_owned() };
        format!("{seen_as}{from}")
    }

    /// The identities that go with the protocol.
    pub fn identities(&self) -> Vec<Identity> {
        Identity::ALL.into_iter().filter(|identity| identity.goes_with(self.protocol)).collect()
    }

    /// The listen side, once it is one.
    pub fn listen(&self) -> Option<Listen> {
        if self.port.value().trim().is_empty() {
            return None;
        }
        self.listen_text().parse().ok()
    }

    /// The target, once it is one.
    pub fn target(&self) -> Option<Target> {
        self.target_text().parse().ok()
    }

    /// Whether enough is typed for the whole to be judged.
    pub fn is_complete(&self) -> bool {
        let filled = |input: &Input| !input.value().trim().is_empty();
        filled(&self.port)
            && filled(&self.host)
            && filled(&self.target_port)
            && (self.who != Who::One || filled(&self.address))
    }

    /// What kind of target is typed, as the field before it says.
    pub fn target_kind(&self) -> &'static str {
        let host = self.host.value().trim();
        match format!("{host}:1").parse::<Target>().or_else(|_| format!("[{host}]:1").parse()).map(|target| target.host)
        {
            Ok(TargetHost::Ip(_) | TargetHost::Localhost) => "address",
            Ok(TargetHost::Compose { .. }) => "compose",
            Ok(TargetHost::Dns(_)) => "dns name",
            _ => "container",
        }
    }

    /// Containers that what is typed may mean, the likeliest first: by name, else by Compose service, else by image.
    pub fn matching(&self) -> Vec<&Container> {
        let typed = self.host.value().trim().trim_start_matches("container/");
        // A name that was taken from the list does not shorten the list to itself.
        if typed.is_empty() || self.containers.iter().any(|container| container.name.as_str() == typed) {
            return self.containers.iter().collect();
        }
        let mut found: Vec<_> = self
            .containers
            .iter()
            .filter_map(|container| {
                let service = container.compose.as_ref().map_or("", |label| label.service.as_str());
                let texts = [container.name.as_str(), service, container.image.as_str()];
                let best =
                    texts.iter().enumerate().filter_map(|(at, text)| Some((fuzzy::rank(typed, text)?, at))).min()?;
                Some((best, container))
            })
            .collect();
        found.sort_by_key(|(best, _)| *best);
        found.into_iter().map(|(_, container)| container).collect()
    }

    /// Takes a container over as the target, and its first port of the form's protocol where none is typed. False:
    /// it cannot be reached from here, and publishes no such port.
    pub fn take_container(&mut self, container: &Container) -> bool {
        let typed = self.target_port.value().trim().parse::<u16>().ok();
        let mut ports = container.ports.iter().filter(|port| port.protocol == self.protocol);
        let port = ports.clone().find(|port| Some(port.port) == typed).or_else(|| ports.next());
        let is_elsewhere = matches!(self.place, EnginePlace::Elsewhere { .. });
        let offer = port.and_then(|port| offer::offer(container, port, &self.place));
        self.host = offer.as_ref().map_or_else(|| offer::host(container), |offer| offer.host.clone()).into();
        if let Some(offer) = &offer
            && (is_elsewhere || self.target_port.value().trim().is_empty())
        {
            self.target_port = offer.port.to_string().into();
        }
        offer.is_some() || !is_elsewhere
    }

    /// Filled in from a container: its first exposed port, and a port of this host that anybody may take.
    pub fn of_container(container: &Container, place: EnginePlace, is_taken: impl Fn(u16, Protocol) -> bool) -> Self {
        let mut form = Self { place, ..Self::new() };
        let Some(port) = container.ports.first() else {
            form.take_container(container);
            return form;
        };
        form.protocol = port.protocol;
        form.take_container(container);
        let port = if port.port >= offer::UNPRIVILEGED {
            // The same number is what one looks for; if it is taken, the form says by whom, and which is free.
            Some(port.port)
        } else {
            offer::host_port(port.port, |host| is_taken(host, port.protocol))
        };
        form.port = port.map_or_else(|| "auto".to_owned(), |port| port.to_string()).into();
        form
    }

    /// The port that `^n` takes.
    pub fn free_port(&self) -> Option<u16> {
        let report = self.port_report.as_ref()?;
        if report.conflicts.is_empty() { None } else { report.next_free }
    }

    /// Whether only one of two families is taken, so that the mapping would listen in the other. A dual-stack
    /// socket takes both, whatever its address.
    pub fn is_half_free(&self) -> bool {
        let families = |family| {
            let conflicts = self.port_report.iter().flat_map(|report| &report.conflicts);
            conflicts.filter(|conflict| conflict.family == family).count()
        };
        self.who != Who::One && (families(Family::V4) == 0) != (families(Family::V6) == 0)
    }

    /// What is wrong with the listen side as far as it is typed, target or not. What may still become right while
    /// it is typed is left alone.
    pub fn listen_problem(&self) -> Option<String> {
        let port = self.port.value().trim();
        if port.is_empty() {
            return None;
        }
        let may_go_on = self.focus == Field::Port && (port.ends_with('-') || "auto".starts_with(port));
        if let Err(error) = format!("localhost:{port}").parse::<Listen>() {
            return (!may_go_on).then(|| error.to_string());
        }
        let is_typed = self.who != Who::One || !self.address.value().trim().is_empty() && self.focus != Field::Address;
        is_typed.then(|| self.listen_text().parse::<Listen>().err()).flatten().map(|error| error.to_string())
    }

    /// Puts a free port in, keeping the length of a range.
    pub fn take_port(&mut self, port: u16) {
        let last = match self.listen().map(|listen| listen.port) {
            Some(HostPort::Ports(range)) => u32::from(port) + range.count() - 1,
            _ => u32::from(port),
        };
        let range = u16::try_from(last).ok().and_then(|last| PortRange::new(port, last));
        self.port = Input::new(range.map_or_else(|| port.to_string(), |range| range.to_string()));
    }

    /// The problems of one side; `listen` or `target`.
    pub fn problems<'a>(&'a self, side: &'a str) -> impl Iterator<Item = &'a Problem> {
        let all = match &self.verdict {
            Some(Verdict::Invalid(problems)) => problems.as_slice(),
            _ => &[],
        };
        all.iter().filter(move |problem| {
            let field = problem.path.rsplit('.').next().unwrap_or_default();
            match side {
                "other" => !matches!(field, "listen" | "target" | "name" | "identity"),
                side => field == side,
            }
        })
    }
}

impl Default for Form {
    fn default() -> Self {
        Self::new()
    }
}
