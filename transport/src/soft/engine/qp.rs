//! A queue pair of the reliable connection: its states, and what it passes to
//! its two halves.
//!
//! InfiniBand Architecture, volume 1, 10.3.1 (states). Of those, the three that
//! an owner of a `Nic` can tell apart are kept: not yet connected, ready, error.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Instant;

use super::acks::Failure;
use super::requester::Requester;
use super::responder::Responder;
use super::timers::Expired;
use super::{PacketSink, Shared, Stats};
use crate::nic::{NicError, QpAttrs, QpCaps, QpNumber, WcStatus};
use crate::soft::wire::{Headers, Kind};

/// Packets one queue pair may send before it is the next one's turn.
const BURST: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Init,
    Ready,
    Error,
}

/// Where a queue pair's packets go to and come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Own address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's queue pair.
    pub remote_qp: u32,
    /// Payload bytes of a full packet.
    pub mtu: u32,
}

/// How an attempt to send one packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One packet was written.
    Sent,
    /// Nothing can be sent until something happens to this queue pair.
    Idle,
    /// A READ waits until others free the budget of all.
    Starved,
    /// The sink took nothing.
    SinkFull,
}

/// How a turn at sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing is left.
    Idle,
    /// More is left: another turn, please.
    More,
    /// As for [`Step::Starved`].
    Starved,
    /// As for [`Step::SinkFull`].
    SinkFull,
}

#[derive(Debug)]
pub(super) struct Qp {
    number: QpNumber,
    state: State,
    path: Option<Path>,
    requester: Requester,
    responder: Responder,
    /// What neither half counts: packets for this queue pair, and those dropped
    /// before one of them looked.
    stats: Stats,
    /// On one of the engine's lists of queue pairs that want to send.
    pub(super) listed: bool,
}

impl Qp {
    pub(super) fn new(number: QpNumber, caps: QpCaps) -> Self {
        Self {
            number,
            state: State::Init,
            path: None,
            requester: Requester::new(number, caps.max_send_wr as usize),
            responder: Responder::new(number),
            stats: Stats::default(),
            listed: false,
        }
    }

    pub(super) fn number(&self) -> QpNumber {
        self.number
    }

    /// What it has counted.
    pub(super) fn stats(&self) -> Stats {
        let mut sum = self.stats;
        sum += self.requester.stats;
        sum += self.responder.stats;
        sum
    }

    pub(super) fn requester_mut(&mut self) -> &mut Requester {
        &mut self.requester
    }

    pub(super) fn connect(&mut self, attrs: &QpAttrs, shared: &Shared) -> Result<(), NicError> {
        if self.state != State::Init {
            return Err(NicError::State(self.number));
        }
        if !matches!(attrs.path_mtu, 256 | 512 | 1024 | 2048 | 4096) {
            return Err(NicError::Malformed("the path MTU is none of 256 to 4096"));
        }
        self.path = Some(Path {
            local: attrs.local.to_canonical(),
            remote: attrs.remote.to_canonical(),
            remote_qp: attrs.remote_qpn & 0xff_ffff,
            mtu: attrs.path_mtu,
        });
        self.requester.connect(attrs, &shared.config);
        self.responder.connect(attrs);
        self.state = State::Ready;
        Ok(())
    }

    /// Takes work requests, checked and counted already.
    pub(super) fn post(
        &mut self,
        wrs: &[crate::nic::SendWr],
        shared: &mut Shared,
    ) -> Result<(), NicError> {
        match self.state {
            State::Init => Err(NicError::State(self.number)),
            State::Ready => self.requester.post(wrs, &shared.keys),
            State::Error => self.requester.post_flushed(wrs, shared),
        }
    }

    /// As [`Qp::enter_error`], for a reason of the connection's own: the consumer
    /// is told, who may have nothing outstanding that would come back.
    fn fail(&mut self, failure: Option<Failure>, shared: &mut Shared) {
        if self.state != State::Error {
            shared.failed.push_back(self.number);
        }
        // Whose own requests failed answers no others (10.3.1). Who refused a
        // request still says so, after what was asked before it.
        if failure.is_some() {
            self.responder.forget_replies();
        }
        self.enter_error(failure, shared);
    }

