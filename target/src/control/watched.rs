//! A file descriptor that the runtime watches for being readable.
//!
//! Unsafe is allowed here for the one promise that the runtime asks for: that
//! the descriptor stays open and the same while it is watched.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a duplicate of `fd`. Must be called in a runtime.
///
/// # Errors
/// When it cannot be duplicated or watched.
pub(super) fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: an OwnedFd is open until it is dropped, always gives the same
    // number, and the watch owns it.
    let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
    watched.map_err(io::Error::from)
}
