//! Repetition, and giving up.

use std::time::{Duration, Instant};

use super::connection::{Resend, State, coded_time};
use super::{CmCore, reason};
use crate::cm::{ConnError, ConnId};
use crate::soft::cm::mad::Mad;
use crate::soft::cm::messages::{Mra, Subject};
use std::net::IpAddr;

/// Wait before the first repetition. Peers name seconds, which is long for a
/// lost packet; repeating earlier does no harm, since duplicates are expected.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// The longest wait before a repetition, whatever a peer names.
const LONGEST_INTERVAL: Duration = Duration::from_secs(8);

/// The longest patience that a peer can ask for.
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);

impl CmCore {
    /// When [`Self::tick`] must be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Lets time pass: repeats what was not answered, and gives up what was
    /// repeated often enough.
    pub fn tick(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            // A consumer that takes no events gets no more of them.
            if at > now || self.is_crowded() {
                return;
            }
            self.disarm(id);
            self.fire(id, now);
        }
    }

    fn fire(&mut self, id: ConnId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let peer = connection.peer.ip();
        if let Some(resend) = &mut connection.resend
            && resend.left > 0
        {
            resend.left -= 1;
            resend.interval = match resend.left {
                0 => resend.longest,
                _ => (resend.interval * 2).min(resend.longest),
            };
            let (mad, next) = (resend.mad, now + resend.interval);
            self.counters.repeated += 1;
            self.send(peer, mad);
            self.arm(id, next);
            return;
        }
        let timeout = connection.timeout_error();
        match connection.state {
            State::ReqSent => self.give_up(id, Subject::Other, timeout),
            State::ReqReceived => {
                // It is this side that did not answer; and a peer looks for what
                // timed out by a number that it has only from a REP.
                self.reject_peer(id, Subject::Req, reason::NO_RESOURCES, &[]);
                self.fail(id, timeout);
            }
            State::RepReceived => self.give_up(id, Subject::Rep, timeout),
            State::RepSent => self.give_up(id, Subject::Other, timeout),
            State::DreqSent => self.end(id, now),
            State::TimeWait => self.remove(id),
            State::Established => {}
        }
    }

    fn give_up(&mut self, id: ConnId, subject: Subject, error: ConnError) {
        self.reject_peer(id, subject, reason::TIMEOUT, &[]);
        self.fail(id, error);
    }

    /// Sends a message that is repeated until [`Self::answered`]. However seldom it
    /// may be repeated, the peer has the time that it named after the last one.
    pub(super) fn send_until_answered(&mut self, id: ConnId, mad: Mad, times: u8, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let longest = connection
            .peer_response
            .clamp(FIRST_INTERVAL, LONGEST_INTERVAL);
        let interval = if times == 0 { longest } else { FIRST_INTERVAL };
        connection.resend = Some(Resend {
            mad,
            left: times,
            interval,
            longest,
        });
        let peer = connection.peer.ip();
        self.send(peer, mad);
        self.arm(id, now + interval);
    }

    /// Sends the message under repetition once more, out of turn.
    pub(super) fn send_again(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get(&id)
            && let Some(resend) = &connection.resend
        {
            let (peer, mad) = (connection.peer.ip(), resend.mad);
            self.counters.repeated += 1;
            self.send(peer, mad);
        }
    }

    /// What was repeated has been answered.
    pub(super) fn answered(&mut self, id: ConnId) {
        self.disarm(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.resend = None;
        }
    }

    /// The peer has the message and asks for patience (12.6.6). Granted once.
    pub(super) fn on_mra(&mut self, from: IpAddr, mra: &Mra, now: Instant) {
        let subject = Subject::from(mra.subject);
        let (local, remote) = (mra.remote_comm_id.get(), mra.local_comm_id.get());
        let Some((id, connection)) = self.find(from, local, remote) else {
            self.counters.drops.unknown_connection += 1;
            return;
        };
        let fits = matches!(
            (connection.state, subject),
            (State::ReqSent, Subject::Req) | (State::RepSent, Subject::Rep)
        );
        if !fits {
            self.counters.drops.unexpected += 1;
            return;
        }
        if connection.mra_taken {
            self.counters.duplicates.mra += 1;
            return;
        }
        let patience = coded_time(mra.service_timeout.value()).min(LONGEST_PATIENCE);
        let until = connection
            .deadline
            .max(Some(now + patience + FIRST_INTERVAL));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.mra_taken = true;
        }
        if let Some(until) = until {
            self.arm(id, until);
        }
    }

    pub(super) fn arm(&mut self, id: ConnId, at: Instant) {
        self.disarm(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.deadline = Some(at);
            self.timers.insert((at, id));
        }
    }

    pub(super) fn disarm(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(at) = connection.deadline.take()
        {
            self.timers.remove(&(at, id));
        }
    }
}
