//! A driver for NVMe controllers, in userspace.
//!
//! [`Controller::open`] resets, enables and identifies a controller;
//! [`Controller::create_io_queue_pair`] gives queue pairs, each owned by one
//! thread. Commands carry addresses of [`Region`]s: host
//! memory, the controller's own buffer, or another device's.
//!
//! It follows the Base Specification 2.0 (3.5 for initialization) and the PCIe
//! Transport 1.0. It never takes a device from the kernel, never waits without
//! an end, and never trusts a value of the device as an index.

mod admin;
mod cmb;
mod command;
mod data;
mod device;
mod error;
mod open;
mod queue;
mod ring;
mod slots;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidelane_p2p::provider::CmbWindow;
use sidelane_p2p::{PciAddress, Region};

pub use command::IoCommand;
pub use data::DataPointer;
pub use error::{DriverError, SubmitError};
pub use open::{Namespace, UnusableNamespace};
pub use queue::{Completion, IoQueuePair, QueueStats, Tap};
pub use slots::Overdue;

use crate::Backing;
use crate::spec::{
    AdminOpcode, CQE_LEN, CreateCqFlags, CreateIoCq, CreateIoSq, CreateSqFlags, DeleteIoQueue,
    IdentifyController, LogId, NSID_ALL, QueueIdSize, SQE_LEN, SmartLog, Version, offset,
};
use admin::{AdminQueue, host_region, sqe_of};
use data::{ListPages, TRANSFER_MAX};
use device::Device;
use queue::QueueStats as Stats;
use ring::{CompletionRing, SubmissionRing};
use slots::Slots;

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
    /// The longest wait for an admin command.
    pub admin_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_queues: 16,
            interrupts: true,
            prefer_sgl: false,
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
    admin: Mutex<AdminQueue>,
    identify: Box<IdentifyController>,
    /// Ascending by identifier.
    namespaces: Vec<Namespace>,
    unusable: Vec<UnusableNamespace>,
    /// Interrupt vector 0 is the admin queue's; queue `n` has vector `n`.
    vectors: Vec<OwnedFd>,
    queue_limit: u16,
    /// Queue identifiers that are not in use.
    free_qids: Mutex<Vec<u16>>,
    /// Rings of queues that the controller did not delete.
    kept: Mutex<Vec<Region>>,
    cmb: Mutex<Option<CmbWindow>>,
    sgl: bool,
    closed: AtomicBool,
}

