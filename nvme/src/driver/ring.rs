//! The two rings of a queue pair in host memory (clause 3.3.1).
//!
//! Writing an entry is kept apart from telling the controller about it: one
//! doorbell serves a batch.

use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_p2p::{OutOfRange, Region, Words};
use zerocopy::little_endian::U64;

use super::doorbell::Doorbell;
use crate::Backing;
use crate::spec::{CQE_LEN, SQE_LEN, Sqe, Status, StatusPhase};

/// Words of an entry.
const SQE_WORDS: usize = SQE_LEN / 8;
const CQE_WORDS: usize = CQE_LEN / 8;
/// The phase tag in the second word of a completion.
const PHASE: u64 = 1 << 48;

/// Where the driver puts commands.
pub(super) struct SubmissionRing {
    memory: Region,
    words: Words<SQE_WORDS>,
    entries: u16,
    tail: u16,
    /// The tail that the controller knows.
    rung: u16,
    doorbell: Doorbell,
}

impl SubmissionRing {
    /// A ring of `entries` in `memory`, which has room for them.
    pub(super) fn new(
        memory: Region,
        entries: u16,
        doorbell: Doorbell,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            words: words(&memory, entries)?,
            memory,
            entries,
            tail: 0,
            rung: 0,
            doorbell,
        })
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    /// Makes the ring as it was when it was new. The controller must not know it.
    pub(super) fn renew(&mut self) {
        (self.tail, self.rung) = (0, 0);
    }

    /// Writes an entry; the caller knows that there is room. Gives its index.
    #[inline]
    pub(super) fn push(&mut self, sqe: &Sqe) -> u16 {
        let slot = self.tail;
        let values: [U64; SQE_WORDS] = zerocopy::transmute!(*sqe);
        // `new` has seen that there are that many.
        if let Some(entry) = self.words.get(usize::from(slot)) {
            for (word, value) in entry.iter().zip(values) {
                word.store(value.get().to_le(), Ordering::Relaxed);
            }
        }
        self.tail = slot + 1;
        if self.tail == self.entries {
            self.tail = 0;
        }
        slot
    }

    /// Reads an entry back as the controller will.
    pub(super) fn read_back(&self, slot: u16) -> Option<Sqe> {
        let entry = self.words.get(usize::from(slot))?;
        let load = |word: &AtomicU64| U64::new(u64::from_le(word.load(Ordering::Relaxed)));
        Some(zerocopy::transmute!(entry.each_ref().map(load)))
    }

    /// Tells the controller about entries written since the last time.
    #[inline]
    pub(super) fn ring<B: Backing>(&mut self, backing: &B) {
        if self.rung != self.tail {
            self.doorbell.ring(backing, self.rung, self.tail);
            self.rung = self.tail;
        }
    }

    /// How the controller is told.
    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
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
    words: Words<CQE_WORDS>,
    entries: u16,
    head: u16,
    /// What makes the phase bit of the entries clear that are new in this pass of
    /// the ring.
    flip: u64,
    /// The head that the controller knows.
    rung: u16,
    doorbell: Doorbell,
}

impl CompletionRing {
    /// A ring of `entries` in `memory`, which has room for them.
    pub(super) fn new(
        memory: Region,
        entries: u16,
        doorbell: Doorbell,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            words: words(&memory, entries)?,
            memory,
            entries,
            head: 0,
            flip: PHASE,
            rung: 0,
            doorbell,
        })
    }

    pub(super) fn memory(&self) -> &Region {
        &self.memory
    }

    /// Makes the ring as it was when it was new. The controller must not know it.
    pub(super) fn renew(&mut self) {
        for word in self.words.as_flattened() {
            word.store(0, Ordering::Relaxed);
        }
        (self.head, self.rung, self.flip) = (0, 0, PHASE);
    }

    /// The next completion, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Answer> {
        let head = self.head;
        let entry = self.words.get(usize::from(head))?;
        // The word with the phase is loaded first and with acquire, so that the
        // other is no older than it.
        let last = u64::from_le(entry[1].load(Ordering::Acquire)) ^ self.flip;
        if last & PHASE != 0 {
            return None;
        }
        let result = u64::from_le(entry[0].load(Ordering::Relaxed));
        self.head = head + 1;
        if self.head == self.entries {
            self.head = 0;
            self.flip ^= PHASE;
        }
        Some(Answer {
            cid: (last >> 32) as u16,
            status: StatusPhase::from_raw((last >> 48) as u16).status(),
            result,
        })
    }

    /// Gives the entries taken since the last time back to the controller.
    #[inline]
    pub(super) fn ring<B: Backing>(&mut self, backing: &B) {
        if self.rung != self.head {
            self.doorbell.ring(backing, self.rung, self.head);
            self.rung = self.head;
        }
    }

    /// How the controller is told.
    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }
}

/// The entries of a ring.
fn words<const N: usize>(memory: &Region, entries: u16) -> Result<Words<N>, OutOfRange> {
    Words::new(memory.view().slice(0..usize::from(entries) * N * 8)?)
}
