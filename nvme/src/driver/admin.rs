//! The admin queue: one command at a time, waited for. Control plane only.

use std::thread;
use std::time::{Duration, Instant};

use sidelane_p2p::{DmaSpace, Region};
use zerocopy::{FromBytes, IntoBytes};

use super::DriverError;
use super::data::PAGE;
use super::device::Device;
use super::ring::{CompletionRing, SubmissionRing};
use crate::Backing;
use crate::spec::{
    CQE_LEN, Cns, Csi, DataPtr, GetLogPage, GetLogPageCdw10, Identify, LogId, SQE_LEN, Sqe, offset,
};

/// Entries of the admin queues.
pub(super) const ADMIN_ENTRIES: u16 = 32;
/// Looks at the completion queue before the first sleep.
const SPINS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_micros(100);

pub(super) struct AdminQueue {
    sq: SubmissionRing,
    cq: CompletionRing,
    /// One page that data comes into.
    buffer: Region,
    next_cid: u16,
    /// A command was not answered: its buffer may yet be written to.
    given_up: bool,
    limit: Duration,
}

impl AdminQueue {
    pub(super) fn new<B: Backing>(
        device: &Device<B>,
        limit: Duration,
    ) -> Result<Self, DriverError> {
        let entries = usize::from(ADMIN_ENTRIES);
        let host = |what: &str, len| host_region(device, what, len);
        let dstrd = device.cap.dstrd();
        let sq = host("admin submission queue", entries * SQE_LEN)?;
        let cq = host("admin completion queue", entries * CQE_LEN)?;
        Ok(Self {
            sq: SubmissionRing::new(sq, ADMIN_ENTRIES, offset::sq_tail(0, dstrd)),
            cq: CompletionRing::new(cq, ADMIN_ENTRIES, offset::cq_head(0, dstrd)),
            buffer: host("admin data", PAGE)?,
            next_cid: 0,
            given_up: false,
            limit,
        })
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
        mut sqe: Sqe,
    ) -> Result<u64, DriverError> {
        let address = device.address;
        if self.given_up {
            return Err(DriverError::GivenUp { device: address });
        }
        let cid = self.next_cid;
        self.next_cid = (cid + 1) & 0x7fff;
        sqe.cdw0.set_cid(cid);
        let internal = |source| DriverError::Internal {
            device: address,
            source,
        };
        self.sq.push(&sqe).map_err(internal)?;
        self.sq.ring(&*device.backing);
        let start = Instant::now();
        let mut looks = 0;
        loop {
            let late = start.elapsed() > self.limit;
            let answer = self.cq.pop();
            self.cq.ring(&*device.backing);
            match answer {
                // Falls through to the checks: a controller that sends nothing
                // else must not keep the caller here.
                Some(answer) if answer.cid != cid => {
                    tracing::warn!(device = %address, cid = answer.cid, "a stray admin completion");
                }
                Some(answer) if answer.status.is_success() => return Ok(answer.result),
                Some(answer) => {
                    let status = answer.status;
                    return Err(DriverError::Command {
                        device: address,
                        command,
                        status,
                    });
                }
                None => {}
            }
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
                continue;
            }
            if let Err(error) = device.check("while it executed an admin command") {
                self.given_up = true;
                return Err(error);
            }
            if late {
                self.given_up = true;
                let limit_ms = self.limit.as_millis();
                return Err(DriverError::Timeout {
                    device: address,
                    doing: command,
                    limit_ms,
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Sends a command that brings data of at most a page, and gives the data.
    fn fetch<B: Backing, T: FromBytes + IntoBytes>(
        &mut self,
        device: &Device<B>,
        command: &'static str,
        sqe: Sqe,
    ) -> Result<Box<T>, DriverError> {
        const { assert!(size_of::<T>() <= PAGE) };
        let internal = |source| DriverError::Internal {
            device: device.address,
            source,
        };
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
            ..sqe_of(crate::spec::AdminOpcode::Identify).into()
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
            ..sqe_of(crate::spec::AdminOpcode::GetLogPage).into()
        };
        let page = page.with_len_dwords(size_of::<T>() as u64 / 4);
        self.fetch(device, command, page.into())
    }
}

/// An entry with this opcode.
pub(super) fn sqe_of(opcode: crate::spec::AdminOpcode) -> Sqe {
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
