//! The data pointer of a command: PRP entries (clause 4.1.1) or one SGL
//! descriptor (4.1.2) for a contiguous part of a region.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_p2p::{OutOfRange, Region, Words};
use zerocopy::little_endian::U64;

use super::SubmitError;
use crate::spec::{DataPtr, DsmRange, Psdt, SglDescriptor};

/// The memory page of the controller (CC.MPS = 0).
pub(super) const PAGE: usize = 4096;
/// Entries of a PRP list that fills one page.
pub(super) const LIST_LEN: usize = PAGE / 8;
/// The most data whose PRP list fits in one page, wherever the data begins:
/// entry 1 and 512 more.
pub(super) const TRANSFER_MAX: usize = LIST_LEN * PAGE;

/// Data of a command: `len` bytes at `offset` of a region.
#[derive(Debug, Clone, Copy)]
pub struct DataPointer<'a> {
    /// The region, peer or host memory.
    pub region: &'a Region,
    /// First byte, in bytes from the region's start.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

impl DataPointer<'_> {
    /// The device's address of the first byte, if all bytes are in the region and
    /// it is one that a command may name.
    #[inline]
    pub(super) fn iova(&self) -> Option<u64> {
        let iova = self.region.iova_of(self.range()).ok()?;
        iova.is_multiple_of(4).then_some(iova)
    }

    /// Why there is no address.
    #[cold]
    pub(super) fn refusal(&self) -> SubmitError {
        match self.region.iova_of(self.range()) {
            Ok(iova) => SubmitError::Misaligned { iova },
            Err(error) => error.into(),
        }
    }

    /// A range that wraps ends before it begins, and lies in no region.
    #[inline]
    fn range(&self) -> Range<usize> {
        self.offset..self.offset.wrapping_add(self.len)
    }
}

/// A page of host memory for each slot, in which a command's PRP list or list
/// of ranges stands for as long as the command is outstanding.
pub(super) struct ListPages {
    memory: Region,
    words: Words<LIST_LEN>,
}

/// The words of a page.
type Page = [AtomicU64; LIST_LEN];

/// A pointer ready for the SQE, to data that needs no list.
pub(super) struct Pointer {
    pub(super) psdt: Psdt,
    pub(super) dptr: DataPtr,
}

impl Pointer {
    /// To `len` bytes at `iova`, unless they are in more than one page.
    #[inline]
    pub(super) fn one_page(iova: u64, len: usize) -> Option<Self> {
        (iova as usize % PAGE + len <= PAGE).then(|| Self::first_page(iova))
    }

    /// To what is of data at `iova` in its first page.
    #[inline]
    pub(super) fn first_page(iova: u64) -> Self {
        Self {
            psdt: Psdt::Prp,
            dptr: DataPtr::from_prp(iova, 0),
        }
    }

    /// One data block descriptor.
    #[inline]
    pub(super) fn sgl(iova: u64, len: u32) -> Self {
        Self {
            psdt: Psdt::Sgl,
            dptr: DataPtr::from_sgl(SglDescriptor::data_block(iova, len)),
        }
    }
}

impl ListPages {
    /// Bytes of host memory for this many slots.
    pub(super) fn bytes_for(slots: usize) -> usize {
        slots * PAGE
    }

    pub(super) fn new(memory: Region) -> Result<Self, OutOfRange> {
        Ok(Self {
            words: Words::new(memory.view().clone())?,
            memory,
        })
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    /// A slot's page, and its address.
    #[inline]
    fn page(&self, slot: u16) -> Result<(&Page, u64), OutOfRange> {
        let at = usize::from(slot) * PAGE;
        match self.words.get(usize::from(slot)) {
            Some(page) => Ok((page, self.memory.iova() + at as u64)),
            None => Err(OutOfRange {
                offset: at,
                len: PAGE,
                view_len: self.memory.len(),
            }),
        }
    }

    /// PRP entry 2, and the length of the list to which it points, for `len` bytes
    /// (at most [`TRANSFER_MAX`]) at `iova`, which are in more than one page.
    pub(super) fn further_pages(
        &self,
        slot: u16,
        iova: u64,
        len: usize,
    ) -> Result<(u64, usize), OutOfRange> {
        let page = PAGE as u64;
        let in_page = iova % page;
        let first = iova - in_page;
        let further = (in_page as usize + len).div_ceil(PAGE) - 1;
        if further == 1 {
            return Ok((first + page, 0));
        }
        let (list, at) = self.page(slot)?;
        let words = list.get(..further).unwrap_or(list);
        for (word, number) in words.iter().zip(1..) {
            word.store((first + number * page).to_le(), Ordering::Relaxed);
        }
        Ok((at, further))
    }

    /// Writes ranges (1 to 256) into the slot's page.
    pub(super) fn ranges(&self, slot: u16, ranges: &[DsmRange]) -> Result<DataPtr, OutOfRange> {
        let (list, at) = self.page(slot)?;
        for (words, range) in list.as_chunks().0.iter().zip(ranges) {
            let values: [U64; 2] = zerocopy::transmute!(*range);
            let words: &[AtomicU64; 2] = words;
            for (word, value) in words.iter().zip(values) {
                word.store(value.get().to_le(), Ordering::Relaxed);
            }
        }
        Ok(DataPtr::from_prp(at, 0))
    }

    /// Reads a PRP list back as the controller will.
    pub(super) fn read_back(&self, slot: u16, into: &mut [u64]) {
        let Ok((list, _)) = self.page(slot) else {
            return;
        };
        for (entry, word) in into.iter_mut().zip(list) {
            *entry = u64::from_le(word.load(Ordering::Relaxed));
        }
    }
}
