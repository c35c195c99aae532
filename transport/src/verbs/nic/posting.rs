//! What goes out: lists of sends, receives, and the flush.

use super::{Held, VerbsNic, held_by_key};
use crate::nic::{
    Completion, Flush, NicError, NicEvent, QpNumber, RecvWr, RemoteMemory, SendOp, SendWr, Sge,
    WcOp, WcStatus,
};
use crate::verbs::ffi::{
    Device, INLINE_BYTES, LIST_LEN, Qp, SEND_SGES, SendData, SendFlags, SendOpcode, Srq, Verbs,
};
use crate::verbs::flusher::Flushing;
use crate::verbs::send_queue::Keys;
use crate::verbs::tag::tag;

const TAKEN_BITS: NicError = NicError::Malformed("its number has bits that are the adapter's");

impl<V: Verbs> VerbsNic<V> {
    pub(super) fn post_sends(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        let caps = &self.adapter.shared.caps;
        let pair = self.pairs.get_mut(&qp.0).ok_or(NicError::NoSuchQp(qp))?;
        let (queue_pair, outstanding, traffic) = pair.usable().ok_or(NicError::State(qp))?;
        if wrs.len() > outstanding.room() {
            return Err(NicError::Full);
        }
        for wr in wrs {
            check(wr, caps.max_sge, caps.max_message)?;
        }
        let mut done = 0;
        for part in wrs.chunks(LIST_LEN) {
            self.sends.clear();
            for wr in part {
                let (op, opcode) = opcode(wr.op, caps.send_invalidate);
                let wr_id = tag(op, wr.wr_id).ok_or(TAKEN_BITS)?;
                let mut bytes = [0; INLINE_BYTES];
                let inline = match op {
                    WcOp::Send => inline(&self.held, wr, queue_pair.max_inline(), &mut bytes),
                    _ => None,
                };
                let data = match inline {
                    Some(len) => {
                        self.counters.inlined += 1;
                        SendData::Inline(&bytes[..len])
                    }
                    None => SendData::Pieces(&wr.sges),
                };
                // Checked above, and a chunk fits the list.
                let flags = SendFlags {
                    signaled: wr.signaled,
                    solicited: wr.solicited,
                };
                if !self.sends.push(wr_id, opcode, flags, data) {
                    return Err(NicError::Malformed("it has too many pieces"));
                }
                outstanding.push(wr_id, keys(wr), wr.signaled);
                self.reads += usize::from(op == WcOp::Read && wr.signaled);
            }
            self.counters.doorbells += 1;
            if let Err(failure) = queue_pair.post(&mut self.sends) {
                let posted = failure.posted.min(part.len());
                traffic.posted(&part[..posted]);
                outstanding.unpush(part.len() - posted);
                done += posted;
                if done == 0 {
                    return Err(self.refusal("ibv_post_send", failure.errno));
                }
                self.cut_short(qp, &wrs[done..], failure.errno);
                return Ok(());
            }
            traffic.posted(part);
            done += part.len();
        }
        Ok(())
    }

    /// The adapter took the front of a list and not the rest, which only a
    /// broken one does. What it took it may have carried out, so the list cannot
    /// be taken back: the rest comes back as if flushed, and the queue pair goes.
    fn cut_short(&mut self, qp: QpNumber, rest: &[SendWr], errno: i32) {
        tracing::error!(adapter = %self.adapter.shared.name, ?qp, errno, "the adapter took a part of a list of work requests only");
        self.made_up.extend(rest.iter().map(|wr| Completion {
            wr_id: wr.wr_id,
            qp,
            status: WcStatus::Flushed,
            op: opcode(wr.op, true).0,
            len: 0,
            invalidated: None,
            imm: None,
        }));
        self.events.push_back(NicEvent::Failed(qp));
        // It is there: a list was posted to it just now.
        let _ = self.error(qp);
    }

    fn refusal(&self, what: &str, errno: i32) -> NicError {
        let error = std::io::Error::from_raw_os_error(errno);
        match errno {
            libc::ENOMEM => NicError::Full,
            libc::ENODEV | libc::EIO => NicError::Gone,
            _ => NicError::Refused(format!("{}: {what}: {error}", self.adapter.shared.name)),
        }
    }

    pub(super) fn post_recvs(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        let limit = self.adapter.shared.caps.max_srq_wr;
        if wrs.len() > limit.saturating_sub(self.srq_posted) as usize {
            return Err(NicError::Full);
        }
        if wrs.iter().any(|wr| tag(WcOp::Recv, wr.wr_id).is_none()) {
            return Err(TAKEN_BITS);
        }
        let mut done = 0;
        for part in wrs.chunks(LIST_LEN) {
            self.recvs.clear();
            for wr in part {
                let wr_id = tag(WcOp::Recv, wr.wr_id).ok_or(TAKEN_BITS)?;
                if !self.recvs.push(wr_id, wr.sge) {
                    return Err(NicError::Full);
                }
            }
            if let Err(failure) = self.srq.post(&mut self.recvs) {
                done += failure.posted.min(part.len());
                self.srq_posted += done as u32;
                if done > 0 {
                    tracing::error!(adapter = %self.adapter.shared.name, taken = done, of = wrs.len(), "the adapter took a part of a list of receives only");
                    self.set_gone();
                }
                return Err(self.refusal("ibv_post_srq_recv", failure.errno));
            }
            done += part.len();
        }
        self.srq_posted += done as u32;
        Ok(())
    }

