//! The requester's other half: what comes back.
//!
//! InfiniBand Architecture, volume 1, 9.7.6 (requester: receiving responses) and
//! 9.9.2 (its errors). Responses come in the order of
//! requests, and each says that all before it has been received; but a READ is
//! only done when its own responses are here.
//!
//! A READ response is known by its number, not by its place in the message:
//! responders that repeat the rest of one may go on with "middle".
#![forbid(unsafe_code)]

use std::time::Instant;

use super::Shared;
use super::requester::Requester;
use super::timers::rnr_time;
use crate::nic::WcStatus;
use crate::soft::memory::Right;
use crate::soft::psn::Psn;
use crate::soft::wire::{Aeth, AethKind, Headers, Kind, NakCode};

/// A work request failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its place in the send queue.
    pub(super) index: usize,
    /// How.
    pub(super) status: WcStatus,
}

impl Failure {
    pub(super) const fn first(status: WcStatus) -> Self {
        Self { index: 0, status }
    }
}

/// How far an acknowledgement reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// To its end.
    All,
    /// To a READ whose responses are not all here; its end.
    Read(Psn),
}

impl Requester {
    /// Handles a response.
    pub(super) fn response(
        &mut self,
        now: Instant,
        headers: &Headers,
        payload: &[u8],
        mtu: u32,
        shared: &mut Shared,
    ) -> Result<(), Failure> {
        let psn = headers.bth.psn;
        if psn.is_before(self.una) || !psn.is_before(self.sent_end) {
            self.stats.drops.stale_response += 1;
            return Ok(());
        }
        let kind = headers.bth.opcode.layout().map(|layout| layout.kind);
        match (kind, headers.aeth) {
            (
                Some(Kind::ReadResponse),
                None
                | Some(Aeth {
                    kind: AethKind::Ack(_),
                    ..
                }),
            ) => self.read_response(now, psn, payload, mtu, shared),
            (Some(Kind::Ack), Some(aeth)) if payload.is_empty() => match aeth.kind {
                AethKind::Ack(_) => {
                    self.stats.acks_in += 1;
                    // An acknowledgement of what comes after a READ says that
                    // its responses were sent and are lost. One for a number of
                    // the READ itself says nothing: a responder may repeat its
                    // last word as an acknowledgement at any time (9.7.7.2).
                    match self.acknowledge(now, psn.plus(1), shared) {
                        Reach::Read(end) if !psn.is_before(end) => self.lost(now, shared),
                        _ => Ok(()),
                    }
                }
                AethKind::RnrNak(code) => self.rnr_nak(now, psn, code, shared),
                AethKind::Nak(code) => self.nak(now, psn, code, shared),
                AethKind::Reserved(_) => {
                    self.stats.drops.malformed += 1;
                    Ok(())
                }
            },
            _ => {
                self.stats.drops.malformed += 1;
                Ok(())
            }
        }
    }

    /// All before `end` has arrived, as far as it is not for a READ to say.
    fn acknowledge(&mut self, now: Instant, end: Psn, shared: &mut Shared) -> Reach {
        while self.una.is_before(end) {
            let Some(wqe) = self.queue.front() else { break };
            let wqe_end = wqe.end();
            if wqe.is_read() {
                return Reach::Read(wqe_end);
            }
            let to = if end.is_before(wqe_end) { end } else { wqe_end };
            let reached = if to.is_before(self.cursor) {
                to
            } else {
                self.cursor
            };
            let in_flight = reached.since(self.una).max(0) as u32;
            self.data_in_flight = self.data_in_flight.saturating_sub(in_flight);
            self.window.acknowledged(to.distance(self.una));
            self.advance(now, to, wqe_end, shared);
        }
        Reach::All
    }

    /// The first work request is acknowledged up to `to`.
    fn advance(&mut self, now: Instant, to: Psn, wqe_end: Psn, shared: &mut Shared) {
        self.una = to;
        if to == wqe_end {
            self.complete_front(shared);
        }
        if !self.una.is_before(self.cursor) {
            self.cursor = self.una;
            self.current = 0;
        }
        self.made_progress();
        self.timer.progress(now, self.una != self.sent_end);
    }

