//! The two rings of a queue pair in host memory (clause 3.3.1).
//!
//! Writing an entry is kept apart from telling the controller about it: one
//! doorbell serves a batch.

use std::sync::atomic::Ordering;

use sidelane_p2p::{OutOfRange, Region};
use zerocopy::IntoBytes;

use crate::Backing;
use crate::spec::{CQE_LEN, SQE_LEN, Sqe, Status, StatusPhase};

/// Where the driver puts commands.
pub(super) struct SubmissionRing {
    memory: Region,
    entries: u16,
    tail: u16,
    /// The tail that the controller knows.
    rung: u16,
    doorbell: u32,
}

impl SubmissionRing {
    pub(super) fn new(memory: Region, entries: u16, doorbell: u32) -> Self {
        Self {
            memory,
            entries,
            tail: 0,
            rung: 0,
            doorbell,
        }
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    /// Writes an entry; the caller knows that there is room. Gives its index.
    pub(super) fn push(&mut self, sqe: &Sqe) -> Result<u16, OutOfRange> {
        let slot = self.tail;
        self.memory
            .view()
            .write(usize::from(slot) * SQE_LEN, sqe.as_bytes())?;
        self.tail = next(slot, self.entries);
        Ok(slot)
    }

    /// Reads an entry back as the controller will.
    pub(super) fn read_back(&self, slot: u16) -> Result<Sqe, OutOfRange> {
        let mut sqe = Sqe::default();
        self.memory
            .view()
            .read(usize::from(slot) * SQE_LEN, sqe.as_mut_bytes())?;
        Ok(sqe)
    }

    /// Tells the controller about entries written since the last time; says
    /// whether there were any.
    pub(super) fn ring<B: Backing>(&mut self, backing: &B) -> bool {
        if self.rung == self.tail {
            return false;
        }
        self.rung = self.tail;
        backing.write32(self.doorbell, u32::from(self.tail));
        true
    }
}

/// What the controller says of one command.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) cid: u16,
    pub(super) status: Status,
    pub(super) result: u64,
}

/// Where the controller puts completions.
pub(super) struct CompletionRing {
    memory: Region,
    entries: u16,
    head: u16,
    /// The phase of entries that are new in this pass of the ring.
    phase: bool,
    /// The head that the controller knows.
    rung: u16,
    doorbell: u32,
}

impl CompletionRing {
    pub(super) fn new(memory: Region, entries: u16, doorbell: u32) -> Self {
        Self {
            memory,
            entries,
            head: 0,
            phase: true,
            rung: 0,
            doorbell,
        }
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    /// The next completion, if there is one.
    pub(super) fn pop(&mut self) -> Option<Answer> {
        let view = self.memory.view();
        let at = usize::from(self.head) * CQE_LEN;
        // The dword with the phase is loaded first and with acquire, so that the
        // others are no older than it. They lie inside the ring like it does.
        let last = view.load_u32(at + 12, Ordering::Acquire).ok()?;
        let status = StatusPhase::from_raw((last >> 16) as u16);
        if status.phase() != self.phase {
            return None;
        }
        let low = view.load_u32(at, Ordering::Relaxed).ok()?;
        let high = view.load_u32(at + 4, Ordering::Relaxed).ok()?;
        self.head = next(self.head, self.entries);
        self.phase ^= self.head == 0;
        Some(Answer {
            cid: last as u16,
            status: status.status(),
            result: u64::from(low) | u64::from(high) << 32,
        })
    }

    /// Gives the entries taken since the last time back to the controller.
    pub(super) fn ring<B: Backing>(&mut self, backing: &B) {
        if self.rung != self.head {
            self.rung = self.head;
            backing.write32(self.doorbell, u32::from(self.head));
        }
    }
}

fn next(slot: u16, entries: u16) -> u16 {
    if slot + 1 == entries { 0 } else { slot + 1 }
}
