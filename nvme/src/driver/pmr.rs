//! The Persistent Memory Region (clause 8.14; properties in 3.1.3).
//!
//! It is used as plain memory: nothing is claimed of what it holds after a loss
//! of power, so the write barriers of PMRCAP.PMRWBM are told and never used.
//! Its registers are not those of a controller reset: it stays enabled, and the
//! controller goes on knowing its address, while CC.EN is cleared and set.

use std::time::{Duration, Instant};

use sidelane_p2p::provider::Window;

use super::device::READY_MAX;
use super::{Controller, DriverError, lock};
use crate::Backing;
use crate::spec::{PmrCap, PmrCtl, PmrHealth, PmrMsc, PmrSts, offset};

/// Between two looks at PMRSTS.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Added to what the controller says it needs.
const GRACE: Duration = Duration::from_millis(500);

impl<B: Backing> Controller<B> {
    /// The region, once enabled by [`enable_pmr`](Self::enable_pmr).
    pub fn pmr_window(&self) -> Option<Window> {
        *lock(&self.inner.pmr)
    }

    /// What makes sure that what was written to the region would outlast a loss
    /// of power, in words; `None` when the controller has no region. Nothing
    /// here does it.
    pub fn pmr_barrier(&self) -> Option<&'static str> {
        let device = &self.inner.device;
        let cap = PmrCap::from_raw(device.backing.read32(offset::PMRCAP));
        device.cap.pmrs().then_some(match cap.pmrwbm() & 3 {
            0 => "none that is known",
            1 => "a read of the memory",
            2 => "a read of PMRSTS",
            _ => "a read of the memory or of PMRSTS",
        })
    }

    /// Enables the region, waits until it is ready, and makes the controller
    /// know it by its PCI bus address, under which other devices reach it too.
    /// `None` when the controller has none. A controller that takes no addresses
    /// in its region (PMRCAP.CMSS) still offers it to others.
    ///
    /// # Errors
    /// When the region does not become ready in time, is not in good health, or
    /// the controller does not accept the address. It is disabled then.
    pub fn enable_pmr(&self) -> Result<Option<Window>, DriverError> {
        if let Some(window) = self.pmr_window() {
            return Ok(Some(window));
        }
        let device = &self.inner.device;
        device.check("before its persistent memory region was enabled")?;
        if !device.cap.pmrs() {
            return Ok(None);
        }
        let enabled = self.bring_up_pmr().inspect_err(|_| {
            // Half enabled is of no use to anyone.
            device.backing.write32(offset::PMRMSCL, 0);
            device.backing.write32(offset::PMRCTL, 0);
        });
        let window = enabled?;
        *lock(&self.inner.pmr) = Some(window);
        Ok(Some(window))
    }

    /// Makes sure that the region is as [`enable_pmr`](Self::enable_pmr) left
    /// it, if it was enabled: after a controller reset, which should not have
    /// changed it.
    pub(super) fn restore_pmr(&self) -> Result<(), DriverError> {
        let Some(before) = self.pmr_window() else {
            return Ok(());
        };
        match self.bring_up_pmr()? {
            now if now == before => Ok(()),
            now => Err(self.inner.device.unsupported(format!(
                "its persistent memory region was {before:?} before a reset, and is {now:?} after it; close it and open it again"
            ))),
        }
    }

    fn bring_up_pmr(&self) -> Result<Window, DriverError> {
        let backing = &self.inner.device.backing;
        let cap = PmrCap::from_raw(backing.read32(offset::PMRCAP));
        if cap.bir() < 2 {
            return Err(self.pmr_error(format!(
                "its persistent memory region is said to be in BAR {}, where the registers are (PMRCAP.BIR)",
                cap.bir()
            )));
        }
        let enable = PmrCtl::new().with_en(true);
        backing.write32(offset::PMRCTL, enable.raw());
        self.check_health(self.await_ready(cap)?)?;
        let bar = backing.bar_info(cap.bir())?;
        if cap.cmss() {
            self.announce_pmr(bar.bus_address)?;
        }
        Ok(Window {
            bar: cap.bir(),
            offset: 0,
            len: bar.len as u64,
            reads: cap.cmss() && cap.rds(),
            writes: cap.cmss() && cap.wds(),
        })
    }

    /// Waits for PMRSTS.NRDY to clear, no longer than PMRCAP.PMRTO says, which may
    /// be hours, and than is borne with for the controller itself.
    fn await_ready(&self, cap: PmrCap) -> Result<PmrSts, DriverError> {
        let device = &self.inner.device;
        let unit = match cap.pmrtu() {
            0 => Duration::from_millis(500),
            _ => Duration::from_secs(60),
        };
        let limit = (unit * u32::from(cap.pmrto())).min(READY_MAX) + GRACE;
        let start = Instant::now();
        loop {
            let late = start.elapsed() > limit;
            let raw = device.backing.read32(offset::PMRSTS);
            if raw == u32::MAX {
                return Err(DriverError::Gone {
                    device: device.address,
                });
            }
            let status = PmrSts::from_raw(raw);
            if !status.nrdy() {
                return Ok(status);
            }
            if late {
                return Err(self.pmr_error(format!(
                    "its persistent memory region was not ready after {} ms (PMRSTS.NRDY)",
                    limit.as_millis()
                )));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What it held before does not matter, so a region that could not restore
    /// that is as good as any.
    fn check_health(&self, status: PmrSts) -> Result<(), DriverError> {
        let what = match (status.hsts(), status.err()) {
            (PmrHealth::Normal | PmrHealth::RestoreError, 0) => return Ok(()),
            (PmrHealth::Normal | PmrHealth::RestoreError, _) => "reports an error of its own",
            (PmrHealth::ReadOnly, _) => "has become read-only",
            (PmrHealth::Unreliable, _) => "has become unreliable",
            _ => "is in a state that is not known",
        };
        Err(self.pmr_error(format!(
            "its persistent memory region {what} (PMRSTS.HSTS {}, ERR {:#x}; see `nvme smart-log`)",
            status.hsts().into_bits(),
            status.err()
        )))
    }

    /// Tells the controller under which address commands name its region. The
    /// address takes effect with the low dword, so the high one goes first.
    fn announce_pmr(&self, base: u64) -> Result<(), DriverError> {
        let backing = &self.inner.device.backing;
        let wanted = PmrMsc::new().with_cmse(true).with_cba_pages(base >> 12);
        backing.write32(offset::PMRMSCU, (wanted.raw() >> 32) as u32);
        backing.write32(offset::PMRMSCL, wanted.raw() as u32);
        let status = PmrSts::from_raw(backing.read32(offset::PMRSTS));
        let (low, high) = (
            backing.read32(offset::PMRMSCL),
            backing.read32(offset::PMRMSCU),
        );
        let got = u64::from(high) << 32 | u64::from(low);
        if !status.cbai() && got == wanted.raw() {
            return Ok(());
        }
        Err(self.pmr_error(format!(
            "it does not accept {base:#x} as the address of its persistent memory region (PMRSTS.CBAI {}, PMRMSC {got:#x})",
            u8::from(status.cbai())
        )))
    }

    fn pmr_error(&self, what: String) -> DriverError {
        let device = &self.inner.device;
        device.unsupported(format!("{what}; take memory of another provider"))
    }
}
