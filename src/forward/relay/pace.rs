//! When a direction is bulk, and when it is small talk again. Pure: it sees sizes alone.
//!
//! Splicing copies nothing, and costs two calls and a pipe a turn; it pays from some ten kilobytes a turn on.

/// A read of at least so much is a large one,
const LARGE: usize = 16 * 1024;
/// and so many of them in a row,
const LARGE_IN_A_ROW: u8 = 2;
/// after so much in all, make a direction bulk.
const BULK_FROM: u64 = 64 * 1024;

/// A pipe's worth that is smaller is small talk.
const SMALL: usize = 4 * 1024;
/// So much small talk in a row ends the splicing.
const SMALL_IN_A_ROW: u8 = 4;

/// The sizes of late, as far as they matter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// All that was received by copying.
    copied: u64,
    large: u8,
    small: u8,
}

impl Pace {
    /// So much was received by copying.
    pub(super) fn copied(&mut self, count: usize) {
        self.copied = self.copied.saturating_add(count as u64);
        self.large = if count >= LARGE { self.large.saturating_add(1) } else { 0 };
    }

    /// So much was received by splicing.
    pub(super) fn spliced(&mut self, count: usize) {
        self.small = if count < SMALL { self.small.saturating_add(1) } else { 0 };
    }

    /// Whether splicing would serve better than copying.
    pub(super) fn is_bulk(&self) -> bool {
        self.copied >= BULK_FROM && self.large >= LARGE_IN_A_ROW
    }

    /// Whether copying would serve better than splicing.
    pub(super) fn is_small_talk(&self) -> bool {
        self.small >= SMALL_IN_A_ROW
    }

    /// The path has changed: what comes on the new one decides.
    pub(super) fn restart(&mut self) {
        (self.large, self.small) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Turn {
        Received(usize),
        /// As when no pipe is to be had, or somebody wants to see the bytes.
        Forced,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let size = prop_oneof![1..SMALL, Just(SMALL), SMALL..LARGE, Just(LARGE), LARGE..256 * 1024];
        prop::collection::vec(prop_oneof![9 => size.prop_map(Turn::Received), 1 => Just(Turn::Forced)], 0..200)
    }

    proptest! {
        /// The model remembers everything and looks back; the direction follows the answers as the relay does.
        #[test]
        fn decides_as_one_who_remembers_everything(turns in turns()) {
            let mut pace = Pace::default();
            let mut splices = false;
            let (mut copied, mut since) = (0_u64, Vec::new());
            for turn in turns {
                match turn {
                    Turn::Received(size) => {
                        since.push(size);
                        if splices {
                            pace.spliced(size);
                        } else {
                            pace.copied(size);
                            copied += size as u64;
                        }
                    }
                    Turn::Forced => {}
                }
                let is_last = |count: usize, fits: &dyn Fn(usize) -> bool| {
                    since.len() >= count && since[since.len() - count..].iter().all(|size| fits(*size))
                };
                let changes = if splices {
                    let expected = is_last(4, &|size| size < 4_096);
                    prop_assert_eq!(pace.is_small_talk(), expected);
                    expected || matches!(turn, Turn::Forced)
                } else {
                    let expected = copied >= 65_536 && is_last(2, &|size| size >= 16_384);
                    prop_assert_eq!(pace.is_bulk(), expected);
                    expected && !matches!(turn, Turn::Forced)
                };
                if changes {
                    splices = !splices;
                    pace.restart();
                    since.clear();
                }
            }
        }
    }
}
