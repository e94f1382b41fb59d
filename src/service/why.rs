//! Why a mapping does not work, and who listens inside a container: asked by clients, answered by jobs beside the
//! owner. What the service knows is handed to the doctor as data.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::changes::ReplyTo;
use super::core::Service;
use super::dns::{self, DnsTable};
use super::known::Known;
use super::place::{Here, engine_place, sought};
use super::resolve::{Resolved, Sight, Wanted, addresses_for};
use crate::docker::{self, DockerView, Endpoint, EndpointError};
use crate::doctor::{self, EngineView, LimitView, ListenProblem, ListenerView, Subject, Whereabouts};
use crate::forward::context::Addresses;
use crate::forward::engine::{ListenError, StateReason};
use crate::forward::pressure::Limit;
use crate::host::addresses::OwnAddresses;
use crate::host::machine::{self, Machine};
use crate::model::container::{DockerState, EnginePlace};
use crate::model::cycle;
use crate::model::id::MappingId;
use crate::model::mapping::{Family, TargetHost};
use crate::model::profile::MappingConfig;
use crate::model::report::Report;
use crate::model::request::{Reply, RequestError};
use crate::model::untrusted::SafeText;

/// How long Docker and DNS may take to answer for one who waits for a report.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(900);

impl Service {
    /// Answers [`crate::model::request::Request::Why`].
    pub(super) fn why(&mut self, id: MappingId, reply: ReplyTo) {
        let Some(subject) = self.subject(id) else {
            let _ = reply.send(Err(RequestError::NotFound { what: SafeText::new(&format!("mapping {id}")) }));
            return;
        };
        self.inquire(reply, async move {
            let mut subject = subject;
            // Addresses of this machine come and go without a change of the desired state.
            if let Ok(Ok(own)) = spawn_blocking(OwnAddresses::read).await {
                subject.own = own;
            }
            Ok(Reply::Why(Box::new(doctor::examine(subject).await)))
        });
    }

    /// Answers [`crate::model::request::Request::Inside`].
    pub(super) fn inside(&mut self, id: &SafeText, reply: ReplyTo) {
        self.docker.need();
        let view = self.docker.view();
        let Some(container) = view.containers.iter().find(|container| container.id == *id).cloned() else {
            let _ = reply.send(Err(RequestError::NotFound { what: SafeText::new(&format!("container {id}")) }));
            return;
        };
        self.look_up(reply, async move {
            let looked = spawn_blocking(move || doctor::look_inside(&container)).await;
            let answer = looked.map(|(listeners, unseen)| Reply::Inside { listeners, unseen });
            answer.map_err(|_| RequestError::Gone)
        });
    }

    /// What is known of a mapping.
    fn subject(&mut self, id: MappingId) -> Option<Subject> {
        let config = MappingConfig::clone(&self.desired.entry(id)?.config);
        let descriptors = self.engine.as_ref().map(crate::forward::engine::Engine::descriptors).unwrap_or_default();
        let view = self.docker.view();
        let kept = self.kept.get(&(config.mapping.target.host.clone(), config.network.clone())).cloned();
        // A mapping that must not go as aliases has a target all the same.
        let found = self.addresses(&Wanted::from(&config));
        let alias_refusal = self.alias_refusal(id, &found);
        let known = self.known.get(&id)?;
        let target = if alias_refusal.is_some() { &found } else { &known.addresses };
        let circle = match (&known.addresses, &known.status().reason) {
            (Addresses::Refused { reason }, _) if alias_refusal.is_none() => Some(reason.clone()),
            (_, Some(StateReason::SelfForwarding(way))) => Some(SafeText::new(way)),
            _ => None,
        };
        let mut engine = engine_view(known, descriptors);
        let mut open = self.registry.open_connections();
        open.sort_unstable_by_key(|record| record.id);
        let of_mapping = open.iter().filter(|record| record.mapping.id() == id);
        engine.conversations.extend(of_mapping.filter_map(|record| record.conversation()));
        Some(Subject {
            config,
            engine: Some(engine),
            target: whereabouts(target),
            circle,
            alias_refusal,
            docker: view.state,
            place: self.surroundings.place.clone(),
            containers: view.containers,
            kept,
            own: self.own.clone(),
        })
    }
}

fn engine_view(known: &Known, descriptors: (u64, u64)) -> EngineView {
    let status = known.status();
    let listener = |listener: &crate::forward::engine::ListenerStatus| ListenerView {
        family: listener.family,
        wanted: listener.wanted.clone(),
        bound: listener.bound,
        problem: listener.error.as_ref().map(|error| (problem(known, error), known.explained(error))),
    };
    EngineView {
        listeners: status.listeners.iter().map(listener).collect(),
        limit: match &status.reason {
            Some(StateReason::Limit(limit)) => Some(limit_view(*limit)),
            _ => None,
        },
        descriptors,
        connections: status.meter.open_connections(),
        last_result: status.meter.last_result(),
        conversations: status.meter.conversations(),
    }
}

