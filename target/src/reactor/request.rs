//! A command on its way through the target, and the one enum of its states.

use std::cell::Cell;
use std::rc::Rc;

use sidelane_nvme::spec::{Sqe, Status};
use sidelane_p2p::pool::PoolBuf;
use sidelane_p2p::provider::PathReason;
use sidelane_transport::nvmf::HostData;

use crate::backend::Blocks;
use crate::session::{CloseReason, Completion, IoRequest};

/// Where a request slot is. Every slot has a receive buffer, room for a
/// response, and goes round: posted, received, ..., responding, posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its receive buffer waits for a command.
    Posted,
    /// A command is in it and is being looked at.
    Received,
    /// It waits its turn for a buffer in a pool.
    WaitingBuffer,
    /// An RDMA READ brings its data from the host.
    Fetching,
    /// Its data was placed and is being made visible to the SSD
    /// (the flush rule: a completion alone does not say so).
    Flushing,
    /// It waits for room in the backend's queue, in part or whole.
    Queueing,
    /// The backend has it.
    Executing,
    /// It is held until there is something to report (AER), or until the command
    /// that it aborts has ended (Abort).
    Held,
    /// Its data (if any) and response are on their way to the host.
    Responding,
}

/// How many states there are.
pub const STATE_COUNT: usize = 9;

/// Their names in reports, in the order of [`State`].
pub const STATE_NAMES: [&str; STATE_COUNT] = [
    "posted",
    "received",
    "waiting-buffer",
    "fetching",
    "flushing",
    "queueing",
    "executing",
    "held",
    "responding",
];

/// The right, and the duty, to answer one command: exactly once.
#[derive(Debug)]
pub struct Permit {
    unspent: Option<Rc<Cell<u64>>>,
}

impl Permit {
    /// A permit that counts in `unspent` when it is dropped without an answer.
    pub fn new(unspent: &Rc<Cell<u64>>) -> Self {
        Self {
            unspent: Some(Rc::clone(unspent)),
        }
    }

    /// The answer was handed to the adapter, or there is nobody left to answer.
    pub fn spend(mut self) {
        self.unspent = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(unspent) = &self.unspent {
            unspent.set(unspent.get() + 1);
        }
    }
}

/// What the fetched data is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Payload for a namespace.
    Payload,
    /// Data of a Fabrics or admin command, for the session core.
    Control,
}

/// One slot of the table of requests.
#[derive(Debug)]
pub struct Request {
    /// Where it is.
    pub state: State,
    /// Its connection, while it is in use.
    pub conn: usize,
    /// The command.
    pub sqe: Sqe,
    /// Bytes received, the command included.
    pub received: u32,
    /// Where the host's data is or goes.
    pub host: HostData,
    /// The validated namespace command, if it is one.
    pub io: Option<IoRequest>,
    /// What a fetch is for.
    pub purpose: Purpose,
    /// Bytes that the session asked for, when it did.
    pub fetch_len: u32,
    /// The pool that its buffer is from.
    pub pool: usize,
    /// Buffer for its data.
    pub buffer: Option<PoolBuf>,
    /// Which way its payload goes.
    pub path: PathReason,
    /// Data for the host that waits for a buffer.
    pub reply: Option<Vec<u8>>,
    /// How it ends once its data has a buffer.
    pub completion: Completion,
    /// Why the connection ends when it is answered.
    pub then_close: Option<CloseReason>,
    /// What a deallocation names.
    pub ranges: Vec<Blocks>,
    /// Bytes that go back to the host from the buffer with the response.
    pub return_bytes: u32,
    /// How it ended so far: the first failure of its parts.
    pub status: Status,
    /// Blocks (or, in a deallocation, nothing) given to the backend so far.
    pub blocks_queued: u32,
    /// Parts that the backend has.
    pub parts: u32,
    /// The host has aborted it. While its data was on the way: the adapter
    /// places that, and then it ends. While a backend has it: it may end so.
    pub aborted: bool,
    /// Times that it was begun again from the beginning.
    pub attempts: u8,
    /// The duty to answer.
    pub permit: Option<Permit>,
}

impl Request {
    /// An empty slot.
    pub fn empty() -> Self {
        Self {
            state: State::Posted,
            conn: usize::MAX,
            sqe: Sqe::default(),
            received: 0,
            host: HostData::None,
            io: None,
            purpose: Purpose::Control,
            fetch_len: 0,
            pool: 0,
            buffer: None,
            path: PathReason::Peer,
            reply: None,
            completion: Completion::OK,
            then_close: None,
            ranges: Vec::new(),
            return_bytes: 0,
            status: Status::SUCCESS,
            blocks_queued: 0,
            parts: 0,
            aborted: false,
            attempts: 0,
            permit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_dropped_without_an_answer_is_counted() {
        let unspent = Rc::new(Cell::new(0));
        Permit::new(&unspent).spend();
        assert_eq!(unspent.get(), 0);
        drop(Permit::new(&unspent));
        assert_eq!(unspent.get(), 1);
    }
}
