//! Packets that no honest peer sends: dropped or answered by the book, counted,
//! never a panic, never a byte outside what was registered.

use std::net::IpAddr;

use super::super::pair::{Pair, Random, Who, attrs};
use crate::nic::{SendOp, Wake, WcStatus};
use crate::soft::psn::Psn;
use crate::soft::wire::{Bth, Headers, Opcode, Reth};

/// A packet for the queue pair of B with the number it expects next.
fn packet(pair: &Pair, opcode: Opcode, payload: usize, reth: Option<Reth>) -> Vec<u8> {
    let psn = Psn::new(attrs(Who::A, pair.b.qp, 1024).sq_psn);
    let mut bth = Bth::new(opcode, pair.b.qp.0, psn);
    bth.pad = crate::soft::wire::pad_for(payload) as u8;
    let headers = Headers {
        reth,
        ..Headers::new(bth)
    };
    let mut bytes = vec![0; headers.size() + payload + usize::from(bth.pad)];
    headers.write(&mut bytes).unwrap();
    bytes
}

#[rstest::rstest]
#[case::atomic(Opcode::RcCompareSwap, 0, false)]
#[case::fetch_add(Opcode::RcFetchAdd, 0, false)]
#[case::reserved(Opcode(0x1f), 0, false)]
#[case::middle_without_first(Opcode::RcSendMiddle, 1024, false)]
#[case::last_without_first(Opcode::RcWriteLast, 4, false)]
#[case::short_first(Opcode::RcSendFirst, 1020, false)]
#[case::long_only(Opcode::RcSendOnly, 1028, false)]
#[case::write_shorter_than_said(Opcode::RcWriteOnly, 4, true)]
#[case::write_longer_than_said(Opcode::RcWriteOnly, 12, true)]
fn a_request_against_the_rules_ends_the_connection(
    #[case] opcode: Opcode,
    #[case] payload: usize,
    #[case] reth: bool,
) {
    let mut pair = Pair::new(1024);
    pair.b.post_recv(2, 2048);
    let memory = pair.b.memory;
    let reth = reth.then_some(Reth {
        addr: memory.base,
        rkey: memory.rkey,
        len: 8,
    });
    let bytes = packet(&pair, opcode, payload, reth);
    pair.inject(Who::B, bytes);
    pair.run();
    assert_eq!(pair.b.engine.stats().fatal_naks_out, 1);
    let sge = pair.b.sge(0, 1);
    pair.b.post(5, SendOp::Send, &[sge]);
    pair.run();
    assert_eq!(pair.b.done.last().unwrap().status, WcStatus::Flushed);
}

#[test]
fn packets_that_are_not_the_peers_are_dropped_and_change_nothing() {
    let mut pair = Pair::new(1024);
    pair.b.post_recv(2, 2048);
    let good = packet(&pair, Opcode::RcSendOnly, 8, None);
    let (now, a, b) = (pair.now, Who::A.addr(), Who::B.addr());
    let other: IpAddr = "192.0.2.99".parse().unwrap();
    pair.b.engine.handle_packet(now, other, b, &good);
    pair.b.engine.handle_packet(now, a, other, &good);
    assert_eq!(pair.b.engine.stats().drops.wrong_peer, 2);
    let mut wrong = good.clone();
    wrong[3] = 1;
    pair.b.engine.handle_packet(now, a, b, &wrong);
    assert_eq!(pair.b.engine.stats().drops.wrong_partition, 1);
    let mut wrong = good.clone();
    wrong[7] ^= 1;
    pair.b.engine.handle_packet(now, a, b, &wrong);
    assert_eq!(pair.b.engine.stats().drops.unknown_qp, 1);
    let mut wrong = good.clone();
    wrong[0] |= 0x20;
    pair.b.engine.handle_packet(now, a, b, &wrong);
    pair.b.engine.handle_packet(now, a, b, &good[..11]);
    pair.b.engine.handle_packet(now, a, b, &[]);
    assert_eq!(pair.b.engine.stats().drops.malformed, 3);
    assert!(!pair.b.engine.has_completions(Wake::All));
    // The peer's own packet, over an address mapped into IPv6, is taken.
    let mapped = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    pair.b
        .engine
        .handle_packet(now, mapped(a), mapped(b), &good);
    assert!(pair.b.engine.has_completions(Wake::All));
}

