//! Descriptors are counted before they are taken, and a reserve is kept for files, Docker and control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What listeners and connections may take together.
#[derive(Debug)]
pub struct DescriptorBudget {
    limit: u64,
    used: AtomicU64,
}

/// Descriptors taken; given back on drop.
#[derive(Debug)]
pub struct DescriptorPermit {
    budget: Arc<DescriptorBudget>,
    count: u64,
}

impl DescriptorBudget {
    /// At most `limit` at once (the process's limit less the reserve).
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Takes `count`, or none of them when not so many are left.
    pub fn take(self: &Arc<Self>, count: u64) -> Option<DescriptorPermit> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(count).filter(|sum| *sum <= self.limit)
            })
            .ok()
            .map(|_| DescriptorPermit { budget: Arc::clone(self), count })
    }

    /// In use, and most.
    pub fn usage(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.limit)
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_or_nothing_and_gives_back() {
        let budget = DescriptorBudget::new(3);
        let two = budget.take(2).expect("two of three");
        assert!(budget.take(2).is_none());
        assert_eq!(budget.usage(), (2, 3));
        drop(two);
        assert!(budget.take(3).is_some());
    }
}
