//! The admin queue: one command at a time, waited for, and beside it the
//! Asynchronous Event Requests that the controller holds. Control plane only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sidelane_p2p::{DmaSpace, Region};
use zerocopy::{FromBytes, IntoBytes};

use super::DriverError;
use super::data::PAGE;
use super::device::Device;
use super::doorbell::Doorbell;
use super::ring::{Answer, CompletionRing, SubmissionRing};
use super::shadow::ShadowPages;
use crate::Backing;
use crate::spec::{
    AdminOpcode, AsyncEventResult, CQE_LEN, Cns, Csi, DataPtr, GetLogPage, GetLogPageCdw10,
    Identify, LogId, SQE_LEN, Sqe, offset,
};

/// Entries of the admin queues.
pub(super) const ADMIN_ENTRIES: u16 = 32;
/// Looks at the completion queue before the first sleep.
const SPINS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_micros(100);
/// Most Asynchronous Event Requests that the controller is given to hold.
pub(super) const EVENTS_MAX: u16 = 4;
/// Their identifiers have this bit; those of waited-for commands have not.
const EVENT_CID: u16 = 0x8000;

pub(super) struct AdminQueue {
    sq: SubmissionRing,
    cq: CompletionRing,
    /// One page that data comes into.
    buffer: Region,
    next_cid: u16,
    /// A command was not answered: its buffer may yet be written to.
    lost: bool,
    limit: Duration,
    /// Set by who wants a wait to end at once.
    cancel: Arc<AtomicBool>,
    events: Events,
    /// Of the I/O queues, once the controller was told of them. They are here
    /// because they are used as long as this queue is.
    pub(super) shadows: Option<ShadowPages>,
    /// Completions of no outstanding command.
    pub(super) strays: u64,
}

/// Asynchronous Event Requests. As many as the controller may hold are either
/// with it or have become an event that nobody has taken yet.
#[derive(Default)]
struct Events {
    limit: u16,
    /// Bit `n` for the request with identifier [`EVENT_CID`] plus `n`.
    held: u16,
    arrived: VecDeque<AsyncEventResult>,
}

