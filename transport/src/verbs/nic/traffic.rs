//! What queue pairs carry, counted by what is posted and what comes back: an
//! adapter in hardware shows nobody its packets.

use crate::nic::{Count, SendOp, SendWr, WcStatus};

/// Of one queue pair, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    /// Send work requests given to the adapter.
    posted: u64,
    /// Of these, those that have come back as done; what is not signaled does not.
    completed: u64,
    /// Those that have come back undone, since the queue pair was to end.
    flushed: u64,
    /// Work that has failed.
    failed: u64,
    /// Messages received.
    received: u64,
    /// Bytes that were to be sent or written.
    bytes_out: u64,
    /// Bytes of messages received.
    bytes_in: u64,
    /// Bytes that were to be read from the peer.
    bytes_read: u64,
}

impl Traffic {
    /// The adapter took these.
    pub fn posted(&mut self, wrs: &[SendWr]) {
        for wr in wrs {
            let bytes: u64 = wr.sges.iter().map(|sge| u64::from(sge.len)).sum();
            self.posted += 1;
            match wr.op {
                SendOp::Read(_) => self.bytes_read += bytes,
                _ => self.bytes_out += bytes,
            }
        }
    }

    /// One of them came back.
    pub fn completed(&mut self, status: WcStatus) {
        match status {
            WcStatus::Success => self.completed += 1,
            WcStatus::Flushed => self.flushed += 1,
            _ => self.failed += 1,
        }
    }

    /// A message of so many bytes arrived, or failed to.
    pub fn received(&mut self, status: WcStatus, len: u32) {
        match status {
            WcStatus::Success => {
                self.received += 1;
                self.bytes_in += u64::from(len);
            }
            WcStatus::Flushed => {}
            _ => self.failed += 1,
        }
    }

    /// Adds what another has carried.
    pub fn add(&mut self, other: &Self) {
        self.posted += other.posted;
        self.completed += other.completed;
        self.flushed += other.flushed;
        self.failed += other.failed;
        self.received += other.received;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        self.bytes_read += other.bytes_read;
    }

    /// By name.
    pub fn counts(&self) -> Vec<Count> {
        [
            ("work_posted", self.posted),
            ("work_completed", self.completed),
            ("work_flushed", self.flushed),
            ("work_failed", self.failed),
            ("messages_in", self.received),
            ("bytes_out", self.bytes_out),
            ("bytes_in", self.bytes_in),
            ("bytes_read", self.bytes_read),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }
}
