//! Memory keys: which memory a key names, and who may do what with it.
//!
//! InfiniBand Architecture, volume 1, 10.6. A key is an index and a generation,
//! so that a key of an ended registration is refused even after its place has
//! been given to another. Every access is checked anew, key, bounds and rights:
//! nothing else stands between a packet and memory.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use sidelane_p2p::{MemView, Region};

use crate::nic::{Access, MAX_SGE, MemoryRegion, Sge};

/// The most registrations at one time.
pub const MAX_REGISTRATIONS: usize = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 12;
const MAX_GENERATION: u32 = (1 << (32 - INDEX_BITS)) - 1;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// The own side sends from it.
    LocalRead,
    /// The own side receives into it.
    LocalWrite,
    /// The peer reads it.
    RemoteRead,
    /// The peer writes it.
    RemoteWrite,
}

/// A key that names nothing, or an access outside its bounds or rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory key does not allow this access")]
pub struct KeyError;

/// A checked piece of registered memory.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    view: &'a MemView,
    offset: usize,
    len: usize,
}

impl Piece<'_> {
    /// Copies the piece out; `into` must be as long.
    pub fn read(&self, into: &mut [u8]) {
        // Resolving has checked the range, and views do not shrink.
        let done = self.view.read(self.offset, into);
        debug_assert!(done.is_ok());
    }

    /// Copies into the piece; `from` must be as long.
    pub fn write(&self, from: &[u8]) {
        let done = self.view.write(self.offset, from);
        debug_assert!(done.is_ok());
    }
}

/// Pieces of one packet's payload, in order.
#[derive(Debug, Default)]
pub struct Pieces<'a>(ArrayVec<Piece<'a>, MAX_SGE>);

impl Pieces<'_> {
    /// Fills `into` from the pieces.
    pub fn read(&self, mut into: &mut [u8]) {
        for piece in &self.0 {
            let (head, rest) = into.split_at_mut(piece.len.min(into.len()));
            piece.read(head);
            into = rest;
        }
    }

    /// Spreads `from` over the pieces.
    pub fn write(&self, mut from: &[u8]) {
        for piece in &self.0 {
            let (head, rest) = from.split_at(piece.len.min(from.len()));
            piece.write(head);
            from = rest;
        }
    }
}

/// The table of registrations.
#[derive(Debug)]
pub struct Keys {
    slots: Vec<Slot>,
    free: VecDeque<usize>,
    limit: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    region: Region,
    access: Access,
}

impl Keys {
    /// An empty table for at most `limit` registrations.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: VecDeque::new(),
            limit: limit.min(MAX_REGISTRATIONS),
        }
    }

    /// Registrations the table takes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Registers a region, or gives nothing when the table is full.
    pub fn register(&mut self, region: &Region, access: Access) -> Option<MemoryRegion> {
        // A place is used again as late as can be, and a generation later still.
        let index = if self.slots.len() < self.limit {
            self.slots.push(Slot {
                generation: 1,
                held: None,
            });
            self.slots.len() - 1
        } else {
            self.free.pop_front()?
        };
        let slot = self.slots.get_mut(index)?;
        slot.held = Some(Held {
            region: region.clone(),
            access,
        });
        let key = slot.generation << INDEX_BITS | index as u32;
        Some(MemoryRegion {
            region: region.id(),
            lkey: key,
            rkey: key,
            base: region.iova(),
            len: region.len() as u64,
        })
    }

    /// Ends a registration. Unknown and stale keys are ignored.
    pub fn deregister(&mut self, key: u32) {
        let Some(slot) = self.slot_mut(key) else {
            return;
        };
        slot.held = None;
        slot.generation = if slot.generation == MAX_GENERATION {
            1
        } else {
            slot.generation + 1
        };
        self.free.push_back(index(key));
    }

    /// Takes the peer's rights away, as a peer's SEND with invalidate asks. The
    /// own side may go on using the memory.
    ///
    /// # Errors
    /// When the key names nothing, or nothing that was ever given to a peer: a
    /// peer must not be able to take away what others use.
    pub fn invalidate(&mut self, key: u32) -> Result<(), KeyError> {
        let held = self
            .slot_mut(key)
            .and_then(|slot| slot.held.as_mut())
            .ok_or(KeyError)?;
        if !held.access.remote_read && !held.access.remote_write {
            return Err(KeyError);
        }
        held.access.remote_read = false;
        held.access.remote_write = false;
        Ok(())
    }

    /// Checks an access and gives the memory.
    ///
    /// # Errors
    /// When the key, the bounds or the rights do not allow it.
    pub fn resolve(
        &self,
        key: u32,
        addr: u64,
        len: usize,
        right: Right,
    ) -> Result<Piece<'_>, KeyError> {
        let slot = self.slots.get(index(key)).ok_or(KeyError)?;
        if slot.generation != key >> INDEX_BITS {
            return Err(KeyError);
        }
        let held = slot.held.as_ref().ok_or(KeyError)?;
        let allowed = match right {
            Right::LocalRead => true,
            Right::LocalWrite => held.access.local_write,
            Right::RemoteRead => held.access.remote_read,
            Right::RemoteWrite => held.access.remote_write,
        };
        let offset = addr.checked_sub(held.region.iova()).ok_or(KeyError)?;
        let offset = usize::try_from(offset).map_err(|_| KeyError)?;
        let end = offset.checked_add(len).ok_or(KeyError)?;
        if !allowed || end > held.region.len() {
            return Err(KeyError);
        }
        Ok(Piece {
            view: held.region.view(),
            offset,
            len,
        })
    }

    /// Checks all pieces of a work request.
    ///
    /// # Errors
    /// As for [`Keys::resolve`].
    pub fn check(&self, sges: &[Sge], right: Right) -> Result<(), KeyError> {
        for sge in sges.iter().filter(|sge| sge.len > 0) {
            self.resolve(sge.lkey, sge.addr, sge.len as usize, right)?;
        }
        Ok(())
    }

    /// The memory of `len` bytes from `offset` on in a list of pieces.
    ///
    /// # Errors
    /// As for [`Keys::resolve`], and when the list is shorter.
    pub fn range(
        &self,
        sges: &[Sge],
        offset: usize,
        len: usize,
        right: Right,
    ) -> Result<Pieces<'_>, KeyError> {
        let mut pieces = Pieces::default();
        let (mut skip, mut left) = (offset, len);
        for sge in sges {
            if left == 0 {
                break;
            }
            let sge_len = sge.len as usize;
            if skip >= sge_len {
                skip -= sge_len;
                continue;
            }
            let take = left.min(sge_len - skip);
            let addr = sge.addr.checked_add(skip as u64).ok_or(KeyError)?;
            let piece = self.resolve(sge.lkey, addr, take, right)?;
            pieces.0.try_push(piece).map_err(|_| KeyError)?;
            skip = 0;
            left -= take;
        }
        if left == 0 { Ok(pieces) } else { Err(KeyError) }
    }

    fn slot_mut(&mut self, key: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index(key))?;
        (slot.generation == key >> INDEX_BITS && slot.held.is_some()).then_some(slot)
    }
}

