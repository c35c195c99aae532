//! Requests: told, accepted, rejected, refused.

use bytes::Bytes;
use rstest::rstest;

use super::double::PEER;
use super::*;
use crate::cm::{CmError, ConnError};
use crate::nvmf::{ConnectReject, RejectStatus};
use crate::verbs::cm::{EVENTS_PER_POLL, RdmaCmCounters};

/// What the kernel is told when a request is refused before a consumer sees it.
fn refusal() -> [String; 2] {
    let answer = ConnectReject::new(RejectStatus::NoResources);
    [
        format!("reject {:?}", answer.as_bytes()),
        "destroy".to_owned(),
    ]
}

#[test]
fn a_request_is_told_with_its_adapter_its_addresses_and_its_data() {
    let mut pair = Pair::new(&["0.0.0.0:4420"]);
    let request = pair.kernel.request("rxe1");
    let told = pair.poll();
    let [
        CmEvent::ConnectRequest {
            id,
            adapter,
            local,
            remote,
            attrs,
            private_data,
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((*id, *adapter), (conn(request), 1));
    assert_eq!((*local, *remote), (addr(V4), addr(PEER)));
    assert_eq!((attrs.local, attrs.remote), (local.ip(), remote.ip()));
    assert_eq!(private_data, "private");
}

#[test]
fn accepting_names_the_queue_pair_and_the_depths_that_were_agreed() {
    let mut pair = Pair::new(&[V4]);
    pair.kernel.lock().depths = (255, 5);
    let id = pair.accepted();
    assert_eq!(
        pair.kernel.said(),
        ["accept qp 17 resources 32 depth 5 rnr 7 b\"hello\""]
    );
    assert_eq!(pair.cm.accept(id, params(), pair.now), Err(CmError::State));
    assert_eq!(
        pair.cm.reject(id, Bytes::new(), pair.now),
        Err(CmError::State)
    );
}

#[test]
fn a_rejected_request_is_gone_at_once() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.requested();
    pair.cm
        .reject(id, Bytes::from_static(b"no"), pair.now)
        .unwrap();
    assert_eq!(pair.kernel.said(), ["reject [110, 111]", "destroy"]);
    assert_eq!(pair.cm.accept(id, params(), pair.now), Err(CmError::Gone));
    assert_eq!(
        pair.cm.reject(id, Bytes::new(), pair.now),
        Err(CmError::Gone)
    );
    assert_eq!(pair.cm.disconnect(id, pair.now), Err(CmError::Gone));
    assert_eq!(pair.poll(), []);
}

#[test]
fn private_data_that_the_message_does_not_hold_is_an_error_and_the_request_stays() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.requested();
    let long = |len: usize| Bytes::from(vec![0; len]);
    let too_long = |len, max| Err(CmError::PrivateData { len, max });
    let with = |private_data| ConnParams {
        private_data,
        ..params()
    };
    assert_eq!(
        pair.cm.accept(id, with(long(197)), pair.now),
        too_long(197, 196)
    );
    assert_eq!(pair.cm.reject(id, long(149), pair.now), too_long(149, 148));
    assert_eq!(pair.kernel.said(), [""; 0]);
    assert_eq!(pair.cm.accept(id, with(long(196)), pair.now), Ok(()));
}

#[rstest]
#[case::host_gave_up(libc::EINVAL, "gave up")]
#[case::device_gone(libc::ENODEV, "device is gone")]
#[case::memory(libc::ENOMEM, "Cannot allocate memory")]
fn what_the_kernel_does_not_accept_is_gone(#[case] error: i32, #[case] word: &str) {
    let mut pair = Pair::new(&[V4]);
    let id = pair.requested();
    pair.kernel.fail("accept", error);
    let refused = pair.cm.accept(id, params(), pair.now).unwrap_err();
    assert!(refused.to_string().contains(word), "{refused}");
    assert_eq!(pair.kernel.said(), ["destroy"]);
    assert_eq!(pair.cm.disconnect(id, pair.now), Err(CmError::Gone));
}

