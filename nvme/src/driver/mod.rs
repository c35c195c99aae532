//! A driver for NVMe controllers, in userspace.
//!
//! [`Controller::open`] resets, enables and identifies a controller;
//! [`Controller::create_io_queue_pair`] gives queue pairs, each owned by one
//! thread. Commands carry addresses of [`Region`](sidelane_p2p::Region)s: host
//! memory, the controller's own buffer, or another device's.
//!
//! It follows the Base Specification 2.0 (3.5 for initialization) and the PCIe
//! Transport 1.0. It never takes a device from the kernel, never waits without
//! an end, and never trusts a value of the device as an index.

mod admin;
mod blocks;
mod cmb;
mod command;
mod create;
mod data;
mod device;
mod doorbell;
mod error;
mod events;
mod namespaces;
mod open;
mod pmr;
mod queue;
mod restart;
mod ring;
mod shadow;
mod slots;
#[cfg(test)]
mod tests;
mod writer;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidelane_p2p::PciAddress;
use sidelane_p2p::provider::Window;

pub use command::IoCommand;
pub use data::DataPointer;
pub use error::{DriverError, SubmitError};
pub use events::AsyncEvent;
pub use namespaces::{Namespace, NamespaceChange, UnusableNamespace};
pub use queue::{Completion, IoQueuePair, QueueStats, Tap};
pub use slots::Overdue;

use crate::Backing;
use crate::spec::{
    Abort, AbortResult, AdminOpcode, IdentifyController, LogId, NSID_ALL, SmartLog, Version,
};
use admin::{AdminQueue, sqe_of};
use device::Device;
use open::Known;
use restart::Kept;

/// The longest wait for the answer to Abort. It is on the way to a reset, and
/// hosts wait for both.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// How a controller is to be used.
#[derive(Debug, Clone)]
pub struct Options {
    /// I/O queue pairs to ask the controller for, at least 1.
    pub io_queues: u16,
    /// Whether queues are to have interrupts, where the controller has enough
    /// vectors. Without, they are polled only.
    pub interrupts: bool,
    /// SGL data blocks instead of PRP entries, where the controller takes them.
    pub prefer_sgl: bool,
    /// Shadow doorbells, where the controller offers to look at them: a register
    /// write less for commands that it would have fetched anyway.
    pub shadow_doorbells: bool,
    /// The longest wait for an admin command.
    pub admin_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_queues: 16,
            interrupts: true,
            prefer_sgl: false,
            shadow_doorbells: true,
            admin_timeout: Duration::from_secs(30),
        }
    }
}

/// An enabled controller. Closed when it and all its queue pairs are dropped.
pub struct Controller<B: Backing> {
    inner: Arc<Inner<B>>,
}

struct Inner<B: Backing> {
    device: Device<B>,
    options: Options,
    admin: Mutex<AdminQueue>,
    /// Ends the wait for an admin command: see [`AdminQueue`].
    cancel: Arc<AtomicBool>,
    known: Mutex<Known>,
    /// Interrupt vector 0 is the admin queue's; queue `n` has vector `n`.
    vectors: Vec<OwnedFd>,
    /// Even while the controller runs, odd while it is halted; never goes back.
    epoch: AtomicU32,
    /// Queue identifiers that are not in use.
    free_qids: Mutex<Vec<u16>>,
    /// Rings of queues that the controller did not delete.
    kept: Mutex<Kept>,
    cmb: Mutex<Option<Window>>,
    pmr: Mutex<Option<Window>>,
    closed: AtomicBool,
}

impl<B: Backing> Controller<B> {
    /// Resets and enables a controller, and reads what it is.
    ///
    /// # Errors
    /// When it is gone, broken, too slow, or of a kind that is not served.
    pub fn open(backing: impl Into<Arc<B>>, options: Options) -> Result<Self, DriverError> {
        Ok(Self {
            inner: Arc::new(open::open(backing.into(), options)?),
        })
    }

    /// The controller's address.
    pub fn address(&self) -> PciAddress {
        self.inner.device.address
    }

    /// What it stands on; offers its BARs to a provider.
    pub fn backing(&self) -> &Arc<B> {
        &self.inner.device.backing
    }

    /// Its Identify Controller data, as read when it was opened or last restarted.
    pub fn identify(&self) -> Arc<IdentifyController> {
        self.inner.known().identify
    }

