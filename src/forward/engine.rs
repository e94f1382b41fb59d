//! Owns every mapping that runs, and reconciles what is wanted with what is there.
//!
//! Each mapping is a task of its own; the engine routes commands to them and notices when one panics.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::context::Addresses;
use super::descriptors::DescriptorBudget;
use super::handed::{Handed, HandedSocket};
use super::lanes::Lanes;
use super::own::OwnConnections;
use super::registry::{Record, Registry};
use super::relay::PipePool;
use super::running::{Command, MappingHandle, Running};
pub use super::status::{ListenError, ListenerStatus, MappingStatus, StateReason};
use crate::model::event::{CloseReason, MappingState};
use crate::model::id::{ConnectionId, MappingId};
use crate::model::mapping::Protocol;
use crate::model::profile::MappingConfig;

/// Notices that may wait. When it is full, further ones are dropped, so the owner looks at [`Engine::status`] from
/// time to time, too.
const NOTICES: usize = 1_024;
/// Commands that may wait for one mapping; who finds it full waits.
const COMMANDS: usize = 16;
/// Mappings that may wait to be started.
const STARTS: usize = 64;
/// How often connections are looked at that have become old enough for keepalive: after one to two of these.
const LASTING: Duration = Duration::from_secs(5);

/// What the engine may use.
#[derive(Debug)]
pub struct Options {
    /// Descriptors for listeners and connections: the process's limit less the reserve for everything else.
    pub descriptor_limit: u64,
    /// Sockets that somebody else has bound, for the mappings that listen there.
    pub sockets: Vec<HandedSocket>,
}

/// What the engine tells on its own. What [`Engine::apply`] changes is its answer, and no notice.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// A mapping's status is another one: [`Engine::status_of`] says which. A status that waited here could be an
    /// old one by the time it is read.
    Changed(MappingId),
    /// A real attempt to reach a target failed; told at most once a second for each mapping.
    TargetFailed(MappingId),
    /// A connection of the mapping has come back to it; it is `failed` until its target changes.
    SelfForwarding(MappingId),
}

/// Called when a connection or flow starts, in the task that serves it. For tests that make one panic.
#[doc(hidden)]
pub type TestHook = fn(&Record);

/// Owner of all listeners and connections.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    mappings: Mutex<Mappings>,
    starts: mpsc::Sender<Start>,
    /// Cancelled when this is dropped.
    stop: DropGuard,
    supervisor: JoinHandle<()>,
}

type Mappings = BTreeMap<MappingId, Entry>;

/// The engine's hold on a mapping: its task ends when `commands` is dropped.
#[derive(Clone, Debug)]
struct Entry {
    /// Boxed, since tokio takes room for 32 at once.
    commands: mpsc::Sender<Box<Command>>,
    handle: Arc<MappingHandle>,
}

/// What all mappings share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) registry: Arc<Registry>,
    pub(super) descriptors: Arc<DescriptorBudget>,
    pub(super) pipes: Arc<PipePool>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) own: Arc<OwnConnections>,
    pub(super) handed: Handed,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) hook: Option<TestHook>,
}

struct Start {
    running: Running,
    commands: mpsc::Receiver<Box<Command>>,
    handle: Arc<MappingHandle>,
}

impl Engine {
    /// Starts with no mapping. Call within a tokio runtime.
    pub fn start(options: Options, registry: Arc<Registry>) -> (Self, mpsc::Receiver<Notice>) {
        Self::start_with_hook(options, registry, None)
    }

    /// As [`Engine::start`], with a hook for tests.
    #[doc(hidden)]
    pub fn start_with_hook(
        options: Options,
        registry: Arc<Registry>,
        hook: Option<TestHook>,
    ) -> (Self, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        let descriptors = DescriptorBudget::new(options.descriptor_limit);
        let shared = Arc::new(Shared {
            registry,
            pipes: PipePool::new(&descriptors),
            lanes: Arc::default(),
            descriptors,
            own: Arc::default(),
            handed: Handed::new(options.sockets),
            notices,
            hook,
        });
        let stop = CancellationToken::new();
        let (starts, started) = mpsc::channel(STARTS);
        let supervisor = tokio::spawn(supervise(started, stop.clone(), Arc::clone(&shared)));
        (Self { shared, mappings: Mutex::default(), starts, stop: stop.drop_guard(), supervisor }, receiver)
    }

