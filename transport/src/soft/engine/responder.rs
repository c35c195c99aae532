//! The responder: what the peer's requests do.
//!
//! InfiniBand Architecture, volume 1, 9.7.4 (responder: receiving requests),
//! 9.7.5 (what it answers), 9.9.3 (its errors). Each packet is checked in the
//! order of 9.7.4.1: its number, its opcode in the sequence, its length, and
//! then the memory it names; nothing is written before all that has passed.
//!
//! Answers are only noted here; [`super::replies`] writes them out.
#![forbid(unsafe_code)]

use super::completions::Received;
use super::read_jobs::{ReadJobs, packets};
use super::replies::Reply;
use super::{Shared, Stats};
use crate::nic::{QpAttrs, QpNumber, RecvWr, WcStatus};
use crate::soft::memory::Right;
use crate::soft::psn::Psn;
use crate::soft::wire::{AethKind, Headers, Kind, Layout, NakCode, Reth};

/// The longest message a request may announce (9.7.4: 2^31 bytes).
const MAX_LENGTH: u32 = 1 << 31;

/// A request was refused for good: its NAK is noted, and the queue pair goes to
/// the error state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// Why a request in its place is not taken (9.9.3). All of these end the
/// connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is against the rules.
    Invalid,
    /// It is longer than the receive buffer.
    TooLong,
    /// It names memory by a wrong key, or outside its bounds or rights.
    Access,
    /// The receive buffer cannot be used: the own side's fault.
    Buffer,
    /// It invalidates a key that is none of the peer's. For this the specification
    /// has no NAK (9.9.3, class J): the message was right, and is received.
    Invalidation,
}

impl Fault {
    fn nak(self) -> Option<NakCode> {
        match self {
            Self::Invalid | Self::TooLong => Some(NakCode::InvalidRequest),
            Self::Access => Some(NakCode::RemoteAccess),
            Self::Buffer => Some(NakCode::RemoteOperation),
            Self::Invalidation => None,
        }
    }

    /// How the receive ends whose buffer the message has.
    fn status(self) -> WcStatus {
        match self {
            Self::Invalid => WcStatus::RemoteInvalidRequest,
            Self::TooLong => WcStatus::LocalLength,
            Self::Access => WcStatus::Flushed,
            Self::Buffer | Self::Invalidation => WcStatus::LocalProtection,
        }
    }
}

/// The message that is coming in.
#[derive(Debug, Clone, Copy)]
enum Inbound {
    None,
    Send { wr: RecvWr, received: u32 },
    Write { reth: Reth, received: u32 },
}

#[derive(Debug)]
pub(super) struct Responder {
    number: QpNumber,
    /// The number that the next new request has.
    pub(super) expected: Psn,
    /// The last SEND or WRITE packet taken.
    pub(super) last_data: Psn,
    /// Messages completed, 24 bits (9.7.7.1).
    pub(super) msn: u32,
    inbound: Inbound,
    pub(super) stats: Stats,
    pub(super) jobs: ReadJobs,
    pub(super) reply: Option<Reply>,
    /// A gap was reported, or the peer told to wait: until the expected packet
    /// comes, others are dropped without a word.
    silent: bool,
    /// Packets were taken since the peer was last told of any.
    pub(super) untold: bool,
}

impl Responder {
    pub(super) fn new(number: QpNumber) -> Self {
        Self {
            number,
            expected: Psn::new(0),
            last_data: Psn::new(0),
            msn: 0,
            inbound: Inbound::None,
            stats: Stats::default(),
            jobs: ReadJobs::new(0),
            reply: None,
            silent: false,
            untold: false,
        }
    }

    pub(super) fn connect(&mut self, attrs: &QpAttrs) {
        self.expected = Psn::new(attrs.rq_psn);
        self.last_data = self.expected.minus(1);
        self.jobs = ReadJobs::new(attrs.max_dest_rd_atomic.into());
    }

    /// Handles a request. `payload` is only looked at when the request is new
    /// and in its place.
    pub(super) fn request(
        &mut self,
        headers: &Headers,
        payload: &[u8],
        mtu: u32,
        shared: &mut Shared,
    ) -> Result<(), Refused> {
        let ahead = headers.bth.psn.since(self.expected);
        if ahead < 0 {
            self.duplicate(headers, mtu, shared);
            return Ok(());
        }
        if ahead > 0 {
            self.stats.drops.out_of_sequence += 1;
            if !self.silent {
                self.silent = true;
                self.reply = Some(Reply::Nak {
                    psn: self.expected,
                    kind: AethKind::Nak(NakCode::PsnSequence),
                });
            }
            return Ok(());
        }
        // What asked for this very packet need not be said any more.
        self.silent = false;
        self.reply
            .take_if(|reply| matches!(reply, Reply::Nak { .. }));
        let done = match headers.bth.opcode.layout() {
            Some(layout) => self.new_request(layout, headers, payload, mtu, shared),
            None => Err(Fault::Invalid),
        };
        done.map_err(|fault| self.refuse(headers.bth.psn, fault, shared))
    }

