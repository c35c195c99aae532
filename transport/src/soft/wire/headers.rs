//! The base transport header and the extended ones.
#![forbid(unsafe_code)]

use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Opcode;
use crate::soft::psn::Psn;

/// The longest run of headers this adapter writes: BTH, RETH, ImmDt.
pub const MAX_HEADERS: usize = 12 + 16 + 4;

/// Base transport header (9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bth {
    /// What the packet is.
    pub opcode: Opcode,
    /// Solicited event.
    pub solicited: bool,
    /// Migration state. 1 is "migrated", the only state without path migration.
    pub migrated: bool,
    /// Bytes of padding after the payload, 0 to 3.
    pub pad: u8,
    /// Transport header version, 4 bits; 0.
    pub version: u8,
    /// Partition key.
    pub pkey: u16,
    /// Forward explicit congestion notification.
    pub fecn: bool,
    /// Backward explicit congestion notification.
    pub becn: bool,
    /// Destination queue pair, 24 bits.
    pub dest_qp: u32,
    /// The responder shall acknowledge this packet.
    pub ack_request: bool,
    /// Sequence number.
    pub psn: Psn,
}

#[bitfield(u8)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq, Eq)]
struct Flags {
    #[bits(4)]
    version: u8,
    #[bits(2)]
    pad: u8,
    migrated: bool,
    solicited: bool,
}

#[bitfield(u32)]
struct DestWord {
    #[bits(24)]
    dest_qp: u32,
    #[bits(6)]
    _reserved: u8,
    becn: bool,
    fecn: bool,
}

#[bitfield(u32)]
struct PsnWord {
    #[bits(24)]
    psn: u32,
    #[bits(7)]
    _reserved: u8,
    ack_request: bool,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct RawBth {
    opcode: u8,
    flags: Flags,
    pkey: U16,
    dest: U32,
    psn: U32,
}

const _: () = assert!(size_of::<RawBth>() == Bth::LEN);

impl Bth {
    /// Bytes on the wire.
    pub const LEN: usize = 12;

    /// A header with the defaults of RoCEv2: default partition, migrated, no
    /// padding, nothing requested.
    pub const fn new(opcode: Opcode, dest_qp: u32, psn: Psn) -> Self {
        Self {
            opcode,
            solicited: false,
            migrated: true,
            pad: 0,
            version: 0,
            pkey: super::DEFAULT_PKEY,
            fecn: false,
            becn: false,
            dest_qp,
            ack_request: false,
            psn,
        }
    }

    /// Reads it from the start of a packet, and gives what follows.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (raw, rest) = RawBth::read_from_prefix(bytes).ok()?;
        let dest = DestWord::from_bits(raw.dest.get());
        let psn = PsnWord::from_bits(raw.psn.get());
        let bth = Self {
            opcode: Opcode(raw.opcode),
            solicited: raw.flags.solicited(),
            migrated: raw.flags.migrated(),
            pad: raw.flags.pad(),
            version: raw.flags.version(),
            pkey: raw.pkey.get(),
            fecn: dest.fecn(),
            becn: dest.becn(),
            dest_qp: dest.dest_qp(),
            ack_request: psn.ack_request(),
            psn: Psn::new(psn.psn()),
        };
        Some((bth, rest))
    }

    fn raw(&self) -> RawBth {
        RawBth {
            opcode: self.opcode.0,
            flags: Flags::new()
                .with_version(self.version & 0xf)
                .with_pad(self.pad & 3)
                .with_migrated(self.migrated)
                .with_solicited(self.solicited),
            pkey: self.pkey.into(),
            dest: DestWord::new()
                .with_dest_qp(self.dest_qp & 0xff_ffff)
                .with_becn(self.becn)
                .with_fecn(self.fecn)
                .into_bits()
                .into(),
            psn: PsnWord::new()
                .with_psn(self.psn.get())
                .with_ack_request(self.ack_request)
                .into_bits()
                .into(),
        }
    }
}

/// RDMA extended transport header (9.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reth {
    /// Address in the responder's registration.
    pub addr: u64,
    /// The responder's key.
    pub rkey: u32,
    /// Bytes of the whole request.
    pub len: u32,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct RawReth {
    addr: U64,
    rkey: U32,
    len: U32,
}

/// Datagram extended transport header (9.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deth {
    /// Queue key; that of queue pair 1 is 0x80010000.
    pub qkey: u32,
    /// The sender's queue pair, 24 bits.
    pub source_qp: u32,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct RawDeth {
    qkey: U32,
    source_qp: U32,
}

