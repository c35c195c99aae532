//! A BAR that is plain memory: of any function under vfio-pci but an NVMe
//! controller that this process drives.

use std::ops::Range;

use super::{BarOwner, ProviderError, Window};
use crate::vfio::Device;

/// A function that is opened for its memory alone: it is not driven, so it does
/// no DMA and has no interrupts.
pub trait MemoryFunction: BarOwner {
    /// The part of a BAR from `offset` on that is `len` bytes long, or all that
    /// there is. Both are whole pages.
    ///
    /// # Errors
    /// When there is no such BAR or part, or it is no plain memory: I/O ports,
    /// reads that may have effects, or the function's table of interrupts.
    fn plain_memory(&self, bar: u8, offset: u64, len: Option<u64>)
    -> Result<Window, ProviderError>;
}

impl MemoryFunction for Device {
    fn plain_memory(
        &self,
        bar: u8,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Window, ProviderError> {
        let unfit = |reason: String| ProviderError::Unfit {
            name: format!("BAR {bar} of {}", self.address()),
            reason,
        };
        let info = self
            .bar_info(bar)
            .map_err(|error| unfit(error.to_string()))?;
        if !self.is_prefetchable(bar) {
            return Err(unfit(
                "it is not prefetchable, so reading it may have effects, as with registers; name \
                 the BAR that `lspci -v` shows as prefetchable"
                    .to_owned(),
            ));
        }
        let window = window(bar, info.len as u64, offset, len).map_err(unfit)?;
        let tables = self
            .msix_tables()
            .map_err(|error| unfit(error.to_string()))?;
        let part = window.offset..window.offset + window.len;
        let table = tables
            .iter()
            .find(|(at, table)| *at == bar && overlap(table, &part));
        match table {
            Some((_, table)) => Err(unfit(format!(
                "its bytes {table:#x?} are the function's table of interrupts (MSI-X); choose \
                 `offset` and `size` so that they stay outside"
            ))),
            None => Ok(window),
        }
    }
}

/// The part of a BAR of `there` bytes that is asked for, or why there is none.
///
/// # Errors
/// When it does not lie inside the BAR.
pub fn window(bar: u8, there: u64, offset: u64, len: Option<u64>) -> Result<Window, String> {
    let rest = there.checked_sub(offset).filter(|rest| *rest > 0);
    let rest = rest.ok_or_else(|| {
        format!("it has {there:#x} bytes, and `offset` is {offset:#x}; write a smaller one")
    })?;
    let len = len.unwrap_or(rest);
    if len > rest {
        return Err(format!(
            "it has {rest:#x} bytes from {offset:#x} on, fewer than the {len:#x} that `size` asks \
             for; write a smaller size"
        ));
    }
    Ok(Window {
        bar,
        offset,
        len,
        reads: true,
        writes: true,
    })
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::all(0, None, Some((0, 0x4000)))]
    #[case::the_rest(0x1000, None, Some((0x1000, 0x3000)))]
    #[case::a_part(0x1000, Some(0x2000), Some((0x1000, 0x2000)))]
    #[case::to_the_end(0x2000, Some(0x2000), Some((0x2000, 0x2000)))]
    #[case::past_the_end(0x2000, Some(0x3000), None)]
    #[case::nothing_left(0x4000, None, None)]
    #[case::far_away(u64::MAX, Some(1), None)]
    fn a_part_lies_inside_its_bar(
        #[case] offset: u64,
        #[case] len: Option<u64>,
        #[case] expected: Option<(u64, u64)>,
    ) {
        let part = window(2, 0x4000, offset, len);
        let found = part.as_ref().ok().map(|part| (part.offset, part.len));
        assert_eq!(found, expected);
        if let Err(reason) = part {
            assert!(reason.contains("write a smaller"), "{reason}");
        }
    }
}
