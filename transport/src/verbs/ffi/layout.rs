//! What this crate relies on in the layout of rdma-core's structures. The
//! generated ones are right by construction; those that `rdma-sys` wrote by hand
//! are not, and the compiler says so here if they ever differ.
//!
//! The numbers are of the 64-bit ABI of libibverbs 1; the test compares them with
//! what a C compiler makes of the installed header.
#![forbid(unsafe_code)]

use std::mem::{offset_of, size_of};

use rdma_sys as sys;

use super::objects::RawAsyncEvent;

/// States sizes and offsets once, for the compiler and for the test.
macro_rules! layouts {
    ($($type:ident $size:literal { $($field:ident $offset:literal)* })*) => {
        const _: () = {
            $(
                assert!(size_of::<sys::$type>() == $size);
                $(assert!(offset_of!(sys::$type, $field) == $offset);)*
            )*
        };

        #[cfg(test)]
        const LAYOUTS: &[(&str, usize, &[(&str, usize)])] = &[
            $((stringify!($type), $size, &[$((stringify!($field), $offset)),*]),)*
        ];
    };
}

layouts! {
    ibv_send_wr 128 {
        wr_id 0 next 8 sg_list 16 num_sge 24 opcode 28 send_flags 32
        imm_data_invalidated_rkey_union 36 wr 40
    }
    ibv_sge 16 { addr 0 length 8 lkey 12 }
    ibv_recv_wr 32 { wr_id 0 next 8 sg_list 16 num_sge 24 }
    ibv_wc 48 {
        wr_id 0 status 8 opcode 12 byte_len 20 imm_data_invalidated_rkey_union 24 qp_num 28
        wc_flags 36
    }
    ibv_ah_attr 32 {
        grh 0 dlid 24 sl 26 src_path_bits 27 static_rate 28 is_global 29 port_num 30
    }
    ibv_global_route 24 { dgid 0 flow_label 16 sgid_index 20 hop_limit 21 traffic_class 22 }
    ibv_qp_attr 144 {
        qp_state 0 path_mtu 8 rq_psn 20 sq_psn 24 dest_qp_num 28 qp_access_flags 32 ah_attr 56
        pkey_index 120 max_rd_atomic 126 max_dest_rd_atomic 127 min_rnr_timer 128 port_num 129
        timeout 130 retry_cnt 131 rnr_retry 132
    }
    ibv_qp_init_attr 64 { send_cq 8 recv_cq 16 srq 24 cap 32 qp_type 52 sq_sig_all 56 }
    ibv_srq_init_attr 24 { attr 8 }
    ibv_srq_attr 12 { max_wr 0 max_sge 4 srq_limit 8 }
    ibv_device_attr 232 {
        max_qp 108 max_qp_wr 112 device_cap_flags 116 max_sge 120 max_sge_rd 124 max_cq 128
        max_cqe 132 max_mr 136 max_qp_rd_atom 144 max_qp_init_rd_atom 156 max_srq 212
        max_srq_wr 216 phys_port_cnt 227
    }
    ibv_port_attr 52 { state 0 active_mtu 8 max_msg_sz 20 lid 34 link_layer 46 }
    ibv_async_event 16 { element 0 event_type 8 }
}

// Our own stand-in for `ibv_async_event`, whose `event_type` would be a Rust enum
// and so undefined for an event that is newer than the crate.
const _: () = {
    assert!(size_of::<RawAsyncEvent>() == size_of::<sys::ibv_async_event>());
    assert!(offset_of!(RawAsyncEvent, element) == offset_of!(sys::ibv_async_event, element));
    assert!(offset_of!(RawAsyncEvent, event_type) == offset_of!(sys::ibv_async_event, event_type));
};

#[cfg(test)]
mod tests {
    use super::LAYOUTS;
    use std::fmt::Write as _;
    use std::process::Command;

    #[test]
    fn a_c_compiler_lays_the_structures_out_the_same() {
        // The one field whose name is ours: a union without a name in C.
        let in_c = |field: &str| match field {
            "imm_data_invalidated_rkey_union" => "invalidated_rkey".to_owned(),
            name => name.to_owned(),
        };
        let in_send_wr = |field: &str| match field {
            "imm_data_invalidated_rkey_union" => "invalidate_rkey".to_owned(),
            name => name.to_owned(),
        };
        let mut source = "#include <stddef.h>\n#include <infiniband/verbs.h>\n#define IS(a, b) \
             _Static_assert((a) == (b), #a)\n"
            .to_owned();
        for (name, size, fields) in LAYOUTS {
            writeln!(source, "IS(sizeof(struct {name}), {size});").unwrap();
            for (field, offset) in *fields {
                let field = match *name {
                    "ibv_send_wr" => in_send_wr(field),
                    _ => in_c(field),
                };
                writeln!(source, "IS(offsetof(struct {name}, {field}), {offset});").unwrap();
            }
        }
        let file = std::env::temp_dir().join(format!("sidelane-layout-{}.c", std::process::id()));
        std::fs::write(&file, &source).unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let output = Command::new(compiler)
            .args(["-std=gnu11", "-fsyntax-only"])
            .arg(&file)
            .output()
            .unwrap();
        let _ = std::fs::remove_file(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{source}");
    }
}
