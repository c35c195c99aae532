//! Lists of work requests: fixed arrays in the shape that verbs want them,
//! allocated once and filled again and again.
//!
//! Unsafe is allowed here because the structures hold unions and pointers. The
//! pointers are set when a list is posted, and mean nothing afterwards.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;

use arrayvec::ArrayVec;
use rdma_sys as sys;
use sys::{ibv_send_flags, ibv_wr_opcode};

use crate::nic::{RemoteMemory, Sge};

/// Work requests that one list holds; longer ones are posted in parts.
pub const LIST_LEN: usize = 64;

/// Pieces of a send work request. A queue's memory grows with it, for each of its
/// work requests, used or not; data of a command lies in one piece here.
pub const SEND_SGES: usize = 4;

/// Bytes that are sent inline at most: a response has 16.
pub const INLINE_BYTES: usize = 64;

const NO_SGE: sys::ibv_sge = sys::ibv_sge {
    addr: 0,
    length: 0,
    lkey: 0,
};

/// What a send work request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOpcode {
    /// SEND.
    Send,
    /// SEND with invalidate of the peer's key.
    SendInvalidate(u32),
    /// SEND with immediate data.
    SendImmediate(u32),
    /// RDMA WRITE.
    Write(RemoteMemory),
    /// RDMA WRITE with immediate data.
    WriteImmediate(RemoteMemory, u32),
    /// RDMA READ.
    Read(RemoteMemory),
}

/// What a send work request asks for besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendFlags {
    /// Success makes a completion.
    pub signaled: bool,
    /// Its arrival is a solicited event.
    pub solicited: bool,
}

impl SendFlags {
    /// A completion, and nothing else.
    pub const SIGNALED: Self = Self {
        signaled: true,
        solicited: false,
    };

    fn raw(self) -> u32 {
        let flag = |on, flag: ibv_send_flags| if on { flag.0 } else { 0 };
        flag(self.signaled, ibv_send_flags::IBV_SEND_SIGNALED)
            | flag(self.solicited, ibv_send_flags::IBV_SEND_SOLICITED)
    }

    fn of(raw: u32) -> Self {
        let is = |flag: ibv_send_flags| raw & flag.0 != 0;
        Self {
            signaled: is(ibv_send_flags::IBV_SEND_SIGNALED),
            solicited: is(ibv_send_flags::IBV_SEND_SOLICITED),
        }
    }
}

/// What a send work request is about.
#[derive(Debug, Clone, Copy)]
pub enum SendData<'a> {
    /// Registered memory, at most [`SEND_SGES`] pieces.
    Pieces(&'a [Sge]),
    /// Bytes, copied now: at most [`INLINE_BYTES`].
    Inline(&'a [u8]),
}

/// A send work request of a list, as it will be posted.
#[derive(Debug, Clone)]
pub struct SendView<'a> {
    /// Its identifier, tag included.
    pub wr_id: u64,
    /// What it does.
    pub opcode: SendOpcode,
    /// What it asks for.
    pub flags: SendFlags,
    /// Registered memory that it names.
    pub pieces: ArrayVec<Sge, SEND_SGES>,
    /// The bytes that go inline instead.
    pub inline: Option<&'a [u8]>,
}

/// Send work requests that are posted together.
pub struct SendList {
    wrs: Box<[sys::ibv_send_wr]>,
    sges: Box<[[sys::ibv_sge; SEND_SGES]]>,
    inline: Box<[[u8; INLINE_BYTES]]>,
    len: usize,
}

// SAFETY: the pointers inside are only followed by the post call that `chain` was
// made for, which has the list for itself; between two posts they mean nothing.
unsafe impl Send for SendList {}

impl Default for SendList {
    fn default() -> Self {
        Self::new()
    }
}

impl SendList {
    /// An empty list.
    pub fn new() -> Self {
        // SAFETY: all fields are integers and pointers, for which zero is a value.
        let wr = || unsafe { MaybeUninit::<sys::ibv_send_wr>::zeroed().assume_init() };
        Self {
            wrs: (0..LIST_LEN).map(|_| wr()).collect(),
            sges: vec![[NO_SGE; SEND_SGES]; LIST_LEN].into(),
            inline: vec![[0; INLINE_BYTES]; LIST_LEN].into(),
            len: 0,
        }
    }

