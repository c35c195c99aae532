//! Values in the words of this crate, and what they are called in verbs.
#![forbid(unsafe_code)]

use rdma_sys as sys;
use sys::{ibv_access_flags, ibv_mtu, ibv_qp_attr_mask, ibv_qp_state};

use super::types::{MrAccess, QpChange, Rtr, Rts};
use crate::nic::AddressVector;

/// `enum ibv_access_flags`. Never relaxed ordering: the flush needs the order.
pub(super) fn access_flags(access: MrAccess) -> u32 {
    use ibv_access_flags as Flag;
    let pairs = [
        (access.local_write, Flag::IBV_ACCESS_LOCAL_WRITE),
        (access.remote_read, Flag::IBV_ACCESS_REMOTE_READ),
        (access.remote_write, Flag::IBV_ACCESS_REMOTE_WRITE),
    ];
    let set = pairs.iter().filter(|(wanted, _)| *wanted);
    set.fold(0, |flags, (_, flag)| flags | flag.0)
}

/// Puts a change into the structure, and says which of its fields count.
pub(super) fn describe(change: &QpChange, attr: &mut sys::ibv_qp_attr) -> ibv_qp_attr_mask {
    use ibv_qp_attr_mask as Mask;
    match *change {
        QpChange::Init {
            port,
            pkey_index,
            access,
        } => {
            attr.qp_state = ibv_qp_state::IBV_QPS_INIT;
            attr.pkey_index = pkey_index;
            attr.port_num = port;
            attr.qp_access_flags = access_flags(access);
            Mask::IBV_QP_STATE
                | Mask::IBV_QP_PKEY_INDEX
                | Mask::IBV_QP_PORT
                | Mask::IBV_QP_ACCESS_FLAGS
        }
        QpChange::Rtr(Rtr {
            path_mtu,
            remote_qpn,
            rq_psn,
            max_dest_rd_atomic,
            min_rnr_timer,
            vector,
        }) => {
            attr.qp_state = ibv_qp_state::IBV_QPS_RTR;
            attr.path_mtu = mtu_code(path_mtu);
            attr.dest_qp_num = remote_qpn;
            attr.rq_psn = rq_psn;
            attr.max_dest_rd_atomic = max_dest_rd_atomic;
            attr.min_rnr_timer = min_rnr_timer;
            attr.ah_attr = address(&vector);
            Mask::IBV_QP_STATE
                | Mask::IBV_QP_AV
                | Mask::IBV_QP_PATH_MTU
                | Mask::IBV_QP_DEST_QPN
                | Mask::IBV_QP_RQ_PSN
                | Mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | Mask::IBV_QP_MIN_RNR_TIMER
        }
        QpChange::Rts(Rts {
            sq_psn,
            max_rd_atomic,
            timeout,
            retry_count,
            rnr_retry,
        }) => {
            attr.qp_state = ibv_qp_state::IBV_QPS_RTS;
            attr.sq_psn = sq_psn;
            attr.max_rd_atomic = max_rd_atomic;
            attr.timeout = timeout;
            attr.retry_cnt = retry_count;
            attr.rnr_retry = rnr_retry;
            Mask::IBV_QP_STATE
                | Mask::IBV_QP_SQ_PSN
                | Mask::IBV_QP_MAX_QP_RD_ATOMIC
                | Mask::IBV_QP_TIMEOUT
                | Mask::IBV_QP_RETRY_CNT
                | Mask::IBV_QP_RNR_RETRY
        }
        QpChange::Error => {
            attr.qp_state = ibv_qp_state::IBV_QPS_ERR;
            Mask::IBV_QP_STATE
        }
    }
}

fn address(vector: &AddressVector) -> sys::ibv_ah_attr {
    sys::ibv_ah_attr {
        grh: sys::ibv_global_route {
            dgid: sys::ibv_gid { raw: vector.dgid },
            flow_label: vector.flow_label,
            sgid_index: vector.sgid_index,
            hop_limit: vector.hop_limit,
            traffic_class: vector.traffic_class,
        },
        dlid: vector.dlid,
        sl: vector.service_level,
        src_path_bits: vector.source_path_bits,
        static_rate: vector.static_rate,
        is_global: u8::from(vector.is_global),
        port_num: vector.port,
    }
}

/// Payload bytes that a code stands for.
pub(super) fn mtu_bytes(code: ibv_mtu::Type) -> u32 {
    match code {
        ibv_mtu::IBV_MTU_256 => 256,
        ibv_mtu::IBV_MTU_512 => 512,
        ibv_mtu::IBV_MTU_2048 => 2048,
        ibv_mtu::IBV_MTU_4096 => 4096,
        _ => 1024,
    }
}

/// The largest code whose packets are not longer.
fn mtu_code(bytes: u32) -> ibv_mtu::Type {
    match bytes {
        4096.. => ibv_mtu::IBV_MTU_4096,
        2048.. => ibv_mtu::IBV_MTU_2048,
        1024.. => ibv_mtu::IBV_MTU_1024,
        512.. => ibv_mtu::IBV_MTU_512,
        _ => ibv_mtu::IBV_MTU_256,
    }
}