const fn index(key: u32) -> usize {
    key as usize & (MAX_REGISTRATIONS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sidelane_p2p::Placement;

    fn region(iova: u64, len: usize) -> Region {
        Region::new(
            "test",
            Placement::Host,
            iova,
            MemView::anonymous(len),
            Box::new(()),
        )
    }

    const ALL: Access = Access {
        local_write: true,
        remote_read: true,
        remote_write: true,
    };

    #[test]
    fn a_key_of_an_ended_registration_is_refused_for_ever() {
        let mut keys = Keys::new(1);
        let region = region(0x1000, 64);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let memory = keys.register(&region, ALL).unwrap();
            assert!(seen.insert(memory.rkey));
            assert!(keys.register(&region, ALL).is_none());
            assert!(
                keys.resolve(memory.rkey, 0x1000, 64, Right::RemoteWrite)
                    .is_ok()
            );
            keys.deregister(memory.rkey);
            keys.deregister(memory.rkey);
            assert!(
                seen.iter()
                    .all(|k| keys.resolve(*k, 0x1000, 1, Right::LocalRead).is_err())
            );
        }
    }

    #[rstest::rstest]
    #[case(0x1000, 64, true)]
    #[case(0x103f, 1, true)]
    #[case(0x1040, 0, true)]
    #[case(0x1040, 1, false)]
    #[case(0x1000, 65, false)]
    #[case(0xfff, 1, false)]
    #[case(u64::MAX, 2, false)]
    #[case(0x1001, usize::MAX, false)]
    fn bounds_hold_to_the_byte(#[case] addr: u64, #[case] len: usize, #[case] ok: bool) {
        let mut keys = Keys::new(4);
        let memory = keys.register(&region(0x1000, 64), ALL).unwrap();
        assert_eq!(
            keys.resolve(memory.rkey, addr, len, Right::RemoteRead)
                .is_ok(),
            ok
        );
    }

    #[test]
    fn rights_are_those_given_and_a_peer_can_only_take_away_its_own() {
        let mut keys = Keys::new(4);
        let region = region(0, 64);
        let read = Access {
            remote_read: true,
            ..Access::default()
        };
        let memory = keys.register(&region, read).unwrap();
        assert!(keys.resolve(memory.rkey, 0, 1, Right::RemoteRead).is_ok());
        assert!(keys.resolve(memory.rkey, 0, 1, Right::RemoteWrite).is_err());
        assert!(keys.resolve(memory.rkey, 0, 1, Right::LocalWrite).is_err());
        assert!(keys.resolve(memory.rkey, 0, 1, Right::LocalRead).is_ok());
        assert_eq!(keys.invalidate(memory.rkey), Ok(()));
        assert!(keys.resolve(memory.rkey, 0, 1, Right::RemoteRead).is_err());
        assert!(keys.resolve(memory.rkey, 0, 1, Right::LocalRead).is_ok());
        assert_eq!(keys.invalidate(memory.rkey), Err(KeyError));
        let own = keys.register(
            &region,
            Access {
                local_write: true,
                ..Access::default()
            },
        );
        assert_eq!(keys.invalidate(own.unwrap().rkey), Err(KeyError));
    }

    proptest! {
        #[test]
        fn a_range_of_pieces_is_that_range_of_their_bytes(
            lens in proptest::collection::vec(0u32..40, 1..MAX_SGE), from in 0usize..100,
            len in 0usize..100,
        ) {
            let mut keys = Keys::new(1);
            let region = region(0x1000, 1024);
            let memory = keys.register(&region, ALL).unwrap();
            let bytes: Vec<u8> = (0..1024u32).map(|i| (i % 251) as u8).collect();
            region.view().write(0, &bytes).unwrap();
            let (mut sges, mut whole, mut at) = (Vec::new(), Vec::new(), 0);
            for len in lens {
                sges.push(Sge { addr: 0x1000 + at as u64, len, lkey: memory.lkey });
                whole.extend(&bytes[at..at + len as usize]);
                at += len as usize + 7;
            }
            let pieces = keys.range(&sges, from, len, Right::LocalRead);
            if from + len <= whole.len() {
                let mut out = vec![0; len];
                pieces.unwrap().read(&mut out);
                prop_assert_eq!(&out[..], &whole[from..from + len]);
            } else {
                prop_assert_eq!(pieces.is_err(), len > 0);
            }
        }
    }
}
