//! Registers of a modelled controller: what a read gives and a write does.

use super::fault::Broken;
use super::state::State;
use crate::spec::{Aqa, Cap, Cc, Csts, ShutdownNotification, ShutdownStatus, Version, offset};

#[derive(Default)]
pub(super) struct Registers {
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    pub(super) aqa: Aqa,
    pub(super) asq: u64,
    pub(super) acq: u64,
}

/// Specification that the model follows.
pub(super) const VERSION: Version = Version::V1_4;

impl State {
    pub(super) fn cap(&self) -> Cap {
        Cap::new()
            .with_mqes_z(self.options.mqes_z)
            .with_cqr(true)
            .with_to(2)
            .with_css_nvm(true)
            .with_cmbs(self.dma.cmb.as_ref().is_some_and(|cmb| cmb.by_control()))
            .with_pmrs(self.dma.pmr.is_some())
    }

    /// A register, or half of one. What is not there reads as zero.
    pub(super) fn read32(&self, at: u32) -> u32 {
        if self.health.is(Broken::Vanished) {
            return u32::MAX;
        }
        let r = &self.registers;
        let cmb = self.dma.cmb.as_ref();
        match at {
            offset::CAP => low(self.cap().raw()),
            4 => high(self.cap().raw()),
            offset::VS => VERSION.raw(),
            offset::CC => r.cc.raw(),
            offset::CSTS => r.csts.raw(),
            offset::AQA => r.aqa.raw(),
            offset::ASQ => low(r.asq),
            0x2c => high(r.asq),
            offset::ACQ => low(r.acq),
            0x34 => high(r.acq),
            offset::CMBLOC => cmb.map_or(0, |cmb| cmb.location().raw()),
            offset::CMBSZ => cmb.map_or(0, |cmb| cmb.size().raw()),
            offset::CMBMSC => cmb.map_or(0, |cmb| low(cmb.control().raw())),
            0x54 => cmb.map_or(0, |cmb| high(cmb.control().raw())),
            offset::CMBSTS => cmb.map_or(0, |cmb| cmb.status().raw()),
            offset::PMRCAP..offset::DOORBELLS => {
                let pmr = self.dma.pmr.as_ref();
                pmr.map_or(0, |pmr| pmr.read(at - offset::PMRCAP))
            }
            _ => 0,
        }
    }

    pub(super) fn write32(&mut self, at: u32, value: u32) {
        if self.health.is(Broken::Vanished) {
            return;
        }
        let r = &mut self.registers;
        match at {
            offset::CC => self.configure(Cc::from_raw(value)),
            offset::AQA => r.aqa = Aqa::from_raw(value),
            offset::ASQ => r.asq = r.asq >> 32 << 32 | u64::from(value),
            0x2c => r.asq = low(r.asq) as u64 | u64::from(value) << 32,
            offset::ACQ => r.acq = r.acq >> 32 << 32 | u64::from(value),
            0x34 => r.acq = low(r.acq) as u64 | u64::from(value) << 32,
            offset::CMBMSC => {
                if let Some(cmb) = &mut self.dma.cmb {
                    cmb.write_control_low(value);
                }
            }
            0x54 => {
                if let Some(cmb) = &mut self.dma.cmb {
                    cmb.write_control_high(value);
                }
            }
            offset::PMRCAP..offset::DOORBELLS => {
                if let Some(pmr) = &mut self.dma.pmr {
                    pmr.write(at - offset::PMRCAP, value);
                }
            }
            offset::DOORBELLS.. => self.doorbell((at - offset::DOORBELLS) / 4, value as u16),
            _ => {}
        }
    }

    fn configure(&mut self, cc: Cc) {
        let was = self.registers.cc;
        if was.en() && !cc.en() && self.health.is(Broken::NeverIdle) {
            return;
        }
        self.registers.cc = cc;
        let csts = &mut self.registers.csts;
        if cc.en() && !was.en() {
            *csts = Csts::new();
            self.enable();
        } else if !cc.en() && was.en() {
            *csts = Csts::new();
            self.forget_queues();
        }
        if !cc.en() {
            self.health.reset();
        }
        let shn = cc.shn();
        if shn == ShutdownNotification::Normal || shn == ShutdownNotification::Abrupt {
            self.flush_all();
            self.registers.csts.set_shst(ShutdownStatus::Complete);
        }
    }
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
