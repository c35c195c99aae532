//! One round of either direction, over all slots at once. What is done is taken
//! in batches as the reactor takes it: one flush and one doorbell a batch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sidelane_nvme::Backing;
use sidelane_nvme::spec::Status;

use super::junk;
use super::report::FirstStale;
use super::rig::{Area, Rig, Told};
use super::wire::{End, Trouble};

/// What rounds have shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) transfers: u64,
    pub(super) stale: u64,
    pub(super) first: Option<FirstStale>,
    /// Without what comes before and after: from the first copy or command to
    /// the last that ended.
    pub(super) elapsed: Duration,
}

impl Count {
    fn add(&mut self, fresh: bool, round: u64, slot: usize, lba: u64) {
        self.transfers += 1;
        if !fresh {
            self.stale += 1;
            self.first.get_or_insert(FirstStale { round, slot, lba });
        }
    }
}

impl<B: Backing> Rig<'_, B> {
    /// Finds out what the blocks contain.
    pub(super) fn learn(&mut self) -> Result<(), Trouble> {
        self.tell_all(Told::Learn, |_, _, status| expect_success(status))?;
        for slot in 0..self.slots.len() {
            let view = self.view(Area::Content, slot)?;
            if let Some(slot) = self.slots.get_mut(slot) {
                view.read(0, &mut slot.content).map_err(defect)?;
            }
        }
        Ok(())
    }

    /// Has the adapter fill all buffers with junk, and waits until it is surely
    /// there.
    pub(super) fn place_junk(&mut self, round: u64) -> Result<(), Trouble> {
        let mut bytes = vec![0; self.len];
        for (at, slot) in self.slots.iter().enumerate() {
            junk::fill(round, at, &slot.content, &mut bytes);
            for area in [Area::Junk, Area::Landing] {
                self.view(area, at)?.write(0, &bytes).map_err(defect)?;
            }
        }
        let mut patience = Patience::new(self.patience);
        let (mut next, mut ends, mut copied) = (0, Vec::new(), 0);
        while copied < self.slots.len() {
            next = self.copy_on(Area::Junk, next)?;
            self.wire.poll(&mut ends)?;
            copied += patience.heed(ends.drain(..).count())?;
        }
        while !self.wire.flush(self.buffer_sge(self.slots.len() - 1))? {
            self.wire.poll(&mut ends)?;
            patience.heed(0)?;
        }
        while ends.is_empty() {
            self.wire.poll(&mut ends)?;
            patience.heed(ends.len())?;
        }
        Ok(())
    }

    /// Shows that stale data would be seen at all: compared with junk, all
    /// blocks differ.
    pub(super) fn junk_is_seen(&mut self) -> Result<(), Trouble> {
        self.place_junk(u64::MAX)?;
        self.tell_all(Told::Compare, |_, lba, status| match compared(status)? {
            false => Ok(()),
            true => Err(Trouble::Failed(format!(
                "the SSD finds LBA {lba} equal to memory that holds something else: its Compare \
                 does not compare, or what the adapter places does not arrive even with a flush"
            ))),
        })
    }

    /// `nic-to-ssd`: data is copied over the junk, and the SSD is told to compare
    /// as soon as that is said to be done.
    pub(super) fn write_round(
        &mut self,
        round: u64,
        flush: bool,
        count: &mut Count,
    ) -> Result<(), Trouble> {
        self.place_junk(round)?;
        let since = Instant::now();
        let mut patience = Patience::new(self.patience);
        let mut flushing: VecDeque<Vec<usize>> = VecDeque::new();
        let (mut next, mut ended) = (0, 0);
        let (mut ends, mut placed, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        while ended < self.slots.len() {
            next = self.copy_on(Area::Content, next)?;
            self.wire.poll(&mut ends)?;
            patience.heed(ends.len())?;
            for end in ends.drain(..) {
                match end {
                    End::Copy(slot) => placed.push(slot),
                    End::Flush => ready.extend(flushing.pop_front().into_iter().flatten()),
                }
            }
            if !flush {
                ready.append(&mut placed);
            } else if let Some(last) = placed.last()
                && self.wire.flush(self.buffer_sge(*last))?
            {
                flushing.push_back(std::mem::take(&mut placed));
            }
            if !ready.is_empty() {
                for slot in ready.drain(..) {
                    self.tell(Told::Compare, slot)?;
                }
                self.queue.ring();
            }
            let done = self.ended(|slot, lba, status| {
                count.add(compared(status)?, round, slot, lba);
                Ok(())
            })?;
            ended += patience.heed(done)?;
        }
        count.elapsed += since.elapsed();
        Ok(())
    }

    /// `ssd-to-nic`: the SSD reads over the junk, and the adapter copies as soon
    /// as that is said to be done.
    pub(super) fn read_round(&mut self, round: u64, count: &mut Count) -> Result<(), Trouble> {
        self.place_junk(round)?;
        let since = Instant::now();
        let mut patience = Patience::new(self.patience);
        for slot in 0..self.slots.len() {
            self.tell(Told::Read, slot)?;
        }
        self.queue.ring();
        let mut here = VecDeque::new();
        let (mut ends, mut landed) = (Vec::new(), 0);
        while landed < self.slots.len() {
            let done = self.ended(|slot, _, status| {
                here.push_back(slot);
                expect_success(status)
            })?;
            while let Some(&slot) = here.front()
                && self.wire.copy(
                    self.buffer_sge(slot),
                    self.host_sge(Area::Landing, slot),
                    slot,
                )?
            {
                here.pop_front();
            }
            self.wire.poll(&mut ends)?;
            landed += ends.len();
            patience.heed(done + ends.len())?;
            if landed == self.slots.len() {
                count.elapsed += since.elapsed();
            }
            // They stay as they are until all have landed.
            ends.clear();
        }
        let mut found = vec![0; self.len];
        for (at, slot) in self.slots.iter().enumerate() {
            let view = self.view(Area::Landing, at)?;
            view.read(0, &mut found).map_err(defect)?;
            count.add(found == slot.content, round, at, slot.lba);
        }
        Ok(())
    }

    /// Copies from an area to the buffers, from the slot `next` as far as the
    /// adapter takes it. Gives the slot to go on with.
    fn copy_on(&mut self, area: Area, mut next: usize) -> Result<usize, Trouble> {
        while next < self.slots.len()
            && self
                .wire
                .copy(self.host_sge(area, next), self.buffer_sge(next), next)?
        {
            next += 1;
        }
        Ok(next)
    }

    /// Tells the SSD the same of all slots, and waits for the ends.
    fn tell_all(
        &mut self,
        told: Told,
        mut judge: impl FnMut(usize, u64, Status) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        for slot in 0..self.slots.len() {
            self.tell(told, slot)?;
        }
        self.queue.ring();
        let mut patience = Patience::new(self.patience);
        let mut ended = 0;
        while ended < self.slots.len() {
            let done = self.ended(&mut judge)?;
            ended += patience.heed(done)?;
        }
        Ok(())
    }

    /// Takes what the SSD has done, and hands each end to `judge` with its slot
    /// and first block. Gives the number of ends.
    fn ended(
        &mut self,
        mut judge: impl FnMut(usize, u64, Status) -> Result<(), Trouble>,
    ) -> Result<usize, Trouble> {
        let (slots, mut outcome) = (&self.slots, Ok(()));
        let done = self.queue.poll(slots.len(), |end| {
            let slot = end.tag as usize;
            let lba = slots.get(slot).map_or(0, |slot| slot.lba);
            let judged = judge(slot, lba, end.status);
            outcome = std::mem::replace(&mut outcome, Ok(())).and(judged);
        });
        outcome.map(|()| done)
    }
}

