//! A queue of an association as the host sees it: its connection, and the table
//! of commands that are outstanding (Base 3.3.2, RDMA 3).
//!
//! The table has as many places as the submission queue can hold commands. A
//! place is free again only when the response has come **and** the adapter has
//! given the capsule back: until then the capsule might be sent once more.

use std::time::{Duration, Instant};

use sidelane_nvme::spec::Cqe;
use sidelane_transport::cm::ConnId;
use sidelane_transport::nic::QpNumber;

use super::HostError;

/// Bits of a CID that hold the place; the rest is a generation, so that a
/// response to a command of yesterday is noticed.
const PLACE_BITS: u32 = 10;

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody waits for it.
    Waited,
    /// The keep-alive timer sent it.
    KeepAlive,
    /// The caller's read, write or flush, under the caller's number.
    Io(u64),
}

/// A command that has been answered and whose capsule is back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    pub place: u16,
    pub purpose: Purpose,
    pub cqe: Cqe,
    pub elapsed: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    generation: u16,
    busy: Option<Command>,
}

#[derive(Debug, Clone, Copy)]
struct Command {
    purpose: Purpose,
    started: Instant,
    capsule_back: bool,
    answer: Option<(Cqe, Duration)>,
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub qid: u16,
    pub qp: QpNumber,
    pub conn: ConnId,
    /// Entries of the submission queue.
    pub entries: u16,
    /// Whether the target has ended the connection.
    pub ended: bool,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Queue {
    /// A queue whose submission queue has `entries` entries: one fewer commands
    /// can be outstanding, lest a full ring look like an empty one (Base 3.3.1.2).
    pub fn new(qid: u16, qp: QpNumber, conn: ConnId, entries: u16) -> Self {
        let places = entries.saturating_sub(1).clamp(1, 1 << PLACE_BITS);
        let slot = Slot {
            generation: 0,
            busy: None,
        };
        Self {
            qid,
            qp,
            conn,
            entries,
            ended: false,
            slots: vec![slot; usize::from(places)],
            free: (0..places).rev().collect(),
        }
    }

    /// Allows no more than `commands` to be outstanding.
    pub fn limit(&mut self, commands: u16) {
        let places = usize::from(commands.max(1)).min(self.slots.len());
        self.slots.truncate(places);
        self.free.retain(|place| usize::from(*place) < places);
    }

    /// Most commands that can be outstanding.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// Commands outstanding.
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a place for a command: the place and its CID.
    pub fn take(&mut self, purpose: Purpose, now: Instant) -> Option<(u16, u16)> {
        let place = self.free.pop()?;
        let slot = &mut self.slots[usize::from(place)];
        slot.generation = (slot.generation + 1) % (1 << (u16::BITS - PLACE_BITS));
        slot.busy = Some(Command {
            purpose,
            started: now,
            capsule_back: false,
            answer: None,
        });
        Some((place, slot.generation << PLACE_BITS | place))
    }

    /// Gives a place back whose command was never sent, or is done with.
    pub fn give_back(&mut self, place: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(place))
            && slot.busy.take().is_some()
        {
            self.free.push(place);
        }
    }

    /// The adapter has given the capsule of a command back.
    pub fn capsule_back(&mut self, wr_id: u64) -> Option<Finished> {
        let place = (wr_id & ((1 << PLACE_BITS) - 1)) as u16;
        let slot = self.slots.get_mut(usize::from(place))?;
        let command = slot.busy.as_mut()?;
        if u64::from(slot.generation << PLACE_BITS | place) != wr_id {
            return None;
        }
        command.capsule_back = true;
        finished(place, command)
    }

