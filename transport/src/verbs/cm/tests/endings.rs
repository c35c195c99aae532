//! Ends of connections: each told once, each identifier destroyed once.

use rstest::rstest;

use super::*;
use crate::cm::CmError;
use crate::verbs::cm::CLOSING_TIME;

fn ended(id: ConnId) -> [CmEvent; 1] {
    [CmEvent::Disconnected { id }]
}

#[rstest]
#[case::by_the_peer(CallKind::Disconnected, &["disconnect", "destroy"])]
#[case::time_wait_is_over(CallKind::TimewaitExit, &["destroy"])]
#[case::device_removed(CallKind::DeviceRemoval, &["destroy"])]
#[case::peer_unreachable(CallKind::Unreachable, &["destroy"])]
#[case::late_rejection(CallKind::Rejected, &["destroy"])]
fn a_connection_that_was_up_ends(#[case] kind: CallKind, #[case] said: &[&str]) {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    pair.kernel.said();
    assert_eq!(pair.tell(id, kind, 0), ended(id));
    assert_eq!(pair.kernel.said(), said);
    assert_eq!(pair.cm.disconnect(id, pair.now), Err(CmError::Gone));
    assert_eq!(pair.tell(id, CallKind::TimewaitExit, 0), []);
}

#[test]
fn an_end_that_we_ask_for_is_told_when_the_peer_confirms() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    pair.kernel.said();
    pair.cm.disconnect(id, pair.now).unwrap();
    pair.cm.disconnect(id, pair.now).unwrap();
    assert_eq!(pair.kernel.said(), ["disconnect"]);
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.tell(id, CallKind::Disconnected, 0), ended(id));
    assert_eq!(pair.cm.deadline(), None);
    assert_eq!(pair.pass(2 * CLOSING_TIME), []);
    assert_eq!(pair.cm.counters().unconfirmed, 0);
}

#[test]
fn a_peer_that_does_not_confirm_the_end_is_not_waited_for() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    pair.cm.disconnect(id, pair.now).unwrap();
    assert_eq!(pair.cm.deadline(), Some(pair.now + CLOSING_TIME));
    assert_eq!(pair.pass(CLOSING_TIME - Duration::from_millis(1)), []);
    assert_eq!(pair.pass(Duration::from_millis(1)), ended(id));
    assert_eq!(pair.cm.counters().unconfirmed, 1);
    assert_eq!(pair.cm.deadline(), None);
}

#[test]
fn when_both_sides_ask_for_the_end_it_is_told_once() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    // The peer's question is on its way to us when we ask.
    pair.kernel.event(CmId(id.0), CallKind::Disconnected, 0);
    pair.kernel.event(CmId(id.0), CallKind::TimewaitExit, 0);
    pair.cm.disconnect(id, pair.now).unwrap();
    assert_eq!(pair.poll(), ended(id));
    assert_eq!(pair.pass(2 * CLOSING_TIME), []);
}

#[test]
fn a_peer_that_the_kernel_cannot_tell_of_the_end_is_not_waited_for() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    pair.kernel.fail("disconnect", libc::EINVAL);
    pair.cm.disconnect(id, pair.now).unwrap();
    assert_eq!(pair.poll(), ended(id));
}

#[rstest]
fn a_half_open_connection_ends_at_once(#[values(true, false)] accepted: bool) {
    let mut pair = Pair::new(&[V4]);
    let id = if accepted {
        pair.accepted()
    } else {
        pair.requested()
    };
    pair.kernel.said();
    pair.cm.disconnect(id, pair.now).unwrap();
    // That it is destroyed tells the peer.
    assert_eq!(pair.kernel.said(), ["destroy"]);
    assert_eq!(pair.poll(), ended(id));
    assert_eq!(pair.cm.half_open, 0);
}

#[test]
fn an_establishment_that_comes_after_the_end_means_nothing() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.accepted();
    pair.kernel.event(CmId(id.0), CallKind::Established, 0);
    pair.cm.disconnect(id, pair.now).unwrap();
    assert_eq!(pair.poll(), ended(id));
}

#[test]
fn a_second_establishment_means_nothing() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    assert_eq!(pair.tell(id, CallKind::Established, 0), []);
    assert_eq!(pair.tell(id, CallKind::Other(99), 0), []);
    assert_eq!(pair.cm.counters().ignored_events, 2);
    assert_eq!(pair.cm.half_open, 0);
}

#[test]
fn a_connection_whose_address_moved_is_ended_so_that_the_host_connects_anew() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.up();
    pair.kernel.said();
    assert_eq!(pair.tell(id, CallKind::AddrChange, 0), []);
    assert_eq!(pair.kernel.said(), ["disconnect"]);
    assert_eq!(pair.tell(id, CallKind::Disconnected, 0), ended(id));
    assert_eq!(pair.cm.counters().address_changed, 1);
}

#[test]
fn all_connections_of_a_removed_device_end_whatever_their_state() {
    let mut pair = Pair::new(&[V4]);
    let closing = pair.up();
    pair.cm.disconnect(closing, pair.now).unwrap();
    let mut ids = [closing, pair.up(), pair.accepted(), pair.requested()];
    pair.kernel.remove_device("rxe0");
    let mut told = pair.poll();
    told.sort_by_key(|event| match event {
        CmEvent::Disconnected { id } => *id,
        other => panic!("{other:?}"),
    });
    ids.sort();
    let expected: Vec<_> = ids.iter().map(|&id| CmEvent::Disconnected { id }).collect();
    assert_eq!(told, expected);
    assert_eq!(pair.cm.counters().device_removed, 4);
    pair.kernel.said();
    assert!(pair.kernel.lock().ids.is_empty());
}

#[test]
fn dropping_the_manager_ends_everything() {
    let mut pair = Pair::new(&[V4, OTHER]);
    pair.up();
    pair.accepted();
    pair.requested();
    let Pair { cm, kernel, .. } = pair;
    drop(cm);
    kernel.said();
    assert!(kernel.lock().ids.is_empty());
}
