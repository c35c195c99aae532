//! Memory that is taken away while it is in use.
//!
//! A pool that is lost leaves service at once: its keys are given back and never
//! named again. Commands that wait for a buffer of it go the next way that the
//! policy allows, or fail; commands whose data is in it end with an error, or
//! with their connection where the adapter was using it, and the host tries
//! again.

use std::time::Instant;

use sidelane_p2p::RegionId;

use super::Reactor;
use super::request::State;
use crate::session::{Completion, IoRequest};

impl Reactor {
    /// The owner of a region has taken it back.
    pub(super) fn taken_away(&mut self, region: RegionId, now: Instant) {
        for port in 0..self.ports.len() {
            self.lost_way(port, region, now);
        }
    }

    /// An adapter has lost its way to a region.
    pub(super) fn lost_way(&mut self, port: usize, region: RegionId, now: Instant) {
        let is_it = |waited: &super::WaitedPool| waited.pool.region().id() == region;
        let Some(pool) = self.pools.iter().position(is_it) else {
            return;
        };
        let Some(memory) = self.ports[port].pool_memory[pool].take() else {
            return;
        };
        let name = self.pools[pool].pool.region().name();
        tracing::error!(
            region = name,
            nic = self.ports[port].nic.caps().name,
            "memory was taken away: nothing goes by it any more until the target is started again"
        );
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

    fn restart(&mut self, slot: usize, io: IoRequest, now: Instant) {
        self.enter(slot, State::Received);
        self.start_io(slot, io, now);
    }
}
