//! Command identifiers: the index of a slot, and above it a generation that
//! changes with each use, so that a completion that comes late or twice is not
//! taken for that of another command.

/// What is known of a command.
#[derive(Clone, Copy)]
struct Slot {
    tag: u64,
    /// When it was taken, in milliseconds; wraps after 49 days.
    since_ms: u32,
    /// The identifier of the command, or of the last one.
    cid: u16,
    /// The next free slot, [`LAST`], or [`BUSY`].
    next: u16,
}

/// Both halves of what tells whether a completion is of a slot's command, so that
/// it is told by one comparison.
#[inline]
fn pair(cid: u16, next: u16) -> u32 {
    u32::from(cid) | u32::from(next) << 16
}

/// Not an index: no slot is free after this one.
const LAST: u16 = 0xffff;
/// Not an index: the slot is not free.
const BUSY: u16 = 0xfffe;

/// An outstanding command that is older than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// What [`IoQueuePair::submit`](super::IoQueuePair::submit) was given.
    pub tag: u64,
    /// The identifier under which the controller knows it.
    pub cid: u16,
    /// How long it has been outstanding, in milliseconds.
    pub age_ms: u64,
}

/// The commands of one queue.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    /// The first free slot, or [`LAST`].
    free: u16,
    outstanding: u16,
    /// The bits of an identifier that are the index; above is the generation.
    index_mask: u16,
    /// What an identifier grows by from one use of its slot to the next.
    generation: u16,
    now_ms: u64,
}

