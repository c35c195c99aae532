//! Writing commands to a ring.
//!
//! Apart from [`IoQueuePair`](super::IoQueuePair), since nothing here depends on
//! what the controller stands on: so all of it, with the bit fields of the
//! entries, is compiled in this crate as one piece.

use sidelane_p2p::OutOfRange;
use zerocopy::little_endian::{U32, U64};

use super::blocks::BlockSizes;
use super::data::{DataPointer, LIST_LEN, ListPages, TRANSFER_MAX};
use super::ring::SubmissionRing;
use super::slots::Slots;
use super::{IoCommand, SubmitError, Tap};
use crate::spec::{
    Cdw0, DSM_RANGES_MAX, DatasetManagement, DsmAttributes, DsmRange, NvmOpcode, ReadWrite,
    ReadWriteCdw12, Sqe, WriteZeroes, WriteZeroesCdw12,
};

/// Most logical blocks of one command.
const BLOCKS_MAX: u32 = 1 << 16;

/// The side of a queue pair on which commands go in.
pub(super) struct CommandWriter {
    pub(super) sq: SubmissionRing,
    pub(super) slots: Slots,
    pub(super) lists: ListPages,
    pub(super) tap: Option<Tap>,
    blocks: BlockSizes,
    transfer_max: usize,
    sgl: bool,
    halted: bool,
}

impl CommandWriter {
    /// The parts are of one size: a slot, and a page of `lists`, for each entry
    /// but one.
    pub(super) fn new(
        sq: SubmissionRing,
        slots: Slots,
        lists: ListPages,
        blocks: BlockSizes,
    ) -> Self {
        Self {
            sq,
            slots,
            lists,
            tap: None,
            blocks,
            transfer_max: TRANSFER_MAX,
            sgl: false,
            halted: false,
        }
    }

    /// The same, whose commands carry at most `transfer_max` bytes, named by SGL
    /// descriptors if `sgl`.
    pub(super) fn with_limits(self, transfer_max: usize, sgl: bool) -> Self {
        Self {
            transfer_max: transfer_max.min(TRANSFER_MAX),
            sgl,
            ..self
        }
    }

    /// No command is taken any more.
    pub(super) fn halt(&mut self) {
        self.halted = true;
        self.slots.close();
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    /// Writes a command, or nothing at all.
    pub(super) fn submit(&mut self, command: &IoCommand<'_>, tag: u64) -> Result<(), SubmitError> {
        let (opcode, nsid, slba, blocks, data, fua) = match *command {
            IoCommand::Read {
                nsid,
                slba,
                blocks,
                ref data,
            } => (NvmOpcode::Read, nsid, slba, blocks, data, false),
            IoCommand::Write {
                nsid,
                slba,
                blocks,
                ref data,
                fua,
            } => (NvmOpcode::Write, nsid, slba, blocks, data, fua),
            IoCommand::Compare {
                nsid,
                slba,
                blocks,
                ref data,
            } => (NvmOpcode::Compare, nsid, slba, blocks, data, false),
            IoCommand::Flush { nsid } => {
                return self.send(tag, |_, _| Ok((Sqe::new(NvmOpcode::Flush.0, nsid), 0)));
            }
            IoCommand::WriteZeroes {
                nsid,
                slba,
                blocks,
                deallocate,
                fua,
            } => {
                let flags = WriteZeroesCdw12::new().with_deac(deallocate).with_fua(fua);
                return self.write_zeroes(tag, nsid, slba, blocks, flags);
            }
            IoCommand::Deallocate { nsid, ranges } => return self.deallocate(tag, nsid, ranges),
        };
        let iova = self.address(nsid, blocks, data)?;
        let cdw12 = ReadWriteCdw12::new()
            .with_nlb_z((blocks - 1) as u16)
            .with_fua(fua);
        let sgl = self.sgl;
        self.send(tag, |lists, slot| {
            let pointer = match sgl {
                // `transfer_max` has seen that it is no longer than that.
                true => ListPages::sgl(iova, data.len as u32),
                false => lists.prp(slot, iova, data.len)?,
            };
            let command = ReadWrite {
                cdw0: Cdw0::new().with_opcode(opcode.0).with_psdt(pointer.psdt),
                nsid: U32::new(nsid),
                dptr: pointer.dptr,
                slba: U64::new(slba),
                cdw12,
                ..ReadWrite::default()
            };
            Ok((command.into(), pointer.list_len))
        })
    }

    /// Where a command's data is, which is as long as its blocks.
    #[inline]
    fn address(
        &mut self,
        nsid: u32,
        blocks: u32,
        data: &DataPointer<'_>,
    ) -> Result<u64, SubmitError> {
        let bytes = self.blocks.get(nsid);
        let len = data.len;
        // What one command can carry is never as much as 65,536 blocks.
        const { assert!(TRANSFER_MAX / 512 <= BLOCKS_MAX as usize) };
        if u64::from(blocks) * u64::from(bytes) != len as u64 || len == 0 {
            return Err(match bytes {
                0 => SubmitError::UnknownNamespace(nsid),
                _ => SubmitError::WrongLength { blocks, len },
            });
        }
        if len > self.transfer_max {
            let max = self.transfer_max;
            return Err(SubmitError::TooLong { len, max });
        }
        data.iova()
    }

    fn write_zeroes(
        &mut self,
        tag: u64,
        nsid: u32,
        slba: u64,
        blocks: u32,
        flags: WriteZeroesCdw12,
    ) -> Result<(), SubmitError> {
        if !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(SubmitError::WrongLength { blocks, len: 0 });
        }
        let zeroes = WriteZeroes {
            slba: U64::new(slba),
            cdw12: flags.with_nlb_z((blocks - 1) as u16),
            ..Sqe::new(NvmOpcode::WriteZeroes.0, nsid).into()
        };
        self.send(tag, |_, _| Ok((zeroes.into(), 0)))
    }

