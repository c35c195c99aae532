mod counting;
mod flush;
mod lives;
mod messages;

use super::*;
use crate::nic::{RemoteMemory, SendOp, WR_ID_BITS, WcOp, WcStatus};
use crate::verbs::double::fixture::*;
use crate::verbs::double::{Double, Step};
use crate::verbs::ffi::{SendOpcode, status};

const REMOTE: RemoteMemory = RemoteMemory {
    addr: 0x5000,
    rkey: 0x99,
};

fn recv(wr_id: u64, memory: &MemoryRegion) -> RecvWr {
    RecvWr {
        wr_id,
        sge: sge(memory, 64),
    }
}

/// A part with a queue pair and host memory.
fn ready(double: &Double) -> (Part, QpNumber, MemoryRegion) {
    let mut nic = part(double);
    let qp = opened(&mut nic);
    let region = host_region(4096);
    region.view().write(0, b"a response of 16").unwrap();
    let memory = nic.register(&region, WRITABLE).unwrap();
    (nic, qp, memory)
}

#[test]
fn a_list_takes_one_doorbell_and_small_messages_go_inline() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let cmb = nic.register(&peer_region(4096), WRITABLE).unwrap();
    let mut data = wr(1, SendOp::Write(REMOTE), &cmb, 16);
    data.signaled = false;
    let list = [
        data,
        wr(2, SendOp::SendInvalidate { rkey: 5 }, &memory, 16),
        wr(3, SendOp::Send, &memory, 65),
        wr(4, SendOp::Read(REMOTE), &memory, 16),
        wr(5, SendOp::Send, &cmb, 16),
    ];
    nic.post_send(qp, &list).unwrap();
    let posts = double.posts(qp.0);
    assert_eq!(posts.len(), 1);
    let opcodes: Vec<_> = posts[0].iter().map(|wr| wr.opcode).collect();
    let expected = [
        SendOpcode::Write(REMOTE),
        SendOpcode::SendInvalidate(5),
        SendOpcode::Send,
        SendOpcode::Read(REMOTE),
        SendOpcode::Send,
    ];
    assert_eq!(opcodes, expected);
    // Only a message, only a small one, and never out of another device.
    let inline: Vec<_> = posts[0].iter().map(|wr| wr.inline.clone()).collect();
    let bytes = b"a response of 16".to_vec();
    assert_eq!(inline, [None, Some(bytes), None, None, None]);
    assert_eq!(posts[0][3].pieces, [sge(&memory, 16)]);
    let got = now(&mut nic);
    let ended: Vec<_> = got.iter().map(|wc| (wc.op, wc.wr_id)).collect();
    let expected = [
        (WcOp::Send, 2),
        (WcOp::Send, 3),
        (WcOp::Read, 4),
        (WcOp::Send, 5),
    ];
    assert_eq!(ended, expected);
}

#[test]
fn a_device_that_lacks_something_is_asked_for_less() {
    let double = Double::new();
    double.state().limits.send_invalidate = false;
    double.state().max_inline = 8;
    let (mut nic, qp, memory) = ready(&double);
    assert!(!nic.caps().send_invalidate);
    nic.post_send(
        qp,
        &[wr(1, SendOp::SendInvalidate { rkey: 5 }, &memory, 16)],
    )
    .unwrap();
    let posted = &double.posts(qp.0)[0][0];
    assert_eq!((posted.opcode, &posted.inline), (SendOpcode::Send, &None));
}

#[test]
fn a_device_that_refuses_inline_data_gets_a_queue_pair_without() {
    let double = Double::new();
    let mut nic = part(&double);
    double.answers(Step::CreateQp, &[libc::EINVAL]);
    opened(&mut nic);
}

