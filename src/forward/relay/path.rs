//! How one direction moves its bytes now: copied or spliced, and when that changes.
//!
//! Small talk is copied, which takes two calls a turn and no descriptor; bulk is spliced, which copies nothing. Either
//! path gives way only when nothing of its own waits, so a change loses and reorders nothing.

use std::task::{Context, Poll, ready};

use super::copy::{CopyPath, Failure, Step};
use super::leg::Leg;
use super::pace::Pace;
use super::pipes::PipePool;
use super::splice::{SplicePath, Spliced};
use crate::model::speech::Said;

/// Which paths a direction may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The one that suits what comes.
    #[default]
    Any,
    /// Copying alone: somebody wants to see the bytes.
    Copy,
}

/// The path of one direction.
#[derive(Debug, Default)]
pub(super) struct Path {
    copy: CopyPath,
    /// While it splices. Apart, since most never do.
    splice: Option<Box<SplicePath>>,
    pace: Pace,
}

impl Path {
    /// Moves what can be moved in one go, and shows `saw` what is copied. Pending means that a wake-up is arranged for.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &Leg,
        to: &Leg,
        pool: &PipePool,
        allowed: Allowed,
        saw: impl FnOnce(&[u8]),
    ) -> Poll<Result<Step, Failure>> {
        if let Some(splice) = &mut self.splice {
            let must_stop = allowed == Allowed::Copy || self.pace.is_small_talk();
            if must_stop && splice.is_empty() {
                self.stop_splicing(pool);
            } else {
                match ready!(splice.poll_step(cx, from, to, pool, &mut self.pace))? {
                    Spliced::Step(step) => return Poll::Ready(Ok(step)),
                    Spliced::Copy => self.stop_splicing(pool),
                }
            }
        }
        let step = ready!(self.copy.poll_step(cx, from, to, saw))?;
        let received = self.copy.take_received();
        if received > 0 {
            self.pace.copied(received);
        }
        if self.pace.is_bulk() && allowed == Allowed::Any && self.copy.is_empty() {
            self.splice = Some(Box::default());
            self.pace.restart();
            pool.count_to_splice();
        }
        Poll::Ready(Ok(step))
    }

    /// Passes on `bytes` first, which were received before.
    pub(super) fn begin_with(&mut self, bytes: Vec<u8>) {
        self.copy.begin_with(bytes);
    }

    /// Whether nothing waits for the destination.
    pub(super) fn is_empty(&self) -> bool {
        self.copy.is_empty() && self.splice.as_ref().is_none_or(|splice| splice.is_empty())
    }

    /// What the source has said first, once. It is copied, whatever comes after it.
    pub(super) fn take_first(&mut self) -> Option<Said> {
        self.copy.take_first()
    }

    /// Forgets what is unsent.
    pub(super) fn discard(&mut self, pool: &PipePool) {
        self.copy.discard();
        if let Some(mut splice) = self.splice.take() {
            splice.let_go(pool);
        }
    }

    fn stop_splicing(&mut self, pool: &PipePool) {
        if let Some(mut splice) = self.splice.take() {
            splice.let_go(pool);
            self.pace.restart();
            pool.count_to_copy();
        }
    }
}
