//! Packets out of their time: from the past, from the future, from the far half
//! of the numbers. Nothing of them is done, and what is right goes on.

use super::super::pair::{DELAY, Pair, RECV_BASE, Who, attrs};
use crate::nic::{SendOp, WcStatus};
use crate::soft::psn::Psn;
use crate::soft::wire::{Aeth, AethKind, Bth, Headers, NakCode, Opcode};

/// The number of A's first packet.
fn first(pair: &Pair) -> Psn {
    Psn::new(attrs(Who::A, pair.b.qp, 1024).sq_psn)
}

/// An answer to A, as if from B.
fn answer(pair: &Pair, psn: Psn, kind: AethKind) -> Vec<u8> {
    let bth = Bth::new(Opcode::RcAck, pair.a.qp.0, psn);
    let headers = Headers {
        aeth: Some(Aeth { kind, msn: 1 }),
        ..Headers::new(bth)
    };
    let mut bytes = vec![0; headers.size()];
    headers.write(&mut bytes).unwrap();
    bytes
}

const ACK: AethKind = AethKind::Ack(31);

#[rstest::rstest]
fn an_answer_to_nothing_outstanding_changes_nothing(
    #[values(
        ACK,
        AethKind::RnrNak(1),
        AethKind::Nak(NakCode::PsnSequence),
        AethKind::Nak(NakCode::RemoteAccess),
        AethKind::Nak(NakCode::RemoteOperation)
    )]
    kind: AethKind,
    #[values(-1, -100, 3, 50, 0x7f_ffff, 0x80_0000)] at: i32,
) {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, 3000, 1);
    pair.b.post_recv(1, 4000);
    let sge = pair.a.sge(0, 3000);
    pair.a.post(1, SendOp::Send, &[sge]);
    // Its three packets are on their way.
    assert!(pair.step());
    let psn = first(&pair).plus(at as u32);
    let bytes = answer(&pair, psn, kind);
    pair.inject(Who::A, bytes);
    pair.run();
    assert_eq!(pair.a.done[0].status, WcStatus::Success);
    assert_eq!(pair.b.bytes(RECV_BASE, 3000), sent);
    let stats = pair.a.engine.stats();
    assert_eq!((stats.drops.stale_response, stats.retransmits), (1, 0));
}

#[test]
fn an_acknowledgement_inside_a_message_covers_what_is_before_it() {
    let mut pair = Pair::new(1024);
    let (sge, to) = (pair.a.sge(0, 5000), pair.b.remote(0));
    pair.lose(|_, _| true);
    pair.a.post(1, SendOp::Write(to), &[sge]);
    assert!(pair.step());
    let bytes = answer(&pair, first(&pair).plus(2), ACK);
    pair.inject(Who::A, bytes);
    let resumed = first(&pair).plus(3);
    let mut seen = false;
    pair.network = Box::new(move |from, headers| {
        assert!(from == Who::B || seen || headers.bth.psn == resumed);
        seen = true;
        vec![]
    });
    while pair.a.engine.stats().retransmits == 0 {
        assert!(pair.step());
    }
    assert!(pair.a.done.is_empty());
}

#[test]
fn a_nak_for_a_packet_acknowledges_those_before_it() {
    let mut pair = Pair::new(1024);
    let (sge, to) = (pair.a.sge(0, 1024), pair.b.remote(0));
    pair.lose(|_, _| true);
    for id in 0..3 {
        pair.a.post(id, SendOp::Write(to), &[sge]);
    }
    assert!(pair.step());
    let sequence = AethKind::Nak(NakCode::PsnSequence);
    let bytes = answer(&pair, first(&pair).plus(2), sequence);
    pair.inject(Who::A, bytes);
    while pair.a.done.len() < 2 {
        assert!(pair.step());
    }
    let access = AethKind::Nak(NakCode::RemoteAccess);
    let bytes = answer(&pair, first(&pair).plus(2), access);
    pair.inject(Who::A, bytes);
    pair.run();
    let order: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    let good = WcStatus::Success;
    assert_eq!(order, [(0, good), (1, good), (2, WcStatus::RemoteAccess)]);
}

