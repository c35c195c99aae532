//! What a controller makes of the pointers that a host could give it.

use proptest::prelude::*;
use sidelane_p2p::{DmaSpace, Region};
use zerocopy::IntoBytes;

use super::*;
use crate::spec::DataPtr;

struct Bench {
    dma: Dma,
    memory: Region,
    base: u64,
}

fn bench() -> Bench {
    let bus = ModelBus::new();
    let memory = bus.host_region("memory", 4 << 20).unwrap();
    let base = memory.iova();
    let address = "0000:01:00.0".parse().unwrap();
    let recorder = Recorder::default();
    Bench {
        dma: Dma {
            bus,
            address,
            cmb: None,
            pmr: None,
            recorder,
            cut_off: false,
            gone: false,
            trick: None,
        },
        memory,
        base,
    }
}

impl Bench {
    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory
            .view()
            .write((at - self.base) as usize, bytes)
            .unwrap();
    }

    fn prp(&mut self, prp1: u64, prp2: u64, len: usize) -> Result<Vec<Segment>, Status> {
        let sqe = Sqe {
            dptr: DataPtr::from_prp(prp1, prp2),
            ..Sqe::default()
        };
        self.dma.segments(&sqe, len, Direction::ToMemory)
    }

    fn sgl(&mut self, descriptor: SglDescriptor, len: usize) -> Result<Vec<Segment>, Status> {
        let mut sqe = Sqe {
            dptr: DataPtr::from_sgl(descriptor),
            ..Sqe::default()
        };
        sqe.cdw0.set_psdt(Psdt::Sgl);
        self.dma.segments(&sqe, len, Direction::ToMemory)
    }
}

fn part(address: u64, len: usize) -> Segment {
    Segment {
        address,
        len,
        discard: false,
    }
}

#[test]
fn a_prp_list_goes_on_in_another_page_where_one_is_full() {
    let mut bench = bench();
    let base = bench.base;
    // Two entries are left in the first page of the list; four pages are listed.
    let (list, more) = (base + PAGE - 16, base + 2 * PAGE);
    let data = |i: u64| base + (16 + i) * PAGE;
    bench.put(list, [data(1), more].as_bytes());
    bench.put(more, [data(2), data(3), data(4)].as_bytes());
    let segments = bench.prp(data(0) + 8, list, 4 * PAGE as usize).unwrap();
    let page = PAGE as usize;
    let expected = [
        part(data(0) + 8, page - 8),
        part(data(1), page),
        part(data(2), page),
        part(data(3), page),
        part(data(4), 8),
    ];
    assert_eq!(segments, expected);
}

#[test]
fn the_last_entry_of_a_list_page_is_data_when_nothing_follows() {
    let mut bench = bench();
    let base = bench.base;
    let list = base + PAGE - 16;
    bench.put(list, [base + 5 * PAGE, base + 6 * PAGE].as_bytes());
    let segments = bench.prp(base + 4 * PAGE, list, 3 * PAGE as usize).unwrap();
    assert_eq!(segments.last(), Some(&part(base + 6 * PAGE, PAGE as usize)));
}

#[test]
fn prp_entries_that_are_not_aligned_are_refused() {
    let mut bench = bench();
    let base = bench.base;
    let refused = Err(Status::PRP_OFFSET_INVALID);
    assert_eq!(bench.prp(base + 2, 0, 512), refused);
    assert_eq!(
        bench.prp(base, base + PAGE + 8, 8192),
        refused,
        "second page"
    );
    assert_eq!(
        bench.prp(base, base + 4, 3 * PAGE as usize),
        refused,
        "list"
    );
    bench.put(base, [base + PAGE, base + 2 * PAGE + 512].as_bytes());
    assert_eq!(
        bench.prp(base, base, 3 * PAGE as usize),
        refused,
        "entry of a list"
    );
    let nowhere = bench.prp(base, 0x10_0000, 3 * PAGE as usize);
    assert_eq!(nowhere, Err(Status::DATA_TRANSFER_ERROR));
}

#[test]
fn an_sgl_of_several_segments_is_walked_in_order() {
    let mut bench = bench();
    let base = bench.base;
    let (first, second) = (base, base + 256);
    bench.put(
        first,
        [
            SglDescriptor::data_block(base + 4096, 100),
            SglDescriptor::bit_bucket(28),
            SglDescriptor::segment(second, 32, true),
        ]
        .as_bytes(),
    );
    bench.put(
        second,
        [
            SglDescriptor::data_block(base + 8193, 128),
            SglDescriptor::data_block(base, 256),
        ]
        .as_bytes(),
    );
    let segments = bench
        .sgl(SglDescriptor::segment(first, 48, false), 512)
        .unwrap();
    let bucket = Segment {
        address: 0,
        len: 28,
        discard: true,
    };
    let expected = [
        part(base + 4096, 100),
        bucket,
        part(base + 8193, 128),
        part(base, 256),
    ];
    assert_eq!(segments, expected);
}

#[test]
fn sgls_that_make_no_sense_are_refused_with_the_status_for_it() {
    let mut bench = bench();
    let base = bench.base;
    bench.put(base, [SglDescriptor::segment(base, 16, false)].as_bytes());
    let keyed = SglDescriptor::keyed(base, 512, 1, false).unwrap();
    let cases = [
        (
            SglDescriptor::data_block(base, 511),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (
            SglDescriptor::data_block(base, 513),
            Status::DATA_SGL_LENGTH_INVALID,
        ),
        (keyed, Status::SGL_TYPE_INVALID),
        (SglDescriptor::in_capsule(0, 512), Status::SGL_TYPE_INVALID),
        (
            SglDescriptor::segment(base, 0, true),
            Status::INVALID_SGL_SEGMENT,
        ),
        (
            SglDescriptor::segment(base, 17, true),
            Status::INVALID_SGL_SEGMENT,
        ),
        (
            SglDescriptor::segment(base, u32::MAX, true),
            Status::INVALID_SGL_SEGMENT,
        ),
        (
            SglDescriptor::segment(base, 16, true),
            Status::INVALID_SGL_SEGMENT,
        ),
        (
            SglDescriptor::segment(0x10_0000, 16, true),
            Status::DATA_TRANSFER_ERROR,
        ),
        // A segment that points at itself has an end all the same.
        (
            SglDescriptor::segment(base, 16, false),
            Status::INVALID_SGL_COUNT,
        ),
    ];
    for (descriptor, expected) in cases {
        assert_eq!(bench.sgl(descriptor, 512), Err(expected), "{descriptor:?}");
    }
}

proptest! {
    #[test]
    fn no_pointer_and_no_list_does_harm(
        raw in proptest::array::uniform16(any::<u8>()),
        list in proptest::collection::vec(any::<u8>(), 256),
        len in 1usize..100_000, psdt in 0u8..4, in_memory: bool,
    ) {
        let mut bench = bench();
        bench.put(bench.base, &list);
        let mut sqe = Sqe { dptr: DataPtr { raw }, ..Sqe::default() };
        sqe.cdw0.set_psdt(Psdt(psdt));
        if in_memory {
            sqe.dptr = match psdt {
                0 => DataPtr::from_prp(bench.base, bench.base),
                _ => DataPtr::from_sgl(SglDescriptor::segment(bench.base, 256, raw[0] & 1 == 0)),
            };
        }
        if let Ok(segments) = bench.dma.segments(&sqe, len, Direction::ToMemory) {
            prop_assert_eq!(segments.iter().map(|segment| segment.len).sum::<usize>(), len);
        }
    }
}
