//! Pipes for [`super::splice`], pooled: a direction borrows one only while something moves in it.
//!
//! A pipe takes two descriptors, counted like all others. Pipes that lie in the pool hold theirs too, so the pool is
//! small, and gives them up where a client would else be turned away. What has held somebody's bytes goes back only
//! when it is empty.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::forward::descriptors::{DescriptorBudget, DescriptorPermit};

/// Asked of the kernel for each pipe. An ordinary user has so many of this size (`/proc/sys/fs/pipe-user-pages-soft`)
/// and gets smaller ones beyond, which work as well.
const SIZE: usize = 256 * 1024;
/// Empty pipes kept for the next one who needs one.
const MOST_IDLE: usize = 16;
/// A pipe's two ends.
const DESCRIPTORS: u64 = 2;

/// Where pipes come from.
#[derive(Debug)]
pub(crate) struct PipePool {
    descriptors: Arc<DescriptorBudget>,
    idle: Mutex<Vec<Pipe>>,
    switches: Switches,
}

/// How often directions have changed their path; see [`PipePool::switches`].
#[derive(Debug, Default)]
struct Switches {
    to_splice: AtomicU64,
    to_copy: AtomicU64,
}

/// A pipe and what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes that were put in and not yet taken out.
    pub(super) held: usize,
    /// Bytes that were put in at once when it was last empty.
    pub(super) received: usize,
    /// Bytes that fit.
    pub(super) size: usize,
    _permit: DescriptorPermit,
}

impl PipePool {
    pub(crate) fn new(descriptors: &Arc<DescriptorBudget>) -> Arc<Self> {
        let pool = Arc::new(Self {
            descriptors: Arc::clone(descriptors),
            idle: Mutex::default(),
            switches: Switches::default(),
        });
        let held = Arc::downgrade(&pool);
        descriptors.reclaim_by(move || held.upgrade().is_some_and(|pool| pool.clear()));
        pool
    }

    /// An empty pipe; `None` when descriptors, or the kernel's memory for pipes, have run out.
    pub(super) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle().pop() {
            return Some(pipe);
        }
        let permit = self.descriptors.take(DESCRIPTORS)?;
        Pipe::open(permit).ok()
    }

    /// Takes an empty pipe back; one that holds bytes is closed, and they with it.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle();
        if pipe.held == 0 && idle.len() < MOST_IDLE {
            idle.push(pipe);
        }
    }

    /// Closes what lies idle. True when that freed descriptors.
    fn clear(&self) -> bool {
        let pipes = std::mem::take(&mut *self.idle());
        !pipes.is_empty()
    }

    /// How often a direction has gone over to splicing, and back to copying, since the start.
    pub(crate) fn switches(&self) -> (u64, u64) {
        (self.switches.to_splice.load(Relaxed), self.switches.to_copy.load(Relaxed))
    }

    pub(super) fn count_to_splice(&self) {
        self.switches.to_splice.fetch_add(1, Relaxed);
    }

    pub(super) fn count_to_copy(&self) {
        self.switches.to_copy.fetch_add(1, Relaxed);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Pipe>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    fn open(permit: DescriptorPermit) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Refused where this user has as much memory in pipes as he may have; then it stays as it is.
        let wanted = i32::try_from(SIZE).unwrap_or(i32::MAX);
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted));
        let size = usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(0).max(1);
        Ok(Self { read, write, held: 0, received: 0, size, _permit: permit })
    }

    pub(super) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(super) fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_counted_reused_and_given_up() {
        let budget = DescriptorBudget::new(4);
        let pool = PipePool::new(&budget);
        let (one, two) = (pool.take().expect("two of four"), pool.take().expect("four of four"));
        assert!(pool.take().is_none());
        assert_eq!(budget.usage(), (4, 4));
        assert!(one.size >= 4096, "{}", one.size);
        pool.give_back(one);
        // It waits for the next one, with its descriptors.
        assert_eq!(budget.usage(), (4, 4));
        let mut again = pool.take().expect("the one that lay there");
        again.held = 1;
        pool.give_back(again);
        assert_eq!(budget.usage(), (2, 4), "somebody's bytes go to nobody else");
        pool.give_back(two);
        assert!(budget.take(3).is_some(), "whoever needs them gets them");
        assert!(!pool.clear());
        assert_eq!(budget.usage(), (0, 4));
    }
}
