//! Listeners: their life, and what is said when they cannot be had.

use rstest::rstest;

use super::*;
use crate::cm::CmError;
use crate::verbs::cm::{ListenerPhase, ListenerState, explain};

fn phases(pair: &Pair) -> Vec<ListenerPhase> {
    let states = pair.cm.listeners().get();
    states.into_iter().map(|state| state.phase).collect()
}

#[test]
fn hosts_are_let_in_when_asked_for_and_not_before() {
    let mut pair = Pair::bind(&[V4, "[::]:4420"]).unwrap();
    let states = pair.cm.listeners();
    let state = |at: &str, device: Option<&str>, phase: &ListenerPhase| ListenerState {
        at: addr(at),
        device: device.map(str::to_owned),
        phase: phase.clone(),
    };
    let bound = ListenerPhase::Bound;
    assert_eq!(
        states.get(),
        [
            state(V4, Some("rxe0"), &bound),
            state("[::]:4420", None, &bound)
        ]
    );
    assert!(!pair.kernel.listens(V4));
    pair.cm.listen(addr(V4)).unwrap();
    pair.cm.listen(addr(V4)).unwrap();
    assert!(pair.kernel.listens(V4) && !pair.kernel.listens("[::]:4420"));
    assert_eq!(phases(&pair), [ListenerPhase::Listening, bound]);
}

#[test]
fn an_address_that_was_not_bound_before_is_bound_when_listened_on() {
    let mut pair = Pair::bind(&[]).unwrap();
    pair.cm.listen(addr(OTHER)).unwrap();
    assert!(pair.kernel.listens(OTHER));
    let refused = pair.cm.listen(addr("198.51.100.1:4420")).unwrap_err();
    assert!(refused.to_string().contains("rdma link"), "{refused}");
    assert_eq!(pair.kernel.lock().ids.len(), 1);
}

#[test]
fn listeners_are_at_most_so_many() {
    let ports: Vec<_> = (0..64)
        .map(|port| format!("192.0.2.1:{}", 5000 + port))
        .collect();
    let ports: Vec<_> = ports.iter().map(String::as_str).collect();
    let mut pair = Pair::bind(&ports).unwrap();
    assert_eq!(pair.cm.listen(addr(V4)), Err(CmError::Full(64)));
    let all = [ports, vec![V4]].concat();
    assert!(Pair::bind(&all).err().unwrap().to_string().contains("64"));
}

#[test]
fn what_cannot_be_bound_leaves_nothing_behind() {
    for call in ["create", "bind", "endpoint"] {
        let kernel = Handle::default();
        kernel.fail(call, libc::EIO);
        assert!(Pair::over(kernel.clone(), &[V4]).is_err());
        assert!(kernel.lock().ids.is_empty(), "{call}");
    }
}

#[test]
fn loopback_addresses_are_refused_since_nobody_could_connect() {
    for at in ["127.0.0.1:4420", "[::1]:4420"] {
        let refused = Pair::bind(&[at]).err().unwrap().to_string();
        assert!(refused.contains("loopback"), "{refused}");
    }
}

#[test]
fn a_listener_whose_device_was_removed_comes_back_with_the_device() {
    let mut pair = Pair::new(&[V4, OTHER]);
    pair.kernel.remove_device("rxe0");
    assert_eq!(pair.poll(), []);
    assert_eq!(pair.kernel.listener(V4), None);
    assert!(pair.kernel.listens(OTHER));
    let [ListenerPhase::Waiting { reason }, ListenerPhase::Listening] = &phases(&pair)[..] else {
        panic!("{:?}", phases(&pair));
    };
    assert!(reason.contains("rxe0 was removed"), "{reason}");

    // Tried now and then, at growing distances.
    let mut tried = 0;
    let start = pair.now;
    while pair.now < start + Duration::from_secs(60) {
        pair.now = pair.cm.deadline().unwrap();
        assert_eq!(pair.poll(), []);
        tried += 1;
    }
    assert!((10..16).contains(&tried), "{tried}");
    let [ListenerPhase::Waiting { reason }, _] = &phases(&pair)[..] else {
        panic!("{:?}", phases(&pair));
    };
    assert!(reason.contains("no RDMA device"), "{reason}");

    pair.kernel.add_device(V4, "rxe0");
    pair.now = pair.cm.deadline().unwrap();
    pair.poll();
    assert!(pair.kernel.listens(V4));
    assert_eq!(
        phases(&pair),
        [ListenerPhase::Listening, ListenerPhase::Listening]
    );
    assert_eq!(pair.cm.deadline(), None);
    pair.up();
}

