//! What the demo writes: data of which every eight bytes depend on the block
//! they belong to, on a seed and on the pass, so that data of another block,
//! another namespace or an earlier pass is never taken for the right one.

use crate::scatter::{GOLDEN, scatter};

/// The source of a pass over one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Differs from namespace to namespace.
    pub seed: u64,
    /// Counts passes over one namespace.
    pub pass: u32,
    /// Bytes of a logical block, a multiple of 8.
    pub block_bytes: usize,
}

/// How data differs from what was expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Bytes that are wrong.
    pub bytes: u64,
    /// The first of them: its logical block, and the byte in that block.
    pub first: Option<(u64, usize)>,
}

impl Difference {
    /// Takes another part's differences in, which lie behind this one's or
    /// anywhere else: the lowest block is kept as the first.
    pub fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl Pattern {
    /// Fills whole blocks, the first of which is `lba`.
    pub fn fill(&self, lba: u64, data: &mut [u8]) {
        for (block, lba) in data.chunks_mut(self.block_bytes).zip(lba..) {
            let key = self.key(lba);
            for (word, n) in block.chunks_mut(8).zip(1u64..) {
                let bytes = scatter(key.wrapping_add(n.wrapping_mul(GOLDEN))).to_le_bytes();
                word.copy_from_slice(&bytes[..word.len()]);
            }
        }
    }

    /// Compares every byte with `expected`, which [`Self::fill`] made for `lba`.
    pub fn compare(&self, lba: u64, found: &[u8], expected: &[u8]) -> Difference {
        if found == expected {
            return Difference::default();
        }
        let mut difference = Difference::default();
        for (at, _) in found
            .iter()
            .zip(expected)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            let place = (lba + (at / self.block_bytes) as u64, at % self.block_bytes);
            difference.merge(Difference {
                bytes: 1,
                first: Some(place),
            });
        }
        // A length that differs is a difference too, if only of the caller's.
        difference.bytes += found.len().abs_diff(expected.len()) as u64;
        difference
    }

    fn key(&self, lba: u64) -> u64 {
        let pass = scatter(u64::from(self.pass).wrapping_add(GOLDEN));
        scatter(lba ^ scatter(self.seed ^ pass))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const PATTERN: Pattern = Pattern {
        seed: 1,
        pass: 0,
        block_bytes: 512,
    };

    fn filled(pattern: Pattern, lba: u64, blocks: usize) -> Vec<u8> {
        let mut data = vec![0; blocks * pattern.block_bytes];
        pattern.fill(lba, &mut data);
        data
    }

    #[test]
    fn a_block_is_the_same_wherever_a_command_begins() {
        let three = filled(PATTERN, 7, 3);
        assert_eq!(three[512..1024], filled(PATTERN, 8, 1));
    }

    #[test]
    fn no_eight_bytes_are_the_same_in_other_blocks_seeds_or_passes() {
        let mut words = HashSet::new();
        for (seed, pass, lba) in [(1, 0, 0), (1, 0, 64), (1, 1, 0), (2, 0, 0)] {
            let data = filled(
                Pattern {
                    seed,
                    pass,
                    block_bytes: 512,
                },
                lba,
                64,
            );
            words.extend(data.chunks(8).map(<[u8]>::to_vec));
        }
        assert_eq!(words.len(), 4 * 64 * 64);
    }

    #[test]
    fn one_wrong_byte_is_found_with_its_place() {
        let expected = filled(PATTERN, 100, 4);
        for at in [0, 511, 512, 2047] {
            let mut found = expected.clone();
            found[at] ^= 0x10;
            let difference = PATTERN.compare(100, &found, &expected);
            let place = (100 + at as u64 / 512, at % 512);
            assert_eq!(
                difference,
                Difference {
                    bytes: 1,
                    first: Some(place)
                }
            );
        }
        assert_eq!(
            PATTERN.compare(100, &expected, &expected),
            Difference::default()
        );
        assert_eq!(PATTERN.compare(100, &expected[..2040], &expected).bytes, 8);
    }
}