impl<B: Backing> Controller<B> {
    /// Resets and enables a controller, and reads what it is.
    ///
    /// # Errors
    /// When it is gone, broken, too slow, or of a kind that is not served.
    pub fn open(backing: impl Into<Arc<B>>, options: Options) -> Result<Self, DriverError> {
        Ok(Self {
            inner: Arc::new(open::open(backing.into(), &options)?),
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

    /// Its Identify Controller data, as read when it was opened.
    pub fn identify(&self) -> &IdentifyController {
        &self.inner.identify
    }

    /// The version of the specification that it follows.
    pub fn version(&self) -> Version {
        self.inner.device.version
    }

    /// Active namespaces that can be used, ascending by identifier.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.inner.namespaces
    }

    /// Active namespaces that cannot, and why.
    pub fn unusable_namespaces(&self) -> &[UnusableNamespace] {
        &self.inner.unusable
    }

    /// The most data of one command, in bytes: the controller's own limit
    /// (MDTS), at most 2 MiB.
    pub fn max_transfer_bytes(&self) -> usize {
        self.inner.transfer_max()
    }

    /// I/O queue pairs that the controller grants.
    pub fn max_io_queue_pairs(&self) -> u16 {
        self.inner.queue_limit
    }

    /// Whether data is named by SGL descriptors.
    pub fn uses_sgl(&self) -> bool {
        self.inner.sgl
    }

    /// Makes a queue pair with room for `depth - 1` outstanding commands.
    /// `depth` is brought into what driver and controller allow: see
    /// [`IoQueuePair::capacity`].
    ///
    /// # Errors
    /// When none is left, memory runs out, or the controller refuses.
    pub fn create_io_queue_pair(&self, depth: u16) -> Result<IoQueuePair<B>, DriverError> {
        let inner = &self.inner;
        let limit = inner.queue_limit;
        let qid = lock(&inner.free_qids).pop();
        let qid = qid.ok_or(DriverError::NoQueueLeft {
            device: inner.device.address,
            limit,
        })?;
        let made = self.create_with(qid, depth);
        if made.is_err() {
            lock(&inner.free_qids).push(qid);
        }
        made
    }

    fn create_with(&self, qid: u16, depth: u16) -> Result<IoQueuePair<B>, DriverError> {
        let inner = &self.inner;
        let device = &inner.device;
        let most = device.cap.mqes_z().saturating_add(1).min(0x8000);
        let entries = depth.min(most).max(2);
        let host = |what: &str, len| host_region(device, &format!("{what} {qid}"), len);
        let slots = Slots::new(entries - 1);
        let sq_memory = host("submission queue", usize::from(entries) * SQE_LEN)?;
        let cq_memory = host("completion queue", usize::from(entries) * CQE_LEN)?;
        let lists = host("lists of queue", ListPages::bytes_for(slots.capacity()))?;

        let vector = Some(usize::from(qid)).filter(|vector| *vector < inner.vectors.len());
        let queue = QueueIdSize::new().with_qid(qid).with_qsize_z(entries - 1);
        let flags = CreateCqFlags::new().with_pc(true);
        let create_cq = CreateIoCq {
            prp1: cq_memory.iova().into(),
            queue,
            flags: match vector {
                Some(vector) => flags.with_ien(true).with_iv(vector as u16),
                None => flags,
            },
            ..sqe_of(AdminOpcode::CreateIoCq).into()
        };
        inner.admin("Create I/O Completion Queue", create_cq.into())?;
        let create_sq = CreateIoSq {
            prp1: sq_memory.iova().into(),
            queue,
            flags: CreateSqFlags::new().with_pc(true).with_cqid(qid),
            ..sqe_of(AdminOpcode::CreateIoSq).into()
        };
        if let Err(error) = inner.admin("Create I/O Submission Queue", create_sq.into()) {
            if inner.delete(AdminOpcode::DeleteIoCq, qid).is_err() {
                lock(&inner.kept).extend([sq_memory, cq_memory]);
            }
            return Err(error);
        }
        let dstrd = device.cap.dstrd();
        Ok(IoQueuePair {
            inner: Arc::clone(inner),
            qid,
            sq: SubmissionRing::new(sq_memory, entries, offset::sq_tail(qid, dstrd)),
            cq: CompletionRing::new(cq_memory, entries, offset::cq_head(qid, dstrd)),
            slots,
            lists: ListPages::new(lists),
            transfer_max: inner.transfer_max(),
            sgl: inner.sgl,
            vector,
            tap: None,
            stats: Stats::default(),
            deleted: false,
        })
    }

    /// The SMART / health log of the controller (clause 5.16.1.3).
    ///
    /// # Errors
    /// When the controller does not answer or refuses.
    pub fn smart_log(&self) -> Result<Box<SmartLog>, DriverError> {
        let inner = &self.inner;
        lock(&inner.admin).log_page(
            &inner.device,
            "Get Log Page (SMART)",
            LogId::Smart,
            NSID_ALL,
        )
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
    fn admin(&self, command: &'static str, sqe: crate::spec::Sqe) -> Result<u64, DriverError> {
        lock(&self.admin).execute(&self.device, command, sqe)
    }

    fn transfer_max(&self) -> usize {
        let limit = match self.identify.mdts {
            0 => None,
            mdts => data::PAGE
                .checked_shl(u32::from(mdts))
                .filter(|bytes| *bytes != 0),
        };
        limit.unwrap_or(TRANSFER_MAX).min(TRANSFER_MAX)
    }

    fn block_bytes(&self, nsid: u32) -> Option<u32> {
        let found = self
            .namespaces
            .binary_search_by_key(&nsid, |namespace| namespace.nsid);
        self.namespaces
            .get(found.ok()?)
            .map(|namespace| namespace.block_bytes)
    }

    fn delete(&self, opcode: AdminOpcode, qid: u16) -> Result<(), DriverError> {
        let delete = DeleteIoQueue {
            qid: qid.into(),
            ..sqe_of(opcode).into()
        };
        let command = match opcode {
            AdminOpcode::DeleteIoSq => "Delete I/O Submission Queue",
            _ => "Delete I/O Completion Queue",
        };
        self.admin(command, delete.into()).map(|_| ())
    }

    /// Deletes a queue pair. Its memory is kept if the controller may still use it.
    fn delete_queues(&self, qid: u16, memory: [Region; 3]) -> Result<(), DriverError> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let deleted = self
            .delete(AdminOpcode::DeleteIoSq, qid)
            .and_then(|()| self.delete(AdminOpcode::DeleteIoCq, qid));
        match &deleted {
            Ok(()) => lock(&self.free_qids).push(qid),
            Err(_) => lock(&self.kept).extend(memory),
        }
        deleted
    }

    /// Shuts down if that has not been done; afterwards no memory is touched.
    fn close(&self) -> Result<(), DriverError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let limit = Duration::from_micros(self.identify.rtd3e_us.get().into());
        let done = self
            .device
            .shut_down(limit)
            .and_then(|()| self.device.disable());
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
