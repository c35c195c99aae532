//! Requests that come again, by retransmission or by a network that keeps copies.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::Config;
use super::super::pair::{DELAY, Pair, Who, attrs};
use crate::nic::{MemoryRegion, SendOp, WcStatus};
use crate::soft::psn::Psn;
use crate::soft::wire::{AethKind, Bth, Headers, Kind, NakCode, Opcode, Reth};

/// The READ request of number `at`, counted from A's first, for `packets` packets
/// at an MTU of 256, from as many packets on in `memory`.
fn request(pair: &Pair, memory: &MemoryRegion, at: u32, packets: u32) -> Vec<u8> {
    let first = Psn::new(attrs(Who::A, pair.b.qp, 256).sq_psn);
    let bth = Bth::new(Opcode::RcReadRequest, pair.b.qp.0, first.plus(at));
    let headers = Headers {
        reth: Some(Reth {
            addr: memory.base + u64::from(at) * 256,
            rkey: memory.rkey,
            len: packets * 256,
        }),
        ..Headers::new(bth)
    };
    let mut bytes = vec![0; headers.size()];
    headers.write(&mut bytes).unwrap();
    bytes
}

fn hand_in(pair: &mut Pair, packet: &[u8]) {
    let (now, from, own) = (pair.now, Who::A.addr(), Who::B.addr());
    pair.b.engine.handle_packet(now, from, own, packet);
}

type Answers = Rc<RefCell<Vec<(u32, Opcode)>>>;

/// What B says, each answer with its number, counted from A's first.
fn answers(pair: &mut Pair) -> Answers {
    let seen = Answers::default();
    let log = seen.clone();
    let first = Psn::new(attrs(Who::A, pair.b.qp, 256).sq_psn);
    pair.network = Box::new(move |from, headers| {
        assert_eq!(from, Who::B);
        let at = headers.bth.psn.distance(first);
        log.borrow_mut().push((at, headers.bth.opcode));
        vec![]
    });
    seen
}

const FIRST: Opcode = Opcode::RcReadResponseFirst;
const MIDDLE: Opcode = Opcode::RcReadResponseMiddle;
const LAST: Opcode = Opcode::RcReadResponseLast;
const ONLY: Opcode = Opcode::RcReadResponseOnly;

/// Requesters that go by the opcode, Linux' rdma_rxe for one, end the connection
/// when what they have asked for anew does not begin with "first" or "only".
#[rstest::rstest]
#[case::all(0, 4, &[(0, FIRST), (1, MIDDLE), (2, MIDDLE), (3, LAST)])]
#[case::from_the_middle(2, 2, &[(2, FIRST), (3, LAST)])]
#[case::the_last(3, 1, &[(3, ONLY)])]
fn what_is_asked_for_again_begins_with_first_or_only(
    #[case] at: u32,
    #[case] packets: u32,
    #[case] expected: &[(u32, Opcode)],
) {
    let mut pair = Pair::new(256);
    let (seen, memory) = (answers(&mut pair), pair.b.memory);
    let bytes = request(&pair, &memory, 0, 4);
    hand_in(&mut pair, &bytes);
    pair.run();
    seen.borrow_mut().clear();
    let bytes = request(&pair, &memory, at, packets);
    hand_in(&mut pair, &bytes);
    pair.run();
    assert_eq!(*seen.borrow(), expected);
    assert_eq!(pair.b.engine.stats().duplicates, 1);
}

