//! Jobs on a file.

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

const BLOCK: usize = 4096;
const BLOCKS: usize = 32;

/// A job of a story, on blocks of a disk of [`BLOCKS`].
#[derive(Debug, Clone)]
enum Deed {
    Read(Blocks),
    Write(Blocks, u8, bool),
    Flush,
    Zeroes(Blocks, bool),
    Deallocate(Vec<Blocks>),
}

fn blocks() -> impl Strategy<Value = Blocks> {
    (0..BLOCKS, 1usize..9).prop_map(|(slba, count)| Blocks {
        slba: slba as u64,
        count: count.min(BLOCKS - slba) as u32,
    })
}

fn deed() -> impl Strategy<Value = Deed> {
    let ranges = proptest::collection::vec(blocks(), 0..6);
    prop_oneof![
        3 => blocks().prop_map(Deed::Read),
        4 => (blocks(), any::<u8>(), any::<bool>()).prop_map(|(b, seed, fua)| Deed::Write(b, seed, fua)),
        1 => Just(Deed::Flush),
        2 => (blocks(), any::<bool>()).prop_map(|(b, fua)| Deed::Zeroes(b, fua)),
        2 => ranges.prop_map(Deed::Deallocate),
    ]
}

fn span(blocks: Blocks) -> std::ops::Range<usize> {
    let start = blocks.slba as usize * BLOCK;
    start..start + blocks.count as usize * BLOCK
}

