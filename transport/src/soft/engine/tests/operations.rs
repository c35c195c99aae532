//! Each operation moves the bytes it names, whatever their number.

use super::super::pair::{Pair, RECV_BASE};
use crate::nic::{SendOp, SendWr, Sge, WcOp, WcStatus};

const SIZES: [usize; 8] = [0, 1, 1023, 1024, 1025, 4096, 33 * 1024 + 3, 1 << 20];

#[test]
fn a_send_fills_a_receive_buffer_and_says_how_far() {
    for len in SIZES {
        let mut pair = Pair::new(1024);
        let sent = pair.a.fill(0, len, 1);
        pair.b.post_recv(1, 1 << 20);
        let sge = pair.a.sge(0, len);
        pair.a.post(7, SendOp::Send, &[sge]);
        pair.run();
        assert_eq!(pair.a.done.len(), 1);
        assert_eq!(pair.a.done[0].status, WcStatus::Success);
        assert_eq!((pair.a.done[0].wr_id, pair.a.done[0].op), (7, WcOp::Send));
        let done = pair.b.done[0];
        assert_eq!(
            (done.status, done.op, done.len),
            (WcStatus::Success, WcOp::Recv, len as u32)
        );
        assert_eq!(done.invalidated, None);
        assert_eq!(pair.b.bytes(RECV_BASE, len), sent);
        assert_eq!(pair.a.engine.stats().retransmits, 0);
        assert_eq!(
            pair.a.engine.stats().drops.total() + pair.b.engine.stats().drops.total(),
            0
        );
    }
}

#[test]
fn a_send_with_invalidate_ends_the_key_and_names_it() {
    for len in SIZES {
        let mut pair = Pair::new(1024);
        let sent = pair.a.fill(0, len, 1);
        let given = crate::nic::Access {
            remote_read: true,
            ..Default::default()
        };
        let key = pair.b.engine.register(&pair.b.region, given).unwrap().rkey;
        pair.b.post_recv(1, 1 << 20);
        let sge = pair.a.sge(0, len);
        pair.a.post(7, SendOp::SendInvalidate { rkey: key }, &[sge]);
        pair.run();
        assert_eq!(pair.b.done[0].invalidated, Some(key));
        assert_eq!(pair.b.bytes(RECV_BASE, len), sent);
        let remote = crate::nic::RemoteMemory {
            addr: pair.b.memory.base,
            rkey: key,
        };
        let sge = pair.a.sge(0, 1);
        pair.a.post(8, SendOp::Read(remote), &[sge]);
        pair.run();
        assert_eq!(pair.a.done[1].status, WcStatus::RemoteAccess);
    }
}

#[test]
fn a_write_places_its_bytes_and_no_others() {
    for len in SIZES {
        let mut pair = Pair::new(1024);
        let sent = pair.a.fill(0, len, 1);
        let sge = pair.a.sge(0, len);
        let remote = pair.b.remote(100);
        pair.a.post(7, SendOp::Write(remote), &[sge]);
        pair.run();
        assert_eq!(
            (pair.a.done[0].status, pair.a.done[0].op),
            (WcStatus::Success, WcOp::Write)
        );
        assert_eq!(pair.b.bytes(100, len), sent);
        assert_eq!(pair.b.bytes(0, 100), [0; 100]);
        assert_eq!(pair.b.bytes(100 + len, 100), [0; 100]);
        assert!(pair.b.done.is_empty());
    }
}

#[test]
fn a_read_fetches_its_bytes_and_no_others() {
    for len in SIZES {
        let mut pair = Pair::new(1024);
        let there = pair.b.fill(55, len, 2);
        let sge = pair.a.sge(100, len);
        let remote = pair.b.remote(55);
        pair.a.post(7, SendOp::Read(remote), &[sge]);
        pair.run();
        assert_eq!(
            (pair.a.done[0].status, pair.a.done[0].op),
            (WcStatus::Success, WcOp::Read)
        );
        assert_eq!(pair.a.bytes(100, len), there);
        assert_eq!(pair.a.bytes(0, 100), [0; 100]);
        assert_eq!(pair.a.bytes(100 + len, 100), [0; 100]);
        assert_eq!(pair.a.engine.stats().retransmits, 0);
    }
}

