//! The side that is asked, with a peer that behaves.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::pair::*;
use crate::cm::{CmError, CmEvent, ConnError};
use crate::soft::cm::mad::Attribute;
use crate::soft::cm::reason;

const SOON: Duration = Duration::from_millis(50);

#[test]
fn a_connection_comes_up_and_both_sides_agree_on_it() {
    let mut pair = Pair::new(1);
    let client = pair.connect();
    pair.run(SOON);
    let (server, theirs, data) = pair.request();
    let CmEvent::ConnectRequest { local, remote, .. } = pair.events[SERVER][0] else {
        panic!()
    };
    assert_eq!(local, SocketAddr::new(address(SERVER), PORT));
    assert_eq!(remote.ip(), address(CLIENT));
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
        (address(SERVER), address(CLIENT))
    );
    assert_eq!(
        (ours.local, ours.remote),
        (address(CLIENT), address(SERVER))
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

#[test]
fn the_smaller_number_of_outstanding_reads_holds_in_each_direction() {
    use crate::soft::cm::CmCore;
    let mut pair = Pair::new(2);
    let mut small = config(3);
    small.max_rd_atomic = 4;
    pair.sides[SERVER] = CmCore::new(address(SERVER), small);
    pair.sides[SERVER].listen(PORT).unwrap();
    pair.connect();
    pair.run(SOON);
    pair.accept();
    pair.run(SOON);
    let (_, theirs, _) = pair.request();
    let (_, ours, _) = pair.accepted();
    assert_eq!((theirs.max_rd_atomic, theirs.max_dest_rd_atomic), (4, 4));
    assert_eq!((ours.max_rd_atomic, ours.max_dest_rd_atomic), (4, 4));
}

#[test]
fn a_path_mtu_above_the_own_is_refused_since_a_reply_cannot_lower_it() {
    use crate::soft::cm::CmCore;
    let mut pair = Pair::new(2);
    let mut small = config(3);
    small.path_mtu = 1024;
    pair.sides[SERVER] = CmCore::new(address(SERVER), small);
    pair.sides[SERVER].listen(PORT).unwrap();
    pair.connect();
    pair.run(SOON);
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

#[test]
fn a_port_without_listener_is_refused_as_such() {
    let mut pair = Pair::new(3);
    let to = SocketAddr::new(address(SERVER), PORT + 1);
    pair.sides[CLIENT]
        .connect(to, &params(CLIENT_QPN, b""), pair.now)
        .unwrap();
    pair.run(SOON);
    assert_rejected(&pair, reason::INVALID_SERVICE_ID);
    assert!(pair.events[SERVER].is_empty());
}

#[test]
fn the_consumer_refuses_with_its_own_words() {
    let mut pair = Pair::new(4);
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

#[test]
fn a_lost_reply_is_sent_again() {
    let mut pair = Pair::new(5);
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

#[test]
fn a_lost_ready_to_use_is_sent_again_when_the_reply_comes_again() {
    let mut pair = Pair::new(6);
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

#[test]
fn a_request_that_comes_again_while_the_consumer_decides_asks_for_patience() {
    let mut pair = Pair::new(7);
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

#[test]
fn a_consumer_that_never_decides_loses_the_request() {
    let mut pair = Pair::new(8);
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
    assert_rejected(&pair, reason::TIMEOUT);
}

#[test]
fn an_accepted_peer_that_never_gets_ready_is_given_up() {
    let mut pair = Pair::new(9);
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

#[test]
fn private_data_longer_than_the_message_holds_is_refused() {
    let mut pair = Pair::new(10);
    let now = pair.now;
    let to = SocketAddr::new(address(SERVER), PORT);
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
