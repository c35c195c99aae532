//! What must end a connection does, by the book, and each work request comes
//! back exactly once.

use super::super::pair::{Pair, RECV_BASE, all_access};
use crate::nic::{
    Access, NicError, QpCaps, QpNumber, RemoteMemory, SendOp, SendWr, Sge, Wake, WcOp, WcStatus,
};

fn statuses(pair: &Pair) -> Vec<(u64, WcStatus)> {
    pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect()
}

#[rstest::rstest]
#[case::key(|r: RemoteMemory| RemoteMemory { rkey: r.rkey ^ 0x1000, ..r })]
#[case::no_key(|r: RemoteMemory| RemoteMemory { rkey: 0, ..r })]
#[case::below(|r: RemoteMemory| RemoteMemory { addr: r.addr - 1, ..r })]
#[case::above(|r: RemoteMemory| RemoteMemory { addr: r.addr + (8 << 20) - 2999, ..r })]
#[case::around(|r: RemoteMemory| RemoteMemory { addr: u64::MAX - 5, ..r })]
fn wrong_remote_memory_is_refused_and_not_touched(
    #[case] spoil: fn(RemoteMemory) -> RemoteMemory,
    #[values(false, true)] read: bool,
) {
    let mut pair = Pair::new(1024);
    pair.a.fill(0, 3000, 1);
    let before = pair.b.bytes(0, 8 << 20);
    let (sge, remote) = (pair.a.sge(0, 3000), spoil(pair.b.remote(0)));
    let op = if read {
        SendOp::Read(remote)
    } else {
        SendOp::Write(remote)
    };
    let good = pair.b.remote(100);
    pair.a.post(1, SendOp::Read(good), &[pair.a.sge(4000, 0)]);
    pair.a.post(2, op, &[sge]);
    pair.a.post(3, SendOp::Send, &[sge]);
    pair.run();
    let expected = [
        (1, WcStatus::Success),
        (2, WcStatus::RemoteAccess),
        (3, WcStatus::Flushed),
    ];
    assert_eq!(statuses(&pair), expected);
    assert!(pair.b.bytes(0, 8 << 20) == before);
    // The peer is in the error state too, and had nothing outstanding that said
    // so: what it posts comes back.
    assert_eq!(pair.b.engine.failed_qp(), Some(pair.b.qp));
    assert_eq!(pair.b.engine.failed_qp(), None);
    let sge = pair.b.sge(0, 10);
    pair.b.post(4, SendOp::Send, &[sge]);
    pair.run();
    assert_eq!(
        (pair.b.done[0].wr_id, pair.b.done[0].status),
        (4, WcStatus::Flushed)
    );
}

#[test]
fn rights_that_were_not_given_are_refused() {
    for (access, read) in [
        (
            Access {
                remote_write: false,
                ..all_access()
            },
            false,
        ),
        (
            Access {
                remote_read: false,
                ..all_access()
            },
            true,
        ),
    ] {
        let mut pair = Pair::new(1024);
        let key = pair.b.engine.register(&pair.b.region, access).unwrap();
        let remote = RemoteMemory {
            addr: key.base,
            rkey: key.rkey,
        };
        let op = if read {
            SendOp::Read(remote)
        } else {
            SendOp::Write(remote)
        };
        let sge = pair.a.sge(0, 100);
        pair.a.post(1, op, &[sge]);
        pair.run();
        assert_eq!(statuses(&pair), [(1, WcStatus::RemoteAccess)]);
    }
}

#[test]
fn memory_of_an_ended_registration_is_refused_even_in_the_middle_of_a_read() {
    let mut pair = Pair::new(1024);
    let key = pair
        .b
        .engine
        .register(&pair.b.region, all_access())
        .unwrap();
    let sge = pair.a.sge(0, 1 << 20);
    let op = SendOp::Read(RemoteMemory {
        addr: key.base,
        rkey: key.rkey,
    });
    pair.a.post(1, op, &[sge]);
    while pair.a.engine.stats().bytes_in == 0 {
        assert!(pair.step());
    }
    pair.b.engine.deregister(&key);
    pair.run();
    assert_eq!(statuses(&pair), [(1, WcStatus::RemoteAccess)]);
}

/// The specification has no NAK for it: the requester hears nothing more.
#[rstest::rstest]
#[case::never_the_peers(true)]
#[case::unknown(false)]
fn a_peer_that_invalidates_a_key_that_is_not_its_ends_the_connection(#[case] own: bool) {
    let mut pair = Pair::new(1024);
    let access = Access {
        local_write: true,
        ..Access::default()
    };
    let key = pair.b.engine.register(&pair.b.region, access).unwrap();
    let rkey = if own { key.rkey } else { 0x7777_7777 };
    pair.b.post_recv(1, 4000);
    let sge = pair.a.sge(0, 100);
    pair.a.post(1, SendOp::SendInvalidate { rkey }, &[sge]);
    pair.run();
    assert_eq!(statuses(&pair), [(1, WcStatus::RetryExceeded)]);
    assert_eq!(pair.b.done.len(), 1, "the buffer comes back");
    assert_eq!(
        (pair.b.done[0].op, pair.b.done[0].status),
        (WcOp::Recv, WcStatus::LocalProtection)
    );
    assert_eq!(pair.b.engine.failed_qp(), Some(pair.b.qp));
    let stats = pair.b.engine.stats();
    assert_eq!((stats.fatal_naks_out, stats.access_errors), (0, 1));
    let sge = Sge {
        lkey: key.lkey,
        ..pair.b.sge(0, 10)
    };
    assert!(pair.b.engine.copy(sge, sge).is_err(), "no peer reads it");
    let wr = crate::nic::RecvWr { wr_id: 1, sge };
    assert_eq!(pair.b.engine.post_recv(&[wr]), Ok(()));
}

