//! Asynchronous events, and Abort.

use rstest::rstest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::model::{Fault, Matcher, ModelEvent};
use crate::spec::{
    AdminOpcode, AsyncEventResult, AsyncEventType, CriticalWarning, LogId, NvmOpcode,
};

fn bench(near: ModelOptions) -> Bench {
    Bench::new(near, ModelOptions::default())
}

fn is_readable(controller: &Controller<ModelBacking>) -> bool {
    let event = controller.event_fd().unwrap();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&now)).unwrap() == 1
}

const HOT: CriticalWarning = CriticalWarning::new().with_temperature(true);
const VENDOR: AsyncEventResult = AsyncEventResult::new()
    .with_event_type(AsyncEventType::Vendor)
    .with_information(9)
    .with_log_page(0xc1);

#[rstest]
#[case::an_error(ModelEvent::Error(3), AsyncEvent::Error(3))]
#[case::health(ModelEvent::Health(HOT), AsyncEvent::Health(HOT))]
#[case::a_namespace(
    ModelEvent::NamespaceChanged(1),
    AsyncEvent::NamespacesChanged(vec![1])
)]
fn an_event_is_told_once_and_the_next_of_its_kind_again(
    #[case] raised: ModelEvent,
    #[case] told: AsyncEvent,
) {
    for aerl_z in [0, 1, 3, 255] {
        let bench = bench(ModelOptions {
            aerl_z,
            ..ModelOptions::default()
        });
        let controller = open(&bench.near);
        assert_eq!(controller.take_events().unwrap(), []);
        for _ in 0..5 {
            assert!(!is_readable(&controller));
            bench.near.raise(raised);
            assert!(is_readable(&controller));
            assert_eq!(
                controller.take_events().unwrap(),
                std::slice::from_ref(&told)
            );
            // Reading the log page gave an interrupt, too.
            assert_eq!(controller.take_events().unwrap(), []);
        }
    }
}

#[rstest]
#[case(0, 1)]
#[case(2, 3)]
#[case(3, 4)]
#[case(255, 4)]
fn a_controller_is_given_no_more_requests_than_it_can_hold(#[case] aerl_z: u8, #[case] given: u64) {
    let bench = bench(ModelOptions {
        aerl_z,
        ..ModelOptions::default()
    });
    let requests = Matcher::admin(AdminOpcode::AsyncEventRequest).always();
    let armed = bench.near.inject(requests, Fault::Hold);
    let controller = open(&bench.near);
    assert_eq!(armed.fired(), given);
    controller.take_events().unwrap();
    assert_eq!(armed.fired(), given);
    controller.restart().unwrap();
    assert_eq!(armed.fired(), 2 * given);
}

#[test]
fn an_event_of_another_kind_is_told_as_it_came() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    bench.near.raise(ModelEvent::Other(VENDOR));
    let told = AsyncEvent::Other {
        event_type: AsyncEventType::Vendor,
        information: 9,
        log_page: 0xc1,
    };
    assert_eq!(controller.take_events().unwrap(), [told]);
}

#[test]
fn events_that_come_while_another_command_is_waited_for_are_kept() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    bench.near.raise(ModelEvent::Error(1));
    bench.near.raise(ModelEvent::Health(HOT));
    controller.smart_log().unwrap();
    controller.rescan().unwrap();
    let told = [AsyncEvent::Error(1), AsyncEvent::Health(HOT)];
    assert_eq!(controller.take_events().unwrap(), told);
    assert_eq!(controller.stray_admin_completions(), 0);
}

#[test]
fn without_interrupts_events_are_found_by_looking() {
    let bench = Bench::with_cmbs();
    let options = Options {
        interrupts: false,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    assert!(controller.event_fd().is_none());
    bench.near.raise(ModelEvent::Error(1));
    assert_eq!(controller.take_events().unwrap(), [AsyncEvent::Error(1)]);
}

#[test]
fn an_event_whose_log_page_is_not_answered_is_told_after_a_restart() {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    for event in [ModelEvent::Error(1), ModelEvent::NamespaceChanged(1)] {
        bench.near.raise(event);
    }
    let log_page = Matcher::admin(AdminOpcode::GetLogPage);
    // That of the first event comes.
    bench.near.inject(log_page.after(1), Fault::Drop);
    assert_eq!(controller.take_events().unwrap(), [AsyncEvent::Error(1)]);
    let error = controller.take_events().unwrap_err();
    assert!(matches!(error, DriverError::GivenUp { .. }), "{error}");
    controller.restart().unwrap();
    let events = controller.take_events().unwrap();
    let [AsyncEvent::NamespacesChanged(_)] = &events[..] else {
        panic!("{events:?}")
    };
    // None is lost by what was left over of the time before.
    for n in 0..5 {
        bench.near.raise(ModelEvent::Error(n));
        assert_eq!(controller.take_events().unwrap(), [AsyncEvent::Error(n)]);
    }
}

#[rstest]
#[case(ModelEvent::NamespaceChanged(1), AsyncEvent::NamespacesChanged(vec![]))]
#[case(ModelEvent::Error(2), AsyncEvent::Error(2))]
#[case(ModelEvent::Health(HOT), AsyncEvent::Other {
    event_type: AsyncEventType::Smart,
    information: 1,
    log_page: LogId::Smart.0,
})]
fn an_event_whose_log_page_is_refused_is_told_without_it(
    #[case] raised: ModelEvent,
    #[case] told: AsyncEvent,
) {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let refused = Fault::Status(Status::INVALID_LOG_PAGE);
    bench
        .near
        .inject(Matcher::admin(AdminOpcode::GetLogPage), refused);
    bench.near.raise(raised);
    assert_eq!(controller.take_events().unwrap(), [told]);
}

