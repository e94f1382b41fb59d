//! A flow's datagrams towards its target: in as few sends as the kernel takes them in, with the PROXY header ahead of each
//! where there is one.

use std::io::{self, IoSlice};
use std::time::Instant;

use nix::errno::Errno;
use socket2::SockRef;

use super::flow::{Flow, errno};
use super::packet::{SEND_TRIES, is_full, is_too_much, segment_of};
use super::runs::{LONGEST, MOST, Run};
use crate::forward::meter::{Direction, MappingMeter};
use crate::forward::sys::datagrams::{Outbox, Outgoing};

impl Flow {
    /// Forwards a datagram of the client. What the kernel does not take is dropped and counted.
    pub(super) fn send(&mut self, payload: &[u8], meter: &MappingMeter, now: Instant) {
        let mut tries = 1;
        loop {
            self.asked.get_or_insert(now);
            let sent = match &self.header {
                None => self.socket.send(payload),
                Some(header) => {
                    SockRef::from(&self.socket).send_vectored(&[IoSlice::new(header), IoSlice::new(payload)])
                }
            };
            match sent {
                Ok(_) => {
                    self.record.record().counters.add_datagrams(Direction::In, 1, payload.len() as u64);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error, meter, now);
                    // Most errors here are those of an earlier datagram, told now in place of sending this one.
                    if tries == SEND_TRIES || is_full(errno(&error)) {
                        meter.drop_datagrams(1);
                        return;
                    }
                    tries += 1;
                }
            }
        }
    }

    /// Forwards datagrams of the client, in one send where the kernel takes them so.
    pub(super) fn send_run(
        &mut self,
        run: &Run,
        parts: &[IoSlice<'_>],
        outbox: &mut Outbox,
        meter: &MappingMeter,
        now: Instant,
    ) {
        if let Some(header) = self.header.clone() {
            return self.send_headed(&header, run, parts, outbox, meter, now);
        }
        if self.takes_run(Direction::In, run) {
            let all = Outgoing { parts, to: None, from: None, segment: segment_of(run) };
            if self.send_together(&all, run, outbox, meter, now) {
                return;
            }
        }
        if run.datagrams > 1 {
            meter.count_run(false);
        }
        for part in parts {
            if part.is_empty() {
                self.send(&[], meter, now);
            }
            for datagram in part.chunks(run.segment.max(1)) {
                self.send(datagram, meter, now);
            }
        }
    }

    /// As [`Flow::send_run`], with the header ahead of each datagram. In one send go as many as fit with it.
    fn send_headed(
        &mut self,
        header: &[u8],
        run: &Run,
        parts: &[IoSlice<'_>],
        outbox: &mut Outbox,
        meter: &MappingMeter,
        now: Instant,
    ) {
        let at_once = (LONGEST / (header.len() + run.segment)).clamp(1, MOST);
        let datagrams: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(run.segment.max(1))).collect();
        if datagrams.is_empty() {
            return self.send(&[], meter, now);
        }
        for some in datagrams.chunks(at_once) {
            let bytes = some.iter().map(|datagram| datagram.len()).sum();
            let part = Run { slots: 0..0, bytes, datagrams: some.len(), segment: run.segment };
            let with_headers = Run { segment: header.len() + run.segment, ..part.clone() };
            if self.takes_run(Direction::In, &with_headers) {
                let pairs: Vec<_> =
                    some.iter().flat_map(|datagram| [IoSlice::new(header), IoSlice::new(datagram)]).collect();
                let all = Outgoing { parts: &pairs, to: None, from: None, segment: segment_of(&with_headers) };
                if self.send_together(&all, &with_headers, outbox, meter, now) {
                    continue;
                }
            }
            if some.len() > 1 {
                meter.count_run(false);
            }
            for datagram in some {
                self.send(datagram, meter, now);
            }
        }
    }

    /// Sends a run as one. Without success, its datagrams are still to be sent.
    fn send_together(
        &mut self,
        all: &Outgoing<'_>,
        run: &Run,
        outbox: &mut Outbox,
        meter: &MappingMeter,
        now: Instant,
    ) -> bool {
        for _ in 0..SEND_TRIES {
            self.asked.get_or_insert(now);
            match outbox.send(&self.socket, std::slice::from_ref(all)) {
                Ok(_) => {
                    self.count(Direction::In, run);
                    meter.count_run(true);
                    return true;
                }
                Err(Errno::EINTR) => {}
                Err(errno) if is_too_much(errno) => {
                    self.refuses_run(Direction::In, run);
                    break;
                }
                Err(errno) if is_full(errno) => break,
                // It is of an earlier datagram, told now in place of sending this run.
                Err(errno) => self.failed(&errno.into(), meter, now),
            }
        }
        false
    }

    /// Whether it is a run, and can go out as one that way as far as is known.
    pub(super) fn takes_run(&self, direction: Direction, run: &Run) -> bool {
        run.datagrams > 1 && run.segment < self.singly[usize::from(direction == Direction::Out)]
    }

    /// A run was refused as one.
    pub(super) fn refuses_run(&mut self, direction: Direction, run: &Run) {
        let limit = &mut self.singly[usize::from(direction == Direction::Out)];
        *limit = run.segment.min(*limit);
    }
}
