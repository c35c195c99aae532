//! Packet sequence numbers: 24 bits that wrap.
//!
//! InfiniBand Architecture, volume 1, 9.7.1: numbers are compared in a window
//! of half the space, so of two numbers the later one is at most 2^23 - 1 ahead.
#![forbid(unsafe_code)]

use std::fmt;

const MASK: u32 = 0x00ff_ffff;
const HALF: u32 = 0x0080_0000;

/// A packet sequence number.
///
/// Not ordered as numbers are: see [`Psn::since`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Psn(u32);

impl Psn {
    /// The lower 24 bits of `value`.
    pub const fn new(value: u32) -> Self {
        Self(value & MASK)
    }

    /// 24 bits.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// This number plus `count` packets.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self::new(self.0.wrapping_add(count))
    }

    /// This number less `count` packets.
    #[must_use]
    pub const fn minus(self, count: u32) -> Self {
        Self::new(self.0.wrapping_sub(count))
    }

    /// Packets from `earlier` to this one, modulo 2^24.
    pub const fn distance(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0) & MASK
    }

    /// Packets from `other` to this one, negative when `other` is later:
    /// -2^23 to 2^23 - 1.
    pub const fn since(self, other: Self) -> i32 {
        let distance = self.distance(other);
        if distance < HALF {
            distance as i32
        } else {
            distance as i32 - (MASK as i32 + 1)
        }
    }

    /// Whether this number comes after `other`.
    pub const fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// Whether this number comes before `other`.
    pub const fn is_before(self, other: Self) -> bool {
        self.since(other) < 0
    }
}

impl fmt::Debug for Psn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_as_far_ahead_as_was_added(start: u32, ahead in 0u32..HALF) {
            let psn = Psn::new(start);
            let later = psn.plus(ahead);
            prop_assert_eq!(later.since(psn), ahead as i32);
            prop_assert_eq!(psn.since(later), -(ahead as i32));
            prop_assert_eq!(later.minus(ahead), psn);
            prop_assert_eq!(later.distance(psn), ahead);
        }
    }

    #[rstest::rstest]
    #[case(0, 0xff_ffff, true)]
    #[case(0xff_ffff, 0, false)]
    #[case(5, 5, false)]
    #[case(0x7f_ffff, 0, true)]
    #[case(0x80_0000, 0, false)]
    fn after_is_meant_in_the_half_window(#[case] a: u32, #[case] b: u32, #[case] after: bool) {
        assert_eq!(Psn::new(a).is_after(Psn::new(b)), after);
    }
}
