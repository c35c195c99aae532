//! Shadow doorbells (Doorbell Buffer Config, clause 5.8; the annex on updating
//! doorbells by a shadow doorbell buffer).
//!
//! The host writes tails and heads of I/O queues to one page, and rings a real
//! doorbell only when it passes the value in a second page, in which the
//! controller says how far it will look by itself. The model looks at the page
//! when it is stepped, or for a queue when a doorbell of that queue is rung, goes
//! on looking until there is nothing to do, and says before it sleeps that it
//! wants to be woken. The admin queue stays with its real doorbells.

use std::sync::atomic::{Ordering, fence};

use super::dma::lost;
use super::queues::CompletionQueue;
use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{Sqe, Status};

/// Times that something new may be found in one go. A page that never stays the
/// same is of a host that has gone mad: it lies over queues or data.
const LOOKS_MAX: u32 = 4096;

/// Where the pages are.
#[derive(Clone, Copy)]
pub(super) struct Shadows {
    doorbells: u64,
    /// EventIdx.
    events: u64,
    /// The only queue that is looked at in this run.
    only: Option<u16>,
    /// Times that something new was found in this run.
    looks: u32,
}

impl State {
    pub(super) fn doorbell_buffer_config(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (doorbells, events) = (sqe.dptr.prp1(), sqe.dptr.prp2());
        if !self.options.shadow_doorbells {
            return Err(Status::INVALID_OPCODE.with_dnr(true));
        }
        if [doorbells, events]
            .iter()
            .any(|at| !at.is_multiple_of(4096))
        {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        // Queues that are there already go on from where they are.
        for (index, value) in self.doorbell_values() {
            for page in [doorbells, events] {
                self.store(page, index, value)?;
            }
        }
        self.shadows = Some(Shadows {
            doorbells,
            events,
            only: None,
            looks: 0,
        });
        Ok(())
    }

    /// Doorbells of I/O queues by their numbers, and what is known of each.
    fn doorbell_values(&self) -> Vec<(u64, u32)> {
        let only = self.shadows.and_then(|shadows| shadows.only);
        let wanted = |qid: u16| qid != 0 && only.is_none_or(|only| only == qid);
        let index = |qid: u16, head: u64| wanted(qid).then_some(2 * u64::from(qid) + head);
        let tails = self.sqs.iter().map(|(qid, sq)| (index(*qid, 0), sq.tail));
        let heads = self.cqs.iter().map(|(qid, cq)| (index(*qid, 1), cq.head));
        let all = tails.chain(heads);
        all.filter_map(|(index, value)| Some((index?, value)))
            .collect()
    }

    /// A run begins, for one queue or for all.
    pub(super) fn wake(&mut self, only: Option<u16>) -> Result<(), Status> {
        if let Some(shadows) = &mut self.shadows {
            shadows.only = only;
            shadows.looks = 0;
        }
        self.look().map(|_| ())
    }

    /// Looks at the shadows; whether there was something new.
    fn look(&mut self) -> Result<bool, Status> {
        let Some(shadows) = self.shadows.filter(|_| self.is_running()) else {
            return Ok(false);
        };
        let mut any = false;
        for (index, known) in self.doorbell_values() {
            let value = self.load(shadows.doorbells, index)?;
            any |= value != known && self.set_doorbell(index as u32, value);
        }
        if let Some(shadows) = self.shadows.as_mut().filter(|_| any) {
            shadows.looks += 1;
            if shadows.looks > LOOKS_MAX {
                return Err(Status::INTERNAL_ERROR);
            }
        }
        Ok(any)
    }

    /// There is nothing to do: says from where on it is to be woken, and looks
    /// once more, since the host may not have seen that.
    pub(super) fn sleep(&mut self) -> Result<bool, Status> {
        let Some(shadows) = self.shadows else {
            return Ok(false);
        };
        for (index, known) in self.doorbell_values() {
            // Heads are wanted only where a full queue waits for them.
            let qid = (index / 2) as u16;
            let full = || self.cqs.get(&qid).is_some_and(CompletionQueue::is_full);
            if index % 2 == 0 || full() {
                self.store(shadows.events, index, known)?;
            }
        }
        fence(Ordering::SeqCst);
        self.look()
    }

    fn load(&mut self, page: u64, index: u64) -> Result<u32, Status> {
        let (view, offset) =
            self.dma
                .access(page + 4 * index, 4, Direction::FromMemory, Purpose::Queue)?;
        view.load_u32(offset, Ordering::Acquire).map_err(lost)
    }

    fn store(&mut self, page: u64, index: u64, value: u32) -> Result<(), Status> {
        let (view, offset) =
            self.dma
                .access(page + 4 * index, 4, Direction::ToMemory, Purpose::Queue)?;
        view.store_u32(offset, value, Ordering::Release)
            .map_err(lost)
    }
}
