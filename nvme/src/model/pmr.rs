//! The persistent memory region of a modelled controller, and its registers
//! (3.1.3). A controller reset changes nothing of it; a function reset and the
//! power's return leave it disabled.

use std::cell::Cell;

use sidelane_p2p::MemView;

use super::touch::{Direction, Purpose};
use crate::spec::{PmrCap, PmrCtl, PmrHealth, PmrMsc, PmrSts};

/// The BAR that it takes up, as QEMU's.
pub(super) const PMR_BAR: u8 = 4;

/// A Persistent Memory Region.
#[derive(Debug, Clone)]
pub struct ModelPmr {
    /// Length in bytes, whole pages.
    pub len: usize,
    /// Commands that read may put their data there (RDS).
    pub reads: bool,
    /// Commands that write may take their data from there (WDS).
    pub writes: bool,
    /// Commands may name it by address (CMSS).
    pub by_address: bool,
    /// How often PMRSTS says that it is not ready, after it was enabled;
    /// [`u32::MAX`] for ever.
    pub not_ready: u32,
    /// Its health (PMRSTS.HSTS).
    pub health: PmrHealth,
    /// Its error (PMRSTS.ERR).
    pub error: u8,
    /// No address is accepted (PMRSTS.CBAI).
    pub refuse_address: bool,
}

impl ModelPmr {
    /// A healthy region for data of both directions, ready at the third look.
    pub fn new(len: usize) -> Self {
        Self {
            len,
            reads: true,
            writes: true,
            by_address: true,
            not_ready: 2,
            health: PmrHealth::Normal,
            error: 0,
            refuse_address: false,
        }
    }
}

pub(super) struct Pmr {
    options: ModelPmr,
    pub(super) view: MemView,
    pub(super) bus_address: u64,
    ctl: PmrCtl,
    /// PMRMSCU as written.
    high: u32,
    /// PMRMSCL as written.
    low: u32,
    /// The base that was latched with the low dword.
    latched: Option<u64>,
    refused: bool,
    /// Looks at PMRSTS until it is ready. A look is a read, and counts.
    looks: Cell<u32>,
}

impl Pmr {
    pub(super) fn new(options: ModelPmr, bus_address: u64) -> Self {
        Self {
            view: MemView::anonymous(options.len),
            options,
            bus_address,
            ctl: PmrCtl::new(),
            high: 0,
            low: 0,
            latched: None,
            refused: false,
            looks: Cell::new(0),
        }
    }

    /// A function reset, or the power is back. What is in it stays.
    pub(super) fn reset(&mut self) {
        self.ctl = PmrCtl::new();
        (self.high, self.low) = (0, 0);
        (self.latched, self.refused) = (None, false);
    }

    /// A register, by its offset from PMRCAP.
    pub(super) fn read(&self, at: u32) -> u32 {
        match at {
            0x0 => PmrCap::new()
                .with_rds(self.options.reads)
                .with_wds(self.options.writes)
                .with_bir(PMR_BAR)
                // A read of PMRSTS, as QEMU has it.
                .with_pmrwbm(2)
                .with_pmrto(0)
                .with_cmss(self.options.by_address)
                .raw(),
            0x4 => self.ctl.raw(),
            0x8 => self.status().raw(),
            0x14 => self.low,
            0x18 => self.high,
            _ => 0,
        }
    }

    fn status(&self) -> PmrSts {
        let looks = self.looks.get();
        if looks != u32::MAX {
            self.looks.set(looks.saturating_sub(1));
        }
        PmrSts::new()
            .with_nrdy(!self.ctl.en() || looks > 0)
            .with_hsts(self.options.health)
            .with_err(self.options.error)
            .with_cbai(self.refused)
    }

    pub(super) fn write(&mut self, at: u32, value: u32) {
        match at {
            0x4 => {
                let was = self.ctl;
                self.ctl = PmrCtl::from_raw(value & 1);
                if self.ctl.en() && !was.en() {
                    self.looks.set(self.options.not_ready);
                }
            }
            0x14 if self.options.by_address => {
                self.low = value;
                self.latch();
            }
            0x18 if self.options.by_address => self.high = value,
            _ => {}
        }
    }

    /// The low dword latches the whole address.
    fn latch(&mut self) {
        let control = PmrMsc::from_raw(u64::from(self.high) << 32 | u64::from(self.low));
        let base = control.cba_pages() << 12;
        let wraps = base.checked_add(self.view.len() as u64).is_none();
        self.refused = control.cmse() && (self.options.refuse_address || wraps);
        self.latched = (control.cmse() && !self.refused).then_some(base);
    }

    /// Where in the region an address is that the controller knows as its own.
    pub(super) fn offset_of(&self, address: u64, len: usize) -> Option<usize> {
        let base = self.latched.filter(|_| self.ctl.en())?;
        let offset = usize::try_from(address.checked_sub(base)?).ok()?;
        (offset.checked_add(len)? <= self.view.len()).then_some(offset)
    }

    pub(super) fn allows(&self, direction: Direction, purpose: Purpose) -> bool {
        match (purpose, direction) {
            (Purpose::Data | Purpose::Control, Direction::ToMemory) => self.options.reads,
            (Purpose::Data | Purpose::Control, Direction::FromMemory) => self.options.writes,
            // Neither queues nor lists are ever in it.
            (Purpose::Queue | Purpose::List, _) => false,
        }
    }
}
