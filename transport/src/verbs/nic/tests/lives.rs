use std::time::Duration;

use super::*;
use crate::nic::Adapter;
use crate::verbs::double::Call;
use crate::verbs::ffi::{AsyncEvent, MrAccess, QpChange};

#[test]
fn a_queue_pair_is_brought_up_as_agreed_and_its_peer_may_do_nothing() {
    let double = Double::new();
    let mut nic = part(&double);
    let qp = opened(&mut nic);
    let state = double.state();
    let changes: Vec<_> = state
        .log
        .iter()
        .filter_map(|call| match call {
            Call::Modify(number, change) if *number == qp.0 => Some(*change),
            _ => None,
        })
        .collect();
    let attrs = attrs();
    let [
        QpChange::Init { access, .. },
        QpChange::Rtr(rtr),
        QpChange::Rts(rts),
    ] = changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!(access, MrAccess::default());
    assert_eq!((rtr.remote_qpn, rtr.rq_psn, rtr.path_mtu), (77, 2, 1024));
    assert_eq!((rtr.max_dest_rd_atomic, rtr.min_rnr_timer), (3, 12));
    assert_eq!(rtr.vector, attrs.vector);
    assert_eq!((rts.sq_psn, rts.timeout), (1, 14));
    assert_eq!((rts.retry_count, rts.rnr_retry), (6, 7));
    // No more than the device takes.
    assert_eq!(rts.max_rd_atomic, 16);
}

#[test]
fn a_queue_pair_that_is_refused_at_any_step_leaves_nothing() {
    let cases = [
        (Step::CreateQp, vec![libc::ENOSPC]),
        (Step::CreateQp, vec![libc::EINVAL, libc::EINVAL]),
        (Step::Init, vec![libc::EINVAL]),
        (Step::Rtr, vec![libc::ETIMEDOUT]),
        (Step::Rts, vec![libc::EINVAL]),
    ];
    for (step, answers) in cases {
        let double = Double::new();
        let mut nic = part(&double);
        let before = double.state().live;
        double.answers(step, &answers);
        ask(&mut nic);
        let NicEvent::Opened { ticket: 7, outcome } = event(&mut nic) else {
            panic!("{step:?}");
        };
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains("mlx5_0: ibv_"), "{said}");
        assert_eq!(double.state().live, before, "{step:?}");
        // And its place is free again.
        for _ in 0..4 {
            opened(&mut nic);
        }
    }
}

#[test]
fn queue_pairs_are_limited_and_too_large_ones_refused() {
    let double = Double::new();
    let mut nic = part(&double);
    for _ in 0..4 {
        opened(&mut nic);
    }
    let now = Instant::now();
    for (max_send_wr, part) in [(SEND_WR, "all 4 queue pairs"), (9999, "max_queue_entries")] {
        nic.open_qp(1, QpCaps { max_send_wr }, &attrs(), now);
        let Some(NicEvent::Opened { outcome, .. }) = nic.event() else {
            panic!("an answer at once");
        };
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_queue_pair_that_is_brought_down_gives_its_work_back_and_is_destroyed() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    nic.post_send(qp, &[wr(1, SendOp::Send, &memory, 8)])
        .unwrap();
    nic.error_qp(qp).unwrap();
    nic.error_qp(qp).unwrap();
    let got = until(&mut nic, |_, out| out.first().copied());
    assert_eq!((got.wr_id, got.status), (1, WcStatus::Flushed));
    nic.destroy_qp(qp);
    nic.destroy_qp(qp);
    assert_eq!(event(&mut nic), NicEvent::Destroyed(qp));
    let state = double.state();
    let count = |call: &Call| state.log.iter().filter(|is| *is == call).count();
    assert_eq!(count(&Call::Modify(qp.0, QpChange::Error)), 1);
    assert_eq!(count(&Call::DestroyQp(qp.0)), 1);
    drop(state);
    assert_eq!(nic.error_qp(qp), Err(NicError::NoSuchQp(qp)));
    assert_eq!(nic.event(), None);
}

#[test]
fn work_of_a_queue_pair_that_is_being_destroyed_is_heard_of_no_more() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let send = wr(1, SendOp::Send, &memory, 8);
    nic.post_send(qp, std::slice::from_ref(&send)).unwrap();
    nic.destroy_qp(qp);
    assert_eq!(nic.post_send(qp, &[send]), Err(NicError::State(qp)));
    let event = until(&mut nic, |nic, out| {
        assert!(out.is_empty(), "{out:?}");
        nic.event()
    });
    assert_eq!(event, NicEvent::Destroyed(qp));
    assert_eq!(nic.counters().dropped, 1);
}

