//! The session core: queues of controllers, fed with commands and data as the
//! input says, after connections that were in order.
//!
//! Promised, whatever hosts send: a command is answered once at most and with
//! its own identifier, no more is outstanding than was taken, and when all
//! connections are gone, no controller is left.

use std::time::{Duration, Instant};

use sidelane::session::{CloseReason, Completion, IoOp, QueueSession, Step, dsm_ranges};
use sidelane_nvme::spec::{CNTLID_DYNAMIC, DISCOVERY_NQN, Fuse, Psdt, SQE_LEN, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::input::Input;
use crate::served::{SUBNQN, Served, command, connect, namespace};

/// A queue and what the reactor would know of it.
struct Line {
    session: QueueSession,
    /// Commands that the backend has.
    running: Vec<u16>,
}

impl Line {
    /// Gives a command to the session and does what it says.
    fn send(&mut self, sqe: &Sqe, len: u32, data: &[u8], now: Instant) -> Option<CloseReason> {
        let cid = sqe.cid();
        let mut step = self.session.command(sqe, Ok(len), now);
        if let Step::Fetch { len: fetch } = step {
            assert!(fetch <= len);
            let mut fetched = data.to_vec();
            fetched.resize(fetch as usize, 0);
            step = self.session.data(sqe, &fetched, now);
            if let Step::Io(request) = &step
                && let IoOp::Deallocate { ranges } = request.op
            {
                assert!(dsm_ranges(&fetched).count() <= usize::from(ranges));
            }
        }
        match step {
            Step::Io(request) => {
                assert!(request.cid == cid && !self.running.contains(&cid));
                let moved = match request.op {
                    IoOp::Read | IoOp::Write => len,
                    _ => 0,
                };
                assert_eq!(request.bytes, moved, "{request:?}");
                assert!(moved == 0 || request.slba + u64::from(request.blocks) <= 4096);
                self.running.push(cid);
            }
            Step::Reply { data, completion } => {
                assert_eq!(data.len(), len as usize);
                self.complete(cid, completion);
            }
            Step::Complete(completion) => self.complete(cid, completion),
            Step::CompleteAndClose(completion, reason) => {
                self.complete(cid, completion);
                return Some(reason);
            }
            Step::Held => {}
            Step::Close(reason) => return Some(reason),
            Step::Fetch { .. } => unreachable!("a command fetches once"),
        }
        self.poll();
        None
    }

    fn complete(&mut self, cid: u16, completion: Completion) {
        let cqe = self.session.completed(cid, completion);
        assert_eq!((cqe.cid.get(), cqe.status()), (cid, completion.status));
    }

    fn poll(&mut self) {
        while let Some(cid) = self.session.poll_abort() {
            match self.running.iter().position(|running| *running == cid) {
                Some(at) => {
                    self.running.swap_remove(at);
                    self.complete(cid, Completion::of(Status::ABORT_REQUESTED));
                }
                None => self.session.not_aborted(cid),
            }
        }
        while let Some(_forgotten) = self.session.poll_forgotten() {}
        while let Some((cid, completion)) = self.session.poll_async() {
            self.complete(cid, completion);
        }
    }

    fn close(&mut self, served: &Served) {
        self.session.closed();
        *self = Self::of(served.open());
    }

    fn of(session: QueueSession) -> Self {
        Self {
            session,
            running: Vec::new(),
        }
    }
}

/// An SQE from the input: wild, or with fields that are likely to mean something.
fn sqe(input: &mut Input<'_>) -> (Sqe, u32) {
    let shape = input.u8();
    if shape & 1 == 0 {
        let mut sqe = Sqe::read_from_bytes(&input.array::<SQE_LEN>()).expect("any bytes do");
        if shape & 2 == 0 {
            sqe.cdw0 = sqe.cdw0.with_psdt(Psdt::Sgl).with_fuse(Fuse::Normal);
        }
        return (sqe, input.u32());
    }
    let mut sqe = command(input.u8(), u32::from(input.u8() % 6));
    sqe.cdw0.set_cid(u16::from(input.u8() % 32));
    let small = |input: &mut Input<'_>| match shape & 2 {
        0 => u32::from(input.u8()),
        _ => input.u32(),
    };
    for dword in [
        &mut sqe.cdw10,
        &mut sqe.cdw11,
        &mut sqe.cdw12,
        &mut sqe.cdw13,
        &mut sqe.cdw14,
        &mut sqe.cdw15,
    ] {
        dword.set(small(input));
    }
    let len = match shape >> 2 & 3 {
        0 => 0,
        1 => 4096,
        // What a read or write of so many blocks moves.
        2 => (sqe.cdw12.get() & 0xffff).saturating_add(1) * 512,
        _ => u32::from(input.u16()),
    };
    (sqe, len)
}

/// A sequence of commands to four queues and of what else happens to them.
pub fn session(bytes: &[u8]) {
    let mut input = Input(bytes);
    let served = Served::new();
    let (admin, io) = served.io_queue();
    let discovery = served.connected(0, DISCOVERY_NQN, CNTLID_DYNAMIC);
    let mut lines = [admin, io, discovery, served.open()].map(Line::of);
    let mut now = served.start;
    while !input.is_empty() {
        let action = input.u8();
        let line = &mut lines[usize::from(action & 3)];
        let ended = match action >> 2 & 15 {
            0..=10 => {
                let (sqe, len) = sqe(&mut input);
                let size = usize::from(input.u8()) * 4;
                line.send(&sqe, len, input.bytes(size), now)
            }
            11 => {
                let (qid, cntlid) = (u16::from(input.u8() % 4), u16::from(input.u8() % 4));
                let nqn = [SUBNQN, DISCOVERY_NQN][input.pick(2)];
                let cntlid = if qid == 0 { CNTLID_DYNAMIC } else { cntlid };
                let (command, data) = connect(qid, nqn, cntlid);
                line.send(&command, 1024, data.as_bytes(), now)
            }
            12 => {
                for cid in std::mem::take(&mut line.running) {
                    line.complete(cid, Completion::OK);
                }
                None
            }
            13 => {
                now += Duration::from_millis(input.u16().into());
                line.session.tick(now)
            }
            14 => {
                let mut changed = namespace(1, 512, false);
                changed.blocks = 4096 - u64::from(input.u8());
                let set = served.subsystem.set_namespaces(vec![changed]);
                set.expect("a valid namespace");
                line.poll();
                None
            }
            _ => Some(CloseReason::Closed),
        };
        if ended.is_some() {
            line.close(&served);
        }
        // Whoever was woken, and the admin queue for what has ended elsewhere.
        for line in lines.iter_mut().rev() {
            line.poll();
        }
        let line = &lines[usize::from(action & 3)];
        let outstanding = line.session.queue().outstanding();
        assert!(outstanding as usize >= line.running.len());
        assert!(outstanding <= line.session.queue().entries());
    }
    drop(lines);
    assert!(served.subsystem.controllers().is_empty());
    assert!(served.target.discovery().controllers().is_empty());
}