#[test]
fn a_message_longer_than_its_buffer_ends_both_sides_and_stays_inside_the_buffer() {
    let mut pair = Pair::new(1024);
    pair.a.fill(0, 3000, 1);
    pair.b.post_recv(2, 2500);
    let sge = pair.a.sge(0, 3000);
    pair.a.post(1, SendOp::Send, &[sge]);
    pair.run();
    assert_eq!(statuses(&pair), [(1, WcStatus::RemoteInvalidRequest)]);
    assert_eq!(pair.b.done.len(), 1);
    assert_eq!(pair.b.done[0].status, WcStatus::LocalLength);
    assert_eq!(pair.b.bytes(RECV_BASE + 2500, 2500), [0; 2500]);
}

#[test]
fn a_buffer_whose_key_has_gone_is_the_responders_own_fault() {
    let mut pair = Pair::new(1024);
    let engine = &mut pair.b.engine;
    let key = engine.register(&pair.b.region, all_access()).unwrap();
    let sge = Sge {
        lkey: key.lkey,
        ..pair.b.sge(RECV_BASE, 1000)
    };
    let wr = crate::nic::RecvWr { wr_id: 7, sge };
    pair.b.engine.post_recv(&[wr]).unwrap();
    pair.b.engine.deregister(&key);
    pair.a.fill(0, 100, 1);
    let sge = pair.a.sge(0, 100);
    pair.a.post(1, SendOp::Send, &[sge]);
    pair.run();
    assert_eq!(statuses(&pair), [(1, WcStatus::RemoteOperation)]);
    let theirs = pair.b.done[0];
    assert_eq!(
        (theirs.wr_id, theirs.status),
        (7, WcStatus::LocalProtection)
    );
    assert_eq!(pair.b.bytes(RECV_BASE, 1000), [0; 1000]);
}

/// It came back before those that were sent ahead of it, and they as flushed.
#[test]
fn a_request_whose_own_key_has_gone_waits_for_those_before_it() {
    let mut pair = Pair::new(1024);
    let remote = pair.b.remote(0);
    let engine = &mut pair.a.engine;
    let key = engine.register(&pair.a.region, all_access()).unwrap();
    let good = pair.a.sge(0, 5000);
    let bad = Sge {
        lkey: key.lkey,
        ..good
    };
    for (id, sge) in [(1, good), (2, good), (3, bad), (4, good)] {
        pair.a.post(id, SendOp::Write(remote), &[sge]);
    }
    pair.a.engine.deregister(&key);
    pair.run();
    let expected = [
        (1, WcStatus::Success),
        (2, WcStatus::Success),
        (3, WcStatus::LocalProtection),
        (4, WcStatus::Flushed),
    ];
    assert_eq!(statuses(&pair), expected);
}

#[test]
fn own_memory_is_checked_when_posted_and_when_used() {
    let mut pair = Pair::new(1024);
    let remote = pair.b.remote(0);
    let bad = Sge {
        lkey: 12345,
        ..pair.a.sge(0, 10)
    };
    let wr = |op, sge: Sge| SendWr {
        wr_id: 1,
        op,
        sges: [sge].into_iter().collect(),
        signaled: true,
        solicited: false,
    };
    for op in [SendOp::Send, SendOp::Write(remote), SendOp::Read(remote)] {
        let refused = pair.a.engine.post_send(pair.a.qp, &[wr(op, bad)]);
        assert!(matches!(refused, Err(NicError::Malformed(_))));
    }
    // A READ into memory that may not be written.
    let only_read = pair
        .a
        .engine
        .register(&pair.a.region, Access::default())
        .unwrap();
    let sge = Sge {
        lkey: only_read.lkey,
        ..pair.a.sge(0, 10)
    };
    assert!(
        pair.a
            .engine
            .post_send(pair.a.qp, &[wr(SendOp::Read(remote), sge)])
            .is_err()
    );
    // Gone between posting and sending.
    pair.a
        .engine
        .post_send(pair.a.qp, &[wr(SendOp::Write(remote), sge)])
        .unwrap();
    pair.a.engine.deregister(&only_read);
    pair.run();
    assert_eq!(statuses(&pair), [(1, WcStatus::LocalProtection)]);
}

