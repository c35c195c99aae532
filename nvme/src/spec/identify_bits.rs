//! Bit fields of the Identify data (clauses 5.17.2.1 and NVM 4.1.5).

bits! {
    /// Controller multi-path I/O and namespace sharing (CMIC).
    pub struct Cmic: u8 {
        /// The subsystem may have more than one port.
        pub multi_port: bool,
        /// The subsystem may have more than one controller.
        pub multi_controller: bool,
        /// The controller is an SR-IOV virtual function.
        pub sriov: bool,
        /// Asymmetric namespace access is reported.
        pub ana: bool,
        #[bits(4)]
        __: u8,
    }
}

bits! {
    /// Optional asynchronous events supported (OAES).
    pub struct Oaes: u32 {
        __: u8,
        /// Namespace attribute notices.
        pub namespace_attribute: bool,
        /// Firmware activation notices.
        pub firmware_activation: bool,
        __: bool,
        /// ANA change notices.
        pub ana_change: bool,
        /// Predictable latency aggregate log notices.
        pub predictable_latency: bool,
        /// LBA status information notices.
        pub lba_status: bool,
        /// Endurance group aggregate log notices.
        pub endurance_group: bool,
        /// Normal NVM subsystem shutdown notices.
        pub subsystem_shutdown: bool,
        #[bits(11)]
        __: u16,
        /// Zone descriptor changed notices.
        pub zone_descriptor: bool,
        #[bits(3)]
        __: u8,
        /// Discovery log page change notices.
        pub discovery_log: bool,
    }
}

bits! {
    /// Controller attributes (CTRATT).
    pub struct Ctratt: u32 {
        /// Host identifiers of 128 bits.
        pub host_id_128: bool,
        /// Non-operational power state permissive mode.
        pub non_operational_permissive: bool,
        /// NVM sets.
        pub nvm_sets: bool,
        /// Read recovery levels.
        pub read_recovery_levels: bool,
        /// Endurance groups.
        pub endurance_groups: bool,
        /// Predictable latency mode.
        pub predictable_latency: bool,
        /// Keep alive by traffic (TBKAS).
        pub traffic_keep_alive: bool,
        /// Namespace granularity.
        pub namespace_granularity: bool,
        /// SQ associations.
        pub sq_associations: bool,
        /// UUID list.
        pub uuid_list: bool,
        /// Multi-domain subsystem.
        pub multi_domain: bool,
        /// Fixed capacity management.
        pub fixed_capacity: bool,
        /// Variable capacity management.
        pub variable_capacity: bool,
        /// Delete endurance group.
        pub delete_endurance_group: bool,
        /// Delete NVM set.
        pub delete_nvm_set: bool,
        /// Extended LBA formats (ELBAS).
        pub extended_lba_formats: bool,
        __: u16,
    }
}

bits! {
    /// Optional admin commands supported (OACS).
    pub struct Oacs: u16 {
        /// Security Send and Receive.
        pub security: bool,
        /// Format NVM.
        pub format: bool,
        /// Firmware Commit and Download.
        pub firmware: bool,
        /// Namespace Management and Attachment.
        pub namespace_management: bool,
        /// Device Self-test.
        pub self_test: bool,
        /// Directives.
        pub directives: bool,
        /// NVMe-MI Send and Receive.
        pub management_interface: bool,
        /// Virtualization Management.
        pub virtualization: bool,
        /// Doorbell Buffer Config.
        pub doorbell_buffer: bool,
        /// Get LBA Status.
        pub get_lba_status: bool,
        /// Command and feature lockdown.
        pub lockdown: bool,
        #[bits(5)]
        __: u8,
    }
}

bits! {
    /// Firmware updates (FRMW).
    pub struct Frmw: u8 {
        /// Slot 1 is read-only.
        pub slot1_read_only: bool,
        /// Firmware slots, 1 to 7.
        #[bits(3)]
        pub slots: u8,
        /// Activation without reset.
        pub activate_without_reset: bool,
        /// Overlapping updates are noticed (SMUD).
        pub update_detection: bool,
        #[bits(2)]
        __: u8,
    }
}

bits! {
    /// Log page attributes (LPA).
    pub struct Lpa: u8 {
        /// SMART log of each namespace.
        pub smart_per_namespace: bool,
        /// Commands supported and effects log.
        pub command_effects: bool,
        /// Extended data: 32-bit lengths and offsets in Get Log Page.
        pub extended_data: bool,
        /// Telemetry logs.
        pub telemetry: bool,
        /// Persistent event log.
        pub persistent_event: bool,
        /// Supported log pages, and the scope of each command (log pages 0, 5, 12h, 13h).
        pub supported_pages: bool,
        /// Telemetry data area 4.
        pub telemetry_area4: bool,
        __: bool,
    }
}

bits! {
    /// Smallest and largest queue entry, as powers of two (SQES, CQES).
    pub struct QueueEntrySizes: u8 {
        /// Required size.
        #[bits(4)]
        pub min: u8,
        /// Largest size.
        #[bits(4)]
        pub max: u8,
    }
}

bits! {
    /// Optional NVM commands supported (ONCS).
    pub struct Oncs: u16 {
        /// Compare.
        pub compare: bool,
        /// Write Uncorrectable.
        pub write_uncorrectable: bool,
        /// Dataset Management.
        pub dsm: bool,
        /// Write Zeroes.
        pub write_zeroes: bool,
        /// Saved features and the select field.
        pub save_features: bool,
        /// Reservations.
        pub reservations: bool,
        /// Timestamp.
        pub timestamp: bool,
        /// Verify.
        pub verify: bool,
        /// Copy.
        pub copy: bool,
        #[bits(7)]
        __: u8,
    }
}

