//! Why a demo did not come to its end.

use sidelane_nvme::spec::Status;

use crate::initiator::{HostError, IoKind, SubmitError};

/// Why there is no report. That data was wrong, or went the wrong way, is in
/// the report.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The options make no sense together.
    #[error("{0}")]
    Options(String),
    /// No pair of loopback addresses could be had.
    #[error("no free pair of loopback addresses for RoCEv2 in {tries} tries, lastly: {last}")]
    Addresses {
        /// Pairs tried.
        tries: usize,
        /// Why the last one was not to be had.
        last: String,
    },
    /// The temporary folder could not be made.
    #[error("no temporary folder: {0}")]
    Folder(#[source] std::io::Error),
    /// The target did not start.
    #[error("the target did not start: {0:#}")]
    Target(anyhow::Error),
    /// The initiator failed.
    #[error("the initiator: {0}")]
    Host(#[from] HostError),
    /// A command was not even sent.
    #[error("namespace {nsid}: the initiator did not send a command: {source}")]
    Submit {
        /// The namespace.
        nsid: u32,
        /// Why.
        source: SubmitError,
    },
    /// A command ended with an error status.
    #[error("namespace {nsid}: {kind:?} at LBA {lba} failed: {status}")]
    Io {
        /// The command.
        kind: IoKind,
        /// The namespace.
        nsid: u32,
        /// Its first block.
        lba: u64,
        /// The status.
        status: Status,
    },
    /// Ctrl-C.
    #[error("interrupted; everything was closed in order")]
    Interrupted,
    /// A defect of the demo.
    #[error("a defect of the demo: {0}")]
    Internal(String),
}
