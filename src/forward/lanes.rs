//! Threads of their own for connections that are more than bytes passing by (HTTP): each of them has a runtime, and a
//! connection stays in its lane until it ends.
//!
//! A shared runtime moves tasks to whichever of its threads is free. That is right for bulk, of which one connection may
//! fill a thread; a request that goes back and forth loses by it: its memory moves with it, and a thread that has just
//! gone to sleep has to be woken for it. In lanes, two connections never wait for each other's locks, as in a program of
//! several processes, and the same machine passed on 4 to 13 % more requests. Relayed connections would gain less and lose
//! that one of them can be moved away from another's bulk, so they stay where they were accepted.
//!
//! An engine in a runtime of a single thread has none: whoever starts it so wants everything there.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The lanes of one engine; they start when the first connection wants one.
#[derive(Debug, Default)]
pub(crate) struct Lanes(OnceLock<Vec<Arc<Lane>>>);

/// One thread and its runtime, which end when this is dropped.
#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// A connection's place in its lane, to be held until the connection has ended.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Lane>);

impl Lanes {
    /// A place in the lane that has the fewest connections, if there are lanes. Call within the engine's runtime.
    pub(crate) fn seat(&self) -> Option<Seat> {
        let lanes = self.0.get_or_init(|| start(Handle::current().metrics().num_workers()));
        lanes.iter().min_by_key(|lane| Arc::strong_count(lane)).map(|lane| Seat(Arc::clone(lane)))
    }
}

impl Seat {
    /// The lane's runtime.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.handle
    }
}

/// As many lanes as the engine's own runtime has threads; none where that is one, or where threads cannot be had.
fn start(count: usize) -> Vec<Arc<Lane>> {
    if count < 2 {
        return Vec::new();
    }
    match (0..count).map(|_| lane()).collect() {
        Ok(lanes) => lanes,
        Err(error) => {
            tracing::warn!(%error, "no threads for HTTP connections: they share those of all");
            Vec::new()
        }
    }
}

fn lane() -> io::Result<Arc<Lane>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let handle = runtime.handle().clone();
    thread::Builder::new().name("portolan-lane".to_owned()).spawn(move || runtime.block_on(stopped))?;
    Ok(Arc::new(Lane { handle, _stop: stop }))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_spread_over_the_lanes_and_the_threads_end_with_the_last_of_them() {
        let lanes = Lanes::default();
        let mut seats: Vec<_> = (0..4).map(|_| lanes.seat().expect("there are lanes")).collect();
        let ids: Vec<_> = seats.iter().map(|seat| seat.runtime().id()).collect();
        assert_eq!((ids[0] == ids[2], ids[1] == ids[3], ids[0] == ids[1]), (true, true, false));
        assert!(!ids.contains(&Handle::current().id()));
        // A lane goes on as long as one of its connections does.
        seats.truncate(1);
        drop(lanes);
        let handle = seats[0].runtime().clone();
        assert_eq!(handle.spawn(async { 7 }).await.unwrap(), 7);
        let waiting = handle.spawn(pending::<()>());
        seats.clear();
        let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("the thread ends");
        assert!(ended.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn in_a_runtime_of_one_thread_everything_stays_there() {
        assert!(Lanes::default().seat().is_none());
    }
}
