//! I/O commands (NVM 3.2).

use super::DataPointer;
use crate::spec::DsmRange;

/// A command for a namespace. Blocks are logical blocks of the namespace, and
/// their count is 1 to 65,536, *not* zero-based.
#[derive(Debug, Clone, Copy)]
pub enum IoCommand<'a> {
    /// Data from the namespace into memory.
    Read {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data goes: as long as the blocks.
        data: DataPointer<'a>,
    },
    /// Data from memory into the namespace.
    Write {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data is: as long as the blocks.
        data: DataPointer<'a>,
        /// Force unit access: complete only when the data is on the media.
        fua: bool,
    },
    /// Data in memory is compared with the namespace's: success when it is the
    /// same, [`Status::COMPARE_FAILURE`](crate::spec::Status::COMPARE_FAILURE)
    /// when not. Only where the controller supports it (ONCS).
    Compare {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Where the data is: as long as the blocks.
        data: DataPointer<'a>,
    },
    /// What was written is to be on the media.
    Flush {
        /// Namespace.
        nsid: u32,
    },
    /// The blocks are to read as zeros.
    WriteZeroes {
        /// Namespace.
        nsid: u32,
        /// First logical block.
        slba: u64,
        /// Logical blocks.
        blocks: u32,
        /// The controller should deallocate them.
        deallocate: bool,
        /// Force unit access.
        fua: bool,
    },
    /// The blocks are not needed any more.
    Deallocate {
        /// Namespace.
        nsid: u32,
        /// 1 to 256 ranges; copied at submission.
        ranges: &'a [DsmRange],
    },
}
