//! The commands that the initiator sends, as 64 bytes, without their data
//! pointer and command identifier: those are the queue's business.

use sidelane_nvme::spec::{
    AdminOpcode, Cns, Connect, ConnectData, DISCOVERY_NQN, FabricsType, FeatureId, GetLogPage,
    GetLogPageCdw10, HostId, Identify, LogId, Nqn, NqnField, NumberOfQueues, NvmOpcode,
    PropertyGet, PropertySet, ReadWrite, ReadWriteCdw12, SetFeatures, SetFeaturesCdw10, Sqe,
};
use zerocopy::little_endian::{U16, U32, U64};

/// Connect (Base 6.3).
pub(super) fn connect(qid: u16, entries: u16, kato_ms: u32) -> Sqe {
    let mut command = Connect::default();
    command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
    command.fctype = FabricsType::Connect;
    command.qid = U16::new(qid);
    command.sqsize_z = U16::new(entries.saturating_sub(1));
    command.kato_ms = U32::new(if qid == 0 { kato_ms } else { 0 });
    command.into()
}

/// What Connect carries.
pub(super) fn connect_data(
    cntlid: u16,
    hostid: HostId,
    subnqn: &Nqn,
    hostnqn: &Nqn,
) -> ConnectData {
    let mut data = ConnectData::default();
    data.cntlid.set(cntlid);
    data.hostid = hostid;
    data.subnqn = NqnField::from(subnqn);
    data.hostnqn = NqnField::from(hostnqn);
    data
}

/// Property Get (Base 6.5) of a property of 8 bytes, or of 4.
pub(super) fn property_get(offset: u32, wide: bool) -> Sqe {
    let mut command = PropertyGet::default();
    command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
    command.fctype = FabricsType::PropertyGet;
    command.attributes.set_size(u8::from(wide));
    command.offset = U32::new(offset);
    command.into()
}

/// Property Set (Base 6.6) of a property of 4 bytes.
pub(super) fn property_set(offset: u32, value: u32) -> Sqe {
    let mut command = PropertySet::default();
    command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
    command.fctype = FabricsType::PropertySet;
    command.offset = U32::new(offset);
    command.value = U64::new(u64::from(value));
    command.into()
}

/// Identify (Base 5.17).
pub(super) fn identify(cns: Cns, nsid: u32) -> Sqe {
    let mut command = Identify::default();
    command.cdw0.set_opcode(AdminOpcode::Identify.0);
    command.nsid = U32::new(nsid);
    command.cns = cns;
    command.into()
}

/// Set Features, Number of Queues (Base 5.27.1.5).
pub(super) fn number_of_queues(queues: u16) -> Sqe {
    let wanted_z = queues.saturating_sub(1);
    let value = NumberOfQueues::new()
        .with_submission_z(wanted_z)
        .with_completion_z(wanted_z);
    let mut command = SetFeatures::default();
    command.cdw0.set_opcode(AdminOpcode::SetFeatures.0);
    command.cdw10 = SetFeaturesCdw10::new().with_fid(FeatureId::NumberOfQueues);
    command.cdw11 = U32::new(value.into_bits().get());
    command.into()
}

/// Keep Alive (Base 5.18).
pub(super) fn keep_alive() -> Sqe {
    Sqe::new(AdminOpcode::KeepAlive.0, 0)
}

/// Get Log Page of the discovery log (Base 5.16.1.23), `len` bytes from `offset`.
pub(super) fn discovery_log(offset: u64, len: usize) -> Sqe {
    let mut command = GetLogPage::default();
    command.cdw0.set_opcode(AdminOpcode::GetLogPage.0);
    command.cdw10 = GetLogPageCdw10::new().with_lid(LogId::Discovery);
    command.lpo = U64::new(offset);
    command.with_len_dwords(len as u64 / 4).into()
}

/// Read or Write (NVM 3.2.4, 3.2.6); `blocks` is 1 to 65536.
pub(super) fn read_write(opcode: NvmOpcode, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    let mut command = ReadWrite::default();
    command.cdw0.set_opcode(opcode.0);
    command.nsid = U32::new(nsid);
    command.slba = U64::new(lba);
    command.cdw12 = ReadWriteCdw12::new().with_nlb_z((blocks.wrapping_sub(1) & 0xffff) as u16);
    command.into()
}

/// Flush (Base 7.1).
pub(super) fn flush(nsid: u32) -> Sqe {
    Sqe::new(NvmOpcode::Flush.0, nsid)
}

/// Says what a Connect Invalid Parameters complains of: the field at `offset`
/// of the command, or of its data.
pub(super) fn connect_field(offset: u16, in_data: bool) -> &'static str {
    match (in_data, offset) {
        (true, 0..16) => "host identifier",
        (true, 16..18) => "controller identifier",
        (true, 256..512) => "subsystem NQN",
        (true, 512..768) => "host NQN",
        (false, 40..42) => "record format",
        (false, 42..44) => "queue identifier",
        (false, 44..46) => "queue size",
        (false, 46) => "attributes",
        (false, 48..52) => "keep alive timeout",
        _ => "field at an offset this host does not know",
    }
}

/// The discovery subsystem's name.
pub(super) fn discovery_nqn() -> Result<Nqn, super::HostError> {
    DISCOVERY_NQN
        .parse()
        .map_err(|error| super::HostError::Options(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    /// Bytes by hand from the figures of the specification.
    #[test]
    fn commands_have_their_fields_where_the_specification_puts_them() {
        let sqe = connect(3, 128, 5000);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[4]), (0x7f, 0x01));
        assert_eq!(bytes[40..48], [0, 0, 3, 0, 127, 0, 0, 0]);
        assert_eq!(
            bytes[48..52],
            [0; 4],
            "only the admin queue's Connect sets a timeout"
        );
        assert_eq!(
            connect(0, 32, 5000).as_bytes()[48..52],
            5000u32.to_le_bytes()
        );

        let sqe = property_get(0, true);
        assert_eq!((sqe.as_bytes()[4], sqe.as_bytes()[40]), (0x04, 1));
        let sqe = property_set(0x14, 0x0046_0001);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[4], bytes[40], bytes[44]), (0x00, 0, 0x14));
        assert_eq!(bytes[48..56], [1, 0, 0x46, 0, 0, 0, 0, 0]);

        let sqe = discovery_log(1024, 4096);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[40]), (0x02, 0x70));
        assert_eq!(
            (bytes[42..44].to_vec(), bytes[48..56].to_vec()),
            (
                1023u16.to_le_bytes().to_vec(),
                1024u64.to_le_bytes().to_vec()
            )
        );

        let sqe = read_write(NvmOpcode::Write, 7, 0x1_0000_0002, 65536);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[4]), (0x01, 7));
        assert_eq!(bytes[40..48], 0x1_0000_0002u64.to_le_bytes());
        assert_eq!(bytes[48..50], [0xff, 0xff]);
    }
}