    /// Brings the queue pair to the error state: what is outstanding is
    /// flushed, and a half-received message's buffer too (10.3.1).
    fn enter_error(&mut self, failure: Option<Failure>, shared: &mut Shared) {
        if self.state == State::Error {
            return;
        }
        self.state = State::Error;
        self.requester.flush(failure, shared);
        self.responder.abort(WcStatus::Flushed, shared);
    }

    /// As [`Qp::enter_error`], for one that the consumer asked for: nothing
    /// more is said to the peer either.
    pub(super) fn enter_error_silently(&mut self, shared: &mut Shared) {
        self.enter_error(None, shared);
        self.responder.forget_replies();
    }

    /// The queue pair goes: gives back what it holds of others.
    pub(super) fn dismantle(&mut self, shared: &mut Shared) {
        self.requester.release_reads(shared);
        if let Some(wr) = self.responder.take_buffer() {
            shared.srq.give_back(wr);
        }
    }

    /// Handles a packet for this queue pair. Its addresses count as part of
    /// the connection.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        from: IpAddr,
        to: IpAddr,
        headers: &Headers,
        payload: &[u8],
        shared: &mut Shared,
    ) {
        self.stats.packets_in += 1;
        let drops = &mut self.stats.drops;
        let Some(path) = self.path.filter(|_| self.state == State::Ready) else {
            drops.wrong_state += 1;
            return;
        };
        if path.remote != from.to_canonical() || path.local != to.to_canonical() {
            drops.wrong_peer += 1;
            return;
        }
        // 10.9: partition keys match when their lower 15 bits do.
        if headers.bth.pkey | 0x8000 != crate::soft::wire::DEFAULT_PKEY {
            drops.wrong_partition += 1;
            return;
        }
        match headers.bth.opcode.layout().map(|layout| layout.kind) {
            Some(Kind::ReadResponse | Kind::Ack | Kind::AtomicAck) => {
                let done = self
                    .requester
                    .response(now, headers, payload, path.mtu, shared);
                if let Err(failure) = done {
                    self.fail(Some(failure), shared);
                }
            }
            Some(Kind::Datagram) => drops.malformed += 1,
            // An opcode without layout is one of this service that has no
            // meaning: a request that the responder refuses (9.7.4.1).
            Some(Kind::Send | Kind::Write | Kind::ReadRequest | Kind::Atomic) | None => {
                if self
                    .responder
                    .request(headers, payload, path.mtu, shared)
                    .is_err()
                {
                    self.fail(None, shared);
                }
            }
        }
    }

    /// Sends at most one burst.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Turn {
        let Some(path) = self.path else {
            return Turn::Idle;
        };
        let mut budget = BURST;
        while budget > 0 {
            match self.responder.transmit(&path, shared, sink) {
                Ok(Step::Sent) => budget -= 1,
                Ok(Step::SinkFull) => return Turn::SinkFull,
                Ok(Step::Idle | Step::Starved) => break,
                Err(_refused) => self.fail(None, shared),
            }
        }
        // The requester's share does not depend on how much was asked of us.
        let mut budget = BURST;
        while budget > 0 && self.state == State::Ready {
            match self.requester.transmit(now, &path, shared, sink) {
                Ok(Step::Sent) => budget -= 1,
                Ok(Step::SinkFull) => return Turn::SinkFull,
                Ok(Step::Starved) if self.responder.has_replies() => return Turn::More,
                Ok(Step::Starved) => return Turn::Starved,
                Ok(Step::Idle) if self.responder.has_replies() => return Turn::More,
                Ok(Step::Idle) => return Turn::Idle,
                Err(failure) => self.fail(Some(failure), shared),
            }
        }
        if self.state == State::Ready || self.responder.has_replies() {
            Turn::More
        } else {
            Turn::Idle
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.requester.deadline()
    }

    /// Lets timers pass. Says whether there may be something to send now.
    pub(super) fn expire(&mut self, now: Instant, shared: &mut Shared) -> bool {
        if self.state != State::Ready {
            return false;
        }
        match self.requester.expire(now) {
            None => return self.requester.rnr_over(now),
            Some(Expired::Probe) => self.requester.stats.timeouts += 1,
            Some(Expired::Timeout) => {
                self.requester.stats.timeouts += 1;
                if !self.requester.spend_retry() {
                    let failure = Failure {
                        index: 0,
                        status: WcStatus::RetryExceeded,
                    };
                    self.fail(Some(failure), shared);
                    return true;
                }
            }
        }
        self.requester.shrink_windows();
        self.requester.rewind(shared);
        true
    }
}