#[test]
fn a_queue_pair_that_never_flushes_is_destroyed_all_the_same() {
    // With and without a word about its last receive.
    for says_last_wqe in [true, false] {
        let double = Double::new();
        let (mut nic, qp, memory) = ready(&double);
        double.state().at_once = false;
        double.state().flushes = false;
        double.state().says_last_wqe = says_last_wqe;
        nic.post_send(qp, &[wr(1, SendOp::Send, &memory, 8)])
            .unwrap();
        nic.destroy_qp(qp);
        assert_eq!(event(&mut nic), NicEvent::Destroyed(qp));
        assert_eq!(opened(&mut nic).0, qp.0 + 2, "its place is free");
    }
}

#[test]
fn buffers_that_a_queue_pair_took_come_back_before_it_is_destroyed() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    nic.post_recv(&[recv(5, &memory)]).unwrap();
    double.state().says_last_wqe = false;
    nic.destroy_qp(qp);
    // In the error state, and it has not said yet that it took its last.
    let then = Instant::now();
    let mut out = Completions::new();
    let end = then + Duration::from_secs(5);
    while nic.pairs[&qp.0].drained_by().is_none() {
        assert!(Instant::now() < end);
        nic.poll(then, &mut out);
    }
    let wait = nic.pairs[&qp.0].drained_by().unwrap() - then;
    assert_eq!(nic.deadline(), Some(then + wait));
    assert!(wait > Duration::from_millis(100));
    nic.poll(then, &mut out);
    assert!(nic.pairs[&qp.0].drained_by().is_some(), "it is still there");
    // The device hands one more over, and then says so.
    double.receive(qp.0, 64, None);
    double.event(AsyncEvent::LastWqe(qp.0));
    let mut got = Vec::new();
    until(&mut nic, |nic, out| {
        got.extend(out.iter().map(|wc| (wc.op, wc.wr_id)));
        nic.event()
    });
    assert_eq!(got, [(WcOp::Recv, 5)]);
    nic.post_recv(&[recv(5, &memory)]).unwrap();
}

