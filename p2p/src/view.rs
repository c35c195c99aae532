//! The CPU's view of memory that devices also touch.
//!
//! Such memory is never a `&[u8]`: a device changes it at any moment, and a BAR
//! may be I/O memory in which each access is a bus transaction. So every access
//! is volatile, of a stated width, and bounds-checked. Only whole pieces of
//! ordinary memory are copied by whatever moves them fastest, out of the
//! compiler's sight.
//!
//! Unsafe is allowed here because a mapping is raw memory; each view keeps its
//! mapping alive by an owner it holds.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An access outside the view, or not aligned to its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("access to {len} bytes at offset {offset:#x} of a view of {view_len:#x} bytes")]
pub struct OutOfRange {
    /// Offset of the access in the view, in bytes.
    pub offset: usize,
    /// Length of the access, in bytes.
    pub len: usize,
    /// Length of the view, in bytes.
    pub view_len: usize,
}

/// A window on memory shared with devices. Cheap to clone.
///
/// Data is little-endian as on the PCI bus; the multi-byte accessors take and
/// give values in the CPU's order.
#[derive(Clone)]
pub struct MemView {
    base: NonNull<u8>,
    len: usize,
    /// The process's own memory, not a device's: any width of access will do.
    ordinary: bool,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the view only makes volatile or atomic accesses to memory that its
// owner (itself Send + Sync) keeps mapped; concurrent access by other threads
// or devices is what the view is for, and never yields a reference.
unsafe impl Send for MemView {}
// SAFETY: as above.
unsafe impl Sync for MemView {}

impl MemView {
    /// A view of `len` bytes at `base`, which `owner` keeps mapped.
    ///
    /// # Safety
    /// `base..base + len` must stay mapped readable and writable until `owner`
    /// is dropped, must be aligned to 8 bytes, and no Rust reference to it may
    /// exist.
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        debug_assert!((base.as_ptr() as usize).is_multiple_of(8));
        Self {
            base,
            len,
            ordinary: false,
            owner,
        }
    }

    /// Zeroed ordinary memory of the process, aligned to 4096 bytes.
    ///
    /// For models and tests; a device of its own cannot reach it.
    pub fn anonymous(len: usize) -> Self {
        /// One page, so that the vector's buffer is page-aligned.
        #[repr(C, align(4096))]
        struct Page(std::cell::UnsafeCell<[u8; 4096]>);
        // SAFETY: only ever touched through volatile accesses of the view.
        unsafe impl Sync for Page {}
        let pages: Box<[Page]> = (0..len.div_ceil(4096).max(1))
            .map(|_| Page(std::cell::UnsafeCell::new([0; 4096])))
            .collect();
        let owner = Arc::new(pages);
        let base = NonNull::from(&owner[0]).cast();
        // SAFETY: the boxed pages live as long as `owner`, hold at least `len`
        // bytes inside UnsafeCell, and are never borrowed as anything else.
        let view = unsafe { Self::new(base, len, owner) };
        Self {
            ordinary: true,
            ..view
        }
    }

