//! Opcodes of the base transport header and what each one brings along.
//!
//! InfiniBand Architecture, volume 1, 9.2.1 ("OpCode"): the top
//! three bits are the transport service, the lower five the operation. Only
//! reliable connection and unreliable datagram are known here; any other value
//! survives as a number, without a [`Layout`].
#![forbid(unsafe_code)]

use open_enum::open_enum;

/// Operation and transport service of a packet.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of the specification
pub enum Opcode {
    RcSendFirst = 0x00,
    RcSendMiddle = 0x01,
    RcSendLast = 0x02,
    RcSendLastImm = 0x03,
    RcSendOnly = 0x04,
    RcSendOnlyImm = 0x05,
    RcWriteFirst = 0x06,
    RcWriteMiddle = 0x07,
    RcWriteLast = 0x08,
    RcWriteLastImm = 0x09,
    RcWriteOnly = 0x0a,
    RcWriteOnlyImm = 0x0b,
    RcReadRequest = 0x0c,
    RcReadResponseFirst = 0x0d,
    RcReadResponseMiddle = 0x0e,
    RcReadResponseLast = 0x0f,
    RcReadResponseOnly = 0x10,
    RcAck = 0x11,
    RcAtomicAck = 0x12,
    RcCompareSwap = 0x13,
    RcFetchAdd = 0x14,
    RcSendLastInvalidate = 0x16,
    RcSendOnlyInvalidate = 0x17,
    UdSendOnly = 0x64,
    UdSendOnlyImm = 0x65,
}

/// What an operation does, whatever its place in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SEND of the reliable connection, with or without immediate or invalidate.
    Send,
    /// RDMA WRITE.
    Write,
    /// RDMA READ request.
    ReadRequest,
    /// RDMA READ response.
    ReadResponse,
    /// ACK or NAK.
    Ack,
    /// Response to an ATOMIC.
    AtomicAck,
    /// Compare-and-swap or fetch-and-add.
    Atomic,
    /// SEND of the unreliable datagram service.
    Datagram,
}

impl Kind {
    /// Whether a requester sends it; else it is a response.
    pub const fn is_request(self) -> bool {
        !matches!(self, Self::ReadResponse | Self::Ack | Self::AtomicAck)
    }
}

/// The place of a packet in its message, and the headers after the BTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The operation.
    pub kind: Kind,
    /// First or only packet of its message.
    pub start: bool,
    /// Last or only packet of its message.
    pub end: bool,
    /// Carries a DETH.
    pub deth: bool,
    /// Carries a RETH.
    pub reth: bool,
    /// Carries an AETH.
    pub aeth: bool,
    /// Carries immediate data.
    pub imm: bool,
    /// Carries an IETH.
    pub ieth: bool,
    /// Carries an AtomicETH.
    pub atomic: bool,
    /// Carries an AtomicAckETH.
    pub atomic_ack: bool,
}

impl Layout {
    const fn new(kind: Kind, start: bool, end: bool) -> Self {
        Self {
            kind,
            start,
            end,
            deth: false,
            reth: false,
            aeth: false,
            imm: false,
            ieth: false,
            atomic: false,
            atomic_ack: false,
        }
    }

    const fn deth(self) -> Self {
        Self { deth: true, ..self }
    }
    const fn reth(self) -> Self {
        Self { reth: true, ..self }
    }
    const fn aeth(self) -> Self {
        Self { aeth: true, ..self }
    }
    const fn imm(self) -> Self {
        Self { imm: true, ..self }
    }
    const fn ieth(self) -> Self {
        Self { ieth: true, ..self }
    }
    const fn atomic(self) -> Self {
        Self {
            atomic: true,
            ..self
        }
    }
    const fn atomic_ack(self) -> Self {
        Self {
            atomic_ack: true,
            ..self
        }
    }
}

impl Opcode {
    /// The layout, for the opcodes this adapter knows (9.2.1:
    /// packet contents following the BTH).
    pub const fn layout(self) -> Option<Layout> {
        use Kind::{Ack, Atomic, AtomicAck, Datagram, ReadRequest, ReadResponse, Send, Write};
        Some(match self {
            Self::RcSendFirst => Layout::new(Send, true, false),
            Self::RcSendMiddle => Layout::new(Send, false, false),
            Self::RcSendLast => Layout::new(Send, false, true),
            Self::RcSendLastImm => Layout::new(Send, false, true).imm(),
            Self::RcSendOnly => Layout::new(Send, true, true),
            Self::RcSendOnlyImm => Layout::new(Send, true, true).imm(),
            Self::RcSendLastInvalidate => Layout::new(Send, false, true).ieth(),
            Self::RcSendOnlyInvalidate => Layout::new(Send, true, true).ieth(),
            Self::RcWriteFirst => Layout::new(Write, true, false).reth(),
            Self::RcWriteMiddle => Layout::new(Write, false, false),
            Self::RcWriteLast => Layout::new(Write, false, true),
            Self::RcWriteLastImm => Layout::new(Write, false, true).imm(),
            Self::RcWriteOnly => Layout::new(Write, true, true).reth(),
            Self::RcWriteOnlyImm => Layout::new(Write, true, true).reth().imm(),
            Self::RcReadRequest => Layout::new(ReadRequest, true, true).reth(),
            Self::RcReadResponseFirst => Layout::new(ReadResponse, true, false).aeth(),
            Self::RcReadResponseMiddle => Layout::new(ReadResponse, false, false),
            Self::RcReadResponseLast => Layout::new(ReadResponse, false, true).aeth(),
            Self::RcReadResponseOnly => Layout::new(ReadResponse, true, true).aeth(),
            Self::RcAck => Layout::new(Ack, true, true).aeth(),
            Self::RcAtomicAck => Layout::new(AtomicAck, true, true).aeth().atomic_ack(),
            Self::RcCompareSwap | Self::RcFetchAdd => Layout::new(Atomic, true, true).atomic(),
            Self::UdSendOnly => Layout::new(Datagram, true, true).deth(),
            Self::UdSendOnlyImm => Layout::new(Datagram, true, true).deth().imm(),
            _ => return None,
        })
    }
}
