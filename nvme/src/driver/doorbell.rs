//! Doorbells, and their shadows in host memory (Doorbell Buffer Config, clause
//! 5.8; annex B.5 on updating doorbells by a shadow doorbell buffer).
//!
//! A register write is a bus transaction, and in a virtual machine an exit. A
//! controller that offers shadows looks at a page in memory instead, for as long
//! as it is awake, and says in a second page up to which value it looks by
//! itself (EventIdx): only a move that passes that value has to ring.
//!
//! Each side writes its own word and then reads the other's. If the two could
//! pass each other, the driver would see a controller that is still awake, and
//! the controller a queue that is still empty, and the command would lie there
//! for ever. So between write and read each side has a full fence; a release
//! store and an acquire load are not enough, since a processor lets a load go
//! before an older store. The store of the shadow is a release, so that a
//! controller which sees the new tail sees the entries before it as well.
//!
//! What the controller writes is not trusted: a wrong EventIdx costs it a
//! doorbell that it needed, or gets it one that it did not need.

use std::sync::atomic::{Ordering, fence};

use sidelane_p2p::{MemView, Region};

use super::shadow::ShadowPages;
use crate::Backing;
use crate::spec::offset;

/// Tells the controller how far a ring has moved.
pub(super) struct Doorbell {
    /// Of the register.
    offset: u32,
    shadow: Option<Shadow>,
    /// Writes of the register.
    pub(super) rung: u64,
    /// Moves of which the controller learns by the shadow alone.
    pub(super) spared: u64,
}

impl Doorbell {
    /// The doorbell at `offset` of the registers.
    pub(super) fn new(offset: u32, shadow: Option<Shadow>) -> Self {
        Self {
            offset,
            shadow,
            rung: 0,
            spared: 0,
        }
    }

    /// The ring has moved from `old`, of which the controller was told, to `new`.
    #[inline]
    pub(super) fn ring<B: Backing>(&mut self, backing: &B, old: u16, new: u16) {
        if let Some(shadow) = &self.shadow
            && !publish(shadow, old, new)
        {
            self.spared += 1;
            return;
        }
        self.rung += 1;
        backing.write32(self.offset, new.into());
    }
}

/// What the two sides share of one doorbell.
trait Cells {
    /// Stores the driver's value, after everything that it has written before.
    fn store_shadow(&self, value: u16);
    /// Nothing after it happens before what is before it.
    fn fence(&self);
    /// The controller's value.
    fn load_event(&self) -> u16;
}

/// Writes the shadow; whether the doorbell must be rung besides.
#[inline]
fn publish(cells: &impl Cells, old: u16, new: u16) -> bool {
    cells.store_shadow(new);
    cells.fence();
    is_wanted(cells.load_event(), old, new)
}

/// Whether the move from `old` to `new` passes `event`: whether that is one of
/// `old`, ..., `new - 1`. Differences are taken modulo 2^16, which is right for
/// a ring of any size, as its indices are smaller and a move that wraps takes
/// in all that lie above them.
#[inline]
fn is_wanted(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The words of one doorbell in the two pages.
pub(super) struct Shadow {
    value: MemView,
    event: MemView,
}

impl Shadow {
    /// That of the doorbell at `offset` of the registers, for a queue that is new;
    /// to be made before the controller knows the queue. `None` where the pages
    /// end.
    pub(super) fn new(pages: &ShadowPages, offset: u32) -> Option<Self> {
        let at = offset.checked_sub(offset::DOORBELLS)? as usize;
        let word = |page: &Region| {
            let word = page.view().slice(at..at.checked_add(4)?).ok()?;
            word.store_u32(0, 0, Ordering::Relaxed).ok()?;
            Some(word)
        };
        Some(Self {
            value: word(&pages.doorbells)?,
            event: word(&pages.event_indexes)?,
        })
    }
}

impl Cells for Shadow {
    #[inline]
    fn store_shadow(&self, value: u16) {
        // The view is of one aligned word: there is no error.
        let _ = self.value.store_u32(0, value.into(), Ordering::Release);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn load_event(&self) -> u16 {
        // More than 16 bits are of no index.
        self.event.load_u32(0, Ordering::Acquire).unwrap_or(0) as u16
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_doorbell_is_wanted_when_the_event_index_is_passed(
            entries in 2u16.., places: [u16; 2], moved: u16, stray: u16,
        ) {
            let [old, event] = places.map(|place| place % entries);
            // A ring never moves all the way round at once.
            let moved = u32::from(moved % entries);
            let new = ((u32::from(old) + moved) % u32::from(entries)) as u16;
            let ahead = (u32::from(event) + u32::from(entries) - u32::from(old)) % u32::from(entries);
            prop_assert_eq!(is_wanted(event, old, new), ahead < moved);
            // Whatever the controller writes gets an answer.
            is_wanted(stray, old, new);
        }
    }

    /// What the driver does with the cells, in order.
    #[derive(Default)]
    struct Recorder(RefCell<Vec<Step>>);

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Store,
        Fence,
        Load,
    }

    impl Cells for Recorder {
        fn store_shadow(&self, _value: u16) {
            self.0.borrow_mut().push(Step::Store);
        }

        fn fence(&self) {
            self.0.borrow_mut().push(Step::Fence);
        }

        fn load_event(&self) -> u16 {
            self.0.borrow_mut().push(Step::Load);
            0
        }
    }

    /// A processor whose stores wait in a buffer until they are seen by others,
    /// as they do on x86; `mine` is where it stores, 1 once it has.
    #[derive(Clone, Default)]
    struct Side {
        at: usize,
        buffered: bool,
        visible: bool,
        /// What it found in the other's word.
        found: Option<bool>,
    }

    /// Whether in some order of all steps both sides find the other's word as it
    /// was before: the driver does not ring, and the controller sleeps.
    fn can_be_lost(sides: [Side; 2], programs: [&[Step]; 2]) -> bool {
        if let [Some(driver), Some(controller)] = [sides[0].found, sides[1].found] {
            return !driver && !controller;
        }
        (0..2).any(|who| {
            let other = sides[1 - who].visible;
            let mut drained = sides.clone();
            drained[who].visible |= drained[who].buffered;
            drained[who].buffered = false;
            if sides[who].buffered && can_be_lost(drained, programs) {
                return true;
            }
            let mut next = sides.clone();
            let side = &mut next[who];
            match programs[who].get(side.at) {
                Some(Step::Store) => side.buffered = true,
                // Waits until its stores are seen.
                Some(Step::Fence) if side.buffered => return false,
                Some(Step::Fence) => {}
                Some(Step::Load) => side.found = Some(other),
                None => return false,
            }
            side.at += 1;
            can_be_lost(next, programs)
        })
    }

    #[test]
    fn no_command_is_lost_between_the_shadow_and_a_controller_that_goes_to_sleep() {
        let recorder = Recorder::default();
        publish(&recorder, 0, 1);
        let driver = recorder.0.into_inner();
        let controller = [Step::Store, Step::Fence, Step::Load];
        let lost = |driver: &[Step], controller: &[Step]| {
            can_be_lost(Default::default(), [driver, controller])
        };
        assert!(!lost(&driver, &controller));
        // And the model of the processors would show it.
        let bare = [Step::Store, Step::Load];
        assert!(lost(&bare, &controller) && lost(&driver, &bare));
        assert!(lost(&[Step::Load, Step::Store], &controller));
    }
}
