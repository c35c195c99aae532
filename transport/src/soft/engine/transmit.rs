//! The requester's packets: what goes out for the send queue.
//!
//! InfiniBand Architecture, volume 1, 9.7.3 (opcodes of requests) and 9.7.2
//! (acknowledgements asked for).
//!
//! A READ goes out as several requests, cut at fixed places. A repeated request
//! then never asks for more than one of those did, which responders that keep a
//! table of requests rely on.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::acks::Failure;
use super::qp::{Path, Step};
use super::requester::{Requester, Span, Wqe};
use super::{PacketSink, Shared};
use crate::nic::{SendOp, WcStatus};
use crate::soft::memory::Right;
use crate::soft::wire::{Bth, Headers, Opcode, Reth, pad_for};

/// An acknowledgement is asked for after at most so many packets.
const ACK_EVERY: u32 = 16;

impl Requester {
    /// Sends one packet, if one can be sent.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        path: &Path,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Result<Step, Failure> {
        if self.rnr_until.is_some() {
            return Ok(Step::Idle);
        }
        let Some(wqe) = self.queue.get(self.current) else {
            return Ok(Step::Idle);
        };
        let sent = if wqe.is_read() {
            self.transmit_read(path, shared, sink)
        } else {
            self.transmit_data(path, shared, sink)
        };
        if let Ok(Step::Sent) = sent {
            self.timer.start(now);
            self.stats.packets_out += 1;
        }
        sent
    }

    fn transmit_read(
        &mut self,
        path: &Path,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Result<Step, Failure> {
        let Some(wqe) = self.queue.get(self.current) else {
            return Ok(Step::Idle);
        };
        let SendOp::Read(remote) = wqe.wr.op else {
            return Ok(Step::Idle);
        };
        if self.reads.len() >= self.max_reads {
            return Ok(Step::Idle);
        }
        let done = self.cursor.distance(wqe.first);
        let cut = (done / self.read_packets + 1) * self.read_packets;
        let packets = cut.min(wqe.packets) - done;
        let under_way = self.reads_in_flight;
        if under_way > 0 && under_way + packets > self.read_window.size() {
            return Ok(Step::Idle);
        }
        if !shared.take_read_budget(packets * self.mtu) {
            return Ok(Step::Starved);
        }
        let mut bth = Bth::new(Opcode::RcReadRequest, path.remote_qp, self.cursor);
        bth.ack_request = true;
        let offset = done * self.mtu;
        let reth = Reth {
            addr: remote.addr.wrapping_add(offset.into()),
            rkey: remote.rkey,
            len: (wqe.len - offset).min(packets * self.mtu),
        };
        let headers = Headers {
            reth: Some(reth),
            ..Headers::new(bth)
        };
        let fits = sink.send(path, headers.size(), |out| {
            headers.write(out);
        });
        if !fits {
            shared.release_read_budget(packets * self.mtu);
            return Ok(Step::SinkFull);
        }
        self.reads.push_back(Span {
            end: self.cursor.plus(packets),
            left: packets,
        });
        self.reads_in_flight += packets;
        self.since_ack_request = 0;
        self.stats.reads_out += 1;
        self.moved_on(packets);
        Ok(Step::Sent)
    }

    fn transmit_data(
        &mut self,
        path: &Path,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Result<Step, Failure> {
        let Some(wqe) = self.queue.get(self.current) else {
            return Ok(Step::Idle);
        };
        if self.data_in_flight >= self.window.size() {
            return Ok(Step::Idle);
        }
        let done = self.cursor.distance(wqe.first);
        let offset = done * self.mtu;
        let len = (wqe.len - offset).min(self.mtu) as usize;
        let last = done + 1 == wqe.packets;
        let mut bth = Bth::new(
            data_opcode(&wqe.wr.op, done == 0, last),
            path.remote_qp,
            self.cursor,
        );
        bth.pad = pad_for(len) as u8;
        bth.solicited = last && wqe.wr.solicited && takes_buffer(&wqe.wr.op);
        // Whoever waits for a completion needs an answer; so do we when there
        // is nothing more that could bring one, or nothing that is sure to go
        // soon, and when one did not come the first time.
        let next = self.queue.get(self.current + 1);
        let alone = next.is_none_or(Wqe::is_read);
        let again = self.cursor.is_before(self.sent_end);
        bth.ack_request = last && (wqe.wr.signaled || alone || again)
            || self.since_ack_request + 1 >= ACK_EVERY
            || self.data_in_flight + 1 >= self.window.size();
        let mut headers = Headers::new(bth);
        match wqe.wr.op {
            SendOp::Write(remote) | SendOp::WriteImmediate { to: remote, .. } => {
                headers.reth = Some(Reth {
                    addr: remote.addr,
                    rkey: remote.rkey,
                    len: wqe.len,
                });
            }
            SendOp::SendInvalidate { rkey } => headers.invalidate = Some(rkey),
            SendOp::Send | SendOp::SendImmediate { .. } | SendOp::Read(_) => {}
        }
        if let SendOp::SendImmediate { imm } | SendOp::WriteImmediate { imm, .. } = wqe.wr.op {
            headers.imm = Some(imm);
        }
        let pieces = shared
            .keys
            .range(&wqe.wr.sges, offset as usize, len, Right::LocalRead);
        let pieces = match pieces {
            Ok(pieces) => pieces,
            // What was sent before it ends first, as it may.
            Err(_) if self.current > 0 => return Ok(Step::Idle),
            Err(_) => return Err(Failure::first(WcStatus::LocalProtection)),
        };
        let fits = sink.send(path, headers.size() + len + pad_for(len), |out| {
            if let Some(out) = headers.write(out) {
                let (payload, pad) = out.split_at_mut(len.min(out.len()));
                pieces.read(payload);
                pad.fill(0);
            }
        });
        if !fits {
            return Ok(Step::SinkFull);
        }
        self.stats.bytes_out += len as u64;
        self.since_ack_request = if bth.ack_request {
            0
        } else {
            self.since_ack_request + 1
        };
        self.data_in_flight += 1;
        self.moved_on(1);
        Ok(Step::Sent)
    }

    /// The cursor passes what was sent.
    fn moved_on(&mut self, packets: u32) {
        if self.cursor.is_before(self.sent_end) {
            self.stats.retransmits += 1;
        }
        self.cursor = self.cursor.plus(packets);
        if self.sent_end.is_before(self.cursor) {
            self.sent_end = self.cursor;
        }
        if self
            .queue
            .get(self.current)
            .is_some_and(|wqe| wqe.end() == self.cursor)
        {
            self.current += 1;
        }
    }
}

/// Whether the peer's receive buffers are used: 9.2.3 allows a solicited event
/// for no others.
fn takes_buffer(op: &SendOp) -> bool {
    !matches!(op, SendOp::Write(_) | SendOp::Read(_))
}

/// The opcode of a SEND or WRITE packet by its place in the message.
fn data_opcode(op: &SendOp, first: bool, last: bool) -> Opcode {
    match (op, first, last) {
        (SendOp::WriteImmediate { .. }, true, true) => Opcode::RcWriteOnlyImm,
        (SendOp::WriteImmediate { .. }, false, true) => Opcode::RcWriteLastImm,
        (SendOp::Write(_), true, true) => Opcode::RcWriteOnly,
        (SendOp::Write(_), false, true) => Opcode::RcWriteLast,
        (SendOp::Write(_) | SendOp::WriteImmediate { .. }, true, false) => Opcode::RcWriteFirst,
        (SendOp::Write(_) | SendOp::WriteImmediate { .. }, false, false) => Opcode::RcWriteMiddle,
        (SendOp::SendImmediate { .. }, true, true) => Opcode::RcSendOnlyImm,
        (SendOp::SendImmediate { .. }, false, true) => Opcode::RcSendLastImm,
        (SendOp::SendInvalidate { .. }, true, true) => Opcode::RcSendOnlyInvalidate,
        (SendOp::SendInvalidate { .. }, false, true) => Opcode::RcSendLastInvalidate,
        (_, true, true) => Opcode::RcSendOnly,
        (_, true, false) => Opcode::RcSendFirst,
        (_, false, false) => Opcode::RcSendMiddle,
        (_, false, true) => Opcode::RcSendLast,
    }
}
