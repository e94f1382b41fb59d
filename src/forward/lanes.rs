//! Threads of their own for connections that are more than bytes passing by (HTTP): each of them has a runtime, and a
//! connection stays in its lane until it ends.
//!
//! A shared runtime moves tasks to whichever of its threads is free. That is right for bulk, of which one connection may
//! fill a thread; a request that goes back and forth loses by it: its memory moves with it, and a thread that has just gone
//! to sleep has to be woken for it. In lanes the same machine passed on a twentieth to an eighth more requests over 64
//! connections. It costs a wake-up for each new connection, and a connection that fills its lane with a long body slows
//! those beside it there; so relayed connections stay where they were accepted, where they can be moved.
//!
//! What a connection has to send is [put off](defer) in a lane until those that are ready now have had their turns: whoever
//! it goes to would wake up for each piece, run for a moment and sleep again, and often on this very processor, in the midst
//! of the next request. Sent one right behind the other, they find their receivers awake; on two busy processors with 64
//! connections a tenth more requests were passed on for it.
//!
//! An engine in a runtime of a single thread has none: whoever starts it so wants everything there. A lane's thread ends by
//! itself, soon after the engine and the last of its connections.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Most lanes of an engine: each holds three descriptors, of those that are kept for everything else.
const MOST: usize = 4;

/// So much is put off at most before it is done.
const DEFERRED: usize = 64;

thread_local! {
    /// What the thread of a lane has put off; no other thread does.
    static LATER: RefCell<Option<Later>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Later {
    list: Vec<Weak<dyn Deferred>>,
    /// Wakes the task that does it. As tasks have their turns in the order in which they were woken, those that are ready
    /// go first, and however busy the lane is, no others.
    sweeper: Option<Waker>,
}

/// What can be put off. It is not done where it is gone by then.
pub(crate) trait Deferred: Send + Sync {
    /// Does what was put off.
    fn catch_up(&self);
}

/// Whether this thread is one of a lane, where work can be [put off](defer).
pub(crate) fn can_defer() -> bool {
    LATER.with_borrow(Option::is_some)
}

/// Has `work` caught up with after those that are ready now. In no other thread than that of a lane.
pub(crate) fn defer(work: Weak<dyn Deferred>) {
    let is_much = LATER.with_borrow_mut(|later| {
        let Later { list, sweeper } = later.as_mut().expect("it was asked before");
        if list.is_empty()
            && let Some(sweeper) = sweeper
        {
            sweeper.wake_by_ref();
        }
        list.push(work);
        list.len() >= DEFERRED
    });
    if is_much {
        catch_up();
    }
}

fn catch_up() {
    let take = |later: &mut Option<Later>| later.as_mut().map(|later| std::mem::take(&mut later.list));
    let Some(mut list) = LATER.with_borrow_mut(take) else { return };
    for work in list.drain(..).filter_map(|work| work.upgrade()) {
        work.catch_up();
    }
    // Its room serves again.
    LATER.with_borrow_mut(|later| {
        if let Some(later) = later
            && later.list.is_empty()
        {
            later.list = list;
        }
    });
}

/// Catches up whenever something was put off, for as long as the lane goes on.
async fn sweep() {
    poll_fn(|cx| {
        LATER.with_borrow_mut(|later| later.get_or_insert_default().sweeper = Some(cx.waker().clone()));
        catch_up();
        Poll::<()>::Pending
    })
    .await;
}

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
    let run = move || {
        LATER.set(Some(Later::default()));
        runtime.spawn(sweep());
        // Nobody says anything by it.
        let _ = runtime.block_on(stopped);
    };
    thread::Builder::new().name("portolan-lane".to_owned()).spawn(run)?;
    Ok(Arc::new(Lane { handle, stop }))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_put_off_is_done_after_those_that_are_ready_or_when_it_is_much() {
        #[derive(Default)]
        struct Work(AtomicUsize);
        impl Deferred for Work {
            fn catch_up(&self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        assert!(!can_defer(), "there is no lane here");
        let lanes = Lanes::default();
        let seat = lanes.seat().expect("there are lanes");
        let work = Arc::<Work>::default();
        let again = Arc::clone(&work);
        let counts = seat.runtime().spawn(async move {
            assert!(can_defer());
            let defer = || {
                let work: Weak<Work> = Arc::downgrade(&again);
                defer(work);
                again.0.load(SeqCst)
            };
            let first = defer();
            // The lane never sleeps.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let later = again.0.load(SeqCst);
            let counts: Vec<_> = (0..DEFERRED).map(|_| defer()).collect();
            (first, later, counts[DEFERRED - 2], counts[DEFERRED - 1])
        });
        assert_eq!(counts.await.expect("no panic"), (0, 1, 1, 1 + DEFERRED));
        let gone: Weak<Work> = Arc::downgrade(&Arc::default());
        seat.runtime().spawn(async move { defer(gone) }).await.expect("what is gone is not done");
    }

    #[tokio::test]
    async fn in_a_runtime_of_one_thread_everything_stays_there() {
        assert!(Lanes::default().seat().is_none());
    }
}
