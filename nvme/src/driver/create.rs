//! Making and deleting I/O queue pairs (clauses 5.4, 5.5, 5.6 and 5.7 of the
//! PCIe Transport's admin commands).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sidelane_p2p::Region;

use super::admin::{host_region, sqe_of};
use super::blocks::BlockSizes;
use super::data::ListPages;
use super::doorbell::{Doorbell, Shadow};
use super::ring::{CompletionRing, SubmissionRing};
use super::slots::Slots;
use super::writer::CommandWriter;
use super::{Controller, DriverError, Inner, IoQueuePair, lock};
use crate::Backing;
use crate::spec::{
    AdminOpcode, CQE_LEN, CreateCqFlags, CreateIoCq, CreateIoSq, CreateSqFlags, DeleteIoQueue,
    QueueIdSize, SQE_LEN, Sqe, offset,
};

const CREATE_CQ: &str = "Create I/O Completion Queue";
const CREATE_SQ: &str = "Create I/O Submission Queue";

impl<B: Backing> Controller<B> {
    /// Makes a queue pair with room for `depth - 1` outstanding commands.
    /// `depth` is brought into what driver and controller allow: see
    /// [`IoQueuePair::capacity`].
    ///
    /// # Errors
    /// When none is left, memory runs out, the controller refuses or is halted.
    pub fn create_io_queue_pair(&self, depth: u16) -> Result<IoQueuePair<B>, DriverError> {
        let inner = &self.inner;
        let epoch = inner.running()?;
        let known = inner.known();
        let qid = lock(&inner.free_qids).pop();
        let qid = qid.ok_or(DriverError::NoQueueLeft {
            device: inner.device.address,
            limit: known.queue_limit,
        })?;
        let life = Life { epoch, qid };
        let device = &inner.device;
        let most = device.cap.mqes_z().saturating_add(1).min(0x8000);
        let entries = depth.min(most).max(2);
        let vector = Some(usize::from(qid)).filter(|vector| *vector < inner.vectors.len());
        let slots = Slots::new(entries - 1);
        let host = |what: &str, len| host_region(device, &format!("{what} {qid}"), len);
        let dstrd = device.cap.dstrd();
        let internal = |source| device.internal(source);
        let memory = || -> Result<_, DriverError> {
            let sq = host("submission queue", usize::from(entries) * SQE_LEN)?;
            let cq = host("completion queue", usize::from(entries) * CQE_LEN)?;
            let lists = host("lists of queue", ListPages::bytes_for(slots.capacity()))?;
            let doorbell = |offset| {
                let pages = known.shadows.as_ref();
                Doorbell::new(offset, pages.and_then(|pages| Shadow::new(pages, offset)))
            };
            let tail = doorbell(offset::sq_tail(qid, dstrd));
            let head = doorbell(offset::cq_head(qid, dstrd));
            Ok((
                SubmissionRing::new(sq, entries, tail).map_err(internal)?,
                CompletionRing::new(cq, entries, head).map_err(internal)?,
                ListPages::new(lists).map_err(internal)?,
            ))
        };
        let (sq, cq, lists) = memory().inspect_err(|_| inner.give_back(life))?;
        inner.create_queues(life, entries, vector, [sq.memory(), cq.memory()])?;
        let blocks = BlockSizes::of(&known.namespaces.usable);
        let writer = CommandWriter::new(sq, slots, lists, blocks)
            .with_limits(known.transfer_max(), known.sgl);
        Ok(IoQueuePair {
            inner: Arc::clone(inner),
            life,
            writer,
            cq,
            vector,
            answered: 0,
            stale: 0,
            deleted: false,
        })
    }
}

/// A queue pair as the controller knows it, as long as it does.
#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) qid: u16,
    /// In which it was made: see [`Inner::is_alive`].
    pub(super) epoch: u32,
}

