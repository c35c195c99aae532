//! Reading and writing through every kind of memory.

use proptest::prelude::*;

use super::*;
use crate::model::{ModelNamespace, PayloadBytes};
use crate::spec::{DsmRange, NSID_ALL};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Memory {
    Host,
    OwnCmb,
    OtherCmb,
}

/// Writes from one memory, reads into it at another place, compares, and checks
/// which memory the controller has touched.
fn round_trip(memory: Memory, offset: usize, len: usize, prefer_sgl: bool) {
    let bench = Bench::with_cmbs();
    let options = Options {
        prefer_sgl,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    let far = open(&bench.far);
    let mut queue = controller.create_io_queue_pair(16).unwrap();
    let region = match memory {
        Memory::Host => host(&bench.bus, 8 << 20),
        Memory::OwnCmb => cmb_of(&controller),
        Memory::OtherCmb => cmb_of(&far),
    };
    bench.near.restart_record(false);
    let data = pattern(len as u64, len);
    let back = (4 << 20) + offset;
    region.view().write(offset, &data).unwrap();
    let blocks = (len / 512) as u32;
    let at = |offset| DataPointer {
        region: &region,
        offset,
        len,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 9,
        blocks,
        data: at(offset),
        fua: true,
    };
    assert_eq!(run(&mut queue, write), Status::SUCCESS);
    let read = IoCommand::Read {
        nsid: 1,
        slba: 9,
        blocks,
        data: at(back),
    };
    assert_eq!(run(&mut queue, read), Status::SUCCESS);

    assert!(
        bytes_of(&region, back, len) == data,
        "what was written is read"
    );
    let around = bytes_of(&region, back - 64, len + 128);
    assert!(
        around[..64] == [0; 64] && around[len + 64..] == [0; 64],
        "and nothing else"
    );
    let mut media = vec![0; len];
    bench.near.read_media(1, 9 * 512, &mut media).unwrap();
    assert!(media == data);
    let moved = 2 * len as u64;
    let expected = match memory {
        Memory::Host => PayloadBytes {
            host: moved,
            ..PayloadBytes::default()
        },
        Memory::OwnCmb => PayloadBytes {
            own_cmb: moved,
            ..PayloadBytes::default()
        },
        Memory::OtherCmb => PayloadBytes {
            peer: moved,
            ..PayloadBytes::default()
        },
    };
    assert_eq!(bench.near.touched().payload, expected);
    assert_eq!(bench.near.touched().faults, 0);
}

#[rstest::rstest]
fn what_is_written_from_any_memory_is_read_back(
    #[values(Memory::Host, Memory::OwnCmb, Memory::OtherCmb)] memory: Memory,
    #[values(
        (0, 512), (0, 4096), (0, 8192), (0, 12288), (0, 2 << 20),
        (512, 4096), (3584, 512), (3584, 1024), (3584, 8192), (4092, 8192), (64, 131072),
        (2048, 2 << 20), (4092, 2 << 20),
    )]
    place: (usize, usize),
    #[values(false, true)] prefer_sgl: bool,
) {
    let (offset, len) = place;
    // Where the read goes there must be room before it.
    round_trip(memory, offset, len, prefer_sgl);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_dword_aligned_place_of_any_length_will_do(
        dwords in 0usize..2048, blocks in 1usize..600,
    ) {
        round_trip(Memory::OwnCmb, dwords * 4, blocks * 512, false);
    }
}

fn bench_with_queue() -> (
    Bench,
    Controller<ModelBacking>,
    IoQueuePair<ModelBacking>,
    Region,
) {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let queue = controller.create_io_queue_pair(16).unwrap();
    let region = host(&bench.bus, 4 << 20);
    (bench, controller, queue, region)
}

#[test]
fn errors_of_the_controller_come_back_as_its_status() {
    let (_bench, _controller, mut queue, region) = bench_with_queue();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 512,
    };
    let cases = [
        (
            IoCommand::Read {
                nsid: 1,
                slba: 131_072,
                blocks: 1,
                data,
            },
            Status::LBA_OUT_OF_RANGE,
        ),
        (
            IoCommand::Read {
                nsid: 1,
                slba: u64::MAX,
                blocks: 1,
                data,
            },
            Status::LBA_OUT_OF_RANGE,
        ),
        (IoCommand::Flush { nsid: 9 }, Status::INVALID_NAMESPACE),
        (IoCommand::Flush { nsid: NSID_ALL }, Status::SUCCESS),
        (IoCommand::Flush { nsid: 1 }, Status::SUCCESS),
        (
            IoCommand::Deallocate {
                nsid: 1,
                ranges: &[DsmRange::new(131_000, 100)],
            },
            Status::LBA_OUT_OF_RANGE,
        ),
    ];
    for (command, expected) in cases {
        let status = run(&mut queue, command);
        assert!(status.same_code(expected), "{command:?}: {status}");
    }
}

