use super::*;
use crate::verbs::double::Call;
use crate::verbs::ffi::{MrAccess, QpChange};

/// The flush queue pair: the first one made.
fn flush_qp(double: &Double) -> u32 {
    let state = double.state();
    let made = state.log.iter().rev().find_map(|call| match call {
        Call::Modify(qp, QpChange::Rtr(rtr)) if rtr.remote_qpn == *qp => Some(*qp),
        _ => None,
    });
    made.unwrap()
}

fn last(memory: &MemoryRegion) -> Sge {
    Sge {
        addr: memory.base + 512,
        len: 1024,
        lkey: memory.lkey,
    }
}

#[test]
fn the_flush_reads_the_last_byte_by_a_queue_pair_connected_to_itself() {
    let double = Double::new();
    let (mut nic, _, _) = ready(&double);
    let cmb = nic.register(&peer_region(4096), WRITABLE).unwrap();
    let qp = flush_qp(&double);
    let allowed = double.state().log.iter().find_map(|call| match call {
        Call::Modify(number, QpChange::Init { access, .. }) if *number == qp => Some(*access),
        _ => None,
    });
    let readable = MrAccess {
        remote_read: true,
        ..MrAccess::default()
    };
    assert_eq!(allowed, Some(readable));
    assert_eq!(nic.post_flush(last(&cmb), 12), Ok(Flush::Pending));
    let posts = double.posts(qp);
    assert_eq!(posts.len(), 1);
    let read = &posts[0][0];
    let byte = RemoteMemory {
        addr: cmb.base + 512 + 1023,
        rkey: cmb.rkey,
    };
    assert_eq!(read.opcode, SendOpcode::Read(byte));
    assert!(read.flags.signaled && read.pieces.len() == 1 && read.pieces[0].len == 1);
    let scratch = nic.adapter().shared.scratch.sge();
    assert_eq!(read.pieces[0], scratch);
    let got = now(&mut nic);
    let ended = (got[0].op, got[0].wr_id, got[0].status);
    assert_eq!(ended, (WcOp::Flush, 12, WcStatus::Success));
}

#[test]
fn a_copy_is_a_read_of_its_own_memory_by_the_same_queue_pair() {
    let double = Double::new();
    let (mut nic, _, memory) = ready(&double);
    let cmb = nic.register(&peer_region(4096), WRITABLE).unwrap();
    let qp = flush_qp(&double);
    let from = last(&memory);
    assert_eq!(nic.post_copy(from, last(&cmb), 5), Ok(Flush::Pending));
    let read = &double.posts(qp)[0][0];
    let source = RemoteMemory {
        addr: from.addr,
        rkey: memory.rkey,
    };
    assert_eq!(read.opcode, SendOpcode::Read(source));
    assert_eq!(read.pieces, [last(&cmb)]);
    let short = Sge { len: 1, ..from };
    assert!(nic.post_copy(short, last(&cmb), 6).is_err());
    let outside = Sge {
        addr: cmb.base + 4000,
        ..last(&cmb)
    };
    assert!(nic.post_copy(from, outside, 7).is_err());
}

#[test]
fn flushes_are_bounded_and_named_well() {
    let double = Double::new();
    let (mut nic, _, memory) = ready(&double);
    double.state().at_once = false;
    for number in 0..FLUSH_DEPTH as u64 {
        nic.post_flush(last(&memory), number).unwrap();
    }
    assert_eq!(nic.post_flush(last(&memory), 1), Err(NicError::Full));
    double.complete(flush_qp(&double), status::SUCCESS);
    assert_eq!(now(&mut nic)[0].wr_id, 0);
    nic.post_flush(last(&memory), 1).unwrap();
    let outside = [
        Sge {
            len: 0,
            ..last(&memory)
        },
        Sge {
            len: 8192,
            ..last(&memory)
        },
        Sge {
            addr: memory.base - 1,
            ..last(&memory)
        },
        Sge {
            lkey: 1,
            ..last(&memory)
        },
    ];
    for sge in outside {
        let refused = nic.post_flush(sge, 1);
        assert!(matches!(refused, Err(NicError::Malformed(_))), "{sge:?}");
    }
}

