//! VFIO's variable-length structures, as words of 32 bits: every field of every
//! one of them is made of such words, and the kernel copies them as bytes.

use std::mem::{offset_of, size_of};

use vfio_bindings::bindings::vfio as uapi;

use super::kernel::{IommuInfo, RegionInfo};

/// The number of words of a structure without its variable part.
pub(super) const fn len<T>() -> usize {
    size_of::<T>() / 4
}

/// No chain of capabilities of an info structure is longer than this.
const MAX_CAPABILITIES: usize = 64;

/// The word at a byte offset; 0 when there is none, as for a kernel that knows
/// fewer fields.
fn u32_at(words: &[u32], offset: usize) -> u32 {
    words.get(offset / 4).copied().unwrap_or(0)
}

/// The two words at a byte offset, in the machine's order.
fn u64_at(words: &[u32], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&u32_at(words, offset).to_ne_bytes());
    bytes[4..].copy_from_slice(&u32_at(words, offset + 4).to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Offset in bytes of the capability with that identifier, in the chain that
/// begins at `first`. Offsets count from the start of the structure.
fn capability(words: &[u32], first: u32, id: u32) -> Option<usize> {
    let mut at = first as usize;
    for _ in 0..MAX_CAPABILITIES {
        if at == 0 || at + size_of::<uapi::vfio_info_cap_header>() > words.len() * 4 {
            return None;
        }
        let bytes = u32_at(words, at).to_ne_bytes();
        if u32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) == id {
            return Some(at);
        }
        at = u32_at(words, at + offset_of!(uapi::vfio_info_cap_header, next)) as usize;
    }
    None
}

/// The pairs of 64 bits that follow a capability's header and count, as sparse
/// areas and ranges of addresses do; as many as are there.
fn pairs(words: &[u32], capability: usize) -> Vec<(u64, u64)> {
    const COUNT: usize = offset_of!(uapi::vfio_region_info_cap_sparse_mmap, nr_areas);
    const FIRST: usize = size_of::<uapi::vfio_region_info_cap_sparse_mmap>();
    const { assert!(COUNT == offset_of!(uapi::vfio_iommu_type1_info_cap_iova_range, nr_iovas)) };
    const { assert!(FIRST == size_of::<uapi::vfio_iommu_type1_info_cap_iova_range>()) };
    let count = u32_at(words, capability + COUNT) as usize;
    let there = (words.len() * 4).saturating_sub(capability + FIRST) / 16;
    (0..count.min(there))
        .map(|i| capability + FIRST + i * 16)
        .map(|at| (u64_at(words, at), u64_at(words, at + 8)))
        .collect()
}

/// Reads `vfio_region_info` and its chain.
pub(super) fn region_info(words: &[u32]) -> RegionInfo {
    let flags = u32_at(words, offset_of!(uapi::vfio_region_info, flags));
    let chain = match flags & uapi::VFIO_REGION_INFO_FLAG_CAPS {
        0 => 0,
        _ => u32_at(words, offset_of!(uapi::vfio_region_info, cap_offset)),
    };
    RegionInfo {
        flags,
        size: u64_at(words, offset_of!(uapi::vfio_region_info, size)),
        offset: u64_at(words, offset_of!(uapi::vfio_region_info, offset)),
        sparse: capability(words, chain, uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP)
            .map(|at| pairs(words, at)),
    }
}

