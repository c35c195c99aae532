//! What a fault does to a command between its fetching and its completion, and
//! what is held back.

use super::dma::Trick;
use super::fault::{Broken, Fault};
use super::queues::Fetched;
use super::state::State;
use crate::spec::{Cqe, Status};

/// Commands and completions that can be held back; more are not.
const HELD_MAX: usize = 4096;

/// What waits for something to happen first.
#[derive(Default)]
pub(super) struct Waiting {
    /// Commands, each with the count of executed commands at which it is due;
    /// none for those that wait to be released.
    commands: Vec<(Option<u64>, Fetched)>,
    /// Completions to be shuffled.
    batch: Vec<(Fetched, Cqe)>,
    /// Completions that had no room, or whose time is the next run: with the
    /// run in which they were made, at earliest the one after it.
    completions: Vec<(u64, Fetched, Cqe)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.completions.is_empty()
    }

    fn is_full(&self) -> bool {
        self.commands.len() + self.batch.len() + self.completions.len() >= HELD_MAX
    }

    /// A command whose time has come.
    pub(super) fn take_due(&mut self, executed: u64) -> Option<Fetched> {
        let due = |(due, _): &(Option<u64>, _)| due.is_some_and(|due| due <= executed);
        let at = self.commands.iter().position(due)?;
        Some(self.commands.remove(at).1)
    }

    /// A command that was held back and is to be given up.
    pub(super) fn abort(&mut self, sqid: u16, cid: u16) -> Option<Fetched> {
        let found = |(_, held): &(_, Fetched)| held.qid == sqid && held.sqe.cid() == cid;
        let at = self.commands.iter().position(found)?;
        Some(self.commands.remove(at).1)
    }

    /// A queue is no more.
    pub(super) fn forget_queue(&mut self, qid: u16) {
        self.commands.retain(|(_, held)| held.qid != qid);
        self.batch.retain(|(held, _)| held.qid != qid);
        self.completions.retain(|(_, held, _)| held.qid != qid);
    }
}

impl State {
    /// Executes a fetched command, as far as a fault lets it.
    pub(super) fn meet(&mut self, command: Fetched) -> Result<(), Status> {
        let qid = command.qid;
        let fault = self.faults.strike(qid, &command.sqe);
        let Some(fault) = fault.filter(|_| !self.waiting.is_full()) else {
            return self.execute_and_post(&command);
        };
        match fault {
            Fault::Drop => drop(self.execute(&command)),
            Fault::Hold => self.waiting.commands.push((None, command)),
            Fault::Delay(n) => {
                let due = self.executed.saturating_add(n.into());
                self.waiting.commands.push((Some(due), command));
            }
            Fault::Reorder { batch, seed } => {
                if let Some(cqe) = self.execute(&command) {
                    self.waiting.batch.push((command, cqe));
                }
                if self.waiting.batch.len() >= batch {
                    self.post_batch(seed)?;
                }
            }
            Fault::Status(status) => self.answer(&command, command.cqe(status))?,
            Fault::WrongCid(flip) => {
                if let Some(mut cqe) = self.execute(&command) {
                    cqe.cid = (cqe.cid.get() ^ flip).into();
                    self.answer(&command, cqe)?;
                }
            }
            Fault::StalePhase => {
                if let Some(cqe) = self.execute(&command) {
                    self.write_stale(command.cqid, cqe)?;
                    self.waiting.completions.push((self.runs, command, cqe));
                }
            }
            Fault::Twice => {
                if let Some(cqe) = self.execute(&command) {
                    self.answer(&command, cqe)?;
                    self.answer(&command, cqe)?;
                }
            }
            Fault::StopQueue => {
                if let Some(sq) = self.sqs.get_mut(&qid) {
                    sq.stopped = true;
                }
            }
            Fault::DmaOutside => self.execute_with(Trick::Outside, &command)?,
            Fault::Corrupt(seed) => self.execute_with(Trick::Flip(seed), &command)?,
            Fault::Break(broken) => self.break_down(broken, false),
            Fault::BreakForGood(broken) => self.break_down(broken, true),
        }
        Ok(())
    }

    fn execute_with(&mut self, trick: Trick, command: &Fetched) -> Result<(), Status> {
        self.dma.trick = Some(trick);
        let cqe = self.execute(command);
        self.dma.trick = None;
        cqe.map_or(Ok(()), |cqe| self.answer(command, cqe))
    }

    pub(super) fn execute_and_post(&mut self, command: &Fetched) -> Result<(), Status> {
        self.execute(command)
            .map_or(Ok(()), |cqe| self.answer(command, cqe))
    }

    /// Posts a completion, or keeps it until there is room.
    pub(super) fn answer(&mut self, command: &Fetched, cqe: Cqe) -> Result<(), Status> {
        match self.has_room(command.cqid) {
            true => self.post(command.cqid, cqe),
            false => {
                self.waiting.completions.push((0, *command, cqe));
                Ok(())
            }
        }
    }

    /// Posts what had to wait, as far as there is room.
    pub(super) fn post_waiting(&mut self) -> Result<(), Status> {
        let run = self.runs;
        let mut at = 0;
        while let Some((made, command, cqe)) = self.waiting.completions.get(at).copied() {
            if made < run && self.has_room(command.cqid) {
                self.waiting.completions.remove(at);
                self.post(command.cqid, cqe)?;
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Another order than the one they came in, if there are two.
    fn post_batch(&mut self, seed: u64) -> Result<(), Status> {
        let mut batch = std::mem::take(&mut self.waiting.batch);
        let mut state = seed;
        for last in (1..batch.len()).rev() {
            // An LCG's upper bits; with `last` itself left out, none stays.
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            batch.swap(last, (state >> 33) as usize % last);
        }
        for (command, cqe) in batch {
            self.answer(&command, cqe)?;
        }
        Ok(())
    }

    /// Lets all go on that was held back, and says how much it was.
    pub(super) fn release(&mut self) -> usize {
        let count = self.waiting.commands.len() + self.waiting.batch.len();
        for (due, _) in &mut self.waiting.commands {
            *due = Some(0);
        }
        if self.is_running() {
            let posted = self.post_batch(0);
            self.heed(posted);
        }
        self.run(usize::MAX);
        count
    }

    pub(super) fn break_down(&mut self, broken: Broken, for_good: bool) {
        self.health.add(broken, for_good);
        match broken {
            Broken::Fatal => self.registers.csts.set_cfs(true),
            Broken::Vanished => self.set_gone(true),
            Broken::Stopped | Broken::NeverReady | Broken::NeverIdle => {}
        }
    }

    /// Whether it has vanished, for memory of both directions.
    pub(super) fn set_gone(&mut self, gone: bool) {
        self.dma.gone = gone;
        self.dma.bus.set_gone(self.dma.address, gone);
    }
}
