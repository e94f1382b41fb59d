//! Connections whose requests tell the target who the client is (`identity: http`): HTTP/1.x, and HTTP/2 where the client
//! speaks it from its first byte on.
//!
//! One connection of a client is one to the target, and each request is passed on as it comes, with the fields of
//! [`teller`] and nothing else of its meaning changed; bodies stream through ([`body`]). The framing is hyper's on both
//! sides; what servers understand differently does not come as far ([`channel`]). What a client speaks is spoken to the
//! target too: a request of HTTP/2 goes on as one, so that trailers and resets of gRPC arrive, and needs a target that
//! understands it.
//!
//! Everything of a connection runs in one task ([`turn`], [`tasks`]), in one of the engine's [lanes](super::lanes). Once
//! another protocol is agreed on (status 101), the legs go to the relay like those of any connection, with what was read of
//! them.
//!
//! Rules that users meet:
//! - A head of HTTP/1 may take 60 seconds from its first byte (then 408), and where earlier requests are being answered by
//!   then, from the end of that. The time between requests, and that for one of HTTP/2, is the mapping's `idle_timeout`.
//! - A stream of HTTP/2 that the target resets is reset towards the client for the same reason; one that it has not looked
//!   at when it ends its connection (GOAWAY), as one that may be asked again. Where the connection just breaks, that is
//!   status 502 before a response, and a reset behind its head.
//! - A target that cannot be reached when the client connects is told as with any mapping: by a reset. Later, when its
//!   connection has to be made anew, by status 502 or 504, or 503 for want of descriptors or memory. It is made to where the
//!   mapping leads by then.
//! - A target that ends its connection (GOAWAY) while streams of HTTP/2 go on keeps it until their ends; new requests go to
//!   another one beside it, as long as descriptors are left.
//! - A client that has ended its sending gets the answers to what it has asked; the target sees the end as well.
//! - `CONNECT` is answered with 405 in either version: a tunnel would carry what nobody looks at, to wherever it names.
//!   WebSocket over HTTP/2 (RFC 8441) is not offered, so browsers use HTTP/1.1 for it.
//! - Names of fields are sent in small letters, as HTTP/2 has them and as every server takes them.
//! - A client of HTTP/2 has at most 100 streams at a time. Of bodies a connection holds 256 KiB from either side, and on
//!   their way out a frame or two (16 KiB each) for each stream: less than 1 MiB mostly, some 3 MiB where a client that
//!   does not read has opened all of its streams for that.
//! - HTTP/1.0 may leave out `Host`. As such requests go on as HTTP/1.1, they get one: the host that the request's target
//!   names, else the address that the client dialled.
//! - A request of HTTP/2 whose `Host` is not its `:authority` is answered with 400, as is one that has neither; one that has
//!   `Host` alone gets an `:authority` that says the same.
//! - Interim responses (1xx) are passed on as long as the client takes them; one that does not read does without.
//! - `bytes_in` and `bytes_out` count the messages as they are passed on.
//! - When the program or the mapping drains, each connection ends after the request that it is at.

mod body;
mod census;
mod channel;
mod common;
mod exchange;
mod hop;
mod http2;
mod inspect;
mod parting;
mod readiness;
mod retired;
mod serve;
mod target;
mod tasks;
mod teller;
mod turn;
mod watch;

use std::future::{pending, poll_fn};
use std::io;
use std::sync::{Arc, Mutex};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use self::inspect::Inspector;
pub(crate) use self::target::{Redial, Redialled};

use self::channel::{Channel, Spoken};
use self::common::Common;
use self::exchange::Proxy;
use self::retired::Beside;
use self::serve::{Bounds, End, Served, serve};
use self::target::Target;
use self::tasks::Tasks;
use self::teller::Teller;
use self::watch::HEAD;
use super::meter::Direction;
use super::own::OwnSource;
use super::registry::OpenConnection;
use super::relay::{self, Leg, Outcome, PipePool, Timeouts};
use crate::model::event::{CloseReason, Side};
use crate::model::untrusted::SafeText;
use crate::wire::http::MAX_HEAD;

/// Most that the library buffers of one direction; a head of the largest size fits.
const MAX_BUFFER: usize = 2 * MAX_HEAD;
/// Largest head of HTTP/2, as that counts it.
#[expect(clippy::cast_possible_truncation, reason = "it is 64 KiB")]
const MAX_FIELDS_LIST: u32 = MAX_HEAD as u32;

