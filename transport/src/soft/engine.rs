//! The protocol core: queue pairs of the reliable connection, without sockets
//! and without a clock.
//!
//! Packets go in by [`Engine::handle_packet`], each from the BTH to the end of
//! its padding, its CRC checked already, and come out by [`Engine::transmit`].
//! Time is what the caller says it is. To be called:
//! - `transmit` after anything else was called, until the sink is full or
//!   [`Engine::wants_transmit`] is false;
//! - [`Engine::expire`] when [`Engine::deadline`] has come;
//! - [`Engine::poll`] for completions.
//!
//! Nothing here allocates for a packet: all lists have their room from the
//! start, or from the making of the queue pair.
#![forbid(unsafe_code)]

mod acks;
mod completions;
#[cfg(test)]
mod pair;
mod qp;
mod read_jobs;
mod replies;
mod requester;
mod responder;
mod srq;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod transmit;
mod window;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use completions::CompletionQueue;
use qp::{Qp, Turn};
use srq::Srq;
use table::Table;

pub use qp::Path;
pub use stats::{Drops, Stats};

use super::memory::{Keys, Right};
use super::wire::{Bth, Headers, WireError};
use crate::nic::{
    Access, Completion, Completions, Count, MAX_SGE, MemoryRegion, NicCaps, NicError, QpAttrs,
    QpCaps, QpNumber, RecvWr, SendWr, Sge, Wake, WcOp,
};
use sidelane_p2p::Region;

/// Limits and habits of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What an operator calls the adapter.
    pub name: String,
    /// Queue pairs.
    pub max_qp: u32,
    /// Work requests of one send queue.
    pub max_send_wr: u32,
    /// Buffers of the shared receive queue, from posting to polling.
    pub max_srq_wr: u32,
    /// Memory registrations.
    pub max_registrations: usize,
    /// READs that a queue pair may have outstanding, each way.
    pub max_rd_atomic: u8,
    /// Reactors that share the adapter's address.
    pub reactors: u32,
    /// Which of them this is.
    pub reactor: u32,
    /// Where queue pair numbers begin; best a different one for each process.
    pub seed: u32,
    /// Bytes of READ responses that all queue pairs together may wait for: what
    /// the socket can hold.
    pub read_window: u32,
    /// Bytes that one READ request asks for.
    pub read_chunk: u32,
    /// SEND and WRITE packets of a queue pair that may be unacknowledged.
    pub send_window: u32,
    /// The first repetition of what is not answered, without counting it as a
    /// retry, comes after this.
    pub probe_min: Duration,
    /// How long a peer shall wait when no buffer is posted: an RNR timer code.
    pub rnr_timer: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "soft".to_owned(),
            max_qp: 1024,
            max_send_wr: 4096,
            max_srq_wr: 8192,
            max_registrations: 1024,
            max_rd_atomic: 16,
            reactors: 1,
            reactor: 0,
            seed: 0,
            read_window: 1 << 20,
            read_chunk: 32 << 10,
            send_window: 128,
            probe_min: Duration::from_millis(32),
            // 0.64 ms.
            rnr_timer: 12,
        }
    }
}

/// Takes the packets that [`Engine::transmit`] writes.
pub trait PacketSink {
    /// Offers a buffer of `len` bytes for a packet on `path`; `fill` writes all
    /// of it. `false`, and `fill` not called, when there is no room now.
    fn send(&mut self, path: &Path, len: usize, fill: impl FnOnce(&mut [u8])) -> bool;
}

/// What all queue pairs of an engine have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    keys: Keys,
    srq: Srq,
    completions: CompletionQueue,
    /// Queue pairs that failed by themselves, until their owner has asked.
    failed: VecDeque<QpNumber>,
    /// Bytes of READ responses that are waited for.
    read_in_flight: u32,
    /// Some of them came or were given up: starved READs may go on.
    read_budget_freed: bool,
}

