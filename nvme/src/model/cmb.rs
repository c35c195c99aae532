//! The memory buffer of a modelled controller, and its registers (3.1.3).

use sidelane_p2p::MemView;

use super::options::{CmbKind, ModelCmb};
use super::touch::{Direction, Purpose};
use crate::spec::{CmbLoc, CmbMsc, CmbSts, CmbSz};

/// The BAR that holds it, as QEMU's.
pub(super) const CMB_BAR: u8 = 2;

pub(super) struct Cmb {
    options: ModelCmb,
    pub(super) view: MemView,
    pub(super) bus_address: u64,
    control: CmbMsc,
    /// The base that was latched when the low dword was written.
    latched: Option<u64>,
    refused: bool,
}

impl Cmb {
    pub(super) fn new(options: ModelCmb, bus_address: u64) -> Self {
        let latched = (options.kind == CmbKind::Legacy).then_some(bus_address);
        let view = MemView::anonymous(options.len);
        Self {
            options,
            view,
            bus_address,
            control: CmbMsc::new(),
            latched,
            refused: false,
        }
    }

    pub(super) fn by_control(&self) -> bool {
        self.options.kind == CmbKind::V1_4
    }

    /// Whether the registers tell where the buffer is.
    fn told(&self) -> bool {
        !self.by_control() || self.control.cre()
    }

    pub(super) fn location(&self) -> CmbLoc {
        let loc = CmbLoc::new()
            .with_bir(CMB_BAR)
            .with_cdpcils(true)
            .with_cdmmms(true);
        if self.told() { loc } else { CmbLoc::new() }
    }

    pub(super) fn size(&self) -> CmbSz {
        let size = CmbSz::new()
            .with_rds(self.options.reads)
            .with_wds(self.options.writes)
            .with_size_units((self.options.len >> 12) as u32 & 0xf_ffff);
        if self.told() { size } else { CmbSz::new() }
    }

    pub(super) fn control(&self) -> CmbMsc {
        if self.by_control() {
            self.control
        } else {
            CmbMsc::new()
        }
    }

    pub(super) fn status(&self) -> CmbSts {
        CmbSts::new().with_cbai(self.refused)
    }

    /// The high dword alone changes no address that is in use.
    pub(super) fn write_control_high(&mut self, high: u32) {
        let low = self.control.raw() & u64::from(u32::MAX);
        self.control = CmbMsc::from_raw(u64::from(high) << 32 | low);
    }

    /// The low dword latches the whole address.
    pub(super) fn write_control_low(&mut self, low: u32) {
        if !self.by_control() {
            return;
        }
        let high = self.control.raw() & !u64::from(u32::MAX);
        self.control = CmbMsc::from_raw(high | u64::from(low));
        let base = self.control.cba_pages() << 12;
        let wanted = self.control.cre() && self.control.cmse();
        let wraps = base.checked_add(self.view.len() as u64).is_none();
        self.refused = wanted && (self.options.refuse_address || wraps);
        self.latched = (wanted && !self.refused).then_some(base);
    }

    /// Where in the buffer an address is that the controller knows as its own.
    pub(super) fn offset_of(&self, address: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.latched?)?).ok()?;
        (offset.checked_add(len)? <= self.view.len()).then_some(offset)
    }

    pub(super) fn allows(&self, direction: Direction, purpose: Purpose) -> bool {
        match (purpose, direction) {
            (Purpose::Data | Purpose::Control, Direction::ToMemory) => self.options.reads,
            (Purpose::Data | Purpose::Control, Direction::FromMemory) => self.options.writes,
            // Neither CMBSZ.SQS, CQS nor LISTS.
            (Purpose::Queue | Purpose::List, _) => false,
        }
    }
}
