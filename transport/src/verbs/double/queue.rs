//! Completion queues of the double: what is in them, and whom it wakes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::ring;
use crate::verbs::ffi::{Wc, status};

/// What a completion queue tells of next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Armed {
    No,
    Solicited,
    All,
}

/// A message that arrives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Message {
    pub len: u32,
    pub invalidated: Option<u32>,
    pub imm: Option<u32>,
    /// An RDMA WRITE, not a SEND.
    pub wrote: bool,
    pub solicited: bool,
}

/// A completion queue.
pub struct Queue {
    pub wcs: VecDeque<Wc>,
    pub armed: Armed,
    pub channel: Arc<OwnedFd>,
    /// Comes after the events were drained and before the queue is armed.
    pub before_arm: Option<Wc>,
}

/// A completion with nothing beside it.
pub fn wc(qp: u32, wr_id: u64, status: u32, len: u32) -> Wc {
    Wc {
        wr_id,
        status,
        vendor_error: 0,
        qp,
        len,
        invalidated: None,
        imm: None,
        wrote: false,
    }
}

impl Queue {
    pub fn push(&mut self, wc: Wc, solicited: bool) {
        self.wcs.push_back(wc);
        let told = match self.armed {
            Armed::No => false,
            Armed::Solicited => solicited || wc.status != status::SUCCESS,
            Armed::All => true,
        };
        if told {
            self.armed = Armed::No;
            ring(&*self.channel);
        }
    }
}
