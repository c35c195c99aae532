//! The submission queue as the target sees it: which commands are outstanding,
//! and how far its head is (NVMe 2.0, 3.3.1 and 3.3.2.1).

use sidelane_nvme::spec::Cqe;

use super::step::Completion;

/// Entries that a queue is taken to have until Connect says so.
const ENTRIES_BEFORE_CONNECT: u32 = 32;

/// SQHD where submission queue flow control is disabled.
const SQHD_NO_FLOW_CONTROL: u16 = 0xffff;

/// What became of a command that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is outstanding now.
    New,
    /// Another command with its identifier is outstanding.
    Duplicate,
    /// The queue has no entry for it.
    Overrun,
}

/// The outstanding commands and the head of one queue.
#[derive(Debug)]
pub struct Queue {
    qid: u16,
    entries: u32,
    head: u32,
    flow_control: bool,
    outstanding: u32,
    /// A bit for each command identifier.
    cids: Box<[u64; 1024]>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            qid: 0,
            entries: ENTRIES_BEFORE_CONNECT,
            head: 0,
            flow_control: true,
            outstanding: 0,
            cids: Box::new([0; 1024]),
        }
    }

    /// Queue identifier; 0 before Connect.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// Entries of the queue.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Commands that were taken and not completed.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The queue was connected; its Connect is the first entry consumed.
    pub(super) fn connect(&mut self, qid: u16, sqsize_z: u16, flow_control: bool) {
        self.qid = qid;
        self.entries = u32::from(sqsize_z) + 1;
        self.head = 1 % self.entries;
        self.flow_control = flow_control;
    }

    fn bit(&mut self, cid: u16) -> Option<(&mut u64, u64)> {
        Some((self.cids.get_mut(usize::from(cid / 64))?, 1 << (cid % 64)))
    }

    pub(super) fn take(&mut self, cid: u16) -> Taken {
        if self.outstanding >= self.entries {
            return Taken::Overrun;
        }
        self.outstanding += 1;
        self.head = (self.head + 1) % self.entries;
        match self.bit(cid) {
            Some((word, bit)) if *word & bit == 0 => {
                *word |= bit;
                Taken::New
            }
            _ => Taken::Duplicate,
        }
    }

    /// A command ends. That of a duplicate leaves the first one outstanding.
    pub(super) fn complete(&mut self, cid: u16, completion: Completion, duplicate: bool) -> Cqe {
        debug_assert!(self.outstanding > 0, "more completions than commands");
        self.outstanding = self.outstanding.saturating_sub(1);
        if let (false, Some((word, bit))) = (duplicate, self.bit(cid)) {
            debug_assert!(*word & bit != 0, "command {cid:#x} is not outstanding");
            *word &= !bit;
        }
        let mut cqe = Cqe::new(cid, completion.status).with_result(completion.result);
        let head = if self.flow_control {
            self.head as u16
        } else {
            SQHD_NO_FLOW_CONTROL
        };
        cqe.sqhd.set(head);
        cqe
    }

    /// Commands that will never be completed are forgotten, as a controller
    /// reset does with held ones.
    pub(super) fn forget(&mut self, cid: u16) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if let Some((word, bit)) = self.bit(cid) {
            *word &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_goes_round_with_the_commands_taken() {
        let mut queue = Queue::new();
        assert_eq!(queue.take(9), Taken::New);
        queue.connect(1, 3, true);
        let heads: Vec<u16> = std::iter::once(9)
            .chain(0..6)
            .map(|cid| {
                if cid != 9 {
                    assert_eq!(queue.take(cid), Taken::New);
                }
                queue.complete(cid, Completion::OK, false).sqhd.get()
            })
            .collect();
        assert_eq!(heads, [1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn without_flow_control_the_head_is_all_ones() {
        let mut queue = Queue::new();
        queue.take(0);
        queue.connect(1, 127, false);
        assert_eq!(queue.complete(0, Completion::OK, false).sqhd.get(), 0xffff);
    }

    #[test]
    fn no_more_commands_are_taken_than_the_queue_has_entries() {
        let mut queue = Queue::new();
        queue.connect(1, 3, true);
        for cid in 0..4 {
            assert_eq!(queue.take(cid), Taken::New);
        }
        assert_eq!(queue.take(4), Taken::Overrun);
        queue.complete(2, Completion::OK, false);
        assert_eq!(queue.take(3), Taken::Duplicate);
        queue.complete(3, Completion::OK, true);
        assert_eq!(queue.take(3), Taken::Duplicate);
    }
}
