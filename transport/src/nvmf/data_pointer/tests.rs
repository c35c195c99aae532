use proptest::prelude::*;
use sidelane_nvme::spec::DataPtr;
use zerocopy::IntoBytes;

use super::*;

fn command(descriptor: SglDescriptor) -> Sqe {
    Sqe {
        dptr: DataPtr::from_sgl(descriptor),
        ..Sqe::new(1, 1)
    }
}

fn raw(identifier: u8, address: u64, length: u32) -> Sqe {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[15] = identifier;
    command(SglDescriptor::read_from_bytes(&bytes).unwrap())
}

fn key(addr: u64, len: u32, key: u32, invalidate: bool) -> SglDescriptor {
    SglDescriptor::keyed(addr, len, key, invalidate).unwrap()
}

fn list(descriptors: &[SglDescriptor]) -> Vec<u8> {
    descriptors
        .iter()
        .flat_map(|d| d.as_bytes().to_vec())
        .collect()
}

fn pointed(sqe: &Sqe, capsule: &[u8], most: usize) -> Result<HostData, SglError> {
    data_pointer(sqe, capsule.len(), most, |range, list| {
        list.copy_from_slice(&capsule[range]);
        true
    })
}

#[rstest::rstest]
#[case(false, None)]
#[case(true, Some(0x1234))]
fn a_keyed_block_names_memory_of_the_host(
    #[case] invalidate: bool,
    #[case] invalidated: Option<u32>,
) {
    let data = pointed(
        &command(key(0x1000, 0xff_ffff, 0x1234, invalidate)),
        &[],
        16,
    )
    .unwrap();
    let piece = KeyedData {
        addr: 0x1000,
        len: 0xff_ffff,
        key: 0x1234,
        invalidate,
    };
    assert_eq!(data, HostData::Keyed([piece].into_iter().collect()));
    assert_eq!((data.len(), data.invalidate()), (0xff_ffff, invalidated));
}

#[rstest::rstest]
#[case::keyed_null(raw(0x40, 0, 0))]
#[case::keyed_null_invalidate(raw(0x4f, 0, 0))]
#[case::all_zero(raw(0, 0, 0))]
#[case::nothing_in_capsule(raw(1, u64::MAX, 0))]
fn no_length_is_no_data(#[case] sqe: Sqe) {
    assert_eq!(pointed(&sqe, &[], 16), Ok(HostData::None));
}

#[rstest::rstest]
#[case(0, 4096, 4096, Ok(()))]
#[case(512, 512, 1024, Ok(()))]
#[case(1024, 1, 1024, Err(SglError::Length))]
#[case(0, 1025, 1024, Err(SglError::Length))]
#[case(1025, 1, 1024, Err(SglError::Offset))]
#[case(u64::MAX, 1, 1024, Err(SglError::Offset))]
#[case(u64::MAX - 4095, 4096, 1024, Err(SglError::Offset))]
#[case(1, u32::MAX, 1024, Err(SglError::Length))]
#[case(0, 1, 0, Err(SglError::Length))]
fn data_in_the_capsule_must_lie_in_it(
    #[case] offset: u64,
    #[case] length: u32,
    #[case] capsule: usize,
    #[case] expected: Result<(), SglError>,
) {
    let sqe = command(SglDescriptor::in_capsule(offset, length));
    let expected = expected.map(|()| HostData::InCapsule {
        offset: offset as u32,
        len: length,
    });
    assert_eq!(pointed(&sqe, &vec![0; capsule], 16), expected);
}

#[rstest::rstest]
#[case::memory(raw(0x00, 0x1000, 512))]
#[case::block_unknown_subtype(raw(0x02, 0, 512))]
#[case::bit_bucket(raw(0x10, 0, 512))]
#[case::segment(raw(0x21, 0, 16))]
#[case::segment_in_memory(raw(0x20, 0, 16))]
#[case::last_segment_in_memory(raw(0x30, 0, 16))]
#[case::last_segment_of_nothing(raw(0x31, 0, 0))]
#[case::keyed_by_offset(raw(0x41, 0, 512))]
#[case::transport(raw(0x5a, 0, 512))]
#[case::reserved_type(raw(0x60, 0, 512))]
#[case::vendor(raw(0xf0, 0, 512))]
fn types_that_rdma_does_not_use_are_refused(#[case] sqe: Sqe) {
    assert_eq!(pointed(&sqe, &[0; 4096], 16), Err(SglError::Type));
}

#[test]
fn memory_that_wraps_is_refused() {
    let sqe = |addr| command(key(addr, 4096, 1, false));
    assert_eq!(
        pointed(&sqe(u64::MAX - 4094), &[], 16),
        Err(SglError::Length)
    );
    assert!(pointed(&sqe(u64::MAX - 4096), &[], 16).is_ok());
}

