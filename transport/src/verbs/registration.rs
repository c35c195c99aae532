//! Registrations of a device: one per region, shared by all reactors, since a
//! device's tables and the time to pin memory are both finite.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidelane_p2p::{DmaBuf, ExportError, Region, RegionId};

use super::explain::{MemoryLock, Refusal, Unregistered, host_unregistered, peer_unregistered};
use super::ffi::{Device, Limits, Mr, MrAccess};
use crate::nic::{Access, MemoryRegion};

/// A registered region. Fields are dropped in this order: the registration, the
/// memory, what holds the device that the memory is on.
pub(super) struct Registration<D: Device> {
    mr: D::Mr,
    pub region: Region,
    dmabuf: Option<DmaBuf>,
    /// The address of byte 0.
    base: u64,
}

impl<D: Device> Registration<D> {
    fn new(
        device: &D,
        limits: &Limits,
        region: &Region,
        access: MrAccess,
    ) -> Result<Self, Unregistered> {
        if !region.is_peer() {
            let view = region.view();
            let because = |error: io::Error| {
                host_unregistered(view.len() as u64, &error, limits, &MemoryLock::now())
            };
            return Ok(Self {
                mr: device.register_host(view, access).map_err(because)?,
                region: region.clone(),
                dmabuf: None,
                base: view.as_ptr() as u64,
            });
        }
        let dmabuf = region.export().map_err(unexported)?;
        let base = region.iova();
        let because = |error: io::Error| peer_unregistered(&error, limits, &MemoryLock::now());
        Ok(Self {
            mr: device
                .register_dmabuf(&dmabuf, base, access)
                .map_err(because)?,
            region: region.clone(),
            dmabuf: Some(dmabuf),
            base,
        })
    }

    /// What the consumer knows of it.
    pub fn memory(&self) -> MemoryRegion {
        MemoryRegion {
            region: self.region.id(),
            lkey: self.mr.lkey(),
            rkey: self.mr.rkey(),
            base: self.base,
            len: self.region.len() as u64,
        }
    }

    /// Whether it is memory that can be taken away.
    pub fn is_revocable(&self) -> bool {
        self.dmabuf.is_some()
    }
}

/// The error says all there is to say, the remedy too.
fn unexported(error: ExportError) -> Unregistered {
    let text = error.to_string();
    Unregistered::NotExported(match text.split_once("; ") {
        Some((reason, remedy)) => Refusal::new(reason, remedy),
        None => Refusal::new(text, "use p2p = \"off\" or \"prefer\" for host memory"),
    })
}

/// What a region is registered for. Memory that takes data can be read too, for
/// the flush, which is a READ; hosts cannot, for their queue pairs allow nothing.
fn access_for(access: Access) -> MrAccess {
    MrAccess {
        local_write: access.local_write || access.remote_write,
        remote_read: access.remote_read || access.local_write,
        remote_write: access.remote_write,
    }
}

/// A registration and how many parts have it.
struct Entry<D: Device> {
    access: MrAccess,
    users: usize,
    registration: Arc<Registration<D>>,
}

/// All registrations of a device. What was registered on trial stays, for the
/// parts that are about to ask for it.
pub(super) struct Registrations<D: Device>(Mutex<Vec<Entry<D>>>);

impl<D: Device> Default for Registrations<D> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<D: Device> Registrations<D> {
    fn table(&self) -> MutexGuard<'_, Vec<Entry<D>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registration of a region, made now if there is none; `true` with one
    /// that is new. With `users` counted on it.
    pub fn get(
        &self,
        device: &D,
        limits: &Limits,
        region: &Region,
        access: Access,
        users: usize,
    ) -> Result<(Arc<Registration<D>>, bool), Unregistered> {
        let access = access_for(access);
        // Held while the device works: two parts that ask for one region must
        // get one registration.
        let mut table = self.table();
        let same = |entry: &&mut Entry<D>| {
            entry.registration.region.id() == region.id() && entry.access == access
        };
        if let Some(entry) = table.iter_mut().find(same) {
            entry.users += users;
            return Ok((Arc::clone(&entry.registration), false));
        }
        let registration = Arc::new(Registration::new(device, limits, region, access)?);
        table.push(Entry {
            access,
            users,
            registration: Arc::clone(&registration),
        });
        Ok((registration, true))
    }

    /// A part gives a registration back; the last one gets it, to be ended.
    pub fn release(&self, lkey: u32) -> Option<Arc<Registration<D>>> {
        let mut table = self.table();
        let at = table
            .iter()
            .position(|entry| entry.registration.mr.lkey() == lkey)?;
        let entry = table.get_mut(at)?;
        entry.users = entry.users.saturating_sub(1);
        (entry.users == 0).then(|| table.swap_remove(at).registration)
    }

    /// Regions registered now.
    pub fn regions(&self) -> Vec<RegionId> {
        let table = self.table();
        table
            .iter()
            .map(|entry| entry.registration.region.id())
            .collect()
    }
}
