//! Asynchronous events: held, said once, and armed again by the log page.

use sidelane_nvme::spec::{
    AdminOpcode, FeatureId, LogId, NSID_ALL, NamespaceList, NvmOpcode, ReadWrite, Sqe, Status,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::host::*;
use super::linux::{log_page, set_feature};
use crate::session::Step;

/// Notice, namespace attribute changed, log page 4.
const NAMESPACES_CHANGED: u64 = 0x0004_0002;

fn request(host: &mut Host, cid: u16) -> Outcome {
    let mut aer = admin(AdminOpcode::AsyncEventRequest, 0);
    aer.cdw0.set_cid(cid);
    host.send_as_is(&aer, &[], Ok(0))
}

fn grow(lab: &Lab, blocks: u64) {
    let mut changed = namespaces();
    changed[0].blocks = blocks;
    lab.subsystem.set_namespaces(changed).unwrap();
}

#[test]
fn more_requests_than_the_limit_are_refused() {
    let lab = Lab::new();
    let mut host = lab.controller();
    for cid in 100..104 {
        assert!(request(&mut host, cid).cqe.is_none());
    }
    assert!(request(&mut host, 104).is(Status::AER_LIMIT_EXCEEDED));
    assert_eq!(host.session.queue().outstanding(), 4);
}

#[test]
fn a_changed_namespace_is_said_once_until_the_list_is_read() {
    let lab = Lab::new();
    let mut host = lab.controller();
    set_feature(&mut host, FeatureId::AsyncEventConfig, 0x100);
    request(&mut host, 100);
    request(&mut host, 101);
    assert_eq!(host.events(), []);
    grow(&lab, 4096);
    assert_eq!(host.wakes(), 1);
    assert_eq!(host.events(), [(100, NAMESPACES_CHANGED)]);
    grow(&lab, 8192);
    assert_eq!(host.events(), [], "the event is masked");
    let page = log_page(&mut host, LogId::ChangedNamespaces, 0, 4096).data;
    let list = NamespaceList::read_from_bytes(&page).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [1]);
    assert_eq!(host.events(), [], "what was read needs no event");
    let page = log_page(&mut host, LogId::ChangedNamespaces, 0, 4096).data;
    assert!(
        page.iter().all(|byte| *byte == 0),
        "the list was cleared by reading it"
    );
    grow(&lab, 1 << 20);
    assert_eq!(host.events(), [(101, NAMESPACES_CHANGED)]);
}

#[test]
fn reading_with_the_event_retained_changes_nothing() {
    let lab = Lab::new();
    let mut host = lab.controller();
    set_feature(&mut host, FeatureId::AsyncEventConfig, 0x100);
    grow(&lab, 4096);
    let mut retaining =
        sidelane_nvme::spec::GetLogPage::from(admin(AdminOpcode::GetLogPage, NSID_ALL));
    retaining.cdw10.set_lid(LogId::ChangedNamespaces);
    retaining.cdw10.set_rae(true);
    for _ in 0..2 {
        let page = host.send(retaining.with_len_dwords(1024), &[], 4096).data;
        assert_eq!(page[0], 1);
    }
    request(&mut host, 100);
    assert_eq!(
        host.events(),
        [(100, NAMESPACES_CHANGED)],
        "an event waits for a request"
    );
}

#[test]
fn an_event_that_the_host_did_not_ask_for_is_not_said() {
    let lab = Lab::new();
    let mut host = lab.controller();
    request(&mut host, 100);
    grow(&lab, 4096);
    assert_eq!(host.events(), []);
    set_feature(&mut host, FeatureId::AsyncEventConfig, 0x100);
    assert_eq!(host.events(), [], "it is past");
}

#[test]
fn a_controller_reset_forgets_held_requests() {
    let lab = Lab::new();
    let mut host = lab.controller();
    request(&mut host, 100);
    host.configure(enabled().with_en(false));
    assert_eq!(host.session.queue().outstanding(), 0);
    host.enable();
    set_feature(&mut host, FeatureId::AsyncEventConfig, 0x100);
    grow(&lab, 4096);
    assert_eq!(host.events(), []);
    assert!(
        request(&mut host, 100).cqe.is_none(),
        "the identifier is free again"
    );
    assert_eq!(host.events(), [(100, NAMESPACES_CHANGED)]);
}

#[test]
fn io_queues_see_the_namespaces_as_they_are_now() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut command = ReadWrite::from(sqe(NvmOpcode::Read.into_bits(), 1));
    command.slba.set(5000);
    assert!(io.send(command, &[], 512).is(Status::SUCCESS));
    grow(&lab, 4096);
    assert!(io.send(command, &[], 512).is(Status::LBA_OUT_OF_RANGE));
    lab.subsystem.set_namespaces(vec![namespace(2)]).unwrap();
    assert!(io.send(command, &[], 512).is(Status::INVALID_FIELD));
    command.nsid = U32::new(2);
    assert!(io.send(command, &[], 512).is(Status::SUCCESS));
}

#[test]
fn a_deallocation_whose_namespace_shrank_while_data_came_is_refused() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut dsm: Sqe = sqe(NvmOpcode::DatasetManagement.into_bits(), 1);
    dsm.cdw11 = U32::new(0b100);
    assert!(matches!(
        io.session.command(&dsm, Ok(16), io.now),
        Step::Fetch { len: 16 }
    ));
    grow(&lab, 16);
    let range = sidelane_nvme::spec::DsmRange::new(10, 10);
    let step = io
        .session
        .data(&dsm, zerocopy::IntoBytes::as_bytes(&range), io.now);
    let Step::Complete(completion) = step else {
        panic!("{step:?}")
    };
    assert!(completion.status.same_code(Status::LBA_OUT_OF_RANGE));
}
