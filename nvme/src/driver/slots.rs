//! Command identifiers: the index of a slot, and above it a generation that
//! changes with each use, so that a completion that comes late or twice is not
//! taken for that of another command.

/// What is known of an outstanding command.
#[derive(Clone, Copy)]
struct Slot {
    tag: u64,
    generation: u16,
    busy: bool,
}

/// The commands of one queue.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    index_bits: u32,
}

impl Slots {
    /// Room for `capacity` commands, at most 32,767. All memory is taken here.
    pub(super) fn new(capacity: u16) -> Self {
        let capacity = capacity.clamp(1, 0x7fff);
        let idle = Slot {
            tag: 0,
            generation: 0,
            busy: false,
        };
        Self {
            slots: vec![idle; usize::from(capacity)].into(),
            free: (0..capacity).rev().collect(),
            // An index of all ones stays unused, so no identifier is FFFFh,
            // which in the error log stands for no command.
            index_bits: u32::from(capacity).ilog2() + 1,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot: its index and the identifier for this use of it.
    pub(super) fn take(&mut self, tag: u64) -> Option<(u16, u16)> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.tag = tag;
        slot.busy = true;
        Some((index, index | slot.generation << self.index_bits))
    }

    /// Gives a slot back that was taken for a command which was then not sent.
    pub(super) fn untake(&mut self, index: u16) {
        if let Some(slot) = self
            .slots
            .get_mut(usize::from(index))
            .filter(|slot| slot.busy)
        {
            slot.busy = false;
            self.free.push(index);
        }
    }

    /// Gives a slot back: the tag of the command with this identifier, or `None`
    /// when no such command is outstanding.
    pub(super) fn complete(&mut self, cid: u16) -> Option<u64> {
        let index = cid & ((1 << self.index_bits) - 1);
        let slot = self.slots.get_mut(usize::from(index))?;
        if !slot.busy || index | slot.generation << self.index_bits != cid {
            return None;
        }
        slot.busy = false;
        self.free.push(index);
        Some(slot.tag)
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
