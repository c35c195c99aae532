//! The side that is asked, with a peer that behaves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::hostile::good_req;
use super::pair::*;
use crate::cm::{CmError, CmEvent, ConnError};
use crate::soft::cm::mad::{Attribute, Mad, Message};
use crate::soft::cm::messages::Rej;
use crate::soft::cm::{CmConfig, CmCore, reason};

const SOON: Duration = Duration::from_millis(50);

#[rstest::rstest]
fn a_connection_comes_up_and_both_sides_agree_on_it(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 1);
    let client = pair.connect();
    pair.run(SOON);
    let (server, theirs, data) = pair.request();
    let CmEvent::ConnectRequest { local, remote, .. } = pair.events[SERVER][0] else {
        panic!()
    };
    assert_eq!(local, SocketAddr::new(family.address(SERVER), PORT));
    assert_eq!(remote.ip(), family.address(CLIENT));
    assert_ne!(remote.port(), 0);
    assert_eq!(data.len(), 56);
    assert_eq!(&data[..6], b"hello\0");

    pair.accept();
    pair.run(SOON);
    let (accepted, ours, data) = pair.accepted();
    assert_eq!(accepted, client);
    assert_eq!(data.len(), 196);
    assert_eq!(&data[..8], b"welcome\0");

    assert_eq!(
        (theirs.local, theirs.remote),
        (family.address(SERVER), family.address(CLIENT))
    );
    assert_eq!(
        (ours.local, ours.remote),
        (family.address(CLIENT), family.address(SERVER))
    );
    assert_eq!(
        (theirs.remote_qpn, ours.remote_qpn),
        (CLIENT_QPN, SERVER_QPN)
    );
    assert_eq!((theirs.sq_psn, theirs.rq_psn), (ours.rq_psn, ours.sq_psn));
    assert_ne!(theirs.sq_psn, theirs.rq_psn);
    assert_eq!((theirs.path_mtu, ours.path_mtu), (4096, 4096));
    assert_eq!((theirs.max_rd_atomic, theirs.max_dest_rd_atomic), (16, 16));
    assert_eq!((ours.max_rd_atomic, ours.max_dest_rd_atomic), (16, 16));
    assert_eq!((theirs.retry_count, theirs.rnr_retry), (7, 7));
    assert_eq!((ours.retry_count, ours.rnr_retry), (7, 7));
    assert_eq!(theirs.timeout, ours.timeout);

    pair.establish();
    pair.run(SOON);
    assert_eq!(
        pair.events[SERVER].last(),
        Some(&CmEvent::Established { id: server })
    );
    assert_eq!(pair.log.len(), 3, "REQ, REP, RTU: {:?}", pair.log);
    assert_eq!(pair.sides[CLIENT].deadline(), None);
    assert_eq!(pair.sides[SERVER].deadline(), None);
}

#[rstest::rstest]
fn the_smaller_number_of_outstanding_reads_holds_in_each_direction(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 2);
    let max_rd_atomic = 4;
    pair.replace(
        SERVER,
        CmConfig {
            max_rd_atomic,
            ..config(3)
        },
    );
    pair.connect();
    pair.run(SOON);
    pair.accept();
    pair.run(SOON);
    let (_, theirs, _) = pair.request();
    let (_, ours, _) = pair.accepted();
    assert_eq!((theirs.max_rd_atomic, theirs.max_dest_rd_atomic), (4, 4));
    assert_eq!((ours.max_rd_atomic, ours.max_dest_rd_atomic), (4, 4));
}

#[rstest::rstest]
#[case::the_sides_agree(1024, 1024, 1024, 1)]
#[case::the_asker_has_less(1024, 4096, 1024, 1)]
#[case::the_asked_has_less_and_says_so(4096, 1024, 1024, 2)]
#[case::the_least(4096, 256, 256, 2)]
fn both_sides_use_the_smaller_path_mtu(
    #[values(V4, V6)] family: Family,
    #[case] client: u32,
    #[case] server: u32,
    #[case] agreed: u32,
    #[case] requests: usize,
) {
    let mut pair = Pair::new(family, 2);
    for (side, path_mtu) in [(CLIENT, client), (SERVER, server)] {
        pair.replace(
            side,
            CmConfig {
                path_mtu,
                ..config(3 + side as u64)
            },
        );
    }
    // The first rejection comes twice; the second time it is old.
    pair.weather.duplicate_percent = 100;
    pair.connect();
    pair.run(SOON);
    pair.weather.duplicate_percent = 0;
    assert_eq!(pair.sent(CLIENT, Attribute::Req), requests);
    assert_eq!(pair.sent(SERVER, Attribute::Rej), 2 * (requests - 1));
    pair.accept();
    pair.run(SOON);
    let (_, theirs, _) = pair.request();
    let (_, ours, _) = pair.accepted();
    assert_eq!((theirs.path_mtu, ours.path_mtu), (agreed, agreed));
}

