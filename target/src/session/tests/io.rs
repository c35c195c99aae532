//! I/O commands: what reaches the backend, and what does not.

use sidelane_nvme::spec::{
    DatasetManagement, DsmRange, NSID_ALL, NvmOpcode, ReadWrite, Sqe, Status, WriteZeroes,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::host::*;
use crate::session::{BlockRange, CloseReason, IoOp, Step, dsm_ranges};
use crate::subsystem::NSID_MAX;

const BLOCKS: u64 = 1 << 20;

fn rw(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32) -> ReadWrite {
    let mut command = ReadWrite::from(sqe(opcode.into_bits(), nsid));
    command.slba = U64::new(slba);
    command.cdw12.set_nlb_z((blocks - 1) as u16);
    command
}

#[test]
fn reads_and_writes_are_checked_against_namespace_and_length() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let range = Status::LBA_OUT_OF_RANGE;
    let field = Status::INVALID_FIELD;
    let length = Status::DATA_SGL_LENGTH_INVALID;
    let namespace = Status::INVALID_NAMESPACE;
    let (read, write) = (NvmOpcode::Read, NvmOpcode::Write);
    let cases = [
        (rw(read, 1, 0, 1), 512, Status::SUCCESS),
        (rw(write, 1, BLOCKS - 8, 8), 4096, Status::SUCCESS),
        (rw(write, 2, 0, 256), 1 << 20, Status::SUCCESS),
        (rw(read, 3, 0, 1), 512, Status::SUCCESS),
        (rw(write, 3, 0, 1), 512, Status::NAMESPACE_WRITE_PROTECTED),
        (rw(read, 1, BLOCKS, 1), 512, range),
        (rw(read, 1, BLOCKS - 7, 8), 4096, range),
        (rw(write, 1, u64::MAX, 1), 512, range),
        (rw(write, 1, u64::MAX - 1, 65536), 512, range),
        (rw(read, 1, 0, 2049), 2049 * 512, field),
        (rw(read, 2, 0, 65536), 1 << 28, field),
        (rw(read, 1, 0, 8), 4095, length),
        (rw(read, 1, 0, 8), 8192, length),
        (rw(write, 1, 0, 8), 0, length),
        (rw(read, 0, 0, 1), 512, namespace),
        (rw(read, NSID_ALL, 0, 1), 512, namespace),
        (rw(read, NSID_MAX + 1, 0, 1), 512, namespace),
        (rw(read, 4, 0, 1), 512, field),
    ];
    for (at, (command, len, status)) in cases.into_iter().enumerate() {
        let outcome = io.send(command, &[], len);
        assert!(outcome.is(status), "case {at}: {}", outcome.status());
        assert_eq!(outcome.io.is_some(), status == Status::SUCCESS, "case {at}");
    }
}

#[test]
fn flags_that_are_not_supported_are_refused_and_fua_is_passed_on() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut command = rw(NvmOpcode::Write, 1, 4, 1);
    command.cdw12.set_fua(true);
    let request = io.send(command, &[], 512).io.unwrap();
    assert!(request.fua && request.op == IoOp::Write && request.backend == 10);
    command.cdw12.set_dtype(1);
    assert!(io.send(command, &[], 512).is(Status::INVALID_FIELD));
    for prinfo in 1..16 {
        let mut command = rw(NvmOpcode::Read, 1, 4, 1);
        command.cdw12.set_prinfo(prinfo);
        assert!(
            io.send(command, &[], 512)
                .is(Status::INVALID_PROTECTION_INFORMATION)
        );
    }
}

#[test]
fn a_malformed_data_pointer_counts_only_where_data_are_transferred() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let bad = Err(Status::SGL_TYPE_INVALID);
    let mut command: Sqe = rw(NvmOpcode::Read, 1, 0, 1).into();
    command.cdw0.set_cid(100);
    assert!(
        io.send_as_is(&command, &[], bad)
            .is(Status::SGL_TYPE_INVALID)
    );
    let mut flush = sqe(NvmOpcode::Flush.into_bits(), 1);
    flush.cdw0.set_cid(100);
    assert!(io.send_as_is(&flush, &[], bad).is(Status::SUCCESS));
}

#[test]
fn flush_reaches_the_backend_where_there_is_a_cache() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let flush = |nsid| sqe(NvmOpcode::Flush.into_bits(), nsid);
    assert_eq!(io.send(flush(1), &[], 0).io.unwrap().op, IoOp::Flush);
    let without_cache = io.send(flush(5), &[], 0);
    assert!(without_cache.is(Status::SUCCESS) && without_cache.io.is_none());
    for nsid in [0, NSID_ALL, NSID_MAX + 1] {
        assert!(
            io.send(flush(nsid), &[], 0).is(Status::INVALID_NAMESPACE),
            "{nsid:#x}"
        );
    }
}

