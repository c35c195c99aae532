//! Sleeping when there is nothing to do, without missing what wakes.

use std::os::fd::AsFd;
use std::time::Instant;

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use sidelane_transport::nic::Wake;

use super::mailbox::clear_eventfd;
use super::{MAX_SLEEP, Reactor};
use crate::backend::DoneList;

/// Adapters and namespaces that a reactor can wait for.
pub const MAX_WAITED: usize = 63;

impl Reactor {
    /// What adapters wake it for. An answer that has gone out gives back a slot,
    /// a buffer and room in the send queue: unless somebody waits for one of
    /// these, it can be looked at when the next command comes.
    fn wake(&self) -> Wake {
        let awaited = self.stopping.is_some()
            || self.connections.wait_for_sends()
            || self.pools.iter().any(|waited| !waited.admission.is_empty());
        if awaited { Wake::All } else { Wake::NotSent }
    }

    /// Sleeps until something happens or a timer is due. `false` when there was
    /// work after all, found between arming and sleeping.
    pub(super) fn sleep(&mut self, now: Instant) -> bool {
        let wake = self.wake();
        for port in &mut self.ports {
            if !port.nic.arm(now, wake) {
                return false;
            }
        }
        // An SSD's eventfd is cleared first and its queue looked at last: an end
        // that comes between the two makes it readable again.
        for namespace in 0..self.namespaces.len() {
            let Some(backend) = &mut self.namespaces[namespace].namespace.backend else {
                continue;
            };
            if let Some(fd) = backend.event_fd() {
                clear_eventfd(&fd);
            }
            if backend.outstanding() == 0 {
                continue;
            }
            let mut done = DoneList::new();
            backend.poll(now, &mut done);
            if !done.is_empty() {
                for end in done {
                    self.executed(end, now);
                }
                return false;
            }
        }
        let deadline = self
            .ports
            .iter()
            .filter_map(|port| port.nic.deadline())
            .chain(self.connections.deadline())
            .chain(
                self.namespaces
                    .iter()
                    .filter_map(|it| it.namespace.backend.as_ref()?.deadline()),
            )
            .min();
        let wait = deadline.map_or(MAX_SLEEP, |at| {
            at.saturating_duration_since(now).min(MAX_SLEEP)
        });
        let timeout = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut fds = ArrayVec::<PollFd<'_>, { MAX_WAITED + 1 }>::new();
        fds.push(PollFd::from_borrowed_fd(self.inbox.as_fd(), PollFlags::IN));
        for port in &self.ports {
            fds.push(PollFd::from_borrowed_fd(port.nic.event_fd(), PollFlags::IN));
        }
        for queued in &self.namespaces {
            let backend = queued.namespace.backend.as_ref();
            if let Some(fd) = backend.and_then(|backend| backend.event_fd()) {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        self.counters.sleeps.add(1);
        // An interrupted sleep is as good as a short one.
        let _ = poll(&mut fds, Some(&timeout));
        true
    }
}
