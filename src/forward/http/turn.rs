//! Polls futures that wake each other in one task, again and again until none of them has more to do.
//!
//! The two halves of a proxied connection hand each other messages through channels. Each of these would wake the task
//! anew, which then would wait for its turn at the runtime; here it is a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Turns before others get theirs.
const TURNS: usize = 32;

/// Runs turns of one task.
#[derive(Debug)]
pub(super) struct Turns {
    flag: Arc<Flag>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Flag {
    /// Somebody has more to do.
    is_raised: AtomicBool,
    /// A turn is being taken, which looks at the flag when it is over.
    is_turning: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_raised.store(true, SeqCst);
        if !self.is_turning.load(SeqCst) {
            self.task.wake();
        }
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        let flag = Arc::new(Flag::default());
        Self { waker: Arc::clone(&flag).into(), flag }
    }

    /// Calls `turn` until it is ready, or nobody has more to do: then it has arranged for a wake-up.
    pub(super) fn poll<R>(&self, cx: &mut Context<'_>, mut turn: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        let flag = &*self.flag;
        flag.task.register(cx.waker());
        flag.is_turning.store(true, SeqCst);
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..TURNS {
            flag.is_raised.store(false, SeqCst);
            if let Poll::Ready(result) = turn(&mut inner) {
                flag.is_turning.store(false, SeqCst);
                return Poll::Ready(result);
            }
            if !flag.is_raised.load(SeqCst) {
                break;
            }
        }
        flag.is_turning.store(false, SeqCst);
        // Raised in the last turn, or by another thread that took it to be still turning.
        if flag.is_raised.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_wake_up_within_a_turn_is_another_turn_of_the_same_poll() {
        let turns = Turns::new();
        let (mut polls, mut taken) = (0, 0);
        poll_fn(|cx| {
            polls += 1;
            turns.poll(cx, |cx| {
                taken += 1;
                if taken == 10 {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        })
        .await;
        assert_eq!((polls, taken), (1, 10));
    }

    #[tokio::test]
    async fn who_always_has_more_to_do_gives_way_to_others() {
        let turns = Turns::new();
        let (mut polls, mut taken) = (0, 0);
        poll_fn(|cx| {
            polls += 1;
            turns.poll(cx, |cx| {
                taken += 1;
                cx.waker().wake_by_ref();
                if taken == 2 * TURNS { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await;
        assert_eq!(polls, 2);
    }
}
