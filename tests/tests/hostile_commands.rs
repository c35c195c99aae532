//! Commands that no host may send, over a good connection: each gets the status
//! that the specification names, or ends its connection, and nobody else notices.

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{
    AdminOpcode, Cns, DatasetManagement, FabricsType, Fuse, GetLogPage, GetLogPageCdw10, Identify,
    LogId, NvmOpcode, Psdt, SglDescriptor, Sqe, Status,
};
use sidelane_tests::in_process::bench::{Bench, CAPSULE, DISK, SSD_BYTES};
use sidelane_tests::in_process::raw_host::{RawHost, bare, read_write, with_sgl};
use zerocopy::IntoBytes;

const BLOCKS: u64 = SSD_BYTES / 512;

#[test]
fn io_commands_that_cannot_be_get_the_status_that_says_why() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let (read, write) = (NvmOpcode::Read, NvmOpcode::Write);
    let length = Status::DATA_SGL_LENGTH_INVALID;
    let field = Status::INVALID_FIELD;
    let range = Status::LBA_OUT_OF_RANGE;
    let namespace = Status::INVALID_NAMESPACE;
    let kind = Status::SGL_TYPE_INVALID;
    let opcode = Status::INVALID_OPCODE;
    let good = host.keyed(0, 4096);
    let fused = {
        let mut sqe = with_sgl(read_write(read, 1, 0, 8), good);
        sqe.cdw0.set_fuse(Fuse::First);
        sqe
    };
    let prp = {
        let mut sqe = with_sgl(read_write(read, 1, 0, 8), good);
        sqe.cdw0.set_psdt(Psdt::Prp);
        sqe
    };
    let ranges = |nr_z, len| {
        let mut sqe = DatasetManagement::from(with_sgl(
            Sqe::new(NvmOpcode::DatasetManagement.0, 1),
            host.keyed(0, len),
        ));
        sqe.nr_z = nr_z;
        sqe.attributes.set_deallocate(true);
        Sqe::from(sqe)
    };
    let rw = |op, nsid, lba, blocks, sgl| with_sgl(read_write(op, nsid, lba, blocks), sgl);
    let in_capsule = |at, len| SglDescriptor::in_capsule(at, len);
    let data = vec![7; 4096];
    let none: &[u8] = &[];
    let both: &[(&str, Sqe, &[u8], Status)] = &[
        (
            "a good write",
            rw(write, 1, 0, 8, good),
            none,
            Status::SUCCESS,
        ),
        (
            "a good read",
            rw(read, 1, 0, 8, good),
            none,
            Status::SUCCESS,
        ),
        (
            "host length too short",
            rw(write, 1, 0, 8, host.keyed(0, 512)),
            none,
            length,
        ),
        (
            "host length one too short",
            rw(read, 1, 0, 8, host.keyed(0, 4095)),
            none,
            length,
        ),
        (
            "host length too long",
            rw(write, 1, 0, 8, host.keyed(0, 0xff_ffff)),
            none,
            length,
        ),
        (
            "nothing named by the host",
            rw(write, 1, 0, 8, host.keyed(0, 0)),
            none,
            length,
        ),
        (
            "an address that wraps",
            rw(
                write,
                1,
                0,
                8,
                SglDescriptor::keyed(u64::MAX, 4096, 1, false).unwrap_or_default(),
            ),
            none,
            length,
        ),
        (
            "longer than any transfer",
            rw(write, 1, 0, 8192, host.keyed(0, 4 << 20)),
            none,
            field,
        ),
        ("past the end", rw(read, 1, BLOCKS, 8, good), none, range),
        (
            "over the end",
            rw(write, 1, BLOCKS - 7, 8, good),
            none,
            range,
        ),
        (
            "an address that overflows",
            rw(write, 1, u64::MAX, 8, good),
            none,
            range,
        ),
        (
            "all blocks from the end",
            rw(read, 1, u64::MAX - 65535, 65536, good),
            none,
            range,
        ),
        ("namespace 0", rw(read, 0, 0, 8, good), none, namespace),
        (
            "all namespaces",
            rw(write, u32::MAX, 0, 8, good),
            none,
            namespace,
        ),
        (
            "a namespace that is not there",
            rw(write, 3, 0, 8, good),
            none,
            field,
        ),
        (
            "a namespace past the last",
            rw(write, 1025, 0, 8, good),
            none,
            namespace,
        ),
        ("fused", fused, none, field),
        ("PRPs", prp, none, field),
        ("compare", rw(NvmOpcode(5), 1, 0, 8, good), none, opcode),
        (
            "an unknown opcode",
            rw(NvmOpcode(0xc3), 1, 0, 8, good),
            none,
            opcode,
        ),
        (
            "an opcode of the admin queue",
            rw(NvmOpcode(0x18), 1, 0, 8, good),
            none,
            opcode,
        ),
        (
            "a fabrics command of another queue",
            with_fctype(FabricsType::PropertyGet),
            none,
            opcode,
        ),
        (
            "an unknown fabrics command",
            with_fctype(FabricsType(0x77)),
            none,
            opcode,
        ),
        (
            "data by address",
            rw(write, 1, 0, 8, SglDescriptor::data_block(0x1000, 4096)),
            none,
            kind,
        ),
        (
            "a bit bucket",
            rw(read, 1, 0, 8, SglDescriptor::bit_bucket(4096)),
            none,
            kind,
        ),
        (
            "data of the transport",
            rw(write, 1, 0, 8, SglDescriptor::transport(4096)),
            none,
            kind,
        ),
        (
            "a segment in memory",
            rw(write, 1, 0, 8, SglDescriptor::segment(0x1000, 32, true)),
            none,
            kind,
        ),
        (
            "a list of more than MSDBD",
            rw(
                write,
                1,
                0,
                8,
                SglDescriptor::in_capsule_segment(0, 17 * 16, true),
            ),
            &data[..17 * 16],
            Status::INVALID_SGL_COUNT,
        ),
        (
            "a list of what has no key",
            rw(
                write,
                1,
                0,
                8,
                SglDescriptor::in_capsule_segment(0, 16, true),
            ),
            &data[..16],
            kind,
        ),
        ("ranges without data", ranges(0, 0), none, length),
        ("ranges in too little data", ranges(255, 4095), none, length),
        (
            "in-capsule data that is not there",
            rw(write, 1, 0, 8, in_capsule(0, 4096)),
            none,
            length,
        ),
        (
            "in-capsule data outside",
            rw(write, 1, 0, 1, in_capsule(4097, 512)),
            &data,
            Status::SGL_OFFSET_INVALID,
        ),
        (
            "in-capsule data far outside",
            rw(write, 1, 0, 1, in_capsule(u64::MAX, 512)),
            &data,
            Status::SGL_OFFSET_INVALID,
        ),
        (
            "in-capsule data over the end",
            rw(write, 1, 0, 1, in_capsule(3585, 512)),
            &data,
            length,
        ),
        (
            "a read into the capsule",
            rw(read, 1, 0, 8, in_capsule(0, 4096)),
            &data,
            kind,
        ),
    ];
    let disk: &[(&str, Sqe, &[u8], Status)] = &[(
        "in-capsule data where none may be",
        rw(write, 1, 0, 8, in_capsule(0, 4096)),
        &data,
        kind,
    )];
    let capsule: &[(&str, Sqe, &[u8], Status)] = &[
        (
            "a write from the capsule",
            rw(write, 1, 0, 8, in_capsule(0, 4096)),
            &data,
            Status::SUCCESS,
        ),
        (
            "a write from within the capsule",
            rw(write, 1, 0, 1, in_capsule(512, 512)),
            &data,
            Status::SUCCESS,
        ),
        (
            "a write from an odd place",
            rw(write, 1, 0, 1, in_capsule(1, 512)),
            &data,
            Status::SGL_OFFSET_INVALID,
        ),
        (
            "in-capsule length too short",
            rw(write, 1, 0, 8, in_capsule(0, 512)),
            &data,
            length,
        ),
    ];
    for (subsystem, own) in [(DISK, disk), (CAPSULE, capsule)] {
        let association = host.associate(subsystem, 32, 0)?;
        for (name, sqe, data, status) in both.iter().chain(own) {
            host.check(association.io, *sqe, data, *status)
                .with_context(|| format!("{name}, on {subsystem}"))?;
        }
        host.disconnect(association.io)?;
        host.disconnect(association.admin)?;
    }
    bench.healthy()?;
    Ok(())
}

