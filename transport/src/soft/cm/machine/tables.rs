//! The tables of connections, and how connections enter and leave them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::connection::{Connection, State};
use super::{CmCore, TIME_WAIT};
use crate::cm::{CmError, CmEvent, ConnError, ConnId};

impl CmCore {
    /// Enters a connection into the tables, as the newest. The caller has checked
    /// that there is room.
    pub(super) fn insert(&mut self, connection: Connection) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.by_local.insert(connection.local_comm, id);
        let peer = connection.peer.ip();
        if let Some(remote) = connection.remote_comm {
            self.by_remote.insert((peer, remote), id);
            self.by_qpn.insert((peer, connection.attrs.remote_qpn), id);
        }
        self.half_open += usize::from(connection.state.is_half_open());
        self.connections.insert(id, connection);
        id
    }

    /// Moves a connection to another state.
    pub(super) fn enter(&mut self, id: ConnId, state: State) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        self.half_open -= usize::from(connection.state.is_half_open());
        self.half_open += usize::from(state.is_half_open());
        connection.state = state;
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnId) {
        self.disarm(id);
        self.forget_qpn(id);
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.half_open -= usize::from(connection.state.is_half_open());
        self.by_local.remove(&connection.local_comm);
        if let Some(remote) = connection.remote_comm {
            remove_if(&mut self.by_remote, (connection.peer.ip(), remote), id);
        }
        if connection.state == State::TimeWait {
            self.waiting.retain(|&other| other != id);
        }
    }

    /// From now on the peer may use its queue pair for another connection.
    pub(super) fn forget_qpn(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get(&id) {
            let key = (connection.peer.ip(), connection.attrs.remote_qpn);
            remove_if(&mut self.by_qpn, key, id);
        }
    }

    /// Ends a connection that was up, and tells the consumer. It goes on answering
    /// repeated messages for a while.
    pub(super) fn end(&mut self, id: ConnId, now: Instant) {
        self.forget_qpn(id);
        self.enter(id, State::TimeWait);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.resend = None;
        }
        self.waiting.push_back(id);
        self.arm(id, now + TIME_WAIT);
        if self.waiting.len() > self.config.max_connections
            && let Some(&oldest) = self.waiting.front()
        {
            self.remove(oldest);
        }
        self.event(CmEvent::Disconnected { id });
    }

    /// Gives up a connection that did not come about, and tells the consumer.
    pub(super) fn fail(&mut self, id: ConnId, error: ConnError) {
        self.remove(id);
        self.event(CmEvent::Failed { id, error });
    }

    /// The connection with this number of this side, if it is with this peer and,
    /// where known, has this number on its side.
    pub(super) fn find(
        &self,
        from: IpAddr,
        local: u32,
        remote: u32,
    ) -> Option<(ConnId, &Connection)> {
        let id = *self.by_local.get(&local)?;
        let connection = self.connections.get(&id)?;
        let fits =
            connection.peer.ip() == from && connection.remote_comm.is_none_or(|r| r == remote);
        fits.then_some((id, connection))
    }

    /// A consumer's view of a connection: those that have ended are gone.
    pub(super) fn owned(&self, id: ConnId) -> Result<&Connection, CmError> {
        match self.connections.get(&id) {
            Some(connection) if connection.state != State::TimeWait => Ok(connection),
            _ => Err(CmError::Gone),
        }
    }
}

fn remove_if<K: std::hash::Hash + Eq>(map: &mut HashMap<K, ConnId>, key: K, id: ConnId) {
    if map.get(&key) == Some(&id) {
        map.remove(&key);
    }
}

#[cfg(test)]
impl CmCore {
    /// The number that this side gave its only connection.
    pub(in crate::soft::cm) fn assert_one_local_comm_id(&self) -> u32 {
        assert_eq!(self.by_local.len(), 1);
        self.any_local_comm_id().unwrap_or_default()
    }

    /// The number that this side gave one of its connections.
    pub(in crate::soft::cm) fn any_local_comm_id(&self) -> Option<u32> {
        self.by_local.keys().next().copied()
    }

    /// Checks that the tables agree with each other.
    pub(in crate::soft::cm) fn assert_consistent(&self) {
        let count =
            |f: &dyn Fn(&Connection) -> bool| self.connections.values().filter(|c| f(c)).count();
        assert_eq!(self.by_local.len(), self.connections.len());
        for (&local, id) in &self.by_local {
            assert_eq!(self.connections[id].local_comm, local);
        }
        assert_eq!(self.by_remote.len(), count(&|c| c.remote_comm.is_some()));
        assert_eq!(
            self.by_qpn.len(),
            count(&|c| c.remote_comm.is_some() && c.state != State::TimeWait)
        );
        assert_eq!(self.half_open, count(&|c| c.state.is_half_open()));
        assert_eq!(self.waiting.len(), count(&|c| c.state == State::TimeWait));
        assert_eq!(self.timers.len(), count(&|c| c.deadline.is_some()));
        for &(at, id) in &self.timers {
            assert_eq!(self.connections[&id].deadline, Some(at));
        }
        let established = count(&|c| c.state == State::Established);
        assert_eq!(self.timers.len() + established, self.connections.len());
        assert!(self.live() <= self.config.max_connections);
        assert!(self.waiting.len() <= self.config.max_connections);
        assert!(self.half_open <= self.config.max_half_open);
        assert!(self.outgoing.len() <= super::MAX_OUTGOING);
    }
}