bits! {
    /// Fused operations supported (FUSES).
    pub struct Fuses: u16 {
        /// Compare and Write.
        pub compare_and_write: bool,
        #[bits(15)]
        __: u16,
    }
}

bits! {
    /// Format NVM attributes (FNA).
    pub struct Fna: u8 {
        /// Format applies to all namespaces.
        pub format_all: bool,
        /// Secure erase applies to all namespaces.
        pub erase_all: bool,
        /// Cryptographic erase.
        pub crypto_erase: bool,
        /// The broadcast namespace is not accepted.
        pub no_broadcast: bool,
        #[bits(4)]
        __: u8,
    }
}

codes! {
    /// What Flush does with the broadcast namespace.
    pub enum FlushBroadcast {
        /// Not said.
        Unspecified = 0,
        /// Refused.
        Refused = 2,
        /// Every namespace is flushed.
        All = 3,
    }
}

bits! {
    /// Volatile write cache (VWC).
    pub struct Vwc: u8 {
        /// There is one.
        pub present: bool,
        /// What Flush does with the broadcast namespace.
        #[bits(2)]
        pub flush_broadcast: FlushBroadcast,
        #[bits(5)]
        __: u8,
    }
}

bits! {
    /// SGL support (SGLS).
    pub struct Sgls: u32 {
        /// 0 none, 1 without alignment demand, 2 with dword alignment and length.
        #[bits(2)]
        pub support: u8,
        /// Keyed data blocks.
        pub keyed: bool,
        #[bits(5)]
        __: u8,
        /// Recommended descriptors of one list, 0 for no word on it (SDT).
        pub descriptor_threshold: u8,
        /// Bit buckets.
        pub bit_bucket: bool,
        /// Metadata pointers aligned to bytes.
        pub byte_aligned_metadata: bool,
        /// SGLs longer than the data.
        pub oversize: bool,
        /// The metadata pointer may hold an SGL descriptor.
        pub metadata_sgl: bool,
        /// Addresses may be offsets: in-capsule data.
        pub offset: bool,
        /// Transport data blocks.
        pub transport: bool,
        #[bits(10)]
        __: u16,
    }
}

bits! {
    /// Fabrics controller attributes (FCATT).
    pub struct Fcatt: u8 {
        /// The static controller model; clear for the dynamic one.
        pub static_model: bool,
        #[bits(7)]
        __: u8,
    }
}

bits! {
    /// Optional fabrics commands supported (OFCS).
    pub struct Ofcs: u16 {
        /// Disconnect.
        pub disconnect: bool,
        #[bits(15)]
        __: u16,
    }
}

bits! {
    /// ANA capabilities (ANACAP).
    pub struct AnaCap: u8 {
        /// Optimized state.
        pub optimized: bool,
        /// Non-optimized state.
        pub non_optimized: bool,
        /// Inaccessible state.
        pub inaccessible: bool,
        /// Persistent loss state.
        pub persistent_loss: bool,
        /// Change state.
        pub change: bool,
        __: bool,
        /// A namespace's group does not change.
        pub group_fixed: bool,
        /// Groups can be given when namespaces are created.
        pub group_management: bool,
    }
}

bits! {
    /// Namespace features (NSFEAT).
    pub struct NsFeat: u8 {
        /// Thin provisioning.
        pub thin: bool,
        /// The namespace's own atomic sizes hold (NSABP).
        pub atomic_sizes: bool,
        /// Errors for deallocated blocks can be had (DAE).
        pub deallocated_error: bool,
        /// NGUID and EUI64 are never used again (UIDREUSE).
        pub id_not_reused: bool,
        /// The preferred sizes NPWG, NPWA, NPDG, NPDA, NOWS are defined (OPTPERF).
        pub preferred_sizes: bool,
        #[bits(3)]
        __: u8,
    }
}

bits! {
    /// Formatted LBA size (FLBAS).
    pub struct Flbas: u8 {
        /// Index of the format in use, lower bits.
        #[bits(4)]
        pub index_low: u8,
        /// Metadata follows the data of each block.
        pub extended: bool,
        /// Index of the format in use, upper bits.
        #[bits(2)]
        pub index_high: u8,
        __: bool,
    }
}

impl Flbas {
    /// Index of the format in use, 0 to 63. The upper bits count only where
    /// there are more than 16 formats.
    pub fn index(&self, formats: usize) -> usize {
        let high = if formats > 16 { self.index_high() } else { 0 };
        usize::from(high << 4 | self.index_low())
    }
}

bits! {
    /// End-to-end data protection settings (DPS).
    pub struct Dps: u8 {
        /// Type in use, 0 for none.
        #[bits(3)]
        pub kind: u8,
        /// The information stands in the first bytes of the metadata.
        pub first: bool,
        #[bits(4)]
        __: u8,
    }
}

bits! {
    /// Namespace multi-path I/O and sharing (NMIC).
    pub struct Nmic: u8 {
        /// More than one controller may have it attached.
        pub shared: bool,
        #[bits(7)]
        __: u8,
    }
}

bits! {
    /// Deallocate logical block features (DLFEAT).
    pub struct DlFeat: u8 {
        /// What a deallocated block reads as: 0 unknown, 1 zeros, 2 ones.
        #[bits(3)]
        pub read: u8,
        /// Write Zeroes may deallocate.
        pub write_zeroes_deallocates: bool,
        /// The guard of a deallocated block is a CRC.
        pub guard_crc: bool,
        #[bits(3)]
        __: u8,
    }
}

bits! {
    /// Namespace attributes (NSATTR).
    pub struct NsAttr: u8 {
        /// Write-protected now.
        pub write_protected: bool,
        #[bits(7)]
        __: u8,
    }
}