    fn new_request(
        &mut self,
        layout: Layout,
        headers: &Headers,
        payload: &[u8],
        mtu: u32,
        shared: &mut Shared,
    ) -> Result<(), Fault> {
        // 9.7.4.1: which opcodes may follow which.
        let in_sequence = match self.inbound {
            Inbound::None => layout.start,
            Inbound::Send { .. } => layout.kind == Kind::Send && !layout.start,
            Inbound::Write { .. } => layout.kind == Kind::Write && !layout.start,
        };
        if !in_sequence {
            return Err(Fault::Invalid);
        }
        match (layout.kind, headers.reth) {
            (Kind::Send, _) => {
                check_length(layout, payload, mtu)?;
                self.send(layout, headers, payload, shared)
            }
            (Kind::Write, reth) => {
                check_length(layout, payload, mtu)?;
                self.write(layout, headers, reth, payload, shared)
            }
            (Kind::ReadRequest, Some(reth)) if payload.is_empty() => {
                self.read(headers.bth.psn, reth, mtu, shared)
            }
            // ATOMIC is optional, and not offered (9.4.5).
            _ => Err(Fault::Invalid),
        }
    }

    fn send(
        &mut self,
        layout: Layout,
        headers: &Headers,
        payload: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Fault> {
        let (wr, received) = match self.inbound {
            Inbound::Send { wr, received } => (wr, received),
            _ => match shared.srq.take() {
                Some(wr) => (wr, 0),
                None => return self.not_ready(shared),
            },
        };
        // From here on the buffer is this message's, whatever happens.
        self.inbound = Inbound::Send { wr, received };
        let len = payload.len() as u32;
        if len > wr.sge.len - received {
            return Err(Fault::TooLong);
        }
        if len > 0 {
            let addr = wr.sge.addr.wrapping_add(received.into());
            shared
                .keys
                .resolve(wr.sge.lkey, addr, payload.len(), Right::LocalWrite)
                .map_err(|_| Fault::Buffer)?
                .write(payload);
            self.stats.bytes_in += u64::from(len);
        }
        if let Some(key) = headers.invalidate {
            shared
                .keys
                .invalidate(key)
                .map_err(|_| Fault::Invalidation)?;
        }
        let received = received + len;
        self.inbound = Inbound::Send { wr, received };
        if layout.end {
            self.inbound = Inbound::None;
            let done = Received {
                len: received,
                invalidated: headers.invalidate,
                imm: headers.imm,
                solicited: headers.bth.solicited,
                ..Received::new(self.number, wr)
            };
            shared.completions.push_received(done);
        }
        self.taken(layout, headers);
        Ok(())
    }

    fn write(
        &mut self,
        layout: Layout,
        headers: &Headers,
        reth: Option<Reth>,
        payload: &[u8],
        shared: &mut Shared,
    ) -> Result<(), Fault> {
        let (reth, received) = match (self.inbound, reth) {
            (Inbound::Write { reth, received }, None) => (reth, received),
            (Inbound::None, Some(reth)) => {
                if reth.len > MAX_LENGTH {
                    return Err(Fault::Invalid);
                }
                // 9.7.4.1: the whole range is checked before the first byte.
                if reth.len > 0 {
                    shared
                        .keys
                        .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteWrite)
                        .map_err(|_| Fault::Access)?;
                }
                (reth, 0)
            }
            _ => return Err(Fault::Invalid),
        };
        let len = payload.len() as u32;
        let left = reth.len - received;
        // 9.7.4.1: the payloads must add up to the announced length.
        if len > left || layout.end != (len == left) {
            return Err(Fault::Invalid);
        }
        // 9.7.5.2.8: the packet that tells of the message needs a buffer to tell
        // by, and nothing of it is taken without one.
        let told = match layout.imm.then(|| shared.srq.take()) {
            Some(None) => return self.not_ready(shared),
            Some(Some(wr)) => Some(wr),
            None => None,
        };
        if len > 0 {
            let addr = reth.addr.wrapping_add(received.into());
            let placed = shared
                .keys
                .resolve(reth.rkey, addr, payload.len(), Right::RemoteWrite)
                .map(|piece| piece.write(payload));
            if placed.is_err() {
                if let Some(wr) = told {
                    shared.srq.give_back(wr);
                }
                return Err(Fault::Access);
            }
            self.stats.bytes_in += u64::from(len);
        }
        if let Some(wr) = told {
            let done = Received {
                wrote: true,
                len: reth.len,
                imm: headers.imm,
                solicited: headers.bth.solicited,
                ..Received::new(self.number, wr)
            };
            shared.completions.push_received(done);
        }
        self.inbound = if layout.end {
            Inbound::None
        } else {
            Inbound::Write {
                reth,
                received: received + len,
            }
        };
        self.taken(layout, headers);
        Ok(())
    }

