//! Which I/O addresses are taken, and where the next mapping goes.
//!
//! An address inside a BAR or a bridge window must never stand for host memory:
//! a switch would take a request for it straight to the BAR, and the IOMMU
//! would never see it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Where x86 takes writes for interrupts, whatever the IOMMU says.
const MSI_WINDOW: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;
/// Below this nothing is ever mapped, so that address 0 is always a mistake.
const LOWEST: u64 = 0x10_0000;
/// Host memory is put above the 32-bit space, where most windows are.
const PREFERRED: u64 = 1 << 32;
/// From this length on, mappings are put where the IOMMU can use large pages.
const LARGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// The addresses of one I/O address space.
#[derive(Debug, Default)]
pub(super) struct IovaSpace {
    /// What the IOMMU translates.
    ranges: Vec<RangeInclusive<u64>>,
    /// What belongs to BARs and bridge windows.
    windows: Vec<RangeInclusive<u64>>,
    /// Mapped now: first address to last.
    taken: BTreeMap<u64, u64>,
}

impl IovaSpace {
    /// Sets what is usable, as known after a device has joined.
    pub(super) fn set_limits(
        &mut self,
        ranges: Vec<RangeInclusive<u64>>,
        windows: Vec<RangeInclusive<u64>>,
    ) {
        // A kernel that names no ranges: 39 bits is the least that is built.
        self.ranges = if ranges.is_empty() {
            vec![0..=(1 << 39) - 1]
        } else {
            ranges
        };
        self.windows = windows;
    }

    /// The highest address that is translated.
    pub(super) fn highest(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| *range.end())
            .max()
            .unwrap_or(0)
    }

    /// Whether the IOMMU translates all of `len` bytes at `start`.
    pub(super) fn translates(&self, start: u64, len: u64) -> bool {
        let Some(last) = last(start, len) else {
            return false;
        };
        self.ranges
            .iter()
            .any(|range| range.contains(&start) && range.contains(&last))
    }

    /// Takes free addresses for host memory.
    pub(super) fn allocate(&mut self, len: u64) -> Option<u64> {
        let align = if len >= LARGE { LARGE } else { PAGE };
        let start = [PREFERRED, LOWEST]
            .into_iter()
            .find_map(|floor| self.find(floor, len, align))?;
        self.taken.insert(start, last(start, len)?);
        Some(start)
    }

    /// Takes exactly these addresses, as a BAR wants; `false` when some are
    /// taken.
    pub(super) fn claim(&mut self, start: u64, len: u64) -> bool {
        let Some(last) = last(start, len) else {
            return false;
        };
        if self
            .taken
            .range(..=last)
            .next_back()
            .is_some_and(|(_, &end)| end >= start)
        {
            return false;
        }
        self.taken.insert(start, last);
        true
    }

    /// Gives addresses back.
    pub(super) fn release(&mut self, start: u64) {
        self.taken.remove(&start);
    }

    fn find(&self, floor: u64, len: u64, align: u64) -> Option<u64> {
        self.ranges.iter().find_map(|range| {
            let mut start = align_up((*range.start()).max(floor), align)?;
            loop {
                let last = last(start, len).filter(|last| last <= range.end())?;
                match self.conflict(start, last) {
                    None => return Some(start),
                    Some(end) => start = align_up(end.checked_add(1)?, align)?,
                }
            }
        })
    }

    /// The last address of something in the way, if anything is.
    fn conflict(&self, start: u64, last: u64) -> Option<u64> {
        let overlaps = |r: &&RangeInclusive<u64>| *r.start() <= last && *r.end() >= start;
        let window = self
            .windows
            .iter()
            .chain([&MSI_WINDOW])
            .filter(overlaps)
            .map(|r| *r.end());
        let taken = self.taken.range(..=last).next_back().map(|(_, &end)| end);
        window.chain(taken.filter(|&end| end >= start)).max()
    }
}

fn last(start: u64, len: u64) -> Option<u64> {
    start.checked_add(len.checked_sub(1)?)
}

fn align_up(address: u64, align: u64) -> Option<u64> {
    address.checked_next_multiple_of(align)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(ranges: &[RangeInclusive<u64>], windows: &[RangeInclusive<u64>]) -> IovaSpace {
        let mut space = IovaSpace::default();
        space.set_limits(ranges.to_vec(), windows.to_vec());
        space
    }

    #[test]
    fn host_memory_goes_above_the_windows_of_the_32_bit_space() {
        let mut space = space(&[0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1], &[]);
        assert_eq!(space.allocate(PAGE), Some(PREFERRED));
        assert_eq!(space.allocate(LARGE), Some(PREFERRED + LARGE));
        assert_eq!(space.allocate(PAGE), Some(PREFERRED + PAGE));
    }

    #[test]
    fn a_small_iommu_is_used_below_4_gib_but_not_at_its_start() {
        let mut space = space(&[0..=0x7fff_ffff], &[LOWEST..=LOWEST + 0xfff]);
        assert_eq!(space.allocate(PAGE), Some(LOWEST + PAGE));
    }

    #[test]
    fn nothing_is_found_when_nothing_is_free() {
        let mut space = space(&[0..=0x1f_ffff], &[]);
        assert_eq!(space.allocate(0x10_0000), Some(LOWEST));
        assert_eq!(space.allocate(PAGE), None);
        space.release(LOWEST);
        assert_eq!(space.allocate(PAGE), Some(LOWEST));
    }

    #[rstest::rstest]
    #[case::same(0x1000, 0x1000, false)]
    #[case::behind(0x3000, 0x1000, true)]
    #[case::before(0x0, 0x1000, true)]
    #[case::around(0x0, 0x8000, false)]
    #[case::into_the_end(0x2fff, 1, false)]
    #[case::empty(0x8000, 0, false)]
    #[case::past_the_end_of_all(u64::MAX, 2, false)]
    fn an_address_is_claimed_once(#[case] start: u64, #[case] len: u64, #[case] free: bool) {
        let mut space = space(&[], &[]);
        assert!(space.claim(0x1000, 0x2000));
        assert_eq!(space.claim(start, len), free);
    }

    proptest! {
        #[test]
        fn what_is_given_is_translated_free_and_outside_all_windows(
            windows in prop::collection::vec((0u64..1 << 34, 1u64..1 << 30), 0..8),
            lens in prop::collection::vec(1u64..1 << 28, 1..40),
        ) {
            let windows: Vec<_> = windows.into_iter().map(|(s, l)| s..=s + l).collect();
            let mut space = space(&[0..=0xfedf_ffff, 0xfef0_0000..=(1 << 36) - 1], &windows);
            let mut given: Vec<RangeInclusive<u64>> = Vec::new();
            for len in lens {
                let Some(start) = space.allocate(len) else { continue };
                let last = start + len - 1;
                prop_assert!(space.translates(start, len));
                for other in windows.iter().chain(&given).chain([&MSI_WINDOW]) {
                    prop_assert!(last < *other.start() || start > *other.end());
                }
                given.push(start..=last);
            }
            prop_assert!(!given.is_empty());
        }
    }
}