/// A responder may at any time say again what it said last, as an acknowledgement
/// even if that was a READ response: it is no sign that others were lost.
#[rstest::rstest]
fn an_acknowledgement_with_the_number_of_a_read_response_says_nothing(#[values(0, 5, 9)] at: u32) {
    let mut pair = Pair::new(1024);
    let there = pair.b.fill(0, 10_000, 1);
    let (sge, from) = (pair.a.sge(0, 10_000), pair.b.remote(0));
    pair.a.post(1, SendOp::Read(from), &[sge]);
    assert!(pair.step());
    let bytes = answer(&pair, first(&pair).plus(at), ACK);
    pair.inject(Who::A, bytes);
    pair.run();
    assert_eq!(pair.a.done[0].status, WcStatus::Success);
    assert_eq!(pair.a.bytes(0, 10_000), there);
    let stats = pair.a.engine.stats();
    assert_eq!((stats.retransmits, stats.lost_responses), (0, 0));
}

#[rstest::rstest]
#[case::just_before(0xff_ffff, true)]
#[case::long_ago(0xff_0000, true)]
#[case::the_far_half(0x80_0000, true)]
#[case::just_after(1, false)]
#[case::as_far_ahead_as_can_be(0x7f_ffff, false)]
fn a_request_out_of_place_is_old_or_shows_a_gap_and_is_not_done(
    #[case] ahead: u32,
    #[case] old: bool,
) {
    let mut pair = Pair::new(1024);
    pair.b.post_recv(1, 100);
    let mut bth = Bth::new(Opcode::RcSendOnly, pair.b.qp.0, first(&pair).plus(ahead));
    bth.ack_request = true;
    let mut bytes = vec![0; 16];
    Headers::new(bth).write(&mut bytes).unwrap();
    // Before anything was received, too.
    let before = first(&pair).minus(1);
    let expected = first(&pair);
    pair.network = Box::new(move |from, headers| {
        assert_eq!(from, Who::B);
        let (psn, kind) = (headers.bth.psn, headers.aeth.unwrap().kind);
        let gap = AethKind::Nak(NakCode::PsnSequence);
        let said = if old { (before, ACK) } else { (expected, gap) };
        assert_eq!((psn, kind), said);
        vec![DELAY]
    });
    pair.inject(Who::B, bytes);
    pair.run();
    let stats = pair.b.engine.stats();
    assert_eq!((stats.duplicates, stats.messages_in), (u64::from(old), 0));
    assert_eq!(pair.a.engine.stats().drops.stale_response, 1);
    assert!(pair.b.done.is_empty());
}

#[test]
fn a_queue_pair_in_error_says_nothing_whatever_it_is_told() {
    let mut pair = Pair::new(1024);
    pair.b.post_recv(1, 100);
    let (sge, from) = (pair.a.sge(0, 100), pair.b.remote(0));
    pair.b.engine.error_qp(pair.b.qp).unwrap();
    pair.a.post(1, SendOp::Read(from), &[sge]);
    pair.a.post(2, SendOp::Send, &[sge]);
    pair.run();
    let order: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    let expected = [(1, WcStatus::RetryExceeded), (2, WcStatus::Flushed)];
    assert_eq!(order, expected);
    let stats = pair.b.engine.stats();
    assert_eq!(stats.packets_out, 0);
    assert_eq!(stats.drops.wrong_state, stats.packets_in);
}

#[test]
fn who_fails_by_its_own_requests_answers_no_others() {
    let mut pair = Pair::with(1024, Default::default(), |attrs| attrs.retry_count = 0);
    let (into, from) = (pair.a.sge(0, 1 << 20), pair.b.remote(0));
    pair.a.post(1, SendOp::Read(from), &[into]);
    // B's own request finds no answer; A's READ is under way.
    let (sge, to) = (pair.b.sge(0, 100), pair.a.remote(0));
    pair.b.post(1, SendOp::Write(to), &[sge]);
    pair.lose(|_, headers| {
        let kind = headers.bth.opcode.layout().unwrap().kind;
        kind == crate::soft::wire::Kind::Write
    });
    assert!(pair.step());
    let mut nak = answer(&pair, Psn::new(attrs(Who::B, pair.a.qp, 1024).sq_psn), {
        AethKind::Nak(NakCode::RemoteOperation)
    });
    nak[5..8].copy_from_slice(&pair.b.qp.0.to_be_bytes()[1..]);
    pair.inject(Who::B, nak);
    while pair.b.engine.failed_qp().is_none() {
        assert!(pair.step());
    }
    let said = pair.b.engine.stats().packets_out;
    pair.run();
    assert_eq!(pair.b.engine.stats().packets_out, said);
    assert_eq!(pair.a.done[0].status, WcStatus::RetryExceeded);
}