    /// The version of the specification that it follows.
    pub fn version(&self) -> Version {
        self.inner.device.version
    }

    /// Whether data that was written may be lost with the power until a Flush, or
    /// unless written with FUA: there is a volatile write cache, and it is in use.
    pub fn volatile_write_cache(&self) -> bool {
        self.inner.known().cached
    }

    /// The most data of one command, in bytes: the controller's own limit
    /// (MDTS), at most 2 MiB.
    pub fn max_transfer_bytes(&self) -> usize {
        self.inner.known().transfer_max()
    }

    /// I/O queue pairs that the controller grants.
    pub fn max_io_queue_pairs(&self) -> u16 {
        self.inner.known().queue_limit
    }

    /// Whether data is named by SGL descriptors.
    pub fn uses_sgl(&self) -> bool {
        self.inner.known().sgl
    }

    /// The SMART / health log of the controller (clause 5.16.1.3).
    ///
    /// # Errors
    /// When the controller does not answer or refuses.
    pub fn smart_log(&self) -> Result<Box<SmartLog>, DriverError> {
        let inner = &self.inner;
        let name = "Get Log Page (SMART)";
        inner
            .admin_queue()?
            .log_page(&inner.device, name, LogId::Smart, NSID_ALL)
    }

    /// Whether the controller looks at shadow doorbells.
    pub fn uses_shadow_doorbells(&self) -> bool {
        self.inner.known().shadows.is_some()
    }

    /// Asks for a command to be aborted (clause 5.1), and says whether it was: it
    /// ends with Command Abort Requested then. One that was not may end by itself.
    /// One Abort is under way at a time, whatever ACL allows; at most
    /// five seconds are waited for its answer.
    ///
    /// # Errors
    /// When the controller does not answer or refuses.
    pub fn abort(&self, qid: u16, cid: u16) -> Result<bool, DriverError> {
        let inner = &self.inner;
        let abort = Abort {
            sqid: qid.into(),
            cid: cid.into(),
            ..sqe_of(AdminOpcode::Abort).into()
        };
        let mut admin = inner.admin_queue()?;
        let answer = admin.execute_within(ABORT_LIMIT, &inner.device, "Abort", abort.into())?;
        Ok(!AbortResult::from_raw(answer as u32).not_aborted())
    }

    /// Admin completions of no outstanding command, since the controller was
    /// opened: it is at fault.
    pub fn stray_admin_completions(&self) -> u64 {
        lock(&self.inner.admin).strays
    }

    /// Whether the controller is there and without fatal error.
    ///
    /// # Errors
    /// When it is gone or broken.
    pub fn check(&self) -> Result<(), DriverError> {
        self.inner.device.check("in operation").map(|_| ())
    }

    /// Shuts the controller down in order (CC.SHN), so that it has everything
    /// on its media, and cuts it off. Queue pairs that still exist get no more
    /// completions: delete them first.
    ///
    /// # Errors
    /// When it is gone or does not finish in time. It is cut off all the same.
    pub fn shutdown(self) -> Result<(), DriverError> {
        self.inner.close()
    }
}

impl<B: Backing> Inner<B> {
    /// What the controller said of itself when it was last asked.
    fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    /// The admin queue, for commands of a controller that is not halted.
    fn admin_queue(&self) -> Result<MutexGuard<'_, AdminQueue>, DriverError> {
        let admin = lock(&self.admin);
        self.running().map(|_| admin)
    }

    /// Shuts down if that has not been done; afterwards no memory is touched.
    fn close(&self) -> Result<(), DriverError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let running = self.epoch.fetch_or(1, Ordering::AcqRel) & 1 == 0;
        let limit = Duration::from_micros(self.known().identify.rtd3e_us.get().into());
        // One that is halted is disabled already, or kept from memory, and cannot
        // be told to shut down.
        let done = match running {
            true => {
                let shut_down = self.device.shut_down(limit);
                // Also one that did not shut down: the next to open its function
                // lets it at memory again.
                self.device.disable().and(shut_down)
            }
            false => Ok(()),
        };
        self.device.backing.quiesce();
        done
    }
}

impl<B: Backing> Drop for Inner<B> {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "a controller was closed, but not in order");
        }
    }
}

/// No state behind these locks is ever left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