#[rstest]
#[case::none(4, 4)]
#[case::half_of_them(2, 4 + 5)]
fn a_controller_that_refuses_requests_for_events_is_not_asked_again(
    #[case] refused: u64,
    #[case] asked: u64,
) {
    let bench = Bench::with_cmbs();
    let requests = || Matcher::admin(AdminOpcode::AsyncEventRequest);
    let status = Fault::Status(Status::AER_LIMIT_EXCEEDED);
    bench.near.inject(requests().times(refused), status);
    // A fault that changes nothing, to count the others.
    let others = bench.near.inject(requests().always(), Fault::Delay(0));
    let controller = open(&bench.near);
    for n in 0..5 {
        bench.near.raise(ModelEvent::Error(n));
        let told = controller.take_events().unwrap();
        assert_eq!(told.len(), usize::from(refused < 4));
    }
    assert_eq!(refused + others.fired(), asked);
    controller.smart_log().unwrap();
}

#[test]
fn a_controller_that_does_not_let_events_be_chosen_is_used_all_the_same() {
    let bench = Bench::with_cmbs();
    // The first is Number of Queues.
    let set_features = Matcher::admin(AdminOpcode::SetFeatures).after(1);
    let refused = Fault::Status(Status::INVALID_FIELD);
    let armed = bench.near.inject(set_features, refused);
    let controller = open(&bench.near);
    assert_eq!(armed.fired(), 1);
    bench.near.raise(ModelEvent::Error(4));
    assert_eq!(controller.take_events().unwrap(), [AsyncEvent::Error(4)]);
}

#[test]
fn an_admin_completion_of_no_command_is_counted_and_harms_nobody() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let log_page = Matcher::admin(AdminOpcode::GetLogPage);
    bench.near.inject(log_page, Fault::Twice);
    for _ in 0..3 {
        assert_eq!(controller.smart_log().unwrap().spare_percent, 100);
    }
    assert_eq!(controller.stray_admin_completions(), 1);
}

#[test]
fn an_answer_with_the_identifier_of_no_event_is_no_event() {
    let bench = Bench::with_cmbs();
    // A fault that changes nothing, to count.
    let count = Matcher::any_admin().always();
    let sent = bench.near.inject(count, Fault::Delay(0));
    let controller = open_impatiently(&bench.near);
    bench.near.disarm();
    // Identifiers count from 0; four of the commands are requests for events.
    let cid = sent.fired() as u16 - 4;
    bench
        .near
        .inject(Matcher::any_admin(), Fault::WrongCid(cid ^ 1));
    assert!(controller.smart_log().is_err());
    assert_eq!(controller.stray_admin_completions(), 1);
    controller.restart().unwrap();
    assert_eq!(controller.take_events().unwrap(), []);
}

#[test]
fn a_command_is_aborted_where_the_controller_can() {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    let flushes = Matcher::io(NvmOpcode::Flush).always();
    bench.near.inject(flushes, Fault::Hold);
    for tag in 0..2 {
        queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
    }
    queue.ring();
    let cid = queue.cids_of(1).next().unwrap();
    assert!(controller.abort(queue.qid(), cid).unwrap());
    let mut ends = Vec::new();
    queue.poll(8, |end| ends.push((end.tag, end.status)));
    let [(1, status)] = ends[..] else {
        panic!("{ends:?}")
    };
    assert!(status.same_code(Status::ABORT_REQUESTED), "{status}");
    assert!(!controller.abort(queue.qid(), cid).unwrap(), "it has ended");
    let abort = Matcher::admin(AdminOpcode::Abort);
    bench.near.inject(abort, Fault::Drop);
    assert!(matches!(
        controller.abort(queue.qid(), cid),
        Err(DriverError::Timeout { doing: "Abort", .. })
    ));
    controller.restart().unwrap();
}
