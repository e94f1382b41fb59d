//! The owner itself: one task that holds engine, desired state, Docker's view and the subscribers.
//!
//! It waits for nothing but the engine. What reads files, this machine's tables or the network runs beside it in
//! `jobs`, and comes back as a [`Job`].

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::aliases::{AliasJob, AliasPools, LOOK_AT_ALIASES};
use super::changes::{Changes, Prepared};
use super::desired::{Desired, Entry};
use super::dns::{self, DnsTable, Resolver};
use super::docker_watch::DockerWatch;
use super::handle::{Handle, Incoming, ServiceCall};
use super::known::{Holders, Known};
use super::lookups::Lookups;
use super::profile::OpenedProfile;
use super::published::{Looked, Published};
use super::resolve::{Sight, Wanted, addresses_for};
use super::subscribers::{Processes, Snapshot, Subscriber};
use super::surroundings::{InSight, Surroundings};
use crate::docker::{DockerView, Endpoint, EndpointError};
use crate::forward::context::Addresses;
use crate::forward::engine::{self, Engine};
use crate::forward::handed::HandedSocket;
use crate::forward::registry::Registry;
use crate::host::addresses::OwnAddresses;
use crate::model::engine::EngineName;
use crate::model::event::{CloseReason, EventKind};
use crate::model::id::MappingId;
use crate::model::mapping::TargetHost;
use crate::model::profile::MappingConfig;
use crate::model::untrusted::SafeText;
use crate::model::update::Overview;

/// How often the holder of a port that was in use is looked at again: it may have changed hands.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// Events that come within so much of the last ones are handed on together: at thousands of connections a second, waking
/// everybody for each would cost as much as the connection.
const GATHER: Duration = Duration::from_millis(5);
/// Jobs under way at once, such as look-ups that clients asked for; each may hold a thread for some seconds.
const JOBS: usize = 128;
/// Of these, questions that are looked into; the rest is for the service's own.
pub(super) const QUESTIONS: usize = 32;
/// How often what is open is reset when an end is wanted sooner.
const RESET_AGAIN: Duration = Duration::from_millis(20);
/// How long a change under way, and then the last events to a client that reads slowly, may hold up the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the service starts with.
#[derive(Debug)]
pub struct Options {
    /// The profile; none with `-p` alone.
    pub profile: Option<OpenedProfile>,
    /// Mappings of the command line, for this session.
    pub session: Vec<MappingConfig>,
    /// The Docker engine, or why the environment names none that can be used.
    pub docker: Result<Endpoint, EndpointError>,
    /// Look for Docker even while no mapping names a container.
    pub always_docker: bool,
    /// Descriptors that listeners and connections may take.
    pub descriptor_limit: u64,
    /// Sockets that somebody else has bound, for the mappings that listen there.
    pub sockets: Vec<HandedSocket>,
    /// Log records that the user should see as events.
    pub warnings: mpsc::Receiver<SafeText>,
    /// What the engine is called while it runs no profile.
    pub session_name: EngineName,
}

/// The running service: the one who started it ends it.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    drain: watch::Sender<Option<Duration>>,
    asked: watch::Receiver<Option<Duration>>,
    name: watch::Receiver<EngineName>,
    task: JoinSet<()>,
}