/// What a peer of HTTP/2 may send us unasked, of one stream and of all together. In an order of magnitude with what the
/// relay takes of a connection; a fast stream over a long way would want more.
const WINDOW: u32 = 256 * 1024;
/// A stream of HTTP/2 gets no more of a body to send while so much of it waits: a frame of the usual size.
const STREAM_BUFFER: usize = 16 * 1024;
/// Streams that a client may have at a time; fewer than 100 are not to be offered (RFC 9113, 6.5.2).
const STREAMS: u32 = 100;

/// What it takes to serve one connection.
pub(crate) struct Plan {
    /// Whether the client is a proxy whose word about its own clients is taken.
    pub(crate) is_trusted: bool,
    /// Reaches the target again.
    pub(crate) redial: Box<Redial>,
    /// Counts a descriptor for another connection to it, while earlier ones still end.
    pub(crate) beside: Box<Beside>,
    /// Cancelled when the connection is to end after the request that it is at.
    pub(crate) drain: CancellationToken,
}

/// A connection with both of its legs.
pub(crate) struct Standing {
    pub(crate) client: Leg,
    pub(crate) target: Leg,
    pub(crate) own: Option<OwnSource>,
}

/// Serves until the connection has ended, and closes its sockets.
pub(crate) async fn run(
    standing: Standing,
    plan: Plan,
    connection: &OpenConnection,
    timeouts: &Timeouts,
    pipes: &PipePool,
) -> Outcome {
    let Standing { client, target, own } = standing;
    let Plan { is_trusted, redial, beside, drain } = plan;
    let record = connection.record();
    record.exchanges();
    let common = Common::new(Arc::clone(record));
    let client = Channel::new(client, Side::Client, Spoken::Http1, Arc::clone(&common));
    let spoken = match begin(&client, connection, timeouts, &drain).await {
        Ok(Some(spoken)) => spoken,
        // It has come and gone without a word; so has its connection to the target.
        Ok(None) => {
            target.finish();
            let (client, _) = sole(client).into_parts();
            return parting::in_order(client, false, timeouts.half_close, connection).await;
        }
        Err(outcome) => {
            let (client, _) = sole(client).into_parts();
            parting::by_reset(client, Some(target), false, connection).await;
            return outcome;
        }
    };
    let tasks = Tasks::default();
    let to = Target::new(&common, spoken, &tasks, redial, beside);
    let teller = Mutex::new(Teller::new(record.client(), is_trusted));
    let proxy = Arc::new(Proxy { common, client, target: to, teller, spoken });
    let served = match proxy.target.stand(target, own).await {
        Ok(()) => {
            if spoken == Spoken::Http2 {
                proxy.common.have_own_streams();
            }
            serve(&proxy, &tasks, &Bounds { connection, timeouts, drain: &drain }).await
        }
        Err(error) => Served { end: End::Served(Err(error)), is_idle: true, read_ahead: Vec::new() },
    };
    tasks.clear();
    conclude(sole(proxy), served, connection, timeouts, pipes).await
}

/// What is held here alone by now.
fn sole<T>(held: Arc<T>) -> T {
    Arc::into_inner(held).expect("the library is gone, and has held the others")
}

/// Waits until it is clear what the client speaks; nothing where it ends, or is to end, before a word.
async fn begin(
    client: &Channel,
    connection: &OpenConnection,
    timeouts: &Timeouts,
    drain: &CancellationToken,
) -> Result<Option<Spoken>, Outcome> {
    let record = connection.record();
    let mut is_kept_alive = false;
    let silence = async {
        match timeouts.idle {
            Some(idle) => sleep(idle).await,
            None => pending().await,
        }
    };
    let spoken = poll_fn(|cx| {
        if !is_kept_alive && record.is_lasting() {
            is_kept_alive = true;
            client.leg.start_keepalive();
        }
        client.poll_spoken(cx)
    });
    let hesitation = async {
        poll_fn(|cx| client.poll_begun(cx)).await;
        sleep(HEAD).await;
    };
    tokio::select! {
        biased;
        () = record.kill.heard() => Err(Outcome::killed(record)),
        spoken = spoken => spoken.map_err(|error| Outcome::broken(Side::Client, &error)),
        // What has come is no beginning of a request either: the gate says so.
        () = hesitation => Ok(Some(Spoken::Http1)),
        () = drain.cancelled() => Ok(None),
        () = silence => Err(CloseReason::IdleTimeout.into()),
    }
}

