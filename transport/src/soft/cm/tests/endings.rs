//! How connections end.

use std::time::Duration;

use super::pair::*;
use crate::cm::{CmError, CmEvent, ConnError};
use crate::soft::cm::mad::{Attribute, Mad};
use crate::soft::cm::messages::{Dreq, Rej, Subject, U24};
use crate::soft::cm::reason;

const SOON: Duration = Duration::from_millis(50);

fn assert_all_gone(pair: &mut Pair) {
    pair.run(Duration::from_secs(60));
    for side in &pair.sides {
        assert_eq!(side.live(), 0);
        assert_eq!(side.deadline(), None, "nothing left to do");
    }
}

#[rstest::rstest]
#[case(CLIENT)]
#[case(SERVER)]
fn either_side_ends_it_and_both_hear_of_it_once(
    #[values(V4, V6)] family: Family,
    #[case] first: usize,
) {
    let mut pair = Pair::new(family, 40);
    let (client, server) = pair.up();
    let ids = [client, server];
    let now = pair.now;
    pair.sides[first].disconnect(ids[first], now).unwrap();
    pair.sides[first].disconnect(ids[first], now).unwrap();
    pair.run(SOON);
    assert_eq!(pair.events[CLIENT], [CmEvent::Disconnected { id: client }]);
    assert_eq!(pair.events[SERVER], [CmEvent::Disconnected { id: server }]);
    assert_eq!(pair.sent(first, Attribute::Dreq), 1);
    assert_eq!(pair.sent(1 - first, Attribute::Drep), 1);
    assert_eq!(pair.log.len(), 2);
    let now = pair.now;
    assert_eq!(
        pair.sides[first].disconnect(ids[first], now),
        Err(CmError::Gone)
    );
    assert_all_gone(&mut pair);
}

#[rstest::rstest]
fn both_sides_may_end_it_at_the_same_time(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 41);
    let (client, server) = pair.up();
    let now = pair.now;
    pair.sides[CLIENT].disconnect(client, now).unwrap();
    pair.sides[SERVER].disconnect(server, now).unwrap();
    pair.run(SOON);
    assert_eq!(pair.events[CLIENT], [CmEvent::Disconnected { id: client }]);
    assert_eq!(pair.events[SERVER], [CmEvent::Disconnected { id: server }]);
    assert_all_gone(&mut pair);
}

#[rstest::rstest]
fn a_lost_answer_to_a_disconnect_is_given_again(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 42);
    let (client, _) = pair.up();
    pair.blocked.push((SERVER, Attribute::Drep));
    let now = pair.now;
    pair.sides[CLIENT].disconnect(client, now).unwrap();
    pair.run(Duration::from_secs(1));
    assert!(pair.events[CLIENT].is_empty());
    assert_eq!(pair.events[SERVER].len(), 1);
    pair.blocked.clear();
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.events[CLIENT], [CmEvent::Disconnected { id: client }]);
    assert_eq!(pair.events[SERVER].len(), 1);
    assert_all_gone(&mut pair);
}

#[rstest::rstest]
fn a_dead_peer_does_not_keep_a_connection_from_ending(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 43);
    let (client, _) = pair.up();
    pair.weather.loss_percent = 100;
    let now = pair.now;
    pair.sides[CLIENT].disconnect(client, now).unwrap();
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.events[CLIENT], [CmEvent::Disconnected { id: client }]);
    assert_eq!(pair.sent(CLIENT, Attribute::Dreq), 5);
}

#[rstest::rstest]
fn a_disconnect_of_an_unknown_connection_is_answered(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 44);
    let dreq = Dreq {
        local_comm_id: 5.into(),
        remote_comm_id: 6.into(),
        ..Dreq::default()
    };
    pair.inject(CLIENT, SERVER, &Mad::new(1, &dreq), SOON);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.sent(SERVER, Attribute::Drep), 1);
    assert!(pair.events[SERVER].is_empty());
}

#[rstest::rstest]
fn a_disconnect_that_names_another_queue_pair_is_passed_over(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 45);
    pair.up();
    let [local, remote] =
        [SERVER, CLIENT].map(|side| pair.sides[side].local_comm_ids().next().unwrap());
    let dreq = |qpn| Dreq {
        local_comm_id: remote.into(),
        remote_comm_id: local.into(),
        remote_qpn: U24::new(qpn),
        ..Dreq::default()
    };
    pair.inject(CLIENT, SERVER, &Mad::new(1, &dreq(SERVER_QPN + 1)), SOON);
    pair.run(Duration::from_secs(1));
    assert!(pair.events[SERVER].is_empty());
    pair.inject(CLIENT, SERVER, &Mad::new(1, &dreq(SERVER_QPN)), SOON);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.events[SERVER].len(), 1);
}

