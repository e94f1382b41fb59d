//! Descriptors are counted before they are taken, and a reserve is kept for files, Docker and control.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;

/// What listeners and connections may take together.
pub struct DescriptorBudget {
    limit: u64,
    used: AtomicU64,
    /// Give up what lies idle; true when that was anything.
    reclaims: Mutex<Vec<Reclaim>>,
    /// Somebody waits for one to be given back.
    awaited: AtomicBool,
    given_back: Notify,
}

type Reclaim = Box<dyn Fn() -> bool + Send + Sync>;

/// Descriptors taken; given back on drop.
#[derive(Debug)]
pub struct DescriptorPermit {
    budget: Arc<DescriptorBudget>,
    count: u64,
}

/// More descriptors are needed than are left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("needs {needed} descriptors, {left} of {limit} are left (raise the limit with ulimit -n)")]
pub struct Shortage {
    /// Asked for.
    pub needed: u64,
    /// Not in use.
    pub left: u64,
    /// All there are.
    pub limit: u64,
}

/// Raises the process's soft limit of descriptors to the hard one; gives both as they are now.
pub fn raise_limit() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

impl DescriptorBudget {
    /// At most `limit` at once (the process's limit less the reserve).
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            reclaims: Mutex::default(),
            awaited: AtomicBool::new(false),
            given_back: Notify::new(),
        })
    }

    /// Waits until one is given back, from the first poll on. It may miss one at that moment, and one that is given back
    /// may never have been a descriptor, so it is for those who look again after a while anyway, and do not hurry when
    /// they have looked in vain.
    pub(super) async fn given_back(&self) {
        let given_back = self.given_back.notified();
        self.awaited.store(true, Ordering::Relaxed);
        given_back.await;
    }

    /// Who holds descriptors that lie idle, and is asked for them before anybody is turned away.
    pub(super) fn reclaim_by(&self, reclaim: impl Fn() -> bool + Send + Sync + 'static) {
        self.reclaims.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(reclaim));
    }

    /// Takes `count`, or none of them when not so many are left.
    pub fn take(self: &Arc<Self>, count: u64) -> Option<DescriptorPermit> {
        self.take_free(count).or_else(|| {
            let reclaims = self.reclaims.lock().unwrap_or_else(PoisonError::into_inner);
            reclaims.iter().find_map(|reclaim| reclaim().then(|| self.take_free(count)).flatten())
        })
    }

    fn take_free(self: &Arc<Self>, count: u64) -> Option<DescriptorPermit> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(count).filter(|sum| *sum <= self.limit)
            })
            .ok()
            .map(|_| DescriptorPermit { budget: Arc::clone(self), count })
    }

    /// Takes `count`, or says how many are left of how many.
    pub fn require(self: &Arc<Self>, count: u64) -> Result<DescriptorPermit, Shortage> {
        self.take(count).ok_or_else(|| {
            let (used, limit) = self.usage();
            Shortage { needed: count, left: limit.saturating_sub(used), limit }
        })
    }

    /// In use, and most.
    pub fn usage(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.limit)
    }
}

impl fmt::Debug for DescriptorBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DescriptorBudget").field("limit", &self.limit).field("used", &self.used).finish_non_exhaustive()
    }
}

impl DescriptorPermit {
    /// Where it was taken from.
    pub(super) fn budget(&self) -> &Arc<DescriptorBudget> {
        &self.budget
    }

    /// Whether more than half of what there is is in use, this one included.
    pub(super) fn is_scarce(&self) -> bool {
        let (used, limit) = self.budget.usage();
        used > limit / 2
    }

    /// Takes one out of this permit, to be given back on its own.
    pub fn split_one(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1)?;
        Some(Self { budget: Arc::clone(&self.budget), count: 1 })
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.count, Ordering::Relaxed);
        if self.budget.awaited.load(Ordering::Relaxed) && self.budget.awaited.swap(false, Ordering::Relaxed) {
            self.budget.given_back.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_of_one_that_is_given_back() {
        let budget = DescriptorBudget::new(1);
        drop(budget.take(1));
        let waits = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.given_back().await }
        });
        let permit = budget.take(1).expect("it is free");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!waits.is_finished(), "nothing was given back since");
        drop(permit);
        let heard = tokio::time::timeout(std::time::Duration::from_secs(1), waits).await;
        heard.expect("it hears").expect("it ends well");
    }

    #[test]
    fn takes_all_or_nothing_and_gives_back() {
        let budget = DescriptorBudget::new(3);
        let two = budget.take(2).expect("two of three");
        assert!(budget.take(2).is_none());
        assert_eq!(budget.usage(), (2, 3));
        drop(two);
        let mut three = budget.take(3).expect("all");
        let one = three.split_one().expect("one of them");
        drop(three);
        assert_eq!(budget.usage(), (1, 3));
        let shortage = budget.require(3).expect_err("two are left");
        assert_eq!(shortage.to_string(), "needs 3 descriptors, 2 of 3 are left (raise the limit with ulimit -n)");
        drop(one);
        assert_eq!(budget.usage(), (0, 3));
    }
}
