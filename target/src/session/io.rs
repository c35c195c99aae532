//! I/O commands of the NVM command set (NVM 1.0, 3.2): every check that a
//! command must pass before a backend sees it.

use std::sync::Arc;

use sidelane_nvme::spec::{
    DatasetManagement, DsmRange, FabricsType, NSID_ALL, NvmOpcode, ReadWrite, Sqe, WriteZeroes,
};
use zerocopy::FromBytes;

use super::queue::fabrics_type;
use super::refusal::{Refusal, at};
use super::step::{BlockRange, CloseReason, Completion, HostLen, IoOp, IoRequest, Step};
use crate::subsystem::{ControllerShared, NSID_MAX, NamespaceInfo, NamespaceTable, Subsystem};

/// Bytes of a range of Dataset Management.
const RANGE_BYTES: usize = size_of::<DsmRange>();

/// An I/O queue of a controller.
#[derive(Debug)]
pub struct IoQueue {
    subsystem: Arc<Subsystem>,
    shared: Arc<ControllerShared>,
    /// The controller's, when the queue connected.
    epoch: u32,
    namespaces: Arc<NamespaceTable>,
    generation: u64,
    max_transfer: u64,
}

/// The ranges that a deallocation names, in `data` as `command` was given it:
/// those without blocks left out, all inside the namespace once
/// [`crate::session::QueueSession::data`] made a request of them.
pub fn dsm_ranges(data: &[u8]) -> impl Iterator<Item = BlockRange> + '_ {
    data.chunks_exact(RANGE_BYTES).filter_map(|bytes| {
        let range = DsmRange::ref_from_bytes(bytes).ok()?;
        let range = BlockRange {
            slba: range.slba.get(),
            blocks: range.nlb.get(),
        };
        (range.blocks > 0).then_some(range)
    })
}

fn check_range(namespace: &NamespaceInfo, slba: u64, blocks: u64) -> Result<(), Refusal> {
    match slba.checked_add(blocks) {
        Some(end) if end <= namespace.blocks => Ok(()),
        _ => Err(Refusal::LbaRange { slba, blocks }),
    }
}

impl IoQueue {
    pub(super) fn new(
        subsystem: Arc<Subsystem>,
        shared: Arc<ControllerShared>,
        epoch: u32,
    ) -> Self {
        // The number first: a table that is newer than it is looked at again.
        let generation = subsystem.namespace_generation();
        let namespaces = subsystem.namespaces();
        let max_transfer = subsystem.limits().max_transfer_bytes();
        Self {
            subsystem,
            shared,
            epoch,
            namespaces,
            generation,
            max_transfer,
        }
    }

    pub(super) fn shared(&self) -> &Arc<ControllerShared> {
        &self.shared
    }

    /// Why the queue is to be closed, if it is.
    pub(super) fn over(&self) -> Option<CloseReason> {
        if self.shared.io_epoch() == self.epoch {
            None
        } else if self.shared.is_dead() {
            Some(CloseReason::AssociationEnded)
        } else {
            Some(CloseReason::ControllerStopped)
        }
    }

    pub(super) fn command(&mut self, sqe: &Sqe, host_len: HostLen) -> Result<Step, Refusal> {
        match fabrics_type(sqe) {
            Some(FabricsType::Disconnect) => return Self::disconnect(sqe),
            Some(other) => return Err(Refusal::FabricsType(other.into_bits())),
            None => (),
        }
        if !self.shared.is_ready() {
            return Err(Refusal::NotReady);
        }
        self.refresh();
        match NvmOpcode::from_bits(sqe.opcode()) {
            NvmOpcode::Read => self.read_write(sqe, host_len, IoOp::Read),
            NvmOpcode::Write => self.read_write(sqe, host_len, IoOp::Write),
            NvmOpcode::Flush => self.flush(sqe),
            NvmOpcode::WriteZeroes => self.write_zeroes(sqe),
            NvmOpcode::DatasetManagement => self.dataset_management(sqe, host_len),
            other => Err(Refusal::Opcode(other.into_bits())),
        }
    }

    /// The data of a command that had to fetch some: ranges to deallocate.
    pub(super) fn data(&mut self, sqe: &Sqe, data: &[u8]) -> Result<Step, Refusal> {
        if NvmOpcode::from_bits(sqe.opcode()) != NvmOpcode::DatasetManagement {
            return Err(Refusal::Opcode(sqe.opcode()));
        }
        if !self.shared.is_ready() {
            return Err(Refusal::NotReady);
        }
        self.refresh();
        let command = DatasetManagement::from(*sqe);
        let ranges = u16::from(command.nr_z) + 1;
        let need = usize::from(ranges) * RANGE_BYTES;
        if data.len() != need {
            let got = u32::try_from(data.len()).unwrap_or(u32::MAX);
            return Err(Refusal::DataLength {
                need: need as u64,
                got,
            });
        }
        let namespace = self.writable(command.nsid.get())?;
        for range in dsm_ranges(data) {
            check_range(namespace, range.slba, range.blocks.into())?;
        }
        Ok(Self::request(sqe, namespace, IoOp::Deallocate { ranges }))
    }

    /// Looks at the namespaces anew when they changed. One relaxed load when
    /// they did not.
    fn refresh(&mut self) {
        let generation = self.subsystem.namespace_generation();
        if generation != self.generation {
            self.generation = generation;
            self.namespaces = self.subsystem.namespaces();
        }
    }