#[rstest::rstest]
fn an_accepted_connection_can_be_ended_before_the_peer_is_ready(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 46);
    pair.connect();
    pair.run(SOON);
    let server = pair.accept();
    pair.run(SOON);
    let now = pair.now;
    pair.sides[SERVER].disconnect(server, now).unwrap();
    pair.run(SOON);
    assert!(pair.events[SERVER].contains(&CmEvent::Disconnected { id: server }));
    let (client, ..) = pair.accepted();
    assert!(pair.events[CLIENT].contains(&CmEvent::Disconnected { id: client }));
    assert_all_gone(&mut pair);
}

#[rstest::rstest]
fn a_peer_that_starts_anew_with_its_old_queue_pair_ends_the_old_connection(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 47);
    let (_, server) = pair.up();
    // The same queue pair number, another connection: the client has forgotten.
    let again = pair.connect();
    pair.run(SOON);
    assert!(pair.events[CLIENT].iter().any(|event| matches!(
        event,
        CmEvent::Failed { id, error: ConnError::Rejected { reason, .. } }
            if *id == again && *reason == reason::STALE_CONNECTION
    )));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.events[SERVER], [CmEvent::Disconnected { id: server }]);
    pair.events = [Vec::new(), Vec::new()];
    pair.connect();
    pair.run(SOON);
    pair.request();
}

/// The one side has accepted and then changes its mind, while the other, which
/// cannot get ready, rejects.
#[rstest::rstest]
fn a_disconnect_and_a_rejection_that_cross_end_it_once_on_each_side(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 49);
    pair.connect();
    pair.run(SOON);
    let server = pair.accept();
    pair.run(SOON);
    let (client, ..) = pair.accepted();
    pair.log.clear();
    let now = pair.now;
    pair.sides[SERVER].disconnect(server, now).unwrap();
    pair.sides[CLIENT].disconnect(client, now).unwrap();
    pair.run(SOON);
    assert_eq!(
        pair.log[..2],
        [(CLIENT, Attribute::Rej), (SERVER, Attribute::Dreq)]
    );
    for (side, id) in [(CLIENT, client), (SERVER, server)] {
        let ends = pair.events[side].iter().filter(|event| {
            matches!(event, CmEvent::Disconnected { id: ended } | CmEvent::Failed { id: ended, .. }
                if *ended == id)
        });
        assert_eq!(ends.count(), 1, "{:?}", pair.events[side]);
    }
    assert_all_gone(&mut pair);
}

#[rstest::rstest]
fn a_peer_that_starts_anew_before_it_was_ready_ends_the_half_open_connection(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 50);
    pair.connect();
    pair.run(SOON);
    let server = pair.accept();
    pair.run(SOON);
    // The peer forgets all that.
    pair.replace(CLIENT, config(51));
    pair.events = [Vec::new(), Vec::new()];
    pair.connect();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.events[SERVER], [CmEvent::Disconnected { id: server }]);
    pair.connect();
    pair.run(SOON);
    pair.request();
}

/// A peer that gave its request up cannot have said that it is ready.
#[rstest::rstest]
fn a_request_that_is_withdrawn_late_does_not_end_what_is_up(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 52);
    pair.up();
    let remote = pair.sides[CLIENT].local_comm_ids().next().unwrap();
    let rej = Rej {
        local_comm_id: remote.into(),
        subject: Subject::Other.into(),
        reason: reason::TIMEOUT.into(),
        ..Rej::default()
    };
    pair.inject(CLIENT, SERVER, &Mad::new(1, &rej), SOON);
    pair.run(Duration::from_secs(1));
    assert!(pair.events[SERVER].is_empty());
    let drops = pair.sides[SERVER].counters().drops;
    assert_eq!(drops.unknown_connection, 1);
}

#[rstest::rstest]
fn a_rejection_with_both_numbers_ends_a_connection_and_with_wrong_ones_does_not(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 48);
    let (_, server) = pair.up();
    let [local, remote] =
        [SERVER, CLIENT].map(|side| pair.sides[side].local_comm_ids().next().unwrap());
    for (theirs, ours, ends) in [
        (remote ^ 1, local, false),
        (remote, local ^ 1, false),
        (remote, local, true),
    ] {
        let rej = Rej {
            local_comm_id: theirs.into(),
            remote_comm_id: ours.into(),
            subject: Subject::Other.into(),
            reason: reason::CONSUMER.into(),
            ..Rej::default()
        };
        pair.inject(CLIENT, SERVER, &Mad::new(1, &rej), SOON);
        pair.run(Duration::from_secs(1));
        let ended = pair.events[SERVER].contains(&CmEvent::Disconnected { id: server });
        assert_eq!(ended, ends, "{theirs:x} {ours:x}");
    }
}
