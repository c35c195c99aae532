//! Completions: a fixed array in the shape that verbs want it, allocated once and
//! filled again and again.
//!
//! Unsafe is allowed here because the structures hold unions.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rdma_sys as sys;
use sys::{ibv_wc_flags, ibv_wc_opcode};

use crate::nic::MAX_COMPLETIONS;

/// A completion as the adapter gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wc {
    /// Identifier, tag included.
    pub wr_id: u64,
    /// `enum ibv_wc_status`; 0 is success.
    pub status: u32,
    /// The adapter's own code of what went wrong.
    pub vendor_error: u32,
    /// The queue pair.
    pub qp: u32,
    /// Bytes received, or written by the peer; not defined on failure.
    pub len: u32,
    /// The key that the peer invalidated.
    pub invalidated: Option<u32>,
    /// Immediate data.
    pub imm: Option<u32>,
    /// Of a receive: an RDMA WRITE took it (`IBV_WC_RECV_RDMA_WITH_IMM`).
    pub wrote: bool,
}

/// Completions, taken from the adapter in one call and looked at one by one.
pub struct WcBuffer {
    wcs: Box<[sys::ibv_wc]>,
    next: usize,
    end: usize,
}

impl Default for WcBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl WcBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        // SAFETY: all fields are integers, for which zero is a value.
        let wc = || unsafe { MaybeUninit::<sys::ibv_wc>::zeroed().assume_init() };
        Self {
            wcs: (0..MAX_COMPLETIONS).map(|_| wc()).collect(),
            next: 0,
            end: 0,
        }
    }

    /// Whether nothing is left in it.
    pub fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// Whether the adapter had fewer than fit, and so none more.
    pub fn is_short(&self) -> bool {
        self.end < MAX_COMPLETIONS
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.next = self.end;
        self.rewind();
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<Wc> {
        let wc = self.wcs[..self.end].get(self.next)?;
        self.next += 1;
        // SAFETY: both members of the union are integers of the same size.
        let key = unsafe { wc.imm_data_invalidated_rkey_union.invalidated_rkey };
        let success = wc.status == sys::ibv_wc_status::IBV_WC_SUCCESS;
        let has = |flag: ibv_wc_flags| success && wc.wc_flags & flag.0 != 0;
        Some(Wc {
            wr_id: wc.wr_id,
            status: wc.status,
            vendor_error: wc.vendor_err,
            qp: wc.qp_num,
            len: wc.byte_len,
            invalidated: has(ibv_wc_flags::IBV_WC_WITH_INV).then_some(key),
            imm: has(ibv_wc_flags::IBV_WC_WITH_IMM).then_some(u32::from_be(key)),
            wrote: success && wc.opcode == ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM,
        })
    }

    /// Adds one, for an adapter that is made of software. `false` when full.
    #[must_use]
    pub fn push(&mut self, wc: Wc) -> bool {
        self.rewind();
        let Some(to) = self.wcs.get_mut(self.end) else {
            return false;
        };
        to.wr_id = wc.wr_id;
        to.status = wc.status;
        to.vendor_err = wc.vendor_error;
        to.qp_num = wc.qp;
        to.byte_len = wc.len;
        to.wc_flags = 0;
        to.opcode = match wc.wrote {
            true => ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM,
            false => ibv_wc_opcode::IBV_WC_RECV,
        };
        if let Some(key) = wc.invalidated {
            to.wc_flags = ibv_wc_flags::IBV_WC_WITH_INV.0;
            to.imm_data_invalidated_rkey_union.invalidated_rkey = key;
        }
        if let Some(imm) = wc.imm {
            to.wc_flags = ibv_wc_flags::IBV_WC_WITH_IMM.0;
            to.imm_data_invalidated_rkey_union.imm_data = imm.to_be();
        }
        self.end += 1;
        true
    }

    /// The array for the adapter to fill, from its start: for an empty buffer.
    pub(super) fn fill(&mut self) -> &mut [sys::ibv_wc] {
        self.next = 0;
        self.end = 0;
        &mut self.wcs
    }

    /// Says how many the adapter has filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.end = count.min(MAX_COMPLETIONS);
    }

    fn rewind(&mut self) {
        if self.is_empty() {
            self.next = 0;
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediate_data_is_in_network_order() {
        let mut buffer = WcBuffer::new();
        let raw = &mut buffer.fill()[0];
        raw.wc_flags = ibv_wc_flags::IBV_WC_WITH_IMM.0;
        raw.opcode = ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
        raw.imm_data_invalidated_rkey_union.imm_data = u32::from_ne_bytes([1, 2, 3, 4]);
        buffer.filled(1);
        let wc = buffer.pop().unwrap();
        assert_eq!(
            (wc.imm, wc.invalidated, wc.wrote),
            (Some(0x0102_0304), None, true)
        );
    }

    /// Then the adapter defines neither flags nor opcode.
    #[test]
    fn a_failure_says_nothing_of_what_came_along() {
        let mut buffer = WcBuffer::new();
        let wc = Wc {
            wr_id: 1,
            status: 5,
            vendor_error: 0,
            qp: 2,
            len: 0,
            invalidated: None,
            imm: Some(3),
            wrote: true,
        };
        assert!(buffer.push(wc));
        let expected = Wc {
            imm: None,
            wrote: false,
            ..wc
        };
        assert_eq!(buffer.pop(), Some(expected));
    }
}
