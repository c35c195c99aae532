//! What may be asked of a demo.

use super::DemoError;

/// Bytes of a logical block of the modelled SSDs.
pub const SSD_BLOCK_BYTES: u64 = 4096;

/// Most commands on their way at a time.
pub const DEPTH_MAX: u16 = 127;

/// Most payload of one command.
pub const COMMAND_BYTES_MAX: u64 = 1 << 20;

/// What a demo does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// Print one JSON object instead of a progress bar and a table.
    pub json: bool,
    /// Bytes to write and read back in each namespace, whole blocks of
    /// [`SSD_BLOCK_BYTES`].
    pub bytes: u64,
    /// Payload of one command, whole blocks, at most [`COMMAND_BYTES_MAX`].
    pub block_bytes: u64,
    /// Commands on their way at a time, 1 to [`DEPTH_MAX`].
    pub depth: u16,
    /// Change one byte on the first SSD between writing and reading, to see that
    /// the verification can fail.
    pub spoil: bool,
}

impl Default for DemoOptions {
    /// 256 MiB by commands of 128 KiB, 16 at a time.
    fn default() -> Self {
        Self {
            json: false,
            bytes: 256 << 20,
            block_bytes: 128 << 10,
            depth: 16,
            spoil: false,
        }
    }
}

impl DemoOptions {
    pub(super) fn check(&self) -> Result<(), DemoError> {
        let whole = |bytes: u64| bytes > 0 && bytes.is_multiple_of(SSD_BLOCK_BYTES);
        let wrong = if !whole(self.bytes) {
            format!(
                "{} bytes are not whole blocks of {SSD_BLOCK_BYTES}",
                self.bytes
            )
        } else if !whole(self.block_bytes) || self.block_bytes > COMMAND_BYTES_MAX {
            format!(
                "commands of {} bytes; whole blocks of {SSD_BLOCK_BYTES} up to \
                 {COMMAND_BYTES_MAX} are possible",
                self.block_bytes
            )
        } else if !(1..=DEPTH_MAX).contains(&self.depth) {
            format!(
                "{} commands at a time; 1 to {DEPTH_MAX} are possible",
                self.depth
            )
        } else {
            return Ok(());
        };
        Err(DemoError::Options(wrong))
    }
}
