//! The side that asks.

use std::net::SocketAddr;
use std::time::Duration;

use super::pair::*;
use crate::cm::{CmError, CmEvent, ConnError};
use crate::soft::cm::mad::{Attribute, Mad};
use crate::soft::cm::messages::{Mra, Rep, RepTransport, Subject, U24, Upper5};
use crate::soft::cm::reason;

const SOON: Duration = Duration::from_millis(50);

#[rstest::rstest]
fn a_request_is_sent_again_and_given_up_in_the_end(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 20);
    pair.blocked.push((CLIENT, Attribute::Req));
    let id = pair.connect();
    pair.run(Duration::from_secs(60));
    let peer = SocketAddr::new(family.address(SERVER), PORT);
    assert_eq!(
        pair.events[CLIENT],
        [CmEvent::Failed {
            id,
            error: ConnError::Timeout(peer)
        }]
    );
    assert_eq!(pair.sent(CLIENT, Attribute::Req), 8);
    assert_eq!(
        pair.sent(CLIENT, Attribute::Rej),
        1,
        "the peer may hold half a connection"
    );
    assert_eq!(pair.sides[CLIENT].live(), 0);
    assert_eq!(pair.sides[CLIENT].deadline(), None);
}

#[rstest::rstest]
fn a_request_that_was_given_up_is_withdrawn_from_the_peer(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 21);
    pair.blocked.push((SERVER, Attribute::Mra));
    let client = pair.connect();
    pair.run(SOON);
    let now = pair.now;
    pair.sides[CLIENT].disconnect(client, now).unwrap();
    pair.run(SOON);
    assert_eq!(pair.events[CLIENT], [CmEvent::Disconnected { id: client }]);
    let (server, ..) = pair.request();
    let CmEvent::Failed {
        id,
        error: ConnError::Rejected { reason, .. },
    } = &pair.events[SERVER][1]
    else {
        panic!("{:?}", pair.events[SERVER]);
    };
    assert_eq!((*id, *reason), (server, reason::TIMEOUT));
}

#[rstest::rstest]
fn a_peer_that_asks_for_patience_gets_it_once(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 22);
    pair.blocked.push((CLIENT, Attribute::Req));
    pair.connect();
    let req = pair.sides[CLIENT].local_comm_ids().next().unwrap();
    let mra = Mra {
        remote_comm_id: req.into(),
        subject: Subject::Req.into(),
        // 17.2 s
        service_timeout: Upper5::new().with_value(22),
        ..Mra::default()
    };
    let mra = Mad::new(1, &mra);
    pair.inject(SERVER, CLIENT, &mra, SOON);
    pair.run(Duration::from_secs(15));
    assert_eq!(pair.sent(CLIENT, Attribute::Req), 1);
    pair.inject(SERVER, CLIENT, &mra, SOON);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.sent(CLIENT, Attribute::Req), 2);
    pair.run(Duration::from_secs(120));
    assert!(matches!(pair.events[CLIENT][..], [CmEvent::Failed { .. }]));
}

#[rstest::rstest]
fn a_reply_that_comes_again_while_the_consumer_gets_ready_asks_for_patience(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 23);
    pair.connect();
    pair.run(SOON);
    pair.accept();
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.sent(SERVER, Attribute::Rep), 2);
    assert_eq!(pair.sent(CLIENT, Attribute::Mra), 1);
    let accepted = pair.events[CLIENT].len();
    assert_eq!(accepted, 1);
    pair.establish();
    pair.run(SOON);
    assert!(matches!(
        pair.events[SERVER].last(),
        Some(CmEvent::Established { .. })
    ));
}

#[rstest::rstest]
fn a_consumer_that_never_gets_ready_loses_the_connection_on_both_sides(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 24);
    pair.connect();
    pair.run(SOON);
    pair.accept();
    pair.run(Duration::from_secs(40));
    assert!(matches!(
        pair.events[CLIENT].last(),
        Some(CmEvent::Failed {
            error: ConnError::Timeout(_),
            ..
        })
    ));
    assert!(matches!(
        pair.events[SERVER].last(),
        Some(CmEvent::Failed {
            error: ConnError::Rejected {
                reason: reason::TIMEOUT,
                ..
            },
            ..
        })
    ));
    assert_eq!(pair.sides[CLIENT].live() + pair.sides[SERVER].live(), 0);
}

