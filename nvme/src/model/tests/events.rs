//! Asynchronous events, and Abort.

use rstest::rstest;

use super::*;
use crate::spec::{
    Abort, AbortResult, AsyncEventConfig, AsyncEventResult, AsyncEventType, CriticalWarning,
    GetLogPage, GetLogPageCdw10, LogId, NSID_ALL, NamespaceList, SmartLog,
};

const REQUEST: AdminOpcode = AdminOpcode::AsyncEventRequest;

/// A host that wants to hear of everything.
fn listening(requests: usize) -> (Host, Vec<u16>) {
    let mut host = Host::new(ModelOptions::default());
    let all = AsyncEventConfig::new()
        .with_smart(0xff)
        .with_namespace_attribute(true);
    host.set_feature(FeatureId::AsyncEventConfig, all.raw())
        .unwrap();
    let cids = (0..requests).map(|_| host.send_admin(Sqe::new(REQUEST.0, 0)));
    let cids = cids.collect();
    assert_eq!(host.take(false, false), []);
    (host, cids)
}

fn read_log(host: &mut Host, lid: LogId, rae: bool) {
    let page = GetLogPage {
        nsid: NSID_ALL.into(),
        cdw10: GetLogPageCdw10::new().with_lid(lid).with_rae(rae),
        ..Sqe::new(AdminOpcode::GetLogPage.0, 0).into()
    };
    let sqe = host.with_page(page.with_len_dwords(1024).into());
    // What the reading lets loose comes before or after its own end.
    let cid = host.send_admin(sqe);
    let ends = host.take(false, true);
    assert!(ends.iter().any(|end| end.cid.get() == cid));
    let events = ends.into_iter().filter(|end| end.cid.get() != cid);
    host.late.extend(events);
}

/// Events that have come.
fn come(host: &mut Host) -> Vec<AsyncEventResult> {
    let late = std::mem::take(&mut host.late);
    let now = host.take(false, false);
    let all = late.into_iter().chain(now);
    all.map(|end| {
        assert!(end.status().is_success());
        AsyncEventResult::from_raw(end.dw0.get())
    })
    .collect()
}

fn kinds(events: &[AsyncEventResult]) -> Vec<(AsyncEventType, u8, LogId)> {
    let kind = |e: &AsyncEventResult| (e.event_type(), e.information(), LogId(e.log_page()));
    events.iter().map(kind).collect()
}

const CHANGED: (AsyncEventType, u8, LogId) = (AsyncEventType::Notice, 0, LogId::ChangedNamespaces);

#[rstest]
#[case::error(
    ModelEvent::Error(3),
    (AsyncEventType::Error, 3, LogId::Error)
)]
#[case::hot(
    ModelEvent::Health(CriticalWarning::new().with_temperature(true)),
    (AsyncEventType::Smart, 1, LogId::Smart)
)]
#[case::spare(
    ModelEvent::Health(CriticalWarning::new().with_spare(true)),
    (AsyncEventType::Smart, 2, LogId::Smart)
)]
#[case::worn(
    ModelEvent::Health(CriticalWarning::new().with_reliability(true)),
    (AsyncEventType::Smart, 0, LogId::Smart)
)]
#[case::changed(ModelEvent::NamespaceChanged(1), CHANGED)]
fn an_event_comes_once_until_its_log_page_was_read(
    #[case] event: ModelEvent,
    #[case] expected: (AsyncEventType, u8, LogId),
) {
    let (mut host, _) = listening(3);
    host.model.raise(event);
    host.model.raise(event);
    assert_eq!(kinds(&come(&mut host)), [expected]);
    let other = match expected.2 {
        LogId::Smart => LogId::Error,
        _ => LogId::Smart,
    };
    read_log(&mut host, other, false);
    read_log(&mut host, expected.2, true);
    assert_eq!(come(&mut host), [], "it is masked still");
    read_log(&mut host, expected.2, false);
    assert_eq!(kinds(&come(&mut host)), [expected]);
}