    /// Adds a mapping or changes it to this. Returns when it has bound or failed, or, stopped, has closed.
    ///
    /// Listeners that stay as they are (address, port, protocol) stay open with their connections, and new
    /// connections take the new route. Listeners that go are closed and their connections reset.
    pub async fn apply(&self, id: MappingId, config: Arc<MappingConfig>, addresses: Addresses) -> MappingStatus {
        let (entry, start) = self.entry_or_new(id, &config, &addresses);
        if let Some(start) = start {
            // Fails only after `shutdown`, which takes the engine away.
            let _ = self.starts.send(start).await;
        }
        let (reply, answer) = oneshot::channel();
        let command = Box::new(Command::Apply(config, addresses, reply));
        let sent = entry.commands.send(command).await.is_ok();
        match answer.await {
            Ok(status) if sent => status,
            // Its task has panicked; the supervisor says so in the status.
            _ => faulty(&entry.handle),
        }
    }

    /// Closes a mapping. Returns when its addresses are free and its connections reset.
    pub async fn remove(&self, id: MappingId) {
        let entry = lock(&self.mappings).remove(&id);
        if let Some(Entry { commands, .. }) = entry {
            let (reply, done) = oneshot::channel();
            if commands.send(Box::new(Command::Remove(reply))).await.is_ok() {
                // An error means that its task has ended otherwise, and with it its sockets.
                let _ = done.await;
            }
        }
    }

    /// The target of a mapping is elsewhere now. New connections go there; those that stand go on.
    pub fn set_addresses(&self, id: MappingId, addresses: Addresses) {
        if let Some(entry) = lock(&self.mappings).get(&id) {
            entry.handle.addresses.send_replace(Some(addresses));
        }
    }

    /// Every mapping, by id.
    pub fn status(&self) -> Vec<MappingStatus> {
        lock(&self.mappings).values().map(|entry| lock(&entry.handle.status).clone()).collect()
    }

    /// One mapping, as it is now; `None` when there is no such mapping.
    pub fn status_of(&self, id: MappingId) -> Option<MappingStatus> {
        lock(&self.mappings).get(&id).map(|entry| lock(&entry.handle.status).clone())
    }

    /// Resets a connection; false when there is none of that id.
    pub fn kill(&self, id: ConnectionId) -> bool {
        self.shared.registry.kill(id, CloseReason::Killed)
    }

    /// Descriptors that listeners and connections use, and the most they may.
    pub fn descriptors(&self) -> (u64, u64) {
        self.shared.descriptors.usage()
    }

    /// How often a direction of a connection has gone over to splicing, and back to copying, since the start.
    pub fn path_switches(&self) -> (u64, u64) {
        self.shared.pipes.switches()
    }

    /// Where a socket was handed in that no mapping has: there a new one could listen.
    pub fn free_handed_in(&self, protocol: Protocol) -> Vec<SocketAddr> {
        self.shared.handed.free(protocol)
    }

    /// What was handed in and no mapping has asked for, in words, each told once. Until then, who comes there waits for
    /// a mapping; from then on, he is turned away.
    pub fn unasked_handed_in(&self) -> Vec<String> {
        self.shared.handed.unasked()
    }

    /// Closes listeners at once, lets connections finish for `drain`, resets what is left, joins every task.
    pub async fn shutdown(self, drain: Duration) {
        let deadline = Instant::now() + drain;
        self.shared.handed.leave();
        let entries = std::mem::take(&mut *lock(&self.mappings));
        for entry in entries.into_values() {
            // A mapping that takes no command has ended already.
            let _ = entry.commands.send(Box::new(Command::Shutdown(deadline))).await;
        }
        drop(self.stop);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the engine's supervisor has panicked");
        }
    }

    fn entry_or_new(
        &self,
        id: MappingId,
        config: &Arc<MappingConfig>,
        addresses: &Addresses,
    ) -> (Entry, Option<Start>) {
        let mut mappings = lock(&self.mappings);
        // The task of one that has panicked takes no commands; a new one takes its place.
        if let Some(entry) = mappings.get(&id).filter(|entry| !entry.commands.is_closed()) {
            return (entry.clone(), None);
        }
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (running, handle) = Running::new(id, Arc::clone(config), addresses.clone(), Arc::clone(&self.shared));
        let entry = Entry { commands: sender, handle: Arc::clone(&handle) };
        mappings.insert(id, entry.clone());
        (entry, Some(Start { running, commands, handle }))
    }
}

