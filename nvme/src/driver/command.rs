//! I/O commands and their SQEs (NVM 3.2).

use zerocopy::little_endian::{U32, U64};

use super::SubmitError;
use super::data::{DataPointer, ListPages, Pointer};
use crate::spec::{
    DSM_RANGES_MAX, DatasetManagement, DsmAttributes, DsmRange, NvmOpcode, Psdt, ReadWrite,
    ReadWriteCdw12, Sqe, WriteZeroes, WriteZeroesCdw12,
};

/// Most logical blocks of one command.
const BLOCKS_MAX: u32 = 1 << 16;

/// A command for a namespace. Blocks are logical blocks of the namespace, and
/// their count is 1 to 65,536, *not* zero-based.
#[derive(Debug, Clone, Copy)]
pub enum IoCommand<'a> {
    /// Data from the namespace into memory.
    Read {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data goes: as long as the blocks.
        data: DataPointer<'a>,
    },
    /// Data from memory into the namespace.
    Write {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data is: as long as the blocks.
        data: DataPointer<'a>,
        /// Force unit access: complete only when the data is on the media.
        fua: bool,
    },
    /// Data in memory is compared with the namespace's: success when it is the
    /// same, [`Status::COMPARE_FAILURE`](crate::spec::Status::COMPARE_FAILURE)
    /// when not. Only where the controller supports it (ONCS).
    Compare {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data is: as long as the blocks.
        data: DataPointer<'a>,
    },
    /// What was written is to be on the media.
    Flush {
        /// Namespace.
        nsid: u32,
    },
    /// The blocks are to read as zeros.
    WriteZeroes {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// The controller should deallocate them.
        deallocate: bool,
        /// Force unit access.
        fua: bool,
    },
    /// The blocks are not needed any more.
    Deallocate {
        /// Namespace.
        nsid: u32,
        /// 1 to 256 ranges; copied at submission.
        ranges: &'a [DsmRange],
    },
}

/// What a queue knows when it makes an SQE.
pub(super) struct Maker<'a> {
    pub(super) lists: &'a ListPages,
    pub(super) transfer_max: usize,
    pub(super) sgl: bool,
}

impl Maker<'_> {
    /// The SQE, with lists written to the slot's page, and the length of the
    /// PRP list. `block_bytes` gives a namespace's block size.
    pub(super) fn sqe(
        &self,
        slot: u16,
        command: &IoCommand<'_>,
        block_bytes: impl Fn(u32) -> Option<u32>,
    ) -> Result<(Sqe, usize), SubmitError> {
        let transfer = |nsid: u32, blocks: u32, data: &DataPointer<'_>| {
            let bytes = block_bytes(nsid).ok_or(SubmitError::UnknownNamespace(nsid))?;
            let right = u64::from(blocks) * u64::from(bytes) == data.len as u64;
            if !right || !(1..=BLOCKS_MAX).contains(&blocks) {
                return Err(SubmitError::WrongLength {
                    blocks,
                    len: data.len,
                });
            }
            self.pointer(slot, data)
        };
        Ok(match *command {
            IoCommand::Read {
                nsid,
                slba,
                blocks,
                ref data,
            }
            | IoCommand::Compare {
                nsid,
                slba,
                blocks,
                ref data,
            } => {
                let opcode = match command {
                    IoCommand::Compare { .. } => NvmOpcode::Compare,
                    _ => NvmOpcode::Read,
                };
                let pointer = transfer(nsid, blocks, data)?;
                let cdw12 = ReadWriteCdw12::new().with_nlb_z((blocks - 1) as u16);
                (
                    read_write(opcode, nsid, slba, cdw12, &pointer),
                    pointer.list_len,
                )
            }
            IoCommand::Write {
                nsid,
                slba,
                blocks,
                ref data,
                fua,
            } => {
                let pointer = transfer(nsid, blocks, data)?;
                let cdw12 = ReadWriteCdw12::new()
                    .with_nlb_z((blocks - 1) as u16)
                    .with_fua(fua);
                (
                    read_write(NvmOpcode::Write, nsid, slba, cdw12, &pointer),
                    pointer.list_len,
                )
            }
            IoCommand::Flush { nsid } => (Sqe::new(NvmOpcode::Flush.0, nsid), 0),
            IoCommand::WriteZeroes {
                nsid,
                slba,
                blocks,
                deallocate,
                fua,
            } => {
                if !(1..=BLOCKS_MAX).contains(&blocks) {
                    return Err(SubmitError::WrongLength { blocks, len: 0 });
                }
                let zeroes = WriteZeroes {
                    slba: U64::new(slba),
                    cdw12: WriteZeroesCdw12::new()
                        .with_nlb_z((blocks - 1) as u16)
                        .with_deac(deallocate)
                        .with_fua(fua),
                    ..Sqe::new(NvmOpcode::WriteZeroes.0, nsid).into()
                };
                (zeroes.into(), 0)
            }
            IoCommand::Deallocate { nsid, ranges } => {
                if !(1..=DSM_RANGES_MAX).contains(&ranges.len()) {
                    return Err(SubmitError::WrongRangeCount(ranges.len()));
                }
                let pointer = self.lists.ranges(slot, ranges)?;
                let dsm = DatasetManagement {
                    nsid: U32::new(nsid),
                    dptr: pointer.dptr,
                    nr_z: (ranges.len() - 1) as u8,
                    attributes: DsmAttributes::new().with_deallocate(true),
                    ..Sqe::new(NvmOpcode::DatasetManagement.0, nsid).into()
                };
                (dsm.into(), 0)
            }
        })
    }

    fn pointer(&self, slot: u16, data: &DataPointer<'_>) -> Result<Pointer, SubmitError> {
        if data.len > self.transfer_max {
            return Err(SubmitError::TooLong {
                len: data.len,
                max: self.transfer_max,
            });
        }
        let iova = data.iova()?;
        match u32::try_from(data.len) {
            Ok(len) if self.sgl => Ok(ListPages::sgl(iova, len)),
            _ => Ok(self.lists.prp(slot, iova, data.len)?),
        }
    }
}

fn read_write(
    opcode: NvmOpcode,
    nsid: u32,
    slba: u64,
    cdw12: ReadWriteCdw12,
    pointer: &Pointer,
) -> Sqe {
    let mut command = ReadWrite {
        dptr: pointer.dptr,
        slba: U64::new(slba),
        cdw12,
        ..Sqe::new(opcode.0, nsid).into()
    };
    if pointer.psdt != Psdt::Prp {
        command.cdw0.set_psdt(pointer.psdt);
    }
    command.into()
}
