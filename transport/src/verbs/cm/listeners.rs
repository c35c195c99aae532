//! Listeners: bound before adapters are opened, listening when reactors are
//! ready, and made again when the kernel took their address or device away.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::explain;
use crate::cm::CmError;
use crate::verbs::OpenError;
use crate::verbs::cm::calls::{CmCalls, CmId};

/// Listeners that a manager has.
const MAX_LISTENERS: usize = 64;

/// Requests that wait in the kernel for each listener, while no one reads them;
/// it refuses those beyond, and hosts try again.
const BACKLOG: i32 = 128;

/// Waits between attempts to make a listener again: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// How a listener is, in statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerPhase {
    /// Its address is taken; hosts are not let in yet.
    Bound,
    /// Hosts are let in.
    Listening,
    /// Its address or device is gone; it is tried again and again.
    Waiting {
        /// Why, and what to do about it.
        reason: String,
    },
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// Where hosts find it.
    pub at: SocketAddr,
    /// The RDMA device of the address; none for a wildcard.
    pub device: Option<String>,
    /// How it is.
    pub phase: ListenerPhase,
}

/// The listeners of a manager, readable from any thread.
#[derive(Debug, Clone, Default)]
pub struct ListenerStates(Arc<Mutex<Vec<ListenerState>>>);

impl ListenerStates {
    /// How they are now, in the order in which they were bound.
    pub fn get(&self) -> Vec<ListenerState> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, states: Vec<ListenerState>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }
}

#[derive(Debug)]
enum Phase {
    Bound(CmId),
    Listening(CmId),
    Waiting {
        reason: String,
        next: Instant,
        wait: Duration,
    },
    /// Lost before hosts were to be let in.
    Lost {
        reason: String,
    },
}

#[derive(Debug)]
struct Listener {
    at: SocketAddr,
    device: Option<String>,
    phase: Phase,
}

impl Listener {
    fn id(&self) -> Option<CmId> {
        match self.phase {
            Phase::Bound(id) | Phase::Listening(id) => Some(id),
            Phase::Waiting { .. } | Phase::Lost { .. } => None,
        }
    }

    fn state(&self) -> ListenerState {
        ListenerState {
            at: self.at,
            device: self.device.clone(),
            phase: match &self.phase {
                Phase::Bound(_) => ListenerPhase::Bound,
                Phase::Listening(_) => ListenerPhase::Listening,
                Phase::Waiting { reason, .. } | Phase::Lost { reason } => ListenerPhase::Waiting {
                    reason: reason.clone(),
                },
            },
        }
    }

    /// Binds and listens anew.
    fn make(&mut self, calls: &mut dyn CmCalls) -> io::Result<()> {
        let (id, device) = bound(calls, self.at)?;
        match calls.listen(id, BACKLOG) {
            Ok(()) => {
                self.device = device;
                self.phase = Phase::Listening(id);
                Ok(())
            }
            Err(error) => {
                calls.destroy(id);
                Err(error)
            }
        }
    }
}

/// A new identifier that is bound to this address, and its device.
fn bound(calls: &mut dyn CmCalls, at: SocketAddr) -> io::Result<(CmId, Option<String>)> {
    let id = calls.create()?;
    let device = calls.bind(id, at).and_then(|()| calls.endpoint(id));
    match device {
        Ok(endpoint) => Ok((id, endpoint.device)),
        Err(error) => {
            calls.destroy(id);
            Err(error)
        }
    }
}

/// All listeners of a manager.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    states: ListenerStates,
}

impl Listeners {
    pub(super) fn states(&self) -> ListenerStates {
        self.states.clone()
    }

    pub(super) fn owns(&self, id: CmId) -> bool {
        self.listeners.iter().any(|l| l.id() == Some(id))
    }

    fn publish(&self) {
        let states = self.listeners.iter().map(Listener::state).collect();
        self.states.set(states);
    }

    /// Takes an address.
    pub(super) fn bind(
        &mut self,
        calls: &mut dyn CmCalls,
        at: SocketAddr,
    ) -> Result<(), OpenError> {
        let refused = |(reason, remedy)| OpenError::Listen { at, reason, remedy };
        if self.listeners.len() >= MAX_LISTENERS {
            return Err(refused((
                format!("{MAX_LISTENERS} addresses are the most"),
                "listen on a wildcard address instead".to_owned(),
            )));
        }
        if at.ip().is_loopback() {
            return Err(explain::loopback(at));
        }
        let (id, device) =
            bound(calls, at).map_err(|error| refused(explain::listen(at, &error)))?;
        self.listeners.push(Listener {
            at,
            device,
            phase: Phase::Bound(id),
        });
        self.publish();
        Ok(())
    }

