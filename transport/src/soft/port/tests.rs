use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use IcrcCheck::{Full, Socket as Plain};

use super::*;
use crate::soft::icrc;
use crate::soft::socket::{BATCH, SLOT, never_fragment};

mod whole;

/// A loopback address that no other test, in this process or another, is likely
/// to have.
pub(crate) fn some_loopback() -> IpAddr {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) as u32;
    Ipv4Addr::from_bits(0x7f00_0000 | (random & 0x00ff_ffff).clamp(0x1_0000, 0xff_fff0)).into()
}

/// Opens it; `None` where a privilege is missing for that, which is said.
fn open_as(address: IpAddr, reactors: usize, icrc: IcrcCheck) -> Option<Port> {
    let settings = Settings {
        icrc,
        ..Settings::default()
    };
    match open_with(address, reactors, settings) {
        Err(OpenError::NoRawSocket { .. }) => {
            eprintln!("not tested: this user may not open a raw socket");
            None
        }
        opened => Some(opened.unwrap()),
    }
}

fn open_plain(address: IpAddr, reactors: usize) -> Result<Port, OpenError> {
    let settings = Settings {
        icrc: Plain,
        ..Settings::default()
    };
    open_with(address, reactors, settings)
}

/// A packet for a queue pair, as far as sockets look at it, with room for a CRC.
fn packet(qpn: u32, tag: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; len];
    // The middle of an RDMA WRITE: there is no header but the BTH.
    packet[0] = 0x07;
    packet[5..8].copy_from_slice(&qpn.to_be_bytes()[1..]);
    packet[12] = tag;
    packet
}

/// What is received of it.
fn received(qpn: u32, tag: u8) -> Vec<u8> {
    packet(qpn, tag, 28)
}

/// Somebody who sends to a port.
struct Peer {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Peer {
    fn of(address: IpAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        never_fragment(&socket, address).unwrap();
        let to = SocketAddr::new(address, ROCE_PORT);
        Self { socket, to }
    }

    fn send(&self, qpn: u32, tag: u8) {
        let from = self.socket.local_addr().unwrap();
        let mut bytes = received(qpn, tag);
        let crc = icrc::compute(from.ip(), self.to.ip(), from.port(), ROCE_PORT, &bytes);
        bytes.extend(crc.to_le_bytes());
        self.socket.send_to(&bytes, self.to).unwrap();
    }
}

/// Has `socket` send a packet, in a run if it may lead one.
fn push(socket: &mut Socket, to: SocketAddr, packet: &[u8], leads: bool) {
    let local = socket.local();
    let slot = socket.slots().push(to, packet.len() + 4).unwrap();
    slot[..packet.len()].copy_from_slice(packet);
    let (identification, datagram) = socket.slots().join(0, leads);
    icrc::seal(local, to.ip(), identification, datagram);
}

fn drain(socket: &mut Socket) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        let count = socket
            .receive(|_, packet| got.push(packet.unwrap().to_vec()))
            .unwrap();
        if count == 0 && !got.is_empty() {
            break;
        }
    }
    got
}

#[rstest::rstest]
fn packets_reach_the_socket_of_their_queue_pair(
    #[values(1, 2, 3, 8)] reactors: usize,
    #[values(Plain, Full)] icrc: IcrcCheck,
) {
    let address = some_loopback();
    let Some(mut port) = open_as(address, reactors, icrc) else {
        return;
    };
    let peer = Peer::of(address);
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
        peer.send(qpn, 0);
    }
    let cm = drain(&mut port.cm);
    assert_eq!(cm, [received(1, 0)], "queue pair 1 and nothing else");
    for (index, socket) in port.reactors.iter_mut().enumerate() {
        let mine: Vec<_> = qpns
            .into_iter()
            .filter(|&qpn| qpn != 1 && qpn as usize % reactors == index)
            .map(|qpn| received(qpn, 0))
            .collect();
        assert_eq!(drain(socket), mine, "reactor {index} of {reactors}");
    }
}

#[rstest::rstest]
fn steering_stays_when_some_sockets_are_dropped(#[values(Plain, Full)] icrc: IcrcCheck) {
    let address = some_loopback();
    let Some(mut port) = open_as(address, 3, icrc) else {
        return;
    };
    port.reactors.remove(0);
    let peer = Peer::of(address);
    for qpn in [1, 4, 5] {
        peer.send(qpn, 0);
    }
    assert_eq!(drain(&mut port.cm), [received(1, 0)]);
    assert_eq!(drain(&mut port.reactors[0]), [received(4, 0)]);
    assert_eq!(drain(&mut port.reactors[1]), [received(5, 0)]);
}

