//! Peers that misbehave.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::pair::*;
use crate::cm::CmEvent;
use crate::soft::cm::mad::{Attribute, BODY_LEN, Mad, Message};
use crate::soft::cm::messages::*;
use crate::soft::cm::{CmConfig, CmCore, address as form, reason};

/// A request as a good peer makes it.
pub(super) fn good_req(family: Family, comm: u32, qpn: u32) -> Req {
    req_from(family.address(CLIENT), family.address(SERVER), comm, qpn)
}

pub(super) fn req_from(from: IpAddr, to: IpAddr, comm: u32, qpn: u32) -> Req {
    let mut private_data = [0; 92];
    let header = form::write_ip_header((from, 999).into(), to);
    private_data[..header.len()].copy_from_slice(&header);
    Req {
        local_comm_id: comm.into(),
        service_id: form::service_id(PORT).into(),
        qpn: U24::new(qpn),
        responder_resources: 16,
        timing: ReqTiming::new()
            .with_local_response_timeout(20)
            .with_retry_count(7),
        pkey: 0xffff.into(),
        path: ReqPath::new().with_mtu(5),
        retries: ReqRetries::new().with_max_cm_retries(15),
        primary: Path {
            local_gid: form::gid(from),
            remote_gid: form::gid(to),
            ..Path::default()
        },
        private_data,
        ..Req::default()
    }
}

/// A request as a good peer sends it, by which all of its numbers are known.
pub(super) fn req_between(from: IpAddr, to: IpAddr, n: u32) -> Mad {
    Mad::new(n.into(), &req_from(from, to, n, n % 0x00ff_ff00 + 2))
}

fn server(family: Family) -> CmCore {
    let mut server = CmCore::new(family.address(SERVER), config(60));
    server.listen(PORT).unwrap();
    server
}

/// The reason for which a server rejects this.
fn verdict(family: Family, req: &Req) -> Option<u16> {
    let mut server = server(family);
    let mad = Mad::new(1, req);
    server.handle(family.address(CLIENT), mad.as_bytes(), Instant::now());
    assert_eq!(server.inconsistency(), None);
    let outgoing = server.take_outgoing()?;
    assert!(server.take_event().is_none());
    assert_eq!(server.live(), 0);
    let rej = outgoing.mad;
    assert_eq!(rej.header.attribute(), Attribute::Rej);
    let (_, message) = Mad::read(rej.as_bytes()).unwrap();
    let Message::Rej(rej) = message else { panic!() };
    assert_eq!(rej.remote_comm_id, req.local_comm_id);
    Some(rej.reason.get())
}

type Spoil = fn(&mut Req);

#[rstest::rstest]
#[case::nothing(|_: &mut Req| (), None)]
#[case::unreliable(|r: &mut Req| r.transport.set_service_type(1), Some(reason::INVALID_TRANSPORT_TYPE))]
#[case::xrc(|r: &mut Req| r.retries.set_extended_transport(1), Some(reason::INVALID_TRANSPORT_TYPE))]
#[case::no_listener(|r: &mut Req| r.service_id = form::service_id(1).into(), Some(reason::INVALID_SERVICE_ID))]
#[case::other_service(|r: &mut Req| r.service_id = u64::MAX.into(), Some(reason::INVALID_SERVICE_ID))]
#[case::queue_pair_0(|r: &mut Req| r.qpn = U24::new(0), Some(reason::NO_QP))]
#[case::queue_pair_1(|r: &mut Req| r.qpn = U24::new(1), Some(reason::NO_QP))]
#[case::foreign_source(|r: &mut Req| r.primary.local_gid[15] ^= 1, Some(reason::INVALID_GID))]
#[case::foreign_target(|r: &mut Req| r.primary.remote_gid[15] ^= 1, Some(reason::INVALID_GID))]
#[case::mtu_0(|r: &mut Req| r.path.set_mtu(0), Some(reason::INVALID_MTU))]
#[case::mtu_6(|r: &mut Req| r.path.set_mtu(6), Some(reason::INVALID_MTU))]
#[case::header_version(|r: &mut Req| r.private_data[0] = 0x10, Some(reason::UNSUPPORTED))]
#[case::header_family(|r: &mut Req| r.private_data[1] ^= 0x20, Some(reason::UNSUPPORTED))]
#[case::header_source(|r: &mut Req| r.private_data[19] ^= 1, Some(reason::UNSUPPORTED))]
#[case::header_target(|r: &mut Req| r.private_data[35] ^= 1, Some(reason::UNSUPPORTED))]
#[case::header_missing(|r: &mut Req| r.private_data = [0; 92], Some(reason::UNSUPPORTED))]
#[case::other_partition(|r: &mut Req| r.pkey = 0x8001.into(), Some(reason::UNSUPPORTED))]
#[case::limited_member(|r: &mut Req| r.pkey = 0x7fff.into(), None)]
fn an_unfit_request_is_rejected_with_its_reason(
    #[values(V4, V6)] family: Family,
    #[case] spoil: Spoil,
    #[case] expected: Option<u16>,
) {
    let mut req = good_req(family, 7, 8);
    spoil(&mut req);
    assert_eq!(verdict(family, &req), expected);
}