#[test]
fn responses_to_nothing_are_dropped() {
    let mut pair = Pair::new(1024);
    for opcode in [
        Opcode::RcAck,
        Opcode::RcReadResponseOnly,
        Opcode::RcReadResponseMiddle,
        Opcode::RcAtomicAck,
    ] {
        let bytes = packet(&pair, opcode, 0, None);
        pair.inject(Who::B, bytes);
    }
    pair.run();
    assert_eq!(pair.b.engine.stats().drops.stale_response, 4);
}

#[test]
fn a_read_response_of_wrong_length_ends_the_connection_and_writes_nothing() {
    let mut pair = Pair::new(1024);
    let (sge, remote) = (pair.b.sge(0, 100), pair.a.remote(0));
    pair.lose(|_, _| true);
    pair.b.post(1, SendOp::Read(remote), &[sge]);
    pair.step();
    let psn = Psn::new(attrs(Who::B, pair.a.qp, 1024).sq_psn);
    let bth = Bth::new(Opcode::RcReadResponseOnly, pair.b.qp.0, psn);
    let headers = Headers::new(bth);
    let mut bytes = vec![0xaa; headers.size() + 104];
    headers.write(&mut bytes).unwrap();
    pair.inject(Who::B, bytes);
    pair.run();
    assert_eq!(pair.b.done[0].status, WcStatus::LocalLength);
    assert_eq!(pair.b.bytes(0, 200), [0; 200]);
}

/// Packets of random headers, with those fields right that let them get far.
#[test]
fn random_packets_never_panic_and_never_write_outside_the_registration() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new(256);
        // Only the first part may be touched.
        pair.b.engine.deregister(&pair.b.memory);
        let part = sidelane_p2p::Region::new(
            "part",
            sidelane_p2p::Placement::Host,
            pair.b.region.iova(),
            pair.b.region.view().slice(0..1 << 16).unwrap(),
            Box::new(()),
        );
        pair.b.memory = pair
            .b
            .engine
            .register(&part, super::super::pair::all_access())
            .unwrap();
        for i in 0..4 {
            let sge = pair.b.sge(i * 1000, 1000);
            pair.b
                .engine
                .post_recv(&[crate::nic::RecvWr { wr_id: 0, sge }])
                .unwrap();
        }
        let (sge, remote) = (pair.b.sge(0, 5000), pair.a.remote(0));
        pair.lose(|from, _| from == Who::B);
        pair.b.post(1, SendOp::Read(remote), &[sge]);
        pair.b.post(2, SendOp::Send, &[sge]);
        pair.step();
        let (now, a, b) = (pair.now, Who::A.addr(), Who::B.addr());
        for _ in 0..200 {
            let mut bytes = vec![0; 12 + random.below(330) as usize / 4 * 4];
            bytes
                .iter_mut()
                .for_each(|byte| *byte = random.next() as u8);
            let from_b = attrs(Who::B, pair.a.qp, 256).sq_psn;
            let from_a = attrs(Who::A, pair.b.qp, 256).sq_psn;
            let base = if random.permille(500) { from_a } else { from_b };
            let psn = Psn::new(base).plus(random.below(24) as u32).minus(4);
            bytes[0] = random.below(32) as u8;
            bytes[1] = 0x40 | (random.below(4) as u8) << 4;
            bytes[2..4].fill(0xff);
            bytes[5..8].copy_from_slice(&pair.b.qp.0.to_be_bytes()[1..]);
            bytes[9..12].copy_from_slice(&psn.get().to_be_bytes()[1..]);
            if bytes.len() >= 28 && random.permille(700) {
                let addr = pair.b.memory.base + random.below(1 << 16);
                bytes[12..20].copy_from_slice(&addr.to_be_bytes());
                bytes[20..24].copy_from_slice(&pair.b.memory.rkey.to_be_bytes());
                bytes[24..28].copy_from_slice(&(random.below(2000) as u32).to_be_bytes());
            }
            pair.b.engine.handle_packet(now, a, b, &bytes);
            pair.step();
        }
        pair.run();
        let outside = pair.b.bytes(1 << 16, 1 << 17);
        assert!(outside.iter().all(|byte| *byte == 0), "seed {seed}");
        let mut ids: Vec<_> = pair.b.done.iter().filter(|c| c.wr_id != 0).collect();
        ids.dedup_by_key(|c| c.wr_id);
        assert!(ids.len() <= 2);
    }
}
