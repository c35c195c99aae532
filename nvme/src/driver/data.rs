//! The data pointer of a command: PRP entries (clause 4.1.1) or one SGL
//! descriptor (4.1.2) for a contiguous part of a region.

use std::ops::Range;
use std::sync::atomic::Ordering;

use sidelane_p2p::{OutOfRange, Region};

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
    fn range(&self) -> Result<Range<usize>, OutOfRange> {
        let view_len = self.region.len();
        match self.offset.checked_add(self.len) {
            Some(end) => Ok(self.offset..end),
            None => Err(OutOfRange {
                offset: self.offset,
                len: self.len,
                view_len,
            }),
        }
    }

    /// The device's address of the first byte, all bytes being in the region.
    pub(super) fn iova(&self) -> Result<u64, SubmitError> {
        let iova = self.region.iova_of(self.range()?)?;
        if iova.is_multiple_of(4) {
            Ok(iova)
        } else {
            Err(SubmitError::Misaligned { iova })
        }
    }
}

/// A page of host memory for each slot, in which a command's PRP list or list
/// of ranges stands for as long as the command is outstanding.
pub(super) struct ListPages {
    memory: Region,
}

/// A pointer ready for the SQE.
pub(super) struct Pointer {
    pub(super) psdt: Psdt,
    pub(super) dptr: DataPtr,
    /// Entries written to the slot's list.
    pub(super) list_len: usize,
}

impl ListPages {
    /// Bytes of host memory for this many slots.
    pub(super) fn bytes_for(slots: usize) -> usize {
        slots * PAGE
    }

    pub(super) fn new(memory: Region) -> Self {
        Self { memory }
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    fn page(&self, slot: u16) -> Result<(usize, u64), OutOfRange> {
        let at = usize::from(slot) * PAGE;
        Ok((at, self.memory.iova_of(at..at + PAGE)?))
    }

    /// PRP entries for `len` bytes (1 to [`TRANSFER_MAX`]) at `iova`.
    pub(super) fn prp(&self, slot: u16, iova: u64, len: usize) -> Result<Pointer, OutOfRange> {
        let page = PAGE as u64;
        let in_page = iova % page;
        let pages = (in_page as usize + len).div_ceil(PAGE);
        let second = iova - in_page + page;
        let (prp2, list_len) = match pages {
            0 | 1 => (0, 0),
            2 => (second, 0),
            _ => {
                let (at, list) = self.page(slot)?;
                for i in 0..pages - 1 {
                    let entry = second + i as u64 * page;
                    self.memory
                        .view()
                        .store_u64(at + i * 8, entry, Ordering::Relaxed)?;
                }
                (list, pages - 1)
            }
        };
        Ok(Pointer {
            psdt: Psdt::Prp,
            dptr: DataPtr::from_prp(iova, prp2),
            list_len,
        })
    }

    /// One data block descriptor.
    pub(super) fn sgl(iova: u64, len: u32) -> Pointer {
        let dptr = DataPtr::from_sgl(SglDescriptor::data_block(iova, len));
        Pointer {
            psdt: Psdt::Sgl,
            dptr,
            list_len: 0,
        }
    }

    /// Writes ranges (1 to 256) into the slot's page.
    pub(super) fn ranges(&self, slot: u16, ranges: &[DsmRange]) -> Result<Pointer, OutOfRange> {
        let (at, list) = self.page(slot)?;
        let page = self.memory.view().slice(at..at + PAGE)?;
        page.write(0, zerocopy::IntoBytes::as_bytes(ranges))?;
        Ok(Pointer {
            psdt: Psdt::Prp,
            dptr: DataPtr::from_prp(list, 0),
            list_len: 0,
        })
    }

    /// Reads a PRP list back as the controller will.
    pub(super) fn read_back(&self, slot: u16, into: &mut [u64]) -> Result<(), OutOfRange> {
        let (at, _) = self.page(slot)?;
        for (i, entry) in into.iter_mut().enumerate() {
            *entry = self.memory.view().load_u64(at + i * 8, Ordering::Relaxed)?;
        }
        Ok(())
    }
}
