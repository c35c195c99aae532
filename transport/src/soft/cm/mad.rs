//! The management datagram that carries a connection management message
//! (InfiniBand Architecture, volume 1, 13.4.3 and 12.6).

use open_enum::open_enum;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::messages::{Drep, Dreq, Mra, Rej, Rep, Req, Rtu};

/// Bytes of a management datagram.
pub const MAD_LEN: usize = 256;

/// Bytes of a message, after the header.
pub const BODY_LEN: usize = MAD_LEN - size_of::<MadHeader>();

const BASE_VERSION: u8 = 1;
/// The communication management class (13.4.4).
const CLASS: u8 = 0x07;
const CLASS_VERSION: u8 = 2;
/// `ComMgtSend`, the only method of the class (16.7.2).
const METHOD_SEND: u8 = 0x03;

/// Which message it is (16.7.3).
#[open_enum]
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Request for communication.
    Req = 0x10,
    /// Message receipt acknowledgement: the answer will take longer.
    Mra = 0x11,
    /// Rejection.
    Rej = 0x12,
    /// Reply to a request.
    Rep = 0x13,
    /// Ready to use.
    Rtu = 0x14,
    /// Request for disconnection.
    Dreq = 0x15,
    /// Reply to that.
    Drep = 0x16,
}

/// The header common to all management datagrams (13.4.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct MadHeader {
    base_version: u8,
    class: u8,
    class_version: u8,
    method: u8,
    status: U16,
    class_specific: U16,
    /// Relates an answer to what it answers.
    pub transaction: U64,
    attribute: U16,
    reserved: U16,
    attribute_modifier: U32,
}

const _: () = assert!(size_of::<MadHeader>() == 24);

impl MadHeader {
    /// Which message follows.
    pub fn attribute(&self) -> Attribute {
        Attribute(self.attribute.get())
    }
}

/// A whole datagram, as it is sent.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Mad {
    /// The header.
    pub header: MadHeader,
    body: [u8; BODY_LEN],
}

const _: () = assert!(size_of::<Mad>() == MAD_LEN);

/// A message with a fixed place in the datagram.
pub trait Body: IntoBytes + Immutable {
    /// Its attribute.
    const ATTRIBUTE: Attribute;
}

macro_rules! body {
    ($($message:ident => $attribute:ident,)*) => {
        $(
            impl Body for $message {
                const ATTRIBUTE: Attribute = Attribute::$attribute;
            }
            const _: () = assert!(size_of::<$message>() == BODY_LEN);
        )*

        /// A connection management message that was received.
        #[derive(Debug, Clone, Copy)]
        pub enum Message<'a> {
            $(
                #[doc = concat!("See [`", stringify!($message), "`].")]
                $message(&'a $message),
            )*
        }

        fn message(attribute: Attribute, body: &[u8; BODY_LEN]) -> Option<Message<'_>> {
            match attribute {
                $(Attribute::$attribute => $message::ref_from_bytes(body).ok().map(Message::$message),)*
                _ => None,
            }
        }
    };
}

body! {
    Req => Req,
    Mra => Mra,
    Rej => Rej,
    Rep => Rep,
    Rtu => Rtu,
    Dreq => Dreq,
    Drep => Drep,
}

/// Why a datagram is not a connection management message known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MadError {
    /// Not 256 bytes.
    #[error("a management datagram of {0} bytes; all have {MAD_LEN}")]
    Length(usize),
    /// Another management class, version or method.
    #[error("not a message of connection management version {CLASS_VERSION}")]
    Class,
    /// Path migration, service id resolution, or a code of the future.
    #[error("message {0:#06x} is not supported")]
    Attribute(u16),
}

impl Mad {
    /// A datagram with this message.
    pub fn new<B: Body>(transaction: u64, body: &B) -> Self {
        let mut mad = Self {
            header: MadHeader {
                base_version: BASE_VERSION,
                class: CLASS,
                class_version: CLASS_VERSION,
                method: METHOD_SEND,
                status: U16::ZERO,
                class_specific: U16::ZERO,
                transaction: transaction.into(),
                attribute: B::ATTRIBUTE.0.into(),
                reserved: U16::ZERO,
                attribute_modifier: U32::ZERO,
            },
            body: [0; BODY_LEN],
        };
        for (to, from) in mad.body.iter_mut().zip(body.as_bytes()) {
            *to = *from;
        }
        mad
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// When it is no connection management message known here.
    pub fn read(bytes: &[u8]) -> Result<(&MadHeader, Message<'_>), MadError> {
        let mad = Self::ref_from_bytes(bytes).map_err(|_| MadError::Length(bytes.len()))?;
        let header = &mad.header;
        if (header.base_version, header.class) != (BASE_VERSION, CLASS)
            || (header.class_version, header.method) != (CLASS_VERSION, METHOD_SEND)
        {
            return Err(MadError::Class);
        }
        let attribute = header.attribute();
        match message(attribute, &mad.body) {
            Some(message) => Ok((header, message)),
            None => Err(MadError::Attribute(attribute.0)),
        }
    }
}