#[rstest::rstest]
fn a_reply_to_nothing_is_rejected_so_that_the_peer_lets_go(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 25);
    let rep = Rep {
        remote_comm_id: 77.into(),
        qpn: U24::new(9),
        ..Rep::default()
    };
    pair.inject(SERVER, CLIENT, &Mad::new(1, &rep), SOON);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.sent(CLIENT, Attribute::Rej), 1);
    assert!(pair.events[CLIENT].is_empty());
}

/// An appeal for patience never shortens it.
#[rstest::rstest]
fn a_peer_that_asks_for_less_patience_than_it_has_changes_nothing(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 29);
    pair.blocked.push((CLIENT, Attribute::Req));
    pair.connect();
    // The waits have grown: the next repetition is due at 7.5 s.
    pair.run(Duration::from_secs(4));
    let due = pair.sides[CLIENT].deadline();
    let mra = Mra {
        remote_comm_id: pair.sides[CLIENT].local_comm_ids().next().unwrap().into(),
        subject: Subject::Req.into(),
        ..Mra::default()
    };
    pair.inject(SERVER, CLIENT, &Mad::new(1, &mra), SOON);
    pair.run(2 * SOON);
    assert_eq!(pair.sides[CLIENT].deadline(), due);
}

/// Before a peer's adapter is given up it has twice the time that it named.
#[rstest::rstest]
#[case::a_quick_adapter(5, 17)]
#[case::as_slow_as_the_own(19, 17)]
#[case::a_slower_one(20, 18)]
#[case::one_without_end(31, 19)]
fn all_retries_together_cover_the_delay_that_the_peer_names(
    #[values(V4, V6)] family: Family,
    #[case] delay: u8,
    #[case] timeout: u8,
) {
    let mut pair = Pair::new(family, 30);
    pair.blocked.push((CLIENT, Attribute::Req));
    pair.connect();
    let rep = Rep {
        local_comm_id: 77.into(),
        remote_comm_id: pair.sides[CLIENT].local_comm_ids().next().unwrap().into(),
        qpn: U24::new(9),
        transport: RepTransport::new().with_target_ack_delay(delay),
        ..Rep::default()
    };
    pair.inject(SERVER, CLIENT, &Mad::new(1, &rep), SOON);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.accepted().1.timeout, timeout);
}

#[rstest::rstest]
fn a_reply_with_a_queue_pair_in_use_is_stale(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 26);
    let (first, _) = pair.up();
    pair.connect_with(CLIENT_QPN + 1);
    pair.run(SOON);
    pair.accept();
    pair.run(Duration::from_secs(2));
    let stale = pair.events[CLIENT].iter().any(|event| {
        matches!(event, CmEvent::Failed { error: ConnError::Rejected { reason, .. }, .. }
            if *reason == reason::STALE_CONNECTION)
    });
    assert!(stale, "{:?}", pair.events[CLIENT]);
    assert!(
        pair.events[CLIENT].contains(&CmEvent::Disconnected { id: first }),
        "the peer uses the queue pair anew, so the old connection is gone"
    );
}

#[rstest::rstest]
fn another_address_family_is_refused(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 27);
    let other = if family == V4 { V6 } else { V4 };
    let to = SocketAddr::new(other.address(SERVER), PORT);
    let now = pair.now;
    assert_eq!(
        pair.sides[CLIENT].connect(to, &params(2, b""), now),
        Err(CmError::State)
    );
}

#[rstest::rstest]
fn a_full_table_refuses_to_connect(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 28);
    pair.blocked.push((CLIENT, Attribute::Req));
    for qpn in 2..10 {
        pair.connect_with(qpn);
    }
    let to = SocketAddr::new(family.address(SERVER), PORT);
    let now = pair.now;
    assert_eq!(
        pair.sides[CLIENT].connect(to, &params(2, b""), now),
        Err(CmError::Full(8))
    );
    pair.run(Duration::from_secs(60));
    pair.sides[CLIENT]
        .connect(to, &params(2, b""), pair.now)
        .unwrap();
}
