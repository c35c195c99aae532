//! RoCEv2 packets: the IP and UDP headers before them as a raw socket shows them,
//! the CRC, and the headers behind it.

use std::net::IpAddr;

use sidelane_transport::soft::icrc;
use sidelane_transport::soft::psn::Psn;
use sidelane_transport::soft::socket::datagram::Datagram;
use sidelane_transport::soft::wire::{Bth, Headers, ICRC_LEN, Opcode, ROCE_V2_PORT};

use super::input::Input;

/// A UDP payload as it may arrive: the first byte chooses the kind of address,
/// the rest is judged as it stands, and again with a CRC that is right.
pub fn packet(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (src, dst): (IpAddr, IpAddr) = match input.u8() % 2 {
        0 => ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        _ => (
            [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(),
        ),
    };
    let verify = |payload| icrc::verify(src, dst, ROCE_V2_PORT, ROCE_V2_PORT, payload);
    if let Ok(packet) = verify(input.0) {
        headers(packet);
    }
    let packet = input.0;
    headers(packet);
    let fits = (12..=icrc::MAX_PACKET).contains(&packet.len());
    if packet.len() <= icrc::MAX_PACKET {
        let crc = icrc::compute(src, dst, ROCE_V2_PORT, ROCE_V2_PORT, packet);
        let whole = [packet, &crc.to_le_bytes()].concat();
        assert_eq!(verify(&whole).ok(), fits.then_some(packet), "our own CRC");
    }
}

/// What a raw socket may give: judged as it stands, and again as a run that is in
/// order, which must come out packet by packet.
pub fn datagram(bytes: &[u8]) {
    if let Some(datagram) = Datagram::read(bytes) {
        let (mut packets, mut len) = (0, 0);
        datagram.packets(|packet| {
            packets += 1;
            len += packet.map_or(0, <[u8]>::len);
        });
        assert!(len <= bytes.len() && packets <= 1 + bytes.len() / 256);
    }
    let mut input = Input(bytes);
    let (from, to) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let (mtu, first, count) = (256 << input.pick(5), input.u16(), 1 + input.pick(4) as u16);
    let mut run = Vec::new();
    let mut packets = Vec::new();
    for place in 0..count {
        let bth = Bth::new(Opcode::RcWriteMiddle, 0x11, Psn::new(place.into()));
        let mut packet = vec![input.u8(); Bth::LEN + mtu + ICRC_LEN];
        Headers::new(bth).write(&mut packet).expect("room for it");
        icrc::seal(
            from.into(),
            to.into(),
            first.wrapping_add(place),
            &mut packet,
        );
        run.extend_from_slice(&packet);
        packet.truncate(Bth::LEN + mtu);
        packets.push(packet);
    }
    let lengths = |around: usize| ((run.len() + around) as u16).to_be_bytes();
    let ([high, low], id) = (lengths(28), first.to_be_bytes());
    let whole = [
        &[
            0x45,
            input.u8(),
            high,
            low,
            id[0],
            id[1],
            0x40,
            0,
            input.u8(),
            17,
            0,
            0,
        ][..],
        &from,
        &to,
        &ROCE_V2_PORT.to_be_bytes(),
        &ROCE_V2_PORT.to_be_bytes(),
        &lengths(8),
        &[0, 0],
        &run,
    ]
    .concat();
    let mut seen = Vec::new();
    let datagram = Datagram::read(&whole).expect("its headers are in order");
    datagram.packets(|packet| seen.push(packet.expect("our own CRC").to_vec()));
    assert!(
        seen == packets,
        "{count} packets of {mtu} came as {}",
        seen.len()
    );
}

/// What was read and is written again reads the same.
fn headers(packet: &[u8]) {
    let Ok((headers, payload)) = Headers::read(packet) else {
        return;
    };
    assert!(payload.len() <= packet.len());
    // No packet has longer headers than it has bytes.
    let mut out = vec![0; packet.len()];
    let room = headers.write(&mut out).expect("room for all headers").len();
    let start = out.len() - room;
    assert!((payload.len()..payload.len() + 4).contains(&room));
    out[start..start + payload.len()].copy_from_slice(payload);
    let again = Headers::read(&out);
    assert_eq!(again, Ok((headers, payload)), "{out:02x?}");
}