#[test]
fn a_long_list_goes_in_parts_and_in_order() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let list: Vec<_> = (0..150)
        .map(|id| wr(id, SendOp::Read(REMOTE), &memory, 8))
        .collect();
    nic.post_send(qp, &list).unwrap();
    let posts = double.posts(qp.0);
    assert_eq!(posts.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
    let mut got = Vec::new();
    while got.len() < 150 {
        got.extend(now(&mut nic).into_iter().map(|wc| wc.wr_id));
    }
    assert_eq!(got, (0..150).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_refuses_a_list_as_a_whole() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let read = wr(1, SendOp::Read(REMOTE), &memory, 8);
    let most = vec![read.clone(); SEND_WR as usize - 1];
    nic.post_send(qp, &most).unwrap();
    let two = [read.clone(), read.clone()];
    assert_eq!(nic.post_send(qp, &two), Err(NicError::Full));
    assert_eq!(double.posts(qp.0).concat().len(), most.len());
    double.complete(qp.0, status::SUCCESS);
    assert_eq!(now(&mut nic).len(), 1);
    nic.post_send(qp, &two).unwrap();
    let list: Vec<_> = (0..33).map(|id| recv(id, &memory)).collect();
    assert_eq!(nic.post_recv(&list), Err(NicError::Full));
    nic.post_recv(&list[..32]).unwrap();
    assert_eq!(nic.post_recv(&list[..1]), Err(NicError::Full));
    double.receive(qp.0, 64, None);
    assert_eq!(now(&mut nic)[0].wr_id, 0);
    nic.post_recv(&list[..1]).unwrap();
}

#[test]
fn malformed_work_is_refused_before_anything_is_posted() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let good = wr(1, SendOp::Read(REMOTE), &memory, 8);
    let mut pieces = good.clone();
    while pieces.sges.len() < 5 {
        pieces.sges.push(pieces.sges[0]);
    }
    let mut bytes = good.clone();
    bytes.sges[0].len = (1 << 30) + 1;
    let mut number = good.clone();
    number.wr_id = 1 << WR_ID_BITS;
    for bad in [pieces, bytes, number] {
        let refused = nic.post_send(qp, &[good.clone(), bad]);
        assert!(
            matches!(refused, Err(NicError::Malformed(_))),
            "{refused:?}"
        );
    }
    let refused = nic.post_recv(&[recv(1 << WR_ID_BITS, &memory)]);
    assert!(
        matches!(refused, Err(NicError::Malformed(_))),
        "{refused:?}"
    );
    let nobody = QpNumber(1);
    assert_eq!(
        nic.post_send(nobody, &[good]),
        Err(NicError::NoSuchQp(nobody))
    );
    assert_eq!(double.posts(qp.0).len(), 0);
}

#[test]
fn failed_work_says_what_it_was_and_the_rest_is_flushed() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let most = (1 << WR_ID_BITS) - 1;
    let mut quiet = wr(most, SendOp::Write(REMOTE), &memory, 8);
    quiet.signaled = false;
    let list = [
        quiet,
        wr(0, SendOp::Send, &memory, 8),
        wr(7, SendOp::Read(REMOTE), &memory, 8),
    ];
    nic.post_send(qp, &list).unwrap();
    double.complete(qp.0, status::REMOTE_ACCESS);
    let got: Vec<_> = now(&mut nic)
        .iter()
        .map(|wc| (wc.op, wc.wr_id, wc.status))
        .collect();
    let expected = [
        (WcOp::Write, most, WcStatus::RemoteAccess),
        (WcOp::Send, 0, WcStatus::Flushed),
        (WcOp::Read, 7, WcStatus::Flushed),
    ];
    assert_eq!(got, expected);
    // A queue pair in the error state takes a list and flushes it.
    nic.post_send(qp, &[wr(8, SendOp::Send, &memory, 8)])
        .unwrap();
    assert_eq!(now(&mut nic)[0].status, WcStatus::Flushed);
}