#[test]
fn memory_that_was_taken_away_is_told_once_to_all_parts_and_the_flush_lives_on() {
    let double = Double::new();
    let (_adapter, mut nics) = open(&double, 2);
    let (cmb, host) = (peer_region(4096), host_region(4096));
    let mut other = nics.pop().unwrap();
    let mut nic = nics.pop().unwrap();
    let memory = nic.register(&cmb, WRITABLE).unwrap();
    other.register(&cmb, WRITABLE).unwrap();
    let plain = nic.register(&host, WRITABLE).unwrap();
    double.revoke();
    nic.post_flush(last(&memory), 1).unwrap();
    nic.post_flush(last(&plain), 2).unwrap();
    let mut got = Vec::new();
    until(&mut nic, |_, out| {
        got.extend(out.iter().map(|wc| (wc.op, wc.wr_id, wc.status)));
        (got.len() == 2).then_some(())
    });
    let expected = [
        (WcOp::Flush, 1, WcStatus::RemoteOperation),
        (WcOp::Flush, 2, WcStatus::Flushed),
    ];
    assert_eq!(got, expected);
    assert_eq!(event(&mut nic), NicEvent::Revoked(cmb.id()));
    assert_eq!(event(&mut other), NicEvent::Revoked(cmb.id()));
    // Another queue pair is made meanwhile.
    let mut posted = false;
    until(&mut nic, |nic, out| {
        posted = posted || nic.post_flush(last(&plain), 3) == Ok(Flush::Pending);
        out.first()
            .map(|wc| assert_eq!(wc.status, WcStatus::Success))
    });
    assert_eq!(nic.counters().flushers_remade, 1);
    assert_eq!(nic.event(), None, "it is told once");
    let refused = nic.post_flush(last(&memory), 4);
    assert!(
        matches!(refused, Err(NicError::Malformed(_))),
        "{refused:?}"
    );
}

#[test]
fn a_read_into_memory_that_was_taken_away_tells_of_it() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    let cmb = peer_region(4096);
    let taken = nic.register(&cmb, WRITABLE).unwrap();
    double.revoke();
    let list = [
        wr(1, SendOp::Read(REMOTE), &memory, 8),
        wr(2, SendOp::Read(REMOTE), &taken, 8),
        wr(3, SendOp::Read(REMOTE), &taken, 8),
    ];
    nic.post_send(qp, &list).unwrap();
    let got: Vec<_> = now(&mut nic).iter().map(|wc| wc.status).collect();
    let expected = [
        WcStatus::Success,
        WcStatus::LocalProtection,
        WcStatus::Flushed,
    ];
    assert_eq!(got, expected);
    assert_eq!(nic.event(), Some(NicEvent::Revoked(cmb.id())));
    now(&mut nic);
    assert_eq!(nic.event(), None);
}

#[test]
fn host_memory_is_never_told_to_be_taken_away() {
    let double = Double::new();
    let (mut nic, qp, memory) = ready(&double);
    double.state().at_once = false;
    nic.post_send(qp, &[wr(1, SendOp::Read(REMOTE), &memory, 8)])
        .unwrap();
    double.complete(qp.0, status::LOCAL_PROTECTION);
    assert_eq!(now(&mut nic)[0].status, WcStatus::LocalProtection);
    assert_eq!(nic.event(), None);
}

#[test]
fn a_region_that_says_itself_that_it_is_gone_is_told_too() {
    let double = Double::new();
    let (_adapter, mut nics) = open(&double, 2);
    let cmb = peer_region(4096);
    for nic in &mut nics {
        nic.register(&cmb, WRITABLE).unwrap();
    }
    cmb.revocation().revoke("unplugged");
    for nic in &mut nics {
        assert_eq!(event(nic), NicEvent::Revoked(cmb.id()));
        now(nic);
        assert_eq!(nic.event(), None);
    }
}

#[test]
fn a_flush_that_never_comes_back_is_given_up_and_another_queue_pair_made() {
    let double = Double::new();
    let (mut nic, _, memory) = ready(&double);
    double.state().at_once = false;
    double.state().flushes = false;
    nic.post_flush(last(&memory), 1).unwrap();
    nic.post_flush(last(&memory), 2).unwrap();
    double.complete(flush_qp(&double), status::RETRY);
    assert_eq!(now(&mut nic)[0].status, WcStatus::RetryExceeded);
    let late = nic.deadline().unwrap();
    let mut out = Completions::new();
    nic.poll(late, &mut out);
    nic.poll(late, &mut out);
    assert_eq!((out[0].wr_id, out[0].status), (2, WcStatus::Flushed));
    until(&mut nic, |nic, _| {
        (nic.counters().flushers_remade == 1).then_some(())
    });
}
