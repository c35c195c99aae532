//! What two ends of a ping tell each other.
//!
//! The messages are those of `rping`, the RDMA ping of rdma-core: 16 bytes in
//! network byte order that name a piece of the sender's memory. Only the client's
//! mean anything; the server's are a nod of the same length. What connection
//! management carries besides is Sidelane's own, and tells one Sidelane of another:
//! rping sends none, and ignores what it is sent.

use sidelane_transport::nic::RemoteMemory;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The port that rping uses.
pub const PORT: u16 = 7174;

/// Bytes of a message.
pub(super) const MESSAGE_LEN: usize = size_of::<Advert>();

/// The most bytes of one round, the same as rping's.
pub const MAX_SIZE: u32 = 65_535;

/// The fewest bytes of one round: room for its number.
pub const MIN_SIZE: u32 = 32;

/// A piece of the client's memory, to read from or to write to.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(super) struct Advert {
    pub addr: U64,
    pub rkey: U32,
    pub size: U32,
}

impl Advert {
    pub fn new(addr: u64, rkey: u32, size: u32) -> Self {
        Self {
            addr: addr.into(),
            rkey: rkey.into(),
            size: size.into(),
        }
    }

    /// A message of any other length is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok()
    }

    pub fn memory(&self) -> RemoteMemory {
        RemoteMemory {
            addr: self.addr.get(),
            rkey: self.rkey.get(),
        }
    }
}

/// Begins the private data of both ends; the last byte is a version.
type Magic = [u8; 8];
const MAGIC: Magic = *b"slping\0\x01";

/// A Sidelane that asks for a connection to measure bandwidth on, in the private
/// data of its REQ (56 bytes, filled up with zeros).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct Hello {
    magic: Magic,
    /// Bytes of the server's memory that it would like to use.
    pub size: U32,
}

impl Hello {
    pub fn new(size: u32) -> Self {
        Self {
            magic: MAGIC,
            size: size.into(),
        }
    }

    pub fn parse(private_data: &[u8]) -> Option<Self> {
        let (hello, _) = Self::read_from_prefix(private_data).ok()?;
        (hello.magic == MAGIC).then_some(hello)
    }
}

/// The answer to a [`Hello`], in the private data of the REP.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct Welcome {
    magic: Magic,
    /// The server's memory that this connection may read and write.
    pub memory: Advert,
    /// Bytes of the longest message it takes.
    pub send_size: U32,
    /// Messages that may be on their way at a time.
    pub send_depth: U32,
}

impl Welcome {
    pub fn new(memory: Advert, send_size: u32, send_depth: u32) -> Self {
        Self {
            magic: MAGIC,
            memory,
            send_size: send_size.into(),
            send_depth: send_depth.into(),
        }
    }

    pub fn parse(private_data: &[u8]) -> Option<Self> {
        let (welcome, _) = Self::read_from_prefix(private_data).ok()?;
        let usable = welcome.memory.size.get() > 0
            && welcome.send_size.get() > 0
            && welcome.send_depth.get() > 0;
        (welcome.magic == MAGIC && usable).then_some(welcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_advert_has_the_bytes_that_rping_sends() {
        let advert = Advert::new(0x0102_0304_0506_0708, 0x090a_0b0c, 0x0d0e_0f10);
        let bytes: Vec<u8> = (1..=16).collect();
        assert_eq!(advert.as_bytes(), bytes);
        assert_eq!(Advert::parse(&bytes), Some(advert));
    }

    #[rstest::rstest]
    #[case(0, 8, 8)]
    #[case(8, 0, 8)]
    #[case(8, 8, 0)]
    fn a_welcome_that_offers_nothing_is_none(
        #[case] memory: u32,
        #[case] size: u32,
        #[case] depth: u32,
    ) {
        let welcome = Welcome::new(Advert::new(1, 1, memory), size, depth);
        assert_eq!(Welcome::parse(welcome.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn what_is_no_message_of_ours_is_told_as_such(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Advert::parse(&bytes).is_some(), bytes.len() == MESSAGE_LEN);
            prop_assert_eq!(Hello::parse(&bytes), None);
            prop_assert_eq!(Welcome::parse(&bytes), None);
        }

        #[test]
        fn private_data_survives_being_filled_up(
            memory: (u64, u32), size in 1u32.., send in (1u32.., 1u32..), zeros in 0usize..60,
        ) {
            let padded = |bytes: &[u8]| [bytes, &vec![0; zeros]].concat();
            let hello = Hello::new(size);
            prop_assert_eq!(Hello::parse(&padded(hello.as_bytes())), Some(hello));
            let welcome = Welcome::new(Advert::new(memory.0, memory.1, size), send.0, send.1);
            prop_assert_eq!(Welcome::parse(&padded(welcome.as_bytes())), Some(welcome));
        }
    }
}