#[test]
fn a_list_of_keyed_blocks_is_read_where_the_controller_takes_one() {
    let bytes = list(&[
        key(1, 10, 7, false),
        key(2, 0, 8, true),
        key(3, 30, 9, true),
    ]);
    let sqe = command(SglDescriptor::in_capsule_segment(
        0,
        bytes.len() as u32,
        true,
    ));
    assert_eq!(pointed(&sqe, &bytes, 2), Err(SglError::Count));
    let data = pointed(&sqe, &bytes, 3).unwrap();
    let HostData::Keyed(pieces) = &data else {
        panic!("{data:?}")
    };
    assert_eq!(pieces.len(), 2, "the empty one is left out");
    assert_eq!((data.len(), data.invalidate()), (40, Some(9)));
}

#[rstest::rstest]
#[case::not_whole(0, 17, SglError::Segment)]
#[case::too_many(0, 17 * 16, SglError::Count)]
#[case::very_many(0, 0xffff_fff0, SglError::Count)]
#[case::past_the_end(16, 32, SglError::Length)]
#[case::outside(33, 16, SglError::Offset)]
#[case::wraps(u64::MAX, 16, SglError::Offset)]
fn a_list_outside_the_capsule_is_refused(
    #[case] offset: u64,
    #[case] length: u32,
    #[case] error: SglError,
) {
    let bytes = list(&[key(1, 10, 7, false), key(2, 20, 8, false)]);
    let sqe = command(SglDescriptor::in_capsule_segment(offset, length, true));
    assert_eq!(pointed(&sqe, &bytes, MAX_DESCRIPTORS), Err(error));
}

#[test]
fn a_list_whose_count_does_not_fit_8_bits_is_refused() {
    let bytes = list(&[key(1, 10, 7, false); 257]);
    let len = bytes.len() as u32;
    let sqe = command(SglDescriptor::in_capsule_segment(0, len, true));
    for most in [1, 16, 257] {
        assert_eq!(pointed(&sqe, &bytes, most), Err(SglError::Count));
    }
}

#[test]
fn a_list_holds_keyed_blocks_only() {
    for other in [
        SglDescriptor::in_capsule(0, 4),
        SglDescriptor::data_block(0, 4),
        SglDescriptor::in_capsule_segment(0, 16, true),
        SglDescriptor::bit_bucket(4),
    ] {
        let bytes = list(&[key(1, 10, 7, false), other]);
        let sqe = command(SglDescriptor::in_capsule_segment(0, 32, true));
        assert_eq!(pointed(&sqe, &bytes, 16), Err(SglError::Type));
    }
}

#[rstest::rstest]
#[case(SglError::Type, 0x11)]
#[case(SglError::Segment, 0x0d)]
#[case(SglError::Count, 0x0e)]
#[case(SglError::Offset, 0x16)]
#[case(SglError::Length, 0x0f)]
fn each_mistake_has_its_status(#[case] error: SglError, #[case] code: u8) {
    assert_eq!(error.status().sc(), code);
    assert!(error.status().dnr());
}

proptest! {
    #[test]
    fn arbitrary_pointers_give_only_what_lies_within_bounds(
        pointer: [u8; 16],
        offset in 0u64..600,
        length in 0u32..600,
        kind in proptest::sample::select(vec![0x00u8, 0x01, 0x20, 0x21, 0x30, 0x31, 0x40, 0x4f]),
        shaped: bool,
        capsule in proptest::collection::vec(any::<u8>(), 0..512),
        keyed_list: bool,
    ) {
        let mut capsule = capsule;
        if keyed_list {
            for descriptor in capsule.chunks_exact_mut(16) {
                descriptor[15] = 0x40;
            }
        }
        let sqe = if shaped {
            raw(kind, offset & !15, length & !15)
        } else {
            command(SglDescriptor::read_from_bytes(&pointer).unwrap())
        };
        match pointed(&sqe, &capsule, MAX_DESCRIPTORS) {
            Ok(HostData::None) | Err(_) => {}
            Ok(HostData::InCapsule { offset, len }) => {
                prop_assert!(len > 0);
                prop_assert!(offset as usize + len as usize <= capsule.len());
            }
            Ok(HostData::Keyed(pieces)) => {
                prop_assert!(!pieces.is_empty());
                for piece in pieces {
                    prop_assert!(piece.len > 0 && piece.len < 1 << 24);
                    prop_assert!(piece.addr.checked_add(piece.len.into()).is_some());
                }
            }
        }
    }
}