#[test]
fn commands_that_are_not_well_formed_are_not_sent() {
    let (bench, controller, mut queue, region) = bench_with_queue();
    let max = controller.max_transfer_bytes();
    let data = |offset, len| DataPointer {
        region: &region,
        offset,
        len,
    };
    let read = |blocks, data| IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks,
        data,
    };
    let cases = [
        (
            read(0, data(0, 0)),
            SubmitError::WrongLength { blocks: 0, len: 0 },
        ),
        (
            read(2, data(0, 512)),
            SubmitError::WrongLength {
                blocks: 2,
                len: 512,
            },
        ),
        (
            read(70_000, data(0, 512)),
            SubmitError::WrongLength {
                blocks: 70_000,
                len: 512,
            },
        ),
        (
            read(4097, data(0, max + 512)),
            SubmitError::TooLong {
                len: max + 512,
                max,
            },
        ),
        (
            read(1, data(2, 512)),
            SubmitError::Misaligned {
                iova: region.iova() + 2,
            },
        ),
        (
            IoCommand::Read {
                nsid: 2,
                slba: 0,
                blocks: 1,
                data: data(0, 512),
            },
            SubmitError::UnknownNamespace(2),
        ),
        (
            IoCommand::Deallocate {
                nsid: 1,
                ranges: &[],
            },
            SubmitError::WrongRangeCount(0),
        ),
    ];
    for (command, expected) in cases {
        assert_eq!(queue.submit(command, 0), Err(expected));
    }
    for offset in [region.len() - 511, region.len(), usize::MAX] {
        let outside = queue.submit(read(1, data(offset, 512)), 0);
        assert!(matches!(outside, Err(SubmitError::OutOfRange(_))));
    }
    assert_eq!((queue.outstanding(), queue.stats().submitted), (0, 0));
    bench.near.restart_record(true);
    queue.ring();
    assert!(
        bench.near.touched().record.is_empty(),
        "no doorbell without command"
    );
}

#[test]
fn the_controllers_limit_of_data_is_obeyed() {
    let options = ModelOptions {
        mdts: 5,
        ..ModelOptions::default()
    };
    let bench = Bench::new(
        options,
        ModelOptions {
            mdts: 0,
            ..ModelOptions::default()
        },
    );
    assert_eq!(open(&bench.near).max_transfer_bytes(), 128 << 10);
    assert_eq!(open(&bench.far).max_transfer_bytes(), 2 << 20);
}

#[test]
fn zeroes_and_deallocated_blocks_read_as_zeros() {
    let (bench, _controller, mut queue, region) = bench_with_queue();
    let len = 64 * 512;
    region.view().write(0, &vec![0xff; len]).unwrap();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 0,
        blocks: 64,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    let zeroes = IoCommand::WriteZeroes {
        nsid: 1,
        slba: 2,
        blocks: 3,
        deallocate: true,
        fua: false,
    };
    assert!(run(&mut queue, zeroes).is_success());
    let ranges = [DsmRange::new(10, 1), DsmRange::new(63, 1)];
    assert!(
        run(
            &mut queue,
            IoCommand::Deallocate {
                nsid: 1,
                ranges: &ranges
            }
        )
        .is_success()
    );
    let mut media = vec![0; len];
    bench.near.read_media(1, 0, &mut media).unwrap();
    for (block, bytes) in media.chunks(512).enumerate() {
        let zero = matches!(block, 2..=4 | 10 | 63);
        assert!(
            bytes
                .iter()
                .all(|byte| *byte == if zero { 0 } else { 0xff }),
            "block {block}"
        );
    }
}

#[test]
fn as_many_ranges_as_a_command_holds_are_deallocated() {
    let (bench, _controller, mut queue, region) = bench_with_queue();
    region.view().write(0, &vec![0xff; 1 << 20]).unwrap();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 1 << 20,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 0,
        blocks: 2048,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    let ranges: Vec<_> = (0..256).map(|i| DsmRange::new(i * 8, 1)).collect();
    assert!(
        run(
            &mut queue,
            IoCommand::Deallocate {
                nsid: 1,
                ranges: &ranges
            }
        )
        .is_success()
    );
    let mut media = vec![0; 1 << 20];
    bench.near.read_media(1, 0, &mut media).unwrap();
    assert_eq!(media.iter().filter(|byte| **byte == 0).count(), 256 * 512);
}

#[test]
fn blocks_of_4_kib_are_counted_as_such() {
    let namespaces = vec![ModelNamespace::of_bytes(1 << 20).in_4k_blocks()];
    let options = ModelOptions {
        namespaces,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let region = host(&bench.bus, 8192);
    region.view().write(0, &[7; 8192]).unwrap();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 8192,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 3,
        blocks: 2,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    let mut media = [0; 8192];
    bench.near.read_media(1, 3 * 4096, &mut media).unwrap();
    assert_eq!(media, [7; 8192]);
}

#[test]
fn memory_that_is_not_mapped_any_more_gives_an_error_and_not_data() {
    let (bench, _controller, mut queue, region) = bench_with_queue();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 512,
    };
    queue
        .submit(
            IoCommand::Write {
                nsid: 1,
                slba: 0,
                blocks: 1,
                data,
                fua: false,
            },
            77,
        )
        .unwrap();
    drop(region);
    queue.ring();
    let mut status = Status::SUCCESS;
    queue.poll(1, |completion| status = completion.status);
    assert!(status.same_code(Status::DATA_TRANSFER_ERROR), "{status}");
    assert_eq!(bench.near.touched().faults, 1);
}

#[test]
fn a_comparison_tells_what_is_the_same_from_what_is_not() {
    let (bench, _controller, mut queue, region) = bench_with_queue();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 1024,
    };
    let compare = IoCommand::Compare {
        nsid: 1,
        slba: 4,
        blocks: 2,
        data,
    };
    region.view().write(0, &[0; 1024]).unwrap();
    assert!(run(&mut queue, compare).is_success());
    region.view().write(1023, &[1]).unwrap();
    let status = run(&mut queue, compare);
    assert!(status.same_code(Status::COMPARE_FAILURE), "{status}");
    let mut media = [1; 512];
    bench.near.read_media(1, 5 * 512, &mut media).unwrap();
    assert_eq!(media, [0; 512]);
}
