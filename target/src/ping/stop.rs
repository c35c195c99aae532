//! The wish of somebody outside that a ping may end: it wakes a thread that waits
//! for packets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;

/// Set once, from any thread; seen by the one that pings. Clones are the same.
#[derive(Debug, Clone)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wished: AtomicBool,
    bell: OwnedFd,
}

impl Stop {
    /// Not wished yet.
    ///
    /// # Errors
    /// When the process may have no more descriptors.
    pub fn new() -> std::io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner {
            wished: AtomicBool::new(false),
            bell,
        })))
    }

    /// Wishes for the end; says whether somebody had wished before.
    pub fn wish(&self) -> bool {
        let before = self.0.wished.swap(true, Ordering::Relaxed);
        // It can only fail when it rings already.
        let _ = rustix::io::write(&self.0.bell, &1u64.to_ne_bytes());
        before
    }

    /// Whether the end is wished for.
    pub fn is_wished(&self) -> bool {
        self.0.wished.load(Ordering::Relaxed)
    }

    /// Readable from the wish on.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}
