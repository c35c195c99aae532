//! What tells plain memory from registers: whether a BAR may be read without
//! effects, and where the function keeps its table of interrupts.

use std::ops::Range;

use super::Device;
use crate::vfio::VfioError;

/// Offsets in the configuration space (PCI Local Bus Specification, 6.1 and 6.7).
const STATUS: u16 = 0x06;
const CAPABILITIES: u16 = 0x34;
/// There is a list of capabilities.
const HAS_CAPABILITIES: u16 = 1 << 4;
/// The capability of MSI-X (6.8.2).
const MSIX: u8 = 0x11;
/// As many as fit behind the header; a longer list goes round in circles.
const CAPABILITIES_MAX: usize = 48;

impl Device {
    /// Whether reads of a BAR have no effects, and may be made ahead.
    pub fn is_prefetchable(&self, bar: u8) -> bool {
        let resource = self.shared.bars.get(usize::from(bar)).copied().flatten();
        resource.is_some_and(|resource| resource.is_prefetchable())
    }

    /// The BARs, and the bytes in them, that hold the table of MSI-X and the
    /// bits of pending interrupts; none when the function has no MSI-X.
    ///
    /// # Errors
    /// When the configuration space cannot be read.
    pub fn msix_tables(&self) -> Result<Vec<(u8, Range<u64>)>, VfioError> {
        if self.config16(STATUS)? & HAS_CAPABILITIES == 0 {
            return Ok(Vec::new());
        }
        let mut at = self.config16(CAPABILITIES)? & 0xfc;
        for _ in 0..CAPABILITIES_MAX {
            if at == 0 {
                break;
            }
            let [id, next] = self.config16(at)?.to_le_bytes();
            if id != MSIX {
                at = u16::from(next & 0xfc);
                continue;
            }
            let entries = u64::from(self.config16(at + 2)? & 0x7ff) + 1;
            let table = self.place(at + 4, entries * 16)?;
            let pending = self.place(at + 8, entries.div_ceil(64) * 8)?;
            return Ok(vec![table, pending]);
        }
        Ok(Vec::new())
    }

    /// A BAR in the low three bits, an offset in the others.
    fn place(&self, at: u16, len: u64) -> Result<(u8, Range<u64>), VfioError> {
        let mut bytes = [0; 4];
        self.read_config(at, &mut bytes)?;
        let word = u32::from_le_bytes(bytes);
        let start = u64::from(word & !7);
        Ok(((word & 7) as u8, start..start + len))
    }

    fn config16(&self, at: u16) -> Result<u16, VfioError> {
        let mut bytes = [0; 2];
        self.read_config(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
}
