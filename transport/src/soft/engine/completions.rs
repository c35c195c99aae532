//! The completion queue.
//!
//! It cannot overflow: a send work request holds its place in the send queue,
//! and a receive its place in the shared receive queue, until its completion
//! has been polled. So room for all of those is room enough.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::nic::{Completion, QpNumber, RecvWr};

#[derive(Debug)]
pub(super) struct CompletionQueue {
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) completion: Completion,
    /// The buffer of a receive, to be posted again if the queue pair goes
    /// before the completion is polled.
    pub(super) recv: Option<RecvWr>,
}

impl CompletionQueue {
    pub(super) fn new(room: usize) -> Self {
        Self {
            entries: VecDeque::with_capacity(room),
        }
    }

    /// Makes room for the completions of one more queue pair.
    pub(super) fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    pub(super) fn push(&mut self, completion: Completion, recv: Option<RecvWr>) {
        self.entries.push_back(Entry { completion, recv });
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes out all that belongs to a queue pair; `recv` gets the buffers,
    /// the last one first.
    pub(super) fn remove(&mut self, qp: QpNumber, mut recv: impl FnMut(RecvWr)) {
        for entry in self
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.completion.qp == qp)
        {
            if let Some(wr) = entry.recv {
                recv(wr);
            }
        }
        self.entries.retain(|entry| entry.completion.qp != qp);
    }
}
