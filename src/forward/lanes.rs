//! Threads of their own for connections that are more than bytes passing by (HTTP): each of them has a runtime, and a
//! connection stays in its lane until it ends.
//!
//! A shared runtime moves tasks to whichever of its threads is free. That is right for bulk, of which one connection may
//! fill a thread; a request that goes back and forth loses by it: its memory moves with it, and a thread that has just gone
//! to sleep has to be woken for it. In lanes the same machine passed on a twentieth to an eighth more requests over 64
//! connections. It costs a wake-up for each new connection, and a connection that fills its lane with a long body slows
//! those beside it there; so relayed connections stay where they were accepted, where they can be moved.
//!
//! An engine in a runtime of a single thread has none: whoever starts it so wants everything there. A lane's thread ends by
//! itself, soon after the engine and the last of its connections.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Most lanes of an engine: each holds three descriptors, which nobody counts.
const MOST: usize = 4;

/// The lanes of one engine; they start when the first connection wants one.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<Vec<Arc<Lane>>>);

/// One thread and its runtime, which end when this is dropped.
#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Dropped, it ends the thread; closed where the thread has ended otherwise.
    stop: oneshot::Sender<()>,
}

/// A connection's place in its lane, to be held until the connection has ended.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Lane>);

impl Lanes {
    /// A place in the lane that has the fewest connections, if there are lanes. Call within the engine's runtime.
    pub(crate) fn seat(&self) -> Option<Seat> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| !lane.stop.is_closed());
        if lanes.is_empty() {
            *lanes = start(Handle::current().metrics().num_workers().min(MOST));
        }
        lanes.iter().min_by_key(|lane| Arc::strong_count(lane)).map(|lane| Seat(Arc::clone(lane)))
    }
}

impl Seat {
    /// The lane's runtime.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.handle
    }
}

/// None for a runtime of one thread, or where threads and descriptors cannot be had just now.
fn start(count: usize) -> Vec<Arc<Lane>> {
    if count < 2 {
        return Vec::new();
    }
    match (0..count).map(|_| lane()).collect() {
        Ok(lanes) => lanes,
        Err(error) => {
            tracing::warn!(%error, "no threads for HTTP connections just now: this one shares those of all");
            Vec::new()
        }
    }
}

fn lane() -> io::Result<Arc<Lane>> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let handle = runtime.handle().clone();
    thread::Builder::new().name("portolan-lane".to_owned()).spawn(move || runtime.block_on(stopped))?;
    Ok(Arc::new(Lane { handle, stop }))
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
