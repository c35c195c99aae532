//! The invariant CRC of RoCEv2 (InfiniBand Architecture, volume 1, 7.8.1
//! and annex A17).
//!
//! It is CRC-32 over eight bytes of ones (the link header that Ethernet does not
//! have), the IP and UDP headers, and the packet from the BTH to the end of the
//! padding; fields that routers change count as ones: TOS, TTL and checksum of
//! IPv4; traffic class, flow label and hop limit of IPv6; the UDP checksum; the
//! reserved byte of the BTH. It is sent with its lowest byte first.
//!
//! The identification field of IPv4 is *not* masked. What we send has 0 there
//! (an unconnected UDP socket with path MTU discovery on), or its place in a run
//! that the kernel cuts up. What comes through a raw socket shows its header, and
//! [`verify_whole`] leaves nothing out. What comes through a UDP socket had a
//! value that we cannot see. CRC is linear: a packet that differs from ours only
//! in that field differs in the CRC only by what the difference becomes when it
//! is carried through the bytes that follow. Carried back, it must come out as a
//! difference in those 16 bits and nowhere else, so the check is still worth the
//! other 16.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::wire::{Bth, ICRC_LEN, ROCE_V2_PORT};

/// The longest packet that can be checked, from the BTH to the end of the
/// padding: path MTU 4096 and all headers there are, with room.
pub const MAX_PACKET: usize = 4096 + 128;

/// A packet with a wrong or no CRC, or one longer than [`MAX_PACKET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet's invariant CRC is wrong")]
pub struct BadIcrc;

/// Computes the CRC for `packet` (BTH to the end of the padding), as a sender
/// with identification 0 and "don't fragment" makes it. Append it with
/// `to_le_bytes`.
pub fn compute(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, packet: &[u8]) -> u32 {
    compute_numbered(0, src, dst, (sport, dport), packet)
}

/// Sets the CRC at the end of a UDP payload that goes from the RoCEv2 port to
/// that of a peer, with this identification (over IPv4) and "don't fragment".
pub fn seal(src: IpAddr, dst: IpAddr, identification: u16, udp_payload: &mut [u8]) {
    let ports = (ROCE_V2_PORT, ROCE_V2_PORT);
    if let Some((packet, crc)) = udp_payload.split_last_chunk_mut::<ICRC_LEN>() {
        *crc = compute_numbered(identification, src, dst, ports, packet).to_le_bytes();
    }
}

fn compute_numbered(
    identification: u16,
    src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
    packet: &[u8],
) -> u32 {
    let mut pseudo = Pseudo::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [s0, s1, s2, s3] = src.octets();
            let [d0, d1, d2, d3] = dst.octets();
            let header = [
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 0, 17, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
            ];
            pseudo.put_ipv4(&header, identification, udp_len(packet));
        }
        (src, dst) => {
            let [high, low] = udp_len(packet).to_be_bytes();
            pseudo.put(&[0x6f, 0xff, 0xff, 0xff, high, low, 17, 0xff]);
            pseudo.put(&v6_octets(src));
            pseudo.put(&v6_octets(dst));
        }
    }
    pseudo.crc(ports, packet)
}

/// Checks the CRC at the end of a UDP payload whose IPv4 header is known, of 20
/// to 60 bytes, and gives the packet without it. The lengths that the headers say
/// are not looked at, and `identification` counts instead of the header's own:
/// both differ where the header is that of a run.
///
/// # Errors
/// When it is wrong, or the packet is too short or too long to have one.
pub fn verify_whole<'a>(
    ip_header: &[u8],
    identification: u16,
    ports: (u16, u16),
    udp_payload: &'a [u8],
) -> Result<&'a [u8], BadIcrc> {
    let (packet, received) = split(udp_payload)?;
    let mut pseudo = Pseudo::new();
    pseudo.put_ipv4(ip_header, identification, udp_len(packet));
    if pseudo.crc(ports, packet) == received {
        Ok(packet)
    } else {
        Err(BadIcrc)
    }
}