/// Atomic extended transport header (9.3.4), read only to refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtomicEth {
    /// Address in the responder's registration.
    pub addr: u64,
    /// The responder's key.
    pub rkey: u32,
    /// Swap or add data.
    pub swap_add: u64,
    /// Compare data.
    pub compare: u64,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct RawAtomicEth {
    addr: U64,
    rkey: U32,
    swap_add: U64,
    compare: U64,
}

/// Why a responder refuses a request ("NAK codes", 9.7.5.2).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NakCode {
    /// A packet before this one is missing.
    PsnSequence = 0,
    /// The request is not one the responder can take.
    InvalidRequest = 1,
    /// Key, bounds or rights of the memory are wrong.
    RemoteAccess = 2,
    /// The responder failed at it.
    RemoteOperation = 3,
    /// Only on reliable datagrams.
    InvalidRdRequest = 4,
}

/// What an acknowledgement says ("AETH syndrome", 9.7.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AethKind {
    /// Received. The value is the end-to-end credit code, 31 for "none given".
    Ack(u8),
    /// No receive buffer: wait. The value is the timer code (9.7.5.2.8).
    RnrNak(u8),
    /// Refused, or asked for again.
    Nak(NakCode),
    /// A reserved code.
    Reserved(u8),
}

/// ACK extended transport header (9.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aeth {
    /// What it says.
    pub kind: AethKind,
    /// Messages the responder has completed, 24 bits.
    pub msn: u32,
}

#[bitfield(u32)]
struct AethWord {
    #[bits(24)]
    msn: u32,
    #[bits(5)]
    value: u8,
    #[bits(2)]
    class: u8,
    reserved: bool,
}

impl Aeth {
    /// Credit code of a responder that does not limit by credits, as one with
    /// a shared receive queue must (9.7.7.2).
    pub const NO_CREDITS: u8 = 31;

    fn from_word(word: u32) -> Self {
        let word = AethWord::from_bits(word);
        let value = word.value();
        let kind = match (word.reserved(), word.class()) {
            (false, 0) => AethKind::Ack(value),
            (false, 1) => AethKind::RnrNak(value),
            (false, 3) => AethKind::Nak(NakCode(value)),
            _ => AethKind::Reserved(word.into_bits().to_be_bytes()[0]),
        };
        Self {
            kind,
            msn: word.msn(),
        }
    }

    fn into_word(self) -> u32 {
        let word = AethWord::new().with_msn(self.msn & 0xff_ffff);
        match self.kind {
            AethKind::Ack(credits) => word.with_value(credits & 31).into_bits(),
            AethKind::RnrNak(timer) => word.with_class(1).with_value(timer & 31).into_bits(),
            AethKind::Nak(code) => word.with_class(3).with_value(code.0 & 31).into_bits(),
            AethKind::Reserved(syndrome) => word.into_bits() | u32::from(syndrome) << 24,
        }
    }
}

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than its headers.
    #[error("packet shorter than its headers")]
    Short,
    /// Padding longer than the payload, or a payload of no whole words.
    #[error("padding does not fit the packet")]
    Pad,
    /// An opcode this adapter does not know.
    #[error("unknown opcode {0:#04x}")]
    Opcode(u8),
    /// Transport header version other than 0.
    #[error("unknown header version {0}")]
    Version(u8),
}

/// All headers of a packet. An extended header is there exactly when the
/// opcode's [`super::Layout`] says so; when building, a missing one is written
/// as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Base transport header.
    pub bth: Bth,
    /// Datagrams.
    pub deth: Option<Deth>,
    /// RDMA requests.
    pub reth: Option<Reth>,
    /// Acknowledgements and READ responses.
    pub aeth: Option<Aeth>,
    /// Immediate data.
    pub imm: Option<u32>,
    /// Key to invalidate (IETH).
    pub invalidate: Option<u32>,
    /// ATOMIC requests.
    pub atomic: Option<AtomicEth>,
}

impl Headers {
    /// Headers with only a BTH set.
    pub const fn new(bth: Bth) -> Self {
        Self {
            bth,
            deth: None,
            reth: None,
            aeth: None,
            imm: None,
            invalidate: None,
            atomic: None,
        }
    }

