//! Datagrams of a proxy in front of us, each with a PROXY header that tells for whom it is: the header is taken off, and
//! the flow is that client's.
//!
//! Whose headers are believed is the mapping's to say. A datagram of anybody else, or without a right header, is dropped
//! and counted, opens no flow, and is told of as a refusal.

use std::time::Instant;

use super::packet::{Piece, Scratch};
use super::runs::Run;
use super::serve::{Listener, Pending};
use super::table::FlowKey;
use crate::model::identity::contains;
use crate::model::profile::MappingConfig;
use crate::wire::proxy::{Parsed, Transport, parse};

impl Listener {
    /// Takes apart what a slot holds: several datagrams, if the kernel has merged them, of which each has a header of its
    /// own. Those of one client that follow each other leave together all the same.
    pub(super) fn take_headed(
        &mut self,
        config: &MappingConfig,
        key: FlowKey,
        arrived: &Run,
        pending: &mut Option<Pending>,
        scratch: &mut Scratch,
        now: Instant,
    ) {
        let peer = key.client.ip();
        if !contains(&config.trusted_cidrs, peer) {
            let why = || format!("{peer} is not in trusted_cidrs, whose PROXY headers alone are read");
            return self.reject(key, arrived.datagrams, why, now);
        }
        let slot = arrived.slots.start;
        for start in (0..arrived.datagrams).map(|nth| nth * arrived.segment) {
            let end = arrived.bytes.min(start + arrived.segment);
            match parse(&scratch.inbox.payload(slot)[start..end], Transport::Datagram) {
                Ok(Parsed::Header { length, told }) => {
                    let piece = Piece { slot, bytes: start + length..end };
                    self.take_piece(FlowKey { told, ..key }, piece, pending, scratch, now);
                }
                Ok(Parsed::Incomplete) => {
                    self.reject(key, 1, || "a datagram without a whole PROXY header".to_owned(), now);
                }
                Err(malformed) => self.reject(key, 1, || malformed.to_string(), now),
            }
        }
    }

    fn take_piece(
        &mut self,
        key: FlowKey,
        piece: Piece,
        pending: &mut Option<Pending>,
        scratch: &mut Scratch,
        now: Instant,
    ) {
        let next = |scratch: &Scratch| Run::new(scratch.pieces.len(), piece.bytes.len(), None);
        let run = next(scratch);
        if !pending.as_mut().is_some_and(|pending| pending.key == key && pending.run.extend(&run)) {
            // Before another flow may push this one out. It leaves no piece behind.
            self.forward(pending.take(), scratch, now);
            *pending = self.pending(key, next(scratch), now);
            if pending.is_none() {
                return;
            }
        }
        scratch.pieces.push(piece);
    }
}