impl Shared {
    /// Takes from the budget of READ responses. Alone, a READ always may.
    fn take_read_budget(&mut self, bytes: u32) -> bool {
        let sum = self.read_in_flight.saturating_add(bytes);
        let ok = self.read_in_flight == 0 || sum <= self.config.read_window;
        if ok {
            self.read_in_flight = sum;
        }
        ok
    }

    fn release_read_budget(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.read_in_flight);
        self.read_in_flight = self.read_in_flight.saturating_sub(bytes);
        self.read_budget_freed = true;
    }
}

/// The protocol core of one adapter on one reactor.
#[derive(Debug)]
pub struct Engine {
    caps: NicCaps,
    shared: Shared,
    table: Table,
    /// What belongs to no queue pair, and what those had counted that are gone.
    stats: Stats,
    /// Queue pairs that may have something to send, in turn.
    active: VecDeque<QpNumber>,
    /// Queue pairs with a READ that waits for the common budget.
    starved: VecDeque<QpNumber>,
    /// No queue pair's timer ends before this.
    deadline: Option<Instant>,
}

impl Engine {
    /// An engine without queue pairs.
    pub fn new(config: Config) -> Self {
        let table = Table::new(config.max_qp, config.reactors, config.reactor, config.seed);
        let caps = NicCaps {
            name: config.name.clone(),
            max_sge: MAX_SGE,
            max_send_wr: config.max_send_wr,
            max_srq_wr: config.max_srq_wr,
            max_qp: table.limit(),
            max_message: requester::MAX_MESSAGE,
            max_rd_atomic: config.max_rd_atomic,
            send_invalidate: true,
        };
        let shared = Shared {
            keys: Keys::new(config.max_registrations),
            srq: Srq::new(config.max_srq_wr as usize),
            completions: CompletionQueue::new(config.max_srq_wr as usize),
            failed: VecDeque::with_capacity(table.limit() as usize),
            read_in_flight: 0,
            read_budget_freed: false,
            config,
        };
        let lists = table.limit() as usize;
        Self {
            caps,
            shared,
            table,
            stats: Stats::default(),
            active: VecDeque::with_capacity(lists),
            starved: VecDeque::with_capacity(lists),
            deadline: None,
        }
    }

    /// What it can do.
    pub fn caps(&self) -> &NicCaps {
        &self.caps
    }

    /// What it has counted, over all queue pairs that it ever had.
    pub fn stats(&self) -> Stats {
        let mut sum = self.stats;
        self.table.iter().for_each(|qp| sum += qp.stats());
        sum
    }

    /// What it has counted of a queue pair; `None` when it does not exist.
    pub fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>> {
        self.table.get(qp).map(|qp| qp.stats().counts())
    }

    /// What it has counted, for what its owner counts.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// Registers memory, or gives nothing when the table is full.
    pub fn register(&mut self, region: &Region, access: Access) -> Option<MemoryRegion> {
        self.shared.keys.register(region, access)
    }

    /// Registrations it takes.
    pub fn max_registrations(&self) -> usize {
        self.shared.keys.limit()
    }

    /// Ends a registration.
    pub fn deregister(&mut self, memory: &MemoryRegion) {
        self.shared.keys.deregister(memory.lkey);
    }

    /// Makes a queue pair.
    ///
    /// # Errors
    /// When none is left, or the send queue would be too deep.
    pub fn create_qp(&mut self, caps: QpCaps) -> Result<QpNumber, NicError> {
        if caps.max_send_wr > self.caps.max_send_wr {
            return Err(NicError::Malformed("the send queue would be too deep"));
        }
        let number = self
            .table
            .insert(|number| Qp::new(number, caps))
            .ok_or(NicError::NoQpLeft(self.caps.max_qp))?;
        self.shared.completions.reserve(caps.max_send_wr as usize);
        Ok(number)
    }

