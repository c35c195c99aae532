//! Sizes in bytes, as people write them: `"64 MiB"`, `4096`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A number of bytes. Serialised as a plain number, printed with the largest unit that fits exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Binary units, largest first.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl ByteSize {
    /// The largest size: what a signed 64-bit integer holds, since TOML's integers are such.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// A size of so many bytes, or `None` above [`ByteSize::MAX`].
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// A size of so many KiB.
    #[must_use]
    pub const fn kib(count: u32) -> Self {
        Self((count as u64) << 10)
    }

    /// A size of so many MiB.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// The text was not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {}", Self::REMEDY)]
pub struct ParseSizeError {
    pub(crate) reason: String,
}

impl ParseSizeError {
    pub(crate) const REMEDY: &'static str =
        "write a number and a binary unit (B, KiB, MiB, GiB, TiB), such as \"64 MiB\"";
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| Err(ParseSizeError { reason });
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        if number.is_empty() {
            return error(format!(
                "`{text}` is not a size: it does not begin with a whole number"
            ));
        }
        let unit = unit.trim_start();
        let factor = match UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        {
            Some(&(_, factor)) => factor,
            None if unit.is_empty() => 1,
            None => {
                return error(format!(
                    "`{text}` is not a size: the unit `{unit}` is unknown"
                ));
            }
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(factor));
        match bytes.and_then(Self::new) {
            Some(size) => Ok(size),
            None => error(format!(
                "`{text}` is more than the largest size, {} bytes",
                Self::MAX.0
            )),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        match UNITS.iter().find(fits) {
            Some((name, factor)) => write!(f, "{} {name}", self.0 / factor),
            None => f.write_str("0 B"),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rstest::rstest]
    #[case("64 MiB", 64 << 20)]
    #[case("64MiB", 64 << 20)]
    #[case("4 kib", 4096)]
    #[case("512 B", 512)]
    #[case(" 4096 ", 4096)]
    #[case("0", 0)]
    fn a_size_is_read_as_people_write_it(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes);
    }

    #[rstest::rstest]
    #[case("")]
    #[case("MiB")]
    #[case("-1")]
    #[case("1.5 GiB")]
    #[case("64 MB")]
    #[case("64M")]
    #[case("9223372036854775808")]
    #[case("99999999 TiB")]
    fn what_is_not_a_size_is_refused_with_an_example(#[case] text: &str) {
        let error = text.parse::<ByteSize>().unwrap_err().to_string();
        assert!(error.contains("64 MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn printing_and_reading_a_size_gives_it_back(bytes in 0..=ByteSize::MAX.0) {
            let size = ByteSize(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_reading_a_size_panic(text in ".*") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
