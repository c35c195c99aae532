//! Attributes of queue pairs.

use std::net::IpAddr;

use bytes::Bytes;
use rstest::rstest;

use super::double::ATTRS;
use crate::nic::QpAttrs;
use crate::verbs::cm::attrs::agree;
use crate::verbs::cm::calls::{CallAttrs, CallEvent, CallKind, CmId};

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

fn request(responder_resources: u8, initiator_depth: u8) -> CallEvent {
    CallEvent {
        id: CmId(1),
        kind: CallKind::ConnectRequest,
        status: 0,
        responder_resources,
        initiator_depth,
        private_data: Bytes::new(),
    }
}

#[test]
fn attributes_are_the_kernel_s_with_a_short_wait_after_receiver_not_ready() {
    assert_eq!(
        agree(&ATTRS, &request(4, 8), LOCAL, REMOTE),
        Some(QpAttrs {
            local: LOCAL,
            remote: REMOTE,
            remote_qpn: 0x1234,
            sq_psn: 22,
            rq_psn: 11,
            path_mtu: 1024,
            max_rd_atomic: 8,
            max_dest_rd_atomic: 4,
            timeout: 17,
            retry_count: 6,
            rnr_retry: 5,
            min_rnr_timer: 12,
            vector: ATTRS.vector,
        })
    );
}

#[rstest]
#[case::peer_offers_less((1, 2), (1, 2))]
#[case::device_has_less((255, 255), (32, 16))]
#[case::peer_reads_nothing_and_answers_nothing((0, 0), (0, 0))]
#[case::each_by_its_own_limit((20, 20), (20, 16))]
fn depths_are_the_lesser_of_peer_and_device(
    #[case] (resources, depth): (u8, u8),
    #[case] (max_dest_rd_atomic, max_rd_atomic): (u8, u8),
) {
    let attrs = agree(&ATTRS, &request(resources, depth), LOCAL, REMOTE).unwrap();
    assert_eq!(attrs.max_dest_rd_atomic, max_dest_rd_atomic);
    assert_eq!(attrs.max_rd_atomic, max_rd_atomic);
}

#[test]
fn a_path_mtu_is_one_of_five() {
    let mtus = (0..=6).map(|path_mtu| {
        let call = CallAttrs { path_mtu, ..ATTRS };
        agree(&call, &request(0, 0), LOCAL, REMOTE).map(|attrs| attrs.path_mtu)
    });
    let sizes = [256, 512, 1024, 2048, 4096].map(Some);
    assert!(mtus.eq([None].into_iter().chain(sizes).chain([None])));
}
