//! Connections of a reactor: ending, and what is due by time.
//!
//! A connection ends in steps: its queue pair goes to the error state; each send
//! work request comes back, once; then the queue pair is destroyed, and when the
//! adapter says that this is done, it touches none of its buffers any more. Commands that a backend still
//! has keep their slot and buffer until it has ended them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sidelane_transport::nic::{QpCaps, QpNumber, SendWr};

use super::mailbox::{ConnKey, FromReactor};
use super::outbox::Outbox;
use super::request::State;
use super::{MAX_CONNECTIONS, Reactor};
use crate::session::QueueSession;
use crate::subsystem::{ControllerShared, Lingering};

/// How long a queue pair in the error state may take to give its work back.
/// Adapters that never do exist.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Stands in a batch that is being flushed for a command that has ended.
pub(super) const GONE: usize = usize::MAX;

/// A connection.
pub(super) struct Connection {
    pub(super) key: ConnKey,
    pub(super) port: usize,
    pub(super) qp: QpNumber,
    /// The host's address.
    pub(super) remote: IpAddr,
    pub(super) session: QueueSession,
    /// Commands that the host may have outstanding.
    pub(super) depth: usize,
    /// Slots that carry its commands.
    pub(super) in_use: usize,
    /// Signaled send work requests that have not come back.
    pub(super) in_flight: usize,
    /// Work requests to be posted at the end of the round.
    pub(super) outbox: Outbox,
    /// Whether it is in the list of those that have something to post.
    listed: bool,
    /// Since when it is ending, if it is.
    pub(super) closing: Option<Instant>,
    /// Where its queue pair is on its way out.
    teardown: Teardown,
    /// Its host is not served again as long as backends have commands of it.
    lingering: Option<Lingering>,
}

/// The way out of a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teardown {
    /// It is there.
    No,
    /// The adapter was asked to destroy it.
    Asked,
    /// It is gone.
    Done,
}

impl Connection {
    pub(super) fn new(
        key: ConnKey,
        port: usize,
        qp: QpNumber,
        remote: IpAddr,
        session: QueueSession,
        depth: usize,
        caps: QpCaps,
    ) -> Self {
        Self {
            key,
            port,
            qp,
            remote,
            session,
            depth,
            in_use: 0,
            in_flight: 0,
            outbox: Outbox::new(caps.max_send_wr as usize, 2 * slots_for(depth)),
            listed: false,
            closing: None,
            teardown: Teardown::No,
            lingering: None,
        }
    }

    /// Whether the host has more commands under way than slots were promised.
    pub(super) fn is_overrun(&self) -> bool {
        self.in_use > slots_for(self.depth)
    }
}

/// The table of connections.
pub(super) struct Connections {
    table: Vec<Option<Connection>>,
    by_qp: Vec<HashMap<QpNumber, usize>>,
    by_key: HashMap<ConnKey, usize>,
    /// Slots promised to connections, by port.
    promised: Vec<usize>,
    /// Connections with something in the outbox.
    dirty: Vec<usize>,
    /// When a session wants to be looked at next.
    deadline: Option<Instant>,
}

/// Slots a connection needs: a host may send its next command as soon as it has
/// an answer, before the adapter has said that the answer is out.
pub(super) fn slots_for(depth: usize) -> usize {
    2 * depth
}

