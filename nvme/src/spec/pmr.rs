//! Properties of the Persistent Memory Region (clauses 3.1.3.19 to 3.1.3.25),
//! PCIe only.

bits! {
    /// Persistent Memory Region Capabilities (PMRCAP).
    pub struct PmrCap: u32 {
        #[bits(3)]
        __: u8,
        /// May hold data of commands that read: controller to host (RDS).
        pub rds: bool,
        /// May hold data of commands that write: host to controller (WDS).
        pub wds: bool,
        /// The BAR that it takes up, wholly (BIR).
        #[bits(3)]
        pub bir: u8,
        /// Unit of [`pmrto`](Self::pmrto): 0 for 500 ms, 1 for minutes (PMRTU).
        #[bits(2)]
        pub pmrtu: u8,
        /// What makes sure that writes have arrived: bit 0, a read of the
        /// memory; bit 1, a read of PMRSTS (PMRWBM).
        #[bits(4)]
        pub pmrwbm: u8,
        #[bits(2)]
        __: u8,
        /// Longest wait for PMRSTS.NRDY after a change of PMRCTL.EN, in units of
        /// PMRTU (PMRTO).
        pub pmrto: u8,
        /// The controller takes addresses in it, by PMRMSC (CMSS).
        pub cmss: bool,
        #[bits(7)]
        __: u8,
    }
}

bits! {
    /// Persistent Memory Region Control (PMRCTL).
    pub struct PmrCtl: u32 {
        /// Enable (EN).
        pub en: bool,
        #[bits(31)]
        __: u32,
    }
}

codes! {
    /// Health status of the region (PMRSTS.HSTS).
    pub enum PmrHealth {
        /// It works, and keeps what is in it.
        Normal = 0,
        /// It works, but does not hold what it held before.
        RestoreError = 1,
        /// Writes change nothing.
        ReadOnly = 2,
        /// Reads may give anything.
        Unreliable = 3,
    }
}

bits! {
    /// Persistent Memory Region Status (PMRSTS).
    pub struct PmrSts: u32 {
        /// The vendor's code of an error in writes before this; 0 for none (ERR).
        pub err: u8,
        /// Not ready for reads and writes (NRDY).
        pub nrdy: bool,
        /// Health (HSTS).
        #[bits(3)]
        pub hsts: PmrHealth,
        /// The base address in PMRMSC was not accepted (CBAI).
        pub cbai: bool,
        #[bits(19)]
        __: u32,
    }
}

bits! {
    /// Persistent Memory Region Memory Space Control (PMRMSCL, and PMRMSCU above it).
    pub struct PmrMsc: u64 {
        __: bool,
        /// The controller answers to addresses from CBA (CMSE).
        pub cmse: bool,
        #[bits(10)]
        __: u16,
        /// Base address as the controller shall know it, in 4 KiB units (CBA).
        #[bits(52)]
        pub cba_pages: u64,
    }
}