    fn read_response(
        &mut self,
        now: Instant,
        psn: Psn,
        payload: &[u8],
        mtu: u32,
        shared: &mut Shared,
    ) -> Result<(), Failure> {
        if let Reach::Read(_) = self.acknowledge(now, psn, shared) {
            // One before it is missing.
            return self.lost(now, shared);
        }
        let Some(wqe) = self.queue.front().filter(|wqe| wqe.is_read()) else {
            self.stats.drops.stale_response += 1;
            return Ok(());
        };
        let offset = psn.distance(wqe.first) * mtu;
        let len = (wqe.len - offset).min(mtu) as usize;
        if payload.len() != len {
            // 9.9.2: a response of wrong length ends the queue pair.
            return Err(Failure::first(WcStatus::LocalLength));
        }
        shared
            .keys
            .range(&wqe.wr.sges, offset as usize, len, Right::LocalWrite)
            .map_err(|_| Failure::first(WcStatus::LocalProtection))?
            .write(payload);
        self.stats.bytes_in += len as u64;
        let (next, wqe_end) = (psn.plus(1), wqe.end());
        if let Some(span) = self.reads.front_mut() {
            span.left = span.left.saturating_sub(1);
            let done = span.end == next;
            self.reads_in_flight = self.reads_in_flight.saturating_sub(1);
            self.read_window.acknowledged(1);
            shared.release_read_budget(mtu);
            if done {
                self.reads.pop_front();
            }
        }
        self.advance(now, next, wqe_end, shared);
        Ok(())
    }

    /// A response is missing: asks again, and takes no notice of what was under
    /// way by then.
    fn lost(&mut self, now: Instant, shared: &mut Shared) -> Result<(), Failure> {
        if let Some(left) = self.recovering.as_mut().filter(|left| **left > 0) {
            *left -= 1;
            self.stats.drops.stale_response += 1;
            return Ok(());
        }
        self.stats.lost_responses += 1;
        // Each packet sent brings at most one answer.
        let under_way = self.cursor.distance(self.una);
        self.retry(now, shared)?;
        self.recovering = Some(under_way);
        Ok(())
    }

    /// Sends again what a NAK, said or implied, told to be missing (9.7.6.1,
    /// 9.9.2).
    fn retry(&mut self, now: Instant, shared: &mut Shared) -> Result<(), Failure> {
        if !self.spend_retry_for_loss(now) {
            return Err(Failure::first(WcStatus::RetryExceeded));
        }
        self.shrink_windows();
        self.rewind(shared);
        Ok(())
    }

    fn nak(
        &mut self,
        now: Instant,
        psn: Psn,
        code: NakCode,
        shared: &mut Shared,
    ) -> Result<(), Failure> {
        // A NAK acknowledges all before it.
        self.acknowledge(now, psn, shared);
        let status = match code {
            NakCode::PsnSequence => {
                self.stats.sequence_naks_in += 1;
                // Nothing to send again means that it has been done already.
                return if self.cursor == self.una {
                    Ok(())
                } else {
                    self.retry(now, shared)
                };
            }
            NakCode::InvalidRequest => WcStatus::RemoteInvalidRequest,
            NakCode::RemoteAccess => WcStatus::RemoteAccess,
            NakCode::RemoteOperation => WcStatus::RemoteOperation,
            _ => {
                self.stats.drops.malformed += 1;
                return Ok(());
            }
        };
        self.stats.fatal_naks_in += 1;
        Err(self.failure_at(psn, status))
    }

    /// The failure of the work request that a number belongs to.
    fn failure_at(&self, psn: Psn, status: WcStatus) -> Failure {
        let covers = |first: Psn, end: Psn| !psn.is_before(first) && psn.is_before(end);
        let index = self
            .queue
            .iter()
            .position(|wqe| covers(wqe.first, wqe.end()));
        Failure {
            index: index.unwrap_or(0),
            status,
        }
    }

    fn rnr_nak(
        &mut self,
        now: Instant,
        psn: Psn,
        code: u8,
        shared: &mut Shared,
    ) -> Result<(), Failure> {
        self.stats.rnr_naks_in += 1;
        self.acknowledge(now, psn, shared);
        if self.cursor == self.una {
            return Ok(());
        }
        if !self.wait_for_receiver(now + rnr_time(code)) {
            return Err(self.failure_at(psn, WcStatus::RnrRetryExceeded));
        }
        self.rewind(shared);
        Ok(())
    }
}
