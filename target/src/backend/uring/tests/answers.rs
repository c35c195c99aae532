//! What the kernel's answers mean.

use super::super::ring::{Call, Memory};
use super::*;
use rustix::fs::FallocateFlags;

const BLOCK: u32 = 4096;

fn bytes() -> Bytes {
    Bytes {
        block_bytes: BLOCK,
        discard: Discard::Command,
    }
}

fn task(operation: Operation, blocks: u32) -> Task {
    super::task(operation, 10, blocks)
}

const fn errno(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

#[rstest::rstest]
#[case::read(Operation::Read)]
#[case::written(Operation::Write { fua: true })]
fn what_a_short_transfer_left_is_asked_for_again(#[case] operation: Operation) {
    let mut task = task(operation, 4);
    let mut kind = bytes();
    // One block and a half: direct I/O goes on at the second block.
    assert_eq!(kind.ended(&mut task, 6000), Next::Again);
    let (at, skip) = (11 * u64::from(BLOCK), BLOCK as usize);
    let rest = match operation {
        Operation::Read => Call::Read { at, skip },
        _ => Call::Write {
            at,
            skip,
            durable: true,
        },
    };
    assert_eq!(kind.call(&task), Ok(rest));
    assert_eq!(kind.ended(&mut task, 3 * 4096), Next::Done(Status::SUCCESS));
}

#[rstest::rstest]
#[case(Operation::Read, 0, Status::UNRECOVERED_READ_ERROR)]
#[case(Operation::Read, 100, Status::UNRECOVERED_READ_ERROR)]
#[case(Operation::Write { fua: false }, 0, Status::WRITE_FAULT)]
fn a_transfer_that_gets_nowhere_fails(
    #[case] operation: Operation,
    #[case] result: i32,
    #[case] expected: Status,
) {
    let ended = bytes().ended(&mut task(operation, 4), result);
    assert_eq!(ended, Next::Done(expected));
}

#[test]
fn a_call_that_the_kernel_had_no_means_for_is_made_again_but_not_for_ever() {
    let mut task = task(Operation::Read, 1);
    let mut kind = bytes();
    for _ in 0..RETRIES {
        assert_eq!(kind.ended(&mut task, errno(Errno::AGAIN)), Next::Again);
    }
    let last = kind.ended(&mut task, errno(Errno::AGAIN));
    assert_eq!(last, Next::Done(Status::COMMAND_INTERRUPTED));
}

#[test]
fn zeroes_that_must_survive_power_loss_are_followed_by_a_flush() {
    let mut task = task(Operation::Zeroes { fua: true }, 2);
    let mut kind = bytes();
    let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let (at, len) = (10 * u64::from(BLOCK), 2 * u64::from(BLOCK));
    assert_eq!(kind.call(&task), Ok(Call::Fallocate { at, len, mode }));
    assert_eq!(kind.ended(&mut task, 0), Next::Again);
    assert_eq!(kind.call(&task), Ok(Call::Sync));
    assert_eq!(kind.ended(&mut task, 0), Next::Done(Status::SUCCESS));
}

/// A task that gives up these ranges.
fn deallocation(ranges: &[DsmRange]) -> Task {
    let mut task = task(Operation::Deallocate, 1);
    let region = task.memory.as_ref().unwrap().region().clone();
    region.view().write(0, ranges.as_bytes()).unwrap();
    let data = whole(&region, size_of_val(ranges));
    task.memory = Some(Memory::new(data).unwrap());
    task
}

#[test]
fn a_kernel_without_the_discard_command_is_asked_for_holes() {
    let ranges = [DsmRange::new(1, 2), DsmRange::new(7, 1)];
    let mut task = deallocation(&ranges);
    let mut kind = bytes();
    let (at, len) = (4096, 8192);
    assert_eq!(kind.call(&task), Ok(Call::Discard { at, len }));
    assert_eq!(kind.ended(&mut task, errno(Errno::OPNOTSUPP)), Next::Again);
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(kind.call(&task), Ok(Call::Fallocate { at, len, mode }));
    assert_eq!(kind.ended(&mut task, 0), Next::Again);
    let (at, len) = (7 * 4096, 4096);
    assert_eq!(kind.call(&task), Ok(Call::Fallocate { at, len, mode }));
    // A device that cannot is no reason to fail what is only a hint.
    let ended = kind.ended(&mut task, errno(Errno::OPNOTSUPP));
    assert_eq!(ended, Next::Done(Status::SUCCESS));
    assert_eq!(kind.call(&deallocation(&[])), Err(Status::SUCCESS));
}

#[test]
fn memory_that_the_kernel_refuses_is_a_failed_transfer() {
    let mut task = task(Operation::Read, 1);
    task.peer = true;
    let ended = bytes().ended(&mut task, errno(Errno::REMOTEIO));
    assert_eq!(ended, Next::Done(Status::DATA_TRANSFER_ERROR));
}
