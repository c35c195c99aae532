//! What the double makes. Each holds what it depends on, as the real ones do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, MutexGuard};

use super::{Armed, Call, Double, Memory, Pair, Queue, State, Step, Wr, bell, numbers};
use crate::verbs::ffi::{
    AsyncEvent, Cq, Cqs, Mr, PostFailure, Qp, QpChange, QpShape, RecvList, SendList, Srq, WcBuffer,
    status,
};

/// An object of the adapter, told and counted when it goes.
struct Object {
    double: Double,
    gone: Call,
}

impl Object {
    fn new(double: &Double, mut state: MutexGuard<'_, State>, made: Call, gone: Call) -> Arc<Self> {
        state.log.push(made);
        state.live += 1;
        Arc::new(Self {
            double: double.clone(),
            gone,
        })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut state = self.double.state();
        state.log.push(self.gone.clone());
        state.live -= 1;
    }
}

pub struct DoubleMr {
    lkey: u32,
    rkey: u32,
    _object: Arc<Object>,
}

impl DoubleMr {
    pub fn new(
        double: &Double,
        mut state: MutexGuard<'_, State>,
        dmabuf: bool,
        made: impl FnOnce(u32) -> Call,
    ) -> Self {
        let lkey = state.number();
        let rkey = lkey | 1 << 31;
        state.memories.push(Memory {
            lkey,
            rkey,
            dmabuf,
            revoked: false,
        });
        Self {
            lkey,
            rkey,
            _object: Object::new(double, state, made(lkey), Call::Deregister(lkey)),
        }
    }
}

impl Mr for DoubleMr {
    fn lkey(&self) -> u32 {
        self.lkey
    }

    fn rkey(&self) -> u32 {
        self.rkey
    }
}

pub struct DoubleCq {
    at: usize,
    entries: u32,
    channel: Arc<OwnedFd>,
    object: Arc<Object>,
}

impl DoubleCq {
    pub fn new(double: &Double, mut state: MutexGuard<'_, State>, entries: u32) -> Self {
        let channel = Arc::new(bell());
        let at = state.queues.len();
        state.queues.push(Queue {
            wcs: Default::default(),
            armed: Armed::No,
            channel: Arc::clone(&channel),
            before_arm: None,
        });
        Self {
            at,
            entries,
            channel,
            object: Object::new(double, state, Call::CreateCq(entries), Call::DestroyCq),
        }
    }
}

impl Cq for DoubleCq {
    fn entries(&self) -> u32 {
        self.entries
    }

    fn poll(&self, into: &mut WcBuffer) -> io::Result<()> {
        let mut state = self.object.double.enter(Step::Poll)?;
        into.clear();
        while let Some(wc) = state.queues[self.at].wcs.front() {
            if !into.push(*wc) {
                return Ok(());
            }
            state.queues[self.at].wcs.pop_front();
        }
        Ok(())
    }

    fn arm(&self, solicited_only: bool) -> io::Result<()> {
        let mut state = self.object.double.enter(Step::Arm)?;
        let queue = &mut state.queues[self.at];
        if let Some(wc) = queue.before_arm.take() {
            queue.push(wc, false);
        }
        let wanted = match solicited_only {
            true => Armed::Solicited,
            false => Armed::All,
        };
        // The wider request counts.
        queue.armed = queue.armed.max(wanted);
        Ok(())
    }

    fn take_event(&self) -> io::Result<bool> {
        Ok(rustix::io::read(&self.channel, &mut [0; 8]).is_ok())
    }

    fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

pub struct DoubleSrq {
    id: u64,
    object: Arc<Object>,
}

impl DoubleSrq {
    pub fn new(double: &Double, mut state: MutexGuard<'_, State>, wrs: u32) -> Self {
        Self {
            id: state.number().into(),
            object: Object::new(double, state, Call::CreateSrq(wrs), Call::DestroySrq),
        }
    }
}

fn failed(error: &io::Error, posted: usize) -> PostFailure {
    PostFailure {
        posted,
        errno: error.raw_os_error().unwrap(),
    }
}

impl Srq for DoubleSrq {
    fn post(&self, list: &mut RecvList) -> Result<(), PostFailure> {
        let entered = self.object.double.enter(Step::PostRecv);
        let mut state = entered.map_err(|error| failed(&error, 0))?;
        state.log.push(Call::PostRecv(numbers(list)));
        state.received.extend(numbers(list));
        list.clear();
        Ok(())
    }

