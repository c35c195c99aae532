//! UDP datagrams over IPv4 as a raw socket shows them, headers and all.
//!
//! RFC 791 (3.1) and RFC 768. The kernel has checked the header's checksum and
//! put fragments together; lengths are checked here again all the same. The UDP
//! checksum is not looked at: the invariant CRC covers more.
//!
//! A run that a sender on the same machine gave to the kernel as one piece comes
//! as one piece too, with the lengths of the whole in its headers and nothing
//! that says where to cut. But runs consist of packets with a full payload of one
//! of the five path MTUs, the last excepted, so the first packet's own CRC tells
//! which it is.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use super::SLOT;
use crate::soft::icrc::{self, BadIcrc};
use crate::soft::wire::{Bth, Headers, ICRC_LEN};

const UDP: u8 = 17;
const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;

/// Payload bytes of full packets.
const PATH_MTUS: [usize; 5] = [4096, 2048, 1024, 512, 256];

/// A datagram, or a run of them in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// The IPv4 header, options included.
    header: &'a [u8],
    identification: u16,
    /// Source and destination.
    ports: (u16, u16),
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the headers of a whole IP packet. `None` when it is not UDP over
    /// IPv4, or its lengths do not agree.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<IPV4_LEN>()?;
        let header_len = 4 * usize::from(fixed[0] & 0xf);
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        // More fragments, or not the first.
        let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
        if fixed[0] >> 4 != 4 || header_len < IPV4_LEN || fragment || fixed[9] != UDP {
            return None;
        }
        let (header, rest) = bytes.get(..total)?.split_at_checked(header_len)?;
        let (udp, payload) = rest.split_first_chunk::<UDP_LEN>()?;
        if usize::from(u16::from_be_bytes([udp[4], udp[5]])) != rest.len() {
            return None;
        }
        Some(Self {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            header,
            identification: u16::from_be_bytes([fixed[4], fixed[5]]),
            ports: (
                u16::from_be_bytes([udp[0], udp[1]]),
                u16::from_be_bytes([udp[2], udp[3]]),
            ),
            payload,
        })
    }

    /// Calls `f` with each packet, without its CRC, all of which was checked.
    pub fn packets(&self, mut f: impl FnMut(Result<&'a [u8], BadIcrc>)) {
        let mut rest = self.payload;
        if rest.len() <= SLOT
            && let Ok(packet) = self.check(0, rest)
        {
            return f(Ok(packet));
        }
        let Some((size, packet)) = self.first_of_run() else {
            return f(Err(BadIcrc));
        };
        f(Ok(packet));
        let mut place = 0;
        while let Some(left) = rest.get(size..).filter(|left| !left.is_empty()) {
            rest = left;
            place += 1;
            f(self.check(place, rest.get(..size).unwrap_or(rest)));
        }
    }

    /// Bytes of each datagram of a run, and its first packet.
    fn first_of_run(&self) -> Option<(usize, &'a [u8])> {
        let (bth, _) = Bth::read(self.payload)?;
        let around = Headers::new(bth).size() + ICRC_LEN;
        let sizes = PATH_MTUS.iter().map(|mtu| around + mtu);
        let mut sizes = sizes.filter(|size| *size < self.payload.len());
        sizes.find_map(|size| Some((size, self.check(0, self.payload.get(..size)?).ok()?)))
    }

    /// Checks the datagram at a place of a run.
    fn check(&self, place: u16, payload: &'a [u8]) -> Result<&'a [u8], BadIcrc> {
        let identification = self.identification.wrapping_add(place);
        icrc::verify_whole(self.header, identification, self.ports, payload)
    }
}

#[cfg(test)]
mod tests;
