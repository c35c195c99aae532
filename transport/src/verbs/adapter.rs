//! An RDMA device as a whole: opened once, with one protection domain, for all
//! reactors. It knows the device's limits, keeps its registrations, and has the
//! threads that do what may block.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use sidelane_p2p::{MemView, PciAddress, Region, RegionId};

use super::OpenError;
use super::explain::{MemoryLock, Refusal, Unregistered, refused, unopened};
use super::ffi::{Device, Limits, Mr, MrAccess, RdmaCore, SEND_SGES, Unopened, Verbs};
use super::flusher::FLUSH_DEPTH;
use super::nic::VerbsNic;
use super::registration::{Registration, Registrations};
use super::worker::{Job, Mailbox, Report, Routes, Worker};
use crate::nic::{
    Access, Adapter, AdapterState, Count, MAX_COMPLETIONS, MAX_SGE, NicCaps, RegisterError,
};

/// How an adapter is used. Devices that can do less are used for less: see what
/// [`Adapter::caps`] says of the opened one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterSettings {
    /// Parts, one a reactor.
    pub reactors: usize,
    /// Receive buffers of a part.
    pub srq_wr: u32,
    /// Queue pairs of a part.
    pub max_connections: u32,
    /// Send work requests of a queue pair.
    pub send_wr: u32,
}

/// Memory that flushes read into; what it holds means nothing.
pub(super) struct Scratch<D: Device> {
    mr: D::Mr,
    address: u64,
}

impl<D: Device> Scratch<D> {
    /// One byte of it.
    pub fn sge(&self) -> crate::nic::Sge {
        crate::nic::Sge {
            addr: self.address,
            len: 1,
            lkey: self.mr.lkey(),
        }
    }
}

/// What an adapter, its parts and its threads have together. Fields are dropped
/// in this order: registrations before the protection domain, which the device
/// has.
pub(super) struct Shared<D: Device> {
    pub name: String,
    pub caps: NicCaps,
    pub limits: Limits,
    /// Queue pairs of a part, and completions of its queue.
    pub max_connections: u32,
    pub cq_entries: u32,
    pci: Option<PciAddress>,
    gone: AtomicBool,
    /// Ports with a link, one bit each, from port 1.
    ports_up: AtomicU8,
    pub routes: Routes,
    pub parts: Vec<Mailbox<D>>,
    registrations: Registrations<D>,
    pub scratch: Scratch<D>,
    pub device: D,
}

impl<D: Device> Shared<D> {
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The device is of no more use; all parts are told, once.
    pub fn set_gone(&self) {
        if !self.gone.swap(true, Ordering::AcqRel) {
            for part in &self.parts {
                part.send(Report::Gone);
            }
        }
    }

    /// A port got or lost its link.
    pub fn set_port(&self, port: u8, up: bool) {
        let bit = port_bit(port);
        let before = if up {
            self.ports_up.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.ports_up.fetch_and(!bit, Ordering::AcqRel)
        };
        if (before & bit != 0) != up {
            if up {
                tracing::info!(adapter = %self.name, port, "the port has a link");
            } else {
                tracing::warn!(adapter = %self.name, port, "the port has lost its link: check cable and switch");
            }
        }
    }

    /// A region was taken away; all parts are told, and each looks whether it
    /// has it.
    pub fn revoked(&self, region: RegionId) {
        for part in &self.parts {
            part.send(Report::Revoked(region));
        }
    }
}

fn port_bit(port: u8) -> u8 {
    1_u8.checked_shl(u32::from(port).saturating_sub(1))
        .unwrap_or(0)
}

/// An RDMA device, opened. Its parts hold it; it ends with the last of them.
pub struct VerbsAdapter<V: Verbs = RdmaCore> {
    /// First, so that the threads end before what they work on.
    worker: Worker<V::Device>,
    pub(super) shared: Arc<Shared<V::Device>>,
}

impl VerbsAdapter<RdmaCore> {
    /// Opens a device of rdma-core by its name (`mlx5_0`), and one part of it for
    /// each reactor.
    ///
    /// # Errors
    /// When it is not there, not permitted, or cannot do what is needed, with the
    /// remedy.
    pub fn open(
        name: &str,
        settings: AdapterSettings,
    ) -> Result<(Arc<Self>, Vec<VerbsNic<RdmaCore>>), OpenError> {
        Self::open_with(&RdmaCore, name, settings)
    }
}

