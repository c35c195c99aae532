//! What a raw socket notices and a UDP socket cannot. These send packets with IP
//! headers of their own, which takes the same privilege.

use socket2::{Domain, Protocol, SockAddr, Type};

use super::*;

/// Sends a packet to `to` whose CRC was made for one identification and whose
/// header says another.
fn send_with_header(from: IpAddr, to: IpAddr, crc_of: u16, says: u16) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from, to) else {
        panic!("IPv4 only");
    };
    let mut payload = received(1, 3);
    payload.extend([0; 4]);
    icrc::seal(from, to, crc_of, &mut payload);
    let udp_len = 8 + payload.len() as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + udp_len).to_be_bytes());
    bytes.extend(says.to_be_bytes());
    // The kernel fills the checksum in.
    bytes.extend([0x40, 0, 64, 17, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(ROCE_PORT.to_be_bytes());
    bytes.extend(ROCE_PORT.to_be_bytes());
    bytes.extend(udp_len.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let socket = socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    socket.set_header_included_v4(true).unwrap();
    let to = SockAddr::from(SocketAddr::new(to, 0));
    assert_eq!(socket.send_to(&bytes, &to).unwrap(), bytes.len());
}

#[rstest::rstest]
#[case::right_and_unseen(Plain, 0x1234, 0x1234, true)]
#[case::wrong_and_unseen(Plain, 0x1234, 0x1235, true)]
#[case::right_and_seen(Full, 0x1234, 0x1234, true)]
#[case::wrong_and_seen(Full, 0x1234, 0x1235, false)]
#[case::our_own_and_seen(Full, 0, 0x4000, false)]
fn a_corrupted_identification_is_noticed_where_it_is_seen(
    #[case] icrc: IcrcCheck,
    #[case] crc_of: u16,
    #[case] says: u16,
    #[case] taken: bool,
) {
    let address = some_loopback();
    // Whoever may not open a raw socket may not send such packets either.
    if open_as(some_loopback(), 1, Full).is_none() {
        return;
    }
    let Some(mut port) = open_as(address, 1, icrc) else {
        return;
    };
    send_with_header(some_loopback(), address, crc_of, says);
    let mut got = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while got.is_empty() && Instant::now() < end {
        let receive = |_, packet: Result<&[u8], _>| got.push(packet.map(<[u8]>::to_vec));
        port.cm.receive(receive).unwrap();
    }
    let expected = if taken {
        Ok(received(1, 3))
    } else {
        Err(icrc::BadIcrc)
    };
    assert_eq!(got, [expected]);
}

#[rstest::rstest]
#[case(IcrcCheck::Socket, false)]
#[case(IcrcCheck::Full, true)]
#[case(IcrcCheck::Auto, true)]
fn what_was_asked_for_is_what_is_done(#[case] icrc: IcrcCheck, #[case] wholly: bool) {
    if open_as(some_loopback(), 1, Full).is_none() {
        return;
    }
    let port = open_as(some_loopback(), 1, icrc).unwrap();
    assert_eq!(port.cm.checks_wholly(), wholly);
    assert_eq!(port.reactors[0].checks_wholly(), wholly);
}

#[test]
fn packets_to_other_ports_are_not_taken_for_ours() {
    let address = some_loopback();
    let Some(mut port) = open_as(address, 1, Full) else {
        return;
    };
    let other = UdpSocket::bind((address, 0)).unwrap();
    let peer = Peer::of(address);
    let elsewhere = Peer {
        to: other.local_addr().unwrap(),
        ..Peer::of(address)
    };
    for qpn in [1, 2] {
        elsewhere.send(qpn, 1);
        peer.send(qpn, 2);
        peer.socket.send_to(&[7; 3], peer.to).unwrap();
    }
    assert_eq!(drain(&mut port.cm), [received(1, 2)]);
    assert_eq!(drain(&mut port.reactors[0]), [received(2, 2)]);
    assert_eq!(port.cm.counters().receive_dropped, 0);
}
