//! What a round carries: text, a different one each time, that ends with a zero
//! byte, since rping's server sends back what it read as a string.

use std::io::Write;

const FIRST: u8 = b'A';
const LAST: u8 = b'z';

/// Fills `into` for one round of one line.
pub(super) fn fill(into: &mut [u8], line: usize, round: u64) {
    let Some((end, text)) = into.split_last_mut() else {
        return;
    };
    *end = 0;
    let mut rest = &mut *text;
    // Where it does not fit, what fits is there.
    let _ = write!(rest, "{line} {round} sidelane ping ");
    let letters = (FIRST..=LAST).cycle().skip((round % 58) as usize);
    for (byte, letter) in rest.iter_mut().zip(letters) {
        *byte = letter;
    }
}

/// The first byte in which two texts differ.
pub(super) fn difference(sent: &[u8], came: &[u8]) -> Option<usize> {
    if sent == came {
        return None;
    }
    let same = sent.iter().zip(came).take_while(|(a, b)| a == b);
    Some(same.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(len: usize, line: usize, round: u64) -> Vec<u8> {
        let mut text = vec![0xff; len];
        fill(&mut text, line, round);
        text
    }

    proptest! {
        #[test]
        fn a_string_fills_its_buffer_to_the_last_byte(
            len in 1usize..300, line in 0usize..64, round: u64,
        ) {
            let text = text(len, line, round);
            prop_assert_eq!(text.iter().position(|byte| *byte == 0), Some(len - 1));
        }

        #[test]
        fn neighbours_carry_something_else(
            len in super::super::MIN_SIZE as usize..300, line in 0usize..64, round in 0..u64::MAX,
        ) {
            let own = text(len, line, round);
            prop_assert_eq!(difference(&own, &own), None);
            prop_assert!(difference(&own, &text(len, line, round + 1)).is_some());
            prop_assert!(difference(&own, &text(len, line + 1, round)).is_some());
        }
    }
}