    /// Work requests in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no more fit.
    pub fn is_full(&self) -> bool {
        self.len == self.wrs.len()
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds one; `false` when it or its data does not fit, and nothing changed.
    #[must_use]
    pub fn push(
        &mut self,
        wr_id: u64,
        opcode: SendOpcode,
        flags: SendFlags,
        data: SendData<'_>,
    ) -> bool {
        let at = self.len;
        let (Some(wr), Some(sges), Some(inline)) = (
            self.wrs.get_mut(at),
            self.sges.get_mut(at),
            self.inline.get_mut(at),
        ) else {
            return false;
        };
        let mut flags = flags.raw();
        match data {
            SendData::Pieces(pieces) if pieces.len() <= SEND_SGES => {
                for (to, from) in sges.iter_mut().zip(pieces) {
                    *to = raw(from);
                }
                wr.num_sge = pieces.len() as i32;
            }
            SendData::Inline(bytes) if bytes.len() <= INLINE_BYTES => {
                inline[..bytes.len()].copy_from_slice(bytes);
                // The address is put in when the list is posted.
                sges[0] = sys::ibv_sge {
                    length: bytes.len() as u32,
                    ..NO_SGE
                };
                wr.num_sge = i32::from(!bytes.is_empty());
                flags |= ibv_send_flags::IBV_SEND_INLINE.0;
            }
            SendData::Pieces(_) | SendData::Inline(_) => return false,
        }
        wr.wr_id = wr_id;
        wr.send_flags = flags;
        match opcode {
            SendOpcode::Send => wr.opcode = ibv_wr_opcode::IBV_WR_SEND,
            SendOpcode::SendInvalidate(rkey) => {
                wr.opcode = ibv_wr_opcode::IBV_WR_SEND_WITH_INV;
                wr.imm_data_invalidated_rkey_union.invalidated_rkey = rkey;
            }
            SendOpcode::SendImmediate(imm) => {
                wr.opcode = ibv_wr_opcode::IBV_WR_SEND_WITH_IMM;
                wr.imm_data_invalidated_rkey_union.imm_data = imm.to_be();
            }
            SendOpcode::Write(remote) => {
                wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
                wr.wr.rdma = rdma(remote);
            }
            SendOpcode::WriteImmediate(remote, imm) => {
                wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
                wr.imm_data_invalidated_rkey_union.imm_data = imm.to_be();
                wr.wr.rdma = rdma(remote);
            }
            SendOpcode::Read(remote) => {
                wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
                wr.wr.rdma = rdma(remote);
            }
        }
        self.len += 1;
        true
    }

    /// What is in the list.
    pub fn iter(&self) -> impl Iterator<Item = SendView<'_>> {
        (0..self.len).map(|at| {
            let wr = &self.wrs[at];
            // SAFETY: integers, written by `push` for the opcodes that have them,
            // and zero or an older value for the others, which do not look.
            let (key, remote) = unsafe {
                (
                    wr.imm_data_invalidated_rkey_union.invalidated_rkey,
                    wr.wr.rdma,
                )
            };
            let remote = RemoteMemory {
                addr: remote.remote_addr,
                rkey: remote.rkey,
            };
            let imm = u32::from_be(key);
            let opcode = match wr.opcode {
                ibv_wr_opcode::IBV_WR_SEND_WITH_INV => SendOpcode::SendInvalidate(key),
                ibv_wr_opcode::IBV_WR_SEND_WITH_IMM => SendOpcode::SendImmediate(imm),
                ibv_wr_opcode::IBV_WR_RDMA_WRITE => SendOpcode::Write(remote),
                ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM => {
                    SendOpcode::WriteImmediate(remote, imm)
                }
                ibv_wr_opcode::IBV_WR_RDMA_READ => SendOpcode::Read(remote),
                _ => SendOpcode::Send,
            };
            let sges = &self.sges[at][..wr.num_sge as usize];
            let is_inline = wr.send_flags & ibv_send_flags::IBV_SEND_INLINE.0 != 0;
            let inline_len = sges.first().map_or(0, |sge| sge.length as usize);
            SendView {
                wr_id: wr.wr_id,
                opcode,
                flags: SendFlags::of(wr.send_flags),
                pieces: if is_inline {
                    ArrayVec::new()
                } else {
                    sges.iter().map(sge).collect()
                },
                inline: is_inline.then(|| &self.inline[at][..inline_len]),
            }
        })
    }

    /// Links the work requests and gives the first; null when there is none. The
    /// chain holds until the list is touched again.
    pub(super) fn chain(&mut self) -> *mut sys::ibv_send_wr {
        if self.len == 0 {
            return ptr::null_mut();
        }
        let wrs = self.wrs.as_mut_ptr();
        let sges = self.sges.as_mut_ptr();
        let inline = self.inline.as_mut_ptr();
        for at in 0..self.len {
            // SAFETY: `at` is below the length of all three arrays, and the
            // pointers are those of arrays that this list has for itself.
            unsafe {
                let wr = wrs.add(at);
                let first = sges.add(at).cast::<sys::ibv_sge>();
                if (*wr).send_flags & ibv_send_flags::IBV_SEND_INLINE.0 != 0 {
                    (*first).addr = inline.add(at) as u64;
                }
                (*wr).sg_list = first;
                (*wr).next = if at + 1 < self.len {
                    wrs.add(at + 1)
                } else {
                    ptr::null_mut()
                };
            }
        }
        wrs
    }

