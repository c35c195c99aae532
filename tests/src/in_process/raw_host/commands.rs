//! Commands of a raw host, and the queues that they go to.

use sidelane_nvme::spec::{
    DataPtr, NvmOpcode, Psdt, ReadWrite, ReadWriteCdw12, SglDescriptor, Sqe,
};

use super::Conn;

/// What Connect says of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueOf<'a> {
    /// Subsystem.
    pub subsystem: &'a str,
    /// Queue.
    pub qid: u16,
    /// Controller.
    pub cntlid: u16,
    /// Entries, not zero-based.
    pub entries: u16,
    /// Keep alive timeout.
    pub kato_ms: u32,
}

/// An admin queue and an I/O queue.
#[derive(Debug, Clone, Copy)]
pub struct Association {
    /// Admin queue.
    pub admin: Conn,
    /// I/O queue 1.
    pub io: Conn,
    /// Controller.
    pub cntlid: u16,
}

/// A command with a data pointer.
pub fn with_sgl(mut sqe: Sqe, descriptor: SglDescriptor) -> Sqe {
    sqe.cdw0.set_psdt(Psdt::Sgl);
    sqe.dptr = DataPtr::from_sgl(descriptor);
    sqe
}

/// A command without data.
pub fn bare(sqe: Sqe) -> Sqe {
    with_sgl(
        sqe,
        SglDescriptor::keyed(0, 0, 0, false).unwrap_or_default(),
    )
}

/// Read or Write of blocks, without data pointer.
pub fn read_write(opcode: NvmOpcode, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    let mut command = ReadWrite::default();
    command.cdw0.set_opcode(opcode.0);
    command.nsid.set(nsid);
    command.slba.set(lba);
    command.cdw12 = ReadWriteCdw12::new().with_nlb_z(blocks.wrapping_sub(1) as u16);
    command.into()
}
