//! The forms of messages.

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::soft::cm::mad::{Attribute, BODY_LEN, MAD_LEN, Mad, MadError, Message};
use crate::soft::cm::messages::*;
use crate::soft::cm::packet::{self, PACKET_LEN};
use crate::soft::psn::Psn;

/// A REQ with a different value in each field, and the bytes that the
/// specification puts them at.
#[test]
fn the_fields_of_a_request_stand_where_the_specification_puts_them() {
    let mut body = [0; BODY_LEN];
    body[0..4].copy_from_slice(&0x0102_0304u32.to_be_bytes());
    body[8..16].copy_from_slice(&0x0106_1144u64.to_be_bytes());
    body[16..24].copy_from_slice(&0x1122_3344_5566_7788u64.to_be_bytes());
    body[32..36].copy_from_slice(&[0xab, 0xcd, 0xef, 16]);
    body[39] = 7;
    body[43] = 20 << 3 | 1 << 1 | 1;
    body[44..48].copy_from_slice(&[0x12, 0x34, 0x56, 19 << 3 | 6]);
    body[48..52].copy_from_slice(&[0xff, 0xff, 5 << 4 | 7, 15 << 4 | 1 << 3]);
    body[52..56].copy_from_slice(&[0xff, 0xff, 0xff, 0xfe]);
    body[71] = 0xaa;
    body[87] = 0xbb;
    body[88..96].copy_from_slice(&[0x98, 0x76, 0x50, 3, 0xe0, 64, 5 << 4 | 1 << 3, 18 << 3]);
    body[140] = 0xcc;
    body[231] = 0xdd;
    let req = Req::ref_from_bytes(&body).unwrap();
    assert_eq!(req.local_comm_id.get(), 0x0102_0304);
    assert_eq!(req.service_id.get(), 0x0106_1144);
    assert_eq!(req.ca_guid.get(), 0x1122_3344_5566_7788);
    assert_eq!((req.qpn.get(), req.responder_resources), (0x00ab_cdef, 16));
    assert_eq!(req.initiator_depth, 7);
    assert_eq!(req.transport.remote_response_timeout(), 20);
    assert_eq!(req.transport.service_type(), 1);
    assert!(req.transport.end_to_end_flow_control());
    assert_eq!(req.starting_psn.get(), 0x0012_3456);
    assert_eq!(
        (
            req.timing.local_response_timeout(),
            req.timing.retry_count()
        ),
        (19, 6)
    );
    assert_eq!(req.pkey.get(), 0xffff);
    assert_eq!(
        (req.path.mtu(), req.path.rdc_exists(), req.path.rnr_retry()),
        (5, false, 7)
    );
    assert_eq!(
        (
            req.retries.max_cm_retries(),
            req.retries.extended_transport()
        ),
        (15, 0)
    );
    assert!(req.retries.shared_receive_queue());
    assert_eq!(
        (req.primary.local_lid.get(), req.primary.remote_lid.get()),
        (0xffff, 0xfffe)
    );
    assert_eq!(
        (req.primary.local_gid[15], req.primary.remote_gid[15]),
        (0xaa, 0xbb)
    );
    assert_eq!(
        (req.primary.flow_label.get() >> 4, req.primary.rate),
        (0x98765, 3)
    );
    assert_eq!(
        (req.primary.traffic_class, req.primary.hop_limit),
        (0xe0, 64)
    );
    assert_eq!(req.primary.level.service_level(), 5);
    assert!(req.primary.level.subnet_local());
    assert_eq!(req.primary.ack_timeout.value(), 18);
    assert_eq!((req.private_data[0], req.private_data[91]), (0xcc, 0xdd));
}