    /// Connects a queue pair.
    ///
    /// # Errors
    /// When it does not exist, is connected already, or an attribute is wrong.
    pub fn connect_qp(&mut self, qp: QpNumber, attrs: &QpAttrs) -> Result<(), NicError> {
        let found = self.table.get_mut(qp).ok_or(NicError::NoSuchQp(qp))?;
        found.connect(attrs, &self.shared)
    }

    /// Brings a queue pair to the error state and flushes it.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        let found = self.table.get_mut(qp).ok_or(NicError::NoSuchQp(qp))?;
        found.enter_error_silently(&mut self.shared);
        Ok(())
    }

    /// Ends a queue pair. Its completions that were not polled are dropped, and
    /// the receive buffers among them posted again.
    pub fn destroy_qp(&mut self, qp: QpNumber) {
        let Some(mut gone) = self.table.remove(qp) else {
            return;
        };
        self.stats += gone.stats();
        gone.dismantle(&mut self.shared);
        self.shared.failed.retain(|failed| *failed != qp);
        let Shared {
            completions, srq, ..
        } = &mut self.shared;
        completions.remove(qp, |wr| srq.give_back(wr));
    }

    /// Posts receive buffers, all of the list or none.
    ///
    /// # Errors
    /// When there is no room, or a key is wrong.
    pub fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        if !self.shared.srq.has_room(wrs.len()) {
            return Err(NicError::Full);
        }
        for wr in wrs {
            self.shared
                .keys
                .check(&[wr.sge], Right::LocalWrite)
                .map_err(|_| NicError::Malformed("a key, its bounds or its rights"))?;
        }
        for wr in wrs {
            self.shared.srq.post(*wr);
        }
        Ok(())
    }

    /// Posts a list to a send queue, all of it or nothing.
    ///
    /// # Errors
    /// When the queue pair does not exist or is not connected, the queue has no
    /// room, or a work request is malformed.
    pub fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        let found = self.table.get_mut(qp).ok_or(NicError::NoSuchQp(qp))?;
        found.post(wrs, &mut self.shared)?;
        enlist(&mut self.active, found);
        Ok(())
    }

    /// Copies between registered pieces of equal length, both of which a peer
    /// might read.
    ///
    /// # Errors
    /// When a key, its bounds or its rights do not allow it.
    pub fn copy(&mut self, from: Sge, to: Sge) -> Result<(), NicError> {
        const CHUNK: usize = 4096;
        let wrong = |_| NicError::Malformed("a key, its bounds or its rights");
        if from.len != to.len {
            return Err(NicError::Malformed("a copy to a piece of another length"));
        }
        let (keys, len) = (&self.shared.keys, from.len as usize);
        let mut bytes = [0; CHUNK];
        for at in (0..len).step_by(CHUNK) {
            let take = CHUNK.min(len - at);
            let bytes = &mut bytes[..take];
            let source = keys.range(&[from], at, take, Right::RemoteRead);
            source.map_err(wrong)?.read(bytes);
            let target = keys.range(&[to], at, take, Right::LocalWrite);
            target.map_err(wrong)?.write(bytes);
        }
        Ok(())
    }

    /// Handles a packet that came `from` a peer's address `to` an own one. It
    /// runs from the BTH to the end of the padding; its CRC has been checked.
    pub fn handle_packet(&mut self, now: Instant, from: IpAddr, to: IpAddr, packet: &[u8]) {
        let (headers, payload) = match Headers::read(packet) {
            Ok(read) => read,
            // An unknown operation of the reliable connection is the
            // responder's to refuse; the BTH is all there is to it.
            Err(WireError::Opcode(0..=0x1f)) => match Bth::read(packet) {
                Some((bth, _)) => (Headers::new(bth), [].as_slice()),
                None => return,
            },
            Err(_) => {
                self.stats.packets_in += 1;
                self.stats.drops.malformed += 1;
                return;
            }
        };
        let Some(qp) = self.table.get_mut(QpNumber(headers.bth.dest_qp)) else {
            self.stats.packets_in += 1;
            self.stats.drops.unknown_qp += 1;
            return;
        };
        qp.handle(now, from, to, &headers, payload, &mut self.shared);
        enlist(&mut self.active, qp);
        self.deadline = earlier(self.deadline, qp.deadline());
    }

    /// Writes packets into the sink until it is full or nothing is left to
    /// send. Queue pairs take turns.
    pub fn transmit(&mut self, now: Instant, sink: &mut impl PacketSink) {
        loop {
            if std::mem::take(&mut self.shared.read_budget_freed) {
                self.active.append(&mut self.starved);
            }
            let Some(number) = self.active.pop_front() else {
                return;
            };
            let Some(qp) = self.table.get_mut(number) else {
                continue;
            };
            let turn = qp.transmit(now, &mut self.shared, sink);
            self.deadline = earlier(self.deadline, qp.deadline());
            match turn {
                Turn::Idle => qp.listed = false,
                Turn::More => self.active.push_back(number),
                Turn::Starved => self.starved.push_back(number),
                Turn::SinkFull => {
                    self.active.push_front(number);
                    return;
                }
            }
        }
    }

    /// Whether [`Engine::transmit`] may have something to write.
    pub fn wants_transmit(&self) -> bool {
        !self.active.is_empty() || self.shared.read_budget_freed && !self.starved.is_empty()
    }

    /// When [`Engine::expire`] must be called, at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Lets timers pass that have ended by `now`.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        for qp in self.table.iter_mut() {
            if qp.deadline().is_some_and(|deadline| deadline <= now)
                && qp.expire(now, &mut self.shared)
            {
                enlist(&mut self.active, qp);
            }
            self.deadline = earlier(self.deadline, qp.deadline());
        }
    }

    /// Appends completions to `out` until it is full or none are left.
    pub fn poll(&mut self, out: &mut Completions) {
        while !out.is_full() {
            let Some(entry) = self.shared.completions.pop() else {
                return;
            };
            self.polled(&entry.completion);
            out.push(entry.completion);
        }
    }

    /// The next queue pair that went to the error state by itself.
    pub fn failed_qp(&mut self) -> Option<QpNumber> {
        self.shared.failed.pop_front()
    }

    /// Whether completions wait to be polled that `wake` is about.
    pub fn has_completions(&self, wake: Wake) -> bool {
        match wake {
            Wake::Solicited => self.shared.completions.has_urgent(),
            Wake::All | Wake::NotSent => !self.shared.completions.is_empty(),
        }
    }

    /// See [`crate::nic::Nic::arm_srq_limit`].
    ///
    /// # Errors
    /// When the queue never holds as many.
    pub fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError> {
        let ok = self.shared.srq.arm_limit(limit as usize);
        ok.then_some(()).ok_or(NicError::Malformed(
            "a limit above what the shared receive queue holds",
        ))
    }

    /// Whether the shared receive queue ran below its limit; told once.
    pub fn take_srq_limit_event(&mut self) -> bool {
        self.shared.srq.take_limit_event()
    }

    /// Whether something waits to be asked by [`Self::take_srq_limit_event`] or
    /// [`Self::failed_qp`].
    pub fn has_events(&self) -> bool {
        self.shared.srq.has_limit_event() || !self.shared.failed.is_empty()
    }

    fn polled(&mut self, completion: &Completion) {
        if matches!(completion.op, WcOp::Recv | WcOp::RecvWrite) {
            self.shared.srq.polled();
        } else if let Some(qp) = self.table.get_mut(completion.qp) {
            qp.requester_mut().polled();
        }
    }
}

/// Puts a queue pair on the list of those that may have something to send.
fn enlist(active: &mut VecDeque<QpNumber>, qp: &mut Qp) {
    if !std::mem::replace(&mut qp.listed, true) {
        active.push_back(qp.number());
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