    fn read(&mut self, psn: Psn, reth: Reth, mtu: u32, shared: &mut Shared) -> Result<(), Fault> {
        self.stats.reads_in += 1;
        if reth.len > MAX_LENGTH {
            return Err(Fault::Invalid);
        }
        if reth.len > 0 {
            shared
                .keys
                .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteRead)
                .map_err(|_| Fault::Access)?;
        }
        // 9.7.4: more READs than were agreed on.
        if !self.jobs.add(psn, reth) {
            return Err(Fault::Invalid);
        }
        self.expected = psn.plus(packets(reth.len, mtu));
        self.message_done();
        // The response says that all before has been received.
        self.reply = None;
        Ok(())
    }

    /// No buffer is posted: the packet is not taken, its time comes again
    /// (9.7.5.2.8).
    fn not_ready(&mut self, shared: &Shared) -> Result<(), Fault> {
        self.silent = true;
        self.reply = Some(Reply::Nak {
            psn: self.expected,
            kind: AethKind::RnrNak(shared.config.rnr_timer),
        });
        Ok(())
    }

    /// A SEND or WRITE packet has done its work.
    fn taken(&mut self, layout: Layout, headers: &Headers) {
        self.last_data = self.expected;
        self.expected = self.expected.plus(1);
        self.untold = true;
        if layout.end {
            self.message_done();
        }
        if headers.bth.ack_request {
            self.reply = Some(Reply::Ack);
        }
    }

    /// 9.7.7.1: for a READ when it is taken, for others when the last packet is.
    fn message_done(&mut self) {
        self.msn = self.msn.wrapping_add(1);
        self.stats.messages_in += 1;
    }

    /// A request that was received before (9.7.5.1): SEND and WRITE
    /// are acknowledged again, where asked for, and not done again; READ is.
    fn duplicate(&mut self, headers: &Headers, mtu: u32, shared: &mut Shared) {
        self.stats.duplicates += 1;
        let psn = headers.bth.psn;
        match (
            headers.bth.opcode.layout().map(|layout| layout.kind),
            headers.reth,
        ) {
            (Some(Kind::Send | Kind::Write), _) => {
                if headers.bth.ack_request && self.reply.is_none() {
                    self.reply = Some(Reply::Ack);
                }
            }
            (Some(Kind::ReadRequest), Some(reth)) => {
                self.stats.reads_in += 1;
                let end = psn.plus(packets(reth.len, mtu));
                // It may be long answered, and the key gone by right: so no NAK.
                let ok = reth.len <= MAX_LENGTH
                    && !end.is_after(self.expected)
                    && (reth.len == 0
                        || shared
                            .keys
                            .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteRead)
                            .is_ok());
                if !ok || !self.jobs.repeat(psn, reth, mtu) {
                    self.stats.drops.stale_request += 1;
                }
            }
            _ => self.stats.drops.stale_request += 1,
        }
    }

    /// Notes the NAK that ends the connection, and gives the buffer of a
    /// half-received message back with an error.
    pub(super) fn refuse(&mut self, psn: Psn, fault: Fault, shared: &mut Shared) -> Refused {
        match fault {
            Fault::Invalid | Fault::TooLong => self.stats.invalid_requests += 1,
            Fault::Access | Fault::Invalidation => self.stats.access_errors += 1,
            Fault::Buffer => {}
        }
        if let Some(code) = fault.nak() {
            let kind = AethKind::Nak(code);
            self.reply = Some(Reply::Nak { psn, kind });
        }
        self.abort(fault.status(), shared);
        Refused
    }

    /// Ends the message that is coming in.
    pub(super) fn abort(&mut self, status: WcStatus, shared: &mut Shared) {
        if let Some(wr) = self.take_buffer() {
            let done = Received {
                status,
                ..Received::new(self.number, wr)
            };
            shared.completions.push_received(done);
        }
    }

    /// Takes the buffer of the message that is coming in.
    pub(super) fn take_buffer(&mut self) -> Option<RecvWr> {
        match std::mem::replace(&mut self.inbound, Inbound::None) {
            Inbound::Send { wr, .. } => Some(wr),
            _ => None,
        }
    }
}

/// 9.7.4.1: full packets up to the last, and no empty last one.
fn check_length(layout: Layout, payload: &[u8], mtu: u32) -> Result<(), Fault> {
    let (len, mtu) = (payload.len(), mtu as usize);
    let ok = match (layout.start, layout.end) {
        (_, false) => len == mtu,
        (false, true) => (1..=mtu).contains(&len),
        (true, true) => len <= mtu,
    };
    if ok { Ok(()) } else { Err(Fault::Invalid) }
}
