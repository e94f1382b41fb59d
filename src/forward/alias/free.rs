//! Which slots of a pool are free: a bit for each, and a bit for each 64 of those, so that the next free one is found in
//! a few steps however full the pool is.

/// A set of small numbers, all of which are in it at first.
#[derive(Debug)]
pub(super) struct FreeSlots {
    words: Vec<u64>,
    /// The words that have a bit.
    summary: Vec<u64>,
}

const WORD: usize = u64::BITS as usize;

impl FreeSlots {
    /// Of so many slots.
    pub(super) fn new(size: u32) -> Self {
        let words = full(size as usize);
        let summary = full(words.len());
        Self { words, summary }
    }

    /// Takes the first free slot from `from` on, and from 0 on after the last.
    pub(super) fn take(&mut self, from: u32) -> Option<u32> {
        let slot = self.next(from).or_else(|| self.next(0))?;
        self.remove(slot);
        Some(slot)
    }

    /// Takes this slot; false when it is not free.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        let (word, bit) = place(slot as usize);
        let Some(bits) = self.words.get_mut(word) else { return false };
        let was_free = *bits & bit != 0;
        *bits &= !bit;
        if *bits == 0 {
            let (word, bit) = place(word);
            self.summary[word] &= !bit;
        }
        was_free
    }

    /// What it takes of memory.
    pub(super) fn bytes(&self) -> usize {
        (self.words.capacity() + self.summary.capacity()) * size_of::<u64>()
    }

    fn next(&self, from: u32) -> Option<u32> {
        let from = from as usize;
        let found = first(&self.words, from, from / WORD + 1).or_else(|| {
            let word = first(&self.summary, from / WORD + 1, self.summary.len())?;
            first(&self.words, word * WORD, word + 1)
        })?;
        u32::try_from(found).ok()
    }
}

/// The first bit that is set from `from` on, in the words before `end`.
fn first(words: &[u64], from: usize, end: usize) -> Option<usize> {
    let mut mask = u64::MAX << (from % WORD);
    for word in from / WORD..end {
        let bits = words.get(word)? & mask;
        if bits != 0 {
            return Some(word * WORD + bits.trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

fn place(number: usize) -> (usize, u64) {
    (number / WORD, 1 << (number % WORD))
}

/// `size` bits that are set.
fn full(size: usize) -> Vec<u64> {
    let mut words = vec![u64::MAX; size.div_ceil(WORD)];
    if let (Some(last), left @ 1..) = (words.last_mut(), size % WORD) {
        *last = (1 << left) - 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_gives_what_a_plain_set_gives(size in 1u32..9_000, asked in prop::collection::vec(any::<u32>(), 0..300)) {
            let mut free = FreeSlots::new(size);
            let mut plain: BTreeSet<u32> = (0..size).collect();
            // Few numbers again and again, so that there are long runs without a free one.
            for from in asked.into_iter().map(|from| from % size % 150) {
                let expected = plain.range(from..).next().or_else(|| plain.first()).copied();
                prop_assert_eq!(free.take(from), expected);
                expected.map(|slot| plain.remove(&slot));
            }
        }
    }

    #[test]
    fn the_last_free_one_is_found_from_wherever_it_is_looked_for() {
        const SIZE: u32 = 131_070;
        for last in [0, 63, 64, 4_095, 4_096, 70_000, SIZE - 1] {
            for from in [0, 1, 63, 64, 65_535, SIZE - 1] {
                let mut free = FreeSlots::new(SIZE);
                (0..SIZE).filter(|slot| *slot != last).for_each(|slot| assert!(free.remove(slot)));
                assert_eq!((free.take(from), free.take(from)), (Some(last), None), "{last} from {from}");
            }
        }
        let mut free = FreeSlots::new(SIZE);
        assert!(free.remove(5) && !free.remove(5) && !free.remove(SIZE));
    }
}