fn with_fctype(fctype: FabricsType) -> Sqe {
    let mut sqe = bare(Sqe::new(AdminOpcode::Fabrics.0, 0));
    sqe.nsid.set(u32::from(fctype.0));
    sqe
}

#[test]
fn admin_commands_that_cannot_be_get_the_status_that_says_why() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(CAPSULE, 32, 0)?;
    let admin = association.admin;
    let length = Status::DATA_SGL_LENGTH_INVALID;
    let field = Status::INVALID_FIELD;
    let identify = |cns, nsid, sgl| {
        let mut command = Identify::from(with_sgl(Sqe::new(AdminOpcode::Identify.0, nsid), sgl));
        command.cns = cns;
        Sqe::from(command)
    };
    let log = |lid, bytes: u64, sgl| {
        let mut command = GetLogPage::from(with_sgl(Sqe::new(AdminOpcode::GetLogPage.0, 0), sgl));
        command.cdw10 = GetLogPageCdw10::new().with_lid(lid);
        Sqe::from(command.with_len_dwords(bytes / 4))
    };
    let page = host.keyed(0, 4096);
    let data = vec![0; 4096];
    let none: &[u8] = &[];
    let cases: Vec<(&str, Sqe, &[u8], Status)> = vec![
        (
            "identify",
            identify(Cns::Controller, 0, page),
            none,
            Status::SUCCESS,
        ),
        (
            "identify, short",
            identify(Cns::Controller, 0, host.keyed(0, 512)),
            none,
            length,
        ),
        (
            "identify, nowhere",
            identify(Cns::Controller, 0, host.keyed(0, 0)),
            none,
            length,
        ),
        (
            "identify, long",
            identify(Cns::Controller, 0, host.keyed(0, 0xff_ffff)),
            none,
            length,
        ),
        (
            "identify into the capsule",
            identify(Cns::Controller, 0, SglDescriptor::in_capsule(0, 4096)),
            &data,
            Status::SGL_TYPE_INVALID,
        ),
        (
            "identify what is unknown",
            identify(Cns(0xee), 0, page),
            none,
            field,
        ),
        (
            "identify namespace 0",
            identify(Cns::Namespace, 0, page),
            none,
            Status::INVALID_NAMESPACE,
        ),
        (
            "a page that is unknown",
            log(LogId(0xee), 512, page),
            none,
            Status::INVALID_LOG_PAGE,
        ),
        (
            "a page of 4 GiB",
            log(LogId::Smart, 1 << 32, host.keyed(0, 0xff_ffff)),
            none,
            field,
        ),
        (
            "a page of 16 MiB",
            log(LogId::Smart, 0xff_fffc, host.keyed(0, 0xff_fffc)),
            none,
            field,
        ),
        (
            "a page of 1 MiB",
            log(LogId::Smart, 1 << 20, host.keyed(0, 1 << 20)),
            none,
            Status::SUCCESS,
        ),
        (
            "no opcode of any kind",
            with_sgl(Sqe::new(0xc7, 0), page),
            none,
            Status::INVALID_OPCODE,
        ),
        (
            "a queue made",
            with_sgl(Sqe::new(AdminOpcode::CreateIoSq.0, 0), page),
            none,
            Status::INVALID_OPCODE,
        ),
        (
            "no fabrics type of any kind",
            with_fctype(FabricsType(0x66)),
            none,
            Status::INVALID_OPCODE,
        ),
        (
            "disconnect",
            with_fctype(FabricsType::Disconnect),
            none,
            Status::DISCONNECT_INVALID_QUEUE_TYPE,
        ),
    ];
    for (name, sqe, data, status) in cases {
        host.check(admin, sqe, data, status).context(name)?;
    }
    host.disconnect(admin)?;
    bench.healthy()?;
    Ok(())
}