impl Connections {
    pub(super) fn new(ports: usize) -> Self {
        Self {
            table: (0..MAX_CONNECTIONS).map(|_| None).collect(),
            by_qp: (0..ports)
                .map(|_| HashMap::with_capacity(MAX_CONNECTIONS))
                .collect(),
            by_key: HashMap::with_capacity(MAX_CONNECTIONS),
            promised: vec![0; ports],
            dirty: Vec::with_capacity(MAX_CONNECTIONS),
            deadline: None,
        }
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Connection> {
        self.table.get_mut(index)?.as_mut()
    }

    /// The adapter of a connection.
    pub(super) fn port(&self, index: usize) -> Option<usize> {
        Some(self.table.get(index)?.as_ref()?.port)
    }

    pub(super) fn by_qp(&self, port: usize, qp: QpNumber) -> Option<usize> {
        self.by_qp.get(port)?.get(&qp).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Slots that are promised to connections of a port.
    pub(super) fn promised(&self, port: usize) -> usize {
        self.promised.get(port).copied().unwrap_or(usize::MAX)
    }

    /// Promises slots of a port to a connection that is coming.
    pub(super) fn promise(&mut self, port: usize, slots: usize) {
        self.promised[port] += slots;
    }

    /// Takes a promise back.
    pub(super) fn take_back(&mut self, port: usize, slots: usize) {
        self.promised[port] -= slots;
    }

    /// Puts a connection into the table and gives its place; `None` when it is
    /// full.
    pub(super) fn insert(&mut self, connection: Connection, now: Instant) -> Option<usize> {
        let index = self.table.iter().position(Option::is_none)?;
        self.by_qp[connection.port].insert(connection.qp, index);
        self.by_key.insert(connection.key, index);
        self.table[index] = Some(connection);
        self.deadline = Some(now);
        Some(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Asks for all sessions to be looked at in this round.
    pub(super) fn look_at_all(&mut self, now: Instant) {
        self.deadline = Some(now);
    }

    /// Puts a work request into the outbox.
    pub(super) fn send(&mut self, index: usize, wr: SendWr) {
        let Some(Some(connection)) = self.table.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut connection.listed, true) {
            self.dirty.push(index);
        }
        connection.in_flight += usize::from(wr.signaled);
        connection.outbox.push(wr);
    }

    /// A command may have brought the time nearer at which a session wants to be
    /// looked at, as Connect does with its keep-alive timeout.
    pub(super) fn note_deadline(&mut self, index: usize) {
        if let Some(Some(connection)) = self.table.get(index) {
            self.deadline = earlier(self.deadline, connection.session.deadline());
        }
    }

    /// A signaled work request came back: what waits for room may be posted.
    pub(super) fn gave_back(&mut self, index: usize) {
        let Some(Some(connection)) = self.table.get_mut(index) else {
            return;
        };
        connection.in_flight = connection.in_flight.saturating_sub(1);
        connection.outbox.completed();
        if !connection.outbox.is_empty() && !std::mem::replace(&mut connection.listed, true) {
            self.dirty.push(index);
        }
    }

    /// Whether a connection waits for what it has sent: to end, or for room.
    pub(super) fn wait_for_sends(&self) -> bool {
        let waits = |c: &Connection| c.closing.is_some() || !c.outbox.is_empty();
        self.live().any(waits)
    }

    /// All connections, in no order.
    pub(super) fn live(&self) -> impl Iterator<Item = &Connection> {
        self.by_key
            .values()
            .filter_map(|at| self.table.get(*at)?.as_ref())
    }

    pub(super) fn indices(&self) -> Vec<usize> {
        self.by_key.values().copied().collect()
    }
}

impl Reactor {
    /// The peer or connection management has ended it.
    pub(super) fn disconnected(&mut self, key: ConnKey, now: Instant) {
        self.openings.give_up(Some(key));
        if let Some(index) = self.connections.by_key.get(&key).copied() {
            tracing::debug!(?key, "the peer disconnected");
            self.close(index, now);
        }
    }

    /// A queue pair has failed, maybe with nothing outstanding that says so.
    pub(super) fn queue_pair_failed(&mut self, port: usize, qp: QpNumber, now: Instant) {
        let Some(index) = self.connections.by_qp(port, qp) else {
            return;
        };
        if let Some(connection) = self.connections.get(index)
            && connection.closing.is_none()
        {
            tracing::warn!(key = ?connection.key, ?qp, "connection ended: its queue pair failed, by what the peer sent or did not answer");
        }
        self.close(index, now);
    }

    pub(super) fn close_all(&mut self, now: Instant) {
        self.openings.give_up(None);
        for index in self.connections.indices() {
            self.close(index, now);
        }
    }

    /// Begins to end a connection; does nothing when that has begun.
    pub(super) fn close(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        if connection.closing.is_some() {
            return;
        }
        connection.closing = Some(now);
        // What was not posted yet never will be, and so does not come back.
        connection.in_flight -= connection.outbox.unposted();
        connection.outbox.clear();
        let (port, qp, key) = (connection.port, connection.qp, connection.key);
        let mut requests = self.requests.iter();
        if requests.any(|request| request.conn == index && request.parts > 0) {
            let controller = connection.session.controller();
            connection.lingering = controller.map(ControllerShared::linger);
        }
        connection.session.closed();
        self.connections.deadline = Some(now);
        self.connections.dirty.retain(|dirty| *dirty != index);
        if let Err(error) = self.ports[port].nic.error_qp(qp) {
            tracing::warn!(?key, %error, "a queue pair could not be stopped");
        }
        let _ = self.reports.send(FromReactor::Disconnect(key));
        for pool in 0..self.pools.len() {
            let waiting: Vec<_> = self.pools[pool]
                .admission
                .remove_connection(index)
                .collect();
            for slot in waiting {
                self.abandon(slot, now);
            }
        }
        for namespace in &mut self.namespaces {
            namespace.backlog.retain(|slot| {
                self.requests[*slot].conn != index || self.requests[*slot].parts > 0
            });
        }
        for slot in 0..self.requests.len() {
            let request = &self.requests[slot];
            let idle = match request.state {
                State::Held | State::Received => true,
                State::Queueing => request.parts == 0,
                _ => false,
            };
            if request.conn == index && idle {
                self.abandon(slot, now);
            }
        }
        self.finish_closing(index, now);
    }

    /// Takes the next step of a connection that is ending, if it can.
    pub(super) fn finish_closing(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let Some(since) = connection.closing else {
            return;
        };
        if connection.teardown == Teardown::No {
            if connection.in_flight > 0 {
                if now.saturating_duration_since(since) < DRAIN_LIMIT {
                    return;
                }
                tracing::warn!(
                    key = ?connection.key,
                    in_flight = connection.in_flight,
                    "the adapter did not give all work of a queue pair back in time"
                );
            }
            connection.teardown = Teardown::Asked;
            let (port, qp) = (connection.port, connection.qp);
            self.ports[port].nic.destroy_qp(qp);
            return;
        }
        if connection.teardown == Teardown::Done {
            self.forget(index);
        }
    }

    /// An adapter has destroyed a queue pair: it touches no buffer of it any more.
    pub(super) fn destroyed(&mut self, port: usize, qp: QpNumber, now: Instant) {
        let Some(index) = self.connections.by_qp[port].remove(&qp) else {
            // One that nobody wanted any more when it had been made.
            return;
        };
        if let Some(connection) = self.connections.get(index) {
            connection.teardown = Teardown::Done;
        }
        let requests = &self.requests;
        self.placed[port].retain(|slot| requests[*slot].conn != index);
        for slot in &mut self.flushing[port] {
            if self.requests.get(*slot).is_some_and(|r| r.conn == index) {
                *slot = GONE;
            }
        }
        for slot in 0..self.requests.len() {
            let request = &self.requests[slot];
            let with_nic = matches!(
                request.state,
                State::Fetching | State::Flushing | State::Responding
            );
            if request.conn == index && with_nic {
                self.abandon(slot, now);
            }
        }
        self.forget(index);
    }

    /// Takes a connection without queue pair out of the table, once no backend
    /// has a command of it.
    fn forget(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        if connection.in_use > 0 {
            return;
        }
        let (port, key, slots) = (connection.port, connection.key, slots_for(connection.depth));
        self.connections.table[index] = None;
        self.connections.by_key.remove(&key);
        self.connections.promised[port] -= slots;
        self.try_replace(port);
    }

    /// What is due by time: keep-alive, events for held commands, ends of
    /// connections.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.connections.deadline.is_none_or(|at| now < at) {
            return;
        }
        let mut next = None;
        for index in self.connections.indices() {
            self.finish_closing(index, now);
            let Some(connection) = self.connections.get(index) else {
                continue;
            };
            if let Some(since) = connection.closing {
                // Then the adapter and backends are waited for, and those say when
                // they are done.
                let draining = connection.teardown == Teardown::No;
                next = earlier(next, draining.then(|| since + DRAIN_LIMIT));
                continue;
            }
            if let Some(reason) = connection.session.tick(now) {
                tracing::warn!(key = ?connection.key, %reason, "connection ended");
                self.close(index, now);
                next = Some(now);
                continue;
            }
            next = earlier(next, connection.session.deadline());
            self.carry_out_aborts(index, now);
            self.answer_held(index, now);
        }
        self.connections.deadline = next;
    }

    /// Posts what the round has gathered, one list a queue pair.
    pub(super) fn post_sends(&mut self) {
        while let Some(index) = self.connections.dirty.pop() {
            let Some(connection) = self.connections.get(index) else {
                continue;
            };
            connection.listed = false;
            let list = connection.outbox.postable();
            if list.is_empty() {
                // It is listed again when something comes back.
                continue;
            }
            match self.ports[connection.port]
                .nic
                .post_send(connection.qp, list)
            {
                Ok(()) => {
                    let count = list.len();
                    connection.outbox.sent(count);
                }
                Err(error) => {
                    // Nothing of the list was taken, so nothing of it comes back.
                    tracing::warn!(key = ?connection.key, %error, "work was refused");
                    self.close(index, Instant::now());
                }
            }
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
