//! Features: Get Features, Set Features and their values (clauses 5.15 and 5.27).

use zerocopy::little_endian::U32;

use super::{Cdw0, DataPtr};

codes! {
    /// Feature identifier (FID).
    pub enum FeatureId {
        /// Arbitration.
        Arbitration = 0x01,
        /// Power management.
        PowerManagement = 0x02,
        /// LBA range type.
        LbaRangeType = 0x03,
        /// Temperature threshold.
        TemperatureThreshold = 0x04,
        /// Error recovery.
        ErrorRecovery = 0x05,
        /// Volatile write cache.
        VolatileWriteCache = 0x06,
        /// Number of queues.
        NumberOfQueues = 0x07,
        /// Interrupt coalescing.
        InterruptCoalescing = 0x08,
        /// Interrupt vector configuration.
        InterruptVectorConfig = 0x09,
        /// Write atomicity normal.
        WriteAtomicity = 0x0a,
        /// Asynchronous event configuration.
        AsyncEventConfig = 0x0b,
        /// Autonomous power state transition.
        AutonomousPowerState = 0x0c,
        /// Host memory buffer.
        HostMemoryBuffer = 0x0d,
        /// Timestamp.
        Timestamp = 0x0e,
        /// Keep alive timer.
        KeepAliveTimer = 0x0f,
        /// Host behaviour support.
        HostBehavior = 0x16,
        /// I/O command set profile.
        CommandSetProfile = 0x19,
        /// Host identifier.
        HostId = 0x81,
        /// Reservation notification mask.
        ReservationNotificationMask = 0x82,
        /// Reservation persistence.
        ReservationPersistence = 0x83,
        /// Namespace write protection.
        NamespaceWriteProtection = 0x84,
    }
}

codes! {
    /// Which value Get Features is to give (SEL).
    pub enum FeatureSelect {
        /// The current value.
        Current = 0,
        /// The default value.
        Default = 1,
        /// The saved value.
        Saved = 2,
        /// What can be done with the feature.
        Supported = 3,
    }
}

bits! {
    /// Dword 10 of Get Features.
    pub struct GetFeaturesCdw10: u32 {
        /// Feature identifier (FID).
        #[bits(8)]
        pub fid: FeatureId,
        /// Which value (SEL).
        #[bits(3)]
        pub sel: FeatureSelect,
        #[bits(21)]
        __: u32,
    }
}

command! {
    /// Get Features (clause 5.15).
    pub struct GetFeatures {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace, for a feature that has one value for each.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 16],
        /// Where a value longer than a dword goes.
        pub dptr: DataPtr,
        /// Which feature, which value.
        pub cdw10: GetFeaturesCdw10,
        /// Specific to the feature.
        pub cdw11: U32,
        #[doc(hidden)]
        pub _reserved48: [u8; 8],
        /// UUID index.
        pub uuid_index: U32,
        #[doc(hidden)]
        pub _reserved60: [u8; 4],
    }
}

bits! {
    /// What Get Features answers in dword 0 when asked what is supported.
    pub struct FeatureCapabilities: u32 {
        /// It can be saved.
        pub saveable: bool,
        /// It has one value for each namespace.
        pub namespace_specific: bool,
        /// It can be changed.
        pub changeable: bool,
        #[bits(29)]
        __: u32,
    }
}

bits! {
    /// Dword 10 of Set Features.
    pub struct SetFeaturesCdw10: u32 {
        /// Feature identifier (FID).
        #[bits(8)]
        pub fid: FeatureId,
        #[bits(23)]
        __: u32,
        /// Save the value across resets (SV).
        pub save: bool,
    }
}

command! {
    /// Set Features (clause 5.27).
    pub struct SetFeatures {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// Namespace, for a feature that has one value for each.
        pub nsid: U32,
        #[doc(hidden)]
        pub _reserved8: [u8; 16],
        /// Where a value longer than a dword is.
        pub dptr: DataPtr,
        /// Which feature, and whether to save it.
        pub cdw10: SetFeaturesCdw10,
        /// The value, or its first dword.
        pub cdw11: U32,
        /// Specific to the feature.
        pub cdw12: U32,
        /// Specific to the feature.
        pub cdw13: U32,
        /// UUID index.
        pub uuid_index: U32,
        /// Specific to the feature.
        pub cdw15: U32,
    }
}