    /// Reads the last byte back.
    pub(super) fn flush(&mut self, last: Sge, wr_id: u64) -> Result<Flush, NicError> {
        self.registered(last)?;
        let byte = Sge {
            addr: last.addr + u64::from(last.len) - 1,
            len: 1,
            lkey: last.lkey,
        };
        let scratch = self.adapter.shared.scratch.sge();
        self.read_own(byte, scratch, wr_id)
    }

    /// Copies by the queue pair that is connected to itself.
    pub(super) fn copy(&mut self, from: Sge, to: Sge, wr_id: u64) -> Result<Flush, NicError> {
        self.registered(to)?;
        if from.len != to.len {
            return Err(NicError::Malformed("a copy to a piece of another length"));
        }
        self.read_own(from, to, wr_id)
    }

    /// The registration that a piece lies in.
    fn registered(&self, piece: Sge) -> Result<&Held<V::Device>, NicError> {
        let held = held_by_key(&self.held, piece.lkey)
            .ok_or(NicError::Malformed("no registration has its key"))?;
        let memory = &held.memory;
        let end = piece.addr.checked_add(u64::from(piece.len));
        let inside = piece.len > 0
            && piece.addr >= memory.base
            && end.is_some_and(|end| end <= memory.base + memory.len);
        if !inside {
            return Err(NicError::Malformed("it lies outside its registration"));
        }
        if held.revoked {
            return Err(NicError::Malformed("its region was taken away"));
        }
        Ok(held)
    }

    fn read_own(&mut self, from: Sge, to: Sge, wr_id: u64) -> Result<Flush, NicError> {
        let tagged = tag(WcOp::Flush, wr_id).ok_or(TAKEN_BITS)?;
        let remote = RemoteMemory {
            addr: from.addr,
            rkey: self.registered(from)?.memory.rkey,
        };
        if self.gone {
            return Err(NicError::Gone);
        }
        if self.flusher.is_full() {
            return Err(NicError::Full);
        }
        let Some(qp) = self.flusher.ready() else {
            let number = self.flusher.number().unwrap_or_default();
            return Err(NicError::State(QpNumber(number)));
        };
        self.sends.clear();
        let to = [to];
        let pieces = SendData::Pieces(&to);
        if !self.sends.push(
            tagged,
            SendOpcode::Read(remote),
            SendFlags::SIGNALED,
            pieces,
        ) {
            return Err(NicError::Full);
        }
        self.counters.doorbells += 1;
        match qp.post(&mut self.sends) {
            Ok(()) => {
                self.flusher.posted(Flushing {
                    wr_id,
                    lkey: from.lkey,
                });
                Ok(Flush::Pending)
            }
            Err(failure) => Err(self.refusal("ibv_post_send", failure.errno)),
        }
    }
}

fn check(wr: &SendWr, max_sge: usize, max_message: u32) -> Result<(), NicError> {
    if tag(WcOp::Send, wr.wr_id).is_none() {
        return Err(TAKEN_BITS);
    }
    if wr.sges.len() > max_sge {
        return Err(NicError::Malformed("it has too many pieces"));
    }
    let bytes: u64 = wr.sges.iter().map(|sge| u64::from(sge.len)).sum();
    if bytes > u64::from(max_message) {
        return Err(NicError::Malformed("it has too many bytes"));
    }
    Ok(())
}

fn opcode(op: SendOp, send_invalidate: bool) -> (WcOp, SendOpcode) {
    match op {
        SendOp::SendInvalidate { rkey } if send_invalidate => {
            (WcOp::Send, SendOpcode::SendInvalidate(rkey))
        }
        SendOp::Send | SendOp::SendInvalidate { .. } => (WcOp::Send, SendOpcode::Send),
        SendOp::SendImmediate { imm } => (WcOp::Send, SendOpcode::SendImmediate(imm)),
        SendOp::Write(remote) => (WcOp::Write, SendOpcode::Write(remote)),
        SendOp::WriteImmediate { to, imm } => (WcOp::Write, SendOpcode::WriteImmediate(to, imm)),
        SendOp::Read(remote) => (WcOp::Read, SendOpcode::Read(remote)),
    }
}

fn keys(wr: &SendWr) -> Keys {
    let mut keys = [0; SEND_SGES];
    for (key, sge) in keys.iter_mut().zip(&wr.sges) {
        *key = sge.lkey;
    }
    keys
}

/// Copies a small message out of host memory, so that the adapter needs not
/// fetch it. `None` when it is too large, or memory of a device, which the CPU
/// must not touch; the adapter judges keys that are unknown here.
fn inline<D: Device>(
    held: &[Held<D>],
    wr: &SendWr,
    max_inline: u32,
    into: &mut [u8; INLINE_BYTES],
) -> Option<usize> {
    let bytes: u64 = wr.sges.iter().map(|sge| u64::from(sge.len)).sum();
    if bytes > u64::from(max_inline).min(INLINE_BYTES as u64) {
        return None;
    }
    let mut len = 0;
    for sge in &wr.sges {
        let held = held_by_key(held, sge.lkey)?;
        let region = &held.registration.region;
        if region.is_peer() {
            return None;
        }
        let offset = sge.addr.checked_sub(held.memory.base)?;
        let to = into.get_mut(len..len + sge.len as usize)?;
        region.view().read(usize::try_from(offset).ok()?, to).ok()?;
        len += to.len();
    }
    Some(len)
}
