//! What the peer is told beside the data: immediate data, solicited events, the
//! limit of the shared receive queue, message numbers, counts.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::Config;
use super::super::pair::{DELAY, Pair, RECV_BASE, Who, attrs};
use crate::nic::{NicError, RemoteMemory, SendOp, SendWr, Sge, Wake, WcOp, WcStatus};
use crate::soft::psn::Psn;
use crate::soft::wire::{AethKind, Bth, Headers, Kind, Opcode};

fn post(pair: &mut Pair, op: SendOp, sge: Sge, solicited: bool) {
    let wr = SendWr {
        wr_id: 1,
        op,
        sges: [sge].into_iter().collect(),
        signaled: true,
        solicited,
    };
    pair.a.engine.post_send(pair.a.qp, &[wr]).unwrap();
}

#[rstest::rstest]
fn immediate_data_comes_with_the_message(
    #[values(0, 1, 1024, 5000)] len: usize,
    #[values(false, true)] write: bool,
) {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, len, 1);
    let (sge, to, imm) = (pair.a.sge(0, len), pair.b.remote(100), 0xdead_beef);
    pair.b.post_recv(1, 6000);
    let op = match write {
        true => SendOp::WriteImmediate { to, imm },
        false => SendOp::SendImmediate { imm },
    };
    post(&mut pair, op, sge, false);
    pair.run();
    let (ours, theirs) = (pair.a.done[0], pair.b.done[0]);
    assert_eq!(ours.status, WcStatus::Success);
    assert_eq!((theirs.imm, theirs.len), (Some(imm), len as u32));
    let (op, at, other) = match write {
        true => (WcOp::RecvWrite, 100, RECV_BASE),
        false => (WcOp::Recv, RECV_BASE, 100),
    };
    assert_eq!((theirs.op, theirs.invalidated), (op, None));
    assert_eq!(pair.b.bytes(at, len), sent);
    assert_eq!(pair.b.bytes(other, 5000), [0; 5000]);
}

#[test]
fn a_write_with_immediate_data_waits_for_a_buffer_with_its_last_packet_only() {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, 3000, 1);
    let (sge, to) = (pair.a.sge(0, 3000), pair.b.remote(0));
    post(&mut pair, SendOp::WriteImmediate { to, imm: 5 }, sge, false);
    while pair.a.engine.stats().rnr_naks_in < 3 {
        assert!(pair.step());
    }
    assert_eq!(pair.b.bytes(0, 2048), sent[..2048]);
    assert_eq!(pair.b.bytes(2048, 2048), [0; 2048]);
    assert_eq!(pair.b.engine.stats().bytes_in, 2048);
    pair.b.post_recv(2, 10);
    pair.run();
    assert_eq!(pair.b.bytes(0, 3000), sent);
    assert_eq!((pair.a.done.len(), pair.b.done.len()), (1, 1));
    assert_eq!(pair.b.done[0].imm, Some(5));
}

#[rstest::rstest]
#[case::send(|_| SendOp::Send, true)]
#[case::send_immediate(|_| SendOp::SendImmediate { imm: 1 }, true)]
#[case::write_immediate(|to| SendOp::WriteImmediate { to, imm: 1 }, true)]
#[case::write(SendOp::Write, false)]
fn what_is_solicited_wakes_who_sleeps_for_that_alone(
    #[case] op: fn(RemoteMemory) -> SendOp,
    #[case] wakes: bool,
) {
    for solicited in [false, true] {
        let mut pair = Pair::new(256);
        pair.b.post_recv(1, 1000);
        let (sge, to) = (pair.a.sge(0, 700), pair.b.remote(0));
        // The event belongs to the end of a message.
        pair.network = Box::new(move |_, headers| {
            let end = headers.bth.opcode.layout().is_some_and(|layout| layout.end);
            let event = end && wakes && solicited && headers.aeth.is_none();
            assert_eq!(headers.bth.solicited, event);
            vec![DELAY]
        });
        post(&mut pair, op(to), sge, solicited);
        while pair.b.engine.stats().messages_in == 0 {
            assert!(!pair.b.engine.has_completions(Wake::All));
            pair.step_unpolled();
        }
        let engine = &pair.b.engine;
        assert_eq!(engine.has_completions(Wake::All), wakes);
        assert_eq!(engine.has_completions(Wake::Solicited), wakes && solicited);
    }
}

#[test]
fn a_failure_wakes_who_sleeps_for_solicited_events() {
    let mut pair = Pair::new(256);
    let sge = pair.a.sge(0, 10);
    post(&mut pair, SendOp::Send, sge, false);
    pair.a.engine.error_qp(pair.a.qp).unwrap();
    assert!(pair.a.engine.has_completions(Wake::Solicited));
}