#[test]
fn a_queue_pair_in_error_flushes_what_it_has_and_what_it_gets_each_once() {
    let mut pair = Pair::new(1024);
    let (sge, remote) = (pair.a.sge(0, 100_000), pair.b.remote(0));
    for id in 0..10 {
        pair.a.post(id, SendOp::Write(remote), &[sge]);
    }
    for _ in 0..40 {
        pair.step();
    }
    pair.a.engine.error_qp(pair.a.qp).unwrap();
    pair.a.engine.error_qp(pair.a.qp).unwrap();
    pair.a.post(10, SendOp::Send, &[sge]);
    pair.run();
    let ids: Vec<_> = pair.a.done.iter().map(|c| c.wr_id).collect();
    assert_eq!(ids, (0..=10).collect::<Vec<_>>());
    assert_eq!(pair.a.done[9].status, WcStatus::Flushed);
    assert_eq!(pair.a.done[10].status, WcStatus::Flushed);
    assert_eq!(pair.a.engine.deadline(), None);
    // The half-received message of a peer in error gives its buffer back.
}

#[test]
fn a_half_received_message_gives_its_buffer_back_when_the_queue_pair_ends() {
    for destroy in [false, true] {
        let mut pair = Pair::new(1024);
        pair.b.post_recv(1, 100_000);
        pair.lose(|_, headers| headers.bth.opcode.layout().unwrap().end);
        let sge = pair.a.sge(0, 50_000);
        pair.a.post(1, SendOp::Send, &[sge]);
        for _ in 0..100 {
            pair.step();
        }
        assert!(pair.b.engine.stats().bytes_in > 40_000);
        if destroy {
            pair.b.engine.destroy_qp(pair.b.qp);
            assert!(!pair.b.engine.has_completions(Wake::All));
        } else {
            pair.b.engine.error_qp(pair.b.qp).unwrap();
            pair.step();
            assert_eq!(pair.b.done[0].status, WcStatus::Flushed);
            pair.b.post_one_recv(0, 100_000);
        }
        // The buffer serves another queue pair.
        let other = pair.b.engine.create_qp(QpCaps { max_send_wr: 1 }).unwrap();
        let from = pair.a.engine.create_qp(QpCaps { max_send_wr: 1 }).unwrap();
        use super::super::pair::{Who, attrs};
        pair.a
            .engine
            .connect_qp(from, &attrs(Who::A, other, 1024))
            .unwrap();
        pair.b
            .engine
            .connect_qp(other, &attrs(Who::B, from, 1024))
            .unwrap();
        pair.lose(|_, _| false);
        pair.a.engine.error_qp(pair.a.qp).unwrap();
        pair.b.done.clear();
        let wr = SendWr {
            wr_id: 9,
            op: SendOp::Send,
            sges: [sge].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        pair.a.engine.post_send(from, &[wr]).unwrap();
        pair.run();
        assert_eq!(pair.b.done.len(), 1);
        assert_eq!(
            (pair.b.done[0].status, pair.b.done[0].qp),
            (WcStatus::Success, other)
        );
    }
}

#[test]
fn calls_on_what_does_not_exist_or_is_not_ready_are_refused() {
    let mut pair = Pair::new(1024);
    let nobody = QpNumber(77);
    assert_eq!(
        pair.a.engine.error_qp(nobody),
        Err(NicError::NoSuchQp(nobody))
    );
    assert_eq!(
        pair.a.engine.post_send(nobody, &[]),
        Err(NicError::NoSuchQp(nobody))
    );
    pair.a.engine.destroy_qp(nobody);
    let fresh = pair.a.engine.create_qp(QpCaps { max_send_wr: 1 }).unwrap();
    assert_eq!(
        pair.a.engine.post_send(fresh, &[]),
        Err(NicError::State(fresh))
    );
    use super::super::pair::{Who, attrs};
    let mut wrong = attrs(Who::A, pair.b.qp, 1024);
    wrong.path_mtu = 1000;
    assert!(pair.a.engine.connect_qp(fresh, &wrong).is_err());
    let again = attrs(Who::A, pair.b.qp, 1024);
    assert_eq!(
        pair.a.engine.connect_qp(pair.a.qp, &again),
        Err(NicError::State(pair.a.qp))
    );
}

#[test]
fn the_receive_queue_takes_no_more_than_its_limit_until_completions_are_polled() {
    let config = super::super::Config {
        max_srq_wr: 2,
        ..Default::default()
    };
    let mut pair = Pair::with(1024, config, |_| {});
    pair.b.post_recv(2, 100);
    let third = crate::nic::RecvWr {
        wr_id: 3,
        sge: pair.b.sge(RECV_BASE, 100),
    };
    assert_eq!(pair.b.engine.post_recv(&[third]), Err(NicError::Full));
    let sge = pair.a.sge(0, 10);
    pair.a.post(1, SendOp::Send, &[sge]);
    pair.run();
    assert_eq!(pair.b.done.len(), 1);
    assert_eq!(pair.b.engine.post_recv(&[third]), Ok(()));
}