#[test]
fn write_zeroes_is_bounded_and_transfers_nothing() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut command = WriteZeroes::from(sqe(NvmOpcode::WriteZeroes.into_bits(), 1));
    command.cdw12.set_nlb_z(2047);
    command.cdw12.set_deac(true);
    let request = io.send(command, &[], 0).io.unwrap();
    assert_eq!(request.op, IoOp::WriteZeroes { deallocate: true });
    assert_eq!((request.blocks, request.bytes), (2048, 0));
    command.nsid = U32::new(5);
    let request = io.send(command, &[], 0).io.unwrap();
    assert_eq!(request.op, IoOp::WriteZeroes { deallocate: false });
    command.nsid = U32::new(3);
    assert!(
        io.send(command, &[], 0)
            .is(Status::NAMESPACE_WRITE_PROTECTED)
    );
    command.nsid = U32::new(1);
    command.slba = U64::new(BLOCKS - 2047);
    assert!(io.send(command, &[], 0).is(Status::LBA_OUT_OF_RANGE));
    command.slba = U64::new(0);
    command.cdw12.set_nlb_z(2048);
    assert!(io.send(command, &[], 0).is(Status::INVALID_FIELD));
}

fn dsm(nsid: u32, ranges: u16) -> DatasetManagement {
    let mut command = DatasetManagement::from(sqe(NvmOpcode::DatasetManagement.into_bits(), nsid));
    command.nr_z = (ranges - 1) as u8;
    command.attributes.set_deallocate(true);
    command
}

#[test]
fn a_deallocation_reaches_the_backend_with_its_ranges_checked() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let ranges = [
        DsmRange::new(8, 8),
        DsmRange::new(0, 0),
        DsmRange::new(BLOCKS - 1, 1),
    ];
    // As Linux does it: room for 256 ranges, three of them used.
    let outcome = io.send(dsm(1, 3), ranges.as_bytes(), 4096);
    assert_eq!(outcome.io.unwrap().op, IoOp::Deallocate { ranges: 3 });
    let found: Vec<BlockRange> = dsm_ranges(ranges.as_bytes()).collect();
    let expected = [(8, 8), (BLOCKS - 1, 1)].map(|(slba, blocks)| BlockRange { slba, blocks });
    assert_eq!(found, expected);
    let full = vec![DsmRange::new(0, 1); 256];
    assert!(io.send(dsm(1, 256), full.as_bytes(), 4096).io.is_some());
    for bad in [
        DsmRange::new(BLOCKS, 1),
        DsmRange::new(u64::MAX, u32::MAX),
        DsmRange::new(1, u32::MAX),
    ] {
        let ranges = [DsmRange::new(0, 1), bad];
        assert!(
            io.send(dsm(1, 2), ranges.as_bytes(), 32)
                .is(Status::LBA_OUT_OF_RANGE)
        );
    }
    assert!(
        io.send(dsm(1, 2), &[], 31)
            .is(Status::DATA_SGL_LENGTH_INVALID)
    );
    assert!(
        io.send(dsm(3, 1), &[], 16)
            .is(Status::NAMESPACE_WRITE_PROTECTED)
    );
    assert!(
        io.send(dsm(NSID_ALL, 1), &[], 16)
            .is(Status::INVALID_NAMESPACE)
    );
}

#[test]
fn hints_come_to_nothing() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut hint = dsm(1, 1);
    hint.attributes.set_deallocate(false);
    hint.attributes.set_idr(true);
    for command in [hint, dsm(5, 1)] {
        let outcome = io.send(command, &[], 16);
        assert!(outcome.is(Status::SUCCESS) && outcome.io.is_none());
    }
}

#[test]
fn every_other_opcode_is_an_invalid_opcode() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let known = [0x00, 0x01, 0x02, 0x08, 0x09];
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        // 0x7f is Property Set here, which is for admin queues.
        assert!(
            io.send(sqe(opcode, 0), &[], 512).is(Status::INVALID_OPCODE),
            "{opcode:#x}"
        );
    }
}

#[test]
fn a_command_identifier_in_use_is_a_conflict_and_the_first_command_goes_on() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let mut command: Sqe = rw(NvmOpcode::Read, 1, 0, 1).into();
    command.cdw0.set_cid(77);
    let Step::Io(_) = io.session.command(&command, Ok(512), io.now) else {
        panic!("a read goes to the backend")
    };
    assert!(
        io.send_as_is(&command, &[], Ok(512))
            .is(Status::COMMAND_ID_CONFLICT)
    );
    assert!(
        io.send_as_is(&command, &[], Ok(512))
            .is(Status::COMMAND_ID_CONFLICT)
    );
    assert_eq!(io.session.queue().outstanding(), 1);
    io.session.completed(77, crate::session::Completion::OK);
    assert!(io.send_as_is(&command, &[], Ok(512)).is(Status::SUCCESS));
    assert_eq!(io.session.queue().outstanding(), 0);
}

#[test]
fn a_host_that_sends_more_than_the_queue_holds_is_disconnected() {
    let lab = Lab::new();
    let admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    for cid in 0..128 {
        let mut command: Sqe = rw(NvmOpcode::Read, 1, 0, 1).into();
        command.cdw0.set_cid(1000 + cid);
        assert!(
            matches!(io.session.command(&command, Ok(512), io.now), Step::Io(_)),
            "{cid}"
        );
    }
    let outcome = io.send(rw(NvmOpcode::Read, 1, 0, 1), &[], 512);
    assert_eq!(outcome.close, Some(CloseReason::QueueOverrun));
}
