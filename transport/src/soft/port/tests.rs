use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::*;

/// A loopback address that no other test, in this process or another, is likely
/// to have.
pub(crate) fn some_loopback() -> IpAddr {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) as u32;
    Ipv4Addr::from_bits(0x7f00_0000 | (random & 0x00ff_ffff).clamp(0x1_0000, 0xff_fff0)).into()
}

/// A packet for a queue pair, as far as the steering program looks at it.
fn packet(qpn: u32, tag: u8) -> Vec<u8> {
    let mut packet = vec![0xa5; 32];
    packet[5..8].copy_from_slice(&qpn.to_be_bytes()[1..]);
    packet[12] = tag;
    packet
}

fn drain(socket: &mut Socket) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        let count = socket.receive(|_, bytes| got.push(bytes.to_vec())).unwrap();
        if count == 0 && !got.is_empty() {
            break;
        }
    }
    got
}

#[rstest::rstest]
#[case(1)]
#[case(2)]
#[case(3)]
#[case(8)]
fn packets_reach_the_socket_of_their_queue_pair(#[case] reactors: usize) {
    let address = some_loopback();
    let mut port = open(address, reactors).unwrap();
    let peer = UdpSocket::bind((address, 0)).unwrap();
    let qpns = [
        0,
        1,
        2,
        3,
        7,
        8,
        0x11,
        0x100,
        0x101,
        0x00ff_ffff,
        0x00ab_cdef,
    ];
    for qpn in qpns {
        peer.send_to(&packet(qpn, 0), (address, ROCE_PORT)).unwrap();
    }
    let cm = drain(&mut port.cm);
    assert_eq!(cm, [packet(1, 0)], "queue pair 1 and nothing else");
    for (index, socket) in port.reactors.iter_mut().enumerate() {
        let mine: Vec<_> = qpns
            .into_iter()
            .filter(|&qpn| qpn != 1 && qpn as usize % reactors == index)
            .map(|qpn| packet(qpn, 0))
            .collect();
        assert_eq!(drain(socket), mine, "reactor {index} of {reactors}");
    }
}

#[test]
fn steering_stays_when_some_sockets_are_dropped() {
    let address = some_loopback();
    let mut port = open(address, 3).unwrap();
    port.reactors.remove(0);
    let peer = UdpSocket::bind((address, 0)).unwrap();
    for qpn in [1, 4, 5] {
        peer.send_to(&packet(qpn, 0), (address, ROCE_PORT)).unwrap();
    }
    assert_eq!(drain(&mut port.cm), [packet(1, 0)]);
    assert_eq!(drain(&mut port.reactors[0]), [packet(4, 0)]);
    assert_eq!(drain(&mut port.reactors[1]), [packet(5, 0)]);
}

#[test]
fn a_port_has_one_owner_until_its_last_socket_is_gone() {
    let address = some_loopback();
    let first = open(address, 2).unwrap();
    let refused = open(address, 2).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let Port { reactors, cm, .. } = first;
    drop(cm);
    assert!(matches!(open(address, 1), Err(OpenError::InUse { .. })));
    drop(reactors);
    open(address, 1).unwrap();
}

#[test]
fn a_stranger_that_shares_the_port_gets_no_packet() {
    let address = some_loopback();
    let mut port = open(address, 2).unwrap();
    let stranger = make(address).unwrap();
    stranger.set_reuse_port(true).unwrap();
    bind(&stranger, address).unwrap();
    let peer = UdpSocket::bind((address, 0)).unwrap();
    for qpn in 1..=20 {
        peer.send_to(&packet(qpn, 0), (address, ROCE_PORT)).unwrap();
    }
    assert_eq!(drain(&mut port.cm).len(), 1);
    assert_eq!(drain(&mut port.reactors[0]).len(), 10);
    assert_eq!(drain(&mut port.reactors[1]).len(), 9);
}

#[test]
fn a_foreign_socket_on_the_port_is_noticed() {
    let address = some_loopback();
    let foreign = make(address).unwrap();
    foreign.set_reuse_port(true).unwrap();
    bind(&foreign, address).unwrap();
    let refused = open(address, 1).unwrap_err();
    assert!(refused.to_string().contains("rdma_rxe"), "{refused}");
}

#[rstest::rstest]
#[case("198.51.100.77", "not an address of this machine")]
#[case("0.0.0.0", "one unicast address")]
#[case("::", "one unicast address")]
#[case("224.0.0.1", "one unicast address")]
fn an_unfit_address_is_refused_with_the_reason(#[case] address: IpAddr, #[case] words: &str) {
    let refused = open(address, 1).unwrap_err().to_string();
    assert!(refused.contains(words), "{refused}");
    assert!(refused.contains(&address.to_string()), "{refused}");
}