    /// The same view, which now keeps `also` alive too; `also` is dropped after
    /// the memory is unmapped.
    #[must_use]
    pub fn keeping(self, also: Arc<dyn Any + Send + Sync>) -> Self {
        // The fields of a tuple are dropped in order.
        Self {
            owner: Arc::new((self.owner, also)),
            ..self
        }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for handing to a system call that maps or
    /// registers the memory.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// A part of this view.
    ///
    /// # Errors
    /// When the range does not lie inside the view.
    pub fn slice(&self, range: Range<usize>) -> Result<Self, OutOfRange> {
        let len = range.end.saturating_sub(range.start);
        if range.start > range.end {
            return Err(OutOfRange {
                offset: range.start,
                len,
                view_len: self.len,
            });
        }
        let base = self.at(range.start, len)?;
        Ok(Self {
            base,
            len,
            ordinary: self.ordinary,
            owner: Arc::clone(&self.owner),
        })
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfRange> {
        match offset.checked_add(len) {
            // SAFETY: `offset <= len of the view`, so the pointer stays within
            // (or one past) the mapping.
            Some(end) if end <= self.len => Ok(unsafe { self.base.add(offset) }),
            _ => Err(OutOfRange {
                offset,
                len,
                view_len: self.len,
            }),
        }
    }

    #[inline]
    fn aligned(&self, offset: usize, width: usize) -> Result<NonNull<u8>, OutOfRange> {
        let at = self.at(offset, width)?;
        if (at.as_ptr() as usize).is_multiple_of(width) {
            Ok(at)
        } else {
            Err(OutOfRange {
                offset,
                len: width,
                view_len: self.len,
            })
        }
    }

    /// Copies bytes out of the view.
    ///
    /// # Errors
    /// When the range does not lie inside the view.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(offset, into.len())?.as_ptr();
        // SAFETY: the range was checked, and `into` is nobody else's.
        if self.ordinary && unsafe { copy_bulk(from, into.as_mut_ptr(), into.len()) } {
            return Ok(());
        }
        let (head, words, _) = split(from as usize, into.len());
        for (i, byte) in into.iter_mut().enumerate().take(head) {
            // SAFETY: `i < into.len()`, and the range was checked.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        let (body, tail) = into[head..].split_at_mut(words * 8);
        for (i, word) in body.chunks_exact_mut(8).enumerate() {
            // SAFETY: inside the checked range; `split` put it on 8 bytes.
            let value = unsafe { from.add(head + i * 8).cast::<u64>().read_volatile() };
            word.copy_from_slice(&value.to_ne_bytes());
        }
        for (i, byte) in tail.iter_mut().enumerate() {
            // SAFETY: inside the checked range.
            *byte = unsafe { from.add(head + words * 8 + i).read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes into the view; into a device's memory in ascending order of
    /// address.
    ///
    /// # Errors
    /// When the range does not lie inside the view; nothing is written then.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(offset, from.len())?.as_ptr();
        // SAFETY: the range was checked, and nobody writes to `from`.
        if self.ordinary && unsafe { copy_bulk(from.as_ptr(), to, from.len()) } {
            return Ok(());
        }
        let (head, words, _) = split(to as usize, from.len());
        for (i, byte) in from[..head].iter().enumerate() {
            // SAFETY: inside the checked range.
            unsafe { to.add(i).write_volatile(*byte) };
        }
        let (body, tail) = from[head..].split_at(words * 8);
        for (i, word) in body.chunks_exact(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            // SAFETY: inside the checked range; `split` put it on 8 bytes.
            unsafe {
                to.add(head + i * 8)
                    .cast::<u64>()
                    .write_volatile(u64::from_ne_bytes(bytes))
            };
        }
        for (i, byte) in tail.iter().enumerate() {
            // SAFETY: inside the checked range.
            unsafe { to.add(head + words * 8 + i).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Loads 32 bits.
    ///
    /// # Errors
    /// When out of range or not aligned to 4 bytes.
    #[inline]
    pub fn load_u32(&self, offset: usize, ordering: Ordering) -> Result<u32, OutOfRange> {
        let at = self.aligned(offset, 4)?.cast::<AtomicU32>();
        // SAFETY: in range, aligned, and every access to it is atomic or volatile.
        Ok(u32::from_le(unsafe { at.as_ref() }.load(ordering)))
    }

    /// Stores 32 bits.
    ///
    /// # Errors
    /// When out of range or not aligned to 4 bytes.
    #[inline]
    pub fn store_u32(
        &self,
        offset: usize,
        value: u32,
        ordering: Ordering,
    ) -> Result<(), OutOfRange> {
        let at = self.aligned(offset, 4)?.cast::<AtomicU32>();
        // SAFETY: in range, aligned, and every access to it is atomic or volatile.
        unsafe { at.as_ref() }.store(value.to_le(), ordering);
        Ok(())
    }

    /// Loads 64 bits in one access.
    ///
    /// # Errors
    /// When out of range or not aligned to 8 bytes.
    #[inline]
    pub fn load_u64(&self, offset: usize, ordering: Ordering) -> Result<u64, OutOfRange> {
        let at = self.aligned(offset, 8)?.cast::<AtomicU64>();
        // SAFETY: in range, aligned, and every access to it is atomic or volatile.
        Ok(u64::from_le(unsafe { at.as_ref() }.load(ordering)))
    }

    /// Stores 64 bits in one access.
    ///
    /// # Errors
    /// When out of range or not aligned to 8 bytes.
    #[inline]
    pub fn store_u64(
        &self,
        offset: usize,
        value: u64,
        ordering: Ordering,
    ) -> Result<(), OutOfRange> {
        let at = self.aligned(offset, 8)?.cast::<AtomicU64>();
        // SAFETY: in range, aligned, and every access to it is atomic or volatile.
        unsafe { at.as_ref() }.store(value.to_le(), ordering);
        Ok(())
    }
}

/// Copies a large piece between places of ordinary memory by the CPU's own block
/// copy, of which the compiler sees nothing; so it does not matter to it that a
/// device may touch one of them meanwhile. `false`, and nothing done, where that
/// does not pay.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, and they must not
/// overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_bulk(from: *const u8, to: *mut u8, len: usize) -> bool {
    /// Below, starting it costs more than it saves.
    const LEAST: usize = 256;
    if len < LEAST {
        return false;
    }
    // SAFETY: by the caller's promise; the direction flag is clear, as the ABI
    // demands of every function's entry.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
    true
}

/// No other CPU has one instruction for it.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_bulk(_from: *const u8, _to: *mut u8, _len: usize) -> bool {
    false
}

/// Bytes before the first 8-byte boundary, whole 8-byte words, bytes after.
fn split(address: usize, len: usize) -> (usize, usize, usize) {
    let head = (address.wrapping_neg() % 8).min(len);
    (head, (len - head) / 8, (len - head) % 8)
}

impl fmt::Debug for MemView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemView({:p}, {:#x} bytes)", self.base, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_written_anywhere_are_read_back_and_nothing_else_changes(
            offset in 0usize..64, ordinary: bool,
            data in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                proptest::collection::vec(any::<u8>(), 200..960),
            ],
        ) {
            let view = MemView { ordinary, ..MemView::anonymous(1024) };
            view.write(offset, &data).unwrap();
            let mut whole = [0; 1024];
            view.read(0, &mut whole).unwrap();
            let mut expected = [0; 1024];
            expected[offset..offset + data.len()].copy_from_slice(&data);
            prop_assert_eq!(whole, expected);
            let mut back = vec![0; data.len()];
            view.read(offset, &mut back).unwrap();
            prop_assert_eq!(back, data);
        }
    }

    #[rstest::rstest]
    #[case(0, 17)]
    #[case(17, 0)]
    #[case(16, 1)]
    #[case(usize::MAX, 2)]
    fn an_access_past_the_end_is_refused(#[case] offset: usize, #[case] len: usize) {
        let view = MemView::anonymous(16);
        assert!(view.write(offset, &vec![0; len]).is_err());
        assert!(view.read(offset, &mut vec![0; len]).is_err());
    }

    #[test]
    fn words_are_little_endian_and_must_be_aligned() {
        let view = MemView::anonymous(16);
        view.store_u32(4, 0x0403_0201, Ordering::Relaxed).unwrap();
        let mut bytes = [0; 4];
        view.read(4, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert!(view.load_u32(2, Ordering::Relaxed).is_err());
        assert!(view.load_u64(12, Ordering::Relaxed).is_err());
    }

    #[test]
    fn a_slice_sees_its_part_only() {
        let view = MemView::anonymous(64);
        let part = view.slice(8..16).unwrap();
        part.store_u64(0, 7, Ordering::Relaxed).unwrap();
        assert_eq!(view.load_u64(8, Ordering::Relaxed), Ok(7));
        assert!(part.load_u64(8, Ordering::Relaxed).is_err());
        assert!(view.slice(60..65).is_err());
    }
}
