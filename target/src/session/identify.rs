//! Identify (NVMe 2.0, 5.17): the controller, and which structure is asked for.

use sidelane_nvme::spec::{
    Ascii, Cmic, Cns, CommandSetList, ControllerType, Csi, Ctratt, FlushBroadcast, Frmw, Identify,
    IdentifyController, IdentifyControllerNvm, Lpa, NqnField, Oaes, Ofcs, Oncs, QueueEntrySizes,
    Sgls, Vwc,
};
use sidelane_transport::nvmf;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::admin::AdminQueue;
use super::aer::AER_LIMIT;
use super::features::{CRITICAL_TEMPERATURE_K, WARNING_TEMPERATURE_K};
use super::keep_alive::KAS;
use super::properties::VERSION;
use super::refusal::{Refusal, at};
use super::step::{HostLen, Step};
use crate::subsystem::{ABORT_LIMIT, ERROR_LOG_LEN, Limits, NSID_MAX};

/// Bytes of a submission queue entry, and the unit of capsule sizes.
const SQE_BYTES: u32 = 64;
const CAPSULE_UNIT: u32 = 16;

/// Direct discovery controller (DCTYPE).
const DCTYPE_DIRECT: u8 = 1;

/// Bytes behind the command in a capsule: in-capsule data, and at least a list of
/// descriptors, which the same bit of SGLS allows.
fn capsule_data_bytes(limits: &Limits) -> u32 {
    limits.in_capsule_bytes.max(nvmf::MAX_LIST_BYTES as u32)
}

pub(super) fn bytes<T: IntoBytes + Immutable>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}

impl AdminQueue {
    pub(super) fn identify(&self, command: &Identify, host_len: HostLen) -> Result<Step, Refusal> {
        Self::no_uuid_index(command.uuid_index.get())?;
        let nsid = command.nsid.get();
        let data = match command.cns {
            Cns::Controller => bytes(&self.identify_controller()),
            _ if self.is_discovery() => return Self::unknown_cns(),
            Cns::Namespace => self.identify_namespace(nsid)?,
            Cns::ActiveNamespaces => self.active_namespaces(nsid)?,
            Cns::NamespaceDescriptors => self.namespace_descriptors(nsid)?,
            Cns::CommandSetNamespace
            | Cns::CommandSetController
            | Cns::CommandSetActiveNamespaces
                if command.csi != Csi::Nvm =>
            {
                return Self::field(at::CDW11, "there is no such I/O command set");
            }
            Cns::CommandSetNamespace => self.identify_namespace_nvm(nsid)?,
            Cns::CommandSetController => bytes(&self.identify_controller_nvm()),
            Cns::CommandSetActiveNamespaces => self.active_namespaces(nsid)?,
            Cns::IndependentNamespace => self.identify_namespace_independent(nsid)?,
            Cns::CommandSets => {
                let mut list = CommandSetList::default();
                if let Some(first) = list.combinations.first_mut() {
                    *first = U64::new(1 << Csi::Nvm.into_bits());
                }
                bytes(&list)
            }
            _ => return Self::unknown_cns(),
        };
        Self::reply(data, host_len)
    }

    fn unknown_cns<T>() -> Result<T, Refusal> {
        Self::field(at::CDW10, "there is no such structure to identify")
    }

    fn identify_controller(&self) -> IdentifyController {
        let limits = self.subsystem.limits();
        let mut id = IdentifyController::default();
        id.sn = Ascii::new(self.subsystem.serial());
        id.mn = Ascii::new(self.subsystem.model());
        id.fr = Ascii::new(self.subsystem.firmware());
        id.rab = 6;
        id.mdts = limits.mdts;
        id.cntlid = U16::new(self.shared.cntlid());
        id.ver = VERSION;
        id.ctratt = Ctratt::new()
            .with_host_id_128(true)
            .with_traffic_keep_alive(true);
        id.aerl_z = (AER_LIMIT - 1) as u8;
        id.frmw = Frmw::new().with_slot1_read_only(true).with_slots(1);
        id.elpe_z = (ERROR_LOG_LEN - 1) as u8;
        id.kas = U16::new(KAS);
        // Hosts warn when this is 0, of a discovery controller too.
        id.maxcmd = U16::new(limits.max_queue_entries);
        id.sgls = Sgls::new()
            .with_support(1)
            .with_keyed(true)
            .with_offset(true);
        id.subnqn = NqnField::from(self.subsystem.nqn());
        id.ioccsz = U32::new((SQE_BYTES + capsule_data_bytes(limits)) / CAPSULE_UNIT);
        id.iorcsz = U32::new(1);
        id.msdbd = nvmf::MAX_DESCRIPTORS as u8;
        if self.is_discovery() {
            id.cntrltype = ControllerType::Discovery;
            id.dctype = DCTYPE_DIRECT;
            id.oaes = Oaes::new().with_discovery_log(true);
            id.lpa = Lpa::new().with_extended_data(true);
        } else {
            self.identify_io_controller(&mut id);
        }
        id
    }

    /// What only a controller with I/O queues has.
    fn identify_io_controller(&self, id: &mut IdentifyController) {
        let namespaces = self.subsystem.namespaces();
        let deallocate = namespaces.iter().any(|namespace| namespace.deallocate);
        let write_zeroes =
            !namespaces.is_empty() && namespaces.iter().all(|namespace| namespace.write_zeroes);
        let write_cache = namespaces
            .iter()
            .any(|namespace| namespace.volatile_write_cache);
        id.cntrltype = ControllerType::Io;
        id.cmic = Cmic::new()
            .with_multi_port(true)
            .with_multi_controller(true);
        id.oaes = Oaes::new().with_namespace_attribute(true);
        id.acl_z = (ABORT_LIMIT - 1) as u8;
        id.lpa = Lpa::new()
            .with_command_effects(true)
            .with_extended_data(true);
        id.wctemp_k = U16::new(WARNING_TEMPERATURE_K);
        id.cctemp_k = U16::new(CRITICAL_TEMPERATURE_K);
        id.sqes = QueueEntrySizes::new().with_min(6).with_max(6);
        id.cqes = QueueEntrySizes::new().with_min(4).with_max(4);
        id.nn = U32::new(NSID_MAX);
        id.mnan = U32::new(NSID_MAX);
        id.oncs = Oncs::new()
            .with_dsm(deallocate)
            .with_write_zeroes(write_zeroes)
            .with_save_features(true);
        id.vwc = Vwc::new()
            .with_present(write_cache)
            .with_flush_broadcast(FlushBroadcast::Refused);
        id.ofcs = Ofcs::new().with_disconnect(true);
    }

    /// Write Zeroes is bounded as transfers are, so that backends that have to
    /// send zeros are not kept busy by one command.
    fn identify_controller_nvm(&self) -> IdentifyControllerNvm {
        let mut id = IdentifyControllerNvm::default();
        id.wzsl = self.subsystem.limits().mdts;
        id
    }
}
