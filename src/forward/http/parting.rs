//! How the sockets of a proxied connection are closed: in order, so that a client reads the last response to its end, or
//! by a reset, so that it does not take half of one for the whole.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::forward::registry::{OpenConnection, Record};
use crate::forward::relay::{self, Leg, Outcome};
use crate::model::event::{CloseReason, ConnectionState, Side};

/// A client that is still sending what nobody will read is read for so long after its last byte: closed before, its kernel
/// would throw the response away.
const LINGER: Duration = Duration::from_secs(5);
/// And for so long in all.
const LINGER_ALL: Duration = Duration::from_secs(30);
/// How long what was sent may take to reach a client before the reset that says that more was to come.
const DELIVERY: Duration = Duration::from_secs(5);

/// Ends the client's leg in order. `is_sending`: it has sent more than was read, or may do so.
pub(super) async fn in_order(
    client: Leg,
    is_sending: bool,
    patience: Duration,
    connection: &OpenConnection,
) -> Outcome {
    let record = connection.record();
    if let Err(error) = client.shutdown_write() {
        let error = client.take_error().unwrap_or(error);
        return Outcome::broken(Side::Client, &error);
    }
    if !is_sending && client.unacknowledged() == 0 {
        client.finish();
        return CloseReason::Finished.into();
    }
    connection.set_state(ConnectionState::Closing, None);
    let outcome = tokio::select! {
        biased;
        () = record.kill.heard() => Outcome::killed(record),
        outcome = async {
            if is_sending
                && let Err(error) = linger(&client).await
            {
                // It is told once, so it would be waited for in vain.
                return gone(&client, &error);
            }
            delivered(&client, patience).await
        } => outcome,
    };
    if outcome.reason == CloseReason::Finished {
        client.finish();
    } else {
        relay::reset(client, None, connection).await;
    }
    outcome
}

/// Resets what is there, the client's leg after it has read what was sent where `is_owed`.
pub(super) async fn by_reset(client: Leg, target: Option<Leg>, is_owed: bool, connection: &OpenConnection) {
    if is_owed {
        let record: &Record = connection.record();
        tokio::select! {
            biased;
            () = record.kill.heard() => {}
            _ = delivered(&client, DELIVERY) => {}
        }
    }
    relay::reset(client, target, connection).await;
}

/// How it ends with a client that is gone: where only our end was on its way, it has lost nothing.
fn gone(client: &Leg, error: &io::Error) -> Outcome {
    if client.unacknowledged() > 1 { Outcome::broken(Side::Client, error) } else { CloseReason::Finished.into() }
}

/// Reads and forgets.
async fn linger(client: &Leg) -> io::Result<()> {
    let mut forgotten = [0; 4096];
    let began = Instant::now();
    while began.elapsed() < LINGER_ALL {
        let mut reading = poll_fn(|cx| client.poll_recv(cx, &mut forgotten));
        match timeout(LINGER, &mut reading).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) | Err(_) => break,
        }
    }
    Ok(())
}

/// Waits until the client's kernel has all that was sent, its end included; one that takes nothing for `patience` is left
/// to ours. The kernel gives no event for it.
async fn delivered(client: &Leg, patience: Duration) -> Outcome {
    let mut queued = client.unacknowledged();
    let mut last_progress = Instant::now();
    let mut pause = Duration::from_millis(1);
    while queued > 0 && last_progress.elapsed() < patience {
        tokio::select! {
            error = client.failed() => return gone(client, &error),
            () = sleep(pause) => {}
        }
        let before = std::mem::replace(&mut queued, client.unacknowledged());
        if queued != before {
            last_progress = Instant::now();
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    CloseReason::Finished.into()
}