#[rstest::rstest]
#[case(256)]
#[case(512)]
#[case(2048)]
#[case(4096)]
fn every_path_mtu_carries_every_operation(#[case] mtu: u32) {
    let mut pair = Pair::new(mtu);
    let len = 3 * mtu as usize + 5;
    let sent = pair.a.fill(0, len, 1);
    let there = pair.b.fill(500_000, len, 2);
    pair.b.post_recv(1, 1 << 20);
    let (from, into) = (pair.a.sge(0, len), pair.a.sge(500_000, len));
    let (to, source) = (pair.b.remote(100_000), pair.b.remote(500_000));
    pair.a.post(1, SendOp::Write(to), &[from]);
    pair.a.post(2, SendOp::Read(source), &[into]);
    pair.a.post(3, SendOp::Send, &[from]);
    pair.run();
    let order: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    assert_eq!(order, [1, 2, 3].map(|id| (id, WcStatus::Success)));
    assert_eq!(pair.b.bytes(100_000, len), sent);
    assert_eq!(pair.a.bytes(500_000, len), there);
    assert_eq!(pair.b.bytes(RECV_BASE, len), sent);
}

#[test]
fn pieces_are_gathered_and_scattered_in_order() {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, 5000, 1);
    let there = pair.b.fill(0, 5000, 2);
    let pieces: Vec<Sge> = [(0, 1), (1, 2000), (2001, 0), (2001, 2999)]
        .map(|(at, n)| pair.a.sge(at, n))
        .to_vec();
    let into: Vec<Sge> = [(9000, 1500), (20_000, 3500)]
        .map(|(at, n)| pair.a.sge(at, n))
        .to_vec();
    let (to, from) = (pair.b.remote(10_000), pair.b.remote(0));
    pair.a.post(1, SendOp::Write(to), &pieces);
    pair.a.post(2, SendOp::Read(from), &into);
    pair.run();
    assert_eq!(pair.b.bytes(10_000, 5000), sent);
    assert_eq!(
        [pair.a.bytes(9000, 1500), pair.a.bytes(20_000, 3500)].concat(),
        there
    );
}

#[test]
fn an_unsignaled_request_completes_without_a_word_and_frees_its_place() {
    let mut pair = Pair::new(1024);
    let sge = pair.a.sge(0, 3000);
    let remote = pair.b.remote(0);
    for round in 0..10 {
        let wr = |wr_id, signaled| SendWr {
            wr_id,
            op: SendOp::Write(remote),
            sges: [sge].into_iter().collect(),
            signaled,
            solicited: false,
        };
        let wrs: Vec<_> = (0..64).map(|i| wr(i, i == 63)).collect();
        pair.a.engine.post_send(pair.a.qp, &wrs).unwrap();
        assert!(pair.a.engine.post_send(pair.a.qp, &wrs[..1]).is_err());
        pair.run();
        assert_eq!(pair.a.done.len(), round + 1);
    }
    // Acknowledgements are asked for now and then, not for each.
    assert!(pair.b.engine.stats().packets_out < 10 * 64 * 3 / 10);
}

#[test]
fn both_sides_work_at_the_same_time() {
    let mut pair = Pair::new(1024);
    let from_a = pair.a.fill(0, 300_000, 1);
    let from_b = pair.b.fill(0, 300_000, 2);
    let (sge_a, sge_b) = (pair.a.sge(0, 300_000), pair.b.sge(0, 300_000));
    let (to_a, to_b) = (pair.a.remote(1 << 20), pair.b.remote(1 << 20));
    let (into_a, into_b) = (pair.a.sge(2 << 20, 300_000), pair.b.sge(2 << 20, 300_000));
    let (of_a, of_b) = (pair.a.remote(0), pair.b.remote(0));
    pair.a.post(1, SendOp::Write(to_b), &[sge_a]);
    pair.b.post(1, SendOp::Write(to_a), &[sge_b]);
    pair.a.post(2, SendOp::Read(of_b), &[into_a]);
    pair.b.post(2, SendOp::Read(of_a), &[into_b]);
    pair.run();
    assert_eq!((pair.a.done.len(), pair.b.done.len()), (2, 2));
    assert_eq!(pair.a.bytes(1 << 20, 300_000), from_b);
    assert_eq!(pair.b.bytes(1 << 20, 300_000), from_a);
    assert_eq!(pair.a.bytes(2 << 20, 300_000), from_b);
    assert_eq!(pair.b.bytes(2 << 20, 300_000), from_a);
}