#[rstest]
#[case::rejected(CallKind::Rejected, 28, "refused by its consumer")]
#[case::stale(CallKind::Rejected, 10, "older connection")]
#[case::odd_code(CallKind::Rejected, -1, "unknown")]
#[case::unreachable(CallKind::Unreachable, -libc::ETIMEDOUT, "did not answer")]
#[case::broken(CallKind::ConnectError, -libc::ENOMEM, "Cannot allocate memory")]
#[case::odd_number(CallKind::ConnectError, i32::MIN, "set-up broke off")]
fn what_does_not_come_about_is_told_with_the_reason(
    #[case] kind: CallKind,
    #[case] status: i32,
    #[case] word: &str,
    #[values(true, false)] accepted: bool,
) {
    let mut pair = Pair::new(&[V4]);
    let id = if accepted {
        pair.accepted()
    } else {
        pair.requested()
    };
    let told = pair.tell(id, kind, status);
    let [CmEvent::Failed { id: failed, error }] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(*failed, id);
    assert!(error.to_string().contains(word), "{error}");
    assert_eq!(
        matches!(error, ConnError::Timeout(_)),
        kind == CallKind::Unreachable
    );
    assert_eq!(pair.kernel.said().last().unwrap(), "destroy");
    assert_eq!(pair.cm.accept(id, params(), pair.now), Err(CmError::Gone));
}

#[test]
fn half_open_requests_beyond_the_bound_are_refused_until_one_is_answered() {
    let mut pair = Pair::new(&[V4]);
    let first = pair.requested();
    pair.accepted();
    pair.requested();
    pair.kernel.said();
    pair.kernel.request("rxe0");
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.kernel.said(), refusal());
    assert_eq!(pair.cm.counters().refused_full, 1);
    pair.cm.reject(first, Bytes::new(), pair.now).unwrap();
    pair.requested();
}

#[test]
fn connections_beyond_the_bound_are_refused_until_one_has_ended() {
    let mut pair = Pair::new(&[V4]);
    let ids: Vec<_> = (0..BOUNDS.connections).map(|_| pair.up()).collect();
    pair.kernel.said();
    pair.kernel.request("rxe0");
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.kernel.said(), refusal());
    pair.tell(ids[0], CallKind::Disconnected, 0);
    pair.up();
}

#[test]
fn requests_by_a_device_that_was_not_opened_are_refused() {
    let mut pair = Pair::new(&["0.0.0.0:4420"]);
    pair.kernel.request("mlx5_9");
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.kernel.said(), refusal());
    let met = RdmaCmCounters {
        requests: 1,
        refused_device: 1,
        ..RdmaCmCounters::default()
    };
    assert_eq!(pair.cm.counters(), met);
}

#[rstest]
#[case::the_system_fails(Some("qp_attrs"), 3)]
#[case::its_addresses_are_not_known(Some("endpoint"), 3)]
#[case::the_path_mtu_is_none(None, 9)]
fn requests_without_attributes_are_refused(#[case] fails: Option<&'static str>, #[case] mtu: u32) {
    let mut pair = Pair::new(&[V4]);
    if let Some(call) = fails {
        pair.kernel.fail(call, libc::EIO);
    }
    pair.kernel.lock().attrs.path_mtu = mtu;
    pair.kernel.request("rxe0");
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.kernel.said(), refusal());
    assert_eq!(pair.cm.counters().refused_attributes, 1);
}

#[test]
fn a_flood_to_be_refused_is_taken_in_turns() {
    let mut pair = Pair::new(&[V4]);
    for _ in 0..2 * EVENTS_PER_POLL {
        pair.kernel.request("mlx5_9");
    }
    assert_eq!(pair.cm.poll(pair.now), None);
    assert_eq!(pair.cm.counters().requests, EVENTS_PER_POLL as u64);
    // The descriptor does not become readable anew: the clock asks.
    assert_eq!(pair.cm.deadline(), Some(pair.now));
    while pair.cm.deadline().is_some() {
        assert_eq!(pair.cm.poll(pair.now), None);
    }
    assert_eq!(
        pair.cm.counters().refused_device,
        2 * EVENTS_PER_POLL as u64
    );
}

#[test]
fn when_events_cannot_be_read_they_are_asked_for_again() {
    let mut pair = Pair::new(&[V4]);
    pair.kernel.request("rxe0");
    pair.kernel.fail("next_event", libc::ENOMEM);
    assert_eq!(pair.poll(), []);
    assert!(pair.cm.deadline().unwrap() > pair.now);
    pair.kernel.lock().fails.clear();
    assert_eq!(pair.pass(Duration::from_secs(1)).len(), 1);
    assert_eq!(pair.cm.deadline(), None);
}