impl<V: Verbs> VerbsAdapter<V> {
    /// As [`VerbsAdapter::open`], through other verbs than those of rdma-core.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(
        verbs: &V,
        name: &str,
        settings: AdapterSettings,
    ) -> Result<(Arc<Self>, Vec<VerbsNic<V>>), OpenError> {
        let adapter = Self::try_open(verbs, name, settings);
        let opened = adapter.and_then(|(adapter, reports)| {
            let adapter = Arc::new(adapter);
            let nics = reports
                .into_iter()
                .enumerate()
                .map(|(part, reports)| VerbsNic::new(part, Arc::clone(&adapter), reports));
            let nics = nics.collect::<Result<Vec<_>, _>>()?;
            Ok((adapter, nics))
        });
        opened.map_err(|Refusal { reason, remedy }| OpenError::Adapter {
            name: name.to_owned(),
            reason,
            remedy,
        })
    }

    #[allow(clippy::type_complexity)]
    fn try_open(
        verbs: &V,
        name: &str,
        settings: AdapterSettings,
    ) -> Result<(Self, Vec<std::sync::mpsc::Receiver<Report<V::Device>>>), Refusal> {
        let device = verbs.open(name).map_err(|why| unopened(name, &why))?;
        let ask = |what, error| unopened(name, &Unopened::Refused { what, error });
        let limits = device
            .limits()
            .map_err(|error| ask("ibv_query_device", error))?;
        if limits.iwarp {
            return Err(Refusal::new(
                "it speaks iWARP, whose connections Sidelane does not make",
                "use an adapter for InfiniBand or RoCE, or the software NIC",
            ));
        }
        let mut ports_up = 0;
        let mut max_message = u32::MAX;
        for port in 1..=limits.ports {
            let port_is = device
                .port(port)
                .map_err(|error| ask("ibv_query_port", error))?;
            max_message = max_message.min(port_is.max_message);
            if port_is.active {
                ports_up |= port_bit(port);
            }
        }
        let fit = Fit::of(name, &settings, &limits)?;
        let view = MemView::anonymous(4096);
        let address = view.as_ptr() as u64;
        let writable = MrAccess {
            local_write: true,
            ..MrAccess::default()
        };
        let mr = device.register_host(&view, writable).map_err(|error| {
            let limit = format!("the adapter takes {} registrations", limits.max_mr);
            refused("ibv_reg_mr", &error, 4096, Some(&limit), &MemoryLock::now())
        })?;
        let mut parts = Vec::with_capacity(settings.reactors);
        let mut reports = Vec::with_capacity(settings.reactors);
        for _ in 0..settings.reactors {
            let (sender, receiver) = std::sync::mpsc::channel();
            parts.push(Mailbox::new(sender).map_err(|error| ask("eventfd", error))?);
            reports.push(receiver);
        }
        let caps = NicCaps {
            name: name.to_owned(),
            max_sge: fit.max_sge,
            max_send_wr: fit.send_wr,
            max_srq_wr: fit.srq_wr,
            max_qp: fit.max_connections,
            max_message,
            max_rd_atomic: limits.max_qp_init_rd_atom.min(255) as u8,
            send_invalidate: limits.send_invalidate,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            caps,
            limits,
            max_connections: fit.max_connections,
            cq_entries: fit.cq_entries,
            pci: device.pci(),
            gone: AtomicBool::new(false),
            ports_up: AtomicU8::new(ports_up),
            routes: Routes::default(),
            parts,
            registrations: Registrations::default(),
            scratch: Scratch { mr, address },
            device,
        });
        let worker = Worker::start(&shared)
            .map_err(|error| ask("starting the threads of the adapter", error))?;
        Ok((Self { worker, shared }, reports))
    }

    pub(super) fn jobs(&self) -> Option<std::sync::mpsc::SyncSender<Job<V::Device>>> {
        self.worker.jobs()
    }

    /// The registration of a region, new or shared, with `users` more of them.
    pub(super) fn register(
        &self,
        region: &Region,
        access: Access,
        users: usize,
    ) -> Result<Arc<Registration<V::Device>>, RegisterError> {
        let shared = &self.shared;
        let got = shared
            .registrations
            .get(&shared.device, &shared.limits, region, access, users);
        let (registration, new) = got.map_err(|why| {
            let (nic, region) = (shared.name.clone(), region.name().to_owned());
            match why {
                Unregistered::NotExported(refusal) => RegisterError::NotExported {
                    nic,
                    region,
                    reason: refusal.to_string(),
                },
                Unregistered::Unsupported(refusal) => RegisterError::Unsupported {
                    nic,
                    region,
                    reason: refusal.to_string(),
                },
                Unregistered::Refused(refusal) => RegisterError::Refused {
                    nic,
                    region,
                    reason: refusal.to_string(),
                },
            }
        })?;
        if new && registration.is_revocable() {
            // Not held strongly: the region outlives the adapter, or the other
            // way round.
            let (shared, id) = (Arc::downgrade(shared), region.id());
            region.revocation().on_revoked(move |_| {
                if let Some(shared) = shared.upgrade() {
                    shared.revoked(id);
                }
            });
        }
        Ok(registration)
    }

    /// A part gives a registration back.
    pub(super) fn release(&self, lkey: u32) -> Option<Arc<Registration<V::Device>>> {
        self.shared.registrations.release(lkey)
    }

    /// Regions that are registered now, by whichever part.
    pub fn registered(&self) -> Vec<RegionId> {
        self.shared.registrations.regions()
    }
}

