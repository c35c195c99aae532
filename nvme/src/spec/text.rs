//! Text in fixed fields.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Printable ASCII, left-justified and padded with spaces (clause 1.4.2).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Ascii<const N: usize>(pub [u8; N]);

impl<const N: usize> Ascii<N> {
    /// The text cut to the field, with `?` for whatever is not printable ASCII.
    pub fn new(text: &str) -> Self {
        let mut field = [b' '; N];
        for (to, from) in field.iter_mut().zip(text.chars()) {
            *to = match u8::try_from(from) {
                Ok(byte) if byte == b' ' || byte.is_ascii_graphic() => byte,
                _ => b'?',
            };
        }
        Self(field)
    }
}

impl<const N: usize> Default for Ascii<N> {
    fn default() -> Self {
        Self::new("")
    }
}

/// The text without its padding; `?` for whatever is not printable ASCII.
impl<const N: usize> fmt::Display for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(trimmed(&self.0), f)
    }
}

impl<const N: usize> fmt::Debug for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Without spaces and NULs at its end.
fn trimmed(field: &[u8]) -> &[u8] {
    let len = field
        .iter()
        .rposition(|b| !matches!(b, b' ' | 0))
        .map_or(0, |last| last + 1);
    field.get(..len).unwrap_or_default()
}

fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in bytes {
        let printable = *byte == b' ' || byte.is_ascii_graphic();
        fmt::Write::write_char(f, if printable { char::from(*byte) } else { '?' })?;
    }
    Ok(())
}
