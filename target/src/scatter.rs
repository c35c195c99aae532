//! Numbers that look like chance and are the same every time: what test patterns
//! are made of.

/// 2^64 divided by the golden ratio, made odd: neighbours end up far apart.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A permutation of the 64-bit numbers in which each bit of the input touches
/// about half of the output (xor-shift and multiply, twice).
pub fn scatter(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 29)).wrapping_mul(0xa076_1d64_78bd_642f);
    x ^ (x >> 32)
}
