//! What the responder says: READ responses, acknowledgements, NAKs.
//!
//! InfiniBand Architecture, volume 1, 9.7.5: responses leave in the order of
//! the requests they answer, and one acknowledgement serves for all that came
//! before (9.7.5.1). So READ responses come first, and an
//! acknowledgement, which is always for something later, after them. It covers
//! all before it, so one note is enough.
#![forbid(unsafe_code)]

use super::qp::{Path, Step};
use super::read_jobs::ReadJob;
use super::responder::{Fault, Refused, Responder};
use super::{PacketSink, Shared};
use crate::soft::memory::Right;
use crate::soft::psn::Psn;
use crate::soft::wire::{Aeth, AethKind, Bth, Headers, NakCode, Opcode, pad_for};

/// What is to be said when all READs before it are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// All SENDs and WRITEs so far are received.
    Ack,
    /// The packet of this number is not taken.
    Nak {
        /// Its number.
        psn: Psn,
        /// Why.
        kind: AethKind,
    },
}

impl Responder {
    pub(super) fn has_replies(&self) -> bool {
        !self.jobs.is_empty() || self.reply.is_some()
    }

    pub(super) fn forget_replies(&mut self) {
        self.jobs.clear();
        self.reply = None;
    }

    /// Sends one packet, if there is one to send.
    pub(super) fn transmit(
        &mut self,
        path: &Path,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Result<Step, Refused> {
        while let Some(job) = self.jobs.front() {
            if let Some(step) = self.transmit_read(job, path, shared, sink)? {
                return Ok(step);
            }
        }
        let Some(waiting) = self.reply else {
            return Ok(Step::Idle);
        };
        let reply = if self.has_news_before(waiting) {
            Reply::Ack
        } else {
            waiting
        };
        let (psn, kind) = match reply {
            Reply::Ack => (self.last_data, AethKind::Ack(Aeth::NO_CREDITS)),
            Reply::Nak { psn, kind } => (psn, kind),
        };
        let bth = Bth::new(Opcode::RcAck, path.remote_qp, psn);
        let headers = Headers {
            aeth: Some(Aeth {
                kind,
                msn: self.msn,
            }),
            ..Headers::new(bth)
        };
        let fits = sink.send(path, headers.size(), |out| {
            headers.write(out);
        });
        if !fits {
            return Ok(Step::SinkFull);
        }
        self.untold = false;
        self.reply.take_if(|waiting| *waiting == reply);
        let stats = &mut self.stats;
        stats.packets_out += 1;
        match kind {
            AethKind::Nak(NakCode::PsnSequence) => stats.sequence_naks_out += 1,
            AethKind::Nak(_) => stats.fatal_naks_out += 1,
            AethKind::RnrNak(_) => stats.rnr_naks_out += 1,
            AethKind::Ack(_) => stats.acks_out += 1,
            AethKind::Reserved(_) => {}
        }
        Ok(Step::Sent)
    }

    /// A gap is told of, and what came right before it has not been acknowledged
    /// yet. The NAK does that too (9.7.5.1.1), but rdma_rxe goes back a second time
    /// only after an acknowledgement: without, it waits for its timer.
    fn has_news_before(&self, reply: Reply) -> bool {
        let gap = |psn: Psn| Reply::Nak {
            psn,
            kind: AethKind::Nak(NakCode::PsnSequence),
        };
        self.untold && reply == gap(self.last_data.plus(1))
    }

    /// Sends one response; nothing when the READ could not be answered and went.
    fn transmit_read(
        &mut self,
        job: ReadJob,
        path: &Path,
        shared: &mut Shared,
        sink: &mut impl PacketSink,
    ) -> Result<Option<Step>, Refused> {
        let len = job.left.min(path.mtu);
        let last = job.left <= path.mtu && !job.ended_early;
        let opcode = match (job.started, last) {
            (false, true) => Opcode::RcReadResponseOnly,
            (false, false) => Opcode::RcReadResponseFirst,
            (true, false) => Opcode::RcReadResponseMiddle,
            (true, true) => Opcode::RcReadResponseLast,
        };
        // The key may have gone since the request was taken. For no bytes it
        // need not be right.
        let right = Right::RemoteRead;
        let piece = match shared.keys.resolve(job.rkey, job.addr, len as usize, right) {
            Ok(piece) => Some(piece),
            Err(_) if len == 0 => None,
            // It may be long answered, and the key gone by right.
            Err(_) if job.repeated => {
                self.jobs.pop();
                self.stats.drops.stale_request += 1;
                return Ok(None);
            }
            Err(_) => {
                self.jobs.clear();
                return Err(self.refuse(job.psn, Fault::Access, shared));
            }
        };
        let len = len as usize;
        let mut bth = Bth::new(opcode, path.remote_qp, job.psn);
        bth.pad = pad_for(len) as u8;
        let aeth = Aeth {
            kind: AethKind::Ack(Aeth::NO_CREDITS),
            msn: self.msn,
        };
        let headers = Headers {
            aeth: Some(aeth),
            ..Headers::new(bth)
        };
        let fits = sink.send(path, headers.size() + len + pad_for(len), |out| {
            if let Some(out) = headers.write(out) {
                let (payload, pad) = out.split_at_mut(len.min(out.len()));
                if let Some(piece) = piece {
                    piece.read(payload);
                }
                pad.fill(0);
            }
        });
        if !fits {
            return Ok(Some(Step::SinkFull));
        }
        self.stats.packets_out += 1;
        self.stats.bytes_out += len as u64;
        self.jobs.sent(len as u32);
        Ok(Some(Step::Sent))
    }
}
