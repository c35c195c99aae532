//! Messages between the control plane and a reactor. None of them is on the
//! data path; the reactor looks for them once a round, by one plain load.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use sidelane_p2p::RegionId;
use sidelane_transport::cm::ConnId;
use sidelane_transport::nic::{NicError, QpAttrs, QpNumber};
use tokio::sync::oneshot;

use super::{Attach, Detach, Install, NicCounts, NicSpec};
use crate::session::QueueSession;

/// A connection, over all listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    /// The connection manager's number in the target.
    pub manager: usize,
    /// The connection there.
    pub id: ConnId,
}

/// Why a reactor does not take a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// Its table of connections or of commands is full.
    #[error("all {limit} {what} of reactor on core {core} are in use")]
    Full {
        /// Which table.
        what: &'static str,
        /// Its size.
        limit: usize,
        /// The reactor.
        core: usize,
    },
    /// The adapter refused.
    #[error("the adapter refused the queue pair: {0}")]
    Nic(#[from] NicError),
}

/// A connection that a host asks for.
pub struct NewConnection {
    /// Its name in later messages.
    pub key: ConnKey,
    /// The adapter, by its number in the reactor.
    pub nic: usize,
    /// What to bring the queue pair up with.
    pub attrs: QpAttrs,
    /// Commands that the host may have outstanding.
    pub depth: usize,
    /// The NVMe-oF side of it.
    pub session: QueueSession,
    /// Where the queue pair's number goes.
    pub reply: oneshot::Sender<Result<QpNumber, NotOpened>>,
}

/// To a reactor.
pub enum ToReactor {
    /// Make a queue pair.
    Open(Box<NewConnection>),
    /// The connection is gone.
    Disconnected(ConnKey),
    /// The memory of this region was taken away: nothing goes by it any more.
    Revoked(RegionId),
    /// An adapter that was gone is back: its new part takes the place of the old
    /// one, by its number in the reactor.
    Replace(usize, Box<NicSpec>),
    /// Backends are to go: their SSD is reset, or lost.
    Detach(Detach),
    /// A backend takes the place of one that has gone.
    Attach(Attach),
    /// Memory that was taken away is back.
    Install(Install),
    /// Tell what adapters and queue pairs have counted, by adapter.
    Count(oneshot::Sender<Vec<NicCounts>>),
    /// Quiesce and stop.
    Stop,
}

/// From a reactor.
#[derive(Debug)]
pub enum FromReactor {
    /// End this connection.
    Disconnect(ConnKey),
    /// An adapter, by its number in the reactor, is gone.
    AdapterGone(usize),
    /// It met a defect and has ended; its connections are lost.
    Panicked {
        /// Its core.
        core: usize,
    },
}

/// The sending end.
#[derive(Clone)]
pub struct Mailbox {
    sender: mpsc::Sender<ToReactor>,
    bell: Arc<Bell>,
}

struct Bell {
    rung: AtomicBool,
    /// Whether a session asked to be looked at.
    woken: AtomicBool,
    fd: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // A bell that was rung and not yet heard need not be rung again.
        if !self.rung.swap(true, Ordering::AcqRel) {
            ring_eventfd(&self.fd);
        }
    }
}

/// Sessions wake their reactor by this when another thread gave them something
/// to do.
impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.ring();
    }
}

/// The receiving end.
pub struct Inbox {
    receiver: mpsc::Receiver<ToReactor>,
    bell: Arc<Bell>,
}

/// A mailbox and its inbox.
///
/// # Errors
/// When the system gives no eventfd.
pub fn mailbox() -> std::io::Result<(Mailbox, Inbox)> {
    let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bell = Bell {
        rung: AtomicBool::new(false),
        woken: AtomicBool::new(false),
        fd,
    };
    let bell = Arc::new(bell);
    let (sender, receiver) = mpsc::channel();
    Ok((
        Mailbox {
            sender,
            bell: Arc::clone(&bell),
        },
        Inbox { receiver, bell },
    ))
}

impl Mailbox {
    /// Sends; `false` when the reactor has ended.
    pub fn send(&self, message: ToReactor) -> bool {
        let sent = self.sender.send(message).is_ok();
        self.bell.ring();
        sent
    }

    /// Wakes the reactor so that it looks at all its sessions.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

impl Inbox {
    /// Whether anything came since the last call; then look with
    /// [`Self::woken`] and [`Self::take`].
    pub fn rung(&mut self) -> bool {
        if !self.bell.rung.load(Ordering::Acquire) {
            return false;
        }
        // Silenced before looking: what comes while looking rings again.
        clear_eventfd(&self.bell.fd);
        self.bell.rung.store(false, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        true
    }

    /// Whether a session asked to be looked at.
    pub fn woken(&mut self) -> bool {
        self.bell.woken.swap(false, Ordering::AcqRel)
    }

    /// The next message, if there is one.
    pub fn take(&mut self) -> Option<ToReactor> {
        self.receiver.try_recv().ok()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

/// Adds one to an eventfd, waking who waits for it.
fn ring_eventfd(fd: &impl AsFd) {
    while let Err(Errno::INTR) = write(fd, &1u64.to_ne_bytes()) {}
}

/// Takes what an eventfd has counted, so that it is not readable any more.
pub fn clear_eventfd(fd: &impl AsFd) {
    let mut count = [0; 8];
    while let Err(Errno::INTR) = read(fd, &mut count) {}
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

impl fmt::Debug for ToReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(new) => write!(f, "Open({:?})", new.key),
            Self::Disconnected(key) => write!(f, "Disconnected({key:?})"),
            Self::Revoked(region) => write!(f, "Revoked({region:?})"),
            Self::Replace(port, _) => write!(f, "Replace({port})"),
            Self::Detach(detach) => write!(f, "{detach:?}"),
            Self::Attach(attach) => write!(f, "Attach({})", attach.namespace),
            Self::Install(install) => write!(f, "Install({})", install.pool),
            Self::Count(_) => f.write_str("Count"),
            Self::Stop => f.write_str("Stop"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_and_the_bell_is_silent_afterwards() {
        let (mailbox, mut inbox) = mailbox().unwrap();
        assert!(!inbox.rung());
        mailbox.send(ToReactor::Stop);
        mailbox.send(ToReactor::Stop);
        assert!(inbox.rung() && !inbox.woken());
        assert!(matches!(inbox.take(), Some(ToReactor::Stop)));
        assert!(matches!(inbox.take(), Some(ToReactor::Stop)));
        assert!(inbox.take().is_none() && !inbox.rung());
        let mut count = [0; 8];
        assert_eq!(read(inbox.as_fd(), &mut count), Err(Errno::AGAIN));
    }

    #[test]
    fn a_wake_rings_the_bell_and_is_heard_once() {
        let (mailbox, mut inbox) = mailbox().unwrap();
        let waker = mailbox.waker();
        waker.wake_by_ref();
        waker.wake();
        assert!(inbox.rung() && inbox.woken());
        assert!(!inbox.rung() && !inbox.woken());
    }

    #[test]
    fn a_message_to_a_reactor_that_has_ended_is_reported() {
        let (mailbox, inbox) = mailbox().unwrap();
        drop(inbox);
        assert!(!mailbox.send(ToReactor::Stop));
    }
}
