//! The controller's side of memory: finding what answers to an address, and
//! walking PRP entries (clause 4.1.1) and SGLs (4.1.2) as a device does.

use std::sync::atomic::Ordering;

use sidelane_p2p::{MemView, OutOfRange, PciAddress, Placement};
use zerocopy::{FromZeros, IntoBytes};

use super::bus::ModelBus;
use super::cmb::Cmb;
use super::pmr::Pmr;
use super::touch::{Direction, Place, Purpose, Recorder, Touch};
use crate::spec::{Psdt, Sgl, SglDescriptor, Sqe, Status};

const PAGE: u64 = 4096;
/// Descriptors of one SGL; a longer one is refused.
const SGL_MAX: usize = 1024;

/// The controller's way to memory.
pub(super) struct Dma {
    pub(super) bus: ModelBus,
    pub(super) address: PciAddress,
    pub(super) cmb: Option<Cmb>,
    pub(super) pmr: Option<Pmr>,
    pub(super) recorder: Recorder,
    /// Bus mastering was taken away.
    pub(super) cut_off: bool,
    /// It is not on the bus.
    pub(super) gone: bool,
    /// A fault in what is executed now.
    pub(super) trick: Option<Trick>,
}

/// What a fault does to the data of a command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trick {
    /// It is looked for where nothing is.
    Outside,
    /// A bit of it is turned over, as this chooses.
    Flip(u64),
}

/// Addresses with this bit are not of memory, and of no BAR.
const OUTSIDE: u64 = 1 << 62;

/// A part of memory that a transfer covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) len: usize,
    /// Nobody wants these bytes.
    pub(super) discard: bool,
}

impl Dma {
    /// The memory of `len` bytes at `address`.
    pub(super) fn access(
        &mut self,
        address: u64,
        len: usize,
        direction: Direction,
        purpose: Purpose,
    ) -> Result<(MemView, usize), Status> {
        let of_command = matches!(purpose, Purpose::Data | Purpose::Control);
        let address = match self.trick {
            Some(Trick::Outside) if of_command => address | OUTSIDE,
            _ => address,
        };
        let (place, found) = self.find(address, len, direction, purpose);
        let end = address.saturating_add(len as u64);
        self.recorder.note(Touch {
            range: address..end,
            direction,
            place,
            purpose,
        });
        found
    }

    fn find(
        &self,
        address: u64,
        len: usize,
        direction: Direction,
        purpose: Purpose,
    ) -> (Place, Result<(MemView, usize), Status>) {
        let nowhere = (Place::Nowhere, Err(Status::DATA_TRANSFER_ERROR));
        if self.cut_off || self.gone {
            return nowhere;
        }
        if let Some(cmb) = &self.cmb
            && let Some(offset) = cmb.offset_of(address, len)
        {
            let fit = cmb.allows(direction, purpose);
            let found = (cmb.view.clone(), offset);
            return (
                Place::OwnCmb,
                fit.then_some(found).ok_or(Status::INVALID_USE_OF_CMB),
            );
        }
        if let Some(pmr) = &self.pmr
            && let Some(offset) = pmr.offset_of(address, len)
        {
            let fit = pmr.allows(direction, purpose);
            let found = (pmr.view.clone(), offset);
            return (
                Place::OwnPmr,
                fit.then_some(found).ok_or(Status::INVALID_USE_OF_CMB),
            );
        }
        match self.bus.resolve(address, len) {
            // A request for one's own BAR does not come back from the bus: an
            // address that the controller does not know as its buffer's is lost.
            Some(hit) => match hit.placement {
                Placement::Peer { device, .. } if device == self.address => nowhere,
                Placement::Peer { device, .. } => (Place::Peer(device), Ok((hit.view, hit.offset))),
                Placement::Host => (Place::Host, Ok((hit.view, hit.offset))),
            },
            None => nowhere,
        }
    }

    /// Which bit of so many bytes of data a fault turns over: its byte and its
    /// place in that.
    pub(super) fn flip_within(&self, len: u64) -> Option<(u64, u8)> {
        match self.trick {
            Some(Trick::Flip(seed)) if len > 0 => Some((seed / 8 % len, (seed % 8) as u8)),
            _ => None,
        }
    }

    /// Copies bytes out of memory.
    pub(super) fn read(
        &mut self,
        address: u64,
        into: &mut [u8],
        purpose: Purpose,
    ) -> Result<(), Status> {
        let (view, offset) = self.access(address, into.len(), Direction::FromMemory, purpose)?;
        view.read(offset, into).map_err(lost)
    }

    /// Copies bytes of control data to where a command wants them.
    pub(super) fn answer(&mut self, sqe: &Sqe, bytes: &[u8]) -> Result<(), Status> {
        let mut rest = bytes;
        for segment in self.segments(sqe, bytes.len(), Direction::ToMemory)? {
            let Some((part, after)) = rest.split_at_checked(segment.len) else {
                break;
            };
            rest = after;
            if !segment.discard {
                let (view, offset) = self.access(
                    segment.address,
                    part.len(),
                    Direction::ToMemory,
                    Purpose::Control,
                )?;
                view.write(offset, part).map_err(lost)?;
            }
        }
        Ok(())
    }