    /// A response has come.
    pub fn answer(&mut self, cqe: &Cqe, now: Instant) -> Result<Option<Finished>, HostError> {
        let qid = self.qid;
        let cid = cqe.cid.get();
        let place = cid & ((1 << PLACE_BITS) - 1);
        let slot = self.slots.get_mut(usize::from(place));
        let slot = slot.filter(|slot| slot.generation << PLACE_BITS | place == cid);
        let Some(command) = slot.and_then(|slot| slot.busy.as_mut()) else {
            let what = format!("a response to no command (CID {cid:#06x})");
            return Err(HostError::protocol(qid, what));
        };
        if command.answer.is_some() {
            let what = format!("a second response to one command (CID {cid:#06x})");
            return Err(HostError::protocol(qid, what));
        }
        let sqhd = cqe.sqhd.get();
        if sqhd >= self.entries {
            let what = format!(
                "a queue head of {sqhd} in a queue of {} entries",
                self.entries
            );
            return Err(HostError::protocol(qid, what));
        }
        command.answer = Some((*cqe, now.saturating_duration_since(command.started)));
        Ok(finished(place, command))
    }

    /// When the oldest unanswered command was sent that nobody waits for: who
    /// waits has a limit of their own.
    pub fn oldest(&self) -> Option<Instant> {
        let busy = self.slots.iter().filter_map(|slot| slot.busy.as_ref());
        let unheeded = busy.filter(|it| it.answer.is_none() && it.purpose != Purpose::Waited);
        unheeded.map(|command| command.started).min()
    }
}

fn finished(place: u16, command: &Command) -> Option<Finished> {
    let (cqe, elapsed) = command.answer.filter(|_| command.capsule_back)?;
    Some(Finished {
        place,
        purpose: command.purpose,
        cqe,
        elapsed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_nvme::spec::Status;

    fn queue(entries: u16) -> Queue {
        Queue::new(1, QpNumber(9), ConnId(1), entries)
    }

    #[test]
    fn a_queue_of_four_entries_takes_three_commands_and_another_when_one_is_done() {
        let mut queue = queue(4);
        let now = Instant::now();
        let cids: Vec<_> = (0..3)
            .map(|n| queue.take(Purpose::Io(n), now).unwrap())
            .collect();
        assert!(queue.take(Purpose::Io(3), now).is_none());
        let (place, cid) = cids[1];
        assert!(
            queue.capsule_back(u64::from(cid)).is_none(),
            "not yet answered"
        );
        let done = queue
            .answer(&Cqe::new(cid, Status::SUCCESS), now)
            .unwrap()
            .unwrap();
        assert_eq!((done.place, done.purpose), (place, Purpose::Io(1)));
        queue.give_back(place);
        let (again, fresh) = queue.take(Purpose::Io(4), now).unwrap();
        assert_eq!(again, place);
        assert_ne!(
            fresh, cid,
            "a command identifier is not used twice in a row"
        );
    }

    #[test]
    fn a_place_is_not_free_before_the_adapter_gave_the_capsule_back() {
        let mut queue = queue(2);
        let now = Instant::now();
        let (_, cid) = queue.take(Purpose::Waited, now).unwrap();
        assert!(
            queue
                .answer(&Cqe::new(cid, Status::SUCCESS), now)
                .unwrap()
                .is_none()
        );
        assert_eq!(queue.outstanding(), 1);
        assert!(queue.capsule_back(u64::from(cid)).is_some());
    }

    #[test]
    fn a_response_to_no_command_a_second_one_and_a_head_outside_the_queue_are_refused() {
        let mut queue = queue(8);
        let now = Instant::now();
        let stray = Cqe::new(3, Status::SUCCESS);
        assert!(
            queue
                .answer(&stray, now)
                .unwrap_err()
                .to_string()
                .contains("no command")
        );
        let (_, cid) = queue.take(Purpose::Waited, now).unwrap();
        let mut cqe = Cqe::new(cid, Status::SUCCESS);
        cqe.sqhd.set(8);
        assert!(
            queue
                .answer(&cqe, now)
                .unwrap_err()
                .to_string()
                .contains("queue head")
        );
        cqe.sqhd.set(7);
        assert!(queue.answer(&cqe, now).unwrap().is_none());
        assert!(
            queue
                .answer(&cqe, now)
                .unwrap_err()
                .to_string()
                .contains("second")
        );
        queue.capsule_back(u64::from(cid));
        queue.give_back(0);
        assert!(queue.answer(&cqe, now).is_err(), "of yesterday");
    }
}
