//! What stores a namespace's blocks, as a reactor drives it.
//!
//! Each reactor has its own backend object per namespace: nothing is shared and
//! nothing is locked. Commands are queued by [`Backend::submit`], made known to
//! the device by one [`Backend::ring`] a batch, and their ends are polled.

mod block;
mod file;
mod null;
mod nvme;
mod passthrough;
mod uring;

use std::os::fd::BorrowedFd;
use std::time::Instant;

use arrayvec::ArrayVec;
use sidelane_nvme::spec::Status;
use sidelane_p2p::Region;

pub use null::NullBackend;
pub use nvme::{NvmeBackend, Trouble, Watch};
pub use uring::{KernelStorage, StorageError, StorageShape, check_kind, client};

/// Ends of commands that one poll returns at most.
pub const MAX_DONE: usize = 64;

/// A run of logical blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// First logical block.
    pub slba: u64,
    /// How many; 0 is allowed only in a deallocation.
    pub count: u32,
}

/// Memory that the device reads from or writes to: never touched by the CPU.
#[derive(Debug, Clone, Copy)]
pub struct DataRef<'a> {
    /// The region.
    pub region: &'a Region,
    /// First byte in it.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// A command for the device.
#[derive(Debug, Clone, Copy)]
pub enum Job<'a> {
    /// Blocks to memory.
    Read(Blocks, DataRef<'a>),
    /// Memory to blocks; with `fua`, to media that survives power loss.
    Write {
        /// Where to.
        blocks: Blocks,
        /// Where from.
        data: DataRef<'a>,
        /// Force unit access.
        fua: bool,
    },
    /// All that was written survives power loss afterwards.
    Flush,
    /// Blocks read as zeroes afterwards.
    WriteZeroes {
        /// Which.
        blocks: Blocks,
        /// Force unit access.
        fua: bool,
    },
    /// The content of the blocks is no longer needed.
    Deallocate(&'a [Blocks]),
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// As given to [`Backend::submit`].
    pub tag: u64,
    /// How it ended.
    pub status: Status,
}

/// Ends of commands.
pub type DoneList = ArrayVec<Done, MAX_DONE>;

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The queue is full: try again after some commands have ended.
    Full,
    /// It will never be taken; the status for the host.
    Refused(Status),
}

/// One reactor's way to a namespace.
pub trait Backend: Send {
    /// The most bytes that one read or write moves.
    fn max_transfer_bytes(&self) -> usize;

    /// Queues a command.
    ///
    /// # Errors
    /// When the queue is full or the command cannot be carried out.
    fn submit(&mut self, job: &Job<'_>, tag: u64) -> Result<(), NotTaken>;

    /// Makes all queued commands known to the device.
    fn ring(&mut self);

    /// Appends the ends of commands until `done` is full or none are left; notices
    /// what is overdue at this time.
    fn poll(&mut self, now: Instant, done: &mut DoneList);

    /// Asks that commands with this tag be given up. Their ends are polled like
    /// any other's, with Command Abort Requested (NVM Express Base, figure 102,
    /// 07h) if they were given up, and with whatever else became of them if not.
    fn abort(&mut self, tag: u64);

    /// Nobody waits any more: what is outstanding is to end soon, by whatever
    /// means, or the backend is taken out.
    fn give_up(&mut self) {}

    /// Commands queued or under way.
    fn outstanding(&self) -> usize;

    /// Readable when a command may have ended; `None` when polling is the only
    /// way, and then all commands end in the call that polls next.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// When [`Backend::poll`] wants to be called at the latest, though nothing
    /// has happened; `None`: no sooner than something happens.
    fn deadline(&self) -> Option<Instant>;
}
