//! The Controller Memory Buffer (clause 8.5; properties in 3.1.3).
//!
//! Two kinds. From 1.4 on (CAP.CMBS), its registers read as zero until
//! CMBMSC.CRE is set, and the controller takes an address for its buffer's only
//! after it was told the base (CBA) and to look for it (CMSE). Before, the
//! registers tell at once, and the buffer is known by its PCI address.

use sidelane_p2p::provider::Window;

use super::{Controller, DriverError, lock};
use crate::Backing;
use crate::spec::{CmbLoc, CmbMsc, CmbSts, CmbSz, offset};

impl<B: Backing> Controller<B> {
    /// The buffer, once enabled by [`enable_cmb`](Self::enable_cmb).
    pub fn cmb_window(&self) -> Option<Window> {
        *lock(&self.inner.cmb)
    }

    /// Finds the controller's buffer and makes the controller know it by its
    /// PCI bus address, under which other devices reach it too. `None` when it
    /// has no buffer. What the buffer may hold is in the window; the provider
    /// of p2p makes a region of it.
    ///
    /// # Errors
    /// When the registers make no sense, or the controller does not accept the
    /// address.
    pub fn enable_cmb(&self) -> Result<Option<Window>, DriverError> {
        if let Some(window) = self.cmb_window() {
            return Ok(Some(window));
        }
        self.inner.running()?;
        let device = &self.inner.device;
        device.check("before its memory buffer was enabled")?;
        let window = self.find_window()?;
        *lock(&self.inner.cmb) = window;
        Ok(window)
    }

    /// Enables the buffer, and says where it is.
    fn find_window(&self) -> Result<Option<Window>, DriverError> {
        let device = &self.inner.device;
        let by_control = device.cap.cmbs();
        // What is in use already goes on to be: other devices may be reading it.
        let control = CmbMsc::from_raw(device.backing.read64(offset::CMBMSC));
        if by_control && !control.cre() {
            let cre = CmbMsc::new().with_cre(true);
            device.backing.write32(offset::CMBMSC, cre.raw() as u32);
        }
        let window = match self.read_window()? {
            Some((window, base)) => {
                if by_control {
                    self.announce(base)?;
                }
                Some(window)
            }
            None => None,
        };
        Ok(window)
    }

    /// After a reset: tells the controller anew of its buffer, if that was
    /// enabled, and sees that it is where and as long as it was.
    pub(super) fn announce_again(&self) -> Result<(), DriverError> {
        let Some(before) = self.cmb_window() else {
            return Ok(());
        };
        match self.find_window()? {
            Some(now) if now == before => Ok(()),
            now => Err(self.inner.device.unsupported(format!(
                "its memory buffer was {before:?} before a reset, and is {now:?} after it; close it and open it again"
            ))),
        }
    }

    /// Where CMBLOC and CMBSZ say that the buffer is, and its bus address.
    fn read_window(&self) -> Result<Option<(Window, u64)>, DriverError> {
        let device = &self.inner.device;
        let loc = CmbLoc::from_raw(device.backing.read32(offset::CMBLOC));
        let size = CmbSz::from_raw(device.backing.read32(offset::CMBSZ));
        if loc.raw() == u32::MAX && size.raw() == u32::MAX {
            return Err(DriverError::Gone {
                device: device.address,
            });
        }
        if size.size_units() == 0 {
            return Ok(None);
        }
        let nonsense = |what: &str| DriverError::Unsupported {
            device: device.address,
            reason: format!(
                "its memory buffer registers make no sense (CMBLOC {:#x}, CMBSZ {:#x}): {what}; go without it",
                loc.raw(),
                size.raw()
            ),
        };
        let unit = size
            .unit_bytes()
            .ok_or_else(|| nonsense("the size unit is reserved"))?;
        // 20 bits of at most 2^36 bytes.
        let start = unit * u64::from(loc.offset_units());
        // BAR 0 may hold it behind the doorbells; BAR 1 is the other half of BAR 0.
        let pairs = self.max_io_queue_pairs();
        let doorbells_end = u64::from(offset::cq_head(pairs, device.cap.dstrd())) + 4;
        if loc.bir() == 1 || (loc.bir() == 0 && start < doorbells_end) {
            return Err(nonsense("it lies where the registers are"));
        }
        let bar = device.backing.bar_info(loc.bir())?;
        let rest = (bar.len as u64)
            .checked_sub(start)
            .filter(|rest| *rest > 0)
            .ok_or_else(|| nonsense("it begins beyond the end of its BAR"))?;
        // A buffer longer than its BAR has only what the BAR shows.
        let len = (unit * u64::from(size.size_units())).min(rest);
        let base = bar
            .bus_address
            .checked_add(start)
            .filter(|base| base.is_multiple_of(4096))
            .ok_or_else(|| nonsense("it does not begin at a page"))?;
        let window = Window {
            bar: loc.bir(),
            offset: start,
            len,
            reads: size.rds(),
            writes: size.wds(),
        };
        Ok(Some((window, base)))
    }

    /// Tells the controller under which address commands name its buffer.
    ///
    /// The high dword goes first: controllers latch the whole address when the
    /// low one is written, and one that latched a wrong address completes
    /// commands with success and wrong data.
    fn announce(&self, base: u64) -> Result<(), DriverError> {
        let device = &self.inner.device;
        let backing = &device.backing;
        let wanted = CmbMsc::new()
            .with_cre(true)
            .with_cmse(true)
            .with_cba_pages(base >> 12);
        backing.write32(offset::CMBMSC + 4, (wanted.raw() >> 32) as u32);
        backing.write32(offset::CMBMSC, wanted.raw() as u32);
        let status = CmbSts::from_raw(backing.read32(offset::CMBSTS));
        let got = CmbMsc::from_raw(backing.read64(offset::CMBMSC));
        if !status.cbai() && got == wanted {
            return Ok(());
        }
        backing.write32(offset::CMBMSC, CmbMsc::new().with_cre(true).raw() as u32);
        Err(DriverError::Unsupported {
            device: device.address,
            reason: format!(
                "it does not accept {base:#x} as the address of its memory buffer (CMBSTS.CBAI {}, CMBMSC {:#x}); take memory of another provider",
                u8::from(status.cbai()),
                got.raw()
            ),
        })
    }
}