    /// The place of a work request of the chain, by its address.
    pub(super) fn place(&self, wr: *const sys::ibv_send_wr) -> usize {
        place(&self.wrs, wr, self.len)
    }
}

fn rdma(remote: RemoteMemory) -> sys::rdma_t {
    sys::rdma_t {
        remote_addr: remote.addr,
        rkey: remote.rkey,
    }
}

/// Where a pointer that the provider gave back points to; past the end when it is
/// none of the list's, which is what providers say when all were taken.
fn place<T>(items: &[T], item: *const T, len: usize) -> usize {
    let start = items.as_ptr() as usize;
    match (item as usize).checked_sub(start) {
        Some(bytes) => (bytes / size_of::<T>()).min(len),
        None => len,
    }
}

fn sge(raw: &sys::ibv_sge) -> Sge {
    Sge {
        addr: raw.addr,
        len: raw.length,
        lkey: raw.lkey,
    }
}

fn raw(sge: &Sge) -> sys::ibv_sge {
    sys::ibv_sge {
        addr: sge.addr,
        length: sge.len,
        lkey: sge.lkey,
    }
}

/// Receive work requests that are posted together.
pub struct RecvList {
    wrs: Box<[sys::ibv_recv_wr]>,
    sges: Box<[sys::ibv_sge]>,
    len: usize,
}

// SAFETY: as for `SendList`.
unsafe impl Send for RecvList {}

impl Default for RecvList {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvList {
    /// An empty list.
    pub fn new() -> Self {
        let wr = sys::ibv_recv_wr {
            wr_id: 0,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 1,
        };
        Self {
            wrs: vec![wr; LIST_LEN].into(),
            sges: vec![NO_SGE; LIST_LEN].into(),
            len: 0,
        }
    }

    /// Work requests in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds one; `false` when it does not fit.
    #[must_use]
    pub fn push(&mut self, wr_id: u64, sge: Sge) -> bool {
        let at = self.len;
        let (Some(wr), Some(to)) = (self.wrs.get_mut(at), self.sges.get_mut(at)) else {
            return false;
        };
        wr.wr_id = wr_id;
        *to = raw(&sge);
        self.len += 1;
        true
    }

    /// What is in the list.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Sge)> + '_ {
        let sges = self.sges[..self.len].iter().map(sge);
        self.wrs.iter().map(|wr| wr.wr_id).zip(sges)
    }

    /// As [`SendList::chain`].
    pub(super) fn chain(&mut self) -> *mut sys::ibv_recv_wr {
        if self.len == 0 {
            return ptr::null_mut();
        }
        let wrs = self.wrs.as_mut_ptr();
        let sges = self.sges.as_mut_ptr();
        for at in 0..self.len {
            // SAFETY: as in `SendList::chain`.
            unsafe {
                (*wrs.add(at)).sg_list = sges.add(at);
                (*wrs.add(at)).next = if at + 1 < self.len {
                    wrs.add(at + 1)
                } else {
                    ptr::null_mut()
                };
            }
        }
        wrs
    }

    /// As [`SendList::place`].
    pub(super) fn place(&self, wr: *const sys::ibv_recv_wr) -> usize {
        place(&self.wrs, wr, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REMOTE: RemoteMemory = RemoteMemory {
        addr: 0x5000,
        rkey: 0x99,
    };

    proptest! {
        #[test]
        fn a_list_holds_what_was_put_in(
            kind in 0..6_usize,
            value: u32,
            signaled: bool,
            solicited: bool,
        ) {
            let opcode = [
                SendOpcode::Send,
                SendOpcode::SendInvalidate(value),
                SendOpcode::SendImmediate(value),
                SendOpcode::Write(REMOTE),
                SendOpcode::WriteImmediate(REMOTE, value),
                SendOpcode::Read(REMOTE),
            ][kind];
            let flags = SendFlags { signaled, solicited };
            let mut list = SendList::new();
            prop_assert!(list.push(7, opcode, flags, SendData::Inline(b"x")));
            prop_assert!(list.push(8, opcode, flags, SendData::Pieces(&[])));
            for (wr, wr_id) in list.iter().zip(7..) {
                prop_assert_eq!((wr.wr_id, wr.opcode, wr.flags), (wr_id, opcode, flags));
            }
        }
    }

    #[test]
    fn immediate_data_is_in_network_order() {
        let mut list = SendList::new();
        let opcodes = [
            SendOpcode::SendImmediate(0x0102_0304),
            SendOpcode::WriteImmediate(REMOTE, 0x0102_0304),
        ];
        for opcode in opcodes {
            assert!(list.push(1, opcode, SendFlags::SIGNALED, SendData::Pieces(&[])));
        }
        for wr in &list.wrs[..2] {
            // SAFETY: an integer, written by `push`.
            let imm = unsafe { wr.imm_data_invalidated_rkey_union.imm_data };
            assert_eq!(imm.to_ne_bytes(), [1, 2, 3, 4]);
        }
    }
}
