//! The controller as registers: reset, enable, shut down (clauses 3.5 and 3.6;
//! PCIe 3.5). Every wait has an end, and a controller that is gone or broken is
//! noticed in each.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sidelane_p2p::{OutOfRange, PciAddress};

use super::DriverError;
use crate::Backing;
use crate::spec::{
    Aqa, Cap, Cc, CommandSetSelected, Crto, Csts, ShutdownNotification, ShutdownStatus, Version,
    offset,
};

/// Between two looks at a register.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Added to what the controller says it needs: clocks differ, and so do
/// readings. The model has no clock.
const GRACE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 500 });
/// The longest wait for a change of CSTS.RDY, whatever the controller says that
/// it needs: CRTO can say nine hours.
pub(super) const READY_MAX: Duration = Duration::from_secs(300);
/// Shutdown, when the controller names no time of its own, and the longest wait
/// when it does: RTD3E can say an hour.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);

pub(super) struct Device<B> {
    pub(super) backing: Arc<B>,
    pub(super) address: PciAddress,
    pub(super) cap: Cap,
    pub(super) version: Version,
    /// The longest wait for a change of CSTS.RDY.
    ready_limit: Duration,
}

impl<B: Backing> Device<B> {
    pub(super) fn new(backing: Arc<B>) -> Result<Self, DriverError> {
        let address = backing.address();
        let cap = Cap::from_raw(backing.read64(offset::CAP));
        let version = Version::from_raw(backing.read32(offset::VS));
        if cap.raw() == u64::MAX || version.raw() == u32::MAX {
            return Err(DriverError::Gone { device: address });
        }
        let mut units = u32::from(cap.to());
        if cap.crwms() {
            let crto = Crto::from_raw(backing.read32(offset::CRTO));
            units = units.max(u32::from(crto.with_media()));
        }
        let ready_limit = (Duration::from_millis(500) * units).min(READY_MAX) + GRACE;
        Ok(Self {
            backing,
            address,
            cap,
            version,
            ready_limit,
        })
    }

    /// The status, unless the controller is gone.
    pub(super) fn status(&self) -> Result<Csts, DriverError> {
        match self.backing.read32(offset::CSTS) {
            u32::MAX => Err(DriverError::Gone {
                device: self.address,
            }),
            raw => Ok(Csts::from_raw(raw)),
        }
    }

    /// Whether the controller is there and without fatal error.
    pub(super) fn check(&self, doing: &'static str) -> Result<Csts, DriverError> {
        let status = self.status()?;
        if status.cfs() {
            return Err(DriverError::Fatal {
                device: self.address,
                doing,
            });
        }
        Ok(status)
    }

    pub(super) fn unsupported(&self, reason: impl Into<String>) -> DriverError {
        DriverError::Unsupported {
            device: self.address,
            reason: reason.into(),
        }
    }

    /// I/O queue pairs that have doorbells in BAR 0, at least one.
    pub(super) fn queue_pairs_in_bar(&self) -> Result<u16, DriverError> {
        let room = self.backing.bar_info(0)?.len as u64;
        let stride = 8 << self.cap.dstrd();
        // The first pair is the admin queue's.
        let pairs = room.saturating_sub(offset::DOORBELLS.into()) / stride;
        match u16::try_from(pairs.saturating_sub(1)).unwrap_or(u16::MAX) {
            0 => Err(self.unsupported(format!(
                "its BAR 0 of {room:#x} bytes has no room for the doorbells of an I/O queue, {stride} bytes for each pair (CAP.DSTRD)"
            ))),
            pairs => Ok(pairs),
        }
    }

    /// Refuses a controller whose capabilities are not those that were read.
    pub(super) fn same_capabilities(&self) -> Result<(), DriverError> {
        let now = Cap::from_raw(self.backing.read64(offset::CAP));
        if now == self.cap {
            return Ok(());
        }
        Err(self.unsupported(format!(
            "its capabilities (CAP) were {:#x} and are {:#x} now; close it and open it again",
            self.cap.raw(),
            now.raw()
        )))
    }

    /// The driver's own fault.
    pub(super) fn internal(&self, source: OutOfRange) -> DriverError {
        DriverError::Internal {
            device: self.address,
            source,
        }
    }

    fn wait(
        &self,
        doing: &'static str,
        limit: Duration,
        heed_fatal: bool,
        done: impl Fn(Csts) -> bool,
    ) -> Result<(), DriverError> {
        let start = Instant::now();
        loop {
            let late = start.elapsed() > limit;
            let status = if heed_fatal {
                self.check(doing)?
            } else {
                self.status()?
            };
            if done(status) {
                return Ok(());
            }
            if late {
                let limit_ms = limit.as_millis();
                return Err(DriverError::Timeout {
                    device: self.address,
                    doing,
                    limit_ms,
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Disables the controller, which makes it forget its queues. A fatal error
    /// is no obstacle: this is how one is left behind.
    pub(super) fn disable(&self) -> Result<(), DriverError> {
        self.status()?;
        let cc = Cc::from_raw(self.backing.read32(offset::CC));
        let cc = cc.with_en(false).with_shn(ShutdownNotification::None);
        self.backing.write32(offset::CC, cc.raw());
        self.wait(
            "to become idle after a reset",
            self.ready_limit,
            false,
            |csts| !csts.rdy(),
        )
    }

    /// Enables the controller with admin queues of `entries` at these addresses.
    pub(super) fn enable(&self, entries: u16, sq: u64, cq: u64) -> Result<(), DriverError> {
        let aqa = Aqa::new().with_asqs_z(entries - 1).with_acqs_z(entries - 1);
        self.backing.write32(offset::AQA, aqa.raw());
        self.backing.write64(offset::ASQ, sq);
        self.backing.write64(offset::ACQ, cq);
        let css = match self.cap.css_nvm() {
            true => CommandSetSelected::Nvm,
            false => CommandSetSelected::All,
        };
        let cc = Cc::new()
            .with_css(css)
            .with_iosqes(6)
            .with_iocqes(4)
            .with_en(true);
        self.backing.write32(offset::CC, cc.raw());
        self.wait("to become ready", self.ready_limit, true, |csts| csts.rdy())
    }

    /// Tells the controller that power may go, and waits until it is prepared.
    pub(super) fn shut_down(&self, entry_limit: Duration) -> Result<(), DriverError> {
        let cc = Cc::from_raw(self.backing.read32(offset::CC));
        self.status()?;
        let cc = cc.with_shn(ShutdownNotification::Normal);
        self.backing.write32(offset::CC, cc.raw());
        let limit = if entry_limit.is_zero() {
            SHUTDOWN_LIMIT
        } else {
            entry_limit.min(SHUTDOWN_MAX) + GRACE
        };
        let done = |csts: Csts| csts.shst() == ShutdownStatus::Complete;
        self.wait("to shut down", limit, true, done)
    }
}
