//! An io_uring of one reactor on one file, and the memory that the kernel uses
//! meanwhile.
//!
//! The kernel reads and writes that memory until it has told the end of a call,
//! whatever becomes of this process's wishes. So a ring owns the memory of each
//! call from its start to its end; if it goes while an end does not come, the
//! memory is never given back.
//!
//! Unsafe is allowed here because an entry of the submission queue names memory
//! by its address.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use sidelane_p2p::{OutOfRange, Region};
use zerocopy::IntoBytes;

use crate::backend::{DataRef, MAX_DONE};

/// How long the ends of calls are waited for when a ring goes.
const FAREWELL: Duration = Duration::from_secs(10);

/// Set in the user data of what asks for a call to be given up.
const CANCEL: u64 = 1 << 32;

/// Ranges of bytes on a block device that are no longer needed: start in `addr`,
/// length in the command's first 8 bytes (`BLOCK_URING_CMD_DISCARD`, `_IO(0x12,
/// 0)`, from Linux 6.12).
const DISCARD: u32 = 0x12 << 8;

/// An NVMe command as `struct nvme_uring_cmd` (`NVME_URING_CMD_IO`, `_IOWR('N',
/// 0x80, ..)` of 72 bytes, from Linux 5.19).
const NVME_IO: u32 = 3 << 30 | (size_of::<NvmeUringCmd>() as u32) << 16 | (b'N' as u32) << 8 | 0x80;

/// Memory of a call.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    region: Region,
    offset: usize,
    len: usize,
}

impl Memory {
    /// # Errors
    /// When the data does not lie inside its region.
    pub(super) fn new(data: DataRef<'_>) -> Result<Self, OutOfRange> {
        let end = data.offset.checked_add(data.len);
        if end.is_none_or(|end| end > data.region.len()) {
            return Err(OutOfRange {
                offset: data.offset,
                len: data.len,
                view_len: data.region.len(),
            });
        }
        Ok(Self {
            region: data.region.clone(),
            offset: data.offset,
            len: data.len,
        })
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Address and length of what follows the first `skip` bytes, as much as 32
    /// bits can say.
    fn rest(&self, skip: usize) -> (*mut u8, u32) {
        let skip = skip.min(self.len);
        let at = self
            .region
            .view()
            .as_ptr()
            .wrapping_add(self.offset)
            .wrapping_add(skip);
        (at, u32::try_from(self.len - skip).unwrap_or(u32::MAX))
    }
}

/// What the kernel is asked to do. Offsets and lengths on the file are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Call {
    /// From the file into memory, behind its first `skip` bytes.
    Read { at: u64, skip: usize },
    /// From memory to the file; with `durable`, to where it survives power loss.
    Write { at: u64, skip: usize, durable: bool },
    /// All that was written survives power loss afterwards.
    Sync,
    /// Changes what a part of the file is made of, and never its length.
    Fallocate {
        at: u64,
        len: u64,
        mode: FallocateFlags,
    },
    /// The content of a part of a block device is no longer needed.
    Discard { at: u64, len: u64 },
    /// An NVMe command, on a generic character device of a namespace; its data
    /// is all of the memory.
    Nvme(NvmeCall),
}

/// An NVMe command, its data pointer left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::backend) struct NvmeCall {
    /// Opcode.
    pub(in crate::backend) opcode: u8,
    /// Namespace.
    pub(in crate::backend) nsid: u32,
    /// Dwords 10 to 12; the others are zero.
    pub(in crate::backend) cdw10: u32,
    pub(in crate::backend) cdw11: u32,
    pub(in crate::backend) cdw12: u32,
}

/// `struct nvme_uring_cmd`.
#[derive(Default, IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct NvmeUringCmd {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13_to_15: [u32; 3],
    timeout_ms: u32,
    reserved_2: u32,
}

const _: () = assert!(size_of::<NvmeUringCmd>() == 72);

