//! The record of what a modelled controller touched.

use std::ops::Range;

use sidelane_p2p::PciAddress;

/// Entries of a full record; what comes later is counted only.
const RECORD_MAX: usize = 1 << 16;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From memory into the controller.
    FromMemory,
    /// From the controller into memory.
    ToMemory,
}

/// What answered to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Host memory.
    Host,
    /// The controller's own memory buffer.
    OwnCmb,
    /// The controller's own persistent memory region.
    OwnPmr,
    /// Another function's BAR.
    Peer(PciAddress),
    /// Nothing: a DMA error.
    Nowhere,
}

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Data of an I/O command that is payload.
    Data,
    /// Data of other commands: identification, logs, ranges.
    Control,
    /// Queue entries.
    Queue,
    /// PRP or SGL lists.
    List,
}

/// One access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The addresses, as the controller was told them.
    pub range: Range<u64>,
    /// Which way.
    pub direction: Direction,
    /// What answered.
    pub place: Place,
    /// What for.
    pub purpose: Purpose,
}

/// Payload bytes by place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PayloadBytes {
    /// From or to host memory.
    pub host: u64,
    /// From or to the controller's own buffer.
    pub own_cmb: u64,
    /// From or to the controller's own persistent memory region.
    pub own_pmr: u64,
    /// From or to another function's BAR.
    pub peer: u64,
}

/// What a controller touched since it was made, or since the record was taken.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// Payload, by place.
    pub payload: PayloadBytes,
    /// Accesses that nothing answered.
    pub faults: u64,
    /// Each access, if a full record was asked for, oldest first.
    pub record: Vec<Touch>,
    /// Accesses that found the record full.
    pub unrecorded: u64,
}

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) touched: Touched,
    pub(super) full: bool,
}

impl Recorder {
    pub(super) fn note(&mut self, touch: Touch) {
        let bytes = touch.range.end.saturating_sub(touch.range.start);
        let payload = &mut self.touched.payload;
        match (touch.purpose, touch.place) {
            (_, Place::Nowhere) => self.touched.faults += 1,
            (Purpose::Data, Place::Host) => payload.host += bytes,
            (Purpose::Data, Place::OwnCmb) => payload.own_cmb += bytes,
            (Purpose::Data, Place::OwnPmr) => payload.own_pmr += bytes,
            (Purpose::Data, Place::Peer(_)) => payload.peer += bytes,
            _ => {}
        }
        if !self.full {
        } else if self.touched.record.len() < RECORD_MAX {
            self.touched.record.push(touch);
        } else {
            self.touched.unrecorded += 1;
        }
    }
}