    fn deallocate(&mut self, tag: u64, nsid: u32, ranges: &[DsmRange]) -> Result<(), SubmitError> {
        if !(1..=DSM_RANGES_MAX).contains(&ranges.len()) {
            return Err(SubmitError::WrongRangeCount(ranges.len()));
        }
        self.send(tag, |lists, slot| {
            let dsm = DatasetManagement {
                dptr: lists.ranges(slot, ranges)?.dptr,
                nr_z: (ranges.len() - 1) as u8,
                attributes: DsmAttributes::new().with_deallocate(true),
                ..Sqe::new(NvmOpcode::DatasetManagement.0, nsid).into()
            };
            Ok((dsm.into(), 0))
        })
    }

    /// Takes a slot and writes the entry that `make` gives, with the length of
    /// the PRP list that it has written to the slot's page.
    #[inline]
    fn send(
        &mut self,
        tag: u64,
        make: impl FnOnce(&ListPages, u16) -> Result<(Sqe, usize), OutOfRange>,
    ) -> Result<(), SubmitError> {
        let Some((slot, cid)) = self.slots.take(tag) else {
            return Err(self.no_slot());
        };
        let (mut sqe, list_len) = match make(&self.lists, slot) {
            Ok(made) => made,
            Err(error) => return Err(self.take_back(cid, error)),
        };
        sqe.cdw0.set_cid(cid);
        let at = self.sq.push(&sqe);
        if self.tap.is_some() {
            self.show(slot, at, list_len);
        }
        Ok(())
    }

    #[cold]
    fn no_slot(&self) -> SubmitError {
        match self.halted {
            true => SubmitError::Halted,
            false => SubmitError::QueueFull,
        }
    }

    #[cold]
    fn take_back(&mut self, cid: u16, error: OutOfRange) -> SubmitError {
        self.slots.complete(cid);
        error.into()
    }

    /// Has the tap see a command and its list.
    #[cold]
    fn show(&mut self, slot: u16, at: u16, list_len: usize) {
        let mut list = [0; LIST_LEN];
        let list = &mut list[..list_len.min(LIST_LEN)];
        self.lists.read_back(slot, list);
        if let (Some(tap), Some(sqe)) = (&mut self.tap, self.sq.read_back(at)) {
            tap(&sqe, list);
        }
    }
}
