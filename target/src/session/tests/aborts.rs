//! Abort: what becomes of it, of the command that it names, and of both together.

use sidelane_nvme::spec::{Abort, AdminOpcode, LogId, NvmOpcode, ReadWrite, Sqe, Status};

use super::host::*;
use super::linux::log_page;
use crate::session::{Completion, Step};
use crate::subsystem::{ABORT_LIMIT, ABORT_PATIENCE};

/// Of the Abort command.
const ABORTED: u64 = 0;
const NOT_ABORTED: u64 = 1;

fn abort(host: &mut Host, by: u16, sqid: u16, cid: u16) -> Outcome {
    let mut abort = Abort::from(admin(AdminOpcode::Abort, 0));
    abort.cdw0.set_cid(by);
    abort.sqid.set(sqid);
    abort.cid.set(cid);
    host.send_as_is(&abort.into(), &[], Ok(0))
}

/// A read that a backend has.
fn running(io: &mut Host, cid: u16) {
    let mut read: Sqe = ReadWrite::from(sqe(NvmOpcode::Read.into_bits(), 1)).into();
    read.cdw0.set_cid(cid);
    let step = io.session.command(&read, Ok(512), io.now);
    assert!(matches!(step, Step::Io(_)), "{step:?}");
}

fn wanted(host: &mut Host) -> Vec<u16> {
    std::iter::from_fn(|| host.session.poll_abort()).collect()
}

#[test]
fn a_command_of_another_queue_ends_as_aborted_and_then_abort_says_so() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    running(&mut io, 7);
    running(&mut io, 8);
    assert!(abort(&mut admin, 100, 1, 7).cqe.is_none());
    assert_eq!((io.wakes(), admin.events()), (1, vec![]));
    assert_eq!(wanted(&mut io), [7]);
    // Another one that ends meanwhile says nothing of it.
    io.session.completed(8, Completion::OK);
    assert_eq!(admin.events(), []);
    let cqe = io
        .session
        .completed(7, Completion::of(Status::ABORT_REQUESTED));
    assert_eq!(cqe.status(), Status::ABORT_REQUESTED);
    assert_eq!(admin.wakes(), 1);
    assert_eq!(admin.events(), [(100, ABORTED)]);
    assert_eq!(admin.session.queue().outstanding(), 0);
}

#[test]
fn a_command_that_ends_otherwise_was_not_aborted() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    for (cid, status) in [(7, Status::SUCCESS), (8, Status::INTERNAL_ERROR)] {
        running(&mut io, cid);
        abort(&mut admin, 100, 1, cid);
        assert_eq!(wanted(&mut io), [cid]);
        io.session.completed(cid, Completion::of(status));
        assert_eq!(admin.events(), [(100, NOT_ABORTED)]);
    }
}

#[test]
fn the_end_of_a_duplicate_says_nothing_of_the_command_to_abort() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    running(&mut io, 7);
    abort(&mut admin, 100, 1, 7);
    assert_eq!(wanted(&mut io), [7]);
    let mut flush = sqe(NvmOpcode::Flush.into_bits(), 1);
    flush.cdw0.set_cid(7);
    let outcome = io.send_as_is(&flush, &[], Ok(0));
    assert!(outcome.is(Status::COMMAND_ID_CONFLICT));
    assert_eq!(admin.events(), []);
    io.session
        .completed(7, Completion::of(Status::ABORT_REQUESTED));
    assert_eq!(admin.events(), [(100, ABORTED)]);
}

#[test]
fn what_is_not_there_is_not_aborted() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    // Queues that are not connected, and 65,535.
    for sqid in [2, 4, 255, 256, u16::MAX] {
        abort(&mut admin, 100, sqid, 0);
        assert_eq!(admin.events(), [(100, NOT_ABORTED)], "queue {sqid}");
    }
    running(&mut io, 7);
    abort(&mut admin, 100, 1, 8);
    assert_eq!(wanted(&mut io), [8]);
    io.session.not_aborted(8);
    assert_eq!(admin.events(), [(100, NOT_ABORTED)]);
    // The queue goes, with or without having seen that it is asked.
    for seen in [false, true] {
        let mut other = lab.io_queue(&admin, 2);
        running(&mut other, 7);
        abort(&mut admin, 100, 2, 7);
        if seen {
            assert_eq!(wanted(&mut other), [7]);
        }
        other.session.closed();
        assert_eq!(admin.events(), [(100, NOT_ABORTED)], "seen: {seen}");
    }
}