fn defect(error: impl std::fmt::Display) -> Trouble {
    Trouble::failed("a defect of the self-test", error)
}

fn expect_success(status: Status) -> Result<(), Trouble> {
    match status.is_success() {
        true => Ok(()),
        false => Err(Trouble::failed("the SSD's Read failed", status)),
    }
}

/// Whether memory and blocks were the same to the SSD.
fn compared(status: Status) -> Result<bool, Trouble> {
    if status.is_success() {
        Ok(true)
    } else if status.same_code(Status::COMPARE_FAILURE) {
        Ok(false)
    } else if status.same_code(Status::INVALID_OPCODE) {
        let reason = "the SSD announces the Compare command and does not know it";
        Err(Trouble::NotTestable(reason.to_owned()))
    } else {
        Err(Trouble::failed("the SSD's Compare failed", status))
    }
}

/// Ends a wait in which nothing happens any more.
struct Patience {
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            since: Instant::now(),
            limit,
        }
    }

    /// So many things have happened; gives their number back.
    fn heed(&mut self, happened: usize) -> Result<usize, Trouble> {
        if happened > 0 {
            self.since = Instant::now();
        } else if self.since.elapsed() > self.limit {
            let limit = self.limit;
            let what = format!("for {limit:?} neither the SSD nor the adapter did anything");
            return Err(Trouble::Failed(what));
        } else {
            // Whoever makes it happen may need this processor.
            std::thread::yield_now();
        }
        Ok(happened)
    }
}