    /// Reads the headers of a packet that runs from the BTH to the end of the
    /// padding (no ICRC), and gives its payload.
    ///
    /// # Errors
    /// When the bytes are not a packet this adapter knows.
    pub fn read(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (bth, rest) = Bth::read(packet).ok_or(WireError::Short)?;
        if bth.version != 0 {
            return Err(WireError::Version(bth.version));
        }
        let layout = bth.opcode.layout().ok_or(WireError::Opcode(bth.opcode.0))?;
        let mut headers = Self::new(bth);
        let mut cursor = rest;
        if layout.deth {
            let raw: RawDeth = take(&mut cursor)?;
            let source_qp = raw.source_qp.get() & 0xff_ffff;
            headers.deth = Some(Deth {
                qkey: raw.qkey.get(),
                source_qp,
            });
        }
        if layout.reth {
            let raw: RawReth = take(&mut cursor)?;
            headers.reth = Some(Reth {
                addr: raw.addr.get(),
                rkey: raw.rkey.get(),
                len: raw.len.get(),
            });
        }
        if layout.atomic {
            let raw: RawAtomicEth = take(&mut cursor)?;
            headers.atomic = Some(AtomicEth {
                addr: raw.addr.get(),
                rkey: raw.rkey.get(),
                swap_add: raw.swap_add.get(),
                compare: raw.compare.get(),
            });
        }
        if layout.aeth {
            headers.aeth = Some(Aeth::from_word(take::<U32>(&mut cursor)?.get()));
        }
        if layout.atomic_ack {
            take::<U64>(&mut cursor)?;
        }
        if layout.imm {
            headers.imm = Some(take::<U32>(&mut cursor)?.get());
        }
        if layout.ieth {
            headers.invalidate = Some(take::<U32>(&mut cursor)?.get());
        }
        if cursor.len() % 4 != 0 {
            return Err(WireError::Pad);
        }
        let payload_len = cursor
            .len()
            .checked_sub(bth.pad.into())
            .ok_or(WireError::Pad)?;
        Ok((headers, cursor.get(..payload_len).ok_or(WireError::Pad)?))
    }

    /// Bytes that [`Headers::write`] fills.
    pub fn size(&self) -> usize {
        let Some(layout) = self.bth.opcode.layout() else {
            return Bth::LEN;
        };
        Bth::LEN
            + usize::from(layout.deth) * size_of::<RawDeth>()
            + usize::from(layout.reth) * size_of::<RawReth>()
            + usize::from(layout.atomic) * size_of::<RawAtomicEth>()
            + usize::from(layout.aeth) * 4
            + usize::from(layout.atomic_ack) * 8
            + usize::from(layout.imm) * 4
            + usize::from(layout.ieth) * 4
    }

    /// Writes the headers to the start of `out`, and gives the rest of it, or
    /// nothing when they do not fit. The padding count is `bth.pad` as it is.
    pub fn write<'a>(&self, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let mut out = put(out, &self.bth.raw())?;
        let Some(layout) = self.bth.opcode.layout() else {
            return Some(out);
        };
        if layout.deth {
            let deth = self.deth.unwrap_or_default();
            let source_qp = deth.source_qp & 0xff_ffff;
            out = put(
                out,
                &RawDeth {
                    qkey: deth.qkey.into(),
                    source_qp: source_qp.into(),
                },
            )?;
        }
        if layout.reth {
            let reth = self.reth.unwrap_or_default();
            let raw = RawReth {
                addr: reth.addr.into(),
                rkey: reth.rkey.into(),
                len: reth.len.into(),
            };
            out = put(out, &raw)?;
        }
        if layout.atomic {
            let atomic = self.atomic.unwrap_or_default();
            let raw = RawAtomicEth {
                addr: atomic.addr.into(),
                rkey: atomic.rkey.into(),
                swap_add: atomic.swap_add.into(),
                compare: atomic.compare.into(),
            };
            out = put(out, &raw)?;
        }
        if layout.aeth {
            out = put(out, &U32::new(self.aeth.map_or(0, Aeth::into_word)))?;
        }
        if layout.atomic_ack {
            out = put(out, &U64::ZERO)?;
        }
        if layout.imm {
            out = put(out, &U32::new(self.imm.unwrap_or(0)))?;
        }
        if layout.ieth {
            out = put(out, &U32::new(self.invalidate.unwrap_or(0)))?;
        }
        Some(out)
    }
}

fn take<T: FromBytes>(cursor: &mut &[u8]) -> Result<T, WireError> {
    let (value, rest) = T::read_from_prefix(cursor).map_err(|_| WireError::Short)?;
    *cursor = rest;
    Ok(value)
}