#[test]
fn a_listener_whose_address_moved_is_made_again_at_once() {
    let mut pair = Pair::new(&[V4]);
    let before = pair.kernel.listener(V4).unwrap();
    pair.kernel.add_device(V4, "rxe1");
    pair.kernel.event(before, CallKind::AddrChange, 0);
    pair.poll();
    assert_eq!(pair.cm.deadline(), Some(pair.now));
    pair.poll();
    let after = pair.kernel.listener(V4).unwrap();
    assert!(after != before && pair.kernel.listens(V4));
    assert_eq!(pair.cm.listeners().get()[0].device.as_deref(), Some("rxe1"));
    pair.kernel.said();
}

#[test]
fn a_listener_that_can_be_bound_but_not_listen_is_tried_again() {
    let mut pair = Pair::new(&[V4]);
    let before = pair.kernel.listener(V4).unwrap();
    pair.kernel.fail("listen", libc::EADDRINUSE);
    pair.kernel.event(before, CallKind::AddrChange, 0);
    pair.poll();
    pair.poll();
    assert_eq!(pair.kernel.listener(V4), None);
    pair.kernel.lock().fails.clear();
    pair.pass(Duration::from_secs(1));
    assert!(pair.kernel.listens(V4));
}

#[test]
fn a_listener_that_is_lost_before_hosts_are_let_in_is_bound_again_when_they_are() {
    let mut pair = Pair::bind(&[V4]).unwrap();
    pair.kernel.remove_device("rxe0");
    pair.pass(Duration::from_secs(60));
    assert!(pair.cm.listen(addr(V4)).is_err());
    pair.kernel.add_device(V4, "rxe0");
    assert!(!pair.kernel.listens(V4));
    pair.cm.listen(addr(V4)).unwrap();
    assert!(pair.kernel.listens(V4));
}

#[test]
fn other_events_of_a_listener_mean_nothing() {
    let mut pair = Pair::new(&[V4]);
    let id = pair.kernel.listener(V4).unwrap();
    pair.kernel.event(id, CallKind::Disconnected, 0);
    assert_eq!(pair.poll(), []);
    assert_eq!(phases(&pair), [ListenerPhase::Listening]);
    assert_eq!(pair.cm.counters().ignored_events, 1);
}

#[rstest]
#[case::address(libc::EADDRNOTAVAIL, "192.0.2.1:4420", "ip address")]
#[case::wildcard_and_address(libc::EADDRNOTAVAIL, "0.0.0.0:4420", "rdma resource")]
#[case::device(libc::ENODEV, "192.0.2.1:4420", "rdma link add")]
#[case::port(libc::EADDRINUSE, "192.0.2.1:4420", "rdma resource")]
#[case::low_port(libc::EACCES, "192.0.2.1:420", "CAP_NET_BIND_SERVICE")]
#[case::link_local(libc::EINVAL, "[fe80::1]:4420", "[fe80::1%2]")]
#[case::family(libc::EAFNOSUPPORT, "[2001:db8::1]:4420", "IPv6")]
#[case::other(libc::EIO, "192.0.2.1:4420", "dmesg")]
fn what_keeps_from_listening_is_told_with_the_remedy(
    #[case] error: i32,
    #[case] at: &str,
    #[case] word: &str,
) {
    let (reason, remedy) = explain::listen(addr(at), &std::io::Error::from_raw_os_error(error));
    assert!(remedy.contains(word), "{reason}; {remedy}");
}

#[rstest]
#[case::no_device(libc::ENODEV, "rdma link add")]
#[case::no_module(libc::ENOENT, "modprobe rdma_ucm")]
#[case::not_permitted(libc::EACCES, "as root")]
#[case::version(libc::EPERM, "rdma-core")]
#[case::other(libc::EMFILE, "dmesg")]
fn what_keeps_from_connection_management_is_told_with_the_remedy(
    #[case] error: i32,
    #[case] word: &str,
) {
    let refused = explain::channel(&std::io::Error::from_raw_os_error(error));
    assert!(refused.to_string().contains(word), "{refused}");
}
