//! Queue pairs that are being made: an adapter takes its time, and says when one
//! is there or why it is not.

use std::time::Instant;

use sidelane_transport::nic::{NicError, QpCaps, QpNumber};
use sidelane_transport::nvmf;

use super::connections::{Connection, slots_for};
use super::mailbox::{ConnKey, NewConnection, NotOpened};
use super::{MAX_CONNECTIONS, Reactor};

/// The fewest send work requests that a queue pair must take: the data of one
/// command in as many pieces as a host may name, and its response.
const LEAST_SEND_WR: u32 = nvmf::MAX_DESCRIPTORS as u32 + 1;

/// A queue pair that was asked for.
struct Opening {
    ticket: u64,
    new: NewConnection,
    /// Its send queue.
    caps: QpCaps,
    /// Nobody wants it any more.
    given_up: bool,
}

/// All of them, in no order.
#[derive(Default)]
pub(super) struct Openings {
    table: Vec<Opening>,
    next_ticket: u64,
}

impl Openings {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Nobody wants this one any more; `None` means all.
    pub(super) fn give_up(&mut self, key: Option<ConnKey>) {
        for opening in &mut self.table {
            opening.given_up |= key.is_none_or(|key| opening.new.key == key);
        }
    }

    /// Whether any is behind this adapter.
    pub(super) fn any_of(&self, port: usize) -> bool {
        self.table.iter().any(|opening| opening.new.nic == port)
    }

    fn take(&mut self, ticket: u64) -> Option<Opening> {
        let at = self
            .table
            .iter()
            .position(|opening| opening.ticket == ticket)?;
        Some(self.table.swap_remove(at))
    }
}

impl Reactor {
    /// Asks for the queue pair of a new connection.
    pub(super) fn open(&mut self, new: NewConnection, now: Instant) {
        if let Err(error) = self.room_for(&new) {
            // The control plane may have given the connection up: no matter.
            let _ = new.reply.send(Err(error));
            return;
        }
        let slots = slots_for(new.depth);
        self.connections.promise(new.nic, slots);
        let nic = &mut self.ports[new.nic].nic;
        // A read's data and its response, for each command: rarely does one wait.
        let most = nic.caps().max_send_wr;
        let caps = QpCaps {
            max_send_wr: (2 * new.depth as u32).max(LEAST_SEND_WR).min(most),
        };
        let ticket = self.openings.next_ticket;
        self.openings.next_ticket += 1;
        nic.open_qp(ticket, caps, &new.attrs, now);
        self.openings.table.push(Opening {
            ticket,
            new,
            caps,
            given_up: false,
        });
    }

    fn room_for(&self, new: &NewConnection) -> Result<(), NotOpened> {
        let core = self.counters.core;
        let full = |what, limit| Err(NotOpened::Full { what, limit, core });
        let port = &self.ports[new.nic];
        if self.stopping.is_some() || port.gone {
            return Err(NicError::Gone.into());
        }
        if port.nic.caps().max_send_wr < LEAST_SEND_WR {
            return full("send work requests", port.nic.caps().max_send_wr as usize);
        }
        if self.connections.len() + self.openings.len() >= MAX_CONNECTIONS {
            return full("connections", MAX_CONNECTIONS);
        }
        if self.connections.promised(new.nic) + slots_for(new.depth) > port.slots {
            return full("command slots", port.slots);
        }
        Ok(())
    }

    /// An adapter has made a queue pair, or not.
    pub(super) fn opened(
        &mut self,
        port: usize,
        ticket: u64,
        outcome: Result<QpNumber, NicError>,
        now: Instant,
    ) {
        let Some(opening) = self.openings.take(ticket) else {
            tracing::error!(port, ticket, "a queue pair that nobody asked for");
            return;
        };
        let Opening {
            new,
            caps,
            given_up,
            ..
        } = opening;
        let slots = slots_for(new.depth);
        let qp = match outcome {
            Ok(qp) if !given_up => qp,
            Ok(qp) => {
                self.connections.take_back(port, slots);
                self.ports[port].nic.destroy_qp(qp);
                return;
            }
            Err(error) => {
                self.connections.take_back(port, slots);
                let _ = new.reply.send(Err(error.into()));
                return;
            }
        };
        let NewConnection {
            key,
            attrs,
            depth,
            session,
            reply,
            ..
        } = new;
        let connection = Connection::new(key, port, qp, attrs.remote, session, depth, caps);
        let Some(index) = self.connections.insert(connection, now) else {
            // Its place was counted when the queue pair was asked for.
            tracing::error!(port, "no room for a connection that had been promised some");
            self.connections.take_back(port, slots);
            self.ports[port].nic.destroy_qp(qp);
            return;
        };
        for waited in &mut self.pools {
            waited.admission.reserve(index, depth);
        }
        if reply.send(Ok(qp)).is_err() {
            // The control plane has given the connection up meanwhile.
            self.disconnected(key, now);
        }
    }
}
