//! Tells the target who its client is, before either of them says a word: a PROXY header, where the mapping wants one.
//!
//! It is no payload, and not counted as such. A new connection's send queue is empty and takes it whole at once; what
//! else can happen is for the sake of the rule that no payload goes ahead of it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::forward::registry::{OpenConnection, Record};
use crate::forward::relay::{Leg, Outcome};
use crate::model::event::CloseReason;
use crate::model::identity::Identity;
use crate::model::untrusted::SafeText;
use crate::wire::proxy::{Told, Transport, version_1, version_2};

/// So long may a target take nothing of a header.
const WITHIN: Duration = Duration::from_secs(5);

/// The way of a header to the target.
pub(super) enum Sending<'a> {
    /// It is sent, or will never be.
    Over(Result<(), Unsent>),
    /// It takes time. Apart, so that a connection that stands does not keep the room that waiting takes.
    Underway(Pin<Box<dyn Future<Output = Result<(), Unsent>> + Send + 'a>>),
}

/// Why a header was not sent.
pub(super) enum Unsent {
    /// The target is gone; what it had sent before may still be received.
    Broken(io::ErrorKind),
    /// The connection has come to its end.
    Over(Outcome),
}

/// The header that the target is to read first, if any.
pub(super) fn header(identity: Identity, connection: &OpenConnection) -> Option<Vec<u8>> {
    let record = connection.record();
    let told = || Told { client: record.client(), listener: record.dialled() };
    match identity {
        Identity::ProxyV1 => Some(version_1(told())),
        Identity::ProxyV2 => {
            let config = record.mapping.config();
            Some(version_2(told(), Transport::Stream, &connection.unique_id(), Some(&config.name)))
        }
        Identity::None | Identity::Http | Identity::Alias => None,
    }
}

/// Sends it; mostly it is sent when this returns.
pub(super) fn start<'a>(header: Vec<u8>, target: &'a Leg, record: &'a Record) -> Sending<'a> {
    if let Some(kind) = target.broken() {
        return Sending::Over(Err(Unsent::Broken(kind)));
    }
    match target.send_now(&header) {
        Ok(sent) if sent == header.len() => Sending::Over(Ok(())),
        Ok(sent) => Sending::Underway(Box::pin(rest(header, sent, target, record))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Sending::Underway(Box::pin(rest(header, 0, target, record)))
        }
        Err(error) => Sending::Over(Err(Unsent::of(&error))),
    }
}

/// Sends what comes behind the first `sent` bytes.
async fn rest(header: Vec<u8>, mut sent: usize, target: &Leg, record: &Record) -> Result<(), Unsent> {
    let sending = async {
        while sent < header.len() {
            sent += poll_fn(|cx| target.poll_send(cx, &header[sent..])).await.map_err(|error| Unsent::of(&error))?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        () = record.kill.heard() => Err(Unsent::Over(Outcome::killed(record))),
        sent = timeout(WITHIN, sending) => sent.unwrap_or_else(|_| {
            let error = Some(SafeText::new("the target takes no PROXY header"));
            Err(Unsent::Over(Outcome { reason: CloseReason::Error, error }))
        }),
    }
}

impl Unsent {
    fn of(error: &io::Error) -> Self {
        Self::Broken(error.kind())
    }
}
