//! Connections to the target that are used no more, and whose streams are still going on: of HTTP/2, after a GOAWAY.
//!
//! The library holds them until their streams have ended. Each takes a descriptor beside those that were counted when the
//! client came, so one is counted here for each before another connection is made.

use std::sync::{Arc, Weak};

use super::channel::Channel;
use crate::forward::descriptors::DescriptorPermit;
use crate::forward::own::OwnSource;

/// Counts a descriptor more, if there is one to be had.
pub(crate) type Beside = dyn Fn() -> Option<DescriptorPermit> + Send + Sync;

/// Those of one client, which are at most as many as its streams.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// With what is to be held as long as each stands.
    channels: Vec<(Weak<Channel>, Option<OwnSource>)>,
    permits: Vec<DescriptorPermit>,
}

impl Retired {
    pub(super) fn add(&mut self, channel: &Arc<Channel>, own: Option<OwnSource>) {
        self.channels.push((Arc::downgrade(channel), own));
    }

    /// Forgets those that have ended.
    pub(super) fn prune(&mut self) {
        self.channels.retain(|(channel, _)| channel.strong_count() > 0);
        self.permits.truncate(self.channels.len());
    }

    /// Counts those that stand, as far as descriptors are to be had. True where all of them are counted.
    pub(super) fn count(&mut self, beside: &Beside) -> bool {
        self.prune();
        while self.permits.len() < self.channels.len() {
            let Some(permit) = beside() else { return false };
            self.permits.push(permit);
        }
        true
    }
}
