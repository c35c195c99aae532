//! Headers of InfiniBand packets as RoCEv2 carries them in UDP.
//!
//! InfiniBand Architecture, volume 1, chapter 9 (9.2 base transport header, 9.3
//! extended headers), and annex A17 (RoCEv2). All fields are big-endian. What
//! comes from the wire is only ever read with its bounds checked.
#![forbid(unsafe_code)]

mod headers;
mod opcode;

pub use headers::{
    Aeth, AethKind, AtomicEth, Bth, Deth, Headers, MAX_HEADERS, NakCode, Reth, WireError,
};
pub use opcode::{Kind, Layout, Opcode};

/// UDP destination port of RoCEv2 (annex A17).
pub const ROCE_V2_PORT: u16 = 4791;

/// The default partition, full membership: the only one there is on RoCEv2.
pub const DEFAULT_PKEY: u16 = 0xffff;

/// Bytes of the invariant CRC at the end of a packet.
pub const ICRC_LEN: usize = 4;

/// Bytes of padding that bring a payload to whole words.
pub const fn pad_for(payload_len: usize) -> usize {
    payload_len.wrapping_neg() & 3
}