#[test]
fn the_receive_queue_tells_once_that_it_holds_fewer_than_asked_for() {
    let mut pair = Pair::new(1024);
    let sge = pair.a.sge(0, 10);
    let told = |pair: &mut Pair| {
        let waits = pair.b.engine.has_events();
        assert_eq!(pair.b.engine.take_srq_limit_event(), waits);
        waits
    };
    pair.b.post_recv(4, 100);
    pair.b.engine.arm_srq_limit(3).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        post(&mut pair, SendOp::Send, sge, false);
        pair.run();
        seen.push(told(&mut pair));
    }
    assert_eq!(seen, [false, true, false, false]);
    pair.b.engine.arm_srq_limit(1).unwrap();
    assert!(told(&mut pair), "it holds fewer already");
    pair.b.engine.arm_srq_limit(1).unwrap();
    pair.b.engine.arm_srq_limit(0).unwrap();
    assert!(!told(&mut pair), "no longer asked for");
    let most = pair.b.engine.caps().max_srq_wr;
    let above = pair.b.engine.arm_srq_limit(most + 1);
    assert!(matches!(above, Err(NicError::Malformed(_))));
}

#[test]
fn answers_carry_the_number_of_messages_so_far() {
    let mut pair = Pair::new(256);
    pair.b.post_recv(2, 1000);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    pair.network = Box::new(move |_, headers| {
        if let Some(aeth) = headers.aeth {
            assert!(matches!(aeth.kind, AethKind::Ack(31)), "no credits");
            log.borrow_mut().push(aeth.msn);
        }
        vec![DELAY]
    });
    let (sge, to) = (pair.a.sge(0, 700), pair.b.remote(0));
    let none = pair.a.sge(0, 0);
    for (op, sge) in [
        (SendOp::Send, sge),
        (SendOp::Write(to), sge),
        (SendOp::Write(to), none),
        (SendOp::Read(to), none),
        (SendOp::Send, sge),
    ] {
        post(&mut pair, op, sge, false);
        pair.run();
    }
    assert_eq!(*seen.borrow(), [1, 2, 3, 4, 5]);
    assert_eq!(pair.b.engine.stats().messages_in, 5);
    assert_eq!(pair.a.engine.stats().messages_out, 5);
}

#[test]
fn one_acknowledgement_serves_for_all_that_came_before_it_could_leave() {
    let mut pair = Pair::new(256);
    let first = Psn::new(attrs(Who::A, pair.b.qp, 256).sq_psn);
    for at in 0..20 {
        let mut bth = Bth::new(Opcode::RcWriteOnly, pair.b.qp.0, first.plus(at));
        bth.ack_request = true;
        let mut bytes = [0; 28];
        Headers::new(bth).write(&mut bytes).unwrap();
        let (now, from, own) = (pair.now, Who::A.addr(), Who::B.addr());
        pair.b.engine.handle_packet(now, from, own, &bytes);
    }
    pair.network = Box::new(move |_, headers| {
        assert_eq!(headers.bth.psn, first.plus(19));
        assert_eq!(headers.aeth.unwrap().msn, 20);
        vec![]
    });
    pair.run();
    let stats = pair.b.engine.stats();
    assert_eq!((stats.messages_in, stats.acks_out), (20, 1));
}

#[test]
fn operations_of_no_bytes_need_no_key() {
    let mut pair = Pair::new(256);
    pair.b.post_recv(2, 10);
    let none = pair.a.sge(0, 0);
    let to = RemoteMemory { addr: 5, rkey: 0 };
    for op in [
        SendOp::Write(to),
        SendOp::Read(to),
        SendOp::WriteImmediate { to, imm: 0 },
        SendOp::Send,
    ] {
        post(&mut pair, op, none, false);
    }
    pair.run();
    let good = |c: &crate::nic::Completion| c.status == WcStatus::Success && c.len == 0;
    assert_eq!((pair.a.done.len(), pair.b.done.len()), (4, 2));
    assert!(pair.a.done.iter().chain(&pair.b.done).all(good));
}

#[test]
fn counts_of_a_queue_pair_are_its_own_and_the_engine_adds_them_up() {
    let config = Config {
        read_chunk: 4096,
        ..Config::default()
    };
    let mut pair = Pair::with(1024, config, |_| {});
    let mut lost = false;
    pair.lose(move |_, headers| {
        let kind = headers.bth.opcode.layout().map(|layout| layout.kind);
        kind == Some(Kind::Write) && !std::mem::replace(&mut lost, true)
    });
    let (sge, to) = (pair.a.sge(0, 5000), pair.b.remote(0));
    post(&mut pair, SendOp::Write(to), sge, false);
    post(&mut pair, SendOp::Read(to), sge, false);
    pair.run();
    // A packet for nobody is the engine's own.
    let (now, from, own) = (pair.now, Who::B.addr(), Who::A.addr());
    pair.a.engine.handle_packet(now, from, own, &[0; 12]);
    let counts = pair.a.engine.qp_counts(pair.a.qp).unwrap();
    let count = |name: &str| counts.iter().find(|(own, _)| own == name).unwrap().1;
    assert_eq!((count("retransmits"), count("sequence_naks_in")), (7, 1));
    assert_eq!((count("reads_out"), count("retries")), (4, 1));
    assert_eq!(count("drops.unknown_qp"), 0);
    let sum = pair.a.engine.stats();
    assert_eq!(sum.packets_in, count("packets_in") + 1);
    assert_eq!(sum.drops.unknown_qp, 1);
    pair.a.engine.destroy_qp(pair.a.qp);
    assert_eq!(pair.a.engine.stats(), sum);
    assert_eq!(pair.a.engine.qp_counts(pair.a.qp), None);
}
