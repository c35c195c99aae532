//! Connection management through librdmacm, the passive side (InfiniBand
//! Architecture, volume 1, chapter 12; `man rdma_cm`).
//!
//! One manager answers for all adapters. Queue pairs are not the library's:
//! reactors make them from the attributes that come with a request, so that
//! accepting only names a number.
//!
//! This is a state machine over the library's calls: events in, events out, and
//! time as an argument; tests drive it over a double. It must never block, keep
//! an identifier whose connection is over, or report an end twice. What the
//! kernel takes away (an adapter, an address) is told, and listeners come back
//! when it does.
#![forbid(unsafe_code)]

mod attrs;
pub(super) mod calls;
mod connections;
mod devices;
mod explain;
mod listeners;
mod refusals;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::calls::{AcceptParam, CmCalls, CmId};
use self::connections::{Connection, State};
use self::devices::Places;
use self::listeners::Listeners;
pub use self::listeners::{ListenerPhase, ListenerState, ListenerStates};
use self::refusals::Refusals;
use super::OpenError;
use super::ffi::cm::Librdmacm;
use crate::cm::{CmError, CmEvent, ConnId, ConnParams, ConnectionManager};
use crate::nic::Count;

/// Connections that a manager has at a time.
const MAX_CONNECTIONS: usize = 4096;

/// Of these, requests that are not yet established.
const MAX_HALF_OPEN: usize = 512;

/// Private data of a reply and of a rejection (InfiniBand Architecture, volume
/// 1, 12.6.7 and 12.6.8).
const REPLY_DATA: usize = 196;
const REJECT_DATA: usize = 148;

/// Retries that a peer's queue pair makes after receiver-not-ready: for ever,
/// since the shared receive queue may be empty for a moment.
const RNR_RETRY: u8 = 7;

/// How long a peer may take to confirm the end of a connection. The kernel would
/// repeat its question for more than a minute, and buffers wait for the answer.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Events that one poll looks at, so that a flood of requests to be refused does
/// not keep a thread to itself.
const EVENTS_PER_POLL: usize = 64;

/// Wait before events are asked for again when the system failed to give them.
const RETRY: Duration = Duration::from_millis(100);

/// What a manager has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaCmCounters {
    /// Requests that came in.
    pub requests: u64,
    /// Of these, refused here since tables were full.
    pub refused_full: u64,
    /// Refused here since they came by a device that was not opened.
    pub refused_device: u64,
    /// Refused here since the system gave no usable attributes for them.
    pub refused_attributes: u64,
    /// Connections that ended since their device was removed.
    pub device_removed: u64,
    /// Connections that ended since their address moved to another port.
    pub address_changed: u64,
    /// Connections whose peer did not confirm their end.
    pub unconfirmed: u64,
    /// Events that meant nothing in the state they came in.
    pub ignored_events: u64,
}

/// How much a manager takes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections: usize,
    half_open: usize,
}

/// An RDMA device that listeners need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededDevice {
    /// Its name, as `rdma dev` lists it.
    pub name: String,
    /// The listeners that it serves, by their place in what was bound.
    pub listeners: Vec<usize>,
    /// Whether one of them names an address of it; else only wildcards do.
    pub named: bool,
}

/// Connection management over RDMA devices.
///
/// In this order: [`RdmaCm::bind`] takes the addresses, [`RdmaCm::devices`] says
/// which devices they need, [`RdmaCm::set_adapters`] says which were opened, and
/// [`ConnectionManager::listen`] lets hosts in.
pub struct RdmaCm {
    calls: Box<dyn CmCalls>,
    bounds: Bounds,
    /// Names of the devices that were opened, in the order of adapters.
    adapters: Vec<String>,
    listeners: Listeners,
    connections: HashMap<ConnId, Connection>,
    /// Requests and accepted connections among them.
    half_open: usize,
    /// Connections that we are ending, and until when, oldest first. Some are
    /// gone already.
    closing: VecDeque<(Instant, ConnId)>,
    out: VecDeque<CmEvent>,
    /// Ask for events again then.
    retry: Option<Instant>,
    broken: bool,
    refusals: Refusals,
    counters: RdmaCmCounters,
}

impl RdmaCm {
    /// A manager that is bound to these addresses, each with its port. IPv6
    /// addresses take no IPv4, so both wildcards can be bound side by side. No
    /// host is let in yet.
    ///
    /// # Errors
    /// When the kernel has no connection manager for RDMA or this process may
    /// not use it, when an address is not one of an RDMA device here, or when its
    /// port is taken.
    pub fn bind(listen: &[SocketAddr]) -> Result<Self, OpenError> {
        let library = Librdmacm::open().map_err(|error| explain::channel(&error))?;
        let bounds = Bounds {
            connections: MAX_CONNECTIONS,
            half_open: MAX_HALF_OPEN,
        };
        Self::over(Box::new(library), listen, bounds)
    }

    fn over(
        calls: Box<dyn CmCalls>,
        listen: &[SocketAddr],
        bounds: Bounds,
    ) -> Result<Self, OpenError> {
        let mut this = Self {
            calls,
            bounds,
            adapters: Vec::new(),
            listeners: Listeners::default(),
            connections: HashMap::new(),
            half_open: 0,
            closing: VecDeque::new(),
            out: VecDeque::new(),
            retry: None,
            broken: false,
            refusals: Refusals::default(),
            counters: RdmaCmCounters::default(),
        };
        for &at in listen {
            this.listeners.bind(this.calls.as_mut(), at)?;
        }
        Ok(this)
    }

