//! How data is named to the controller, at the edges: the bytes that it touches
//! are those of the command, in order, and what is too long is not sent.

use std::ops::Range;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::model::{Direction, ModelNamespace, Purpose, Touch};

/// Memory for data, and the most that one command carries.
const ROOM: usize = 4 << 20;
const MOST: usize = 2 << 20;
const PAGE: u64 = 4096;

/// Where a command's data is, and what it becomes.
#[derive(Debug, Clone, Copy)]
struct Shape {
    write: bool,
    offset: usize,
    len: usize,
}

/// A controller that takes 2^`mdts` pages at once, with a namespace of such blocks.
fn stand(block: usize, sgl: bool, mdts: u8) -> (Bench, Controller<ModelBacking>) {
    let namespace = ModelNamespace::of_bytes(8 << 20);
    let namespace = match block {
        4096 => namespace.in_4k_blocks(),
        _ => namespace,
    };
    let model = ModelOptions {
        namespaces: vec![namespace],
        mdts,
        ..ModelOptions::default()
    };
    let bench = Bench::new(model.clone(), model);
    let options = Options {
        prefer_sgl: sgl,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    assert_eq!(controller.uses_sgl(), sgl);
    (bench, controller)
}

fn command(region: &Region, block: usize, shape: Shape) -> IoCommand<'_> {
    let Shape { write, offset, len } = shape;
    let data = DataPointer {
        region,
        offset,
        len,
    };
    let (nsid, slba, blocks) = (1, 3, (len / block) as u32);
    match write {
        true => IoCommand::Write {
            nsid,
            slba,
            blocks,
            data,
            fua: false,
        },
        false => IoCommand::Read {
            nsid,
            slba,
            blocks,
            data,
        },
    }
}

/// Runs the command and holds what the controller has touched against its data.
fn check_touched(block: usize, sgl: bool, shape: Shape) {
    let (bench, controller) = stand(block, sgl, 0);
    let region = host(&bench.bus, ROOM);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    bench.near.restart_record(true);
    let status = run(&mut queue, command(&region, block, shape));
    assert_eq!(status, Status::SUCCESS, "{shape:?}");

    let touched = bench.near.touched();
    assert_eq!((touched.faults, touched.unrecorded), (0, 0));
    let of = |purpose| {
        touched
            .record
            .iter()
            .filter(move |it| it.purpose == purpose)
    };
    let direction = match shape.write {
        true => Direction::FromMemory,
        false => Direction::ToMemory,
    };
    assert!(of(Purpose::Data).all(|touch| touch.direction == direction));

    let first = region.iova() + shape.offset as u64;
    let end = first + shape.len as u64;
    let mut at = first;
    for Touch { range, .. } in of(Purpose::Data) {
        assert_eq!(range.start, at, "the next byte, {shape:?}");
        assert!(range.end > at);
        at = range.end;
    }
    assert_eq!(at, end, "all bytes and no more, {shape:?}");

    // A list stands where data is in more than two pages, and has an entry for
    // each but the first.
    let pages = end.div_ceil(PAGE) - first / PAGE;
    let expected = match pages {
        3.. if !sgl => (pages - 1) * 8,
        _ => 0,
    };
    let length = |range: &Range<u64>| range.end - range.start;
    let list: u64 = of(Purpose::List).map(|touch| length(&touch.range)).sum();
    assert_eq!(list, expected, "{pages} pages");
}

#[rstest]
fn at_every_edge_of_pages_and_lists_the_bytes_of_the_command_are_touched(
    #[values(512, 4096)] block: usize,
    #[values(false, true)] sgl: bool,
    #[values(false, true)] write: bool,
) {
    for offset in [0, 4, 508, 512, 4092, 4096, 4100] {
        for len in [1, 2, 3, 8, 9, 16, 17, 511].map(|blocks| blocks * block) {
            check_touched(block, sgl, Shape { write, offset, len });
        }
    }
}

/// The longest command, whose list fills a page where the data begins inside one.
#[rstest]
fn the_longest_command_is_named_whole_wherever_it_begins(
    #[values(512, 4096)] block: usize,
    #[values(false, true)] sgl: bool,
    #[values(0, 4, 512, 4092)] offset: usize,
    #[values(0, 1)] less: usize,
) {
    let len = MOST - less * block;
    let write = true;
    check_touched(block, sgl, Shape { write, offset, len });
}