#[test]
fn a_list_that_is_taken_in_part_ends_the_queue_pair_and_loses_nothing() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let list: Vec<_> = (0..4)
        .map(|id| wr(id, SendOp::Read(REMOTE), &memory, 8))
        .collect();
    double.answers(Step::PostSend, &[libc::EINVAL]);
    nic.post_send(qp, &list).unwrap();
    let mut got = Vec::new();
    until(&mut nic, |_, out| {
        got.extend(out.iter().map(|wc| (wc.wr_id, wc.status)));
        (got.len() == 4).then_some(())
    });
    got.sort_by_key(|(wr_id, _)| *wr_id);
    let expected: Vec<_> = (0..4).map(|id| (id, WcStatus::Flushed)).collect();
    assert_eq!(got, expected);
    assert_eq!(nic.event(), Some(NicEvent::Failed(qp)));
    // One that is taken in no part at all is refused.
    let (mut nic, qp, memory) = ready(&double);
    double.answers(Step::PostSend, &[libc::EINVAL]);
    let refused = nic.post_send(qp, &[wr(1, SendOp::Send, &memory, 8)]);
    assert!(matches!(refused, Err(NicError::Refused(_))), "{refused:?}");
    assert_eq!(nic.pairs[&qp.0].sq.room(), SEND_WR as usize);
}

/// What was sent and answered wakes nobody by itself, where nobody waits for it;
/// a READ, whose data an SSD is to have, always does.
#[test]
fn a_response_that_is_out_wakes_only_who_waits_for_it() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let remote = RemoteMemory { addr: 0, rkey: 1 };
    for (op, wake, woken) in [
        (SendOp::Send, Wake::NotSent, false),
        (SendOp::Send, Wake::All, true),
        (SendOp::Read(remote), Wake::NotSent, true),
    ] {
        nic.post_send(qp, &[wr(1, op, &memory, 8)]).unwrap();
        assert!(nic.arm(Instant::now(), wake));
        double.complete(qp.0, status::SUCCESS);
        assert_eq!(wakes(&nic), woken, "{op:?}, {wake:?}");
        // It is there all the same.
        assert_eq!(now(&mut nic).len(), 1);
        assert!(nic.arm(Instant::now(), Wake::NotSent));
        assert!(!wakes(&nic), "{op:?}, {wake:?}: it wakes for ever");
    }
}

#[test]
fn completions_that_stand_for_nothing_are_dropped_and_counted() {
    let double = Double::new();
    let (mut nic, qp, _) = ready(&double);
    let sent = 2 << WR_ID_BITS;
    for (qp, wr_id) in [(qp.0, 9), (qp.0, sent | 9), (4711, sent | 9)] {
        double.stray(qp, wr_id);
    }
    assert_eq!(now(&mut nic), []);
    assert_eq!(nic.counters().unknown, 3);
}

#[test]
fn no_completion_is_lost_between_arming_and_sleeping() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let buffers: Vec<_> = (0..5).map(|id| recv(id, &memory)).collect();
    nic.post_recv(&buffers).unwrap();
    // Before all of it.
    double.receive(qp.0, 64, None);
    assert!(!nic.arm(Instant::now(), Wake::All));
    assert_eq!(now(&mut nic)[0].wr_id, 0);
    // One that makes an event; and when that is taken and the queue is not armed
    // again yet, one that makes none.
    double.receive(qp.0, 64, None);
    double.receive_before_arm(qp.0, 64);
    assert!(!nic.arm(Instant::now(), Wake::All));
    let got: Vec<_> = now(&mut nic).iter().map(|it| it.wr_id).collect();
    assert_eq!(got, [1, 2]);
    // Nothing.
    assert!(nic.arm(Instant::now(), Wake::All));
    assert!(!wakes(&nic));
    // After all of it.
    double.receive(qp.0, 64, None);
    assert!(wakes(&nic));
    assert_eq!(now(&mut nic)[0].wr_id, 3);
    // What the worker has to say wakes as well.
    assert!(nic.arm(Instant::now(), Wake::All));
    assert!(!wakes(&nic));
    ask(&mut nic);
    let end = Instant::now() + std::time::Duration::from_secs(5);
    while !wakes(&nic) {
        assert!(Instant::now() < end);
    }
    assert!(!nic.arm(Instant::now(), Wake::All));
    assert!(matches!(nic.event(), Some(NicEvent::Opened { .. })));
}