/// A request from the peer of this number, as by [`req_between`].
fn req_of(family: Family, peer: usize, n: u32) -> (IpAddr, Mad) {
    let from = family.address(peer);
    (from, req_between(from, family.address(SERVER), n))
}

#[rstest::rstest]
fn a_flood_of_requests_takes_no_more_than_the_tables_hold(#[values(V4, V6)] family: Family) {
    let mut server = server(family);
    let now = Instant::now();
    let mut events = 0;
    for n in 0..10_000u32 {
        let (from, mad) = req_of(family, 2 + n as usize % 251, n);
        server.handle(from, mad.as_bytes(), now);
        assert_eq!(server.inconsistency(), None);
        while server.take_event().is_some() {
            events += 1;
        }
        while server.take_outgoing().is_some() {}
    }
    assert_eq!(server.live(), 4);
    assert_eq!(events, 4);
    assert_eq!(server.counters().drops.half_open, 9_996);
    // They time out, and good peers get in again.
    server.tick(now + Duration::from_secs(21));
    assert_eq!(server.live(), 0);
    while server.take_event().is_some() {}
    let (from, mad) = req_of(family, CLIENT, 1);
    server.handle(from, mad.as_bytes(), now);
    assert!(matches!(
        server.take_event(),
        Some(CmEvent::ConnectRequest { .. })
    ));
}

#[rstest::rstest]
fn a_peer_that_floods_leaves_room_for_others(#[values(V4, V6)] family: Family) {
    let config = CmConfig {
        max_connections: 40,
        max_of_peer: 30,
        max_half_open: 20,
        max_half_open_of_peer: 10,
        ..config(61)
    };
    let mut server = CmCore::new(family.address(SERVER), config);
    server.listen(PORT).unwrap();
    let now = Instant::now();
    for n in 0..1000 {
        let (from, mad) = req_of(family, 2, n);
        server.handle(from, mad.as_bytes(), now);
    }
    assert_eq!(server.live(), 10);
    assert_eq!(server.counters().drops.half_open_of_peer, 990);
    let (from, mad) = req_of(family, CLIENT, 7);
    server.handle(from, mad.as_bytes(), now);
    assert_eq!(server.live(), 11);

    // Nor can it have all by being quick to confirm.
    let mut n = 1000;
    while n < 1100 {
        while let Some(event) = server.take_event() {
            let CmEvent::ConnectRequest { id, remote, .. } = event else {
                continue;
            };
            if remote.ip() == family.address(2) {
                server.accept(id, &params(n, b""), now).unwrap();
            }
        }
        while let Some(outgoing) = server.take_outgoing() {
            let Ok((_, Message::Rep(rep))) = Mad::read(outgoing.mad.as_bytes()) else {
                continue;
            };
            let rtu = Rtu {
                local_comm_id: rep.remote_comm_id,
                remote_comm_id: rep.local_comm_id,
                ..Rtu::default()
            };
            server.handle(outgoing.to, Mad::new(1, &rtu).as_bytes(), now);
        }
        let (from, mad) = req_of(family, 2, n);
        server.handle(from, mad.as_bytes(), now);
        assert_eq!(server.inconsistency(), None);
        n += 1;
    }
    assert_eq!(server.live(), 31, "30 of the one, 1 of the other");
    assert!(server.counters().refused > 0);
}

#[test]
fn a_consumer_that_takes_no_events_stops_the_intake_instead_of_growing_the_queue() {
    let mut server = server(V4);
    let mut now = Instant::now();
    for n in 0..1_000u32 {
        let mad = Mad::new(n.into(), &good_req(V4, n, n + 2));
        server.handle(V4.address(CLIENT), mad.as_bytes(), now);
        now += Duration::from_secs(40);
        server.tick(now);
        assert_eq!(server.inconsistency(), None);
    }
    let mut events = 0;
    while server.take_event().is_some() {
        events += 1;
    }
    assert!(events <= 3 * 8 + 1, "{events}");
    assert!(server.counters().drops.crowded > 900);
    assert!(server.has_outgoing());
}

