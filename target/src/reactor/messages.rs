//! Memory for what travels between hosts and the target: commands, responses
//! and the data of Fabrics and admin commands. Host memory, and no payload.

use sidelane_nvme::spec::{Cqe, Sqe};
use sidelane_p2p::{DmaError, DmaSpace, OutOfRange, Region};
use sidelane_transport::nic::{MemoryRegion, RecvWr, Sge};
use zerocopy::IntoBytes;

/// Bytes of a command, and so the least that a capsule has.
pub const SQE_BYTES: usize = 64;
/// Bytes of a response.
pub const CQE_BYTES: usize = 16;

/// What direct I/O wants of memory, where it is particular: data in a capsule may
/// go to storage of the kernel's as it lies.
const DATA_ALIGN: usize = 512;

/// Layout: for each slot a receive buffer (command and in-capsule data), then
/// for each slot a response.
#[derive(Debug, Clone)]
pub struct Messages {
    region: Region,
    slots: usize,
    capsule_stride: usize,
    capsule_bytes: usize,
}

impl Messages {
    /// Memory for `slots` commands with up to `in_capsule` bytes of data each.
    ///
    /// # Errors
    /// When memory runs out or cannot be mapped.
    pub fn new(space: &dyn DmaSpace, slots: usize, in_capsule: usize) -> Result<Self, DmaError> {
        let capsule_bytes = SQE_BYTES + in_capsule;
        let capsule_stride = capsule_bytes.next_multiple_of(DATA_ALIGN);
        let region = space.host_region(
            "commands and responses",
            slots * (capsule_stride + CQE_BYTES) + DATA_ALIGN,
        )?;
        Ok(Self {
            region,
            slots,
            capsule_stride,
            capsule_bytes,
        })
    }

    /// The region, for registration and for commands that take their data
    /// straight from the capsule.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The receive work request of a slot, numbered like the slot.
    pub fn recv(&self, slot: usize, memory: &MemoryRegion) -> RecvWr {
        let offset = self.capsule(slot) as u64;
        RecvWr {
            wr_id: slot as u64,
            sge: Sge {
                addr: memory.base + offset,
                len: self.capsule_bytes as u32,
                lkey: memory.lkey,
            },
        }
    }

    /// The command in a slot.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn command(&self, slot: usize) -> Result<Sqe, OutOfRange> {
        let mut sqe = Sqe::default();
        self.region
            .view()
            .read(self.capsule(slot), sqe.as_mut_bytes())?;
        Ok(sqe)
    }

    /// Copies in-capsule data of a slot, from byte `offset` of it on.
    ///
    /// # Errors
    /// When there is no such slot, or it has not that much.
    pub fn read_capsule(
        &self,
        slot: usize,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), OutOfRange> {
        self.region
            .view()
            .read(self.capsule_data(slot, offset), into)
    }

    /// Where byte `offset` of a slot's in-capsule data lies in the region.
    pub fn capsule_data(&self, slot: usize, offset: usize) -> usize {
        self.capsule(slot) + SQE_BYTES + offset
    }

    /// Where a slot's capsule begins: so that its data is aligned.
    fn capsule(&self, slot: usize) -> usize {
        slot * self.capsule_stride + DATA_ALIGN - SQE_BYTES
    }

    /// Puts a response into its slot and names it for sending.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn respond(
        &self,
        slot: usize,
        cqe: &Cqe,
        memory: &MemoryRegion,
    ) -> Result<Sge, OutOfRange> {
        let offset = self.slots * self.capsule_stride + DATA_ALIGN + slot * CQE_BYTES;
        self.region.view().write(offset, cqe.as_bytes())?;
        Ok(Sge {
            addr: memory.base + offset as u64,
            len: CQE_BYTES as u32,
            lkey: memory.lkey,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_p2p::ProcessMemory;

    #[rstest::rstest]
    #[case(0)]
    #[case(256)]
    #[case(4096)]
    #[case(16384)]
    fn data_in_capsules_is_aligned_and_nothing_lies_over_another(#[case] in_capsule: usize) {
        let messages = Messages::new(&ProcessMemory, 5, in_capsule).unwrap();
        let memory = MemoryRegion {
            region: messages.region().id(),
            lkey: 1,
            rkey: 2,
            base: 0,
            len: messages.region().len() as u64,
        };
        let mut free = 0;
        for slot in 0..5 {
            let sge = messages.recv(slot, &memory).sge;
            assert!(sge.addr >= free);
            free = sge.addr + u64::from(sge.len);
            assert!(messages.capsule_data(slot, 0).is_multiple_of(DATA_ALIGN));
            assert_eq!(messages.capsule_data(slot, in_capsule) as u64, free);
        }
        for slot in 0..5 {
            let sge = messages.respond(slot, &Cqe::default(), &memory).unwrap();
            assert!(sge.addr >= free);
            free = sge.addr + u64::from(sge.len);
        }
        assert!(free <= memory.len);
    }
}
