//! Adapters that are removed, or break, while in use, and those that come back:
//! after a reset of the device, or a reload of its driver.

use std::time::Instant;

use sidelane_p2p::pool::Pool;

use super::mailbox::FromReactor;
use super::{NicSpec, Port, Reactor, ReactorError};

impl Reactor {
    /// An adapter was removed, or broke.
    pub(super) fn adapter_gone(&mut self, port: usize, now: Instant) {
        if std::mem::replace(&mut self.ports[port].gone, true) {
            return;
        }
        let nic = &self.ports[port].nic.caps().name;
        tracing::error!(nic, "the adapter is gone; its connections end");
        for index in self.connections.indices() {
            if self.connections.port(index) == Some(port) {
                self.close(index, now);
            }
        }
        let _ = self.reports.send(FromReactor::AdapterGone(port));
    }

    /// An adapter that was gone is back. One that serves needs no successor: another
    /// reactor noticed late that it was gone, and it was looked for twice.
    pub(super) fn replace(&mut self, port: usize, spec: NicSpec) {
        if !self.ports[port].gone {
            return;
        }
        self.ports[port].successor = Some(spec);
        self.try_replace(port);
    }

    /// Puts a successor into its place, once no connection is left there.
    pub(super) fn try_replace(&mut self, port: usize) {
        let indices = self.connections.indices();
        let used = indices
            .iter()
            .any(|at| self.connections.port(*at) == Some(port));
        if used || self.openings.any_of(port) {
            return;
        }
        let Some(spec) = self.ports[port].successor.take() else {
            return;
        };
        let name = spec.nic.caps().name.clone();
        match self.install(port, spec) {
            Ok(()) => tracing::info!(nic = name, "the adapter is back"),
            Err(error) => {
                tracing::error!(nic = name, %error, "the adapter is back, but cannot be used before the target is started again");
            }
        }
    }

    /// All slots are free: the old adapter had them for connections that are gone,
    /// or had them posted.
    fn install(&mut self, at: usize, spec: NicSpec) -> Result<(), ReactorError> {
        let old = &self.ports[at];
        // What the old one had lost stays lost.
        let had = old.pool_memory.iter().zip(&self.pools);
        let regions = had.map(|(had, waited)| {
            let pool = waited.pool.as_ref().filter(|_| had.is_some());
            pool.map(Pool::region)
        });
        let slots = spec.slots.min(old.slots);
        let messages = old.messages.clone();
        self.ports[at] = Port::new(spec.nic, messages, regions, old.first_slot, slots)?;
        self.placed[at].clear();
        self.flushing[at].clear();
        self.post_all(at)
    }
}
