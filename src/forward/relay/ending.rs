//! How a connection ended, and the wait for delivery that a reset needs.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::leg::Leg;
use crate::forward::registry::{OpenConnection, Record};
use crate::model::event::{CloseReason, ConnectionState, Side};
use crate::model::untrusted::SafeText;

/// How long what a broken side has sent may take to reach the other side's kernel.
pub(super) const DELIVERY: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The reason in the contract's words.
    pub(crate) reason: CloseReason,
    /// What happened, where the reason does not say it all.
    pub(crate) error: Option<SafeText>,
}

impl Outcome {
    /// As its killer has said.
    pub(crate) fn killed(record: &Record) -> Self {
        record.kill_reason().unwrap_or(CloseReason::Killed).into()
    }

    /// An error that has no word of its own.
    pub(crate) fn error(context: &str, error: &io::Error) -> Self {
        Self { reason: CloseReason::Error, error: Some(SafeText::new(&format!("{context}: {error}"))) }
    }

    /// One side has sent a reset, or its socket has failed otherwise.
    pub(crate) fn broken(side: Side, error: &io::Error) -> Self {
        match (side, is_reset(error)) {
            (Side::Client, true) => CloseReason::ClientReset.into(),
            (Side::Target, true) => CloseReason::TargetReset.into(),
            (Side::Client, false) => Self::error("client", error),
            (Side::Target, false) => Self::error("target", error),
        }
    }
}

impl From<CloseReason> for Outcome {
    fn from(reason: CloseReason) -> Self {
        Self { reason, error: None }
    }
}

/// A reset shows as EPIPE when an end came before it, and as ENOTCONN to who then ends his own sending.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
}

/// Waits until the peer's kernel has all that was sent, at most [`DELIVERY`]: a reset before that would destroy it.
///
/// The kernel gives no event for it, so it is asked again and again, ever more seldom.
pub(super) async fn delivered(leg: &Leg) {
    let deadline = Instant::now() + DELIVERY;
    let mut pause = Duration::from_millis(1);
    while leg.unacknowledged() > 0 && Instant::now() < deadline {
        tokio::select! {
            _ = leg.failed() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until both peers' kernels have all that was sent to them, the ends included, or one of them resets instead.
/// A peer that takes nothing for `patience` is left to its kernel, which goes on delivering after a close in order.
pub(super) async fn all_delivered(
    legs: [&Leg; 2],
    patience: Duration,
    connection: &OpenConnection,
) -> Result<(), (Side, io::Error)> {
    let [client, target] = legs;
    let mut queued = legs.map(Leg::unacknowledged);
    if queued == [0; 2] {
        return Ok(());
    }
    connection.set_state(ConnectionState::Closing, None);
    let mut last_progress = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        tokio::select! {
            error = client.failed() => return Err((Side::Client, error)),
            error = target.failed() => return Err((Side::Target, error)),
            () = sleep(pause) => {}
        }
        let before = std::mem::replace(&mut queued, legs.map(Leg::unacknowledged));
        if queued == [0; 2] {
            return Ok(());
        }
        if queued != before {
            last_progress = Instant::now();
        } else if last_progress.elapsed() >= patience {
            return Ok(());
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