/// The end of a call.
#[derive(Debug)]
pub(super) struct End {
    /// As given to [`Ring::push`].
    pub(super) number: u16,
    /// What the kernel returns: below zero an errno, else what the call counts.
    pub(super) result: i32,
    /// The memory of the call, given back.
    pub(super) memory: Option<Memory>,
}

/// Ends of calls.
pub(super) type Ends = ArrayVec<End, MAX_DONE>;

/// What the ring keeps of a call.
#[derive(Default)]
struct Kept {
    running: bool,
    /// Its end was asked for, and the answer to that has not come.
    cancelling: bool,
    memory: Option<Memory>,
}

/// See the module. Entries are as long as NVMe commands need them: one kind of
/// ring for all kinds of storage.
pub(super) struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry32>,
    event: OwnedFd,
    file: Arc<File>,
    kept: Box<[Kept]>,
    running: usize,
    /// Entries are in the queue that the kernel has not taken yet.
    unsubmitted: bool,
    /// The kernel has refused calls since it last took some.
    refused: bool,
}

impl Ring {
    /// A ring for as many calls at a time.
    ///
    /// # Errors
    /// When the kernel has no io_uring, or not for this process.
    pub(super) fn new(file: Arc<File>, depth: u16) -> io::Result<Self> {
        // For each call one entry, and one to have it given up. The completion
        // queue has twice as many, so that it never overflows.
        let ring = IoUring::builder().build(u32::from(depth) * 2)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            ring,
            event,
            file,
            kept: (0..depth).map(|_| Kept::default()).collect(),
            running: 0,
            unsubmitted: false,
            refused: false,
        })
    }

    /// Readable when a call may have ended.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Calls that were pushed and have not ended.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Whether calls are left that [`Ring::submit`] could not hand over.
    pub(super) fn is_behind(&self) -> bool {
        self.unsubmitted
    }

    /// Queues a call under a number below the depth that no running call has.
    /// Gives the memory back if there is no room for it.
    pub(super) fn push(
        &mut self,
        number: u16,
        call: Call,
        memory: Option<Memory>,
    ) -> Result<(), Option<Memory>> {
        let Some(kept) = self.kept.get_mut(usize::from(number)) else {
            return Err(memory);
        };
        if kept.running {
            return Err(memory);
        }
        let mut entry = entry(types::Fd(self.file.as_raw_fd()), call, memory.as_ref());
        entry.set_user_data(u64::from(number));
        // SAFETY: the file and the memory that the entry names are kept, here
        // and from now on, until the kernel has told the end of the call; the
        // memory has no other owner in Rust's eyes (a region is only ever seen
        // through volatile access).
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Err(memory);
        }
        kept.running = true;
        kept.memory = memory;
        self.running += 1;
        self.unsubmitted = true;
        Ok(())
    }

    /// Asks for a running call to be given up. It ends as any other does.
    pub(super) fn cancel(&mut self, number: u16) {
        let Some(kept) = self.kept.get_mut(usize::from(number)) else {
            return;
        };
        if !kept.running || kept.cancelling {
            return;
        }
        let number = u64::from(number);
        let mut entry = squeue::Entry128::from(opcode::AsyncCancel::new(number).build());
        entry.set_user_data(CANCEL | number);
        // SAFETY: the entry names no memory.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            kept.cancelling = true;
            self.unsubmitted = true;
        }
    }

    /// Hands all that is queued to the kernel: one system call, unless the kernel
    /// stops in between.
    pub(super) fn submit(&mut self) {
        for _ in 0..=self.kept.len() {
            if !self.unsubmitted {
                return;
            }
            match self.ring.submit() {
                Ok(_) => {
                    self.unsubmitted = !self.ring.submission().is_empty();
                    self.refused = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It is short of memory: to be tried again soon.
                Err(error) => {
                    // Once, and not in each round.
                    if !std::mem::replace(&mut self.refused, true) {
                        tracing::warn!(%error, "the kernel takes no calls at the moment");
                    }
                    return;
                }
            }
        }
    }

    /// The ends of calls, `room` at most. No system call.
    pub(super) fn ends(&mut self, room: usize) -> Ends {
        let mut ends = Ends::new();
        let room = room.min(ends.capacity());
        let mut completions = self.ring.completion();
        while ends.len() < room
            && let Some(entry) = completions.next()
        {
            let data = entry.user_data();
            let number = data as u16;
            let Some(kept) = self.kept.get_mut(usize::from(number)) else {
                continue;
            };
            if data & CANCEL != 0 {
                kept.cancelling = false;
            } else if std::mem::take(&mut kept.running) {
                self.running -= 1;
                ends.push(End {
                    number,
                    result: entry.result(),
                    memory: kept.memory.take(),
                });
            }
        }
        ends
    }

    /// Waits until a call ends or `limit` is over.
    pub(super) fn wait(&mut self, limit: Duration) {
        let limit = types::Timespec::from(limit);
        let args = types::SubmitArgs::new().timespec(&limit);
        // Whatever the reason for coming back: who waits looks again.
        if self.ring.submitter().submit_with_args(1, &args).is_ok() {
            self.unsubmitted = !self.ring.submission().is_empty();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for number in 0..self.kept.len() {
            self.cancel(number as u16);
        }
        self.submit();
        let since = Instant::now();
        while self.running > 0 && since.elapsed() < FAREWELL {
            if self.ends(MAX_DONE).is_empty() {
                self.wait(Duration::from_millis(100));
            }
        }
        if self.running > 0 {
            tracing::error!(
                calls = self.running,
                "the kernel did not end its calls within {} s; their memory is never used again",
                FAREWELL.as_secs()
            );
            for kept in &mut self.kept {
                std::mem::forget(kept.memory.take());
            }
        }
    }
}

/// The entry for a call. One that needs memory and has none moves nothing.
fn entry(file: types::Fd, call: Call, memory: Option<&Memory>) -> squeue::Entry128 {
    let rest = |skip| memory.map_or((std::ptr::null_mut(), 0), |memory| memory.rest(skip));
    match call {
        Call::Read { at, skip } => {
            let (to, len) = rest(skip);
            opcode::Read::new(file, to, len).offset(at).build().into()
        }
        Call::Write { at, skip, durable } => {
            let (from, len) = rest(skip);
            let flags = match durable {
                true => ReadWriteFlags::DSYNC,
                false => ReadWriteFlags::empty(),
            };
            opcode::Write::new(file, from, len)
                .offset(at)
                .rw_flags(flags.bits() as _)
                .build()
                .into()
        }
        Call::Sync => opcode::Fsync::new(file)
            .flags(types::FsyncFlags::DATASYNC)
            .build()
            .into(),
        Call::Fallocate { at, len, mode } => opcode::Fallocate::new(file, len)
            .offset(at)
            .mode(mode.bits() as i32)
            .build()
            .into(),
        Call::Discard { at, len } => {
            let mut cmd = [0; 16];
            cmd[..8].copy_from_slice(&len.to_ne_bytes());
            opcode::UringCmd16::new(file, DISCARD)
                .addr(Some(at))
                .cmd(cmd)
                .build()
                .into()
        }
        Call::Nvme(command) => {
            let (at, len) = rest(0);
            let command = NvmeUringCmd {
                opcode: command.opcode,
                nsid: command.nsid,
                addr: at.expose_provenance() as u64,
                data_len: len,
                cdw10: command.cdw10,
                cdw11: command.cdw11,
                cdw12: command.cdw12,
                ..NvmeUringCmd::default()
            };
            let mut cmd = [0; 80];
            cmd[..size_of::<NvmeUringCmd>()].copy_from_slice(command.as_bytes());
            opcode::UringCmd80::new(file, NVME_IO).cmd(cmd).build()
        }
    }
}