impl<V: Verbs> Adapter for VerbsAdapter<V> {
    fn caps(&self) -> &NicCaps {
        &self.shared.caps
    }

    fn state(&self) -> AdapterState {
        if self.shared.is_gone() {
            AdapterState::Gone
        } else if self.shared.ports_up.load(Ordering::Acquire) == 0 {
            AdapterState::PortDown
        } else {
            AdapterState::Up
        }
    }

    fn pci(&self) -> Option<PciAddress> {
        self.shared.pci
    }

    /// The registration stays, for the parts that ask for it next; it ends when
    /// the last of those gives it back, or with the adapter.
    fn try_register(&self, region: &Region, access: Access) -> Result<(), RegisterError> {
        self.register(region, access, 0).map(drop)
    }

    fn counts(&self) -> Vec<Count> {
        let counters = self.shared.device.counters().into_iter();
        counters.map(|(name, value)| (name.into(), value)).collect()
    }
}

/// What of the settings the device's limits leave.
struct Fit {
    max_sge: usize,
    send_wr: u32,
    srq_wr: u32,
    max_connections: u32,
    cq_entries: u32,
}

impl Fit {
    fn of(name: &str, settings: &AdapterSettings, limits: &Limits) -> Result<Self, Refusal> {
        let parts = u32::try_from(settings.reactors).unwrap_or(u32::MAX).max(1);
        for (what, limit, each) in [
            ("shared receive queues", limits.max_srq, 1),
            ("completion queues", limits.max_cq, 1),
            ("queue pairs", limits.max_qp, 2),
        ] {
            if limit < parts.saturating_mul(each) {
                return Err(Refusal::new(
                    format!("it has {limit} {what}, and {parts} reactors need {each} each"),
                    "use fewer cores in [target] cores",
                ));
            }
        }
        let clamp = |what, wanted: u32, limit: u32, key| {
            if wanted > limit {
                tracing::warn!(
                    adapter = name,
                    wanted,
                    limit,
                    "the RDMA adapter takes fewer {what} than wanted; a lower {key} in [target] needs less"
                );
            }
            wanted.min(limit)
        };
        let send_wr = clamp(
            "send work requests",
            settings.send_wr,
            limits.max_qp_wr,
            "max_queue_entries",
        );
        let srq_wr = clamp(
            "receive work requests",
            settings.srq_wr,
            limits.max_srq_wr,
            "max_queue_entries",
        );
        // Each part has a queue pair more, for the flush.
        let max_connections = clamp(
            "queue pairs",
            settings.max_connections,
            limits.max_qp / parts - 1,
            "max_io_queues",
        );
        // Room for all that can be outstanding at once, so that the queue never
        // overruns, and for what a destroyed queue pair may leave behind.
        // Receives have a queue of their own.
        let fixed = (FLUSH_DEPTH + MAX_COMPLETIONS) as u32;
        let wanted = max_connections
            .saturating_mul(send_wr)
            .saturating_add(fixed);
        let cq_entries = wanted.min(limits.max_cqe);
        if cq_entries < fixed.saturating_add(send_wr) {
            return Err(Refusal::new(
                format!(
                    "its completion queues hold {} entries; {srq_wr} receives and one connection \
                     of {send_wr} sends need more",
                    limits.max_cqe
                ),
                "lower max_queue_entries in [target]",
            ));
        }
        if cq_entries < wanted {
            let connections = (cq_entries - fixed) / send_wr.max(1);
            tracing::info!(
                adapter = name,
                connections,
                of = max_connections,
                "the RDMA adapter's completion queues hold so many connections of a reactor; a lower max_queue_entries in [target] needs less"
            );
        }
        let max_sge = limits.max_sge.min(limits.max_sge_rd).max(1) as usize;
        Ok(Self {
            max_sge: max_sge.min(SEND_SGES).min(MAX_SGE),
            send_wr,
            srq_wr,
            max_connections,
            cq_entries,
        })
    }
}

#[cfg(test)]
mod tests;
