//! What queue pairs tell the keeper of their SSD, and what wakes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::event::{EventfdFlags, eventfd};

use crate::backend::Trouble;
use crate::reactor::clear_eventfd;

/// Notices that may wait: more say nothing new, and what is not told now is told
/// at the next look.
const LIMIT: usize = 256;

/// To a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::target) enum Notice {
    /// Something about a command.
    Trouble(Trouble),
    /// The reactors have ended: shut it down and end.
    Stop,
}

/// The sending end.
#[derive(Clone)]
pub(in crate::target) struct Notices {
    sender: SyncSender<Notice>,
    /// Whether the target is about to stop.
    stopping: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

/// The receiving end.
pub(super) struct Inbox {
    receiver: Receiver<Notice>,
    stopping: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
///
/// # Errors
/// When the system gives no eventfd.
pub(super) fn notices() -> std::io::Result<(Notices, Inbox)> {
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bell = Arc::new(bell);
    let (sender, receiver) = sync_channel(LIMIT);
    let stopping = Arc::new(AtomicBool::new(false));
    let notices = Notices {
        sender,
        stopping: Arc::clone(&stopping),
        bell: Arc::clone(&bell),
    };
    let inbox = Inbox {
        receiver,
        stopping,
        bell,
    };
    Ok((notices, inbox))
}

impl Notices {
    /// Tells what a queue pair noticed; never blocks.
    pub(in crate::target) fn trouble(&self, trouble: Trouble) {
        // One too many is told again.
        let _ = self.sender.try_send(Notice::Trouble(trouble));
        self.ring();
    }

    /// Has the keeper begin nothing any more that takes long.
    pub(in crate::target) fn stop_soon(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Has the keeper end; waits for room.
    pub(in crate::target) fn stop(&self) {
        // An error means that it has ended.
        let _ = self.sender.send(Notice::Stop);
        self.ring();
    }

    fn ring(&self) {
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl Inbox {
    /// The next notice, if there is one.
    pub(super) fn take(&self) -> Option<Notice> {
        self.receiver.try_recv().ok()
    }

    /// Whether the target is about to stop.
    pub(super) fn stops_soon(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Silences what wakes it; to be called before [`Self::take`].
    pub(super) fn clear(&self) {
        clear_eventfd(&*self.bell);
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_notices_neither_blocks_nor_grows() {
        let (notices, inbox) = notices().unwrap();
        for _ in 0..10 * LIMIT {
            notices.trouble(Trouble::GivenUp);
        }
        inbox.clear();
        assert_eq!(std::iter::from_fn(|| inbox.take()).count(), LIMIT);
    }
}