/// What the CRC covers before the packet.
struct Pseudo {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Pseudo {
    /// The ones of the link header, IP and UDP headers.
    const ROOM: usize = 8 + IPV4_MOST + UDP_LEN;

    fn new() -> Self {
        Self {
            bytes: [0xff; Self::ROOM],
            len: 8,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// A header of 20 to 60 bytes, with its length and identification set.
    fn put_ipv4(&mut self, header: &[u8], identification: u16, udp_len: u16) {
        let start = self.len;
        self.put(header);
        let total = udp_len.wrapping_add(header.len() as u16);
        let fixed = self.bytes.get_mut(start..);
        if let Some(fixed) = fixed.and_then(|bytes| bytes.first_chunk_mut::<IPV4_LEN>()) {
            fixed[1] = 0xff; // TOS
            fixed[2..4].copy_from_slice(&total.to_be_bytes());
            fixed[4..6].copy_from_slice(&identification.to_be_bytes());
            fixed[8] = 0xff; // TTL
            fixed[10..12].fill(0xff); // checksum
        }
    }

    /// The CRC of all that and the packet.
    fn crc(mut self, (sport, dport): (u16, u16), packet: &[u8]) -> u32 {
        let [s0, s1] = sport.to_be_bytes();
        let [d0, d1] = dport.to_be_bytes();
        let [l0, l1] = udp_len(packet).to_be_bytes();
        self.put(&[s0, s1, d0, d1, l0, l1, 0xff, 0xff]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.bytes.get(..self.len).unwrap_or_default());
        if let Some((bth, rest)) = packet.split_first_chunk::<{ Bth::LEN }>() {
            let mut bth = *bth;
            bth[4] = 0xff;
            hasher.update(&bth);
            hasher.update(rest);
        } else {
            hasher.update(packet);
        }
        hasher.finalize()
    }
}

fn udp_len(packet: &[u8]) -> u16 {
    (UDP_LEN + packet.len() + ICRC_LEN) as u16
}

/// The packet and its CRC.
fn split(udp_payload: &[u8]) -> Result<(&[u8], u32), BadIcrc> {
    let (packet, received) = udp_payload.split_last_chunk::<ICRC_LEN>().ok_or(BadIcrc)?;
    if packet.len() < Bth::LEN || packet.len() > MAX_PACKET {
        return Err(BadIcrc);
    }
    Ok((packet, u32::from_le_bytes(*received)))
}

/// Checks the CRC at the end of a UDP payload and gives the packet without it.
///
/// Over IPv4 the identification and the "don't fragment" bit, which a socket
/// does not show, may have been anything.
///
/// # Errors
/// When it is wrong, or the packet is too short or too long to have one.
pub fn verify(
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    udp_payload: &[u8],
) -> Result<&[u8], BadIcrc> {
    let (packet, received) = split(udp_payload)?;
    let difference = compute(src, dst, sport, dport, packet) ^ received;
    if difference == 0 {
        return Ok(packet);
    }
    if src.is_ipv6() {
        return Err(BadIcrc);
    }
    let follow = AFTER_ID + UDP_LEN + packet.len();
    let back = UNROLL.get(follow).ok_or(BadIcrc)?;
    // What is left is the difference in bytes 4 to 7 of the IP header, the
    // lowest first: two of identification, then flags and fragment offset.
    match multiply(difference, *back) & 0xffff_0000 {
        0 | 0x0040_0000 => Ok(packet),
        _ => Err(BadIcrc),
    }
}

const UDP_LEN: usize = 8;
/// An IPv4 header without options, and with as many as there can be.
const IPV4_LEN: usize = 20;
const IPV4_MOST: usize = 60;
/// Bytes of the IPv4 header from the identification on.
const AFTER_ID: usize = 16;

fn v6_octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// The generator of CRC-32 with its bits reversed: bit 31 stands for x^0, and
/// x^32 is left out.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// x^0.
const ONE: u32 = 0x8000_0000;

/// `UNROLL[n]` takes a CRC back over `n` bytes: x^(-8n) modulo the generator.
static UNROLL: [u32; AFTER_ID + UDP_LEN + MAX_PACKET + 1] = {
    let mut table = [ONE; AFTER_ID + UDP_LEN + MAX_PACKET + 1];
    let mut n = 1;
    while n < table.len() {
        let mut value = table[n - 1];
        let mut bit = 0;
        while bit < 8 {
            // Division by x: x^0, if there, goes by adding the generator first.
            value = if value & ONE != 0 {
                (value ^ POLYNOMIAL) << 1 | 1
            } else {
                value << 1
            };
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
};

/// Product of two polynomials modulo the generator, bits reversed.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & (a >> bit & 1).wrapping_neg();
        // Multiplication by x.
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const DST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// The CRC of a peer whose IP header has this identification and flags.
    fn peer_crc(id: u16, flags: u8, packet: &[u8]) -> u32 {
        let mut bytes = vec![0xff; 8];
        let udp_len = (8 + packet.len() + 4) as u16;
        bytes.extend([0x45, 0xff]);
        bytes.extend((udp_len + 20).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([flags, 0, 0xff, 17, 0xff, 0xff, 192, 0, 2, 1, 192, 0, 2, 2]);
        bytes.extend(50_000u16.to_be_bytes());
        bytes.extend(4791u16.to_be_bytes());
        bytes.extend(udp_len.to_be_bytes());
        bytes.extend([0xff, 0xff]);
        let bth = bytes.len();
        bytes.extend(packet);
        bytes[bth + 4] = 0xff;
        crc32fast::hash(&bytes)
    }

    fn with_crc(packet: &[u8], crc: u32) -> Vec<u8> {
        [packet, &crc.to_le_bytes()].concat()
    }

    proptest! {
        #[test]
        fn a_peer_may_have_any_identification_and_may_allow_fragments(
            packet in proptest::collection::vec(any::<u8>(), 12..300), id: u16, df: bool,
        ) {
            let flags = if df { 0x40 } else { 0 };
            let payload = with_crc(&packet, peer_crc(id, flags, &packet));
            prop_assert_eq!(verify(SRC, DST, 50_000, 4791, &payload), Ok(&packet[..]));
        }

        #[test]
        fn with_the_header_known_its_identification_and_flags_count_too(
            packet in proptest::collection::vec(any::<u8>(), 12..300), id: u16, df: bool,
            bit in 0usize..64, ttl: u8, tos: u8,
        ) {
            let flags = if df { 0x40 } else { 0 };
            let payload = with_crc(&packet, peer_crc(id, flags, &packet));
            let mut header = [
                0x45, tos, 1, 2, 3, 4, flags, 0, ttl, 17, 5, 6, 192, 0, 2, 1, 192, 0, 2, 2,
            ];
            let ports = (50_000, 4791);
            prop_assert_eq!(verify_whole(&header, id, ports, &payload), Ok(&packet[..]));
            prop_assert!(verify_whole(&header, id ^ 1 << (bit % 16), ports, &payload).is_err());
            let at = [0, 6, 7, 9, 12, 13, 16, 19][bit / 8];
            header[at] ^= 1 << (bit % 8);
            prop_assert!(verify_whole(&header, id, ports, &payload).is_err());
        }

        #[test]
        fn over_ipv6_every_changed_bit_is_noticed(
            packet in proptest::collection::vec(any::<u8>(), 12..300),
            at: proptest::sample::Index, bit in 0u8..8,
        ) {
            let src = "2001:db8::1".parse().unwrap();
            let dst = "2001:db8::2".parse().unwrap();
            let mut payload = with_crc(&packet, compute(src, dst, 50_000, 4791, &packet));
            prop_assert!(verify(src, dst, 50_000, 4791, &payload).is_ok());
            let at = at.index(payload.len());
            prop_assume!(at != 4);
            payload[at] ^= 1 << bit;
            prop_assert!(verify(src, dst, 50_000, 4791, &payload).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = verify(SRC, DST, 1, 2, &bytes);
        }
    }

    /// IP packets as they were on a wire between this adapter and Linux'
    /// rdma_rxe, each of which took the other's.
    #[rstest::rstest]
    #[case::our_write(
        "4500003c0000400040111f5dc0a84d02c0a84d0112b712b700281b8e0a40ffff0000001180fffff000007ff62f4bc06400000233000000005560aa0c"
    )]
    #[case::our_read_request(
        "4500003c0000400040111f5dc0a84d02c0a84d0112b712b700281b8e0c40ffff0000001180fffff100007ff62f4bc064000002330000000058a5b08e"
    )]
    #[case::our_padded_send(
        "450000300000400040111f69c0a84d02c0a84d0112b712b7001c1b820270ffff00000011800000097b000000d9822585"
    )]
    #[case::our_read_response(
        "450000340000400040111f65c0a84d02c0a84d0112b712b700201b860f70ffff000000110000000c1f00001269000000137c9f99"
    )]
    #[case::their_ack(
        "45000030a354400040117c14c0a84d01c0a84d02c40112b7001c00001100ffff0000040000fffff01f000001b09bb142"
    )]
    #[case::their_send(
        "45000030a39c400040117bccc0a84d01c0a84d02c40112b7001c00000230ffff00000400800000087b000000570af24e"
    )]
    #[case::their_write(
        "4500003ca36b400040117bf1c0a84d01c0a84d02c40112b7002800000a00ffff0000040080fffff900000000508000000000100000000000ca1f0ff7"
    )]
    #[case::their_read_response(
        "45000034a399400040117bcbc0a84d01c0a84d02c40112b7002000000f30ffff00000400000000071f0000167b000000df2763a3"
    )]
    fn packets_seen_on_a_wire_have_the_right_crc(#[case] hex: &str) {
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let addr = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (src, dst, sport, dport) = (addr(12), addr(16), port(20), port(22));
        let (packet, crc) = bytes[28..].split_last_chunk::<4>().unwrap();
        assert_eq!(verify(src, dst, sport, dport, &bytes[28..]), Ok(packet));
        let ours = compute(src, dst, sport, dport, packet) == u32::from_le_bytes(*crc);
        // Ours have identification 0, theirs did not.
        assert_eq!(ours, bytes[4..6] == [0, 0]);
        let id = u16::from_be_bytes([bytes[4], bytes[5]]);
        let whole = verify_whole(&bytes[..20], id, (sport, dport), &bytes[28..]);
        assert_eq!(whole, Ok(packet));
        let mut spoiled = bytes[28..].to_vec();
        spoiled[9] ^= 0x10;
        assert!(verify(src, dst, sport, dport, &spoiled).is_err());
    }

    #[test]
    fn few_of_many_random_corruptions_pass() {
        let packet: Vec<u8> = (0..1024u32).map(|i| (i * 7) as u8).collect();
        let good = with_crc(&packet, peer_crc(0x1234, 0x40, &packet));
        let mut state = 1u64;
        let passed = (0..20_000)
            .filter(|_| {
                let mut bad = good.clone();
                for _ in 0..8 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    bad[12 + (state >> 33) as usize % 1000] ^= (state >> 20) as u8 | 1;
                }
                verify(SRC, DST, 50_000, 4791, &bad).is_ok()
            })
            .count();
        assert!(passed <= 8, "{passed} of 20,000; 0.6 expected");
    }

    #[test]
    fn the_longest_packet_can_be_checked_and_a_longer_one_is_refused() {
        let packet = vec![7; MAX_PACKET];
        let payload = with_crc(&packet, peer_crc(9, 0x40, &packet));
        assert!(verify(SRC, DST, 50_000, 4791, &payload).is_ok());
        let packet = vec![7; MAX_PACKET + 1];
        let payload = with_crc(&packet, peer_crc(0, 0x40, &packet));
        assert_eq!(verify(SRC, DST, 50_000, 4791, &payload), Err(BadIcrc));
    }
}
