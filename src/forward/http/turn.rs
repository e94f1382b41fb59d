//! Polls what belongs to one connection in one task, each part only when it was woken, again and again until none of them
//! has more to do.
//!
//! The two halves of a proxied connection hand each other messages through channels. Each of these would wake the task
//! anew, which would wait for its turn at the runtime and then look at everything; here it is a bit that is set.

use std::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Turns before others get theirs.
const TURNS: usize = 32;

/// A part of a connection, which is woken by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The client's side.
    Client,
    /// The target's side.
    Target,
    /// The same, by what has come from the target.
    TargetLeg,
    /// Streams of HTTP/2.
    Streams,
    /// The word that the connection is to end after its request.
    Drain,
}

impl Part {
    const ALL: [Self; 5] = [Self::Client, Self::Target, Self::TargetLeg, Self::Streams, Self::Drain];
}

/// Beside the bits of the parts: a turn is being taken, which looks at them when it is over.
const TURNING: u8 = 1 << Part::ALL.len();

/// Runs turns of one task.
#[derive(Debug)]
pub(super) struct Turns {
    shared: Arc<Shared>,
    wakers: [Waker; Part::ALL.len()],
    /// As `shared` has it.
    task: Option<Waker>,
}

#[derive(Debug)]
struct Shared {
    /// A bit for each part that has more to do, and [`TURNING`].
    raised: AtomicU8,
    /// Mostly the same for good, so it is not taken out to be woken.
    task: Mutex<Option<Waker>>,
}

#[derive(Debug)]
struct Bell {
    shared: Arc<Shared>,
    bit: u8,
}

/// Takes back what wakes a part needlessly.
#[derive(Clone, Debug)]
pub(super) struct Silencer {
    shared: Arc<Shared>,
    bit: u8,
}

impl Silencer {
    /// Does `act`; where that says so, it has not woken the part. Call within a turn.
    pub(super) fn silence<R>(&self, act: impl FnOnce() -> (R, bool)) -> R {
        let before = self.shared.raised.load(Acquire);
        let (result, is_needless) = act();
        if is_needless && before & self.bit == 0 {
            self.shared.raised.fetch_and(!self.bit, AcqRel);
        }
        result
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.shared.raised.fetch_or(self.bit, AcqRel);
        // Who raised a bit before, or takes a turn, sees to it.
        if before == 0
            && let Some(task) = &*self.shared.task()
        {
            task.wake_by_ref();
        }
    }
}

impl Shared {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared { raised: AtomicU8::new(TURNING - 1), task: Mutex::default() });
        let bell = |part| Waker::from(Arc::new(Bell { shared: Arc::clone(&shared), bit: 1 << part as u8 }));
        Self { wakers: Part::ALL.map(bell), shared, task: None }
    }

    /// Has a part look again.
    pub(super) fn wake(&self, part: Part) {
        self.wakers[part as usize].wake_by_ref();
    }

    /// Silences a part. Nobody but the task may wake it meanwhile: so not in a runtime of several threads, where the
    /// runtime itself does (for what can be written, and for a budget that is spent).
    pub(super) fn silencer(&self, part: Part) -> Silencer {
        Silencer { shared: Arc::clone(&self.shared), bit: 1 << part as u8 }
    }

    /// By which a part is woken.
    pub(super) fn waker(&self, part: Part) -> &Waker {
        &self.wakers[part as usize]
    }

    /// Calls `turn` for each part that was woken, until one is ready or none has more to do: then a wake-up is arranged
    /// for. After [`TURNS`] rounds others have theirs first.
    pub(super) fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut turn: impl FnMut(&Self, Part, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            self.shared.task().clone_from(&self.task);
        }
        let raised = &self.shared.raised;
        for _ in 0..TURNS {
            let woken = raised.swap(TURNING, AcqRel);
            for (part, waker) in Part::ALL.into_iter().zip(&self.wakers) {
                if woken & (1 << part as u8) != 0
                    && let Poll::Ready(result) = turn(self, part, &mut Context::from_waker(waker))
                {
                    return Poll::Ready(result);
                }
            }
            if raised.compare_exchange(TURNING, 0, AcqRel, Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        // There is more to do, when others have had their turns.
        raised.fetch_and(!TURNING, AcqRel);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_part_that_is_woken_within_a_turn_has_another_in_the_same_poll_and_others_have_none() {
        let mut turns = Turns::new();
        let (mut polls, mut taken) = (0, Vec::new());
        poll_fn(|cx| {
            polls += 1;
            turns.poll(cx, |turns, part, _| {
                taken.push(part);
                match (part, taken.len()) {
                    (Part::Client, 1..7) => turns.wake(Part::Target),
                    (Part::Target, 1..8) => turns.wake(Part::Client),
                    (Part::Client, _) => return Poll::Ready(()),
                    _ => {}
                }
                Poll::Pending
            })
        })
        .await;
        assert_eq!(polls, 1);
        assert_eq!(taken, [Part::ALL.as_slice(), &[Part::Client, Part::Target, Part::Client]].concat());
    }

    #[tokio::test]
    async fn a_part_is_silenced_only_where_nothing_else_has_woken_it() {
        let mut turns = Turns::new();
        let silencer = turns.silencer(Part::Target);
        let mut taken = Vec::new();
        poll_fn(|cx| {
            turns.poll(cx, |turns, part, _| {
                taken.push(part);
                match (part, taken.len()) {
                    (Part::Drain, _) => turns.wake(Part::Client),
                    // Woken needlessly, and not.
                    (Part::Client, 6) => silencer.silence(|| (turns.wake(Part::Target), true)),
                    (Part::Client, 7) => silencer.silence(|| (turns.wake(Part::Target), false)),
                    (Part::Target, 8) => return Poll::Ready(()),
                    _ => {}
                }
                if taken.len() == 6 {
                    turns.wake(Part::Client);
                }
                Poll::Pending
            })
        })
        .await;
        assert_eq!(taken, [Part::ALL.as_slice(), &[Part::Client, Part::Client, Part::Target]].concat());
    }

    #[tokio::test]
    async fn who_always_has_more_to_do_gives_way_to_others() {
        let mut turns = Turns::new();
        let (mut polls, mut taken) = (0, 0);
        poll_fn(|cx| {
            polls += 1;
            turns.poll(cx, |_, part, cx| {
                if part == Part::Client {
                    taken += 1;
                    cx.waker().wake_by_ref();
                }
                if taken == 2 * TURNS { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await;
        assert_eq!(polls, 2);
    }
}