/// Ends the connection as it has to be, and says how it has ended.
async fn conclude(
    proxy: Proxy,
    served: Served,
    connection: &OpenConnection,
    timeouts: &Timeouts,
    pipes: &PipePool,
) -> Outcome {
    let Proxy { common, client, target, .. } = proxy;
    let Served { end, is_idle, read_ahead } = served;
    let (is_ended, is_between) = (client.is_ended(), client.is_between());
    let unsent = client.take_unsent();
    let (client, rest) = sole(client).into_parts();
    let target = target.into_leg();
    let outcome = match end {
        End::Served(Ok(())) if common.is_upgraded() && !matches!(common.failed(), Some((Side::Client, _))) => {
            let Some((target, [unsent_in, ahead_out], own)) = target else {
                parting::by_reset(client, None, false, connection).await;
                return CloseReason::TargetReset.into();
            };
            let ahead = [[unsent_in, read_ahead, rest].concat(), [unsent, ahead_out].concat()];
            let outcome = tunnel([client, target], ahead, connection, timeouts, pipes).await;
            drop(own);
            return outcome;
        }
        End::Served(result) => outcome(&common, result, is_ended),
        End::Killed => Outcome::killed(connection.record()),
        End::Silence(reason) => reason.into(),
        End::Gone => failed(&common),
    };
    let own = target.map(|(target, _, own)| (target, own));
    let (target, own) = own.map_or((None, None), |(target, own)| (Some(target), own));
    let outcome = if matches!(outcome.reason, CloseReason::Finished | CloseReason::Rejected) {
        match target {
            Some(target) if is_idle => target.finish(),
            Some(target) => relay::reset_now(target, Direction::In, connection.record()),
            None => {}
        }
        let is_sending = !is_ended && !is_between;
        let parted = parting::in_order(client, is_sending, timeouts.half_close, connection).await;
        if parted.reason == CloseReason::Finished { outcome } else { parted }
    } else {
        let is_owed = common.failed().is_none_or(|(side, _)| side == Side::Target)
            && matches!(outcome.reason, CloseReason::TargetReset | CloseReason::Error);
        parting::by_reset(client, target, is_owed, connection).await;
        outcome
    };
    drop(own);
    outcome
}

/// How a connection has ended of which the library says `result`.
fn outcome(common: &Common, result: hyper::Result<()>, is_ended: bool) -> Outcome {
    if let Some(refused) = common.refused() {
        return Outcome { reason: CloseReason::Rejected, error: Some(SafeText::new(&refused.why)) };
    }
    match (result, common.failed(), common.malformation()) {
        (_, Some((Side::Client, _)), _) | (Err(_), Some(_), None) => failed(common),
        (Ok(()), _, _) => CloseReason::Finished.into(),
        (Err(_), _, Some(refusal)) => Outcome::error("target", &io::Error::other(refusal)),
        // It has ended amid a request, of its own will.
        (Err(_), None, None) if is_ended => CloseReason::Finished.into(),
        (Err(error), None, None) => {
            Outcome { reason: CloseReason::Rejected, error: Some(SafeText::new(&error.to_string())) }
        }
    }
}

/// The side that has failed, and how.
fn failed(common: &Common) -> Outcome {
    let (side, error) = common.failed().unwrap_or((Side::Client, io::ErrorKind::ConnectionReset.into()));
    Outcome::broken(side, &error)
}

/// Relays what is not HTTP any more, what was read of it first.
async fn tunnel(
    legs: [Leg; 2],
    ahead: [Vec<u8>; 2],
    connection: &OpenConnection,
    timeouts: &Timeouts,
    pipes: &PipePool,
) -> Outcome {
    let outcome = relay::run_behind(ahead, &legs, connection, timeouts, pipes).await;
    let [client, target] = legs;
    if outcome.reason == CloseReason::Finished {
        relay::finish([client, target]);
    } else {
        relay::reset(client, Some(target), connection).await;
    }
    outcome
}
