//! Replies: gathered from the flows that have some, and sent to their clients many at a time.
//!
//! They keep their order within a flow. One that cannot be sent is dropped and counted, and costs no other.

use std::io::{self, IoSlice};
use std::time::Instant;

use nix::errno::Errno;

use super::flow::Received;
use super::packet::{Reply, SLOTS, Scratch, is_too_much, parts, send_one, to_client};
use super::runs::Run;
use super::serve::{Listener, fenced};
use super::table::{FlowId, FlowKey};
use crate::forward::meter::{Direction, MappingMeter};
use crate::forward::sys::datagrams::{Inbox, Outbox, Outgoing};

/// Errors of a flow in a row that are taken note of before the next flow's turn.
const ERRORS: usize = 16;

/// Replies, or runs of them, that go before the next batch of clients' datagrams, until there are so many.
const FIRST: usize = 8 * SLOTS;

impl Listener {
    /// Forwards what waits, of a batch of flows.
    pub(super) fn take_replies(&mut self, scratch: &mut Scratch, now: Instant) -> io::Result<()> {
        scratch.ready.clear();
        if let Some(poller) = &self.poller {
            poller.ready(&mut scratch.ready)?;
        }
        self.forward_replies(scratch, now);
        Ok(())
    }

    /// Where clients send more than can be had, what the targets have answered goes before it: a datagram that is lost
    /// on its way back has cost more than one that is lost at the door. Within bounds, since a target may have no end
    /// of replies.
    pub(super) fn take_replies_first(&mut self, scratch: &mut Scratch, now: Instant) -> io::Result<()> {
        let mut forwarded = 0;
        while let Some(poller) = &self.poller
            && forwarded < FIRST
        {
            match poller.look(&mut scratch.ready) {
                Ok(()) if scratch.ready.is_empty() => break,
                Ok(()) => forwarded += self.forward_replies(scratch, now).max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forwards what waits, of the flows in `scratch.ready`; returns how many slots it filled.
    pub(super) fn forward_replies(&mut self, scratch: &mut Scratch, now: Instant) -> usize {
        let (mut filled, mut all) = (0, 0);
        scratch.replies.clear();
        for at in 0..scratch.ready.len() {
            if filled == SLOTS {
                self.send_replies(scratch, filled);
                filled = 0;
            }
            let id = scratch.ready[at];
            match fenced(|| self.gather(id, scratch, filled, now)) {
                Some(count) => (filled, all) = (filled + count, all + count),
                None => self.fault(Some(id)),
            }
        }
        self.send_replies(scratch, filled);
        all
    }

    /// Receives a flow's replies into the slots from `first` on; returns how many it has filled.
    fn gather(&mut self, id: FlowId, scratch: &mut Scratch, first: usize, now: Instant) -> usize {
        let Some((key, flow)) = self.table.get_mut(id) else { return 0 };
        let (meter, inbox) = (&self.context.meter, &mut scratch.inbox);
        for _ in 0..ERRORS {
            match flow.receive(inbox, first..SLOTS, meter, now) {
                Received::Nothing => return 0,
                Received::Error => {}
                Received::Replies(count) => {
                    let mut taken = 0;
                    for slot in first..first + count {
                        taken += take(inbox, slot, id, key, &mut scratch.replies, meter);
                    }
                    // Two replies say as much of a flow as many.
                    for _ in 0..taken.min(2) {
                        self.table.touch(id, Direction::Out, now);
                    }
                    return count;
                }
            }
        }
        0
    }

    /// Sends the replies in the first `filled` slots.
    fn send_replies(&mut self, scratch: &mut Scratch, filled: usize) {
        let Scratch { inbox, outbox, replies, .. } = scratch;
        if replies.is_empty() {
            return;
        }
        // A flow whose work has panicked is gone, and what it had filled of the slots may be another's by now.
        replies.retain(|reply| {
            let stands = self.table.get_mut(reply.flow).is_some();
            if !stands {
                self.context.meter.drop_datagrams(reply.run.datagrams as u64);
            }
            stands
        });
        let parts = parts(inbox, 0..filled);
        let mut outgoing = Vec::with_capacity(replies.len());
        for reply in replies.iter() {
            outgoing.push(to_client(&reply.key, &parts[reply.run.slots.clone()], &reply.run));
        }
        let mut sent = 0;
        while let (Some(reply), Some(first)) = (replies.get(sent), outgoing.get(sent)) {
            if reply.run.datagrams > 1 && !self.takes_run(reply) {
                self.send_singly(outbox, reply, first);
                sent += 1;
                continue;
            }
            match outbox.send(&self.socket, &outgoing[sent..]) {
                Ok(count) => {
                    for reply in &replies[sent..sent + count] {
                        self.count(reply);
                        if reply.run.datagrams > 1 {
                            self.context.meter.count_run(true);
                        }
                    }
                    sent += count;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    if is_too_much(errno)
                        && let Some((_, flow)) = self.table.get_mut(reply.flow)
                        && reply.run.datagrams > 1
                    {
                        flow.refuses_run(Direction::Out, &reply.run);
                    }
                    self.send_singly(outbox, reply, first);
                    sent += 1;
                }
            }
        }
        drop(outgoing);
        replies.clear();
    }

    /// Sends one by one what was, or would be, refused as one, or in whose place an error was told.
    fn send_singly(&mut self, outbox: &mut Outbox, reply: &Reply, refused: &Outgoing<'_>) {
        if reply.run.datagrams > 1 {
            self.context.meter.count_run(false);
        }
        for part in refused.parts {
            // An empty datagram is one, too.
            let empty = part.is_empty().then_some(&part[..]);
            for datagram in part.chunks(reply.run.segment.max(1)).chain(empty) {
                let single = [IoSlice::new(datagram)];
                let outgoing = Outgoing { parts: &single, segment: None, ..*refused };
                match send_one(outbox, &self.socket, &outgoing) {
                    Ok(()) => self.count(&Reply { run: Run::new(0, datagram.len(), None), ..reply.clone() }),
                    Err(errno) => {
                        self.context.meter.drop_datagrams(1);
                        tracing::debug!(client = %reply.key.client, %errno, "a reply was not sent");
                    }
                }
            }
        }
    }

    fn takes_run(&mut self, reply: &Reply) -> bool {
        self.table.get_mut(reply.flow).is_some_and(|(_, flow)| flow.takes_run(Direction::Out, &reply.run))
    }

    fn count(&mut self, reply: &Reply) {
        if let Some((_, flow)) = self.table.get_mut(reply.flow) {
            flow.count(Direction::Out, &reply.run);
        }
    }
}

/// Enters a slot as the flow's next reply; returns how many datagrams it holds.
fn take(
    inbox: &Inbox,
    slot: usize,
    flow: FlowId,
    key: FlowKey,
    replies: &mut Vec<Reply>,
    meter: &MappingMeter,
) -> usize {
    let datagram = inbox.datagram(slot);
    let run = Run::new(slot, datagram.length, datagram.segment);
    let count = run.datagrams;
    if datagram.is_truncated {
        meter.drop_datagrams(count as u64);
        return 0;
    }
    if !replies.last_mut().is_some_and(|last| last.flow == flow && last.run.extend(&run)) {
        replies.push(Reply { flow, key, run });
    }
    count
}
