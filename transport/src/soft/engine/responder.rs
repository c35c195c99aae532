//! The responder: what the peer's requests do.
//!
//! InfiniBand Architecture, volume 1, 9.7.4 (responder: receiving requests),
//! 9.7.5 (what it answers), 9.9.3 (its errors). Each packet is checked in the
//! order of 9.7.4.1: its number, its opcode in the sequence, its length, and
//! then the memory it names; nothing is written before all that has passed.
//!
//! Answers are only noted here; [`super::replies`] writes them out.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::Shared;
use super::completions::Received;
use super::replies::{ReadJob, Reply};
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
    pub(super) jobs: VecDeque<ReadJob>,
    max_jobs: usize,
    pub(super) reply: Option<Reply>,
    /// A gap was reported, or the peer told to wait: until the expected packet
    /// comes, others are dropped without a word.
    silent: bool,
}

impl Responder {
    pub(super) fn new(number: QpNumber) -> Self {
        Self {
            number,
            expected: Psn::new(0),
            last_data: Psn::new(0),
            msn: 0,
            inbound: Inbound::None,
            jobs: VecDeque::new(),
            max_jobs: 0,
            reply: None,
            silent: false,
        }
    }

    pub(super) fn connect(&mut self, attrs: &QpAttrs) {
        self.expected = Psn::new(attrs.rq_psn);
        self.last_data = self.expected.minus(1);
        self.max_jobs = attrs.max_dest_rd_atomic.into();
        self.jobs.reserve(self.max_jobs);
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
            shared.stats.drops.out_of_sequence += 1;
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
            None => Err(NakCode::InvalidRequest),
        };
        done.map_err(|code| {
            let status = match code {
                NakCode::InvalidRequest => WcStatus::LocalLength,
                _ => WcStatus::Flushed,
            };
            self.refuse(headers.bth.psn, code, status, shared)
        })
    }

    fn new_request(
        &mut self,
        layout: Layout,
        headers: &Headers,
        payload: &[u8],
        mtu: u32,
        shared: &mut Shared,
    ) -> Result<(), NakCode> {
        // 9.7.4.1: which opcodes may follow which.
        let in_sequence = match self.inbound {
            Inbound::None => layout.start,
            Inbound::Send { .. } => layout.kind == Kind::Send && !layout.start,
            Inbound::Write { .. } => layout.kind == Kind::Write && !layout.start,
        };
        if !in_sequence {
            return Err(NakCode::InvalidRequest);
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
            (Kind::ReadRequest, Some(reth)) => self.read(headers.bth.psn, reth, mtu, shared),
            // ATOMIC is optional, and not offered (9.4.5).
            _ => Err(NakCode::InvalidRequest),
        }
    }

    fn send(
        &mut self,
        layout: Layout,
        headers: &Headers,
        payload: &[u8],
        shared: &mut Shared,
    ) -> Result<(), NakCode> {
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
            return Err(NakCode::InvalidRequest);
        }
        if len > 0 {
            let addr = wr.sge.addr.wrapping_add(received.into());
            shared
                .keys
                .resolve(wr.sge.lkey, addr, payload.len(), Right::LocalWrite)
                .map_err(|_| NakCode::RemoteOperation)?
                .write(payload);
            shared.stats.bytes_in += u64::from(len);
        }
        if let Some(key) = headers.invalidate {
            shared
                .keys
                .invalidate(key)
                .map_err(|_| NakCode::RemoteAccess)?;
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
    ) -> Result<(), NakCode> {
        let (reth, received) = match (self.inbound, reth) {
            (Inbound::Write { reth, received }, None) => (reth, received),
            (Inbound::None, Some(reth)) => {
                if reth.len > MAX_LENGTH {
                    return Err(NakCode::InvalidRequest);
                }
                // 9.7.4.1: the whole range is checked before the first byte.
                if reth.len > 0 {
                    shared
                        .keys
                        .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteWrite)
                        .map_err(|_| NakCode::RemoteAccess)?;
                }
                (reth, 0)
            }
            _ => return Err(NakCode::InvalidRequest),
        };
        let len = payload.len() as u32;
        let left = reth.len - received;
        // 9.7.4.1: the payloads must add up to the announced length.
        if len > left || layout.end != (len == left) {
            return Err(NakCode::InvalidRequest);
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
                return Err(NakCode::RemoteAccess);
            }
            shared.stats.bytes_in += u64::from(len);
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

    fn read(&mut self, psn: Psn, reth: Reth, mtu: u32, shared: &mut Shared) -> Result<(), NakCode> {
        // 9.7.4: more READs than were agreed on.
        if self.jobs.len() >= self.max_jobs || reth.len > MAX_LENGTH {
            return Err(NakCode::InvalidRequest);
        }
        if reth.len > 0 {
            shared
                .keys
                .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteRead)
                .map_err(|_| NakCode::RemoteAccess)?;
        }
        self.jobs.push_back(ReadJob::new(psn, reth));
        self.expected = psn.plus(packets(reth.len, mtu));
        self.msn = self.msn.wrapping_add(1);
        // The response says that all before has been received.
        self.reply = None;
        Ok(())
    }

    /// No buffer is posted: the packet is not taken, its time comes again
    /// (9.7.5.2.8).
    fn not_ready(&mut self, shared: &Shared) -> Result<(), NakCode> {
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
        if layout.end {
            self.msn = self.msn.wrapping_add(1);
        }
        if headers.bth.ack_request {
            self.reply = Some(Reply::Ack);
        }
    }

    /// A request that was received before (9.7.4): SEND and WRITE
    /// are acknowledged again, where asked for, and not done again; READ is.
    fn duplicate(&mut self, headers: &Headers, mtu: u32, shared: &mut Shared) {
        shared.stats.duplicates += 1;
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
                let end = psn.plus(packets(reth.len, mtu));
                let ok = reth.len <= MAX_LENGTH
                    && !end.is_after(self.expected)
                    && self.max_jobs > 0
                    && (reth.len == 0
                        || shared
                            .keys
                            .resolve(reth.rkey, reth.addr, reth.len as usize, Right::RemoteRead)
                            .is_ok());
                if !ok {
                    shared.stats.drops.stale_request += 1;
                    return;
                }
                // The requester went back, and will ask for all that follows
                // again too: what was still to be said of it is void.
                self.jobs.retain(|job| job.next().is_before(psn));
                if let Some(job) = self.jobs.back_mut() {
                    job.end_before(psn, mtu);
                }
                self.jobs.push_back(ReadJob::new(psn, reth));
                self.reply.take_if(|reply| matches!(reply, Reply::Ack));
            }
            _ => shared.stats.drops.stale_request += 1,
        }
    }

    /// Notes the NAK that ends the connection, and gives the buffer of a
    /// half-received message back with an error.
    pub(super) fn refuse(
        &mut self,
        psn: Psn,
        code: NakCode,
        status: WcStatus,
        shared: &mut Shared,
    ) -> Refused {
        self.reply = Some(Reply::Nak {
            psn,
            kind: AethKind::Nak(code),
        });
        self.abort(status, shared);
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

/// Packets of a response of `len` bytes.
fn packets(len: u32, mtu: u32) -> u32 {
    len.div_ceil(mtu).max(1)
}

/// 9.7.4.1: full packets up to the last, and no empty last one.
fn check_length(layout: Layout, payload: &[u8], mtu: u32) -> Result<(), NakCode> {
    let (len, mtu) = (payload.len(), mtu as usize);
    let ok = match (layout.start, layout.end) {
        (_, false) => len == mtu,
        (false, true) => (1..=mtu).contains(&len),
        (true, true) => len <= mtu,
    };
    if ok {
        Ok(())
    } else {
        Err(NakCode::InvalidRequest)
    }
}