/// Reads `vfio_iommu_type1_info` and its chain.
pub(super) fn iommu_info(words: &[u32]) -> IommuInfo {
    let flags = u32_at(words, offset_of!(uapi::vfio_iommu_type1_info, flags));
    let chain = match flags & uapi::VFIO_IOMMU_INFO_CAPS {
        0 => 0,
        _ => u32_at(words, offset_of!(uapi::vfio_iommu_type1_info, cap_offset)),
    };
    let page_sizes = match flags & uapi::VFIO_IOMMU_INFO_PGSIZES {
        0 => 4096,
        _ => u64_at(words, offset_of!(uapi::vfio_iommu_type1_info, iova_pgsizes)),
    };
    let ranges = capability(words, chain, uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
        .map(|at| pairs(words, at))
        .unwrap_or_default();
    IommuInfo {
        page_sizes,
        ranges: ranges.into_iter().map(|(start, end)| start..=end).collect(),
    }
}

/// Words of a request for one range of a BAR as a dma-buf: the head of a
/// feature, the feature's own part, one range.
const DMA_BUF_WORDS: usize = len::<uapi::vfio_device_feature>()
    + len::<uapi::vfio_device_feature_dma_buf>()
    + len::<uapi::vfio_region_dma_range>();

/// Writes `vfio_device_feature` with `vfio_device_feature_dma_buf` and one range
/// in it.
pub(super) fn dma_buf_request(
    bar: u32,
    open_flags: u32,
    offset: u64,
    len: u64,
) -> [u32; DMA_BUF_WORDS] {
    let halves = |n: u64| {
        let [a, b, c, d, e, f, g, h] = n.to_ne_bytes();
        [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
        ]
    };
    let feature = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    let ([offset_0, offset_1], [len_0, len_1]) = (halves(offset), halves(len));
    // The length of all is written by whoever makes the call; no flags.
    [
        0, feature, bar, open_flags, 0, 1, offset_0, offset_1, len_0, len_1,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A structure of `fixed` words, then capabilities, each with pairs.
    fn chained(fixed: &[u32], capabilities: &[(u32, &[(u64, u64)])]) -> Vec<u32> {
        let mut words = fixed.to_vec();
        for (i, (id, pairs)) in capabilities.iter().enumerate() {
            let end = (words.len() + 4 + pairs.len() * 4) as u32 * 4;
            let next = if i + 1 == capabilities.len() { 0 } else { end };
            words.extend([id | 1 << 16, next, pairs.len() as u32, 0]);
            for &(a, b) in *pairs {
                words.extend([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
            }
        }
        words
    }

    #[test]
    fn sparse_areas_are_found_behind_another_capability() {
        let fixed = [0, 0xf, 2, 32, 0x4000, 0, 0, 0x200];
        let words = chained(&fixed, &[(3, &[]), (1, &[(0, 0x2000), (0x3000, 0x1000)])]);
        assert_eq!(
            region_info(&words),
            RegionInfo {
                flags: 0xf,
                size: 0x4000,
                offset: 0x200_0000_0000,
                sparse: Some(vec![(0, 0x2000), (0x3000, 0x1000)]),
            }
        );
    }

    #[test]
    fn without_the_flag_no_chain_is_followed() {
        let words = chained(&[0, 0x7, 0, 32, 0x1000, 0, 0, 0], &[(1, &[(0, 1)])]);
        assert_eq!(region_info(&words).sparse, None);
    }

    #[test]
    fn the_iommu_names_page_sizes_and_ranges() {
        let fixed = [0, 3, 0x4020_1000, 0, 24, 0];
        let ranges: &[_] = &[(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)];
        let info = iommu_info(&chained(&fixed, &[(2, &[]), (1, ranges), (3, &[])]));
        assert_eq!(info.page_sizes, 0x4020_1000);
        assert_eq!(
            info.ranges,
            [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff]
        );
    }

    #[test]
    fn a_dma_buf_is_asked_for_as_the_kernel_header_lays_it_out() {
        let words = dma_buf_request(2, 0x8_0002, 0x1_2345_6000, 0x400_0000);
        assert_eq!(words[..6], [0, 1 << 16 | 11, 2, 0x8_0002, 0, 1]);
        let range = 8 + size_of::<uapi::vfio_device_feature_dma_buf>();
        assert_eq!(u64_at(&words, range), 0x1_2345_6000);
        assert_eq!(u64_at(&words, range + 8), 0x400_0000);
        assert_eq!(words.len() * 4, range + 16);
    }

    proptest! {
        #[test]
        fn no_answer_of_a_kernel_makes_the_reader_run_away(words: Vec<u32>) {
            let _ = region_info(&words);
            let _ = iommu_info(&words);
        }
    }
}