    /// The devices that the bound addresses belong to, in the order of these; for
    /// a wildcard all that have an active port, by name.
    ///
    /// # Errors
    /// When there is none for a wildcard.
    pub fn devices(&self) -> Result<Vec<NeededDevice>, OpenError> {
        self.devices_in(Places::system())
    }

    fn devices_in(&self, places: Places<'_>) -> Result<Vec<NeededDevice>, OpenError> {
        let mut needed: Vec<NeededDevice> = Vec::new();
        for (index, listener) in self.listeners.states().get().into_iter().enumerate() {
            let named = listener.device.is_some();
            let names = match listener.device {
                Some(name) => vec![name],
                None => devices::active(places, listener.at)?,
            };
            for name in names {
                match needed.iter_mut().find(|device| device.name == name) {
                    Some(device) => {
                        device.named |= named;
                        device.listeners.push(index);
                    }
                    None => needed.push(NeededDevice {
                        name,
                        listeners: vec![index],
                        named,
                    }),
                }
            }
        }
        Ok(needed)
    }

    /// Names the devices that were opened, in the order in which
    /// [`CmEvent::ConnectRequest`] shall count them. Requests by others are
    /// refused.
    pub fn set_adapters(&mut self, names: Vec<String>) {
        self.adapters = names;
    }

    /// How its listeners are, for other threads to read at any time.
    pub fn listeners(&self) -> ListenerStates {
        self.listeners.states()
    }

    /// What it has met so far.
    pub fn counters(&self) -> RdmaCmCounters {
        self.counters
    }

    /// Looks at what the library has, until there is something to tell.
    fn receive(&mut self, now: Instant) {
        for _ in 0..EVENTS_PER_POLL {
            if !self.out.is_empty() {
                return;
            }
            match self.calls.next_event() {
                Ok(Some(event)) => {
                    self.broken = false;
                    self.handle(event, now);
                }
                Ok(None) => {
                    self.broken = false;
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.broken, true) {
                        tracing::error!(%error, "events of connection management cannot be read");
                    }
                    self.retry = Some(now + RETRY);
                    return;
                }
            }
        }
        // There may be more, and the descriptor will not say so again to who
        // waits for its edge.
        self.retry = Some(now);
    }
}

impl ConnectionManager for RdmaCm {
    fn listen(&mut self, at: SocketAddr) -> Result<(), CmError> {
        self.listeners.listen(self.calls.as_mut(), at)
    }

    /// On an error other than [`CmError::PrivateData`] and [`CmError::State`] the
    /// identifier is gone.
    fn accept(&mut self, id: ConnId, params: ConnParams, _now: Instant) -> Result<(), CmError> {
        let connection = self.connections.get_mut(&id).ok_or(CmError::Gone)?;
        if connection.state != State::Requested {
            return Err(CmError::State);
        }
        fits(&params.private_data, REPLY_DATA)?;
        let param = AcceptParam {
            qp: params.qp.0,
            responder_resources: connection.responder_resources,
            initiator_depth: connection.initiator_depth,
            rnr_retry: RNR_RETRY,
            private_data: &params.private_data,
        };
        match self.calls.accept(CmId(id.0), param) {
            Ok(()) => {
                connection.state = State::Accepted;
                Ok(())
            }
            Err(error) => {
                self.end(id);
                Err(explain::accept(&error))
            }
        }
    }

    fn reject(&mut self, id: ConnId, private_data: Bytes, _now: Instant) -> Result<(), CmError> {
        let connection = self.connections.get(&id).ok_or(CmError::Gone)?;
        if connection.state != State::Requested {
            return Err(CmError::State);
        }
        fits(&private_data, REJECT_DATA)?;
        // A host that has given up meanwhile needs no answer.
        let _ = self.calls.reject(CmId(id.0), &private_data);
        self.end(id);
        Ok(())
    }

    fn disconnect(&mut self, id: ConnId, now: Instant) -> Result<(), CmError> {
        if !self.connections.contains_key(&id) {
            return Err(CmError::Gone);
        }
        self.close(id, now);
        Ok(())
    }

    fn poll(&mut self, now: Instant) -> Option<CmEvent> {
        if let Some(event) = self.out.pop_front() {
            return Some(event);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
        }
        self.listeners.tick(self.calls.as_mut(), now);
        self.give_up_closing(now);
        self.receive(now);
        self.out.pop_front()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.calls.fd()
    }

    fn counts(&self) -> Vec<Count> {
        let met = self.counters;
        [
            ("cm.requests", met.requests),
            ("cm.refused_full", met.refused_full),
            ("cm.refused_device", met.refused_device),
            ("cm.refused_attributes", met.refused_attributes),
            ("cm.device_removed", met.device_removed),
            ("cm.address_changed", met.address_changed),
            ("cm.unconfirmed", met.unconfirmed),
            ("cm.ignored_events", met.ignored_events),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }

    fn deadline(&self) -> Option<Instant> {
        let closing = self.closing.front().map(|(until, _)| *until);
        [closing, self.listeners.deadline(), self.retry]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Drop for RdmaCm {
    /// Hosts are told that their connections end, then listeners go.
    fn drop(&mut self) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.end(id);
        }
        self.listeners.close(self.calls.as_mut());
    }
}

fn fits(private_data: &Bytes, max: usize) -> Result<(), CmError> {
    match private_data.len() {
        len if len > max => Err(CmError::PrivateData { len, max }),
        _ => Ok(()),
    }
}
