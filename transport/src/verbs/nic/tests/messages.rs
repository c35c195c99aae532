//! What travels along with messages, and whom their arrival wakes.

use super::*;
use crate::verbs::double::Message;
use crate::verbs::ffi::SendFlags;

#[test]
fn a_message_says_its_length_and_what_came_along() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let message = |len| Message {
        len,
        ..Message::default()
    };
    let invalidates = Message {
        invalidated: Some(0x42),
        ..message(80)
    };
    let tells = Message {
        imm: Some(0x0102_0304),
        ..message(64)
    };
    let wrote = Message {
        wrote: true,
        ..tells
    };
    let cases = [
        (message(64), (WcOp::Recv, 64, None, None)),
        (invalidates, (WcOp::Recv, 80, Some(0x42), None)),
        (tells, (WcOp::Recv, 64, None, Some(0x0102_0304))),
        (wrote, (WcOp::RecvWrite, 64, None, Some(0x0102_0304))),
    ];
    for (at, (message, expected)) in cases.into_iter().enumerate() {
        nic.post_recv(&[recv(at as u64, &memory)]).unwrap();
        double.arrive(qp.0, message);
        let got = now(&mut nic);
        let got: Vec<_> = got
            .iter()
            .map(|wc| (wc.wr_id, (wc.op, wc.len, wc.invalidated, wc.imm)))
            .collect();
        assert_eq!(got, [(at as u64, expected)]);
    }
    // Each gave its buffer back, also the one that nothing was placed in.
    let all: Vec<_> = (0..32).map(|id| recv(id, &memory)).collect();
    nic.post_recv(&all).unwrap();
}

#[test]
fn immediate_data_and_solicited_events_are_posted_as_asked() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let imm = 0x0102_0304;
    let write = SendOp::WriteImmediate { to: REMOTE, imm };
    let mut list = [
        wr(1, SendOp::SendImmediate { imm }, &memory, 16),
        wr(2, write, &memory, 16),
        wr(3, SendOp::Send, &memory, 16),
    ];
    list[1].solicited = true;
    list[2].solicited = true;
    list[2].signaled = false;
    nic.post_send(qp, &list).unwrap();
    let posted = &double.posts(qp.0)[0];
    let got: Vec<_> = posted.iter().map(|wr| (wr.opcode, wr.flags)).collect();
    let flags = |signaled, solicited| SendFlags {
        signaled,
        solicited,
    };
    let expected = [
        (SendOpcode::SendImmediate(imm), flags(true, false)),
        (SendOpcode::WriteImmediate(REMOTE, imm), flags(true, true)),
        (SendOpcode::Send, flags(false, true)),
    ];
    assert_eq!(got, expected);
    // A SEND is small enough to go inline; a WRITE never does.
    let inline: Vec<_> = posted.iter().map(|wr| wr.inline.is_some()).collect();
    assert_eq!(inline, [true, false, true]);
    let ended: Vec<_> = now(&mut nic).iter().map(|wc| (wc.op, wc.wr_id)).collect();
    assert_eq!(ended, [(WcOp::Send, 1), (WcOp::Write, 2)]);
}

/// Of those that sleep for solicited events only.
#[rstest::rstest]
#[case::a_message(false, false)]
#[case::a_solicited_message(true, true)]
fn a_message_wakes_who_sleeps_for_it(#[case] solicited: bool, #[case] woken: bool) {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    nic.post_recv(&[recv(1, &memory), recv(2, &memory)])
        .unwrap();
    assert!(nic.arm(Instant::now(), Wake::Solicited));
    let message = Message {
        solicited,
        ..Message::default()
    };
    double.arrive(qp.0, message);
    assert_eq!(wakes(&nic), woken);
    assert_eq!(now(&mut nic).len(), 1, "it is there all the same");
    // Who wants more than before gets it, and what has told is silent again.
    assert!(nic.arm(Instant::now(), Wake::All));
    assert!(!wakes(&nic));
    double.receive(qp.0, 1, None);
    assert!(wakes(&nic));
    assert_eq!(now(&mut nic).len(), 1);
    for wake in [Wake::Solicited, Wake::NotSent, Wake::NotSent] {
        assert!(nic.arm(Instant::now(), wake));
        assert!(!wakes(&nic), "{wake:?}: it wakes for ever");
    }
}

/// Work that fails wakes also who sleeps for solicited events only; what is done
/// does not, unless somebody waits for its data.
#[test]
fn of_what_was_sent_failures_wake_and_reads() {
    let remote = SendOp::Read(REMOTE);
    for (op, ends, woken) in [
        (SendOp::Send, status::SUCCESS, false),
        (SendOp::Send, status::RETRY, true),
        (remote, status::SUCCESS, true),
    ] {
        let double = Double::new();
        let (mut nic, qp, memory) = ready(&double);
        double.state().at_once = false;
        nic.post_send(qp, &[wr(1, op, &memory, 8)]).unwrap();
        assert!(nic.arm(Instant::now(), Wake::Solicited));
        double.complete(qp.0, ends);
        assert_eq!(wakes(&nic), woken, "{op:?} {ends}");
        assert_eq!(now(&mut nic).len(), 1);
    }
}
