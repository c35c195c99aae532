//! RoCEv2 packets: the CRC, and the headers behind it.

use std::net::IpAddr;

use sidelane_transport::soft::icrc;
use sidelane_transport::soft::wire::{Headers, ROCE_V2_PORT};

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