/// Held requests, then one more than may be held; and a reset that forgets them.
#[test]
fn event_requests_are_limited_and_a_reset_gives_their_slots_back() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    let admin = association.admin;
    for _ in 0..40 {
        for _ in 0..4 {
            host.command(admin, bare(Sqe::new(AdminOpcode::AsyncEventRequest.0, 0)))?;
        }
        let fifth = bare(Sqe::new(AdminOpcode::AsyncEventRequest.0, 0));
        host.check(admin, fifth, &[], Status::AER_LIMIT_EXCEEDED)?;
        host.enable(admin, false)?;
        host.enable(admin, true)?;
    }
    bench.until("slots of forgotten requests", |stats| {
        stats.reactors.iter().all(|reactor| {
            let count = |state| reactor.states.get(state).copied().unwrap_or_default();
            count("posted") >= 8192 + count("received")
        })
    })?;
    host.disconnect(admin)?;
    bench.healthy()?;
    Ok(())
}

#[test]
fn a_command_identifier_in_use_is_refused_and_the_first_one_still_ends() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    // Held on the admin queue; waiting for the SSD on the I/O queue.
    bench.ssds[1].set_defer(true);
    let mut aer = bare(Sqe::new(AdminOpcode::AsyncEventRequest.0, 0));
    let mut read = with_sgl(read_write(NvmOpcode::Read, 2, 0, 8), host.keyed(0, 4096));
    for (conn, sqe) in [(association.admin, &mut aer), (association.io, &mut read)] {
        sqe.cdw0.set_cid(0x1234);
        for _ in 0..4 {
            host.send(conn, sqe.as_bytes())?;
        }
        for _ in 0..3 {
            let cqe = host.response(conn, 0x1234)?;
            ensure!(
                cqe.status().same_code(Status::COMMAND_ID_CONFLICT),
                "{}",
                cqe.status()
            );
        }
    }
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
    let cqe = host.response(association.io, 0x1234)?;
    ensure!(cqe.status().is_success(), "{}", cqe.status());
    // Free again.
    host.send(association.io, read.as_bytes())?;
    let cqe = host.response(association.io, 0x1234)?;
    ensure!(cqe.status().is_success(), "{}", cqe.status());
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    bench.healthy()?;
    Ok(())
}
