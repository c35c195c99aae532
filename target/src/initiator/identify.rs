//! What the host keeps of Identify data, and what it insists on (Base 5.17,
//! RDMA 3).

use sidelane_nvme::spec::{Cap, IdentifyController, IdentifyNamespace, KEYED_LENGTH_MAX, Version};

use super::HostError;

/// What a controller says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerInfo {
    /// Controller identifier.
    pub cntlid: u16,
    /// Version, as major, minor, tertiary.
    pub version: (u16, u8, u8),
    /// Model number.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Entries of each I/O submission queue.
    pub queue_entries: u16,
    /// Bytes that one command can move.
    pub max_transfer: u32,
    /// Bytes of data that fit into a command capsule and that this host uses.
    pub in_capsule: u32,
    /// Whether any command keeps the association alive, not only Keep Alive.
    pub traffic_keep_alive: bool,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its identifier.
    pub nsid: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Most blocks that one command can move.
    pub max_blocks: u32,
    /// NGUID, all zero for none.
    pub nguid: [u8; 16],
    /// EUI64, all zero for none.
    pub eui64: [u8; 8],
}

impl ControllerInfo {
    /// Takes what is needed, and refuses a controller that lacks what this host
    /// cannot do without.
    pub(super) fn new(
        cap: Cap,
        version: Version,
        data: &IdentifyController,
        in_capsule_max: u32,
    ) -> Result<Self, HostError> {
        let lacking = if !data.sgls.keyed() {
            Some("it has no keyed SGLs (SGLS bit 2)".to_owned())
        } else if data.ioccsz.get() < 4 || data.iorcsz.get() < 1 {
            let (command, response) = (data.ioccsz.get(), data.iorcsz.get());
            Some(format!(
                "its capsules are too small (IOCCSZ {command}, IORCSZ {response})"
            ))
        } else if data.icdoff.get() != 0 {
            Some(format!(
                "in-capsule data does not follow the command (ICDOFF {})",
                data.icdoff
            ))
        } else if data.sqes.min() > 6 || data.cqes.min() > 4 {
            Some("its queue entries are longer than 64 and 16 bytes".to_owned())
        } else {
            None
        };
        if let Some(what) = lacking {
            return Err(HostError::Unusable(what));
        }
        let capsule_room = data.ioccsz.get().saturating_mul(16).saturating_sub(64);
        let in_capsule = if data.sgls.offset() {
            capsule_room.min(in_capsule_max)
        } else {
            0
        };
        Ok(Self {
            cntlid: data.cntlid.get(),
            version: (version.major(), version.minor(), version.tertiary()),
            model: data.mn.to_string(),
            serial: data.sn.to_string(),
            firmware: data.fr.to_string(),
            queue_entries: 0,
            max_transfer: max_transfer(data.mdts, cap.mpsmin()),
            in_capsule,
            traffic_keep_alive: data.ctratt.traffic_keep_alive(),
        })
    }

    /// Entries of an I/O submission queue that host and controller both take.
    pub(super) fn entries(cap: Cap, data: &IdentifyController, wanted: u16) -> u16 {
        let queue = u32::from(cap.mqes_z()) + 1;
        let commands = match data.maxcmd.get() {
            0 => u32::from(u16::MAX),
            commands => u32::from(commands),
        };
        u32::from(wanted).min(queue).min(commands).max(2) as u16
    }
}

/// MDTS is a power of two in pages of the smallest size, 0 for no limit.
fn max_transfer(mdts: u8, mpsmin: u8) -> u32 {
    let whole_pages = KEYED_LENGTH_MAX & !4095;
    match u32::from(mdts) {
        0 => whole_pages,
        mdts => 1u32
            .checked_shl(mdts + 12 + u32::from(mpsmin))
            .map_or(whole_pages, |bytes| bytes.min(whole_pages)),
    }
}

impl NamespaceInfo {
    /// A namespace that this host can read and write, or why it cannot.
    pub(super) fn new(
        nsid: u32,
        data: &IdentifyNamespace,
        max_transfer: u32,
    ) -> Result<Self, &'static str> {
        let format = data
            .format()
            .ok_or("its format index points at no format")?;
        let block_bytes = format
            .data_bytes()
            .ok_or("its block size is out of bounds")?;
        if format.metadata_bytes.get() != 0 || data.dps.kind() != 0 {
            return Err("it has metadata or protection information");
        }
        let max_blocks = (max_transfer / block_bytes).min(1 << 16);
        if max_blocks == 0 {
            return Err("its blocks are longer than the longest transfer");
        }
        Ok(Self {
            nsid,
            blocks: data.nsze.get(),
            block_bytes,
            max_blocks,
            nguid: data.nguid,
            eui64: data.eui64,
        })
    }
}

