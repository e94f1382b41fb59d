//! One direction by copying through user memory: what is received is sent at once, and only what the
//! destination did not take is kept.
//!
//! An idle direction holds no memory: the buffer belongs to the worker thread.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use super::leg::Leg;
use crate::model::speech::Said;

/// Size of a thread's buffer, and so the most that one direction keeps unsent.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The unsent rest of one direction.
#[derive(Debug, Default)]
pub(super) struct CopyPath {
    tail: Vec<u8>,
    sent: usize,
    first: First,
    /// What the last step has received.
    received: usize,
}

/// What the source has said first.
#[derive(Clone, Copy, Debug, Default)]
enum First {
    /// Nothing yet.
    #[default]
    Silent,
    /// This, and nobody has asked for it.
    Heard(Said),
    /// It was asked for.
    Told,
}

/// What one step has done.
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes moved; the destination's kernel has taken so many (0: received only).
    Moved(u64),
    /// The source has ended, and all of it was sent.
    Ended,
}

/// The leg at which a step failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Receiving failed; all that had arrived was sent.
    Source(io::Error),
    /// Sending failed.
    Destination(io::Error),
}

impl CopyPath {
    /// Moves what can be moved in one go, and shows `saw` what is new. Pending means that a wake-up is arranged for.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &Leg,
        to: &Leg,
        saw: impl FnOnce(&[u8]),
    ) -> Poll<Result<Step, Failure>> {
        if !self.tail.is_empty() {
            let taken = ready!(to.poll_send(cx, &self.tail[self.sent..])).map_err(Failure::Destination)?;
            self.sent += taken;
            if self.sent == self.tail.len() {
                self.discard();
            }
            return Poll::Ready(Ok(Step::Moved(taken as u64)));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let count = ready!(from.poll_recv(cx, buffer)).map_err(Failure::Source)?;
            if count == 0 {
                return Poll::Ready(Ok(Step::Ended));
            }
            if let First::Silent = self.first {
                self.first = Said::of(&buffer[..count]).map_or(First::Silent, First::Heard);
            }
            self.received = count;
            saw(&buffer[..count]);
            let taken = match to.poll_send(cx, &buffer[..count]) {
                Poll::Ready(result) => result.map_err(Failure::Destination)?,
                Poll::Pending => 0,
            };
            if taken < count {
                self.tail = buffer[taken..count].to_vec();
            }
            Poll::Ready(Ok(Step::Moved(taken as u64)))
        })
    }

    /// Has `bytes` wait to be sent.
    pub(super) fn begin_with(&mut self, bytes: Vec<u8>) {
        (self.tail, self.sent) = (bytes, 0);
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.is_empty()
    }

    /// What was received since this was last asked.
    pub(super) fn take_received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    /// Forgets what is unsent.
    pub(super) fn discard(&mut self) {
        (self.tail, self.sent) = (Vec::new(), 0);
    }

    /// What the source has said first, once.
    pub(super) fn take_first(&mut self) -> Option<Said> {
        let First::Heard(said) = self.first else { return None };
        self.first = First::Told;
        Some(said)
    }
}