#[rstest::rstest]
fn the_same_number_with_another_queue_pair_is_stale(#[values(V4, V6)] family: Family) {
    let mut server = server(family);
    let now = Instant::now();
    let from = family.address(CLIENT);
    let [first, second] = [8, 9].map(|qpn| Mad::new(1, &good_req(family, 7, qpn)));
    server.handle(from, first.as_bytes(), now);
    assert!(server.take_event().is_some());
    server.handle(from, second.as_bytes(), now);
    assert!(server.take_event().is_none());
    let rej = server.take_outgoing().unwrap().mad;
    assert_eq!(rej.header.attribute(), Attribute::Rej);
    assert_eq!(
        rej.as_bytes()[24 + 10..24 + 12],
        reason::STALE_CONNECTION.to_be_bytes()
    );
}

#[test]
fn identifiers_and_sequence_numbers_follow_no_pattern_and_differ_by_secret() {
    let numbers = |secret| {
        let mut client = CmCore::new(V4.address(CLIENT), config(secret));
        let mut seen = Vec::new();
        for qpn in 2..10 {
            let to = (V4.address(SERVER), PORT).into();
            client
                .connect(to, &params(qpn, b""), Instant::now())
                .unwrap();
            let bytes = client.take_outgoing().unwrap().mad;
            let req = Req::read_from_bytes(&bytes.as_bytes()[24..]).unwrap();
            seen.push(req.local_comm_id.get());
            seen.push(req.starting_psn.get());
        }
        seen
    };
    let (one, other) = (numbers(1), numbers(2));
    let mut all = [one, other].concat();
    let len = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), len);
}

/// Bodies that have a chance to get somewhere: numbers from small sets.
fn nasty_body() -> impl Strategy<Value = [u8; BODY_LEN]> {
    let random = proptest::collection::vec(any::<u8>(), BODY_LEN);
    (any::<bool>(), random, 0u32..4, 0u32..4, 0u32..5).prop_map(|(good, bytes, a, b, qpn)| {
        let mut body: [u8; BODY_LEN] = if good {
            good_req(V4, a, qpn).as_bytes().try_into().unwrap()
        } else {
            bytes.try_into().unwrap()
        };
        body[..4].copy_from_slice(&a.to_be_bytes());
        if !good {
            body[4..8].copy_from_slice(&b.to_be_bytes());
        }
        body
    })
}

proptest! {
    #[test]
    fn arbitrary_messages_never_panic_nor_break_the_tables(
        messages in proptest::collection::vec(
            (0x0fu16..=0x17, nasty_body(), 0u64..4, any::<bool>(), 0u64..3), 1..120
        ),
        decisions: [u8; 16],
    ) {
        let mut server = server(V4);
        let start = Instant::now();
        let mut now = start;
        let (mut taken, mut sent, mut decided) = (0, 0, 0);
        for (attribute, body, transaction, real, seconds) in messages {
            let mut bytes = [0; 256];
            bytes.copy_from_slice(Mad::new(transaction, &Drep::read_from_bytes(&body).unwrap()).as_bytes());
            bytes[16..18].copy_from_slice(&attribute.to_be_bytes());
            if real && attribute != 0x10 && let Some(local) = server.local_comm_ids().next() {
                bytes[28..32].copy_from_slice(&local.to_be_bytes());
            }
            taken += 1;
            server.handle(V4.address(CLIENT), &bytes, now);
            assert_eq!(server.inconsistency(), None);
            now += Duration::from_secs(seconds * 3);
            server.tick(now);
            assert_eq!(server.inconsistency(), None);
            while let Some(event) = server.take_event() {
                if let CmEvent::ConnectRequest { id, .. } = event {
                    decided += 1;
                    let _ = match decisions[decided % 16] % 4 {
                        0 => server.accept(id, &params(5, b"x"), now),
                        1 => server.reject(id, b"no"),
                        2 => server.disconnect(id, now),
                        _ => Ok(()),
                    };
                }
            }
            while server.take_outgoing().is_some() {
                sent += 1;
            }
        }
        // One answer a message, what the consumer said, and what timers repeat.
        prop_assert!(sent <= taken + decided + server.counters().repeated as usize + 8 * decided);
        for _ in 0..50 {
            now += Duration::from_secs(10);
            server.tick(now);
            while server.take_event().is_some() {}
            while server.take_outgoing().is_some() {}
        }
        assert_eq!(server.inconsistency(), None);
    }
}
