//! Which queues of a controller are connected.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most queues that a controller can have, the admin queue included.
pub const QUEUES_MAX: u16 = 256;

/// A set of queue identifiers below [`QUEUES_MAX`], shared by the reactors.
#[derive(Debug, Default)]
pub struct QidSet([AtomicU64; QUEUES_MAX as usize / 64]);

impl QidSet {
    fn word(&self, qid: u16) -> Option<(&AtomicU64, u64)> {
        Some((self.0.get(usize::from(qid / 64))?, 1 << (qid % 64)))
    }

    /// Adds an identifier; `false` when it is there already, or too great.
    pub fn claim(&self, qid: u16) -> bool {
        self.word(qid)
            .is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Takes an identifier out.
    pub fn release(&self, qid: u16) {
        if let Some((word, bit)) = self.word(qid) {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Whether an identifier is in the set.
    pub fn contains(&self, qid: u16) -> bool {
        self.word(qid)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// How many identifiers are in the set.
    pub fn len(&self) -> u32 {
        self.0
            .iter()
            .map(|word| word.load(Ordering::Acquire).count_ones())
            .sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_claimed_once_until_it_is_released() {
        let set = QidSet::default();
        for qid in [0, 1, 63, 64, 255] {
            assert!(set.claim(qid));
            assert!(!set.claim(qid));
            assert!(set.contains(qid));
        }
        assert_eq!(set.len(), 5);
        set.release(64);
        assert!(!set.contains(64));
        assert!(set.claim(64));
    }

    #[test]
    fn an_identifier_past_the_end_is_never_claimed() {
        let set = QidSet::default();
        for qid in [QUEUES_MAX, u16::MAX] {
            assert!(!set.claim(qid));
            set.release(qid);
            assert!(!set.contains(qid));
        }
        assert!(set.is_empty());
    }
}