#[rstest::rstest]
fn a_port_has_one_owner_until_its_last_socket_is_gone(#[values(Plain, Full)] icrc: IcrcCheck) {
    let address = some_loopback();
    let Some(first) = open_as(address, 2, icrc) else {
        return;
    };
    let refused = open(address, 2).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let Port { reactors, cm, .. } = first;
    drop(cm);
    assert!(matches!(
        open_plain(address, 1),
        Err(OpenError::InUse { .. })
    ));
    drop(reactors);
    open_plain(address, 1).unwrap();
}

#[rstest::rstest]
fn a_stranger_that_shares_the_port_gets_no_packet(#[values(Plain, Full)] icrc: IcrcCheck) {
    let address = some_loopback();
    let Some(mut port) = open_as(address, 2, icrc) else {
        return;
    };
    let stranger = make(address).unwrap();
    stranger.set_reuse_port(true).unwrap();
    bind(&stranger, address).unwrap();
    let peer = Peer::of(address);
    for qpn in 1..=20 {
        peer.send(qpn, 0);
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
    let refused = open_plain(address, 1).unwrap_err();
    assert!(refused.to_string().contains("rdma_rxe"), "{refused}");
}

#[rstest::rstest]
#[case("198.51.100.77", "not an address of this machine")]
#[case("0.0.0.0", "one unicast address")]
#[case("::", "one unicast address")]
#[case("224.0.0.1", "one unicast address")]
fn an_unfit_address_is_refused_with_the_reason(#[case] address: IpAddr, #[case] words: &str) {
    let refused = open_plain(address, 1).unwrap_err().to_string();
    assert!(refused.contains(words), "{refused}");
    assert!(refused.contains(&address.to_string()), "{refused}");
}

#[rstest::rstest]
#[case(0)]
#[case(MAX_REACTORS + 1)]
fn an_unfit_number_of_reactors_is_refused(#[case] reactors: usize) {
    assert!(matches!(
        open_plain(some_loopback(), reactors),
        Err(OpenError::Reactors { .. })
    ));
}

#[rstest::rstest]
fn batches_go_through_in_order_and_without_loss_of_what_fits(
    #[values(Plain, Full)] icrc: IcrcCheck,
    #[values(28, 12 + 1024)] len: usize,
    #[values(false, true)] runs: bool,
) {
    let (left, right) = (some_loopback(), some_loopback());
    let (Some(mut left), Some(mut right)) = (open_as(left, 1, icrc), open_as(right, 1, icrc))
    else {
        return;
    };
    let to = SocketAddr::new(right.cm.local(), ROCE_PORT);
    let leads = runs && len > 1024;
    let mut sent = Vec::new();
    let mut got = Vec::new();
    for round in 0..5u8 {
        for tag in 0..41u8 {
            // A shorter one ends a run.
            let len = if tag % 11 == 10 { 40 } else { len };
            let bytes = packet(0x40, round.wrapping_mul(41).wrapping_add(tag), len);
            push(&mut left.cm, to, &bytes, leads && tag % 11 != 10);
            sent.push(bytes);
        }
        assert_eq!(left.cm.flush().unwrap(), 41);
        got.extend(drain(&mut right.reactors[0]));
    }
    assert!(got == sent);
    let counters = left.cm.counters();
    assert_eq!((counters.sent, counters.send_calls), (205, 5));
    assert_eq!(counters.sent_runs, if leads { 5 * 4 } else { 0 });
    let counters = right.reactors[0].counters();
    assert_eq!((counters.received, counters.overrun), (205, 0));
    assert_eq!(counters.received_runs, left.cm.counters().sent_runs);
}

#[test]
fn a_run_ends_where_the_destination_or_the_flow_changes() {
    let port = some_loopback();
    let mut port = open_plain(port, 1).unwrap();
    let to = [some_loopback(), some_loopback()].map(|ip| SocketAddr::new(ip, ROCE_PORT));
    let mut push = |to: SocketAddr, flow: u32, len: usize| {
        let slots = port.cm.slots();
        slots.push(to, len).unwrap().fill(0);
        slots.join(flow, true).0
    };
    let places = [
        push(to[0], 1, 1040),
        push(to[0], 1, 1040),
        push(to[1], 1, 1040),
        push(to[1], 1, 1040),
        push(to[1], 2, 1040),
        push(to[1], 2, 1044),
        push(to[1], 2, 1040),
        push(to[1], 2, 1040),
    ];
    // The last but one is shorter, so that nothing may follow.
    assert_eq!(places, [0, 1, 0, 1, 0, 0, 1, 0]);
    let slots = port.cm.slots();
    slots.push(to[1], 1040).unwrap().fill(0);
    slots.push(to[1], 1040).unwrap().fill(0);
    assert_eq!(
        slots.join(2, true).0,
        0,
        "one stands between that goes alone"
    );
}

#[test]
fn a_run_is_no_longer_than_the_kernel_takes() {
    let (left, right) = (some_loopback(), some_loopback());
    let (mut left, mut right) = (open_plain(left, 1).unwrap(), open_plain(right, 1).unwrap());
    let to = SocketAddr::new(right.cm.local(), ROCE_PORT);
    for len in [12 + 256, 12 + 4096] {
        let sent: Vec<_> = (0..BATCH as u8).map(|tag| packet(2, tag, len)).collect();
        for bytes in &sent {
            push(&mut left.cm, to, bytes, true);
        }
        assert_eq!(left.cm.flush().unwrap(), BATCH);
        assert!(drain(&mut right.reactors[0]) == sent);
    }
    // All 64 small ones in one; the large ones in runs of 15.
    assert_eq!(left.cm.counters().sent_runs, 1 + 5);
    assert_eq!(left.cm.counters().refused_runs, 0);
}

#[test]
fn a_run_that_the_kernel_refuses_is_sent_one_by_one_and_no_other_is_tried() {
    let (left, right) = (some_loopback(), some_loopback());
    let (mut left, mut right) = (open_plain(left, 1).unwrap(), open_plain(right, 1).unwrap());
    options::send_without_checksum(&socket2::SockRef::from(&left.cm)).unwrap();
    let to = SocketAddr::new(right.cm.local(), ROCE_PORT);
    for round in 0..3 {
        let sent: Vec<_> = (0..20).map(|tag| packet(2, tag, 12 + 1024)).collect();
        for bytes in &sent {
            push(&mut left.cm, to, bytes, true);
        }
        assert_eq!(left.cm.flush().unwrap(), 20);
        assert!(drain(&mut right.reactors[0]) == sent, "round {round}");
    }
    let counters = left.cm.counters();
    assert_eq!((counters.refused_runs, counters.sent_runs), (1, 0));
    assert_eq!((counters.sent, counters.unreachable), (60, 0));
}

#[test]
fn runs_to_a_bad_destination_are_dropped_and_others_still_made() {
    let (left, right) = (some_loopback(), some_loopback());
    let (mut left, mut right) = (open_plain(left, 1).unwrap(), open_plain(right, 1).unwrap());
    let good = SocketAddr::new(right.cm.local(), ROCE_PORT);
    // A socket bound to a loopback address cannot reach the world.
    let bad: SocketAddr = "198.51.100.77:4791".parse().unwrap();
    for to in [bad, good, bad, good] {
        for tag in 0..4 {
            push(&mut left.cm, to, &packet(2, tag, 12 + 1024), true);
        }
    }
    assert_eq!(left.cm.flush().unwrap(), 8);
    assert_eq!(drain(&mut right.reactors[0]).len(), 8);
    let counters = left.cm.counters();
    assert_eq!((counters.sent_runs, counters.unreachable), (2, 8));
}

#[rstest::rstest]
fn slots_fill_up_and_an_unreachable_destination_does_not_block_the_rest(
    #[values(Plain, Full)] icrc: IcrcCheck,
) {
    let address = some_loopback();
    let Some(mut port) = open_as(address, 1, icrc) else {
        return;
    };
    let good = SocketAddr::new(address, ROCE_PORT);
    // A socket bound to a loopback address cannot reach the world.
    let bad: SocketAddr = "198.51.100.77:4791".parse().unwrap();
    for n in 0..BATCH {
        let to = if n % 2 == 0 { bad } else { good };
        push(&mut port.cm, to, &received(1, n as u8), false);
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
    let mut port = open_plain(address, 1).unwrap();
    let peer = UdpSocket::bind((address, 0)).unwrap();
    let mut long = packet(1, 0, SLOT + 1);
    peer.send_to(&long, (address, ROCE_PORT)).unwrap();
    long.truncate(SLOT);
    peer.send_to(&long, (address, ROCE_PORT)).unwrap();
    let mut got = 0;
    while got == 0 {
        port.cm.receive(|_, _| got += 1).unwrap();
    }
    assert_eq!(port.cm.receive(|_, _| got += 1).unwrap(), 0);
    assert_eq!((got, port.cm.counters().receive_dropped), (1, 1));
}

#[test]
fn a_peer_without_a_listener_breaks_nothing() {
    let address = some_loopback();
    let mut port = open_plain(address, 1).unwrap();
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
    let mut port = match open_plain(address, 1) {
        Ok(port) => port,
        // A machine without IPv6, or with rdma_rxe; the rest is tested over IPv4.
        Err(OpenError::NotLocal { .. } | OpenError::Io { .. } | OpenError::InUse { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    let to = SocketAddr::new(address, ROCE_PORT);
    assert!(port.cm.checks_wholly());
    let sent: Vec<_> = (0..9).map(|tag| packet(9, tag, 12 + 4096)).collect();
    for bytes in &sent {
        push(&mut port.cm, to, bytes, true);
    }
    assert_eq!(port.cm.flush().unwrap(), 9);
    assert!(drain(&mut port.reactors[0]) == sent);
    assert_eq!(port.cm.counters().sent_runs, 1);
}