pub(super) struct Service {
    pub(super) engine: Option<Engine>,
    pub(super) registry: Arc<Registry>,
    pub(super) desired: Desired,
    pub(super) profile: Option<OpenedProfile>,
    /// Boxed, since a table keeps room for more than it has.
    pub(super) known: HashMap<MappingId, Box<Known>>,
    pub(super) docker: DockerWatch,
    pub(super) resolver: Resolver,
    dns: watch::Receiver<Arc<DnsTable>>,
    /// The container that a target by name was last found to mean, by the network that was asked for; a Compose
    /// service keeps its replica.
    pub(super) kept: HashMap<(TargetHost, Option<String>), String>,
    /// Addresses of this machine, read again with each change of the desired state and of Docker.
    pub(super) own: OwnAddresses,
    pub(super) surroundings: Surroundings,
    pub(super) jobs: JoinSet<Job>,
    /// Bytes of each mapping that metrics have told last.
    pub(super) told_bytes: HashMap<MappingId, (u64, u64)>,
    /// Places for questions that are looked into.
    pub(super) questions: Arc<Semaphore>,
    subscribers: Vec<Subscriber>,
    has_begun: bool,
    /// Connections finish, and nothing is changed any more.
    pub(super) is_ending: bool,
    pub(super) is_ready: bool,
    pub(super) changes: Changes,
    pub(super) lookups: Lookups,
    pub(super) published: Published,
    pub(super) aliases: AliasPools,
    /// What it is called now.
    pub(super) name: watch::Sender<EngineName>,
    /// The end that a client asked for.
    pub(super) asked: watch::Sender<Option<Duration>>,
}

/// What a job brings back.
pub(super) enum Job {
    /// It answered its client itself.
    Done,
    /// A change has done its slow part.
    Prepared(Box<Prepared>),
    /// Who holds the ports that mappings miss.
    Holders(Holders),
    /// Processes of local clients.
    Processes(Processes),
    /// Processes of containers.
    Sought(InSight),
    /// What was seen of the ports that Docker publishes.
    Published(Looked),
    /// What was seen of the pools of aliases, or came of saving a table.
    Aliases(AliasJob),
}

impl Running {
    /// Starts the service on the current runtime. Nothing is bound before the first client subscribes or asks,
    /// so that it misses no event.
    pub fn start(options: Options) -> Self {
        let (handle, incoming) = Handle::channel();
        let (drain, drain_asked) = watch::channel(None);
        let (ask, asked) = watch::channel(None);
        let of_profile = options.profile.as_ref().map(OpenedProfile::engine_name);
        let (call_it, name) = watch::channel(of_profile.unwrap_or_else(|| options.session_name.clone()));
        let mut task = JoinSet::new();
        task.spawn(run(options, incoming, drain_asked, call_it, ask));
        Self { handle, drain, asked, name, task }
    }

    /// One whose task is another, for tests of what happens when it ends.
    #[cfg(test)]
    pub(crate) fn of(task: impl Future<Output = ()> + Send + 'static) -> Self {
        let name = watch::channel(EngineName::Session { pid: 0 }).1;
        let (drain, asked) = watch::channel(None);
        Self { handle: Handle::channel().0, drain, asked, name, task: [task].into_iter().collect() }
    }

    /// For clients.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What the engine is called, as that changes with the profile that it runs.
    pub fn name(&self) -> watch::Receiver<EngineName> {
        self.name.clone()
    }