#[test]
fn events_wait_for_a_request_and_no_more_requests_are_taken_than_was_said() {
    let (mut host, _) = listening(0);
    host.model.raise(ModelEvent::Error(1));
    assert_eq!(come(&mut host), []);
    host.send_admin(Sqe::new(REQUEST.0, 0));
    assert_eq!(come(&mut host).len(), 1);
    for _ in 0..4 {
        host.send_admin(Sqe::new(REQUEST.0, 0));
    }
    assert_eq!(come(&mut host), []);
    let one_more = host.admin(Sqe::new(REQUEST.0, 0));
    assert_eq!(one_more, Err(Status::AER_LIMIT_EXCEEDED));
}

#[test]
fn what_the_host_did_not_ask_for_is_not_reported() {
    let (mut host, _) = listening(2);
    host.set_feature(FeatureId::AsyncEventConfig, 0).unwrap();
    let hot = CriticalWarning::new().with_temperature(true);
    host.model.raise(ModelEvent::Health(hot));
    assert!(host.model.resize(1, 8));
    assert_eq!(come(&mut host), []);
    read_log(&mut host, LogId::Smart, false);
    assert_eq!(host.page::<SmartLog>().critical_warning, hot);
}

#[test]
fn the_log_names_the_namespaces_that_changed_until_it_was_read() {
    let (mut host, _) = listening(2);
    assert_eq!(
        host.model.add_namespace(ModelNamespace::of_bytes(1 << 20)),
        2
    );
    assert!(host.model.format(1, 12) && host.model.detach(2));
    assert!(!host.model.detach(3) && !host.model.attach(0));
    assert_eq!(kinds(&come(&mut host)), [CHANGED]);
    for (rae, expected) in [(true, &[1, 2][..]), (false, &[1, 2]), (false, &[])] {
        read_log(&mut host, LogId::ChangedNamespaces, rae);
        let list: NamespaceList = host.page();
        assert_eq!(list.iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_reset_forgets_requests_and_events() {
    let (mut host, _) = listening(1);
    host.model.raise(ModelEvent::Error(1));
    host.model.raise(ModelEvent::Error(2));
    host.enable();
    host.model.raise(ModelEvent::Error(3));
    assert_eq!(come(&mut host), []);
    host.send_admin(Sqe::new(REQUEST.0, 0));
    let error = (AsyncEventType::Error, 3, LogId::Error);
    assert_eq!(kinds(&come(&mut host)), [error]);
}

fn abort(sqid: u16, cid: u16) -> Sqe {
    let abort = Abort {
        sqid: sqid.into(),
        cid: cid.into(),
        ..Sqe::new(AdminOpcode::Abort.0, 0).into()
    };
    abort.into()
}

#[test]
fn a_request_for_events_can_be_aborted() {
    let (mut host, cids) = listening(2);
    let sent = host.send_admin(abort(0, cids[0]));
    let ends: Vec<_> = host
        .take(false, false)
        .iter()
        .map(|end| (end.cid.get(), end.status(), end.result()))
        .collect();
    let aborted = (cids[0], Status::ABORT_REQUESTED, 0);
    assert_eq!(ends, [aborted, (sent, Status::SUCCESS, 0)]);
    let result = host.admin(abort(0, cids[0])).unwrap();
    assert!(AbortResult::from_raw(result as u32).not_aborted());
}

#[test]
fn an_aborted_command_is_not_executed() {
    let mut host = Host::new(ModelOptions::default());
    host.model
        .inject(Matcher::io(NvmOpcode::Write), Fault::Hold);
    let write = host.block(NvmOpcode::Write, 0, false);
    host.write(4 * PAGE, &[9; PAGE]);
    let (cid, tail) = host.put_io(write);
    host.backing.write32(offset::sq_tail(1, 0), tail.into());
    assert_eq!(host.admin(abort(2, cid)), Ok(1), "another queue's");
    assert_eq!(host.admin(abort(1, cid)), Ok(0));
    let ends = host.take(true, false);
    assert_eq!(ends[0].status(), Status::ABORT_REQUESTED);
    assert_eq!((ends[0].cid.get(), host.model.release()), (cid, 0));
    let mut media = [1; 512];
    host.model.read_media(1, 0, &mut media).unwrap();
    assert_eq!(media, [0; 512]);
}