fn put<'a, T: IntoBytes + Immutable>(out: &'a mut [u8], value: &T) -> Option<&'a mut [u8]> {
    let (head, rest) = out.split_at_mut_checked(size_of::<T>())?;
    head.copy_from_slice(value.as_bytes());
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any headers that a layout allows, so that none is lost on the way.
    fn any_headers() -> impl Strategy<Value = Headers> {
        let opcodes: Vec<u8> = (0..=255)
            .filter(|o| Opcode(*o).layout().is_some())
            .collect();
        (
            (
                proptest::sample::select(opcodes),
                any::<[bool; 5]>(),
                0u8..4,
                any::<u16>(),
            ),
            (
                0u32..1 << 24,
                0u32..1 << 24,
                any::<[u32; 5]>(),
                any::<[u64; 3]>(),
            ),
            (0u8..=255, 0u32..1 << 24, 0u32..1 << 24),
        )
            .prop_map(
                |((opcode, flags, pad, pkey), (dest_qp, psn, w, d), (syn, msn, source_qp))| {
                    let [solicited, migrated, fecn, becn, ack_request] = flags;
                    let opcode = Opcode(opcode);
                    let psn = Psn::new(psn);
                    let (version, pad) = (0, pad);
                    let bth = Bth {
                        opcode,
                        solicited,
                        migrated,
                        pad,
                        version,
                        pkey,
                        fecn,
                        becn,
                        dest_qp,
                        ack_request,
                        psn,
                    };
                    let layout = opcode.layout().unwrap();
                    Headers {
                        bth,
                        deth: layout.deth.then_some(Deth {
                            qkey: w[0],
                            source_qp,
                        }),
                        reth: layout.reth.then_some(Reth {
                            addr: d[0],
                            rkey: w[1],
                            len: w[2],
                        }),
                        aeth: layout
                            .aeth
                            .then(|| Aeth::from_word(u32::from(syn) << 24 | msn)),
                        imm: layout.imm.then_some(w[3]),
                        invalidate: layout.ieth.then_some(w[4]),
                        atomic: layout.atomic.then_some(AtomicEth {
                            addr: d[0],
                            rkey: w[1],
                            swap_add: d[1],
                            compare: d[2],
                        }),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn headers_written_are_read_back(headers in any_headers(), words in 1usize..8) {
            let mut packet = vec![0; headers.size() + words * 4];
            prop_assert_eq!(headers.write(&mut packet).map(|rest| rest.len()), Some(words * 4));
            let (back, payload) = Headers::read(&packet).unwrap();
            prop_assert_eq!(back, headers);
            prop_assert_eq!(payload.len(), words * 4 - usize::from(headers.bth.pad));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_give_more_payload_than_there_is(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok((headers, payload)) = Headers::read(&bytes) {
                prop_assert!(headers.size() + payload.len() <= bytes.len());
            }
        }

        #[test]
        fn headers_do_not_write_past_a_short_buffer(headers in any_headers(), cut in 1usize..12) {
            let mut short = vec![0; headers.size() - cut];
            prop_assert!(headers.write(&mut short).is_none());
        }
    }

    #[test]
    fn a_send_is_laid_out_as_the_specification_draws_it() {
        let mut bth = Bth::new(Opcode::RcSendOnlyInvalidate, 0x12_3456, Psn::new(0x65_4321));
        bth.ack_request = true;
        bth.solicited = true;
        bth.pad = 2;
        let headers = Headers {
            invalidate: Some(0xdead_beef),
            ..Headers::new(bth)
        };
        let mut out = [0; 16];
        headers.write(&mut out).unwrap();
        assert_eq!(
            out,
            [
                0x17, 0xe0, 0xff, 0xff, 0x00, 0x12, 0x34, 0x56, 0x80, 0x65, 0x43, 0x21, 0xde, 0xad,
                0xbe, 0xef
            ]
        );
    }

    #[rstest::rstest]
    #[case(AethKind::Ack(31), 0x1f)]
    #[case(AethKind::RnrNak(1), 0x21)]
    #[case(AethKind::Nak(NakCode::PsnSequence), 0x60)]
    #[case(AethKind::Nak(NakCode::RemoteAccess), 0x62)]
    fn a_syndrome_has_its_code(#[case] kind: AethKind, #[case] code: u32) {
        let aeth = Aeth { kind, msn: 7 };
        assert_eq!(aeth.into_word(), code << 24 | 7);
        assert_eq!(Aeth::from_word(code << 24 | 7), aeth);
    }

    #[test]
    fn padding_longer_than_the_payload_is_refused() {
        let mut bth = Bth::new(Opcode::RcSendOnly, 5, Psn::new(0));
        bth.pad = 3;
        let mut out = [0; 12];
        Headers::new(bth).write(&mut out).unwrap();
        assert_eq!(Headers::read(&out), Err(WireError::Pad));
    }
}