    /// Returns when a client has asked for the end ([`crate::model::request::Request::Shutdown`]), with the time that connections have to
    /// finish. It is for the owner to end the service.
    pub fn asked_to_end(&self) -> impl Future<Output = Duration> + Send + use<> {
        let mut asked = self.asked.clone();
        async move {
            let drain = asked.wait_for(Option::is_some).await.map(|drain| drain.unwrap_or_default());
            match drain {
                Ok(drain) => drain,
                // The service is gone, which is said elsewhere.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Closes the listeners, lets connections finish for `drain`, resets what is left, sends the last events. Until
    /// then clients are answered, though nothing can be changed; one that asks for the end once more can have it sooner.
    pub async fn shutdown(mut self, drain: Duration) {
        let mut asked = self.asked.clone();
        // Somebody may have asked again since.
        let drain = asked.borrow_and_update().map_or(drain, |asked| asked.min(drain));
        self.drain.send_replace(Some(drain));
        let drains = self.drain.clone();
        let again = async {
            while asked.changed().await.is_ok() {
                drains.send_replace(*asked.borrow_and_update());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.ended() => {}
            () = again => {}
        }
    }

    /// Returns when the service has ended by itself, which it never should.
    pub async fn ended(&mut self) {
        while let Some(ended) = self.task.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the service has ended");
            }
        }
    }
}

async fn run(
    options: Options,
    mut incoming: Incoming,
    mut drain_asked: watch::Receiver<Option<Duration>>,
    name: watch::Sender<EngineName>,
    asked: watch::Sender<Option<Duration>>,
) {
    let registry = Registry::new();
    let of_engine = engine::Options { descriptor_limit: options.descriptor_limit, sockets: options.sockets };
    let (engine, mut notices) = Engine::start(of_engine, Arc::clone(&registry));
    let no_names = CancellationToken::new();
    let (resolver, resolving) = Resolver::new(dns::system(), no_names.clone());
    let mut names = JoinSet::new();
    names.spawn(resolving);
    let mut warnings = options.warnings;
    let mut service = Service {
        engine: Some(engine),
        registry,
        desired: Desired::default(),
        profile: options.profile,
        known: HashMap::new(),
        docker: DockerWatch::new(options.docker),
        dns: resolver.changes(),
        resolver,
        kept: HashMap::new(),
        own: OwnAddresses::default(),
        surroundings: Surroundings::default(),
        jobs: JoinSet::new(),
        told_bytes: HashMap::new(),
        questions: Arc::new(Semaphore::new(QUESTIONS)),
        subscribers: Vec::new(),
        has_begun: false,
        is_ending: false,
        is_ready: false,
        changes: Changes::default(),
        lookups: Lookups::default(),
        published: Published::default(),
        aliases: AliasPools::default(),
        name,
        asked,
    };
    service.first_state(options.session, options.always_docker);
    let mut stopping: JoinSet<()> = JoinSet::new();
    let mut reset_at: Option<Instant> = None;
    let [mut look_again, mut look_at_aliases] = [LOOK_AGAIN, LOOK_AT_ALIASES].map(steadily);
    let registry = Arc::clone(&service.registry);
    let mut next_flush = Instant::now();
    loop {
        let is_gathering = Instant::now() < next_flush;
        let next_sample = service.subscribers.iter().map(Subscriber::next_sample).min();
        tokio::select! {
            Some(call) = incoming.recv(), if service.has_room() => match call {
                ServiceCall::Subscribe { interest, updates, begun } => {
                    service.subscribers.push(Subscriber::new(interest, updates, &service.registry));
                    // A client that has gone meanwhile is found to be.
                    let _ = begun.send(Ok(()));
                    service.begin().await;
                }
                ServiceCall::Request { call, reply } => {
                    service.begin().await;
                    service.serve(*call, reply);
                }
            },
            Some(notice) = notices.recv() => service.noticed(notice),
            () = next_change(&mut service.docker.view) => service.docker_changed(),
            () = next_change(&mut service.dns) => service.addresses_changed(),
            // What is told before anybody listens is lost.
            Some(()) = OpenedProfile::changed(service.profile.as_mut()), if service.has_begun => service.file_changed(),
            Some(message) = warnings.recv(), if service.has_begun => service.registry.tell(|| EventKind::Warning { message }),
            () = registry.event_told(), if !is_gathering => {
                service.flush();
                next_flush = Instant::now() + GATHER;
            }
            () = sleep_until(next_flush), if is_gathering => {}
            () = async { sleep_until(next_sample.unwrap_or_else(Instant::now)).await }, if next_sample.is_some() => {
                service.sample();
            }
            _ = look_again.tick(), if service.has_begun => {
                service.look_around();
                service.look_again().await;
            }
            _ = look_at_aliases.tick(), if service.aliases.has_any() => service.look_at_aliases(),
            Some(job) = service.jobs.join_next() => service.job_done(job).await,
            Ok(()) = drain_asked.changed() => {
                let drain = drain_asked.borrow_and_update().unwrap_or_default();
                match service.engine.take() {
                    Some(engine) => {
                        service.is_ending = true;
                        service.hurry();
                        stopping.spawn(engine.shutdown(drain));
                    }
                    // Somebody has asked for the end once more.
                    None => reset_at = Instant::now().checked_add(drain),
                }
            }
            () = async { sleep_until(reset_at.unwrap_or_else(Instant::now)).await }, if reset_at.is_some() => {
                // Again, until all has ended: a mapping that was busy may not have stopped listening yet.
                reset_at = Some(Instant::now() + RESET_AGAIN);
                service.registry.kill_where(CloseReason::Shutdown, |_| true);
            }
            Some(_) = stopping.join_next() => break,
        }
    }
    service.end().await;
    no_names.cancel();
    while names.join_next().await.is_some() {}
}

/// Ticks of which none comes early because another was late.
fn steadily(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next change; for ever when there will be none.
async fn next_change<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Service {
    fn first_state(&mut self, session: Vec<MappingConfig>, always_docker: bool) {
        if always_docker {
            self.docker.need();
        }
        let mappings = self.profile.as_ref().map(|profile| profile.mappings().to_vec()).unwrap_or_default();
        let mut entries = self.desired.matched(mappings);
        for config in session {
            entries.push(Entry { id: self.desired.fresh_id(), config: Arc::new(config), is_session: true });
        }
        self.desired.reset(entries);
    }

    /// Whether another call may be taken in; else it waits in the channel.
    fn has_room(&self) -> bool {
        self.changes.has_room() && self.jobs.len() < JOBS
    }

    /// Binds what is desired, once somebody watches.
    async fn begin(&mut self) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.reconcile().await;
        }
    }

    /// Addresses of a target as they are known now.
    pub(super) fn addresses(&mut self, wanted: &Wanted) -> Addresses {
        let host = &wanted.target.host;
        if matches!(host, TargetHost::Container { .. } | TargetHost::Compose { .. }) {
            self.docker.need();
        }
        // Until the first look at this machine is done, nobody is led to what may be somebody else's.
        let docker = if self.surroundings.is_open() { DockerView::default() } else { self.docker.view() };
        let dns = Arc::clone(&self.dns.borrow());
        let sight = Sight { docker: &docker, place: &self.surroundings.place, dns: &dns, own: &self.own };
        let key = (host.clone(), wanted.network.clone());
        let resolved = addresses_for(wanted, &sight, self.kept.get(&key).map(String::as_str));
        if let Some(id) = resolved.container {
            self.kept.insert(key, id);
        }
        resolved.addresses
    }

    /// Whether the resolver has looked a name up.
    pub(super) fn knows_name(&self, name: &str) -> bool {
        self.dns.borrow().0.contains_key(name)
    }

    fn docker_changed(&mut self) {
        if let Some(state) = self.docker.new_state() {
            self.tell(EventKind::Docker { docker: state });
        }
        self.look_at_this_machine();
        self.addresses_changed();
    }

    async fn job_done(&mut self, job: Result<Job, JoinError>) {
        match job {
            Ok(Job::Done) => {}
            Ok(Job::Prepared(prepared)) => self.prepared(*prepared).await,
            Ok(Job::Holders(found)) => self.holders_found(&found),
            Ok(Job::Processes(found)) => self.processes_found(found),
            Ok(Job::Sought(found)) => self.processes_sought(found),
            Ok(Job::Aliases(job)) => self.aliases_seen(job),
            Ok(Job::Published(looked)) => self.published_seen(looked),
            Err(error) => {
                tracing::error!(%error, "a job of the service has failed");
                self.job_failed(error.id());
            }
        }
    }

    /// Sends events that wait, at once.
    fn flush(&mut self) {
        let at_ms = self.registry.now_ms();
        for subscriber in &mut self.subscribers {
            while subscriber.flush_events(at_ms) {}
            if let Some(room) = subscriber.wait_for_room() {
                let registry = Arc::clone(&self.registry);
                self.jobs.spawn(async move {
                    room.await;
                    registry.wake();
                    Job::Done
                });
            }
        }
    }

    /// Shows every client at once what has changed.
    pub(super) fn hurry(&mut self) {
        self.subscribers.iter_mut().for_each(Subscriber::hurry);
    }

    /// Sends rows to those who are due.
    fn sample(&mut self) {
        self.subscribers.retain(|subscriber| !subscriber.is_gone());
        let now = Instant::now();
        if !self.subscribers.iter().any(|subscriber| subscriber.next_sample() <= now) {
            return;
        }
        if self.subscribers.iter().any(Subscriber::wants_published) {
            self.look_at_published();
        } else {
            self.forget_published();
        }
        let is_due = |subscriber: &Subscriber| subscriber.next_sample() <= now;
        // Collected for those alone who are sent it now.
        let wants_open = self.subscribers.iter().any(|subscriber| is_due(subscriber) && subscriber.wants_connections());
        let snapshot = self.snapshot(wants_open);
        if self.subscribers.iter().any(Subscriber::wants_processes) {
            if wants_open {
                self.ask_processes(&snapshot);
            }
        } else {
            self.forget_processes();
        }
        for subscriber in self.subscribers.iter_mut().filter(|subscriber| is_due(subscriber)) {
            subscriber.sample(now, &snapshot, &self.registry, &self.lookups.processes);
        }
        // The first sample lets events go that were told before it, and takes along as many as go at once.
        self.flush();
    }

    fn snapshot(&self, with_open: bool) -> Snapshot {
        Snapshot {
            at_ms: self.registry.now_ms(),
            overview: Overview {
                revision: self.desired.revision(),
                profile: self.profile.as_ref().map(OpenedProfile::status),
                order: self.desired.entries().iter().map(|entry| entry.id).collect(),
                docker: self.docker.state(),
                engine_place: self.surroundings.place.clone(),
                undo: self.desired.undo_label().cloned(),
                descriptors: self.engine.as_ref().map(Engine::descriptors),
                is_ready: self.is_ready,
                is_ending: self.is_ending,
            },
            mappings: self.mapping_rows(),
            open: if with_open { self.registry.open_connections() } else { Vec::new() },
            containers: self.docker.view().containers,
            published: self.published.view(),
        }
    }

    /// The engine has ended: tell the last events and leave.
    async fn end(mut self) {
        // Who asked for a change before the end gets it.
        let changes = async {
            while !self.changes.is_idle()
                && let Some(job) = self.jobs.join_next().await
            {
                self.job_done(job).await;
            }
        };
        // Out of patience, what is half saved is saved whole or not at all.
        let _ = tokio::time::timeout(LAST_WORDS, changes).await;
        self.save_aliases().await;
        let deadline = Instant::now() + LAST_WORDS;
        let snapshot = self.snapshot(true);
        let (registry, processes) = (&self.registry, &self.lookups.processes);
        let last = std::mem::take(&mut self.subscribers).into_iter().map(async |mut subscriber| {
            while subscriber.has_events() && !subscriber.is_gone() {
                if !subscriber.flush_events(snapshot.at_ms)
                    && tokio::time::timeout_at(deadline, subscriber.room()).await.is_err()
                {
                    break;
                }
            }
            // The totals as they stand at the end, which come last.
            if tokio::time::timeout_at(deadline, subscriber.room()).await.is_ok() {
                subscriber.sample(Instant::now(), &snapshot, registry, processes);
            }
        });
        // Side by side: one that is stopped takes nobody else's time.
        futures_util::future::join_all(last).await;
        self.docker.stop().await;
        self.jobs.shutdown().await;
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("desired", &self.desired).finish_non_exhaustive()
    }
}
