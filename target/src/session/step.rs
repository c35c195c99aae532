//! What the session core asks of the reactor.

use sidelane_nvme::spec::Status;

/// How a command ends: what its CQE says, beside the identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Status.
    pub status: Status,
    /// Dwords 0 and 1.
    pub result: u64,
}

impl Completion {
    /// Success without a result.
    pub const OK: Self = Self {
        status: Status::SUCCESS,
        result: 0,
    };

    /// Success with a result in dword 0.
    pub fn with_dword(dword: u32) -> Self {
        Self {
            status: Status::SUCCESS,
            result: u64::from(dword),
        }
    }

    /// This status, without a result.
    pub fn of(status: Status) -> Self {
        Self { status, result: 0 }
    }
}

/// Bytes that the command's data pointer names (the keyed descriptor's length,
/// or that of the in-capsule data), as the caller read it; or the status for a
/// descriptor that it cannot use. The status only counts when the command
/// transfers data.
pub type HostLen = Result<u32, Status>;

/// What to do to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// Read blocks and send them to the host.
    Read,
    /// Fetch blocks from the host and write them.
    Write,
    /// Make all completed writes durable.
    Flush,
    /// Write zeros; the host sends no data.
    WriteZeroes {
        /// The blocks may be deallocated, as long as they read as zeros.
        deallocate: bool,
    },
    /// Deallocate ranges of blocks. They are in the data that was given to
    /// [`crate::session::QueueSession::data`], for [`crate::session::dsm_ranges`].
    Deallocate {
        /// Ranges, 1 to 256, of which some may have no blocks.
        ranges: u16,
    },
}

/// A command that passed every check and is the backend's now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoRequest {
    /// Command identifier, for [`crate::session::QueueSession::completed`].
    pub cid: u16,
    /// The namespace.
    pub nsid: u32,
    /// The namespace's [`crate::subsystem::NamespaceInfo::backend`].
    pub backend: usize,
    /// What to do.
    pub op: IoOp,
    /// First block, for read, write and write zeroes.
    pub slba: u64,
    /// Blocks, likewise; at least 1, all inside the namespace.
    pub blocks: u32,
    /// Bytes between host and target: all of `blocks` for read and write, else 0.
    pub bytes: u32,
    /// The command completes only when its blocks are durable (read: are read
    /// from the medium).
    pub fua: bool,
}

/// Blocks of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub slba: u64,
    /// Blocks, at least 1.
    pub blocks: u32,
}

/// What to do about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The backend carries it out; then `completed` with how that went.
    Io(IoRequest),
    /// Fetch the first `len` bytes of the command's data from the host, then
    /// call `data`.
    Fetch {
        /// Bytes; never more than the host's data pointer names.
        len: u32,
    },
    /// Send the bytes to where the host wants them, then `completed`.
    Reply {
        /// As many bytes as the host's data pointer names.
        data: Vec<u8>,
        /// How it ends.
        completion: Completion,
    },
    /// `completed` with this, at once.
    Complete(Completion),
    /// Nothing now: `poll_async` will give its completion some day.
    Held,
    /// `completed` with this, and once the response is sent, end the connection.
    CompleteAndClose(Completion, CloseReason),
    /// End the connection; nothing that is outstanding is answered.
    Close(CloseReason),
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CloseReason {
    /// No command arrived for longer than the keep-alive timeout.
    #[error("the host was silent for longer than its keep-alive timeout")]
    KeepAliveExpired,
    /// No Connect came in time.
    #[error("the host did not send Connect in time")]
    ConnectTimeout,
    /// The association is over: its admin queue is gone, its host may no longer
    /// connect, or its subsystem was withdrawn.
    #[error("the association is over")]
    AssociationEnded,
    /// The host has reset its controller or shut it down.
    #[error("the controller was reset or shut down")]
    ControllerStopped,
    /// The host sent Disconnect.
    #[error("the host disconnected the queue")]
    Disconnected,
    /// The host sent more commands than the queue has entries.
    #[error("the host sent more commands than the queue has entries")]
    QueueOverrun,
    /// The session was closed before.
    #[error("the queue is closed")]
    Closed,
}
