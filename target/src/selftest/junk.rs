//! What memory holds before the data that is waited for: junk that is tagged by
//! round, slot and place, and is never like the data, in no eight bytes of it.

use crate::scatter::{GOLDEN, scatter};

/// Fills `into` with the junk of a slot in a round, which differs from `content`
/// in every eight bytes. Both are as long, whole multiples of eight.
pub(super) fn fill(round: u64, slot: usize, content: &[u8], into: &mut [u8]) {
    let key = scatter(round ^ scatter(slot as u64 ^ GOLDEN));
    let words = into.chunks_exact_mut(8).zip(content.chunks_exact(8));
    for ((word, data), place) in words.zip(1u64..) {
        let tag = scatter(key.wrapping_add(place.wrapping_mul(GOLDEN))).to_le_bytes();
        word.copy_from_slice(&tag);
        if *word == *data {
            word.iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn junk_is_unlike_the_data_in_every_eight_bytes(
            round: u64, slot in 0usize..256, data in proptest::collection::vec(any::<u64>(), 1..64),
            like in any::<bool>(),
        ) {
            let mut content: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut junk = vec![0; content.len()];
            if like {
                // Data that happens to be what the junk would be.
                fill(round, slot, &vec![0; junk.len()], &mut content);
            }
            fill(round, slot, &content, &mut junk);
            for (a, b) in junk.chunks(8).zip(content.chunks(8)) {
                prop_assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn junk_differs_by_round_by_slot_and_by_place() {
        let of = |round, slot| {
            let mut junk = [0; 128];
            fill(round, slot, &[0; 128], &mut junk);
            junk
        };
        let first = of(1, 1);
        for other in [of(2, 1), of(1, 2)] {
            assert!(first.chunks(8).zip(other.chunks(8)).all(|(a, b)| a != b));
        }
        assert_ne!(first[..64], first[64..]);
    }
}