    /// Lets hosts in at an address, which is bound first if it is not.
    pub(super) fn listen(
        &mut self,
        calls: &mut dyn CmCalls,
        at: SocketAddr,
    ) -> Result<(), CmError> {
        let place = match self.listeners.iter().position(|l| l.at == at) {
            Some(place) => place,
            None if self.listeners.len() >= MAX_LISTENERS => {
                return Err(CmError::Full(MAX_LISTENERS));
            }
            None => {
                self.bind(calls, at)
                    .map_err(|error| CmError::Refused(error.to_string()))?;
                self.listeners.len() - 1
            }
        };
        let Some(listener) = self.listeners.get_mut(place) else {
            return Ok(());
        };
        let listening = match listener.phase {
            Phase::Bound(id) => calls
                .listen(id, BACKLOG)
                .map(|()| listener.phase = Phase::Listening(id)),
            Phase::Listening(_) | Phase::Waiting { .. } => Ok(()),
            Phase::Lost { .. } => listener.make(calls),
        };
        self.publish();
        listening.map_err(|error| {
            let (reason, remedy) = explain::listen(at, &error);
            CmError::Refused(OpenError::Listen { at, reason, remedy }.to_string())
        })
    }

    /// The device of a listener was removed.
    pub(super) fn removed(&mut self, calls: &mut dyn CmCalls, id: CmId, now: Instant) {
        self.lose(calls, id, now + FIRST_WAIT, |device| {
            format!("its RDMA device {device} was removed; it is used again when it is back")
        });
    }

    /// The address of a listener moved to another port.
    pub(super) fn moved(&mut self, calls: &mut dyn CmCalls, id: CmId, now: Instant) {
        self.lose(calls, id, now, |device| {
            format!("its address moved to another port of {device}, as bonds do")
        });
    }

    fn lose(
        &mut self,
        calls: &mut dyn CmCalls,
        id: CmId,
        next: Instant,
        why: impl FnOnce(&str) -> String,
    ) {
        let Some(listener) = self.listeners.iter_mut().find(|l| l.id() == Some(id)) else {
            return;
        };
        calls.destroy(id);
        let reason = why(listener.device.as_deref().unwrap_or("(any)"));
        tracing::warn!(at = %listener.at, %reason, "a listener is lost");
        listener.phase = match listener.phase {
            Phase::Bound(_) | Phase::Lost { .. } => Phase::Lost { reason },
            Phase::Listening(_) | Phase::Waiting { .. } => Phase::Waiting {
                reason,
                next,
                wait: FIRST_WAIT,
            },
        };
        self.publish();
    }

    /// Tries the lost ones again whose time has come.
    pub(super) fn tick(&mut self, calls: &mut dyn CmCalls, now: Instant) {
        let mut changed = false;
        for listener in &mut self.listeners {
            let wait = match listener.phase {
                Phase::Waiting { next, wait, .. } if next <= now => wait,
                _ => continue,
            };
            changed = true;
            match listener.make(calls) {
                Ok(()) => {
                    let device = listener.device.as_deref().unwrap_or("(any)");
                    tracing::info!(at = %listener.at, device, "a listener is back");
                }
                Err(error) => {
                    let (reason, remedy) = explain::listen(listener.at, &error);
                    tracing::debug!(at = %listener.at, %reason, "a listener is still lost");
                    listener.phase = Phase::Waiting {
                        reason: format!("{reason}; {remedy}"),
                        next: now + wait,
                        wait: (wait * 2).min(LONGEST_WAIT),
                    };
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    /// When the next one is to be tried.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = |listener: &Listener| match listener.phase {
            Phase::Waiting { next, .. } => Some(next),
            _ => None,
        };
        self.listeners.iter().filter_map(next).min()
    }

    /// Ends all.
    pub(super) fn close(&mut self, calls: &mut dyn CmCalls) {
        for id in self.listeners.iter().filter_map(Listener::id) {
            calls.destroy(id);
        }
        self.listeners.clear();
        self.publish();
    }
}
