//! Get Log Page (NVMe 2.0, 5.16).
//!
//! The length is the full 32-bit count of dwords, the offset has 64 bits. A page
//! is made whole and then cut; what is asked for beyond its end reads as zeros.

use sidelane_nvme::spec::{
    ActiveFirmware, AdminOpcode, Ascii, CommandEffect, CommandEffectsLog, FirmwareSlotLog,
    GetLogPage, LogId, NAMESPACE_LIST_LEN, NSID_ALL, NamespaceList, NvmOpcode,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U128};

use super::admin::AdminQueue;
use super::identify::bytes;
use super::refusal::{Refusal, at};
use super::step::{Completion, HostLen, Step};

const ADMIN_COMMANDS: [AdminOpcode; 8] = [
    AdminOpcode::GetLogPage,
    AdminOpcode::Identify,
    AdminOpcode::Abort,
    AdminOpcode::SetFeatures,
    AdminOpcode::GetFeatures,
    AdminOpcode::AsyncEventRequest,
    AdminOpcode::KeepAlive,
    AdminOpcode::Fabrics,
];

/// I/O commands, and whether they change what blocks hold.
const IO_COMMANDS: [(NvmOpcode, bool); 5] = [
    (NvmOpcode::Flush, false),
    (NvmOpcode::Write, true),
    (NvmOpcode::Read, false),
    (NvmOpcode::WriteZeroes, true),
    (NvmOpcode::DatasetManagement, true),
];

impl AdminQueue {
    pub(super) fn get_log_page(
        &mut self,
        command: &GetLogPage,
        host_len: HostLen,
    ) -> Result<Step, Refusal> {
        let (lid, len) = (command.cdw10.lid(), command.len_bytes());
        if !self.has_page(lid) {
            return Err(Refusal::LogPage(lid.into_bits()));
        }
        Self::no_uuid_index(command.cdw14.uuid_index().into())?;
        if command.cdw14.offset_is_index() {
            return Self::field(at::CDW14, "offsets count bytes");
        }
        let offset = command.lpo.get();
        if !offset.is_multiple_of(4) {
            return Self::field(at::CDW12, "the offset is not a multiple of 4");
        }
        if !matches!(command.nsid.get(), 0 | NSID_ALL) && lid == LogId::Smart {
            return Self::field(at::NSID, "there is no SMART log of one namespace");
        }
        if len > self.subsystem.limits().max_transfer_bytes() {
            return Err(Refusal::TransferTooLong(len));
        }
        Self::check_len(len, host_len)?;
        if !command.cdw10.rae() {
            self.aers.page_is_read(&self.shared, lid);
        }
        let page = self.page(lid, !command.cdw10.rae());
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| page.get(offset..));
        let Some(rest) = rest else {
            return Self::field(at::CDW12, "the offset is past the end of the log page");
        };
        let mut data = rest.to_vec();
        // Bounded by MDTS above.
        data.resize(usize::try_from(len).unwrap_or_default(), 0);
        Ok(Step::Reply {
            data,
            completion: Completion::OK,
        })
    }

    fn has_page(&self, lid: LogId) -> bool {
        if self.is_discovery() {
            return lid == LogId::Discovery;
        }
        matches!(
            lid,
            LogId::Error
                | LogId::Smart
                | LogId::FirmwareSlot
                | LogId::ChangedNamespaces
                | LogId::CommandEffects
        )
    }

    /// A whole page; empty for one that is not there.
    fn page(&self, lid: LogId, clear: bool) -> Vec<u8> {
        match lid {
            LogId::Error => self
                .shared
                .errors()
                .iter()
                .flat_map(|e| e.as_bytes().to_vec())
                .collect(),
            LogId::Smart => self.smart_log(),
            LogId::FirmwareSlot => self.firmware_slot_log(),
            LogId::ChangedNamespaces => self.changed_namespaces(clear),
            LogId::CommandEffects => command_effects(),
            LogId::Discovery => self
                .target
                .discovery_log(&self.shared.host().nqn, &self.portal),
            _ => Vec::new(),
        }
    }

    fn smart_log(&self) -> Vec<u8> {
        let mut log = self.subsystem.smart();
        log.error_log_entries = U128::new(self.shared.errors().count().into());
        bytes(&log)
    }

    fn firmware_slot_log(&self) -> Vec<u8> {
        let mut log = FirmwareSlotLog::default();
        log.afi = ActiveFirmware::new().with_active_slot(1);
        if let Some(slot1) = log.revisions.first_mut() {
            *slot1 = Ascii::new(self.subsystem.firmware());
        }
        bytes(&log)
    }

    /// Namespaces that changed since this page was last read (5.16.1.5).
    fn changed_namespaces(&self, clear: bool) -> Vec<u8> {
        let changed = self.shared.changed_namespaces();
        if clear {
            self.shared.clear_changed_namespaces();
        }
        if changed.len() > NAMESPACE_LIST_LEN {
            let mut overflow = NamespaceList::default();
            if let Some(first) = overflow.nsids.first_mut() {
                *first = U32::new(NSID_ALL);
            }
            return bytes(&overflow);
        }
        bytes(&NamespaceList::of(changed))
    }
}

fn command_effects() -> Vec<u8> {
    let supported = CommandEffect::new().with_supported(true);
    let mut log = CommandEffectsLog::default();
    for opcode in ADMIN_COMMANDS {
        if let Some(effect) = log.admin.get_mut(usize::from(opcode.into_bits())) {
            *effect = supported;
        }
    }
    for (opcode, changes_blocks) in IO_COMMANDS {
        if let Some(effect) = log.io.get_mut(usize::from(opcode.into_bits())) {
            *effect = supported.with_block_content(changes_blocks);
        }
    }
    bytes(&log)
}
