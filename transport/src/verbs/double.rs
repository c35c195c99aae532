//! Stands for rdma-core in tests: an adapter in the manner of mlx5, which takes
//! dma-bufs, keeps what it is told in order, and does as a script says: refuses
//! at a step, completes work as wished or not at all, stalls, breaks, loses its
//! link, or loses another device's memory.
#![allow(clippy::unwrap_used)]

pub(super) mod fixture;
mod objects;
mod queue;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use sidelane_p2p::{DmaBuf, MemView, PciAddress};

use super::ffi::{
    AsyncEvent, Cqs, Device, GidEntry, GidType, Limits, LinkLayer, MrAccess, Port, QpChange,
    QpShape, RecvList, SendFlags, SendOpcode, Unopened, Verbs, Wc, status,
};
use crate::nic::Sge;

pub(super) use objects::{DoubleCq, DoubleMr, DoubleQp, DoubleSrq};
pub(super) use queue::Message;
use queue::{Armed, Queue, wc};

/// A call that can be told to fail or to stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Open,
    Limits,
    Port,
    Gids,
    RegisterHost,
    RegisterDmabuf,
    CreateCq,
    CreateSrq,
    CreateQp,
    Init,
    Rtr,
    Rts,
    Error,
    PostSend,
    PostRecv,
    Poll,
    Arm,
    SrqLimit,
}

/// A work request as it was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wr {
    pub wr_id: u64,
    pub opcode: SendOpcode,
    pub flags: SendFlags,
    pub pieces: Vec<Sge>,
    pub inline: Option<Vec<u8>>,
}

/// What was done to the adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    RegisterHost {
        lkey: u32,
        base: u64,
        len: u64,
        access: MrAccess,
    },
    RegisterDmabuf {
        lkey: u32,
        offset: u64,
        len: u64,
        iova: u64,
        access: MrAccess,
    },
    Deregister(u32),
    CreateCq(u32),
    DestroyCq,
    CreateSrq(u32),
    /// The queue, and the limit.
    SrqLimit(u64, u32),
    DestroySrq,
    CreateQp(u32, QpShape),
    Modify(u32, QpChange),
    DestroyQp(u32),
    PostSend(u32, Vec<Wr>),
    PostRecv(Vec<u64>),
    Close,
}

/// A registration.
struct Memory {
    lkey: u32,
    rkey: u32,
    dmabuf: bool,
    revoked: bool,
}

/// A queue pair.
struct Pair {
    send_cq: usize,
    recv_cq: usize,
    failed: bool,
    outstanding: VecDeque<Wr>,
}

pub(super) struct State {
    pub log: Vec<Call>,
    pub limits: Limits,
    pub port: Port,
    pub gids: Vec<GidEntry>,
    /// Whether work is completed as soon as it is posted.
    pub at_once: bool,
    /// Whether a queue pair that is brought down gives its work back.
    pub flushes: bool,
    /// Whether it says when it has taken its last receive.
    pub says_last_wqe: bool,
    /// Bytes taken inline.
    pub max_inline: u32,
    /// What driver and hardware have counted.
    pub counters: Vec<(String, u64)>,
    /// Objects that exist.
    pub live: usize,
    failures: HashMap<Step, VecDeque<i32>>,
    stalled: Option<Step>,
    /// Calls that wait for the end of a stall.
    pub waiting: usize,
    next: u32,
    memories: Vec<Memory>,
    pairs: HashMap<u32, Pair>,
    queues: Vec<Queue>,
    received: VecDeque<u64>,
    events: VecDeque<AsyncEvent>,
    removed: bool,
}

/// The adapter; clones are the same one.
#[derive(Clone)]
pub(super) struct Double(Arc<World>);