bits! {
    /// Arbitration (clause 5.27.1.1).
    pub struct Arbitration: u32 {
        /// Arbitration burst, as a power of two; 7 for no limit (AB).
        #[bits(3)]
        pub burst: u8,
        #[bits(5)]
        __: u8,
        /// Low priority weight, zero-based (LPW).
        pub low_z: u8,
        /// Medium priority weight, zero-based (MPW).
        pub medium_z: u8,
        /// High priority weight, zero-based (HPW).
        pub high_z: u8,
    }
}

bits! {
    /// Power management.
    pub struct PowerManagement: u32 {
        /// Power state (PS).
        #[bits(5)]
        pub power_state: u8,
        /// Workload hint (WH).
        #[bits(3)]
        pub workload: u8,
        #[bits(24)]
        __: u32,
    }
}

bits! {
    /// Temperature threshold.
    pub struct TemperatureThreshold: u32 {
        /// Threshold in kelvins (TMPTH).
        pub kelvins: u16,
        /// Sensor: 0 for the composite temperature, 15 for all (TMPSEL).
        #[bits(4)]
        pub sensor: u8,
        /// 0 for the over-, 1 for the under-temperature threshold (THSEL).
        #[bits(2)]
        pub kind: u8,
        #[bits(10)]
        __: u16,
    }
}

bits! {
    /// Error recovery.
    pub struct ErrorRecovery: u32 {
        /// Time limited error recovery, in units of 100 ms, 0 for no limit (TLER).
        pub tler: u16,
        /// Deallocated or unwritten blocks give an error (DULBE).
        pub dulbe: bool,
        #[bits(15)]
        __: u16,
    }
}

bits! {
    /// Volatile write cache.
    pub struct VolatileWriteCache: u32 {
        /// The cache is in use (WCE).
        pub enabled: bool,
        #[bits(31)]
        __: u32,
    }
}

bits! {
    /// Number of queues: asked for in Set Features, given in the answers.
    pub struct NumberOfQueues: u32 {
        /// I/O submission queues, zero-based (NSQR, NSQA).
        pub submission_z: u16,
        /// I/O completion queues, zero-based (NCQR, NCQA).
        pub completion_z: u16,
    }
}

bits! {
    /// Interrupt coalescing.
    pub struct InterruptCoalescing: u32 {
        /// Completions for one interrupt, zero-based (THR).
        pub threshold_z: u8,
        /// Longest delay, in units of 100 µs (TIME).
        pub time: u8,
        __: u16,
    }
}

bits! {
    /// Interrupt vector configuration.
    pub struct InterruptVectorConfig: u32 {
        /// Vector (IV).
        pub vector: u16,
        /// No coalescing for it (CD).
        pub coalescing_disabled: bool,
        #[bits(15)]
        __: u16,
    }
}

bits! {
    /// Write atomicity normal.
    pub struct WriteAtomicity: u32 {
        /// Only the power-fail atomicity is wanted (DN).
        pub disable_normal: bool,
        #[bits(31)]
        __: u32,
    }
}

bits! {
    /// Asynchronous event configuration: which events are to be reported.
    pub struct AsyncEventConfig: u32 {
        /// SMART critical warnings, one bit each.
        pub smart: u8,
        /// Namespace attribute notices.
        pub namespace_attribute: bool,
        /// Firmware activation notices.
        pub firmware_activation: bool,
        /// Telemetry log notices.
        pub telemetry: bool,
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
        #[bits(15)]
        __: u16,
        /// Discovery log page change notices.
        pub discovery_log: bool,
    }
}

bits! {
    /// Dword 11 of Set Features for the host identifier.
    pub struct HostIdCdw11: u32 {
        /// The identifier has 16 bytes, not 8 (EXHID).
        pub extended: bool,
        #[bits(31)]
        __: u32,
    }
}
