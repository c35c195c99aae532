//! Writing commands to a ring.
//!
//! Apart from [`IoQueuePair`](super::IoQueuePair), since nothing here depends on
//! what the controller stands on: so all of it, with the bit fields of the
//! entries, is compiled in this crate as one piece.

use sidelane_p2p::OutOfRange;
use zerocopy::little_endian::{U32, U64};

use super::blocks::BlockSizes;
use super::data::{LIST_LEN, ListPages, Pointer, TRANSFER_MAX};
use super::ring::SubmissionRing;
use super::slots::Slots;
use super::{IoCommand, SubmitError, Tap};
use crate::spec::{
    Cdw0, DSM_RANGES_MAX, DataPtr, DatasetManagement, DsmAttributes, DsmRange, NvmOpcode,
    ReadWrite, ReadWriteCdw12, Sqe, WriteZeroes, WriteZeroesCdw12,
};

/// Most logical blocks of one command.
const BLOCKS_MAX: u32 = 1 << 16;

/// Why a command was not written, in one byte, since each command has this result:
/// [`CommandWriter::explain`] makes of it what the caller is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    Namespace,
    Length,
    Address,
    Ranges,
    NoSlot,
}

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

    /// Writes a command, or nothing at all.
    pub(super) fn submit(&mut self, command: &IoCommand<'_>, tag: u64) -> Result<(), Refused> {
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
            _ => return self.submit_without_data(command, tag),
        };
        let len = data.len;
        if nsid != self.blocks.last().nsid {
            return self.submit_elsewhere(command, nsid, tag);
        }
        let bytes = u64::from(self.blocks.last().bytes) * u64::from(blocks);
        // No length is 0 less 1, which is more than any other.
        if bytes != len as u64 || len.wrapping_sub(1) >= self.transfer_max {
            return Err(Refused::Length);
        }
        // What one command can carry is never as much as 65,536 blocks.
        const { assert!(TRANSFER_MAX / 512 <= BLOCKS_MAX as usize) };
        let Some(iova) = data.iova() else {
            return Err(Refused::Address);
        };
        let cdw12 = ReadWriteCdw12::new()
            .with_nlb_z((blocks - 1) as u16)
            .with_fua(fua);
        let one = match self.sgl {
            // `transfer_max` has seen that it is no longer than that.
            true => Some(Pointer::sgl(iova, len as u32)),
            false => Pointer::one_page(iova, len),
        };
        let entry = |pointer: Pointer| ReadWrite {
            cdw0: Cdw0::new().with_opcode(opcode.0).with_psdt(pointer.psdt),
            nsid: U32::new(nsid),
            dptr: pointer.dptr,
            slba: U64::new(slba),
            cdw12,
            ..ReadWrite::default()
        };
        match one {
            Some(pointer) => self.send(tag, |_, _| Ok((entry(pointer).into(), 0))),
            None => self.send_pages(tag, entry(Pointer::first_page(iova)), len),
        }
    }

    /// Writes a command that carries no blocks.
    #[inline(never)]
    fn submit_without_data(&mut self, command: &IoCommand<'_>, tag: u64) -> Result<(), Refused> {
        match *command {
            IoCommand::Flush { nsid } => {
                self.send(tag, |_, _| Ok((Sqe::new(NvmOpcode::Flush.0, nsid), 0)))
            }
            IoCommand::WriteZeroes {
                nsid,
                slba,
                blocks,
                deallocate,
                fua,
            } => {
                let flags = WriteZeroesCdw12::new().with_deac(deallocate).with_fua(fua);
                self.write_zeroes(tag, nsid, slba, blocks, flags)
            }
            IoCommand::Deallocate { nsid, ranges } => self.deallocate(tag, nsid, ranges),
            IoCommand::Read { .. } | IoCommand::Write { .. } | IoCommand::Compare { .. } => {
                self.submit(command, tag)
            }
        }
    }

    /// Sends a command whose data is in more than one page, of which it names the
    /// first.
    #[inline(never)]
    fn send_pages(&mut self, tag: u64, entry: ReadWrite, len: usize) -> Result<(), Refused> {
        self.send(tag, |lists, slot| {
            let iova = entry.dptr.prp1();
            let (prp2, list_len) = lists.further_pages(slot, iova, len)?;
            let dptr = DataPtr::from_prp(iova, prp2);
            Ok((ReadWrite { dptr, ..entry }.into(), list_len))
        })
    }

    /// Submits a command to another namespace than the last one.
    #[cold]
    #[inline(never)]
    fn submit_elsewhere(
        &mut self,
        command: &IoCommand<'_>,
        nsid: u32,
        tag: u64,
    ) -> Result<(), Refused> {
        match self.blocks.turn_to(nsid) {
            true => self.submit(command, tag),
            false => Err(Refused::Namespace),
        }
    }

    fn write_zeroes(
        &mut self,
        tag: u64,
        nsid: u32,
        slba: u64,
        blocks: u32,
        flags: WriteZeroesCdw12,
    ) -> Result<(), Refused> {
        if !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(Refused::Length);
        }
        let zeroes = WriteZeroes {
            slba: U64::new(slba),
            cdw12: flags.with_nlb_z((blocks - 1) as u16),
            ..Sqe::new(NvmOpcode::WriteZeroes.0, nsid).into()
        };
        self.send(tag, |_, _| Ok((zeroes.into(), 0)))
    }

    fn deallocate(&mut self, tag: u64, nsid: u32, ranges: &[DsmRange]) -> Result<(), Refused> {
        if !(1..=DSM_RANGES_MAX).contains(&ranges.len()) {
            return Err(Refused::Ranges);
        }
        self.send(tag, |lists, slot| {
            let dsm = DatasetManagement {
                dptr: lists.ranges(slot, ranges)?,
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
    ) -> Result<(), Refused> {
        let Some((slot, cid)) = self.slots.take(tag) else {
            return Err(Refused::NoSlot);
        };
        let (mut sqe, list_len) = match make(&self.lists, slot) {
            Ok(made) => made,
            Err(_) => return Err(self.take_back(cid)),
        };
        sqe.cdw0.set_cid(cid);
        let at = self.sq.push(&sqe);
        if self.tap.is_some() {
            self.show(slot, at, list_len);
        }
        Ok(())
    }

    /// A slot without a page, which there is not, is as good as none.
    #[cold]
    #[inline(never)]
    fn take_back(&mut self, cid: u16) -> Refused {
        self.slots.complete(cid);
        Refused::NoSlot
    }

    /// Why a command was refused.
    #[cold]
    #[inline(never)]
    pub(super) fn explain(&self, refused: Refused, command: &IoCommand<'_>) -> SubmitError {
        let (nsid, blocks, data) = match *command {
            IoCommand::Read {
                nsid, blocks, data, ..
            }
            | IoCommand::Write {
                nsid, blocks, data, ..
            }
            | IoCommand::Compare {
                nsid, blocks, data, ..
            } => (nsid, blocks, Some(data)),
            IoCommand::WriteZeroes { nsid, blocks, .. } => (nsid, blocks, None),
            IoCommand::Flush { nsid } | IoCommand::Deallocate { nsid, .. } => (nsid, 0, None),
        };
        let ranges = match command {
            IoCommand::Deallocate { ranges, .. } => ranges.len(),
            _ => 0,
        };
        let len = data.map_or(0, |data| data.len);
        let max = self.transfer_max;
        let bytes = u64::from(blocks) * u64::from(self.blocks.last().bytes);
        match (refused, data) {
            (Refused::Namespace, _) => SubmitError::UnknownNamespace(nsid),
            // No namespace was turned to yet, and this is how none is called.
            (Refused::Length, Some(_)) if self.blocks.last().bytes == 0 => {
                SubmitError::UnknownNamespace(nsid)
            }
            (Refused::Length, _) if len > max && bytes == len as u64 => {
                SubmitError::TooLong { len, max }
            }
            (Refused::Address, Some(data)) => data.refusal(),
            (Refused::Length | Refused::Address, _) => SubmitError::WrongLength { blocks, len },
            (Refused::Ranges, _) => SubmitError::WrongRangeCount(ranges),
            (Refused::NoSlot, _) if self.halted => SubmitError::Halted,
            (Refused::NoSlot, _) => SubmitError::QueueFull,
        }
    }

    /// Has the tap see a command and its list.
    #[cold]
    #[inline(never)]
    fn show(&mut self, slot: u16, at: u16, list_len: usize) {
        let mut list = [0; LIST_LEN];
        let list = &mut list[..list_len.min(LIST_LEN)];
        self.lists.read_back(slot, list);
        if let (Some(tap), Some(sqe)) = (&mut self.tap, self.sq.read_back(at)) {
            tap(&sqe, list);
        }
    }
}