struct World {
    state: Mutex<State>,
    changed: Condvar,
    bell: OwnedFd,
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

pub(super) fn ring(fd: impl AsFd) {
    let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Double {
    pub fn new() -> Self {
        let gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let state = State {
            log: Vec::new(),
            limits: Limits {
                ports: 1,
                iwarp: false,
                send_invalidate: true,
                max_mr: 1 << 20,
                max_qp: 1 << 10,
                max_qp_wr: 1 << 12,
                max_sge: 30,
                max_sge_rd: 30,
                max_cq: 1 << 10,
                max_cqe: 1 << 20,
                max_srq: 1 << 10,
                max_srq_wr: 1 << 12,
                max_qp_rd_atom: 16,
                max_qp_init_rd_atom: 16,
            },
            port: Port {
                active: true,
                link: LinkLayer::Ethernet,
                lid: 0,
                mtu: 4096,
                max_message: 1 << 30,
            },
            gids: vec![GidEntry {
                index: 3,
                gid,
                kind: GidType::RoceV2,
            }],
            at_once: true,
            flushes: true,
            says_last_wqe: true,
            max_inline: 64,
            counters: Vec::new(),
            live: 0,
            failures: HashMap::new(),
            stalled: None,
            waiting: 0,
            next: 16,
            memories: Vec::new(),
            pairs: HashMap::new(),
            queues: Vec::new(),
            received: VecDeque::new(),
            events: VecDeque::new(),
            removed: false,
        };
        Self(Arc::new(World {
            state: Mutex::new(state),
            changed: Condvar::new(),
            bell: bell(),
        }))
    }

    /// A test that fails while it looks must still be able to drop things.
    pub fn state(&self) -> MutexGuard<'_, State> {
        let locked = self.0.state.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// The next calls of this step answer so, one after the other; 0 is success.
    pub fn answers(&self, step: Step, errnos: &[i32]) {
        self.state()
            .failures
            .insert(step, errnos.iter().copied().collect());
    }

    /// Calls of this step do not return until [`Double::resume`].
    pub fn stall(&self, step: Step) {
        self.state().stalled = Some(step);
    }

    pub fn resume(&self) {
        self.state().stalled = None;
        self.0.changed.notify_all();
    }

    /// What every call does first.
    fn enter(&self, step: Step) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        while state.stalled == Some(step) {
            state.waiting += 1;
            state = self.0.changed.wait(state).unwrap();
            state.waiting -= 1;
        }
        let answers = state.failures.get_mut(&step);
        match answers.and_then(VecDeque::pop_front) {
            None | Some(0) => Ok(state),
            Some(errno) => Err(os(errno)),
        }
    }

    /// Something happens to the device by itself.
    pub fn event(&self, event: AsyncEvent) {
        self.state().events.push_back(event);
        ring(&self.0.bell);
    }

    /// The device is pulled.
    pub fn remove(&self) {
        self.state().removed = true;
        ring(&self.0.bell);
    }

    /// Memory of other devices is taken back.
    pub fn revoke(&self) {
        for memory in &mut self.state().memories {
            memory.revoked |= memory.dmabuf;
        }
    }

    /// The oldest work of a queue pair ends so. Failure takes the queue pair down.
    pub fn complete(&self, qp: u32, status: u32) {
        self.state().complete(qp, status);
    }

    /// A message arrives by a queue pair.
    pub fn receive(&self, qp: u32, len: u32, invalidated: Option<u32>) {
        self.arrive(
            qp,
            Message {
                len,
                invalidated,
                ..Message::default()
            },
        );
    }

    /// The same, of any kind.
    pub fn arrive(&self, qp: u32, message: Message) {
        let mut state = self.state();
        let wr_id = state.received.pop_front().unwrap();
        let cq = state.pairs[&qp].recv_cq;
        let wc = Wc {
            invalidated: message.invalidated,
            imm: message.imm,
            wrote: message.wrote,
            ..wc(qp, wr_id, status::SUCCESS, message.len)
        };
        state.queues[cq].push(wc, message.solicited);
    }

    /// A message arrives after events were drained and before the queue of that
    /// queue pair is armed.
    pub fn receive_before_arm(&self, qp: u32, len: u32) {
        let mut state = self.state();
        let wr_id = state.received.pop_front().unwrap();
        let cq = state.pairs[&qp].recv_cq;
        state.queues[cq].before_arm = Some(wc(qp, wr_id, status::SUCCESS, len));
    }

    /// A completion that stands for nothing.
    pub fn stray(&self, qp: u32, wr_id: u64) {
        let mut state = self.state();
        state.queues[0].push(wc(qp, wr_id, status::SUCCESS, 0), false);
    }

    /// Lists posted to a queue pair, in order.
    pub fn posts(&self, qp: u32) -> Vec<Vec<Wr>> {
        let state = self.state();
        let posts = state.log.iter().filter_map(|call| match call {
            Call::PostSend(number, wrs) if *number == qp => Some(wrs.clone()),
            _ => None,
        });
        posts.collect()
    }
}

impl State {
    fn give(&mut self, qp: u32, wr_id: u64, status: u32) {
        let cq = self.pairs[&qp].send_cq;
        self.queues[cq].push(wc(qp, wr_id, status, 0), false);
    }

    fn complete(&mut self, qp: u32, status: u32) {
        let Some(wr) = self.pairs.get_mut(&qp).unwrap().outstanding.pop_front() else {
            return;
        };
        if wr.flags.signaled || status != status::SUCCESS {
            self.give(qp, wr.wr_id, status);
        }
        if status != status::SUCCESS {
            self.pairs.get_mut(&qp).unwrap().failed = true;
            self.flush(qp);
        }
    }

