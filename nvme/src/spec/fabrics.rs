//! Fabrics commands (clause 6).

use zerocopy::little_endian::{U16, U32, U64};

use super::{Cdw0, DataPtr, FabricsType, HostId, NqnField};

/// Controller identifier that asks for any controller (dynamic model).
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Controller identifier that asks for any controller with its state kept (static model).
pub const CNTLID_STATIC: u16 = 0xfffe;
/// Greatest controller identifier that a controller can have.
pub const CNTLID_MAX: u16 = 0xffef;

command! {
    /// What all fabrics commands have in common.
    pub struct FabricsCommand {
        /// Command dword 0; the opcode is 0x7f.
        pub cdw0: Cdw0,
        /// Which command (FCTYPE).
        pub fctype: FabricsType,
        #[doc(hidden)]
        pub _reserved5: [u8; 35],
        /// Bytes whose meaning depends on the command.
        pub specific: [u8; 24],
    }
}

bits! {
    /// Connect attributes (CATTR).
    pub struct ConnectAttributes: u8 {
        /// Priority class, for weighted round robin.
        #[bits(2)]
        pub priority: u8,
        /// Submission queue flow control is disabled.
        pub disable_sq_flow_control: bool,
        /// The host can delete single I/O queues (IOQDS).
        pub io_queue_deletion: bool,
        #[bits(4)]
        __: u8,
    }
}

command! {
    /// Connect (clause 6.3).
    pub struct Connect {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// 0x01 (FCTYPE).
        pub fctype: FabricsType,
        #[doc(hidden)]
        pub _reserved5: [u8; 19],
        /// Where the 1024 bytes of [`ConnectData`] are.
        pub sgl: DataPtr,
        /// Record format, 0 (RECFMT).
        pub recfmt: U16,
        /// Queue identifier, 0 for the admin queue (QID).
        pub qid: U16,
        /// Entries of the submission queue, zero-based (SQSIZE).
        pub sqsize_z: U16,
        /// Attributes.
        pub cattr: ConnectAttributes,
        #[doc(hidden)]
        pub _reserved47: [u8; 1],
        /// Keep alive timeout in milliseconds, 0 for none (KATO).
        pub kato_ms: U32,
        #[doc(hidden)]
        pub _reserved52: [u8; 12],
    }
}

wire! {
    /// Data of Connect (clause 6.3).
    pub struct ConnectData: 1024 {
        /// Host identifier (HOSTID).
        pub hostid: HostId,
        /// Controller identifier asked for (CNTLID).
        pub cntlid: U16,
        #[doc(hidden)]
        pub _reserved18: [u8; 238],
        /// Subsystem's name (SUBNQN).
        pub subnqn: NqnField,
        /// Host's name (HOSTNQN).
        pub hostnqn: NqnField,
        #[doc(hidden)]
        pub _reserved768: [u8; 256],
    }
}

bits! {
    /// Dword 0 of a successful Connect's completion.
    pub struct ConnectResult: u32 {
        /// Controller identifier given (CNTLID).
        pub cntlid: u16,
        __: bool,
        /// The host must authenticate by a transaction (ATR).
        pub authentication_required: bool,
        /// A secure channel must be set up first (ASCR).
        pub secure_channel_required: bool,
        #[bits(13)]
        __: u16,
    }
}

bits! {
    /// Dword 0 of a Connect refused with Connect Invalid Parameters.
    pub struct ConnectInvalid: u32 {
        /// Offset of the invalid field, in bytes (IPO).
        pub offset: u16,
        /// The offset is into the data, else into the command (IATTR).
        pub in_data: bool,
        #[bits(15)]
        __: u16,
    }
}

bits! {
    /// Attributes of Property Get and Property Set (ATTRIB).
    pub struct PropertyAttributes: u8 {
        /// Size: 0 for 4 bytes, 1 for 8.
        #[bits(3)]
        pub size: u8,
        #[bits(5)]
        __: u8,
    }
}

command! {
    /// Property Get (clause 6.5).
    pub struct PropertyGet {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// 0x04 (FCTYPE).
        pub fctype: FabricsType,
        #[doc(hidden)]
        pub _reserved5: [u8; 35],
        /// Size of the property.
        pub attributes: PropertyAttributes,
        #[doc(hidden)]
        pub _reserved41: [u8; 3],
        /// Which property: its offset (OFST).
        pub offset: U32,
        #[doc(hidden)]
        pub _reserved48: [u8; 16],
    }
}

command! {
    /// Property Set (clause 6.6).
    pub struct PropertySet {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// 0x00 (FCTYPE).
        pub fctype: FabricsType,
        #[doc(hidden)]
        pub _reserved5: [u8; 35],
        /// Size of the property.
        pub attributes: PropertyAttributes,
        #[doc(hidden)]
        pub _reserved41: [u8; 3],
        /// Which property: its offset (OFST).
        pub offset: U32,
        /// Its new value; the lower half for a property of 4 bytes.
        pub value: U64,
        #[doc(hidden)]
        pub _reserved56: [u8; 8],
    }
}

command! {
    /// Disconnect (clause 6.4).
    pub struct Disconnect {
        /// Command dword 0.
        pub cdw0: Cdw0,
        /// 0x08 (FCTYPE).
        pub fctype: FabricsType,
        #[doc(hidden)]
        pub _reserved5: [u8; 35],
        /// Record format, 0 (RECFMT).
        pub recfmt: U16,
        #[doc(hidden)]
        pub _reserved42: [u8; 22],
    }
}
