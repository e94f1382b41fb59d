//! The word to a connection that it is to end, and why: anybody says it, the connection's own task hears it.
//!
//! It is made for being asked at every turn by a task that will most likely never hear it: asking takes no lock, and it
//! holds no memory but the reference to the task that waits, until that is forgotten.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::model::event::CloseReason;

/// Whether a connection is to end, and why.
#[derive(Debug, Default)]
pub(super) struct Kill {
    is_said: AtomicBool,
    reason: OnceLock<CloseReason>,
    waiter: AtomicWaker,
}

impl Kill {
    /// It is to end for this reason; the first one said stays.
    pub(super) fn say(&self, reason: CloseReason) {
        let _ = self.reason.set(reason);
        self.release();
    }

    /// Lets go whoever waits, also where no reason was said.
    pub(super) fn release(&self) {
        self.is_said.store(true, Ordering::Release);
        self.nudge();
    }

    /// Has the task that waits look around: something else of its connection has changed.
    pub(super) fn nudge(&self) {
        self.waiter.wake();
    }

    /// Lets go of the task that waited, whose memory would else be kept as long as this.
    pub(super) fn forget(&self) {
        drop(self.waiter.take());
    }

    /// Why, if it was said.
    pub(super) fn reason(&self) -> Option<CloseReason> {
        self.reason.get().copied()
    }

    /// Ready once it was said, or the wait was ended by [`Kill::release`]. One task alone can wait.
    pub(super) fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_said.load(Ordering::Acquire) {
            self.waiter.register(cx.waker());
            // It may have been said before the waker was there.
            if !self.is_said.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// As [`Kill::poll_heard`].
    pub(super) async fn heard(&self) {
        poll_fn(|cx| self.poll_heard(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    #[tokio::test]
    async fn who_waits_hears_the_first_reason() {
        let kill = Arc::new(Kill::default());
        let waiting = tokio::spawn({
            let kill = Arc::clone(&kill);
            async move { kill.heard().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && kill.reason().is_none());
        kill.say(CloseReason::Evicted);
        kill.say(CloseReason::Killed);
        waiting.await.expect("it ends");
        assert_eq!(kill.reason(), Some(CloseReason::Evicted));
        kill.heard().await;
    }

    #[test]
    fn a_task_that_is_forgotten_is_held_no_longer() {
        struct Task;
        impl Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let (kill, task) = (Kill::default(), Arc::new(Task));
        let waker = Arc::clone(&task).into();
        assert!(kill.poll_heard(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 2);
        kill.forget();
        assert_eq!(Arc::strong_count(&task), 1);
    }
}
