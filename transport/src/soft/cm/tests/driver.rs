//! The manager on a real socket, and what a stranger can throw at it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use zerocopy::IntoBytes;

use super::hostile::req_between;
use super::pair::PORT;
use crate::cm::{CmEvent, ConnectionManager};
use crate::soft::cm::SoftCm;
use crate::soft::cm::mad::Mad;
use crate::soft::cm::messages::Rtu;
use crate::soft::cm::packet::{self, PACKET_LEN};
use crate::soft::port::{self, IcrcCheck, Settings};
use crate::soft::psn::Psn;
use crate::soft::wire::ROCE_V2_PORT;

/// An address of the loopback net that no other test uses.
fn fresh_address(number: u8) -> IpAddr {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 128 | high & 63, low, number))
}

struct Stage {
    cm: SoftCm,
    at: IpAddr,
    stranger: UdpSocket,
    from: IpAddr,
}

impl Stage {
    fn new(number: u8) -> Self {
        let (at, from) = (fresh_address(number), fresh_address(number + 1));
        // The stranger's socket chooses identifications that it does not know.
        let settings = Settings {
            icrc: IcrcCheck::Socket,
            ..Settings::default()
        };
        let port = port::open_with(at, 1, settings).unwrap();
        let mut cm = SoftCm::new(port.cm, 4096, 16);
        cm.listen(SocketAddr::new(at, PORT)).unwrap();
        let stranger = UdpSocket::bind(SocketAddr::new(from, ROCE_V2_PORT)).unwrap();
        Self {
            cm,
            at,
            stranger,
            from,
        }
    }

    fn throw(&self, bytes: &[u8]) {
        let to = SocketAddr::new(self.at, ROCE_V2_PORT);
        self.stranger.send_to(bytes, to).unwrap();
    }

    fn packet(&self, mad: &Mad) -> [u8; PACKET_LEN] {
        let mut bytes = [0; PACKET_LEN];
        packet::write(&mut bytes, self.from, self.at, Psn::new(0), mad).unwrap();
        bytes
    }

    /// A packet for queue pair 1 of this many bytes, and otherwise nonsense.
    fn garbage(len: usize) -> Vec<u8> {
        let mut bytes = vec![0x64; len];
        bytes[4..8].copy_from_slice(&[0, 0, 0, 1]);
        bytes
    }

    fn count(&self, name: &str) -> u64 {
        let counts = self.cm.counts();
        counts.iter().find(|(n, _)| n == name).unwrap().1
    }
}

/// The consumer waits for the edge of the descriptor, which does not come again
/// for what was in the socket already.
#[test]
fn a_request_behind_more_garbage_than_a_batch_holds_is_found_at_once() {
    let mut stage = Stage::new(1);
    for _ in 0..150 {
        stage.throw(&Stage::garbage(24));
    }
    let req = req_between(stage.from, stage.at, 7);
    stage.throw(&stage.packet(&req));
    let event = stage.cm.poll(Instant::now());
    assert!(
        matches!(event, Some(CmEvent::ConnectRequest { .. })),
        "{event:?}"
    );
    assert_eq!(stage.count("cm.drops.bad_icrc"), 150);
}

/// Each kind of nonsense is counted under its own name, and none is answered.
#[test]
fn what_is_no_message_is_dropped_and_counted_by_its_reason() {
    let mut stage = Stage::new(3);
    let rtu = Mad::new(1, &Rtu::default());
    let spoilt = |at: usize, bits: u8| {
        let mut bytes = rtu.as_bytes().to_vec();
        bytes[at] ^= bits;
        let mad = <Mad as zerocopy::FromBytes>::read_from_bytes(&bytes).unwrap();
        stage.packet(&mad)
    };
    let mut bad_icrc = stage.packet(&rtu);
    bad_icrc[40] ^= 1;
    let mut not_management = stage.packet(&rtu);
    // Another queue key, with a good CRC.
    not_management[15] ^= 1;
    let end = PACKET_LEN - 4;
    let sum = crate::soft::icrc::compute(
        stage.from,
        stage.at,
        ROCE_V2_PORT,
        ROCE_V2_PORT,
        &not_management[..end],
    );
    not_management[end..].copy_from_slice(&sum.to_le_bytes());
    let cases = [
        ("cm.drops.bad_icrc", bad_icrc.to_vec()),
        ("cm.drops.not_management", not_management.to_vec()),
        ("cm.drops.other_class", spoilt(1, 1).to_vec()),
        ("cm.drops.unknown_attribute", spoilt(17, 0x40).to_vec()),
        ("cm.drops.unknown_connection", stage.packet(&rtu).to_vec()),
        ("cm.drops.cut_short", Stage::garbage(8192)),
    ];
    for (name, bytes) in &cases {
        let before = stage.count(name);
        stage.throw(bytes);
        assert_eq!(stage.cm.poll(Instant::now()), None);
        assert_eq!(stage.count(name), before + 1, "{name}");
    }
    let all = stage.cm.counts();
    let drops = all.iter().filter(|(name, _)| name.starts_with("cm.drops."));
    assert_eq!(
        drops.map(|(_, count)| count).sum::<u64>(),
        cases.len() as u64
    );
    assert_eq!(stage.count("cm.sent"), 0);
}