#[test]
fn what_is_asked_for_again_while_it_is_answered_is_answered_once_from_there() {
    let mut pair = Pair::new(256);
    let (seen, memory) = (answers(&mut pair), pair.b.memory);
    for (at, packets) in [(0, 4), (4, 2), (2, 2)] {
        let bytes = request(&pair, &memory, at, packets);
        hand_in(&mut pair, &bytes);
    }
    pair.run();
    let expected = [
        (0, FIRST),
        (1, MIDDLE),
        (2, FIRST),
        (3, LAST),
        (4, FIRST),
        (5, LAST),
    ];
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn a_read_that_is_repeated_is_done_again_with_what_is_there_then() {
    let mut pair = Pair::new(256);
    pair.b.fill(0, 200, 1);
    let mut lost = false;
    pair.lose(move |_, headers| {
        let kind = headers.bth.opcode.layout().unwrap().kind;
        kind == Kind::ReadResponse && !std::mem::replace(&mut lost, true)
    });
    let (sge, from) = (pair.a.sge(0, 200), pair.b.remote(0));
    pair.a.post(1, SendOp::Read(from), &[sge]);
    while pair.b.engine.stats().packets_out == 0 {
        assert!(pair.step());
    }
    let now = pair.b.fill(0, 200, 2);
    pair.run();
    assert_eq!(pair.a.done[0].status, WcStatus::Success);
    assert_eq!(pair.a.bytes(0, 200), now);
}

/// Its first answer may have come, and the key have been taken back for that.
#[rstest::rstest]
fn a_repeated_read_whose_key_has_gone_is_dropped_and_ends_nothing(
    #[values(false, true)] between_request_and_response: bool,
) {
    let mut pair = Pair::new(256);
    let (memory, seen) = (pair.b.memory, answers(&mut pair));
    let engine = &mut pair.b.engine;
    let key = engine
        .register(&pair.b.region, super::super::pair::all_access())
        .unwrap();
    let bytes = request(&pair, &key, 0, 4);
    hand_in(&mut pair, &bytes);
    pair.run();
    seen.borrow_mut().clear();
    if between_request_and_response {
        hand_in(&mut pair, &bytes);
        pair.b.engine.deregister(&key);
    } else {
        pair.b.engine.deregister(&key);
        hand_in(&mut pair, &bytes);
    }
    pair.run();
    assert_eq!(*seen.borrow(), []);
    assert_eq!(pair.b.engine.stats().drops.stale_request, 1);
    assert_eq!(pair.b.engine.failed_qp(), None);
    let bytes = request(&pair, &memory, 4, 1);
    hand_in(&mut pair, &bytes);
    pair.run();
    assert_eq!(*seen.borrow(), [(4, ONLY)]);
}

#[test]
fn one_read_more_than_agreed_on_is_refused_after_the_others_were_answered() {
    let mut pair = Pair::new(256);
    let (seen, memory) = (answers(&mut pair), pair.b.memory);
    for at in 0..5 {
        let bytes = request(&pair, &memory, at, 1);
        hand_in(&mut pair, &bytes);
    }
    pair.run();
    let mut expected: Vec<_> = (0..4).map(|at| (at, ONLY)).collect();
    expected.push((4, Opcode::RcAck));
    assert_eq!(*seen.borrow(), expected);
    let stats = pair.b.engine.stats();
    assert_eq!((stats.invalid_requests, stats.fatal_naks_out), (1, 1));
    assert_eq!(pair.b.engine.failed_qp(), Some(pair.b.qp));
}

#[test]
fn a_flood_of_repeated_reads_makes_no_more_work_than_agreed_and_displaces_no_new_one() {
    let mut pair = Pair::new(256);
    let (seen, memory) = (answers(&mut pair), pair.b.memory);
    for at in 0..100 {
        let bytes = request(&pair, &memory, at, 1);
        hand_in(&mut pair, &bytes);
        pair.run();
    }
    seen.borrow_mut().clear();
    for at in (0..100).chain((0..100).rev()) {
        let bytes = request(&pair, &memory, at, 1);
        hand_in(&mut pair, &bytes);
    }
    for at in 100..103 {
        let bytes = request(&pair, &memory, at, 1);
        hand_in(&mut pair, &bytes);
    }
    pair.run();
    let seen = seen.borrow();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(seen[1..], [(100, ONLY), (101, ONLY), (102, ONLY)]);
    assert_eq!(pair.b.engine.failed_qp(), None);
}

#[test]
fn a_read_request_with_a_payload_is_refused() {
    let mut pair = Pair::new(256);
    let memory = pair.b.memory;
    let mut bytes = request(&pair, &memory, 0, 1);
    bytes.extend([0; 4]);
    pair.network = Box::new(|_, headers| {
        let kind = headers.aeth.unwrap().kind;
        assert_eq!(kind, AethKind::Nak(NakCode::InvalidRequest));
        vec![DELAY]
    });
    hand_in(&mut pair, &bytes);
    pair.run();
    assert_eq!(pair.b.engine.stats().invalid_requests, 1);
}

/// A buffer that is overrun loses the same packet of each repetition. Seven times
/// of that took a connection down within a millisecond.
#[test]
fn a_loss_that_is_seen_many_times_within_a_timeout_costs_one_retry() {
    let mut pair = Pair::with(1024, Config::default(), |attrs| attrs.retry_count = 2);
    let there = pair.b.fill(0, 40_000, 1);
    let first = Psn::new(attrs(Who::A, pair.b.qp, 1024).sq_psn);
    let mut losses = 0;
    pair.lose(move |from, headers| {
        let hit = from == Who::B && headers.bth.psn == first && losses < 20;
        losses += u32::from(hit);
        hit
    });
    let (sge, from) = (pair.a.sge(0, 40_000), pair.b.remote(0));
    pair.a.post(1, SendOp::Read(from), &[sge]);
    pair.run();
    assert_eq!(pair.a.done[0].status, WcStatus::Success);
    assert_eq!(pair.a.bytes(0, 40_000), there);
    let stats = pair.a.engine.stats();
    assert!(stats.lost_responses > 7, "{stats:?}");
    assert!(stats.retries <= 2, "{stats:?}");
}

/// Without an ACK timeout nothing else would ever end it.
#[test]
fn without_a_timeout_each_loss_that_is_seen_costs_a_retry() {
    let mut pair = Pair::with(1024, Config::default(), |attrs| {
        attrs.retry_count = 2;
        attrs.timeout = 0;
    });
    let first = Psn::new(attrs(Who::A, pair.b.qp, 1024).sq_psn);
    pair.lose(move |from, headers| from == Who::B && headers.bth.psn == first);
    let (sge, from) = (pair.a.sge(0, 40_000), pair.b.remote(0));
    pair.a.post(1, SendOp::Read(from), &[sge]);
    pair.run();
    assert_eq!(pair.a.done[0].status, WcStatus::RetryExceeded);
    assert_eq!(pair.a.engine.stats().retries, 3);
}
