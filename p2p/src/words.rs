//! Memory that devices also touch, as an array of 64-bit words.
//!
//! For rings and lists, whose place is checked once and which are then written
//! with each command: an index is all that is checked per access. A word is an
//! atomic one, which is what makes a shared reference to memory that a device
//! changes at any moment sound; its value is little-endian, as on the PCI bus.
//!
//! Unsafe is allowed here because a view is raw memory; the array keeps the view,
//! which keeps the mapping alive.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use crate::{MemView, OutOfRange};

/// The memory of a view as entries of `N` words each. Words are little-endian:
/// `to_le` what is stored, `from_le` what was loaded.
#[derive(Debug, Clone)]
pub struct Words<const N: usize> {
    view: MemView,
    entries: usize,
}

impl<const N: usize> Words<N> {
    /// The entries of `view`; bytes after the last whole one are left out.
    ///
    /// # Errors
    /// When the view does not begin at a multiple of 8 bytes.
    pub fn new(view: MemView) -> Result<Self, OutOfRange> {
        const { assert!(N > 0) };
        if view.as_ptr().cast::<AtomicU64>().is_aligned() {
            let entries = view.len() / size_of::<[AtomicU64; N]>();
            Ok(Self { view, entries })
        } else {
            Err(OutOfRange {
                offset: 0,
                len: 8,
                view_len: view.len(),
            })
        }
    }
}

impl<const N: usize> Deref for Words<N> {
    type Target = [[AtomicU64; N]];

    #[inline]
    fn deref(&self) -> &Self::Target {
        // SAFETY: the view's memory is mapped readable and writable for as long
        // as the view lives, whose borrow the slice has; `new` has seen that so
        // many entries lie inside it, and that they are aligned. Whatever the
        // memory holds is a word. Others change it only by atomic and volatile
        // accesses or from outside the process, which an atomic allows for.
        unsafe { std::slice::from_raw_parts(self.view.as_ptr().cast(), self.entries) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn entries_lie_one_behind_another_and_end_with_the_view() {
        let view = MemView::anonymous(64);
        let words = Words::<2>::new(view.slice(8..47).unwrap()).unwrap();
        assert_eq!(words.len(), 2, "what is left of an entry is left out");
        words[1][1].store(0x0807_0605_0403_0201_u64.to_le(), Ordering::Relaxed);
        let mut bytes = [0; 8];
        view.read(32, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn words_of_a_view_that_is_not_aligned_are_refused() {
        let view = MemView::anonymous(64);
        assert!(Words::<1>::new(view.slice(4..64).unwrap()).is_err());
    }

    #[test]
    fn words_keep_the_memory_mapped() {
        let view = MemView::anonymous(64);
        view.store_u64(8, 7, Ordering::Relaxed).unwrap();
        let words = Words::<1>::new(view).unwrap();
        assert_eq!(words[1][0].load(Ordering::Relaxed), 7_u64.to_le());
    }
}