#[cfg(test)]
#[allow(
    clippy::field_reassign_with_default,
    reason = "wire types have private fields"
)]
mod tests {
    use super::*;
    use sidelane_nvme::spec::{LbaFormat, QueueEntrySizes, Sgls};
    use zerocopy::little_endian::{U16, U32, U64};

    #[rstest::rstest]
    #[case(0, 0, 0xff_f000)]
    #[case(5, 0, 128 << 10)]
    #[case(8, 0, 1 << 20)]
    #[case(5, 4, 2 << 20)]
    #[case(200, 0, 0xff_f000)]
    #[case(20, 0, 0xff_f000)]
    fn the_longest_transfer_follows_mdts_and_the_24_bits_of_a_keyed_length(
        #[case] mdts: u8,
        #[case] mpsmin: u8,
        #[case] bytes: u32,
    ) {
        assert_eq!(max_transfer(mdts, mpsmin), bytes);
    }

    fn controller() -> IdentifyController {
        let mut data = IdentifyController::default();
        data.sgls = Sgls::new()
            .with_support(1)
            .with_keyed(true)
            .with_offset(true);
        data.ioccsz = U32::new(4 + 256);
        data.iorcsz = U32::new(1);
        data.sqes = QueueEntrySizes::new().with_min(6).with_max(6);
        data.cqes = QueueEntrySizes::new().with_min(4).with_max(4);
        data
    }

    #[test]
    fn in_capsule_data_is_used_as_far_as_host_and_controller_allow() {
        let info = |data: &IdentifyController, max| {
            ControllerInfo::new(Cap::new(), Version::V1_4, data, max)
                .unwrap()
                .in_capsule
        };
        let mut data = controller();
        assert_eq!(
            (info(&data, 8192), info(&data, 1024), info(&data, 0)),
            (4096, 1024, 0)
        );
        data.sgls.set_offset(false);
        assert_eq!(info(&data, 8192), 0);
        data.sgls.set_offset(true);
        data.ioccsz = U32::new(4);
        assert_eq!(info(&data, 8192), 0);
    }

    #[test]
    fn a_controller_without_keyed_sgls_or_with_an_offset_of_capsule_data_is_refused() {
        let refuse = |data: &IdentifyController| {
            ControllerInfo::new(Cap::new(), Version::V1_4, data, 0)
                .unwrap_err()
                .to_string()
        };
        let mut data = controller();
        data.sgls.set_keyed(false);
        assert!(refuse(&data).contains("keyed"));
        let mut data = controller();
        data.icdoff = U16::new(1);
        assert!(refuse(&data).contains("ICDOFF 1"));
        let mut data = controller();
        data.ioccsz = U32::new(3);
        assert!(refuse(&data).contains("IOCCSZ 3"));
    }

    #[test]
    fn queue_entries_are_the_least_of_what_is_wanted_mqes_and_maxcmd() {
        let entries = |mqes_z, maxcmd, wanted| {
            let mut data = controller();
            data.maxcmd = U16::new(maxcmd);
            ControllerInfo::entries(Cap::new().with_mqes_z(mqes_z), &data, wanted)
        };
        assert_eq!(entries(1023, 0, 128), 128);
        assert_eq!(entries(63, 0, 128), 64);
        assert_eq!(entries(1023, 32, 128), 32);
        assert_eq!(entries(u16::MAX, 0, 1024), 1024);
    }

    #[test]
    fn a_namespace_with_metadata_or_without_a_format_is_refused() {
        let mut data = IdentifyNamespace::default();
        assert!(NamespaceInfo::new(1, &data, 4096).is_err());
        data.lbaf[0] = LbaFormat::data_only(12);
        data.nsze = U64::new(10);
        let info = NamespaceInfo::new(1, &data, 1 << 20).unwrap();
        assert_eq!(
            (info.blocks, info.block_bytes, info.max_blocks),
            (10, 4096, 256)
        );
        assert!(NamespaceInfo::new(1, &data, 2048).is_err());
        data.lbaf[0].metadata_bytes = U16::new(8);
        assert!(NamespaceInfo::new(1, &data, 4096).is_err());
    }
}
