//! What goes out by a channel: what the library writes, and interim responses between that.
//!
//! Small pieces are put off for a moment ([`lanes`]), so that those of several connections are sent one right behind the
//! other: to the library they are sent, and where that fails, its next write says so.
//!
//! A target that takes no more may have answered before: a server that refuses a long body answers, and resets the rest.
//! The library would give up at the first write that fails and never read that answer. So from there on what it writes to
//! the target is dropped, and the failure is told by reading, behind what has come. (Of HTTP/2 the library may cut an answer
//! short all the same that it has read: there a server resets a stream, and has no need to break the connection.)

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use super::Channel;
use crate::forward::lanes::{self, Deferred};
use crate::forward::meter::Direction;
use crate::model::event::Side;

/// More than this at a time is sent at once.
const SMALL: usize = 4 * 1024;
/// Room for what is put off that a connection keeps.
const KEPT: usize = 1024;

/// What is on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The library has flushed, and nothing of that is put off.
    is_flushed: AtomicBool,
    /// Something that the library has sent is put off.
    has_deferred: AtomicBool,
    /// Something is to be sent ahead of what the library sends.
    has_ahead: AtomicBool,
    /// The target takes no more: what the library sends is dropped.
    is_dropping: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// What waits to be sent.
#[derive(Debug, Default)]
struct Waiting {
    /// To be sent ahead of anything else.
    ahead: Vec<u8>,
    /// What the library has sent and was put off.
    deferred: Vec<u8>,
    /// What was put off is about to be caught up with. Where it is not, the kernel has not taken what there is, and who writes
    /// waits for that.
    is_listed: bool,
    /// The library has nothing behind it.
    is_whole: bool,
    /// Sending it has failed.
    failed: Option<io::ErrorKind>,
    /// Who writes.
    writer: Option<Waker>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            is_flushed: AtomicBool::new(true),
            has_deferred: AtomicBool::new(false),
            has_ahead: AtomicBool::new(false),
            is_dropping: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    /// As what the failure to send to the target is told, once everything that came from it was read.
    pub(in crate::forward::http) fn failed_to_send(&self) -> Option<io::Error> {
        let is_dropping = self.outgoing.is_dropping.load(Relaxed);
        is_dropping.then(|| self.outgoing.waiting().failed.unwrap_or(io::ErrorKind::ConnectionReset).into())
    }

    /// Whether the library has nothing to send.
    pub(in crate::forward::http) fn is_flushed(&self) -> bool {
        self.outgoing.is_flushed.load(Relaxed)
    }

    /// Sends `head`, that of an interim response, if that can be done between what the library sends. A client that has not
    /// taken the last one yet does without.
    pub(in crate::forward::http) fn send_interim(&self, cx: &mut Context<'_>, head: &[u8]) {
        self.send_deferred();
        if self.is_flushed() && !self.outgoing.has_ahead.load(Relaxed) {
            self.outgoing.waiting().ahead.extend_from_slice(head);
            self.outgoing.has_ahead.store(true, Relaxed);
            // Where this fails, so will what is sent next.
            let _ = self.poll_ahead(cx);
        }
    }

