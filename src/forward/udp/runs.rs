//! Which datagrams may leave in one send: those of one flow that were received one after the other, all of one size
//! but the last, which may be shorter (`UDP_SEGMENT`, Linux 4.18). Pure: it knows slots and lengths, no sockets.

use std::ops::Range;

/// Datagrams of one send; the kernel takes no more (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub(super) const MOST: usize = 64;

/// Bytes of one send: what fits into one packet of either family, with room for its headers.
pub(super) const LONGEST: usize = 65_000;

/// Slots in a row, whose datagrams leave together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where the datagrams are.
    pub(super) slots: Range<usize>,
    /// Bytes of all of them.
    pub(super) bytes: usize,
    /// How many they are.
    pub(super) datagrams: usize,
    /// Bytes of each of them but the last.
    pub(super) segment: usize,
}

impl Run {
    /// What one slot holds: a datagram of `length` bytes, or several of `segment` bytes that the kernel has merged.
    pub(super) fn new(slot: usize, length: usize, segment: Option<usize>) -> Self {
        let segment = segment.filter(|segment| (1..length).contains(segment)).unwrap_or(length);
        // An empty datagram is one, too.
        let datagrams = length.div_ceil(segment.max(1)).max(1);
        Self { slots: slot..slot + 1, bytes: length, datagrams, segment }
    }

    /// Takes another run of the same flow along, if it begins where this one ends and suits it.
    pub(super) fn extend(&mut self, next: &Self) -> bool {
        let is_whole = self.segment > 0 && self.bytes == self.datagrams * self.segment;
        let suits = next.segment == self.segment || (next.datagrams == 1 && (1..self.segment).contains(&next.bytes));
        let fits = self.datagrams + next.datagrams <= MOST && self.bytes + next.bytes <= LONGEST;
        let takes = next.slots.start == self.slots.end && is_whole && suits && fits;
        if takes {
            self.slots.end = next.slots.end;
            self.bytes += next.bytes;
            self.datagrams += next.datagrams;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The datagrams' lengths as the kernel cuts a send into segments.
    fn cut(bytes: usize, segment: usize) -> Vec<usize> {
        if bytes == 0 {
            return vec![0];
        }
        (0..bytes).step_by(segment.max(1)).map(|at| segment.min(bytes - at)).collect()
    }

    #[test]
    fn the_shorter_one_is_the_last_one() {
        let mut run = Run::new(0, 1_000, Some(400));
        assert_eq!((run.datagrams, run.segment), (3, 400));
        assert!(!run.extend(&Run::new(1, 400, None)), "behind a shorter one comes another send");
        let mut run = Run::new(0, 400, None);
        assert!(!run.clone().extend(&Run::new(2, 400, None)), "not the next slot");
        assert!(!run.clone().extend(&Run::new(1, 0, None)), "an empty one goes by itself");
        assert!(!run.clone().extend(&Run::new(1, 401, None)), "a longer one");
        assert!(run.extend(&Run::new(1, 800, Some(400))) && run.extend(&Run::new(2, 399, None)));
        assert_eq!(run, Run { slots: 0..3, bytes: 1_599, datagrams: 4, segment: 400 });
        assert!(!Run::new(0, 0, None).extend(&Run::new(1, 0, None)), "two empty ones are two sends");
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_once_whole_and_in_order(
            // Sizes repeat as they do in bulk, and the kernel has merged some.
            slots in prop::collection::vec((prop_oneof![Just(0_usize), Just(1), Just(1_200), Just(1_400), 0..9_000_usize], 1..64_usize), 1..64),
        ) {
            let arrived: Vec<(usize, Option<usize>)> = slots
                .iter()
                .map(|&(size, count)| {
                    let count = count.min(65_507 / size.max(1)).max(1);
                    if size == 0 || count == 1 { (size, None) } else { (size * count - size / 3, Some(size)) }
                })
                .collect();
            let mut runs: Vec<Run> = Vec::new();
            for (slot, &(length, segment)) in arrived.iter().enumerate() {
                let next = Run::new(slot, length, segment);
                if !runs.last_mut().is_some_and(|run| run.extend(&next)) {
                    runs.push(next);
                }
            }
            let expected: Vec<usize> =
                arrived.iter().flat_map(|&(length, segment)| cut(length, segment.unwrap_or(length))).collect();
            let left: Vec<usize> = runs.iter().flat_map(|run| cut(run.bytes, run.segment)).collect();
            prop_assert_eq!(left, expected);
            for run in &runs {
                prop_assert_eq!(run.datagrams, cut(run.bytes, run.segment).len());
                prop_assert!(run.slots.len() == 1 || (run.datagrams <= MOST && run.bytes <= LONGEST));
            }
        }
    }
}