    /// Where the `len` bytes of a command's data are.
    pub(super) fn segments(
        &mut self,
        sqe: &Sqe,
        len: usize,
        direction: Direction,
    ) -> Result<Vec<Segment>, Status> {
        match sqe.cdw0.psdt() {
            Psdt::Prp => self.prp(sqe, len),
            Psdt::Sgl | Psdt::SglMetadata => self.sgl(sqe.dptr.sgl(), len, direction),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn prp(&mut self, sqe: &Sqe, len: usize) -> Result<Vec<Segment>, Status> {
        let mut segments = Vec::new();
        let prp1 = sqe.dptr.prp1();
        if !prp1.is_multiple_of(4) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let mut rest = len;
        let mut add = |address: u64, room: u64, rest: &mut usize| {
            let len = (*rest).min(room as usize);
            segments.push(Segment {
                address,
                len,
                discard: false,
            });
            *rest -= len;
        };
        add(prp1, PAGE - prp1 % PAGE, &mut rest);
        let prp2 = sqe.dptr.prp2();
        if rest == 0 {
        } else if rest as u64 <= PAGE {
            add(whole_page(prp2)?, PAGE, &mut rest);
        } else {
            if !prp2.is_multiple_of(8) {
                return Err(Status::PRP_OFFSET_INVALID);
            }
            let mut at = prp2;
            while rest > 0 {
                let entry = self.load_u64(at)?;
                // The last entry of a page points at more of the list, if there is more.
                if at % PAGE == PAGE - 8 && rest as u64 > PAGE {
                    at = whole_page(entry)?;
                } else {
                    add(whole_page(entry)?, PAGE, &mut rest);
                    at = at.wrapping_add(8);
                }
            }
        }
        Ok(segments)
    }

    fn load_u64(&mut self, address: u64) -> Result<u64, Status> {
        let (view, offset) = self.access(address, 8, Direction::FromMemory, Purpose::List)?;
        view.load_u64(offset, Ordering::Relaxed).map_err(lost)
    }

    fn sgl(
        &mut self,
        first: SglDescriptor,
        len: usize,
        direction: Direction,
    ) -> Result<Vec<Segment>, Status> {
        let mut segments = Vec::new();
        let mut rest = len;
        let mut seen = 0;
        // Descriptors still to be looked at, and whether they may point onward.
        let mut todo = vec![first];
        while let Some(descriptor) = todo.pop() {
            seen += 1;
            if seen > SGL_MAX {
                return Err(Status::INVALID_SGL_COUNT);
            }
            let (address, length, discard) = match descriptor.decode() {
                Sgl::DataBlock { address, length } => (address, length, false),
                Sgl::BitBucket { length } if direction == Direction::ToMemory => (0, length, true),
                Sgl::BitBucket { .. } => continue,
                Sgl::Segment {
                    address,
                    length,
                    in_capsule: false,
                    last,
                } => {
                    if !todo.is_empty() {
                        return Err(Status::INVALID_SGL_SEGMENT);
                    }
                    todo = self.segment(address, length, last)?;
                    continue;
                }
                _ => return Err(Status::SGL_TYPE_INVALID),
            };
            let length = length as usize;
            if length > rest {
                return Err(Status::DATA_SGL_LENGTH_INVALID);
            }
            rest -= length;
            if length > 0 {
                segments.push(Segment {
                    address,
                    len: length,
                    discard,
                });
            }
        }
        if rest > 0 {
            Err(Status::DATA_SGL_LENGTH_INVALID)
        } else {
            Ok(segments)
        }
    }

    /// The descriptors of a segment, last first.
    fn segment(
        &mut self,
        address: u64,
        len: u32,
        last: bool,
    ) -> Result<Vec<SglDescriptor>, Status> {
        let count = len as usize / 16;
        if count == 0 || !len.is_multiple_of(16) || count > SGL_MAX {
            return Err(Status::INVALID_SGL_SEGMENT);
        }
        let mut list = vec![SglDescriptor::new_zeroed(); count];
        self.read(address, list.as_mut_bytes(), Purpose::List)?;
        let onward = |d: &SglDescriptor| matches!(d.decode(), Sgl::Segment { .. });
        let ends_onward = list.last().is_some_and(onward);
        if list.iter().filter(|d| onward(d)).count() != usize::from(ends_onward)
            || last == ends_onward
        {
            return Err(Status::INVALID_SGL_SEGMENT);
        }
        list.reverse();
        Ok(list)
    }
}

fn whole_page(address: u64) -> Result<u64, Status> {
    if address.is_multiple_of(PAGE) {
        Ok(address)
    } else {
        Err(Status::PRP_OFFSET_INVALID)
    }
}

/// Memory that answered does not hold what it said: a fault of the model.
pub(super) fn lost(error: OutOfRange) -> Status {
    tracing::error!(%error, "the model went outside of a view");
    Status::INTERNAL_ERROR
}

#[cfg(test)]
#[path = "dma_tests.rs"]
mod tests;