#[rstest]
fn data_that_is_longer_than_the_controller_takes_is_not_sent(
    #[values(512, 4096)] block: usize,
    #[values(false, true)] sgl: bool,
    #[values((1, 8 << 10), (5, 128 << 10), (8, 1 << 20), (9, MOST), (10, MOST), (255, MOST), (0, MOST))]
    limit: (u8, usize),
    #[values(0, 4)] offset: usize,
) {
    let (mdts, max) = limit;
    let (bench, controller) = stand(block, sgl, mdts);
    assert_eq!(controller.max_transfer_bytes(), max);
    let region = host(&bench.bus, ROOM);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let shape = |len| Shape {
        write: false,
        offset,
        len,
    };
    for len in [max - block, max] {
        let status = run(&mut queue, command(&region, block, shape(len)));
        assert_eq!(status, Status::SUCCESS, "{len} bytes");
    }
    let len = max + block;
    let refused = queue.submit(command(&region, block, shape(len)), 1);
    assert_eq!(refused, Err(SubmitError::TooLong { len, max }));
    assert_eq!(queue.outstanding(), 0);
}

#[rstest]
fn data_at_an_address_that_is_no_dword_is_not_sent(
    #[values(512, 4096)] block: usize,
    #[values(false, true)] sgl: bool,
    #[values(1, 2, 3, 4094, 4097)] offset: usize,
) {
    let (bench, controller) = stand(block, sgl, 0);
    let region = host(&bench.bus, ROOM);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let shape = Shape {
        write: true,
        offset,
        len: block,
    };
    let iova = region.iova() + offset as u64;
    let refused = queue.submit(command(&region, block, shape), 1);
    assert_eq!(refused, Err(SubmitError::Misaligned { iova }));
}

#[rstest]
#[case(0)]
#[case(2)]
#[case(crate::spec::NSID_ALL)]
fn data_for_a_namespace_that_there_is_not_is_not_sent(#[case] nsid: u32) {
    let (bench, controller) = stand(512, false, 0);
    let region = host(&bench.bus, ROOM);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 512,
    };
    let read = |nsid| IoCommand::Read {
        nsid,
        slba: 0,
        blocks: 1,
        data,
    };
    let unknown = Err(SubmitError::UnknownNamespace(nsid));
    assert_eq!(queue.submit(read(nsid), 1), unknown);
    assert!(run(&mut queue, read(1)).is_success());
    assert_eq!(queue.submit(read(nsid), 1), unknown);
}

/// Depths asked for, and what CAP.MQES makes of them.
#[rstest]
#[case(1, 2, 1)]
#[case(1, 64, 1)]
#[case(2, 64, 2)]
#[case(15, 15, 14)]
#[case(15, 16, 15)]
#[case(15, 17, 15)]
#[case(1023, 0xffff, 1023)]
#[case(0xffff, 0xffff, 0x7fff)]
fn a_queue_holds_what_the_controller_allows_and_no_more(
    #[case] mqes_z: u16,
    #[case] depth: u16,
    #[case] capacity: usize,
) {
    let model = ModelOptions {
        mqes_z,
        ..ModelOptions::default()
    };
    let bench = Bench::new(model.clone(), model);
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(depth).unwrap();
    assert_eq!(queue.capacity(), capacity);
    // Twice, so that both rings have wrapped.
    for _ in 0..2 {
        for tag in 0..capacity as u64 {
            queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
        }
        let full = queue.submit(IoCommand::Flush { nsid: 1 }, 0);
        assert_eq!(full, Err(SubmitError::QueueFull));
        queue.ring();
        let mut expected = 0..;
        queue.poll(usize::MAX, |end| {
            assert_eq!(Some(end.tag), expected.next());
            assert!(end.status.is_success());
        });
        assert_eq!(expected.start, capacity as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_is_touched_is_what_was_named_for_any_place_and_length(
        large_blocks: bool, sgl: bool, write: bool, dwords in 0..(ROOM - MOST) / 4,
        blocks in prop_oneof![1usize..40, 1usize..=MOST / 512],
    ) {
        let block = if large_blocks { 4096 } else { 512 };
        let len = blocks.min(MOST / block) * block;
        check_touched(block, sgl, Shape { write, offset: dwords * 4, len });
    }
}
