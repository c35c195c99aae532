//! What a `wr_id` says on the wire between us and the adapter: the consumer's
//! number below, and above it the kind of work, since a failed completion does
//! not say what failed (`ibv_poll_cq`: only `wr_id`, `status`, `qp_num` and
//! `vendor_err` are defined then).
#![forbid(unsafe_code)]

use crate::nic::{WR_ID_BITS, WcOp};

const MASK: u64 = (1 << WR_ID_BITS) - 1;

/// The consumer's number with a kind above it; `None` when it has bits there.
pub(super) fn tag(op: WcOp, wr_id: u64) -> Option<u64> {
    let kind: u64 = match op {
        // What became of a buffer is known when it comes back.
        WcOp::Recv | WcOp::RecvWrite => 1,
        WcOp::Send => 2,
        WcOp::Read => 3,
        WcOp::Write => 4,
        WcOp::Flush => 5,
    };
    (wr_id <= MASK).then_some(kind << WR_ID_BITS | wr_id)
}

/// The kind and the consumer's number; `None` when nothing was tagged so.
pub(super) fn untag(tagged: u64) -> Option<(WcOp, u64)> {
    let op = match tagged >> WR_ID_BITS {
        1 => WcOp::Recv,
        2 => WcOp::Send,
        3 => WcOp::Read,
        4 => WcOp::Write,
        5 => WcOp::Flush,
        _ => return None,
    };
    Some((op, tagged & MASK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_tagged_comes_back_as_it_was(wr_id: u64, kind in 0..5_usize) {
            let op = [WcOp::Recv, WcOp::Send, WcOp::Read, WcOp::Write, WcOp::Flush][kind];
            match tag(op, wr_id) {
                Some(tagged) => prop_assert_eq!(untag(tagged), Some((op, wr_id))),
                None => prop_assert!(wr_id >> WR_ID_BITS != 0),
            }
        }
    }

    #[test]
    fn what_was_never_tagged_is_not_taken_for_work() {
        assert_eq!(untag(7), None);
        assert_eq!(untag(u64::MAX), None);
    }
}