#[test]
fn the_fields_of_a_reply_stand_where_the_specification_puts_them() {
    let rep = Rep {
        local_comm_id: 1.into(),
        remote_comm_id: 2.into(),
        qpn: U24::new(0x00ab_cdef),
        starting_psn: U24::new(0x0012_3456),
        responder_resources: 8,
        initiator_depth: 16,
        transport: RepTransport::new()
            .with_target_ack_delay(15)
            .with_failover(2),
        retries: RepRetries::new()
            .with_rnr_retry(6)
            .with_shared_receive_queue(true),
        ca_guid: 0x1122_3344_5566_7788.into(),
        private_data: [0x5a; 196],
        ..Rep::default()
    };
    let bytes = rep.as_bytes();
    assert_eq!(bytes[..8], [0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(
        bytes[8..24],
        [
            0, 0, 0, 0, 0xab, 0xcd, 0xef, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0
        ]
    );
    assert_eq!(bytes[24..28], [8, 16, 15 << 3 | 2 << 1, 6 << 5 | 1 << 4]);
    assert_eq!(bytes[28..36], 0x1122_3344_5566_7788u64.to_be_bytes());
    assert_eq!(bytes[36], 0x5a);
}

#[test]
fn the_fields_of_a_rejection_stand_where_the_specification_puts_them() {
    let mut rej = Rej {
        subject: Subject::Rep.into(),
        reason: 28.into(),
        private_data: [0x5a; 148],
        ..Rej::default()
    };
    rej.set_info(&[9; 8]);
    let bytes = rej.as_bytes();
    assert_eq!(bytes[8..12], [0x40, 8 << 1, 0, 28]);
    assert_eq!(
        (bytes[12], bytes[19], bytes[20], bytes[84]),
        (9, 9, 0, 0x5a)
    );
    rej.set_info(&[1; 100]);
    assert_eq!(rej.info_len, 72 << 1);
}

#[test]
fn the_header_is_that_of_communication_management() {
    let mad = Mad::new(0x0102_0304_0506_0708, &Rtu::default());
    let bytes = mad.as_bytes();
    assert_eq!(bytes.len(), MAD_LEN);
    assert_eq!(bytes[..8], [1, 7, 2, 3, 0, 0, 0, 0]);
    assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[16..24], [0, 0x14, 0, 0, 0, 0, 0, 0]);
}

#[rstest::rstest]
#[case(0, 2, MadError::Class)]
#[case(1, 3, MadError::Class)]
#[case(2, 1, MadError::Class)]
#[case(3, 0x81, MadError::Class)]
#[case(17, 0x19, MadError::Attribute(0x19))]
fn what_is_no_message_is_told_apart(#[case] at: usize, #[case] value: u8, #[case] error: MadError) {
    let mad = Mad::new(1, &Rtu::default());
    let mut bytes = mad.as_bytes().to_vec();
    bytes[at] = value;
    assert_eq!(Mad::read(&bytes).unwrap_err(), error);
    assert_eq!(Mad::read(&bytes[1..]).unwrap_err(), MadError::Length(255));
}

fn round_trip(attribute: u16, transaction: u64, body: &[u8; BODY_LEN]) {
    macro_rules! each {
        ($($message:ident)*) => {
            match Attribute(attribute) {
                $(Attribute::$message => {
                    let sent = $message::read_from_bytes(body).unwrap();
                    let mad = Mad::new(transaction, &sent);
                    let (header, message) = Mad::read(mad.as_bytes()).unwrap();
                    assert_eq!(header.transaction.get(), transaction);
                    let Message::$message(got) = message else { panic!("{message:?}") };
                    assert_eq!(got.as_bytes(), body);
                })*
                _ => unreachable!(),
            }
        };
    }
    each!(Req Mra Rej Rep Rtu Dreq Drep);
}

fn any_body() -> impl Strategy<Value = [u8; BODY_LEN]> {
    proptest::collection::vec(any::<u8>(), BODY_LEN).prop_map(|bytes| bytes.try_into().unwrap())
}

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was_sent(
        attribute in 0x10u16..=0x16, transaction: u64, body in any_body(),
    ) {
        round_trip(attribute, transaction, &body);
    }

    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Mad::read(&bytes);
        let from = "192.0.2.1:4791".parse().unwrap();
        prop_assert!(packet::read("192.0.2.2".parse().unwrap(), from, &bytes).is_err());
    }

    #[test]
    fn a_packet_gives_back_its_datagram(body in any_body(), psn in 0u32..1 << 24) {
        let mad = Mad::new(9, &Drep::read_from_bytes(&body).unwrap());
        let (from, to) = ("192.0.2.1:4791".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut bytes = [0xee; PACKET_LEN];
        packet::write(&mut bytes, std::net::SocketAddr::ip(&from), to, Psn::new(psn), &mad).unwrap();
        prop_assert_eq!(packet::read(to, from, &bytes), Ok(mad.as_bytes()));
        bytes[PACKET_LEN / 2] ^= 1;
        prop_assert_eq!(packet::read(to, from, &bytes), Err(packet::Unwelcome::Icrc));
    }
}

#[test]
fn a_packet_is_as_long_as_linux_sends_it() {
    assert_eq!(PACKET_LEN, 280);
}
