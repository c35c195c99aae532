//! The life of an association: keep alive, loss of queues, reconnection.

use std::time::Duration;

use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, DISCOVERY_NQN, FeatureId, NvmOpcode, Status,
};

use super::host::*;
use super::linux::set_feature;
use crate::session::{CONNECT_TIMEOUT, CloseReason};
use crate::subsystem::AllowedHosts;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn silence_ends_the_association_between_one_and_two_keep_alive_timeouts() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let io = lab.io_queue(&admin, 1);
    let deadline = admin.session.deadline().unwrap();
    assert!(deadline > lab.t0 + 5 * SECOND && deadline <= lab.t0 + 10 * SECOND);
    assert_eq!(
        admin.session.tick(deadline - Duration::from_millis(1)),
        None
    );
    assert_eq!((io.wakes(), admin.wakes()), (0, 0));
    assert_eq!(
        admin.session.tick(deadline),
        Some(CloseReason::KeepAliveExpired)
    );
    assert_eq!(io.wakes(), 1);
    admin.session.closed();
    assert!(lab.subsystem.controllers().is_empty());
}

#[test]
fn the_other_queues_close_when_the_association_is_over() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    admin.session.closed();
    assert_eq!(io.wakes(), 1);
    assert_eq!(io.session.tick(io.now), Some(CloseReason::AssociationEnded));
    let outcome = io.send(sqe(NvmOpcode::Flush.into_bits(), 1), &[], 0);
    assert_eq!(outcome.close, Some(CloseReason::AssociationEnded));
    io.session.closed();
    assert_eq!(io.session.tick(io.now), Some(CloseReason::Closed));
    assert_eq!(io.session.deadline(), None);
}

#[test]
fn an_io_queue_notices_silence_by_itself() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let deadline = io.session.deadline().unwrap();
    assert_eq!(
        io.session.tick(deadline),
        Some(CloseReason::KeepAliveExpired)
    );
    assert_eq!(
        admin.session.tick(deadline),
        Some(CloseReason::AssociationEnded)
    );
}

#[test]
fn any_command_on_any_queue_is_a_sign_of_life() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut queues = [lab.io_queue(&admin, 1), lab.io_queue(&admin, 2)];
    for round in 0..20 {
        admin.pass(4 * SECOND);
        let queue = &mut queues[round % 2];
        queue.now = admin.now;
        // Even a command that is refused.
        queue.send(sqe(0xff, 0), &[], 0);
        assert_eq!(admin.session.tick(admin.now), None, "round {round}");
    }
    admin.send(admin_keep_alive(), &[], 0);
    admin.pass(8 * SECOND);
    assert_eq!(
        admin.session.tick(admin.now),
        Some(CloseReason::KeepAliveExpired)
    );
}

fn admin_keep_alive() -> sidelane_nvme::spec::Sqe {
    admin(AdminOpcode::KeepAlive, 0)
}

#[test]
fn the_timeout_can_be_changed_and_turned_off() {
    let lab = Lab::new();
    let mut host = lab.controller();
    assert!(set_feature(&mut host, FeatureId::KeepAliveTimer, 60_000).is(Status::SUCCESS));
    host.pass(60 * SECOND);
    assert_eq!(host.session.tick(host.now), None);
    assert!(set_feature(&mut host, FeatureId::KeepAliveTimer, 0).is(Status::SUCCESS));
    assert_eq!(host.session.deadline(), None);
    host.pass(1_000_000 * SECOND);
    assert_eq!(host.session.tick(host.now), None);
    // The longest that can be asked for does not overflow.
    assert!(set_feature(&mut host, FeatureId::KeepAliveTimer, u32::MAX).is(Status::SUCCESS));
    assert!(host.session.deadline().is_some());
}

#[test]
fn a_discovery_host_that_asked_for_no_keep_alive_may_still_not_stay_for_ever() {
    let lab = Lab::new();
    let mut host = lab.discovery();
    host.pass(119 * SECOND);
    assert_eq!(host.session.tick(host.now), None);
    host.pass(2 * SECOND);
    assert_eq!(
        host.session.tick(host.now),
        Some(CloseReason::KeepAliveExpired)
    );
    // A persistent one says how long.
    let host = lab.controller_of(DISCOVERY_NQN, 30_000);
    assert!(host.session.deadline().unwrap() <= lab.t0 + 60 * SECOND);
}

