//! The completion queue.
//!
//! It cannot overflow: a send work request holds its place in the send queue,
//! and a receive its place in the shared receive queue, until its completion
//! has been polled. So room for all of those is room enough.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::nic::{Completion, QpNumber, RecvWr, WcOp, WcStatus};

#[derive(Debug)]
pub(super) struct CompletionQueue {
    entries: VecDeque<Entry>,
    /// Of these, how many wake a consumer that sleeps for solicited events.
    urgent: usize,
}

/// A receive buffer that has been used, or comes back with an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) qp: QpNumber,
    pub(super) wr: RecvWr,
    /// By an RDMA WRITE with immediate data, not by a SEND.
    pub(super) wrote: bool,
    pub(super) status: WcStatus,
    pub(super) len: u32,
    pub(super) invalidated: Option<u32>,
    pub(super) imm: Option<u32>,
    pub(super) solicited: bool,
}

impl Received {
    /// An empty message.
    pub(super) fn new(qp: QpNumber, wr: RecvWr) -> Self {
        Self {
            qp,
            wr,
            wrote: false,
            status: WcStatus::Success,
            len: 0,
            invalidated: None,
            imm: None,
            solicited: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) completion: Completion,
    /// The buffer of a receive, to be posted again if the queue pair goes
    /// before the completion is polled.
    pub(super) recv: Option<RecvWr>,
    /// Wakes a consumer that sleeps for solicited events: one of them, or a
    /// failure (InfiniBand Architecture, volume 1, 9.2.3 and 11.4.2.2).
    urgent: bool,
}

impl CompletionQueue {
    pub(super) fn new(room: usize) -> Self {
        Self {
            entries: VecDeque::with_capacity(room),
            urgent: 0,
        }
    }

    /// Makes room for the completions of one more queue pair.
    pub(super) fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    /// The end of a send work request.
    pub(super) fn push(&mut self, completion: Completion) {
        self.push_entry(completion, None, false);
    }

    /// The end of a receive.
    pub(super) fn push_received(&mut self, received: Received) {
        let completion = Completion {
            wr_id: received.wr.wr_id,
            qp: received.qp,
            status: received.status,
            op: if received.wrote {
                WcOp::RecvWrite
            } else {
                WcOp::Recv
            },
            len: received.len,
            invalidated: received.invalidated,
            imm: received.imm,
        };
        self.push_entry(completion, Some(received.wr), received.solicited);
    }

    fn push_entry(&mut self, completion: Completion, recv: Option<RecvWr>, solicited: bool) {
        let urgent = solicited || completion.status != WcStatus::Success;
        self.urgent += usize::from(urgent);
        self.entries.push_back(Entry {
            completion,
            recv,
            urgent,
        });
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.urgent -= usize::from(entry.urgent);
        Some(entry)
    }

    /// Whether one is in it that wakes a consumer which sleeps for those.
    pub(super) fn has_urgent(&self) -> bool {
        self.urgent > 0
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
        self.urgent = self.entries.iter().filter(|entry| entry.urgent).count();
    }
}
