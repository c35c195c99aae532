//! The tables of connections, and how connections enter and leave them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::connection::{Connection, State};
use super::{CmCore, TIME_WAIT};
use crate::cm::{CmError, CmEvent, ConnError, ConnId};

/// How many connections there are, with one peer or with all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// In any state but ended.
    pub(super) live: usize,
    /// Of these, requests that are not yet established.
    pub(super) half_open: usize,
}

impl Load {
    fn of(state: State) -> Self {
        Self {
            live: usize::from(state != State::TimeWait),
            half_open: usize::from(state.is_half_open()),
        }
    }

    fn change(&mut self, before: Self, after: Self) {
        self.live = self.live + after.live - before.live;
        self.half_open = self.half_open + after.half_open - before.half_open;
    }
}

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
        self.weigh(peer, Load::default(), Load::of(connection.state));
        self.connections.insert(id, connection);
        id
    }

    /// Moves a connection to another state.
    pub(super) fn enter(&mut self, id: ConnId, state: State) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut connection.state, state);
        let peer = connection.peer.ip();
        self.weigh(peer, Load::of(before), Load::of(state));
    }

    /// What a peer holds has changed.
    fn weigh(&mut self, peer: IpAddr, before: Load, after: Load) {
        self.load.change(before, after);
        let load = self.loads.entry(peer).or_default();
        load.change(before, after);
        if *load == Load::default() {
            self.loads.remove(&peer);
        }
    }

    /// What a peer holds.
    pub(super) fn load_of(&self, peer: IpAddr) -> Load {
        self.loads.get(&peer).copied().unwrap_or_default()
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnId) {
        self.disarm(id);
        self.forget_qpn(id);
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let peer = connection.peer.ip();
        self.weigh(peer, Load::of(connection.state), Load::default());
        self.by_local.remove(&connection.local_comm);
        if let Some(remote) = connection.remote_comm {
            remove_if(&mut self.by_remote, (peer, remote), id);
        }
        if connection.state == State::TimeWait {
            // They wait equally long, so it is nearly always the oldest.
            match self.waiting.front() {
                Some(&oldest) if oldest == id => drop(self.waiting.pop_front()),
                _ => self.waiting.retain(|&other| other != id),
            }
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

impl CmCore {
    /// The first law that the tables break, if any; for tests.
    #[doc(hidden)]
    pub fn inconsistency(&self) -> Option<&'static str> {
        let (all, config) = (&self.connections, &self.config);
        let count = |f: fn(&Connection) -> bool| all.values().filter(|c| f(c)).count();
        let live = |c: &Connection| c.state != State::TimeWait;
        let of_peers = |f: fn(&Load) -> usize| self.loads.values().map(f).sum::<usize>();
        let local =
            |(local, id): (&u32, &ConnId)| all.get(id).is_some_and(|c| c.local_comm == *local);
        let armed =
            |&(at, id): &(Instant, ConnId)| all.get(&id).is_some_and(|c| c.deadline == Some(at));
        let passive = |peer: &IpAddr, f: fn(&Connection) -> bool| {
            let theirs = all.values().filter(|c| c.peer.ip() == *peer && !c.active);
            theirs.filter(|c| f(c)).count()
        };
        let laws = [
            (
                "each number of this side is of one connection",
                self.by_local.len() == all.len() && self.by_local.iter().all(local),
            ),
            (
                "each number of a peer is of one connection",
                self.by_remote.len() == count(|c| c.remote_comm.is_some()),
            ),
            (
                "each queue pair of a peer is of one live connection",
                self.by_qpn.len()
                    == count(|c| c.remote_comm.is_some() && c.state != State::TimeWait),
            ),
            (
                "all is counted",
                self.load.live == count(live)
                    && self.load.half_open == count(|c| c.state.is_half_open()),
            ),
            (
                "each peer is counted",
                of_peers(|l| l.live) == self.load.live
                    && of_peers(|l| l.half_open) == self.load.half_open
                    && self.loads.values().all(|load| *load != Load::default()),
            ),
            (
                "ended connections wait",
                self.waiting.len() == all.len() - self.load.live,
            ),
            (
                "each timer is of one connection",
                self.timers.len() == count(|c| c.deadline.is_some())
                    && self.timers.iter().all(armed),
            ),
            (
                "what is not up has a timer",
                self.timers.len() + count(|c| c.state == State::Established) == all.len(),
            ),
            (
                "no table is over its limit",
                self.load.live <= config.max_connections
                    && self.waiting.len() <= config.max_connections
                    && self.load.half_open <= config.max_half_open
                    && self.outgoing.len() <= super::MAX_OUTGOING,
            ),
            (
                "no peer is over its limit",
                self.loads.iter().all(|(peer, load)| {
                    load.half_open <= config.max_half_open_of_peer
                        && passive(peer, |c| c.state != State::TimeWait) <= config.max_of_peer
                }),
            ),
        ];
        laws.into_iter()
            .find(|(_, holds)| !holds)
            .map(|(law, _)| law)
    }

    /// The numbers that this side gave to its connections.
    #[doc(hidden)]
    pub fn local_comm_ids(&self) -> impl Iterator<Item = u32> {
        self.by_local.keys().copied()
    }
}