#[test]
fn the_same_queue_of_another_association_is_not_asked() {
    let lab = Lab::new();
    let (mut one, other) = (lab.controller(), lab.controller());
    let mut mine = lab.io_queue(&one, 1);
    let mut theirs = lab.io_queue(&other, 1);
    running(&mut theirs, 7);
    abort(&mut one, 100, 1, 7);
    assert_eq!((theirs.wakes(), wanted(&mut theirs)), (0, vec![]));
    assert_eq!(wanted(&mut mine), [7]);
}

#[test]
fn an_event_request_is_aborted_and_its_place_is_free_again() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut aer = admin(AdminOpcode::AsyncEventRequest, 0);
    for cid in 1..=4 {
        aer.cdw0.set_cid(cid);
        assert!(host.send_as_is(&aer, &[], Ok(0)).cqe.is_none());
    }
    abort(&mut host, 100, 0, 2);
    assert!(wanted(&mut host).is_empty());
    // Until it is answered it still counts.
    aer.cdw0.set_cid(5);
    let fifth = host.send_as_is(&aer, &[], Ok(0));
    assert!(fifth.is(Status::AER_LIMIT_EXCEEDED));
    let (cid, completion) = host.session.poll_async().unwrap();
    assert_eq!((cid, completion.status), (2, Status::ABORT_REQUESTED));
    assert_eq!(host.session.poll_async(), None, "it has not ended yet");
    host.session.completed(cid, completion);
    assert_eq!(host.events(), [(100, ABORTED)]);
    assert!(host.send_as_is(&aer, &[], Ok(0)).cqe.is_none());
}

#[test]
fn an_abort_of_an_abort_or_of_itself_is_not_carried_out() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 1);
    running(&mut io, 7);
    abort(&mut host, 100, 1, 7);
    abort(&mut host, 101, 0, 100);
    abort(&mut host, 102, 0, 102);
    // The queue does not know them for anything but commands that run.
    for cid in wanted(&mut host) {
        host.session.not_aborted(cid);
    }
    assert_eq!(host.events(), [(101, NOT_ABORTED), (102, NOT_ABORTED)]);
    assert_eq!(wanted(&mut io), [7]);
}

#[test]
fn more_aborts_than_the_limit_are_refused_and_all_others_are_answered() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 1);
    for cid in 0..ABORT_LIMIT as u16 {
        running(&mut io, cid);
        assert!(abort(&mut host, 100 + cid, 1, cid).cqe.is_none());
    }
    let refused = abort(&mut host, 200, 1, 0);
    assert!(refused.is(Status::ABORT_LIMIT_EXCEEDED) && !refused.status().dnr());
    assert_eq!(wanted(&mut io), [0, 1, 2, 3]);
    for cid in 0..ABORT_LIMIT as u16 {
        io.session
            .completed(cid, Completion::of(Status::ABORT_REQUESTED));
        assert_eq!(host.events(), [(100 + cid, ABORTED)]);
    }
    assert!(abort(&mut host, 200, 1, 0).cqe.is_none(), "there is room");
}

#[test]
fn an_abort_is_answered_in_its_time_though_the_command_does_not_end() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 1);
    running(&mut io, 7);
    abort(&mut host, 100, 1, 7);
    assert_eq!(wanted(&mut io), [7]);
    assert_eq!(host.session.deadline(), Some(host.now + ABORT_PATIENCE));
    host.pass(ABORT_PATIENCE);
    assert_eq!(host.session.tick(host.now), None);
    assert_eq!(host.events(), [(100, NOT_ABORTED)]);
    // It ends some day, once.
    io.session
        .completed(7, Completion::of(Status::ABORT_REQUESTED));
    assert_eq!(
        (host.events(), io.session.queue().outstanding()),
        (vec![], 0)
    );
}

#[test]
fn a_controller_reset_forgets_aborts() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 1);
    running(&mut io, 7);
    abort(&mut host, 100, 1, 7);
    assert_eq!(wanted(&mut io), [7]);
    host.configure(enabled().with_en(false));
    assert_eq!(host.session.poll_forgotten(), Some(100));
    assert_eq!(host.session.poll_forgotten(), None);
    assert_eq!(host.session.queue().outstanding(), 0);
    io.session
        .completed(7, Completion::of(Status::ABORT_REQUESTED));
    host.enable();
    assert_eq!(host.events(), []);
}

#[test]
fn an_abort_that_does_its_work_is_no_error_of_the_controller() {
    let lab = Lab::new();
    let mut host = lab.controller();
    abort(&mut host, 100, 9, 9);
    assert_eq!(host.events(), [(100, NOT_ABORTED)]);
    let page = log_page(&mut host, LogId::Error, 0, 64).data;
    assert!(page.iter().all(|byte| *byte == 0));
}