impl<B: Backing> Inner<B> {
    /// Executes a command about a queue pair that is alive.
    fn admin(&self, life: Life, command: &'static str, sqe: Sqe) -> Result<(), DriverError> {
        let mut admin = lock(&self.admin);
        match self.is_alive(life.epoch) {
            true => admin.execute(&self.device, command, sqe).map(|_| ()),
            false => Err(self.halted()),
        }
    }

    /// Creates the queues of a pair. On failure, memory is kept that the
    /// controller may yet use, and so is the identifier.
    fn create_queues(
        &self,
        life: Life,
        entries: u16,
        vector: Option<usize>,
        [sq, cq]: [&Region; 2],
    ) -> Result<(), DriverError> {
        let queue = QueueIdSize::new()
            .with_qid(life.qid)
            .with_qsize_z(entries - 1);
        let flags = CreateCqFlags::new().with_pc(true);
        let create_cq = CreateIoCq {
            prp1: cq.iova().into(),
            queue,
            flags: match vector {
                Some(vector) => flags.with_ien(true).with_iv(vector as u16),
                None => flags,
            },
            ..sqe_of(AdminOpcode::CreateIoCq).into()
        };
        let create_sq = CreateIoSq {
            prp1: sq.iova().into(),
            queue,
            flags: CreateSqFlags::new().with_pc(true).with_cqid(life.qid),
            ..sqe_of(AdminOpcode::CreateIoSq).into()
        };
        let (made, unmade) = match self.admin(life, CREATE_CQ, create_cq.into()) {
            Ok(()) => {
                let made = self.admin(life, CREATE_SQ, create_sq.into());
                let unmade = match &made {
                    Err(DriverError::Command { .. }) => {
                        self.delete(AdminOpcode::DeleteIoCq, life).is_ok()
                    }
                    _ => false,
                };
                (made, unmade)
            }
            // What was refused does not exist; what was not answered may.
            refused @ Err(DriverError::Command { .. }) => (refused, true),
            failed => (failed, false),
        };
        match (&made, unmade) {
            (Ok(()), _) => {}
            (Err(_), true) => self.give_back(life),
            (Err(_), false) => self.keep(life.epoch, [sq.clone(), cq.clone()]),
        }
        made
    }

    fn delete(&self, opcode: AdminOpcode, life: Life) -> Result<(), DriverError> {
        let delete = DeleteIoQueue {
            qid: life.qid.into(),
            ..sqe_of(opcode).into()
        };
        let command = match opcode {
            AdminOpcode::DeleteIoSq => "Delete I/O Submission Queue",
            _ => "Delete I/O Completion Queue",
        };
        self.admin(life, command, delete.into())
    }

    /// Deletes a queue pair. Its memory is kept if the controller may still use
    /// it. One that is dead is no more at the controller, or will not be soon.
    pub(super) fn delete_queues(&self, life: Life, memory: [Region; 3]) -> Result<(), DriverError> {
        let deleted = self
            .delete(AdminOpcode::DeleteIoSq, life)
            .and_then(|()| self.delete(AdminOpcode::DeleteIoCq, life));
        match deleted {
            Ok(()) => {
                self.give_back(life);
                Ok(())
            }
            Err(error) => {
                self.keep(life.epoch, memory);
                match error {
                    DriverError::Halted { .. } => Ok(()),
                    error => {
                        self.cut_off();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Ends all queue pairs of a controller that does not let go of one: whoever
    /// gives up a queue pair gives its data to others next. A restart gets it
    /// back.
    fn cut_off(&self) {
        self.epoch.fetch_or(1, Ordering::AcqRel);
        if let Err(error) = self.device.backing.set_dma(false) {
            // One that is gone reaches no memory either.
            tracing::warn!(%error, "a controller that keeps a queue could not be kept from memory");
        }
    }

    /// Gives an identifier back that the controller has no queue for.
    fn give_back(&self, life: Life) {
        let mut free = lock(&self.free_qids);
        // After a restart they are all free anew.
        if self.is_alive(life.epoch) {
            free.push(life.qid);
        }
    }
}