/// Owns the tasks of the mappings. One that panics takes its listeners and connections along, and its
/// status says so until it is applied again.
async fn supervise(mut starts: mpsc::Receiver<Start>, stop: CancellationToken, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut handles = HashMap::new();
    let mut look = interval(LASTING);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turning_away = std::pin::pin!(shared.handed.turn_away());
    loop {
        tokio::select! {
            biased;
            Some(Start { running, commands, handle }) = starts.recv() => {
                let task = tasks.spawn(running.run(commands));
                handles.insert(task.id(), handle);
            }
            Some(ended) = tasks.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                let handle = handles.remove(&id);
                if let (Err(error), Some(handle)) = (ended, handle) && error.is_panic() {
                    tracing::error!(%error, "the task of a mapping has panicked");
                    let _ = shared.notices.try_send(Notice::Changed(faulty(&handle).id));
                }
            }
            _ = look.tick() => shared.registry.note_lasting(),
            () = &mut turning_away => {}
            () = stop.cancelled(), if tasks.is_empty() => return,
        }
    }
}

/// Marks a mapping's status as that of a panicked task.
fn faulty(handle: &MappingHandle) -> MappingStatus {
    let mut status = lock(&handle.status);
    status.state = MappingState::Failed;
    status.reason = Some(StateReason::Fault);
    for listener in &mut status.listeners {
        listener.bound = None;
    }
    status.clone()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mapping_whose_task_panics_says_so_and_listens_again_when_it_is_applied_again() {
        let (engine, mut notices) =
            Engine::start(Options { descriptor_limit: 100, sockets: Vec::new() }, Registry::new());
        let config = Arc::new(MappingConfig::new("a", "127.0.0.1:auto:127.0.0.1:9".parse().expect("a mapping")));
        let addresses = Addresses::Known(vec!["127.0.0.1:9".parse().expect("an address")]);
        let id = MappingId(1);
        let apply = || engine.apply(id, Arc::clone(&config), addresses.clone());
        assert_eq!(apply().await.state, MappingState::Up);
        let commands = lock(&engine.mappings)[&id].commands.clone();
        commands.send(Box::new(Command::Panic)).await.expect("it runs");
        assert!(matches!(notices.recv().await, Some(Notice::Changed(MappingId(1)))));
        let status = engine.status_of(id).expect("it is known");
        assert_eq!((status.state, status.reason), (MappingState::Failed, Some(StateReason::Fault)));
        assert_eq!(apply().await.state, MappingState::Up);
        engine.shutdown(Duration::ZERO).await;
    }

    /// Which timer the kernel runs for the sockets between these ports, in either direction (`proc_pid_net(5)`).
    fn timers(one: u16, other: u16) -> Vec<String> {
        let ends = [format!(":{one:04X}"), format!(":{other:04X}")];
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("it can be read");
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = fields.filter(|fields| fields[1].ends_with(&ends[0]) && fields[2].ends_with(&ends[1]));
        ours.map(|fields| fields[5][..2].to_owned()).collect()
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..500 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} has not come");
    }

    #[tokio::test]
    async fn a_connection_is_probed_once_it_lasts_and_a_peer_that_has_ended_is_not() {
        const NONE: &str = "00";
        const KEEPALIVE: &str = "02";
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let target = server.local_addr().expect("it has one");
        let registry = Registry::new();
        let (engine, _notices) =
            Engine::start(Options { descriptor_limit: 100, sockets: Vec::new() }, Arc::clone(&registry));
        let mapping = format!("127.0.0.1:auto:{target}").parse().expect("a mapping");
        let config = Arc::new(MappingConfig::new("a", mapping));
        let status = engine.apply(MappingId(1), config, Addresses::Known(vec![target])).await;
        let listener = status.listeners[0].bound.expect("it is bound");

        let client = std::net::TcpStream::connect(listener).expect("it listens");
        let from = client.local_addr().expect("it has one").port();
        until("the connection", || registry.open_connections().iter().any(|record| record.source().is_some())).await;
        let source = registry.open_connections()[0].source().expect("it stands").port();
        let legs = || [timers(listener.port(), from), timers(source, target.port())];
        until("rest", || legs() == [[NONE], [NONE]]).await;

        // Young at the first look, old enough at the second; the engine's own may have been one of them.
        registry.note_lasting();
        registry.note_lasting();
        until("keepalive", || legs() == [[KEEPALIVE], [KEEPALIVE]]).await;
        client.shutdown(std::net::Shutdown::Write).expect("it stands");
        until("the end of it", || legs() == [[NONE], [KEEPALIVE]]).await;
        engine.shutdown(Duration::ZERO).await;
    }
}
