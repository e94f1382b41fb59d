//! How a connection ended, and the wait for delivery that a reset needs.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::leg::Leg;
use crate::forward::registry::{OpenConnection, Record};
use crate::model::event::{CloseReason, ConnectionState, Side};
use crate::model::untrusted::SafeText;

/// How long what a broken side has sent may take to reach the other side's kernel.
pub(super) const DELIVERY: Patience = Patience { within: Duration::from_secs(5), is_renewed: false };

/// How long a reader may take over what was sent to it before the other side broke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) within: Duration,
    /// By whatever it takes.
    pub(super) is_renewed: bool,
}

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

/// Whether a reset came after an end of the same peer, and so takes nothing away: the kernel makes it EPIPE then
/// (`tcp_reset` in `CLOSE_WAIT`), and ECONNRESET otherwise.
pub(crate) fn is_after_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Waits until the peer's kernel has all that was sent, or `patience` is over: a reset before that would destroy it.
///
/// The kernel gives no event for it, so it is asked again and again, ever more seldom.
pub(super) async fn delivered(leg: &Leg, patience: Patience) {
    let mut last_progress = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut queued = leg.unacknowledged();
    while queued > 0 && last_progress.elapsed() < patience.within {
        tokio::select! {
            _ = leg.failed() => return,
            () = sleep(pause) => {}
        }
        let before = std::mem::replace(&mut queued, leg.unacknowledged());
        if queued < before && patience.is_renewed {
            last_progress = Instant::now();
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether both peers' kernels have all that was sent to them, the ends included.
pub(super) fn is_all_delivered(legs: [&Leg; 2]) -> bool {
    legs.map(Leg::unacknowledged) == [0; 2]
}

/// Waits until both peers' kernels have all that was sent to them, the ends included, or one of them resets instead.
/// A peer that takes nothing for `patience` is left to its kernel, which goes on delivering after a close in order.
///
/// Where only our end is on its way, a reset is the answer of a kernel that has forgotten a peer which had closed long
/// before: nothing is lost by it.
pub(super) async fn all_delivered(
    legs: [&Leg; 2],
    patience: Duration,
    connection: &OpenConnection,
) -> Result<(), (Side, io::Error)> {
    let [client, target] = legs;
    // None: forgotten. Its kernel's counts stand still from then on.
    let mut waiting = legs.map(Some);
    let look = |waiting: &[Option<&Leg>; 2]| waiting.map(|leg| leg.map_or(0, Leg::unacknowledged));
    let mut queued = look(&waiting);
    if queued == [0; 2] {
        return Ok(());
    }
    connection.set_state(ConnectionState::Closing, None);
    let mut last_progress = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let (side, error) = tokio::select! {
            error = client.failed(), if waiting[0].is_some() => (Side::Client, error),
            error = target.failed(), if waiting[1].is_some() => (Side::Target, error),
            () = sleep(pause) => {
                let before = std::mem::replace(&mut queued, look(&waiting));
                if queued == [0; 2] {
                    return Ok(());
                }
                if queued != before {
                    last_progress = Instant::now();
                } else if last_progress.elapsed() >= patience {
                    return Ok(());
                }
                pause = (pause * 2).min(Duration::from_millis(50));
                continue;
            }
        };
        let failed = usize::from(side == Side::Target);
        // As of the failure: the kernel's count stands still since.
        queued[failed] = legs[failed].unacknowledged();
        if queued[failed] > 1 {
            return Err((side, error));
        }
        waiting[failed] = None;
        queued[failed] = 0;
        if queued == [0; 2] {
            return Ok(());
        }
    }
}
