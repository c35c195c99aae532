//! What a queue pair is brought up with: the library's attributes, the peer's
//! wishes, the device's limits.

use std::net::IpAddr;

use crate::nic::QpAttrs;
use crate::verbs::cm::calls::{CallAttrs, CallEvent};

/// How long peers wait after receiver-not-ready: 0.64 ms. The library leaves it
/// at 0, which stands for the longest time there is, 655 ms.
const RNR_TIMER: u8 = 12;

/// The attributes, or `None` when the path MTU is not one.
///
/// The event tells both depths from this side's view: what the peer said of
/// itself is crossed over already (`man rdma_get_cm_event`). Each is bounded by
/// what the device takes.
pub(super) fn agree(
    call: &CallAttrs,
    event: &CallEvent,
    local: IpAddr,
    remote: IpAddr,
) -> Option<QpAttrs> {
    Some(QpAttrs {
        local,
        remote,
        remote_qpn: call.remote_qpn,
        sq_psn: call.sq_psn,
        rq_psn: call.rq_psn,
        path_mtu: bytes(call.path_mtu)?,
        max_rd_atomic: event.initiator_depth.min(call.device_initiator_depth),
        max_dest_rd_atomic: event
            .responder_resources
            .min(call.device_responder_resources),
        timeout: call.timeout,
        retry_count: call.retry_count,
        rnr_retry: call.rnr_retry,
        min_rnr_timer: RNR_TIMER,
        vector: call.vector,
    })
}

/// `enum ibv_mtu` in bytes.
fn bytes(mtu: u32) -> Option<u32> {
    (1..=5).contains(&mtu).then(|| 128 << mtu)
}
