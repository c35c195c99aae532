//! A namespace without storage: writes succeed and are forgotten, reads give
//! zeroes. It measures everything but the device.
//!
//! The zeroes are written by the CPU, the one place where it touches payload:
//! else a host would read what another host had left in the buffer.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use sidelane_nvme::spec::Status;

use super::{Backend, Done, DoneList, Job, NotTaken};

/// Commands that may be queued between two polls.
const DEPTH: usize = 1024;

static ZEROES: [u8; 4096] = [0; 4096];

/// See the module.
#[derive(Debug)]
pub struct NullBackend {
    ended: VecDeque<u64>,
}

impl NullBackend {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            ended: VecDeque::with_capacity(DEPTH),
        }
    }
}

impl Default for NullBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for NullBackend {
    fn max_transfer_bytes(&self) -> usize {
        usize::MAX
    }

    fn submit(&mut self, job: &Job<'_>, tag: u64) -> Result<(), NotTaken> {
        if self.ended.len() == DEPTH {
            return Err(NotTaken::Full);
        }
        if let Job::Read(_, data) = job {
            for at in (0..data.len).step_by(ZEROES.len()) {
                let zeroes = &ZEROES[..ZEROES.len().min(data.len - at)];
                if data.region.view().write(data.offset + at, zeroes).is_err() {
                    return Err(NotTaken::Refused(Status::INTERNAL_ERROR));
                }
            }
        }
        self.ended.push_back(tag);
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut DoneList) {
        while !done.is_full() {
            let Some(tag) = self.ended.pop_front() else {
                return;
            };
            done.push(Done {
                tag,
                status: Status::SUCCESS,
            });
        }
    }

    /// Nothing is there to be given up: the next poll ends all.
    fn abort(&mut self, _tag: u64) {}

    fn outstanding(&self) -> usize {
        self.ended.len()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Blocks, DataRef};

    #[test]
    fn a_read_gives_zeroes_and_not_what_the_buffer_held() {
        let view = sidelane_p2p::MemView::anonymous(3 * 4096);
        view.write(0, &[7; 3 * 4096]).unwrap();
        let placement = sidelane_p2p::Placement::Host;
        let region = sidelane_p2p::Region::new("test", placement, 0x1000, view, Box::new(()));
        let data = DataRef {
            region: &region,
            offset: 512,
            len: 2 * 4096,
        };
        NullBackend::new()
            .submit(&Job::Read(Blocks { slba: 0, count: 16 }, data), 1)
            .unwrap();
        let mut bytes = [0; 3 * 4096];
        region.view().read(0, &mut bytes).unwrap();
        assert!(bytes[..512].iter().all(|b| *b == 7) && bytes[8704..].iter().all(|b| *b == 7));
        assert!(bytes[512..8704].iter().all(|b| *b == 0));
    }

    #[test]
    fn every_command_ends_once_and_a_full_queue_says_so() {
        let mut backend = NullBackend::new();
        for tag in 0..DEPTH as u64 {
            backend.submit(&Job::Flush, tag).unwrap();
        }
        assert_eq!(backend.submit(&Job::Flush, 9999), Err(NotTaken::Full));
        let mut tags = Vec::new();
        while backend.outstanding() > 0 {
            let mut done = DoneList::new();
            backend.poll(Instant::now(), &mut done);
            tags.extend(done.iter().map(|d| d.tag));
        }
        assert_eq!(tags, (0..DEPTH as u64).collect::<Vec<_>>());
    }
}