fn problem(known: &Known, error: &ListenError) -> ListenProblem {
    match error {
        ListenError::InUse { address, protocol } => {
            ListenProblem::InUse { address: *address, holder: known.holder((*address, *protocol)) }
        }
        ListenError::Privileged(port) => ListenProblem::Privileged(*port),
        ListenError::NotLocal(_) | ListenError::NoInterface(_) => ListenProblem::NotLocal,
        ListenError::NoFamily(Family::V6) => ListenProblem::NoFamily,
        ListenError::NoSctp => ListenProblem::NoProtocol,
        ListenError::Descriptors(_) => ListenProblem::Descriptors,
        ListenError::NoFamily(Family::V4)
        | ListenError::NoneFree
        | ListenError::Broken(_)
        | ListenError::Other { .. } => ListenProblem::Other,
    }
}

fn limit_view(limit: Limit) -> LimitView {
    let text = SafeText::new(&limit.to_string());
    match limit {
        Limit::Connections(_) => LimitView::Connections(text),
        Limit::Descriptors(_) | Limit::OutOfDescriptors => LimitView::Descriptors(text),
        Limit::Aliases(_) => LimitView::Aliases(text),
        Limit::OutOfMemory => LimitView::Memory(text),
    }
}

fn whereabouts(addresses: &Addresses) -> Whereabouts {
    match addresses {
        Addresses::Known(known) => Whereabouts::Known(known.clone()),
        Addresses::Waiting { reason } | Addresses::Refused { reason } => Whereabouts::Nowhere(reason.clone()),
    }
}

/// Looks at mappings from outside, without an engine that runs them: what `portolan doctor` does. Each is connected
/// to once for each address of its target. `endpoint` is asked only when a target needs Docker, or might be a container's.
pub async fn examine(configs: Vec<MappingConfig>, endpoint: Result<Endpoint, EndpointError>) -> Vec<Report> {
    let own = spawn_blocking(OwnAddresses::read).await.ok().and_then(Result::ok).unwrap_or_default();
    let (view, dns) = tokio::join!(docker_view(endpoint), names(&configs));
    let (view, place, own) = spawn_blocking(move || {
        let place = place(&view, &own);
        (view, place, own)
    })
    .await
    .unwrap_or_default();
    let sight = Sight { docker: &view, place: &place, dns: &dns, own: &own };
    let mut reports = Vec::with_capacity(configs.len());
    // One after the other: what one tries must not be counted for another.
    for config in configs {
        reports.push(doctor::examine(from_outside(config, &sight)).await);
    }
    reports
}

/// Whether the engine's network is this host's, as far as one look tells. Blocks.
fn place(view: &DockerView, own: &OwnAddresses) -> EnginePlace {
    let machine = Machine::read();
    let by = |processes| engine_place(view, &Here { own, machine: &machine, processes: &processes });
    let first = by(HashMap::new());
    let ids = sought(view, own, &first);
    if ids.is_empty() { first } else { by(machine::networks_of(&ids)) }
}

fn from_outside(config: MappingConfig, sight: &Sight<'_>) -> Subject {
    let Resolved { addresses, container } = addresses_for(&Wanted::from(&config), sight, None);
    let ips: Vec<_> = sight.own.0.iter().map(|own| own.ip).collect();
    let circle = cycle::find_cycles(&[&config.mapping], &ips, |_| addresses.ips());
    Subject {
        engine: None,
        target: whereabouts(&addresses),
        alias_refusal: None,
        circle: circle.first().map(|circle| SafeText::new(&circle.to_string())),
        docker: sight.docker.state.clone(),
        place: sight.place.clone(),
        containers: Arc::clone(&sight.docker.containers),
        kept: container,
        own: sight.own.clone(),
        config,
    }
}

/// The first answer of Docker, or that there is none.
async fn docker_view(endpoint: Result<Endpoint, EndpointError>) -> DockerView {
    let cancel = tokio_util::sync::CancellationToken::new();
    let (mut view, watching) = docker::watch(endpoint, cancel.clone());
    let mut latest = view.clone();
    // Its networks may come a moment after its containers, and tell whose they are.
    let answered = view.wait_for(|view| match view.state {
        DockerState::Unknown => false,
        DockerState::Connected => !view.networks.is_empty(),
        DockerState::Unavailable { .. } => true,
    });
    tokio::select! {
        // Whatever there is by then has to do.
        _ = tokio::time::timeout(PATIENCE, answered) => {}
        () = watching => {}
    }
    let seen = latest.borrow_and_update().clone();
    cancel.cancel();
    match seen.state {
        DockerState::Unknown => {
            let reason = SafeText::new(&format!("no answer within {} s", PATIENCE.as_secs_f32()));
            DockerView { state: DockerState::Unavailable { reason }, ..seen }
        }
        _ => seen,
    }
}

/// What DNS says of the names among the targets.
async fn names(configs: &[MappingConfig]) -> DnsTable {
    let mut looking = tokio::task::JoinSet::new();
    let names = configs.iter().filter_map(|config| match &config.mapping.target.host {
        TargetHost::Dns(name) => Some(name.clone()),
        _ => None,
    });
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        looking.spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, dns::look_up_once(dns::system(), name.clone())).await;
            let late = || SafeText::new(&format!("no answer within {} s", PATIENCE.as_secs_f32()));
            (name, answer.unwrap_or_else(|_| dns::DnsAnswer { problem: Some(late()), ..Default::default() }))
        });
    }
    let mut table = DnsTable::default();
    while let Some(found) = looking.join_next().await {
        table.0.extend(found);
    }
    table
}
