//! What is counted, and the limit of the shared receive queue.

use super::*;
use crate::nic::Adapter;
use crate::verbs::double::Call;
use crate::verbs::ffi::AsyncEvent;

fn count(counts: &[Count], name: &str) -> u64 {
    let found = counts.iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("no {name} in {counts:?}")).1
}

/// The limits that were set, with the queues they were set for.
fn limits(double: &Double) -> Vec<(u64, u32)> {
    let state = double.state();
    let limits = state.log.iter().filter_map(|call| match call {
        Call::SrqLimit(id, limit) => Some((*id, *limit)),
        _ => None,
    });
    limits.collect()
}

#[test]
fn a_queue_pair_counts_what_it_carries_and_the_part_keeps_it() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let other = opened(&mut nic);
    nic.post_recv(&[recv(1, &memory)]).unwrap();
    let list = [
        wr(1, SendOp::Write(REMOTE), &memory, 100),
        wr(2, SendOp::Read(REMOTE), &memory, 30),
        wr(3, SendOp::Send, &memory, 16),
    ];
    nic.post_send(qp, &list).unwrap();
    double.receive(qp.0, 64, None);
    assert_eq!(now(&mut nic).len(), 4);
    double.state().at_once = false;
    nic.post_send(qp, &list[..2]).unwrap();
    double.complete(qp.0, status::REMOTE_ACCESS);
    assert_eq!(now(&mut nic).len(), 2);
    let expected = [
        ("work_posted", 5),
        ("work_completed", 3),
        ("work_failed", 1),
        ("work_flushed", 1),
        ("messages_in", 1),
        ("bytes_out", 216),
        ("bytes_in", 64),
        ("bytes_read", 60),
    ];
    let of_pair = nic.qp_counts(qp).unwrap();
    for (name, value) in expected {
        assert_eq!(count(&of_pair, name), value, "{name}");
        assert_eq!(count(&nic.qp_counts(other).unwrap(), name), 0, "{name}");
        assert_eq!(count(&nic.counts(), name), value, "{name}");
    }
    nic.destroy_qp(qp);
    until(&mut nic, |nic, _| {
        let gone = NicEvent::Destroyed(qp);
        std::iter::from_fn(|| nic.event())
            .any(|it| it == gone)
            .then_some(())
    });
    assert_eq!(nic.qp_counts(qp), None);
    for (name, value) in expected {
        assert_eq!(count(&nic.counts(), name), value, "{name}");
    }
}

#[test]
fn a_list_that_is_taken_in_part_is_counted_as_far_as_it_was_taken() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    let list: Vec<_> = (0..4)
        .map(|id| wr(id, SendOp::Write(REMOTE), &memory, 8))
        .collect();
    double.answers(Step::PostSend, &[libc::EINVAL]);
    nic.post_send(qp, &list).unwrap();
    let counts = nic.qp_counts(qp).unwrap();
    assert_eq!(count(&counts, "work_posted"), 2);
    assert_eq!(count(&counts, "bytes_out"), 16);
}

#[test]
fn a_device_tells_the_part_whose_receive_queue_is_low() {
    let double = Double::new();
    let (_adapter, mut nics) = open(&double, 2);
    nics[0].arm_srq_limit(4).unwrap();
    nics[1].arm_srq_limit(32).unwrap();
    let set = until(&mut nics[0], |_, _| {
        let set = limits(&double);
        (set.len() == 2).then_some(set)
    });
    let ids: Vec<_> = set.iter().map(|(id, _)| *id).collect();
    assert_eq!(set, [(ids[0], 4), (ids[1], 32)]);
    assert_ne!(ids[0], ids[1]);
    // One that is nobody's, and then one that is.
    double.event(AsyncEvent::SrqLimit(4711));
    double.event(AsyncEvent::SrqLimit(ids[1]));
    assert_eq!(event(&mut nics[1]), NicEvent::SrqLimit);
    assert_eq!((nics[0].event(), nics[1].event()), (None, None));
}

#[test]
fn a_limit_that_cannot_be_is_refused_and_one_that_is_not_taken_is_no_failure() {
    let double = Double::new();
    let mut nic = part(&double);
    let refused = nic.arm_srq_limit(33);
    assert!(
        matches!(refused, Err(NicError::Malformed(_))),
        "{refused:?}"
    );
    double.answers(Step::SrqLimit, &[libc::EOPNOTSUPP]);
    nic.arm_srq_limit(8).unwrap();
    nic.arm_srq_limit(0).unwrap();
    until(&mut nic, |_, _| (limits(&double).len() == 1).then_some(()));
    assert_eq!(limits(&double)[0].1, 0);
    assert_eq!(nic.event(), None);
}

#[test]
fn setting_a_limit_does_not_wait_for_a_device_that_stalls() {
    let double = Double::new();
    let mut nic = part(&double);
    double.stall(Step::SrqLimit);
    nic.arm_srq_limit(8).unwrap();
    until(&mut nic, |_, _| (double.state().waiting > 0).then_some(()));
    assert_eq!(limits(&double), []);
    double.resume();
    until(&mut nic, |_, _| (limits(&double).len() == 1).then_some(()));
}

#[test]
fn the_adapter_shows_what_the_device_has_counted() {
    let double = Double::new();
    double.state().counters = vec![("sent_pkts".to_owned(), 9)];
    let (adapter, _nics) = open(&double, 1);
    assert_eq!(adapter.counts(), [("sent_pkts".into(), 9)]);
}
