//! Reads the PROXY header by which a proxy in front of us tells who the client is.
//!
//! Whether one comes is the mapping's to say, and is never guessed; whose is believed, too. The header is looked at where
//! it lies and no byte behind it is taken, so what follows is moved as that of any other connection. Until it is whole,
//! the target hears of nothing: whoever sends something else, or too slowly, has never been there.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;

use crate::forward::registry::Record;
use crate::forward::relay::{Leg, Outcome};
use crate::model::event::{CloseReason, Side};
use crate::model::identity::contains;
use crate::model::untrusted::SafeText;
use crate::wire::proxy::{MOST, Parsed, Told, Transport, parse};

/// A whole header is to be there so soon. The specification wants three seconds at least, for a segment that is lost.
const WITHIN: Duration = Duration::from_secs(5);

/// Looked at first. Both versions are meant to fit into the smallest segment that every host takes.
const USUAL: usize = 536;

/// Whether a header of `peer` is to be believed.
pub(super) fn check_peer(trusted: &[IpNet], peer: IpAddr) -> Result<(), Outcome> {
    if contains(trusted, peer) {
        return Ok(());
    }
    let peer = peer.to_canonical();
    Err(rejected(&format!("{peer} is not in trusted_cidrs, whose PROXY headers alone are read")))
}

/// Reads the header and notes what it tells. An error is the end of the connection.
pub(super) async fn read(client: &Leg, record: &Record) -> Result<(), Outcome> {
    let told = tokio::select! {
        biased;
        () = record.kill.heard() => return Err(Outcome::killed(record)),
        told = timeout(WITHIN, header(client)) => told.unwrap_or_else(|_| {
            Err(rejected(&format!("no whole PROXY header within {} seconds", WITHIN.as_secs())))
        })?,
    };
    if let Some(Told { client, listener }) = told {
        record.tell_client(client, listener);
    }
    Ok(())
}

async fn header(client: &Leg) -> Result<Option<Told>, Outcome> {
    let mut room = vec![0; USUAL];
    let mut seen = 0;
    loop {
        let broken = |error| Outcome::broken(Side::Client, &error);
        let arrived = client.peek_beyond(seen, &mut room).await.map_err(broken)?;
        seen = arrived.count;
        match parse(&room[..seen], Transport::Stream) {
            Ok(Parsed::Header { length, told }) => {
                client.take(&mut room[..length]).map_err(broken)?;
                return Ok(told);
            }
            Ok(Parsed::Incomplete) if seen == room.len() => room.resize(MOST, 0),
            Ok(Parsed::Incomplete) if arrived.is_all => {
                let ended = || rejected("the peer has ended before its PROXY header was whole");
                return Err(client.take_error().map_or_else(ended, broken));
            }
            Ok(Parsed::Incomplete) => {}
            Err(malformed) => return Err(rejected(&malformed.to_string())),
        }
    }
}

fn rejected(error: &str) -> Outcome {
    Outcome { reason: CloseReason::Rejected, error: Some(SafeText::new(error)) }
}