impl Slots {
    /// Room for `capacity` commands, at most 32,767. All memory is taken here.
    pub(super) fn new(capacity: u16) -> Self {
        let capacity = capacity.clamp(1, 0x7fff);
        let idle = |index| Slot {
            tag: 0,
            since_ms: 0,
            cid: index,
            next: if index + 1 < capacity {
                index + 1
            } else {
                LAST
            },
        };
        // An index of all ones stays unused, so no identifier is FFFFh, which in
        // the error log stands for no command.
        let generation = (capacity + 1).next_power_of_two();
        Self {
            slots: (0..capacity).map(idle).collect(),
            free: 0,
            outstanding: 0,
            index_mask: generation - 1,
            generation,
            now_ms: 0,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.into()
    }

    /// The time at which slots are taken from now on. It never goes back.
    pub(super) fn set_clock(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Gives no slot any more.
    pub(super) fn close(&mut self) {
        self.free = LAST;
    }

    /// Takes a slot: its index and the identifier for this use of it.
    #[inline]
    pub(super) fn take(&mut self, tag: u64) -> Option<(u16, u16)> {
        let index = self.free;
        let slot = self.slots.get_mut(usize::from(index))?;
        let cid = slot.cid.wrapping_add(self.generation);
        self.free = slot.next;
        self.outstanding += 1;
        *slot = Slot {
            tag,
            since_ms: self.now_ms as u32,
            cid,
            next: BUSY,
        };
        Some((index, cid))
    }

    /// Gives a slot back: the tag of the command with this identifier, or `None`
    /// when no such command is outstanding. Also for a command that was then not
    /// sent.
    #[inline]
    pub(super) fn complete(&mut self, cid: u16) -> Option<u64> {
        let index = cid & self.index_mask;
        let slot = self.slots.get_mut(usize::from(index))?;
        if pair(slot.cid, slot.next) != pair(cid, BUSY) {
            return None;
        }
        slot.next = self.free;
        self.free = index;
        self.outstanding -= 1;
        Some(slot.tag)
    }

    fn busy(&self) -> impl Iterator<Item = &Slot> {
        // With nothing outstanding there is nothing to look through.
        let looked_through = match self.outstanding {
            0 => 0,
            _ => self.slots.len(),
        };
        let slots = self.slots.iter().take(looked_through);
        slots.filter(|slot| slot.next == BUSY)
    }

    /// Commands that have been outstanding for more than `older_than_ms`.
    pub(super) fn overdue(&self, older_than_ms: u64) -> impl Iterator<Item = Overdue> {
        let now_ms = self.now_ms as u32;
        let overdue = move |slot: &Slot| Overdue {
            tag: slot.tag,
            cid: slot.cid,
            age_ms: now_ms.wrapping_sub(slot.since_ms).into(),
        };
        let commands = self.busy().map(overdue);
        commands.filter(move |command| command.age_ms > older_than_ms)
    }

    /// Identifiers of the outstanding commands with this tag.
    pub(super) fn cids_of(&self, tag: u64) -> impl Iterator<Item = u16> {
        let with_tag = self.busy().filter(move |slot| slot.tag == tag);
        with_tag.map(|slot| slot.cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_completion_that_comes_twice_or_late_is_nobodys() {
        let mut slots = Slots::new(4);
        let (_, first) = slots.take(10).unwrap();
        assert_eq!(slots.complete(first), Some(10));
        assert_eq!(slots.complete(first), None);
        let (_, second) = slots.take(11).unwrap();
        assert_ne!(first, second, "the same slot, another generation");
        assert_eq!(slots.complete(first), None);
        assert_eq!(slots.complete(second), Some(11));
    }

    #[test]
    fn commands_are_overdue_by_the_clock_they_were_taken_at() {
        let mut slots = Slots::new(4);
        // Milliseconds around the one at which 32 bits are not enough.
        let start = u64::from(u32::MAX) - 5;
        slots.set_clock(start);
        let (_, old) = slots.take(10).unwrap();
        slots.set_clock(start + 10);
        let (_, young) = slots.take(11).unwrap();
        slots.set_clock(start + 15);
        slots.set_clock(start);
        let ages = |slots: &Slots, than| -> Vec<_> {
            let overdue = slots.overdue(than);
            overdue.map(|one| (one.tag, one.cid, one.age_ms)).collect()
        };
        assert_eq!(ages(&slots, 4), [(10, old, 15), (11, young, 5)]);
        assert_eq!(ages(&slots, 5), [(10, old, 15)]);
        assert_eq!(ages(&slots, 15), []);
        assert_eq!(ages(&slots, u64::MAX), []);
        slots.complete(old).unwrap();
        assert_eq!(ages(&slots, 0), [(11, young, 5)]);
        slots.complete(young).unwrap();
        assert_eq!(ages(&slots, 0), []);
    }

    #[test]
    fn all_identifiers_of_a_tag_are_found_and_no_others() {
        let mut slots = Slots::new(8);
        let mut take = |tag| slots.take(tag).unwrap().1;
        let (first, other, second) = (take(5), take(6), take(5));
        assert_eq!(slots.cids_of(5).collect::<Vec<_>>(), [first, second]);
        assert_eq!(slots.cids_of(6).collect::<Vec<_>>(), [other]);
        slots.complete(first).unwrap();
        assert_eq!(slots.cids_of(5).collect::<Vec<_>>(), [second]);
        assert_eq!(slots.cids_of(0).next(), None, "idle slots have no tag");
    }

    proptest! {
        #[test]
        fn no_identifier_is_given_twice_at_once_and_none_means_no_command(
            capacity in 1u16..40_000, steps in proptest::collection::vec(any::<u16>(), 0..200),
        ) {
            let mut slots = Slots::new(capacity);
            let mut out = Vec::new();
            for step in steps {
                if step % 3 == 0 && !out.is_empty() {
                    let (tag, cid) = out.swap_remove(usize::from(step) % out.len());
                    prop_assert_eq!(slots.complete(cid), Some(tag));
                } else if let Some((index, cid)) = slots.take(u64::from(step)) {
                    prop_assert!(usize::from(index) < slots.capacity());
                    prop_assert!(cid != 0xffff && out.iter().all(|(_, other)| *other != cid));
                    out.push((u64::from(step), cid));
                } else {
                    prop_assert_eq!(out.len(), slots.capacity());
                }
                prop_assert_eq!(slots.outstanding(), out.len());
            }
        }

        #[test]
        fn any_identifier_of_a_completion_is_looked_up_without_harm(capacity in 1u16..=0x7fff, cid: u16) {
            let mut slots = Slots::new(capacity);
            prop_assert_eq!(slots.complete(cid), None);
        }
    }
}