    fn set_limit(&self, limit: u32) -> io::Result<()> {
        let mut state = self.object.double.enter(Step::SrqLimit)?;
        state.log.push(Call::SrqLimit(self.id, limit));
        Ok(())
    }

    fn id(&self) -> u64 {
        self.id
    }
}

pub struct DoubleQp {
    number: u32,
    max_inline: u32,
    object: Option<Arc<Object>>,
    _cqs: [Arc<Object>; 2],
    _srq: Arc<Object>,
    double: Double,
}

impl DoubleQp {
    pub fn new(
        double: &Double,
        mut state: MutexGuard<'_, State>,
        cqs: Cqs<'_, DoubleCq>,
        srq: &DoubleSrq,
        shape: QpShape,
    ) -> Self {
        let number = state.number();
        let pair = Pair {
            send_cq: cqs.sends.at,
            recv_cq: cqs.receives.at,
            failed: false,
            outstanding: Default::default(),
        };
        state.pairs.insert(number, pair);
        let max_inline = shape.inline.min(state.max_inline);
        let made = Call::CreateQp(number, shape);
        Self {
            number,
            max_inline,
            object: Some(Object::new(double, state, made, Call::DestroyQp(number))),
            _cqs: [cqs.sends, cqs.receives].map(|cq| Arc::clone(&cq.object)),
            _srq: Arc::clone(&srq.object),
            double: double.clone(),
        }
    }
}

impl Drop for DoubleQp {
    fn drop(&mut self) {
        self.object = None;
        let mut state = self.double.state();
        state.pairs.remove(&self.number);
        // As mlx5 does: what it left in the completion queue is gone with it.
        for queue in &mut state.queues {
            queue.wcs.retain(|wc| wc.qp != self.number);
        }
    }
}

impl Qp for DoubleQp {
    fn number(&self) -> u32 {
        self.number
    }

    fn max_inline(&self) -> u32 {
        self.max_inline
    }

    fn modify(&self, change: &QpChange) -> io::Result<()> {
        let step = match change {
            QpChange::Init { .. } => Step::Init,
            QpChange::Rtr(_) => Step::Rtr,
            QpChange::Rts(_) => Step::Rts,
            QpChange::Error => Step::Error,
        };
        let mut state = self.double.enter(step)?;
        state.log.push(Call::Modify(self.number, *change));
        if *change == QpChange::Error {
            state.pairs.get_mut(&self.number).unwrap().failed = true;
            state.flush(self.number);
            let says = state.says_last_wqe;
            drop(state);
            if says {
                self.double.event(AsyncEvent::LastWqe(self.number));
            }
        }
        Ok(())
    }

    fn post(&self, list: &mut SendList) -> Result<(), PostFailure> {
        let wrs: Vec<Wr> = list
            .iter()
            .map(|wr| Wr {
                wr_id: wr.wr_id,
                opcode: wr.opcode,
                flags: wr.flags,
                pieces: wr.pieces.to_vec(),
                inline: wr.inline.map(<[u8]>::to_vec),
            })
            .collect();
        list.clear();
        // The first half is taken when this fails.
        let entered = self.double.enter(Step::PostSend);
        let (taken, failure) = match &entered {
            Ok(_) => (wrs.len(), None),
            Err(error) => (wrs.len() / 2, Some(failed(error, wrs.len() / 2))),
        };
        drop(entered);
        let mut state = self.double.state();
        state.log.push(Call::PostSend(self.number, wrs.clone()));
        for wr in wrs.into_iter().take(taken) {
            let outcome = state.outcome(&wr);
            let at_once = state.at_once;
            let pair = state.pairs.get_mut(&self.number).unwrap();
            pair.outstanding.push_back(wr);
            if pair.failed {
                state.flush(self.number);
            } else if at_once || outcome != status::SUCCESS {
                state.complete(self.number, outcome);
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