/// What a peer that cannot ask for less hears, Linux among them.
#[rstest::rstest]
fn a_path_mtu_above_the_own_is_refused_with_the_largest_that_is_taken(
    #[values(V4, V6)] family: Family,
) {
    let mut server = CmCore::new(
        family.address(SERVER),
        CmConfig {
            path_mtu: 1024,
            ..config(3)
        },
    );
    server.listen(PORT).unwrap();
    let req = good_req(family, 7, 8);
    server.handle(
        family.address(CLIENT),
        Mad::new(1, &req).as_bytes(),
        Instant::now(),
    );
    let mad = server.take_outgoing().unwrap().mad;
    let (_, Message::Rej(rej)) = Mad::read(mad.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(
        (rej.reason.get(), rej.info()),
        (reason::INVALID_MTU, &[3 << 4][..])
    );
}

/// A rejection of the kind that the client understands, but of no use to it.
#[rstest::rstest]
#[case::nothing_said(&[])]
#[case::no_mtu(&[0])]
#[case::as_large(&[5 << 4])]
#[case::larger_than_any(&[6 << 4])]
fn a_path_mtu_that_cannot_be_lowered_fails_the_connection(
    #[values(V4, V6)] family: Family,
    #[case] info: &[u8],
) {
    let mut pair = Pair::new(family, 2);
    pair.blocked.push((CLIENT, Attribute::Req));
    pair.sides[CLIENT]
        .connect(pair.target(), &params(CLIENT_QPN, b""), pair.now)
        .unwrap();
    let req = pair.sides[CLIENT].take_outgoing().unwrap().mad;
    let mut rej = Rej {
        remote_comm_id: pair.sides[CLIENT].local_comm_ids().next().unwrap().into(),
        reason: reason::INVALID_MTU.into(),
        ..Rej::default()
    };
    rej.set_info(info);
    let mad = Mad::new(req.header.transaction.get(), &rej);
    pair.inject(SERVER, CLIENT, &mad, SOON);
    pair.run(Duration::from_secs(1));
    assert_rejected(&pair, reason::INVALID_MTU);
}

fn assert_rejected(pair: &Pair, expected: u16) {
    let CmEvent::Failed {
        error: ConnError::Rejected { reason, .. },
        ..
    } = &pair.events[CLIENT][0]
    else {
        panic!("{:?}", pair.events[CLIENT]);
    };
    assert_eq!(*reason, expected);
}

#[rstest::rstest]
fn a_port_without_listener_is_refused_as_such(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 3);
    let to = SocketAddr::new(family.address(SERVER), PORT + 1);
    pair.sides[CLIENT]
        .connect(to, &params(CLIENT_QPN, b""), pair.now)
        .unwrap();
    pair.run(SOON);
    assert_rejected(&pair, reason::INVALID_SERVICE_ID);
    assert!(pair.events[SERVER].is_empty());
}

#[rstest::rstest]
fn the_consumer_refuses_with_its_own_words(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 4);
    let client = pair.connect();
    pair.run(SOON);
    let (server, ..) = pair.request();
    let now = pair.now;
    pair.sides[SERVER]
        .reject(server, b"\x00\x00\x06\x00")
        .unwrap();
    assert_eq!(
        pair.sides[SERVER].accept(server, &params(1, b""), now),
        Err(CmError::Gone)
    );
    pair.run(SOON);
    let [CmEvent::Failed { id, error }] = &pair.events[CLIENT][..] else {
        panic!()
    };
    let ConnError::Rejected {
        reason,
        private_data,
        ..
    } = error
    else {
        panic!()
    };
    assert_eq!((*id, *reason), (client, reason::CONSUMER));
    assert_eq!(private_data.len(), 148);
    assert_eq!(&private_data[..5], b"\x00\x00\x06\x00\x00");
    assert_eq!(pair.sides[CLIENT].live() + pair.sides[SERVER].live(), 0);
}

#[rstest::rstest]
fn a_lost_reply_is_sent_again(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 5);
    pair.connect();
    pair.run(SOON);
    pair.blocked.push((SERVER, Attribute::Rep));
    pair.accept();
    pair.run(Duration::from_millis(1200));
    pair.blocked.clear();
    pair.run(Duration::from_secs(5));
    pair.establish();
    pair.run(SOON);
    assert!(matches!(
        pair.events[SERVER].last(),
        Some(CmEvent::Established { .. })
    ));
}

