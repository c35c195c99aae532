//! Memory that is taken away while it is in use.
//!
//! A pool that is lost leaves service at once: its keys are given back and never
//! named again. Commands that wait for a buffer of it go the next way that the
//! policy allows, or fail; commands that an SSD has and whose data is in it are
//! begun again when they have ended; where the adapter was using it their
//! connection ends, and the host tries again. Memory that comes back is used
//! again, in its place in the order of preference.

use std::time::Instant;

use sidelane_p2p::pool::{Pool, PoolSpec};
use sidelane_p2p::{Region, RegionId};

use super::request::State;
use super::{POOL_ACCESS, Reactor};
use crate::session::{Completion, IoRequest};

/// Memory that takes the place of what was taken away.
#[derive(Debug)]
pub struct Install {
    /// The pool, by its number in routes.
    pub pool: usize,
    /// The reactor's share of it.
    pub spec: PoolSpec,
}

impl Reactor {
    /// The owner of a region has taken it back.
    pub(super) fn taken_away(&mut self, region: RegionId, now: Instant) {
        for port in 0..self.ports.len() {
            self.lost_way(port, region, now);
        }
        // The last of its buffers gives the memory back, and with it its device.
        for waited in self.pools.iter_mut().filter(|waited| waited.is(region)) {
            waited.pool = None;
        }
    }

    /// Memory is back, which may lie elsewhere: what uses it does so again.
    pub(super) fn install_pool(&mut self, install: Install) {
        let Install { pool: at, spec } = install;
        let region = spec.region.clone();
        let Some(waited) = self.pools.get_mut(at) else {
            return;
        };
        match Pool::new(spec) {
            Ok(pool) => waited.pool = Some(pool),
            Err(error) => {
                tracing::error!(region = region.name(), %error, "memory is back, but cannot be used");
                return;
            }
        }
        for port in 0..self.ports.len() {
            self.regain_way(port, at, &region);
        }
    }

    fn regain_way(&mut self, port: usize, pool: usize, region: &Region) {
        let routes = |queued: &super::Queued| queued.namespace.routes.get(port).cloned();
        let mut all = self.namespaces.iter().filter_map(routes);
        if self.ports[port].gone || !all.any(|it| it.reads.uses(pool) || it.writes.uses(pool)) {
            return;
        }
        let name = self.ports[port].nic.caps().name.clone();
        match self.ports[port].nic.register(region, POOL_ACCESS) {
            Ok(memory) => {
                if let Some(old) = self.ports[port].pool_memory[pool].replace(memory) {
                    self.ports[port].nic.deregister(&old);
                }
            }
            Err(error) => {
                tracing::error!(region = region.name(), nic = name, %error, "memory is back, but the adapter does not take it");
                return;
            }
        }
        for queued in &mut self.namespaces {
            if let Some(routes) = queued.namespace.routes.get_mut(port) {
                routes.reads.regain(pool);
                routes.writes.regain(pool);
            }
        }
        if let Some(counters) = pool
            .checked_sub(1)
            .and_then(|at| self.counters.pools.get(at))
        {
            counters.regain(port);
        }
        tracing::info!(region = region.name(), nic = name, "memory is back in use");
    }

    /// An adapter has lost its way to a region.
    pub(super) fn lost_way(&mut self, port: usize, region: RegionId, now: Instant) {
        let Some(pool) = self.pools.iter().position(|waited| waited.is(region)) else {
            return;
        };
        let Some(memory) = self.ports[port].pool_memory[pool].take() else {
            return;
        };
        if let Some(lost) = &self.pools[pool].pool {
            tracing::error!(
                region = lost.region().name(),
                nic = self.ports[port].nic.caps().name,
                "memory was taken away: nothing goes by it until it is back"
            );
        }
        for queued in &mut self.namespaces {
            if let Some(routes) = queued.namespace.routes.get_mut(port) {
                routes.reads.lose(pool);
                routes.writes.lose(pool);
            }
        }
        self.ports[port].nic.deregister(&memory);
        if let Some(counters) = pool
            .checked_sub(1)
            .and_then(|at| self.counters.pools.get(at))
        {
            counters.lose(port);
        }
        for index in self.connections.indices() {
            if self.wire_uses(index, port, pool) {
                self.close(index, now);
            }
        }
        self.reroute_waiting(port, pool, now);
    }

    /// Whether the adapter has, or is about to have, work on a buffer of a pool
    /// for a connection.
    fn wire_uses(&self, index: usize, port: usize, pool: usize) -> bool {
        let first = self.ports[port].first_slot;
        let slots = first..first + self.ports[port].slots;
        self.requests[slots].iter().any(|request| {
            let on_wire = matches!(
                request.state,
                State::Fetching | State::Flushing | State::Responding
            );
            request.conn == index && request.pool == pool && request.buffer.is_some() && on_wire
        })
    }

    /// Commands that wait for a buffer that will not come start again.
    fn reroute_waiting(&mut self, port: usize, pool: usize, now: Instant) {
        for index in self.connections.indices() {
            let here = |c: &mut super::connections::Connection| c.port == port;
            if !self.connections.get(index).is_some_and(here) {
                continue;
            }
            let waiting: Vec<usize> = self.pools[pool]
                .admission
                .remove_connection(index)
                .collect();
            for slot in waiting {
                match self.requests[slot].io.take() {
                    Some(io) => self.restart(slot, io, now),
                    None => {
                        let status = sidelane_nvme::spec::Status::INTERNAL_ERROR;
                        self.respond(slot, Completion::of(status), now);
                    }
                }
            }
        }
    }

    pub(super) fn restart(&mut self, slot: usize, io: IoRequest, now: Instant) {
        self.enter(slot, State::Received);
        self.start_io(slot, io, now);
    }
}