#[test]
fn a_connection_without_connect_ends() {
    let lab = Lab::new();
    let mut host = lab.open();
    let deadline = host.session.deadline().unwrap();
    assert_eq!(deadline, lab.t0 + CONNECT_TIMEOUT);
    assert_eq!(host.session.tick(deadline - Duration::from_millis(1)), None);
    assert_eq!(
        host.session.tick(deadline),
        Some(CloseReason::ConnectTimeout)
    );
}

#[test]
fn a_host_can_be_back_before_its_old_association_is_gone() {
    let lab = Lab::new();
    let mut old = lab.controller();
    let mut old_io = lab.io_queue(&old, 1);
    let mut new = lab.controller();
    let mut new_io = lab.io_queue(&new, 1);
    assert_ne!(old.cntlid(), new.cntlid());
    let deadline = old.session.deadline().unwrap();
    new.now = deadline;
    new.send(admin_keep_alive(), &[], 0);
    assert_eq!(
        old.session.tick(deadline),
        Some(CloseReason::KeepAliveExpired)
    );
    old.session.closed();
    assert_eq!(
        old_io.session.tick(deadline),
        Some(CloseReason::AssociationEnded)
    );
    old_io.session.closed();
    // The new one did not notice.
    assert_eq!((new.wakes(), new_io.wakes()), (0, 0));
    assert!(
        new_io
            .send(sqe(NvmOpcode::Flush.into_bits(), 1), &[], 0)
            .is(Status::SUCCESS)
    );
    assert_eq!(lab.subsystem.controllers().len(), 1);
}

#[test]
fn an_io_connect_to_a_dead_controller_is_refused_and_may_be_retried() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let cntlid = admin.cntlid();
    admin.session.controller().unwrap().kill();
    let cqe = lab
        .open()
        .connect(connect(1, 127, 0), &connect_data(SUBNQN, cntlid));
    assert!(cqe.status().same_code(Status::CONNECT_INVALID_PARAMETERS) && !cqe.status().dnr());
    admin.session.closed();
    let cqe = lab
        .open()
        .connect(connect(1, 127, 0), &connect_data(SUBNQN, cntlid));
    assert!(cqe.status().same_code(Status::CONNECT_INVALID_PARAMETERS));
}

#[test]
fn a_queue_that_went_can_come_again() {
    let lab = Lab::new();
    let admin = lab.controller();
    for _ in 0..3 {
        let mut io = lab.io_queue(&admin, 1);
        io.session.closed();
    }
    // One that is simply dropped is gone too.
    drop(lab.io_queue(&admin, 1));
    assert_eq!(admin.session.controller().unwrap().qids().len(), 1);
    drop(admin);
    assert!(lab.subsystem.controllers().is_empty());
}

#[test]
fn a_host_that_is_no_longer_allowed_loses_its_association() {
    let lab = Lab::new();
    let mut host = lab.controller();
    lab.subsystem
        .set_hosts(AllowedHosts::only([HOSTNQN, STRANGER]));
    assert_eq!(host.session.tick(host.now), None);
    lab.subsystem.set_hosts(AllowedHosts::Nobody);
    assert_eq!(host.wakes(), 1);
    assert_eq!(
        host.session.tick(host.now),
        Some(CloseReason::AssociationEnded)
    );
}

#[test]
fn a_subsystem_that_is_withdrawn_loses_its_hosts() {
    let lab = Lab::new();
    let mut host = lab.controller();
    assert!(lab.target.remove(lab.subsystem.nqn()).is_some());
    assert_eq!(
        host.session.tick(host.now),
        Some(CloseReason::AssociationEnded)
    );
    let cqe = lab
        .open()
        .connect(connect(0, 31, 0), &connect_data(SUBNQN, CNTLID_DYNAMIC));
    assert!(cqe.status().same_code(Status::CONNECT_INVALID_PARAMETERS));
}
