//! What a host is told when the kernel fails a call: errno as the block layer
//! gives it (`block/blk-core.c`, the table of `blk_status_t`), and its status.

use rustix::io::Errno;
use sidelane_nvme::spec::Status;

use super::Operation;

/// The errno in a call's answer below zero; EIO for a number that is none.
pub(in crate::backend) fn of(result: i32) -> Errno {
    match result.checked_neg() {
        Some(number @ 1..=4095) => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

/// The status for the failure of a call. `peer`: its data is in memory of a
/// device, and the kernel may refuse to bring the two together.
pub(in crate::backend) fn status(errno: Errno, operation: Operation, peer: bool) -> Status {
    let moves = matches!(operation, Operation::Read | Operation::Write { .. });
    match errno {
        // The kernel does not take this memory for this storage, or the device
        // cannot reach it.
        Errno::INVAL | Errno::REMOTEIO | Errno::FAULT if peer && moves => {
            Status::DATA_TRANSFER_ERROR
        }
        // Memory that is no memory any more.
        Errno::FAULT => Status::DATA_TRANSFER_ERROR,
        Errno::IO | Errno::NODATA | Errno::REMOTEIO => match operation {
            Operation::Read => Status::UNRECOVERED_READ_ERROR,
            Operation::Write { .. } => Status::WRITE_FAULT,
            _ => Status::INTERNAL_ERROR,
        },
        Errno::ILSEQ => Status::GUARD_CHECK_ERROR,
        // The storage is gone, or the way to it.
        Errno::NODEV | Errno::NXIO | Errno::NOLINK | Errno::SHUTDOWN | Errno::BADF => {
            Status::INTERNAL_PATH_ERROR
        }
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Status::CAPACITY_EXCEEDED,
        // To be tried again: it took too long, or the kernel is short of
        // something.
        Errno::TIMEDOUT | Errno::TIME | Errno::NOMEM | Errno::BUSY | Errno::AGAIN | Errno::INTR => {
            Status::COMMAND_INTERRUPTED
        }
        Errno::CANCELED => Status::ABORT_REQUESTED,
        Errno::BADE => Status::RESERVATION_CONFLICT,
        Errno::ROFS | Errno::PERM | Errno::ACCESS => Status::NAMESPACE_WRITE_PROTECTED,
        Errno::OPNOTSUPP if !moves => Status::INVALID_OPCODE.with_dnr(true),
        _ => Status::INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Operation = Operation::Read;
    const WRITE: Operation = Operation::Write { fua: false };

    #[rstest::rstest]
    #[case::media_read(Errno::IO, READ, Status::UNRECOVERED_READ_ERROR)]
    #[case::media_write(Errno::IO, WRITE, Status::WRITE_FAULT)]
    #[case::media_flush(Errno::IO, Operation::Flush, Status::INTERNAL_ERROR)]
    #[case::critical_medium(Errno::NODATA, READ, Status::UNRECOVERED_READ_ERROR)]
    #[case::pulled(Errno::NODEV, READ, Status::INTERNAL_PATH_ERROR)]
    #[case::no_such_address(Errno::NXIO, WRITE, Status::INTERNAL_PATH_ERROR)]
    #[case::transport(Errno::NOLINK, WRITE, Status::INTERNAL_PATH_ERROR)]
    #[case::full(Errno::NOSPC, WRITE, Status::CAPACITY_EXCEEDED)]
    #[case::quota(Errno::DQUOT, WRITE, Status::CAPACITY_EXCEEDED)]
    #[case::late(Errno::TIMEDOUT, READ, Status::COMMAND_INTERRUPTED)]
    #[case::short_of_memory(Errno::NOMEM, READ, Status::COMMAND_INTERRUPTED)]
    #[case::given_up(Errno::CANCELED, WRITE, Status::ABORT_REQUESTED)]
    #[case::reserved(Errno::BADE, WRITE, Status::RESERVATION_CONFLICT)]
    #[case::read_only(Errno::ROFS, WRITE, Status::NAMESPACE_WRITE_PROTECTED)]
    #[case::protection(Errno::ILSEQ, READ, Status::GUARD_CHECK_ERROR)]
    #[case::not_supported(Errno::OPNOTSUPP, Operation::Zeroes { fua: false }, Status::INVALID_OPCODE.with_dnr(true))]
    #[case::of_no_known_kind(Errno::XDEV, READ, Status::INTERNAL_ERROR)]
    fn a_failed_call_ends_with_the_status_that_says_why(
        #[case] errno: Errno,
        #[case] operation: Operation,
        #[case] expected: Status,
    ) {
        assert_eq!(status(errno, operation, false), expected);
    }

    #[rstest::rstest]
    #[case(Errno::INVAL)]
    #[case(Errno::REMOTEIO)]
    #[case(Errno::FAULT)]
    fn memory_of_a_device_that_the_kernel_refuses_is_a_failed_transfer(#[case] errno: Errno) {
        for operation in [READ, WRITE] {
            assert_eq!(
                status(errno, operation, true),
                Status::DATA_TRANSFER_ERROR,
                "{operation:?}"
            );
        }
        // What moves no data has nothing to do with that memory.
        assert_ne!(
            status(Errno::INVAL, Operation::Flush, true),
            Status::DATA_TRANSFER_ERROR
        );
    }

    #[test]
    fn no_failure_is_ever_told_as_success() {
        for raw in 1..200 {
            for operation in [
                READ,
                WRITE,
                Operation::Flush,
                Operation::Zeroes { fua: true },
                Operation::Deallocate,
            ] {
                for peer in [false, true] {
                    let status = status(Errno::from_raw_os_error(raw), operation, peer);
                    assert!(!status.is_success(), "errno {raw}, {operation:?}");
                }
            }
        }
    }
}