    fn disconnect(sqe: &Sqe) -> Result<Step, Refusal> {
        let command = sidelane_nvme::spec::Disconnect::from(*sqe);
        match command.recfmt.get() {
            0 => Ok(Step::CompleteAndClose(
                Completion::OK,
                CloseReason::Disconnected,
            )),
            other => Err(Refusal::ConnectFormat(other)),
        }
    }

    fn namespace(&self, nsid: u32) -> Result<&NamespaceInfo, Refusal> {
        match self.namespaces.get(nsid) {
            Some(namespace) => Ok(namespace),
            None if self.namespaces.is_away(nsid) => Err(Refusal::NamespaceAway(nsid)),
            None if (1..=NSID_MAX).contains(&nsid) => Err(Refusal::NamespaceInactive(nsid)),
            None => Err(Refusal::Namespace(nsid)),
        }
    }

    fn writable(&self, nsid: u32) -> Result<&NamespaceInfo, Refusal> {
        match self.namespace(nsid)? {
            namespace if namespace.read_only => Err(Refusal::ReadOnly),
            namespace => Ok(namespace),
        }
    }

    /// A request that names no blocks.
    fn request(sqe: &Sqe, namespace: &NamespaceInfo, op: IoOp) -> Step {
        Step::Io(IoRequest {
            cid: sqe.cid(),
            nsid: namespace.nsid,
            backend: namespace.backend,
            op,
            slba: 0,
            blocks: 0,
            bytes: 0,
            fua: false,
        })
    }

    fn read_write(&self, sqe: &Sqe, host_len: HostLen, op: IoOp) -> Result<Step, Refusal> {
        let command = ReadWrite::from(*sqe);
        let nsid = command.nsid.get();
        let is_write = op == IoOp::Write;
        let namespace = if is_write {
            self.writable(nsid)?
        } else {
            self.namespace(nsid)?
        };
        let cdw12 = command.cdw12;
        if cdw12.prinfo() != 0 || cdw12.stc() {
            return Err(Refusal::ProtectionInformation);
        }
        if is_write && cdw12.dtype() != 0 {
            return Err(Refusal::Field {
                at: at::CDW12,
                what: "directives are not supported",
            });
        }
        let blocks = u32::from(cdw12.nlb_z()) + 1;
        let (slba, bytes) = (
            command.slba.get(),
            u64::from(blocks) << namespace.block_shift(),
        );
        check_range(namespace, slba, blocks.into())?;
        let bytes = self.transfer(bytes)?;
        match host_len {
            Ok(got) if got == bytes => Ok(Step::Io(IoRequest {
                cid: sqe.cid(),
                nsid,
                backend: namespace.backend,
                op,
                slba,
                blocks,
                bytes,
                fua: cdw12.fua(),
            })),
            Ok(got) => Err(Refusal::DataLength {
                need: bytes.into(),
                got,
            }),
            Err(status) => Err(Refusal::DataPointer(status)),
        }
    }

    /// Checks a length against MDTS.
    fn transfer(&self, bytes: u64) -> Result<u32, Refusal> {
        u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= self.max_transfer)
            .ok_or(Refusal::TransferTooLong(bytes))
    }

    /// Flush (NVMe 2.0, 7.1). VWC says that the broadcast namespace is refused.
    fn flush(&self, sqe: &Sqe) -> Result<Step, Refusal> {
        let nsid = sqe.nsid.get();
        if nsid == NSID_ALL {
            return Err(Refusal::Namespace(nsid));
        }
        let namespace = self.namespace(nsid)?;
        if !namespace.volatile_write_cache {
            return Ok(Step::Complete(Completion::OK));
        }
        Ok(Self::request(sqe, namespace, IoOp::Flush))
    }

    fn write_zeroes(&self, sqe: &Sqe) -> Result<Step, Refusal> {
        let command = WriteZeroes::from(*sqe);
        let namespace = self.writable(command.nsid.get())?;
        if !namespace.write_zeroes {
            return Err(Refusal::Opcode(sqe.opcode()));
        }
        let cdw12 = command.cdw12;
        if cdw12.prinfo() != 0 || cdw12.stc() {
            return Err(Refusal::ProtectionInformation);
        }
        let blocks = u32::from(cdw12.nlb_z()) + 1;
        let slba = command.slba.get();
        check_range(namespace, slba, blocks.into())?;
        // WZSL is MDTS.
        self.transfer(u64::from(blocks) << namespace.block_shift())?;
        let deallocate = cdw12.deac() && namespace.deallocate;
        Ok(Step::Io(IoRequest {
            cid: sqe.cid(),
            nsid: namespace.nsid,
            backend: namespace.backend,
            op: IoOp::WriteZeroes { deallocate },
            slba,
            blocks,
            bytes: 0,
            fua: cdw12.fua(),
        }))
    }

    /// Dataset Management. Hints are taken and come to nothing; deallocation
    /// needs the ranges. Hosts may name more data than there are ranges, and
    /// Linux always names room for all 256.
    fn dataset_management(&self, sqe: &Sqe, host_len: HostLen) -> Result<Step, Refusal> {
        let command = DatasetManagement::from(*sqe);
        let nsid = command.nsid.get();
        let need = (u32::from(command.nr_z) + 1) * RANGE_BYTES as u32;
        let namespace = self.namespace(nsid)?;
        let got = host_len.map_err(Refusal::DataPointer)?;
        if got < need {
            return Err(Refusal::DataLength {
                need: need.into(),
                got,
            });
        }
        if !command.attributes.deallocate() {
            return Ok(Step::Complete(Completion::OK));
        }
        self.writable(nsid)?;
        if !namespace.deallocate {
            return Ok(Step::Complete(Completion::OK));
        }
        Ok(Step::Fetch { len: need })
    }
}