impl AdminQueue {
    pub(super) fn new<B: Backing>(
        device: &Device<B>,
        limit: Duration,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, DriverError> {
        let entries = usize::from(ADMIN_ENTRIES);
        let host = |what: &str, len| host_region(device, what, len);
        let dstrd = device.cap.dstrd();
        let internal = |source| device.internal(source);
        let sq = host("admin submission queue", entries * SQE_LEN)?;
        let cq = host("admin completion queue", entries * CQE_LEN)?;
        let tail = Doorbell::new(offset::sq_tail(0, dstrd), None);
        let head = Doorbell::new(offset::cq_head(0, dstrd), None);
        let sq = SubmissionRing::new(sq, ADMIN_ENTRIES, tail);
        let cq = CompletionRing::new(cq, ADMIN_ENTRIES, head);
        Ok(Self {
            sq: sq.map_err(internal)?,
            cq: cq.map_err(internal)?,
            buffer: host("admin data", PAGE)?,
            next_cid: 0,
            lost: false,
            limit,
            cancel,
            events: Events::default(),
            shadows: None,
            strays: 0,
        })
    }

    /// Makes the queue what it was when it was new, in the same memory; events
    /// that have come stay. To be called only while the controller is disabled.
    pub(super) fn renew(&mut self) {
        self.sq.renew();
        self.cq.renew();
        self.events.held = 0;
        self.lost = false;
    }

    /// Addresses of the submission and the completion queue.
    pub(super) fn addresses(&self) -> (u64, u64) {
        (self.sq.memory().iova(), self.cq.memory().iova())
    }

    /// Sends a command and waits for its answer: dwords 0 and 1 of it.
    pub(super) fn execute<B: Backing>(
        &mut self,
        device: &Device<B>,
        command: &'static str,
        sqe: Sqe,
    ) -> Result<u64, DriverError> {
        self.execute_within(self.limit, device, command, sqe)
    }

    /// The same with another limit, if that is shorter.
    pub(super) fn execute_within<B: Backing>(
        &mut self,
        limit: Duration,
        device: &Device<B>,
        command: &'static str,
        mut sqe: Sqe,
    ) -> Result<u64, DriverError> {
        if self.lost {
            return Err(DriverError::GivenUp {
                device: device.address,
            });
        }
        let cid = self.next_cid;
        self.next_cid = (cid + 1) & !EVENT_CID;
        sqe.cdw0.set_cid(cid);
        self.send(device, &sqe);
        let answer = self.wait(limit.min(self.limit), device, command, cid);
        // Whatever ended the wait, an answer may come yet, and its data.
        let answer = answer.inspect_err(|_| self.lost = true)?;
        match answer.status.is_success() {
            true => Ok(answer.result),
            false => Err(DriverError::Command {
                device: device.address,
                command,
                status: answer.status,
            }),
        }
    }

    fn send<B: Backing>(&mut self, device: &Device<B>, sqe: &Sqe) {
        self.sq.push(sqe);
        self.sq.ring(&*device.backing);
    }

    fn wait<B: Backing>(
        &mut self,
        limit: Duration,
        device: &Device<B>,
        command: &'static str,
        cid: u16,
    ) -> Result<Answer, DriverError> {
        let start = Instant::now();
        let mut looks = 0;
        loop {
            let late = start.elapsed() > limit;
            match self.receive(device) {
                Some(answer) if answer.cid == cid => return Ok(answer),
                // Falls through to the checks: a controller that sends nothing
                // else must not keep the caller here.
                Some(answer) => self.put(device, answer),
                None => {}
            }
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
                continue;
            }
            device.check("while it executed an admin command")?;
            if self.cancel.load(Ordering::Acquire) {
                return Err(DriverError::Halted {
                    device: device.address,
                });
            }
            if late {
                return Err(DriverError::Timeout {
                    device: device.address,
                    doing: command,
                    limit_ms: limit.as_millis(),
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn receive<B: Backing>(&mut self, device: &Device<B>) -> Option<Answer> {
        let answer = self.cq.pop();
        self.cq.ring(&*device.backing);
        answer
    }

    /// Puts a completion that nobody waits for where it belongs.
    fn put<B: Backing>(&mut self, device: &Device<B>, answer: Answer) {
        let device = device.address;
        let events = &mut self.events;
        let bit = 1 << (answer.cid & !EVENT_CID).min(15);
        if answer.cid & EVENT_CID == 0 || events.held & bit == 0 {
            self.strays += 1;
            tracing::warn!(%device, cid = answer.cid, "a stray admin completion");
            return;
        }
        events.held &= !bit;
        if answer.status.is_success() {
            let event = AsyncEventResult::from_raw(answer.result as u32);
            events.arrived.push_back(event);
        } else {
            // It holds fewer than it said, or none; to ask again would not end.
            events.limit = events.limit.saturating_sub(1);
            tracing::debug!(%device, status = %answer.status, "no asynchronous event");
        }
    }

    /// How many events the controller may be asked for from now on.
    pub(super) fn set_event_limit(&mut self, limit: u16) {
        self.events.limit = limit.min(EVENTS_MAX);
    }

    /// Asks for as many events as may be outstanding.
    pub(super) fn ask_for_events<B: Backing>(&mut self, device: &Device<B>) {
        let taken = self.events.arrived.len() as u32;
        for n in 0..EVENTS_MAX {
            let events = &self.events;
            if events.held.count_ones() + taken >= events.limit.into() || self.lost {
                break;
            }
            if events.held & 1 << n == 0 {
                let mut sqe = sqe_of(AdminOpcode::AsyncEventRequest);
                sqe.cdw0.set_cid(EVENT_CID | n);
                self.send(device, &sqe);
                self.events.held |= 1 << n;
            }
        }
    }

    /// Looks for events that have come, without waiting.
    pub(super) fn look_for_events<B: Backing>(&mut self, device: &Device<B>) {
        for _ in 0..ADMIN_ENTRIES {
            match self.receive(device) {
                Some(answer) => self.put(device, answer),
                None => break,
            }
        }
    }

    /// The event that came first and was not yet taken.
    pub(super) fn first_event(&self) -> Option<AsyncEventResult> {
        self.events.arrived.front().copied()
    }

    /// Takes it.
    pub(super) fn take_event(&mut self) {
        self.events.arrived.pop_front();
    }

    /// Sends a command that brings data of at most a page, and gives the data.
    fn fetch<B: Backing, T: FromBytes + IntoBytes>(
        &mut self,
        device: &Device<B>,
        command: &'static str,
        sqe: Sqe,
    ) -> Result<Box<T>, DriverError> {
        const { assert!(size_of::<T>() <= PAGE) };
        let internal = |source| device.internal(source);
        let zeros = [0; PAGE];
        self.buffer.view().write(0, &zeros).map_err(internal)?;
        self.execute(device, command, sqe)?;
        let mut data = zeros;
        self.buffer.view().read(0, &mut data).map_err(internal)?;
        // The array is at least as long as `T`, so the error does not occur.
        let value = T::read_from_prefix(&data).map_or_else(|_| T::new_zeroed(), |(value, _)| value);
        Ok(Box::new(value))
    }

    pub(super) fn identify<B: Backing, T: FromBytes + IntoBytes>(
        &mut self,
        device: &Device<B>,
        command: &'static str,
        cns: Cns,
        nsid: u32,
    ) -> Result<Box<T>, DriverError> {
        let identify = Identify {
            nsid: nsid.into(),
            dptr: DataPtr::from_prp(self.buffer.iova(), 0),
            cns,
            csi: Csi::Nvm,
            ..sqe_of(AdminOpcode::Identify).into()
        };
        self.fetch(device, command, identify.into())
    }

    pub(super) fn log_page<B: Backing, T: FromBytes + IntoBytes>(
        &mut self,
        device: &Device<B>,
        command: &'static str,
        lid: LogId,
        nsid: u32,
    ) -> Result<Box<T>, DriverError> {
        let page = GetLogPage {
            nsid: nsid.into(),
            dptr: DataPtr::from_prp(self.buffer.iova(), 0),
            cdw10: GetLogPageCdw10::new().with_lid(lid),
            ..sqe_of(AdminOpcode::GetLogPage).into()
        };
        let page = page.with_len_dwords(size_of::<T>() as u64 / 4);
        self.fetch(device, command, page.into())
    }
}

/// An entry with this opcode.
pub(super) fn sqe_of(opcode: AdminOpcode) -> Sqe {
    Sqe::new(opcode.0, 0)
}

/// Host memory for the controller's use.
pub(super) fn host_region<B: Backing>(
    device: &Device<B>,
    what: &str,
    len: usize,
) -> Result<Region, DriverError> {
    let space: &dyn DmaSpace = device.backing.space();
    let address = device.address;
    space
        .host_region(&format!("{what} of {address}"), len)
        .map_err(|source| DriverError::Dma {
            device: address,
            source,
        })
}
