//! Which limit bites a mapping now: it is `degraded` from the first client that met the limit until a second
//! has passed in which none did.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::alias::more_aliases;

/// So long after the last time a limit was met, it no longer counts.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// A limit that clients meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The mapping's `max_connections`.
    Connections(u32),
    /// Every one of so many aliases has a client with a connection.
    Aliases(u32),
    /// What the engine may take of the process's descriptors.
    Descriptors(u64),
    /// The kernel has refused a descriptor.
    OutOfDescriptors,
    /// The kernel has refused memory.
    OutOfMemory,
}

/// What limits have been met lately.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    met: Mutex<Option<(Limit, Instant)>>,
    changed: Notify,
}

impl Pressure {
    /// A client has met `limit`.
    pub(crate) fn press(&self, limit: Limit) {
        let before = self.lock().replace((limit, Instant::now()));
        if before.is_none_or(|before| before.0 != limit) {
            self.changed.notify_one();
        }
    }

    /// The limit that bites now.
    pub(crate) fn bites(&self) -> Option<Limit> {
        let mut met = self.lock();
        if met.as_ref().is_some_and(|(_, at)| at.elapsed() >= FORGOTTEN) {
            *met = None;
        }
        met.as_ref().map(|(limit, _)| *limit)
    }

    /// Waits until another limit bites, or, when one does, until it may no longer.
    pub(crate) async fn changed(&self) {
        let until = self.lock().as_ref().map(|(_, at)| *at + FORGOTTEN);
        match until {
            None => self.changed.notified().await,
            Some(until) => tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Limit, Instant)>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections(most) => write!(f, "max_connections ({most}) is reached: more clients are turned away"),
            Self::Descriptors(limit) => {
                write!(
                    f,
                    "all {limit} descriptors are in use: more clients are turned away (raise the limit with ulimit -n)"
                )
            }
            Self::Aliases(all) => {
                let more = more_aliases(*all);
                write!(f, "all {all} aliases are in use: more clients are turned away ({more})")
            }
            Self::OutOfDescriptors => f.write_str("out of descriptors (raise the limit with ulimit -n)"),
            Self::OutOfMemory => f.write_str("the kernel is out of memory for sockets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_bites_until_nobody_has_met_it_for_a_second() {
        let pressure = Pressure::default();
        assert_eq!(pressure.bites(), None);
        pressure.press(Limit::Connections(2));
        pressure.changed().await;
        assert_eq!(pressure.bites(), Some(Limit::Connections(2)));
        tokio::time::advance(Duration::from_millis(900)).await;
        pressure.press(Limit::Connections(2));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(pressure.bites(), Some(Limit::Connections(2)));
        pressure.changed().await;
        assert_eq!(pressure.bites(), None);
    }
}