    fn flush(&mut self, qp: u32) {
        while self.flushes {
            let Some(wr) = self.pairs.get_mut(&qp).unwrap().outstanding.pop_front() else {
                return;
            };
            self.give(qp, wr.wr_id, status::FLUSHED);
        }
    }

    /// How a work request ends by itself.
    fn outcome(&self, wr: &Wr) -> u32 {
        let gone = |key: u32, remote: bool| {
            let mut memories = self.memories.iter();
            memories.any(|m| m.revoked && key == if remote { m.rkey } else { m.lkey })
        };
        let local = wr.pieces.iter().any(|piece| gone(piece.lkey, false));
        match wr.opcode {
            _ if local => status::LOCAL_PROTECTION,
            SendOpcode::Read(remote) if gone(remote.rkey, true) => status::REMOTE_OPERATION,
            _ => status::SUCCESS,
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

impl Verbs for Double {
    type Device = DoubleDevice;

    fn open(&self, name: &str) -> Result<DoubleDevice, Unopened> {
        let what = "ibv_open_device";
        let entered = self.enter(Step::Open);
        let mut state = entered.map_err(|error| Unopened::Refused { what, error })?;
        if name != "mlx5_0" {
            let available = vec!["mlx5_0".to_owned()];
            return Err(Unopened::NotFound { available });
        }
        state.log.push(Call::Open);
        state.live += 1;
        Ok(DoubleDevice(self.clone()))
    }
}

pub(super) struct DoubleDevice(Double);

impl Drop for DoubleDevice {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.log.push(Call::Close);
        state.live -= 1;
    }
}

impl Device for DoubleDevice {
    type Mr = DoubleMr;
    type Cq = DoubleCq;
    type Srq = DoubleSrq;
    type Qp = DoubleQp;

    fn limits(&self) -> io::Result<Limits> {
        Ok(self.0.enter(Step::Limits)?.limits)
    }

    fn port(&self, _port: u8) -> io::Result<Port> {
        Ok(self.0.enter(Step::Port)?.port)
    }

    fn gids(&self, _port: u8) -> io::Result<Vec<GidEntry>> {
        Ok(self.0.enter(Step::Gids)?.gids.clone())
    }

    fn pci(&self) -> Option<PciAddress> {
        "0000:17:00.0".parse().ok()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        self.0.state().counters.clone()
    }

    fn register_host(&self, view: &MemView, access: MrAccess) -> io::Result<DoubleMr> {
        let state = self.0.enter(Step::RegisterHost)?;
        let (base, len) = (view.as_ptr() as u64, view.len() as u64);
        Ok(DoubleMr::new(&self.0, state, false, |lkey| {
            Call::RegisterHost {
                lkey,
                base,
                len,
                access,
            }
        }))
    }

    fn register_dmabuf(
        &self,
        buffer: &DmaBuf,
        iova: u64,
        access: MrAccess,
    ) -> io::Result<DoubleMr> {
        let state = self.0.enter(Step::RegisterDmabuf)?;
        let (offset, len) = (buffer.offset, buffer.len);
        Ok(DoubleMr::new(&self.0, state, true, |lkey| {
            Call::RegisterDmabuf {
                lkey,
                offset,
                len,
                iova,
                access,
            }
        }))
    }

    fn create_cq(&self, entries: u32) -> io::Result<DoubleCq> {
        let state = self.0.enter(Step::CreateCq)?;
        Ok(DoubleCq::new(&self.0, state, entries))
    }

    fn create_srq(&self, wrs: u32) -> io::Result<DoubleSrq> {
        let state = self.0.enter(Step::CreateSrq)?;
        Ok(DoubleSrq::new(&self.0, state, wrs))
    }

    fn create_qp(
        &self,
        cqs: Cqs<'_, DoubleCq>,
        srq: &DoubleSrq,
        shape: QpShape,
    ) -> io::Result<DoubleQp> {
        let state = self.0.enter(Step::CreateQp)?;
        Ok(DoubleQp::new(&self.0, state, cqs, srq, shape))
    }

    fn wait_event(&self, stop: BorrowedFd<'_>) -> io::Result<Option<AsyncEvent>> {
        loop {
            let bell = &self.0.0.bell;
            let _ = rustix::io::read(bell, &mut [0; 8]);
            let mut state = self.0.state();
            if let Some(event) = state.events.pop_front() {
                return Ok(Some(event));
            }
            if state.removed {
                return Err(os(libc::EIO));
            }
            drop(state);
            let mut fds = [
                PollFd::new(bell, PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            rustix::event::poll(&mut fds, None)?;
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
        }
    }
}

/// The numbers of a list of receives.
fn numbers(list: &RecvList) -> Vec<u64> {
    list.iter().map(|(wr_id, _)| wr_id).collect()
}
