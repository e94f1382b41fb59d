//! Spares the library reads that can find nothing.
//!
//! It reads whenever it has done anything, to see whether more has come or the peer is gone: three times of four in vain,
//! and each time the runtime would take its locks to note the same waker again. Once that is noted, there is nothing to
//! read until it wakes.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Whether anything can have come by a socket since it was found empty. One task alone asks.
#[derive(Debug)]
pub(super) struct Readiness {
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
    /// Tells who is woken by the bell from others, if the socket was found empty and is to ring when that changes.
    armed_for: AtomicPtr<()>,
}

#[derive(Debug)]
struct Bell {
    has_rung: AtomicBool,
    /// Who is woken.
    reader: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order: who is woken finds that it has rung.
        self.has_rung.store(true, Release);
        if let Some(reader) = &*self.reader.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.wake_by_ref();
        }
    }
}

impl Readiness {
    pub(super) fn new() -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(false), reader: Mutex::default() });
        Self { waker: Waker::from(Arc::clone(&bell)), bell, armed_for: AtomicPtr::default() }
    }

    /// Whether nothing has come since the socket was found empty, and `reader` is woken when something does.
    pub(super) fn is_quiet(&self, reader: &Waker) -> bool {
        // No other waker's data lie there while this one is kept; one that has none is never armed for.
        let armed_for = self.armed_for.load(Relaxed);
        !armed_for.is_null() && armed_for == reader.data().cast_mut() && !self.bell.has_rung.load(Acquire)
    }

    /// There may be something to read without the socket's doing.
    pub(super) fn disarm(&self) {
        self.armed_for.store(ptr::null_mut(), Relaxed);
    }

    /// Asks `socket`, unless it [is quiet](Readiness::is_quiet). Either way `reader` is woken when that is over.
    pub(super) fn poll<R>(&self, reader: &Waker, socket: impl FnOnce(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        if self.is_quiet(reader) {
            return Poll::Pending;
        }
        {
            let mut before = self.bell.reader.lock().unwrap_or_else(PoisonError::into_inner);
            if !before.as_ref().is_some_and(|before| before.will_wake(reader)) {
                *before = Some(reader.clone());
            }
        }
        // What comes from here on rings again; what came before is found.
        self.bell.has_rung.store(false, Release);
        let found = socket(&mut Context::from_waker(&self.waker));
        self.armed_for.store(if found.is_pending() { reader.data().cast_mut() } else { ptr::null_mut() }, Relaxed);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_socket_is_asked_once_until_it_rings_or_somebody_else_waits() {
        let readiness = Readiness::new();
        let [one, other] = [(); 2].map(|()| Waker::from(Readiness::new().bell));
        let (mut asked, mut of_socket) = (0, None);
        let mut poll = |reader: &Waker, found: Poll<()>| {
            let found = readiness.poll(reader, |cx| {
                asked += 1;
                of_socket = Some(cx.waker().clone());
                found
            });
            (found.is_ready(), asked, of_socket.clone().expect("it was asked"))
        };
        let (.., waker) = poll(&one, Poll::Pending);
        assert_eq!(poll(&one, Poll::Ready(())).1, 1, "nothing has rung");
        waker.wake_by_ref();
        let (found, asked, _) = poll(&one, Poll::Ready(()));
        assert_eq!((found, asked), (true, 2));
        assert_eq!(poll(&one, Poll::Pending).1, 3, "it was not found empty");
        assert_eq!(poll(&other, Poll::Pending).1, 4, "another is to be woken");
        assert_eq!(poll(&other, Poll::Pending).1, 4);
    }
}