/// Waits until a call stalls.
fn stalled(double: &Double) {
    let end = Instant::now() + Duration::from_secs(5);
    while double.state().waiting == 0 {
        assert!(Instant::now() < end, "nothing stalls");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_device_that_stalls_holds_up_nobody_who_polls() {
    let (slow, quick) = (Double::new(), Double::new());
    let (mut nic, qp, memory) = ready(&slow);
    let mut other = part(&quick);
    slow.stall(Step::Rtr);
    ask(&mut nic);
    stalled(&slow);
    // The same part still moves data and sleeps, and another device makes queue
    // pairs.
    nic.post_send(qp, &[wr(1, SendOp::Send, &memory, 8)])
        .unwrap();
    assert_eq!(now(&mut nic).len(), 1);
    nic.error_qp(qp).unwrap();
    assert!(nic.arm(Instant::now(), Wake::All));
    let made = opened(&mut other);
    other.destroy_qp(made);
    assert_eq!(event(&mut other), NicEvent::Destroyed(made));
    slow.resume();
    assert!(matches!(event(&mut nic), NicEvent::Opened { .. }));
}

#[test]
fn a_fatal_event_is_heard_of_while_a_command_hangs() {
    let double = Double::new();
    let (mut nic, qp, _) = ready(&double);
    double.stall(Step::Error);
    nic.error_qp(qp).unwrap();
    stalled(&double);
    double.event(AsyncEvent::DeviceFatal);
    assert_eq!(event(&mut nic), NicEvent::Gone);
    double.resume();
}

#[test]
fn more_jobs_than_the_worker_queues_are_done_in_their_order() {
    let double = Double::new();
    let mut nic = part(&double);
    double.stall(Step::Rtr);
    ask(&mut nic);
    stalled(&double);
    let regions: Vec<_> = (0..300).map(|_| host_region(4096)).collect();
    let keys: Vec<_> = regions
        .iter()
        .map(|region| {
            let memory = nic.register(region, WRITABLE).unwrap();
            nic.deregister(&memory);
            memory.lkey
        })
        .collect();
    assert!(nic.deadline().is_some(), "some are to be tried again");
    double.resume();
    let ended = |double: &Double| -> Vec<u32> {
        let state = double.state();
        let ends = state.log.iter().filter_map(|call| match call {
            Call::Deregister(lkey) => Some(*lkey),
            _ => None,
        });
        ends.collect()
    };
    until(&mut nic, |_, _| (ended(&double).len() == 300).then_some(()));
    assert_eq!(ended(&double), keys);
    assert!(nic.deadline().is_none());
}

#[test]
fn a_queue_pair_that_fails_by_itself_is_told_once() {
    let double = Double::new();
    let mut nic = part(&double);
    let qp = opened(&mut nic);
    double.event(AsyncEvent::QpFailed(qp.0));
    double.event(AsyncEvent::QpFailed(qp.0));
    double.event(AsyncEvent::QpFailed(4711));
    double.event(AsyncEvent::Other(20));
    assert_eq!(event(&mut nic), NicEvent::Failed(qp));
    std::thread::sleep(Duration::from_millis(20));
    now(&mut nic);
    assert_eq!(nic.event(), None);
    nic.destroy_qp(qp);
    assert_eq!(event(&mut nic), NicEvent::Destroyed(qp));
}

#[test]
fn one_that_was_brought_down_does_not_fail_by_itself() {
    let double = Double::new();
    let mut nic = part(&double);
    let qp = opened(&mut nic);
    nic.error_qp(qp).unwrap();
    double.event(AsyncEvent::QpFailed(qp.0));
    std::thread::sleep(Duration::from_millis(20));
    now(&mut nic);
    assert_eq!(nic.event(), None);
}

#[test]
fn one_that_fails_while_it_is_made_is_told_after_it_was_given_out() {
    let double = Double::new();
    let mut nic = part(&double);
    double.stall(Step::Rts);
    ask(&mut nic);
    stalled(&double);
    let made = double.state().log.iter().rev().find_map(|call| match call {
        Call::CreateQp(number, _) => Some(*number),
        _ => None,
    });
    double.event(AsyncEvent::QpFailed(made.unwrap()));
    std::thread::sleep(Duration::from_millis(20));
    double.resume();
    let NicEvent::Opened { outcome, .. } = event(&mut nic) else {
        panic!("it is given out first");
    };
    assert_eq!(event(&mut nic), NicEvent::Failed(outcome.unwrap()));
}

#[test]
fn an_adapter_that_is_gone_makes_nothing_and_ends_what_it_has() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().flushes = false;
    double.state().says_last_wqe = false;
    double.remove();
    assert_eq!(event(&mut nic), NicEvent::Gone);
    assert_eq!(nic.adapter().state(), crate::nic::AdapterState::Gone);
    ask(&mut nic);
    let refused = NicEvent::Opened {
        ticket: 7,
        outcome: Err(NicError::Gone),
    };
    assert_eq!(event(&mut nic), refused);
    assert_eq!(nic.post_flush(sge(&memory, 1), 1), Err(NicError::Gone));
    nic.destroy_qp(qp);
    assert_eq!(event(&mut nic), NicEvent::Destroyed(qp));
    drop(nic);
    assert_eq!(double.state().live, 0);
}
