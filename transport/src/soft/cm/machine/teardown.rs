//! Ending: DREQ, DREP, REJ, and connections that only one side still knows.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;

use super::connection::State;
use super::{CmCore, reason};
use crate::cm::{CmError, CmEvent, ConnError, ConnId};
use crate::soft::cm::mad::Mad;
use crate::soft::cm::messages::{Drep, Dreq, Rej, Subject, U24};

/// Times a DREQ is repeated: some 8 s in all.
const DREQ_TIMES: u8 = 4;

impl CmCore {
    /// See [`crate::cm::ConnectionManager::disconnect`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn disconnect(&mut self, id: ConnId, now: Instant) -> Result<(), CmError> {
        match self.owned(id)?.state {
            State::Established | State::RepSent => self.send_dreq(id, now),
            State::ReqSent => self.abandon(id, Subject::Other, reason::TIMEOUT),
            State::ReqReceived => self.abandon(id, Subject::Req, reason::CONSUMER),
            State::RepReceived => self.abandon(id, Subject::Rep, reason::CONSUMER),
            State::DreqSent | State::TimeWait => {}
        }
        Ok(())
    }

    /// Ends by the consumer's will what is not up yet.
    fn abandon(&mut self, id: ConnId, subject: Subject, reason: u16) {
        self.reject_peer(id, subject, reason, &[]);
        self.remove(id);
        self.event(CmEvent::Disconnected { id });
    }

    fn send_dreq(&mut self, id: ConnId, now: Instant) {
        let transaction = self.random.next();
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let dreq = Dreq {
            local_comm_id: connection.local_comm.into(),
            remote_comm_id: connection.remote_comm.unwrap_or(0).into(),
            remote_qpn: U24::new(connection.attrs.remote_qpn),
            ..Dreq::default()
        };
        self.enter(id, State::DreqSent);
        self.send_until_answered(id, Mad::new(transaction, &dreq), DREQ_TIMES, now);
    }

    /// A peer shows that it does not know this connection any more (12.9.8.3):
    /// it uses the queue pair, or the number, anew. What is up, or accepted and
    /// maybe up on the other side, is ended; what is not yet is left to its timer.
    pub(super) fn on_stale(&mut self, id: ConnId, now: Instant) {
        if let Some(connection) = self.connections.get(&id)
            && matches!(connection.state, State::Established | State::RepSent)
        {
            self.send_dreq(id, now);
        }
    }

    pub(super) fn on_dreq(&mut self, from: IpAddr, transaction: u64, dreq: &Dreq, now: Instant) {
        let (local, remote) = (dreq.remote_comm_id.get(), dreq.local_comm_id.get());
        let found = self
            .find(from, local, remote)
            .filter(|(_, c)| c.remote_comm.is_some());
        let Some((id, connection)) = found else {
            // Ended long ago, as far as this side knows; the peer waits for a word.
            self.counters.duplicates.dreq += 1;
            self.send_drep(from, transaction, local, remote);
            return;
        };
        if connection.local_qpn != dreq.remote_qpn.get() {
            self.counters.drops.unexpected += 1;
            return;
        }
        match connection.state {
            State::Established | State::RepSent | State::DreqSent | State::RepReceived => {
                self.send_drep(from, transaction, local, remote);
                self.end(id, now);
            }
            State::TimeWait => {
                self.counters.duplicates.dreq += 1;
                self.send_drep(from, transaction, local, remote);
            }
            State::ReqReceived | State::ReqSent => self.counters.drops.unexpected += 1,
        }
    }

    fn send_drep(&mut self, to: IpAddr, transaction: u64, local: u32, remote: u32) {
        let drep = Drep {
            local_comm_id: local.into(),
            remote_comm_id: remote.into(),
            ..Drep::default()
        };
        self.send_body(to, transaction, &drep);
    }

    pub(super) fn on_drep(&mut self, from: IpAddr, drep: &Drep, now: Instant) {
        let (local, remote) = (drep.remote_comm_id.get(), drep.local_comm_id.get());
        match self.find(from, local, remote) {
            Some((id, connection)) if connection.state == State::DreqSent => self.end(id, now),
            Some((_, connection)) if connection.state == State::TimeWait => {
                self.counters.duplicates.drep += 1;
            }
            Some(_) => self.counters.drops.unexpected += 1,
            None => self.counters.drops.unknown_connection += 1,
        }
    }

    pub(super) fn on_rej(&mut self, from: IpAddr, transaction: u64, rej: &Rej, now: Instant) {
        let Some(id) = self.find_rejected(from, rej) else {
            self.counters.drops.unknown_connection += 1;
            return;
        };
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (state, earlier) = (connection.state, connection.transaction != transaction);
        if state == State::ReqSent && rej.reason.get() == reason::INVALID_MTU {
            if earlier {
                // About a request that has been made anew since.
                self.counters.duplicates.rej += 1;
                return;
            }
            if self.ask_smaller(id, rej, now).is_some() {
                return;
            }
        }
        match state {
            State::ReqSent | State::ReqReceived | State::RepReceived | State::RepSent => {
                let reason = rej.reason.get();
                let error = ConnError::Rejected {
                    reason,
                    text: reason::text(reason).to_owned(),
                    private_data: Bytes::copy_from_slice(&rej.private_data),
                };
                self.fail(id, error);
            }
            State::Established | State::DreqSent => self.end(id, now),
            State::TimeWait => self.counters.duplicates.rej += 1,
        }
    }

    /// The connection that a rejection is about. Whoever rejects a REQ need not
    /// have given the connection a number; whoever gives up waiting may not know
    /// the number of this side, but then cannot have said that it is ready.
    fn find_rejected(&self, from: IpAddr, rej: &Rej) -> Option<ConnId> {
        let (local, remote) = (rej.remote_comm_id.get(), rej.local_comm_id.get());
        if let Some((id, _)) = self.find(from, local, remote) {
            return Some(id);
        }
        if rej.reason.get() != reason::TIMEOUT {
            return None;
        }
        let id = *self.by_remote.get(&(from, remote))?;
        let connection = self.connections.get(&id)?;
        (local == 0 && connection.state.is_half_open()).then_some(id)
    }
}
