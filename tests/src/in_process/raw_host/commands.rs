//! Commands of a raw host, and the queues that they go to.

use anyhow::ensure;
use sidelane_nvme::spec::{
    AdminOpcode, Cc, Csts, DataPtr, FabricsType, NvmOpcode, PropertyGet, PropertySet, Psdt,
    ReadWrite, ReadWriteCdw12, SglDescriptor, Sqe, offset,
};
use zerocopy::little_endian::U32;

use super::{Conn, RawHost};

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

impl RawHost {
    /// The command that writes CC, with entry sizes as they have to be.
    pub fn property_set_cc(cc: Cc) -> Sqe {
        let cc = cc.with_iosqes(6).with_iocqes(4);
        let mut command = PropertySet::default();
        command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
        command.fctype = FabricsType::PropertySet;
        command.offset.set(offset::CC);
        command.value.set(cc.into_bits().get().into());
        bare(command.into())
    }

    /// Writes CC.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn configure(&mut self, admin: Conn, cc: Cc) -> anyhow::Result<()> {
        let cqe = self.transact(admin, Self::property_set_cc(cc))?;
        ensure!(cqe.status().is_success(), "Property Set: {}", cqe.status());
        Ok(())
    }

    /// Reads CSTS.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn csts(&mut self, admin: Conn) -> anyhow::Result<Csts> {
        let mut command = PropertyGet::default();
        command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
        command.fctype = FabricsType::PropertyGet;
        command.offset.set(offset::CSTS);
        let cqe = self.transact(admin, bare(command.into()))?;
        ensure!(cqe.status().is_success(), "Property Get: {}", cqe.status());
        Ok(Csts::from_bits(U32::new(cqe.dw0.get())))
    }
}
