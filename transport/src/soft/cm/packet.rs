//! The packet around a management datagram: a UD SEND from queue pair 1 to queue
//! pair 1 (InfiniBand Architecture, volume 1, 9.8.3, 13.5.1 and annex A17).

use std::net::{IpAddr, SocketAddr};

use super::mad::{MAD_LEN, Mad};
use crate::soft::icrc;
use crate::soft::psn::Psn;
use crate::soft::wire::{Bth, DEFAULT_PKEY, Deth, Headers, ICRC_LEN, Opcode, ROCE_V2_PORT};

use zerocopy::IntoBytes;

/// The general service interface (9.2.1, table 1).
pub const GENERAL_SERVICE_QP: u32 = 1;

/// Its queue key (10.2.5), which is the same everywhere.
pub const GENERAL_SERVICE_QKEY: u32 = 0x8001_0000;

/// Bytes of UDP payload.
pub const PACKET_LEN: usize = Bth::LEN + 8 + MAD_LEN + ICRC_LEN;

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// Its invariant CRC is wrong.
    #[error("wrong invariant CRC")]
    Icrc,
    /// It is not a UD SEND to queue pair 1, from queue pair 1 and with its key.
    #[error("not a management datagram")]
    Kind,
}

/// The management datagram in what a UDP socket received at `local`.
///
/// # Errors
/// When there is none.
pub fn read(local: IpAddr, from: SocketAddr, payload: &[u8]) -> Result<&[u8], Unwelcome> {
    let packet = icrc::verify(from.ip(), local, from.port(), ROCE_V2_PORT, payload);
    mad(packet.map_err(|_| Unwelcome::Icrc)?)
}

/// The management datagram in a packet, whose invariant CRC has been checked
/// and taken off.
///
/// # Errors
/// When there is none.
pub fn mad(packet: &[u8]) -> Result<&[u8], Unwelcome> {
    let (headers, mad) = Headers::read(packet).map_err(|_| Unwelcome::Kind)?;
    let bth = &headers.bth;
    let expected = Deth {
        qkey: GENERAL_SERVICE_QKEY,
        source_qp: GENERAL_SERVICE_QP,
    };
    // The uppermost bit of a partition key is the kind of membership.
    let partition = (bth.pkey ^ DEFAULT_PKEY) & 0x7fff;
    let fits = bth.opcode == Opcode::UdSendOnly
        && bth.dest_qp == GENERAL_SERVICE_QP
        && partition == 0
        && headers.deth == Some(expected);
    if fits { Ok(mad) } else { Err(Unwelcome::Kind) }
}

/// Writes the packet that takes `mad` from `local` to `to`, into [`PACKET_LEN`]
/// bytes. `None` when `out` is shorter.
pub fn write(out: &mut [u8], local: IpAddr, to: IpAddr, psn: Psn, mad: &Mad) -> Option<()> {
    let datagram = out.get_mut(..PACKET_LEN)?;
    let mut headers = Headers::new(Bth::new(Opcode::UdSendOnly, GENERAL_SERVICE_QP, psn));
    headers.deth = Some(Deth {
        qkey: GENERAL_SERVICE_QKEY,
        source_qp: GENERAL_SERVICE_QP,
    });
    let body = headers.write(datagram)?;
    for (to, from) in body.iter_mut().zip(mad.as_bytes()) {
        *to = *from;
    }
    icrc::seal(local, to, 0, datagram);
    Some(())
}