/// Bytes that tell each block and each write from any other.
fn pattern(blocks: Blocks, seed: u8) -> Vec<u8> {
    let bytes = span(blocks).map(|at| seed.wrapping_add((at / BLOCK) as u8).wrapping_mul(31) | 1);
    bytes.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What was written, zeroed and given up is what is read.
    #[test]
    fn any_sequence_of_jobs_leaves_what_a_shadow_in_memory_holds(
        deeds in proptest::collection::vec(deed(), 1..40),
    ) {
        let Some(disk) = disk(BLOCKS as u64, BLOCK as u32) else { return Ok(()) };
        let shape = disk.storage.shape();
        let mut backend = disk.storage.backend(8).unwrap();
        let mut shadow = vec![0; BLOCKS * BLOCK];
        let region = memory(BLOCKS * BLOCK);
        for (deed, tag) in deeds.iter().zip(100..) {
            let job = match deed {
                Deed::Read(blocks) => Job::Read(*blocks, whole(&region, span(*blocks).len())),
                Deed::Write(blocks, seed, fua) => {
                    let bytes = pattern(*blocks, *seed);
                    region.view().write(0, &bytes).unwrap();
                    shadow[span(*blocks)].copy_from_slice(&bytes);
                    Job::Write { blocks: *blocks, data: whole(&region, bytes.len()), fua: *fua }
                }
                Deed::Flush => Job::Flush,
                Deed::Zeroes(blocks, fua) => Job::WriteZeroes { blocks: *blocks, fua: *fua },
                Deed::Deallocate(ranges) => Job::Deallocate(ranges),
            };
            if matches!(deed, Deed::Zeroes(..)) && !shape.write_zeroes {
                continue;
            }
            backend.submit(&job, tag).unwrap();
            backend.ring();
            let ended = ends(&mut *backend, 1);
            prop_assert_eq!(ended, vec![Done { tag, status: Status::SUCCESS }], "{:?}", deed);
            match deed {
                Deed::Read(blocks) => {
                    let mut read = vec![0; span(*blocks).len()];
                    region.view().read(0, &mut read).unwrap();
                    prop_assert!(read == shadow[span(*blocks)], "{:?}", deed);
                }
                Deed::Zeroes(blocks, _) => shadow[span(*blocks)].fill(0),
                Deed::Deallocate(ranges) if shape.deallocate => {
                    for range in ranges {
                        shadow[span(*range)].fill(0);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(backend.outstanding(), 0);
        }
        // The file has it all, and no other length.
        drop(backend);
        prop_assert!(std::fs::read(disk.path()).unwrap() == shadow);
    }
}

#[test]
fn a_full_queue_says_so_and_every_command_ends_once() {
    let Some(disk) = disk(64, 512) else { return };
    let mut backend = disk.storage.backend(4).unwrap();
    let region = memory(64 * 512);
    let (mut tags, mut submitted, mut full) = (Vec::new(), 0, 0);
    while tags.len() < 64 {
        let data = DataRef {
            region: &region,
            offset: submitted as usize % 64 * 512,
            len: 512,
        };
        let blocks = Blocks {
            slba: submitted,
            count: 1,
        };
        match backend.submit(&Job::Read(blocks, data), submitted) {
            Ok(()) if submitted < 64 => submitted += 1,
            outcome => {
                assert!(submitted == 64 || outcome == Err(NotTaken::Full));
                full += 1;
                backend.ring();
                tags.extend(ends(&mut *backend, 1).iter().map(|done| done.tag));
            }
        }
        assert!(backend.outstanding() <= 4);
        if submitted == 64 {
            backend.ring();
            let left = backend.outstanding();
            tags.extend(ends(&mut *backend, left).iter().map(|done| done.tag));
            break;
        }
    }
    assert!(full > 0);
    assert_eq!(tags.len(), 64);
    assert_eq!(tags.into_iter().collect::<BTreeSet<_>>(), (0..64).collect());
}

/// The kernel still reads the memory when the backend goes: it goes only when the
/// kernel is done.
#[test]
fn a_backend_that_goes_waits_for_the_kernel() {
    let Some(disk) = disk(256, 4096) else { return };
    let region = memory(256 * 4096);
    for block in 0..256usize {
        let bytes = vec![block as u8 ^ 0x5a; 4096];
        region.view().write(block * 4096, &bytes).unwrap();
    }
    let mut backend = disk.storage.backend(256).unwrap();
    for block in 0..256 {
        let data = DataRef {
            region: &region,
            offset: block * 4096,
            len: 4096,
        };
        let job = Job::Write {
            blocks: Blocks {
                slba: block as u64,
                count: 1,
            },
            data,
            fua: false,
        };
        backend.submit(&job, block as u64).unwrap();
    }
    backend.ring();
    // Half of it is asked to be given up before; the rest is when it goes.
    for tag in 0..128 {
        backend.abort(tag);
    }
    drop(backend);
    // What is still under way would write this.
    for block in 0..256 {
        region.view().write(block * 4096, &[0xff; 4096]).unwrap();
    }
    let held = std::fs::read(disk.path()).unwrap();
    for (block, bytes) in held.chunks(4096).enumerate() {
        let all = |value| bytes.iter().all(|byte| *byte == value);
        assert!(all(0) || all(block as u8 ^ 0x5a), "block {block}");
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let later = std::fs::read(disk.path()).unwrap();
    assert!(held == later, "the kernel has gone on");
}

#[test]
fn a_command_that_is_asked_to_be_given_up_still_ends_exactly_once() {
    let Some(disk) = disk(64, 4096) else { return };
    let region = memory(64 * 4096);
    let mut backend = disk.storage.backend(64).unwrap();
    for tag in 0..64 {
        let blocks = Blocks {
            slba: tag,
            count: 1,
        };
        let data = DataRef {
            region: &region,
            offset: tag as usize * 4096,
            len: 4096,
        };
        backend.submit(&Job::Read(blocks, data), tag).unwrap();
    }
    backend.ring();
    for tag in 0..64 {
        // Twice, and once for nothing.
        backend.abort(tag);
        backend.abort(tag);
        backend.abort(tag + 1000);
    }
    let ended = ends(&mut *backend, 64);
    for end in &ended {
        let expected = [Status::SUCCESS, Status::ABORT_REQUESTED];
        assert!(expected.contains(&end.status), "{end:?}");
    }
    let tags: BTreeSet<_> = ended.iter().map(|done| done.tag).collect();
    assert_eq!((ended.len(), tags.len()), (64, 64));
    // And the backend goes on.
    let data = whole(&region, 4096);
    backend
        .submit(&Job::Read(Blocks { slba: 1, count: 1 }, data), 7)
        .unwrap();
    backend.ring();
    let status = Status::SUCCESS;
    assert_eq!(ends(&mut *backend, 1), [Done { tag: 7, status }]);
}

#[test]
fn more_deallocations_than_there_are_tables_wait_and_all_end() {
    let Some(disk) = disk(64, 4096) else { return };
    let mut backend = disk.storage.backend(64).unwrap();
    let ranges: Vec<_> = (0..32)
        .map(|at| Blocks {
            slba: at * 2,
            count: 1,
        })
        .collect();
    let (mut taken, mut ended) = (0, 0);
    while ended < 40 {
        match backend.submit(&Job::Deallocate(&ranges), taken) {
            Ok(()) if taken < 40 => taken += 1,
            Ok(()) => ended -= 1,
            Err(full) => assert_eq!((full, backend.outstanding()), (NotTaken::Full, 16)),
        }
        backend.ring();
        if taken == 40 || backend.outstanding() == 16 {
            let all = backend.outstanding();
            let done = ends(&mut *backend, all);
            assert!(done.iter().all(|done| done.status.is_success()), "{done:?}");
            ended += done.len();
        }
        if taken == 40 {
            break;
        }
    }
    assert_eq!(ended, 40);
}

#[test]
fn a_file_that_has_become_shorter_gives_an_error_and_no_data() {
    let Some(disk) = disk(16, 4096) else { return };
    let mut backend = disk.storage.backend(4).unwrap();
    let region = memory(16 * 4096);
    let shorter = std::fs::OpenOptions::new()
        .write(true)
        .open(disk.path())
        .unwrap();
    shorter.set_len(2 * 4096 + 100).unwrap();
    let cases = [(0, 2, true), (8, 1, false), (1, 4, false), (2, 1, false)];
    for (slba, count, good) in cases {
        let data = whole(&region, count as usize * 4096);
        backend
            .submit(&Job::Read(Blocks { slba, count }, data), slba)
            .unwrap();
        backend.ring();
        let ended = ends(&mut *backend, 1);
        let expected = match good {
            true => Status::SUCCESS,
            false => Status::UNRECOVERED_READ_ERROR,
        };
        assert_eq!(
            ended,
            [Done {
                tag: slba,
                status: expected
            }],
            "{count} blocks from {slba} on"
        );
    }
}

#[test]
fn data_outside_its_memory_is_refused_and_blocks_beyond_all_storage_are_too() {
    let Some(disk) = disk(16, 4096) else { return };
    let mut backend = disk.storage.backend(4).unwrap();
    let region = memory(4096);
    for (offset, len) in [(1, 4096), (0, 8192), (usize::MAX, 2)] {
        let data = DataRef {
            region: &region,
            offset,
            len,
        };
        let refused = backend.submit(&Job::Read(Blocks { slba: 0, count: 1 }, data), 1);
        assert_eq!(refused, Err(NotTaken::Refused(Status::INTERNAL_ERROR)));
    }
    assert_eq!(backend.outstanding(), 0);
    let slbas = [u64::MAX, u64::MAX / 4096, i64::MAX as u64 / 4096 + 1];
    for slba in slbas {
        let blocks = Blocks { slba, count: 1 };
        backend
            .submit(&Job::Read(blocks, whole(&region, 4096)), 1)
            .unwrap();
        backend.ring();
        let ended = ends(&mut *backend, 1);
        assert_eq!(
            ended,
            [Done {
                tag: 1,
                status: Status::LBA_OUT_OF_RANGE
            }]
        );
    }
}

#[test]
fn whoever_sleeps_is_woken_by_an_end() {
    let Some(disk) = disk(16, 4096) else { return };
    let mut backend = disk.storage.backend(4).unwrap();
    let region = memory(4096);
    let job = Job::Read(Blocks { slba: 3, count: 1 }, whole(&region, 4096));
    backend.submit(&job, 1).unwrap();
    backend.ring();
    let fd = backend.event_fd().unwrap();
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1));
    let mut done = DoneList::new();
    backend.poll(Instant::now(), &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(backend.deadline(), None);
}