    pub(super) fn poll_write(self: &Arc<Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ahead(cx))?;
        self.outgoing.is_flushed.store(false, Relaxed);
        if self.outgoing.has_deferred.load(Relaxed) {
            // Whether or not this is put off behind it.
            self.outgoing.waiting().is_whole = false;
        }
        if data.len() <= SMALL && lanes::can_defer() && self.take_to_defer(cx, data) {
            return Poll::Ready(Ok(data.len()));
        }
        ready!(self.poll_deferred(cx))?;
        self.poll_send(cx, data)
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ahead(cx))?;
        if self.outgoing.has_deferred.load(Relaxed) {
            let mut waiting = self.outgoing.waiting();
            if waiting.is_listed && waiting.failed.is_none() {
                waiting.is_whole = true;
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_flush_all(cx)
    }

    /// As [`Channel::poll_flush`], and puts nothing off.
    pub(super) fn poll_flush_all(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ahead(cx))?;
        ready!(self.poll_deferred(cx))?;
        self.outgoing.is_flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Puts `data` off, if that can be done. Not behind what the kernel has not taken, or where much has come together.
    fn take_to_defer(self: &Arc<Self>, cx: &Context<'_>, data: &[u8]) -> bool {
        let mut waiting = self.outgoing.waiting();
        let is_waiting = !waiting.deferred.is_empty() && !waiting.is_listed;
        if waiting.failed.is_some() || is_waiting || waiting.deferred.len() + data.len() > SMALL {
            return false;
        }
        waiting.deferred.extend_from_slice(data);
        waiting.is_whole = false;
        // Now, not when it is sent, which may be when nobody looks.
        self.common.stir();
        if !waiting.writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
            waiting.writer = Some(cx.waker().clone());
        }
        self.outgoing.has_deferred.store(true, Relaxed);
        if !std::mem::replace(&mut waiting.is_listed, true) {
            // It may be done at once.
            drop(waiting);
            let this: Weak<Self> = Arc::downgrade(self);
            lanes::defer(this);
        }
        true
    }

    /// Sends what was put off, and waits until the kernel takes it.
    fn poll_deferred(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outgoing.has_deferred.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.outgoing.waiting();
        if let Some(kind) = waiting.failed.filter(|_| self.side == Side::Client) {
            return Poll::Ready(Err(kind.into()));
        }
        while !waiting.deferred.is_empty() {
            let sent = ready!(self.poll_send(cx, &waiting.deferred))?;
            waiting.deferred.drain(..sent);
        }
        waiting.give_up_room();
        self.outgoing.has_deferred.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Sends what was put off, as far as the kernel takes it now.
    pub(in crate::forward::http) fn send_deferred(&self) {
        if self.outgoing.has_deferred.load(Relaxed) {
            self.send_what_is_taken(&mut self.outgoing.waiting());
        }
    }

    fn send_what_is_taken(&self, waiting: &mut Waiting) {
        if waiting.deferred.is_empty() {
            // Who has sent it sooner has seen to the rest, or it has failed.
            return;
        }
        while !waiting.deferred.is_empty() {
            match self.leg.send_now(&waiting.deferred) {
                Ok(count) => {
                    waiting.deferred.drain(..count);
                    self.has_sent(count);
                }
                Err(error) => {
                    let was_listed = std::mem::replace(&mut waiting.is_listed, false);
                    if error.kind() != io::ErrorKind::WouldBlock {
                        waiting.failed = Some(error.kind());
                        waiting.deferred.clear();
                        self.has_failed(&error);
                    } else if !was_listed {
                        // Who writes waits for the kernel already.
                        return;
                    }
                    // Who writes waits for the kernel from now on, or hears of the failure.
                    if let Some(writer) = &waiting.writer {
                        writer.wake_by_ref();
                    }
                    return;
                }
            }
        }
        waiting.give_up_room();
        self.outgoing.has_deferred.store(false, Relaxed);
        if waiting.is_whole {
            self.outgoing.is_flushed.store(true, Relaxed);
        }
    }

    /// Sends what was put off, and gives what of it the kernel has not taken.
    pub(in crate::forward::http) fn take_unsent(&self) -> Vec<u8> {
        self.send_deferred();
        std::mem::take(&mut self.outgoing.waiting().deferred)
    }

    fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outgoing.has_ahead.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.outgoing.waiting();
        while !waiting.ahead.is_empty() {
            let sent = ready!(self.poll_send(cx, &waiting.ahead))?;
            waiting.ahead.drain(..sent);
        }
        self.outgoing.has_ahead.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_send(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.outgoing.is_dropping.load(Relaxed) {
            return Poll::Ready(Ok(data.len()));
        }
        let sent = ready!(self.leg.poll_send(cx, data));
        match &sent {
            Ok(count) => {
                self.has_sent(*count);
                self.common.stir();
            }
            Err(error) => {
                self.has_failed(error);
                if self.side == Side::Target {
                    // It reads next, and finds what there is.
                    cx.waker().wake_by_ref();
                    return Poll::Ready(Ok(data.len()));
                }
            }
        }
        Poll::Ready(sent)
    }

    fn has_failed(&self, error: &io::Error) {
        self.common.fail(self.side, error);
        if self.side == Side::Target {
            self.outgoing.is_dropping.store(true, Relaxed);
            self.stir_reader();
        }
    }

    fn has_sent(&self, count: usize) {
        self.common.record.counters.add_bytes(self.goes(), count as u64);
    }

    /// Which way that goes which is sent here.
    pub(in crate::forward::http) fn goes(&self) -> Direction {
        if self.side == Side::Client { Direction::Out } else { Direction::In }
    }
}

impl Waiting {
    /// Keeps room for an ordinary head, and no more: many connections are idle.
    fn give_up_room(&mut self) {
        if self.deferred.capacity() > KEPT {
            self.deferred = Vec::new();
        }
    }
}

impl Deferred for Channel {
    fn catch_up(&self) {
        let mut waiting = self.outgoing.waiting();
        self.send_what_is_taken(&mut waiting);
        waiting.is_listed = false;
    }
}