#[rstest::rstest]
fn a_lost_ready_to_use_is_sent_again_when_the_reply_comes_again(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 6);
    pair.connect();
    pair.run(SOON);
    pair.accept();
    pair.run(SOON);
    pair.blocked.push((CLIENT, Attribute::Rtu));
    pair.establish();
    pair.run(SOON);
    assert_eq!(pair.events[SERVER].len(), 1);
    pair.blocked.clear();
    pair.run(Duration::from_secs(1));
    assert!(matches!(
        pair.events[SERVER].last(),
        Some(CmEvent::Established { .. })
    ));
    assert_eq!(pair.sent(CLIENT, Attribute::Rtu), 2);
}

#[rstest::rstest]
fn a_request_that_comes_again_while_the_consumer_decides_asks_for_patience(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 7);
    pair.connect();
    pair.run(Duration::from_secs(2));
    assert_eq!(
        pair.events[SERVER].len(),
        1,
        "one request, however often it came"
    );
    assert_eq!(pair.sent(CLIENT, Attribute::Req), 2, "then the peer waits");
    assert_eq!(pair.sent(SERVER, Attribute::Mra), 1);
    pair.accept();
    pair.run(SOON);
    pair.establish();
    pair.run(SOON);
    assert!(matches!(
        pair.events[SERVER].last(),
        Some(CmEvent::Established { .. })
    ));
}

#[rstest::rstest]
fn a_consumer_that_never_decides_loses_the_request(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 8);
    pair.connect();
    pair.run(Duration::from_secs(120));
    let (id, ..) = pair.request();
    let now = pair.now;
    assert!(pair.events[SERVER].iter().any(|event| matches!(
        event,
        CmEvent::Failed { id: gone, error: ConnError::Timeout(_) } if *gone == id
    )));
    assert_eq!(
        pair.sides[SERVER].accept(id, &params(2, b""), now),
        Err(CmError::Gone)
    );
    assert_rejected(&pair, reason::NO_RESOURCES);
}

#[rstest::rstest]
fn an_accepted_peer_that_never_gets_ready_is_given_up(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 9);
    pair.connect();
    pair.run(SOON);
    pair.blocked.push((SERVER, Attribute::Rep));
    pair.blocked.push((SERVER, Attribute::Rej));
    pair.blocked.push((CLIENT, Attribute::Rej));
    let id = pair.accept();
    pair.run(Duration::from_secs(200));
    let failed = CmEvent::Failed {
        id,
        error: ConnError::Timeout(match &pair.events[SERVER][0] {
            CmEvent::ConnectRequest { remote, .. } => *remote,
            other => panic!("{other:?}"),
        }),
    };
    assert!(
        pair.events[SERVER].contains(&failed),
        "{:?}",
        pair.events[SERVER]
    );
    assert!(pair.sent(SERVER, Attribute::Rep) >= 8);
    assert_eq!(pair.sides[SERVER].live(), 0);
}

/// 12.7.26 counts repetitions, 12.7.5 the time that an answer may take; the one is
/// no excuse to cut the other short.
#[rstest::rstest]
fn a_peer_that_allows_no_repetition_still_has_the_time_that_it_named(
    #[values(V4, V6)] family: Family,
) {
    let mut pair = Pair::new(family, 11);
    let mut req = good_req(family, 7, CLIENT_QPN);
    req.retries.set_max_cm_retries(0);
    pair.blocked.push((SERVER, Attribute::Rep));
    pair.inject(CLIENT, SERVER, &Mad::new(1, &req), SOON);
    pair.run(Duration::from_secs(1));
    let id = pair.accept();
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.events[SERVER].len(), 1, "4.3 s are not over");
    pair.run(Duration::from_secs(1));
    assert!(matches!(pair.events[SERVER][1], CmEvent::Failed { id: failed, .. } if failed == id));
    assert_eq!(pair.sent(SERVER, Attribute::Rep), 1);
}

#[rstest::rstest]
fn private_data_longer_than_the_message_holds_is_refused(#[values(V4, V6)] family: Family) {
    let mut pair = Pair::new(family, 10);
    let now = pair.now;
    let to = SocketAddr::new(family.address(SERVER), PORT);
    let long = |len: usize| {
        let mut params = params(CLIENT_QPN, b"");
        params.private_data = Bytes::from(vec![0; len]);
        params
    };
    let too_long = |len, max| Err(CmError::PrivateData { len, max });
    assert_eq!(
        pair.sides[CLIENT].connect(to, &long(57), now).map(|_| ()),
        too_long(57, 56)
    );
    pair.sides[CLIENT].connect(to, &long(56), now).unwrap();
    pair.run(SOON);
    let (id, ..) = pair.request();
    let server = &mut pair.sides[SERVER];
    assert_eq!(server.accept(id, &long(197), now), too_long(197, 196));
    assert_eq!(server.reject(id, &[0; 149]), too_long(149, 148));
    server.accept(id, &long(196), now).unwrap();
    assert_eq!(server.reject(id, &[]), Err(CmError::State));
    assert_eq!(server.establish(id), Err(CmError::State));
}
