//! The error information log of a controller (NVMe 2.0, 5.16.1.2): a ring of
//! the newest failures, filled only by commands that failed.

use std::collections::VecDeque;

use sidelane_nvme::spec::{Csi, ErrorLogEntry, Sqe, Status, TransportType};
use zerocopy::little_endian::{U16, U32, U64};

/// Entries kept (ELPE in Identify Controller).
pub const ERROR_LOG_LEN: usize = 64;

/// The newest failures of one controller.
#[derive(Debug)]
pub struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorLogEntry>,
}

/// An empty log, with room for all entries: recording allocates nothing.
impl Default for ErrorLog {
    fn default() -> Self {
        Self {
            count: 0,
            entries: VecDeque::with_capacity(ERROR_LOG_LEN),
        }
    }
}

impl ErrorLog {
    /// Records that a command of queue `qid` failed. `location` is where in the
    /// command the error is, when it is there.
    pub fn record(&mut self, qid: u16, sqe: &Sqe, status: Status, location: Option<u16>, lba: u64) {
        let mut entry = ErrorLogEntry::default();
        entry.error_count = U64::new(self.count.wrapping_add(1).max(1));
        entry.sqid = U16::new(qid);
        entry.cid = U16::new(sqe.cid());
        entry.location = U16::new(location.unwrap_or(u16::MAX));
        entry.lba = U64::new(lba);
        entry.nsid = U32::new(sqe.nsid.get());
        entry.trtype = TransportType::Rdma.into_bits();
        entry.csi = Csi::Nvm;
        entry.opcode = sqe.opcode();
        entry.version = 1;
        entry.set_status(status);
        self.count = entry.error_count.get();
        if self.entries.len() >= ERROR_LOG_LEN {
            self.entries.pop_back();
        }
        self.entries.push_front(entry);
    }

    /// Failures since the controller was made.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The entries, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &ErrorLogEntry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_kept_and_counted() {
        let mut log = ErrorLog::default();
        for nsid in 1..=(ERROR_LOG_LEN as u32 + 3) {
            let sqe = Sqe::new(0x02, nsid);
            log.record(7, &sqe, Status::INVALID_FIELD.with_dnr(true), None, 0);
        }
        assert_eq!(log.count(), ERROR_LOG_LEN as u64 + 3);
        let nsids: Vec<u32> = log.iter().map(|entry| entry.nsid.get()).collect();
        assert_eq!(nsids.len(), ERROR_LOG_LEN);
        assert_eq!(nsids.first(), Some(&(ERROR_LOG_LEN as u32 + 3)));
        assert_eq!(nsids.last(), Some(&4));
        assert!(
            log.iter()
                .all(|e| e.status() == Status::INVALID_FIELD.with_dnr(true))
        );
    }
}