#[rstest::rstest]
#[case(0)]
#[case(MAX_REACTORS + 1)]
fn an_unfit_number_of_reactors_is_refused(#[case] reactors: usize) {
    assert!(matches!(
        open(some_loopback(), reactors),
        Err(OpenError::Reactors { .. })
    ));
}

#[test]
fn batches_go_through_in_order_and_without_loss_of_what_fits() {
    let (left, right) = (some_loopback(), some_loopback());
    let mut left = open(left, 1).unwrap();
    let mut right = open(right, 1).unwrap();
    let to = SocketAddr::new(right.cm.local(), ROCE_PORT);
    let mut sent = Vec::new();
    let mut got = Vec::new();
    for round in 0..5u8 {
        // An odd number each time, so that runs wrap around the end of the ring.
        for tag in 0..41u8 {
            let bytes = packet(0x40, round.wrapping_mul(41).wrapping_add(tag));
            left.cm
                .slots()
                .push(to, bytes.len())
                .unwrap()
                .copy_from_slice(&bytes);
            sent.push(bytes);
        }
        assert_eq!(left.cm.flush().unwrap(), 41);
        got.extend(drain(&mut right.reactors[0]));
    }
    assert_eq!(got, sent);
    assert_eq!(left.cm.counters().sent, 205);
    assert_eq!(right.reactors[0].counters().received, 205);
}

#[test]
fn slots_fill_up_and_an_unreachable_destination_does_not_block_the_rest() {
    let address = some_loopback();
    let mut port = open(address, 1).unwrap();
    let good = SocketAddr::new(address, ROCE_PORT);
    // A socket bound to a loopback address cannot reach the world.
    let bad: SocketAddr = "198.51.100.77:4791".parse().unwrap();
    for n in 0..socket::BATCH {
        let bytes = packet(1, n as u8);
        let to = if n % 2 == 0 { bad } else { good };
        port.cm
            .slots()
            .push(to, bytes.len())
            .unwrap()
            .copy_from_slice(&bytes);
    }
    assert!(port.cm.slots().is_full());
    assert!(port.cm.slots().push(good, 1).is_none());
    assert_eq!(port.cm.flush().unwrap(), 32);
    assert_eq!(port.cm.slots().waiting(), 0);
    assert_eq!(port.cm.counters().unreachable, 32);
    let tags: Vec<u8> = drain(&mut port.cm)
        .iter()
        .map(|packet| packet[12])
        .collect();
    assert_eq!(tags, (0..64).filter(|n| n % 2 == 1).collect::<Vec<u8>>());
}

#[test]
fn a_datagram_longer_than_a_slot_is_dropped_and_counted() {
    let address = some_loopback();
    let mut port = open(address, 1).unwrap();
    let peer = UdpSocket::bind((address, 0)).unwrap();
    let mut long = packet(1, 0);
    long.resize(socket::SLOT + 1, 0);
    peer.send_to(&long, (address, ROCE_PORT)).unwrap();
    long.truncate(socket::SLOT);
    peer.send_to(&long, (address, ROCE_PORT)).unwrap();
    assert_eq!(drain(&mut port.cm).len(), 1);
    assert_eq!(port.cm.counters().receive_dropped, 1);
}

#[test]
fn a_peer_without_a_listener_breaks_nothing() {
    let address = some_loopback();
    let mut port = open(address, 1).unwrap();
    let nobody = SocketAddr::new(some_loopback(), ROCE_PORT);
    for _ in 0..3 {
        port.cm.slots().push(nobody, 16).unwrap().fill(0);
        port.cm.flush().unwrap();
        assert_eq!(port.cm.receive(|_, _| ()).unwrap(), 0);
    }
}

#[test]
fn an_ipv6_address_works_alike() {
    let address: IpAddr = "::1".parse().unwrap();
    let mut port = match open(address, 1) {
        Ok(port) => port,
        // A machine without IPv6, or with rdma_rxe; the rest is tested over IPv4.
        Err(OpenError::NotLocal { .. } | OpenError::Io { .. } | OpenError::InUse { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    let to = SocketAddr::new(address, ROCE_PORT);
    let bytes = packet(9, 1);
    port.cm
        .slots()
        .push(to, bytes.len())
        .unwrap()
        .copy_from_slice(&bytes);
    assert_eq!(port.cm.flush().unwrap(), 1);
    assert_eq!(drain(&mut port.reactors[0]), [bytes]);
}
