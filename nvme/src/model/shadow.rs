//! Shadow doorbells (Doorbell Buffer Config, clause 5.8; the annex on updating
//! doorbells by a shadow doorbell buffer).
//!
//! The host writes tails and heads of I/O queues to one page, and rings a real
//! doorbell only when it passes the value in a second page, in which the
//! controller says how far it will look by itself. The model looks at the page
//! when it is stepped or any doorbell is rung, goes on looking until there is
//! nothing to do, and says before it sleeps that it wants to be woken. The admin
//! queue stays with its real doorbells.

use std::sync::atomic::{Ordering, fence};

use super::dma::lost;
use super::queues::CompletionQueue;
use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{Sqe, Status};

/// Where the pages are.
#[derive(Clone, Copy)]
pub(super) struct Shadows {
    doorbells: u64,
    /// EventIdx.
    events: u64,
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
        self.shadows = Some(Shadows { doorbells, events });
        Ok(())
    }

    /// Doorbells of I/O queues by their numbers, and what is known of each.
    fn doorbell_values(&self) -> Vec<(u64, u32)> {
        let tails = self
            .sqs
            .iter()
            .map(|(qid, sq)| (2 * u64::from(*qid), sq.tail));
        let heads = self
            .cqs
            .iter()
            .map(|(qid, cq)| (2 * u64::from(*qid) + 1, cq.head));
        tails
            .chain(heads)
            .filter(|(index, _)| *index >= 2)
            .collect()
    }

    /// Looks at the shadows; whether there was something new.
    pub(super) fn look(&mut self) -> Result<bool, Status> {
        let Some(shadows) = self.shadows.filter(|_| self.is_running()) else {
            return Ok(false);
        };
        let mut any = false;
        for (index, known) in self.doorbell_values() {
            let value = self.load(shadows.doorbells, index)?;
            any |= value != known && self.set_doorbell(index as u32, value);
        }
        Ok(any)
    }

    /// The controller was stepped or rung.
    pub(super) fn wake(&mut self) -> Result<(), Status> {
        self.look().map(|_| ())
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
