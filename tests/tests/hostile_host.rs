//! Hosts that say what no host may say: each gets the answer that the
//! specification names, or loses its connection, and nobody else notices.

use anyhow::{Context, bail, ensure};
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cns, Connect, DataPtr, DatasetManagement, FabricsType, Fuse,
    GetLogPage, GetLogPageCdw10, Identify, LogId, NvmOpcode, Psdt, SglDescriptor, Sqe, Status,
};
use sidelane_tests::in_process::bench::{Bench, CAPSULE, DISK, SSD_BYTES};
use sidelane_tests::in_process::raw_host::{Conn, QueueOf, RawHost, bare, read_write, with_sgl};
use sidelane_transport::cm::ConnError;
use sidelane_transport::nic::{RemoteMemory, SendOp, WcStatus};
use sidelane_transport::nvmf::{ConnectReject, RejectStatus};
use zerocopy::IntoBytes;

const BLOCKS: u64 = SSD_BYTES / 512;

fn check(
    host: &mut RawHost,
    conn: Conn,
    sqe: Sqe,
    data: &[u8],
    status: Status,
) -> anyhow::Result<()> {
    let mut sqe = sqe;
    sqe.cdw0.set_cid(host.cid());
    let mut capsule = sqe.as_bytes().to_vec();
    capsule.extend_from_slice(data);
    host.send(conn, &capsule)?;
    let cqe = host.response(conn, sqe.cid())?;
    ensure!(
        cqe.status().same_code(status),
        "{} and not {status}",
        cqe.status()
    );
    Ok(())
}

#[rstest::rstest]
#[case::nothing(&[], RejectStatus::InvalidSendQueueSize)]
#[case::one_byte(&[1], RejectStatus::InvalidRecordFormat)]
#[case::ones(&[0xff; 56], RejectStatus::InvalidRecordFormat)]
#[case::other_format(&[7, 0, 1, 0, 32, 0, 31, 0], RejectStatus::InvalidRecordFormat)]
#[case::no_receives(&[0, 0, 1, 0, 0, 0, 31, 0], RejectStatus::InvalidReceiveQueueSize)]
#[case::one_entry(&[0, 0, 1, 0, 32, 0, 0, 0], RejectStatus::InvalidSendQueueSize)]
#[case::all_entries(&[0, 0, 1, 0, 32, 0, 255, 255], RejectStatus::InvalidSendQueueSize)]
fn a_request_whose_private_data_is_nonsense_is_rejected_with_its_status(
    #[case] private_data: &[u8],
    #[case] status: RejectStatus,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let conn = host.request(private_data)?;
    match host.answer(conn)? {
        Err(ConnError::Rejected {
            reason: 28,
            private_data,
            ..
        }) => {
            let reject = ConnectReject::parse(&private_data).context("unreadable")?;
            ensure!(reject.status() == status, "{}", reject.status());
        }
        other => bail!("{other:?}"),
    }
    bench.healthy()?;
    Ok(())
}

#[rstest::rstest]
#[case::empty(0)]
#[case::one_byte(1)]
#[case::one_byte_too_few(63)]
#[case::one_byte_too_many(64 + 4096 + 1)]
#[case::several_packets_too_many(20 << 10)]
fn a_capsule_of_a_wrong_length_ends_its_connection_and_no_other(
    #[case] len: usize,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let capsule = vec![0x5a; len];
    // Before Connect, on an I/O queue, and on an admin queue with others.
    let unconnected = host.queue_pair(0, 0, 32)?;
    let association = host.associate(DISK, 32, 0)?;
    for conn in [unconnected, association.io, association.admin] {
        host.send(conn, &capsule)?;
        host.await_end(conn)?;
    }
    bench.healthy()?;
    Ok(())
}

#[test]
fn before_connect_nothing_but_connect_is_taken() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    for qid in [0, 1, 65535] {
        let conn = host.queue_pair(qid, 1, 32)?;
        for opcode in [0x00, 0x01, 0x02, 0x06, 0x0a, 0x0c, 0x18, 0x7f, 0xff] {
            let sqe = with_sgl(Sqe::new(opcode, 4), host.keyed(0, 4096));
            check(&mut host, conn, sqe, &[], Status::COMMAND_SEQUENCE_ERROR)
                .with_context(|| format!("opcode {opcode:#x} on queue {qid}"))?;
        }
        host.disconnect(conn)?;
    }
    bench.healthy()?;
    Ok(())
}

/// What is wrong with a Connect.
enum Spoil {
    Command(fn(&RawHost, &mut Connect)),
    /// These bytes of its data.
    Data(usize, &'static [u8]),
}

#[test]
fn a_connect_that_cannot_be_is_refused_and_may_be_tried_again() -> anyhow::Result<()> {
    use Spoil::{Command, Data};
    let parameters = Status::CONNECT_INVALID_PARAMETERS;
    let length = Status::DATA_SGL_LENGTH_INVALID;
    let format = Status::CONNECT_INCOMPATIBLE_FORMAT;
    let kind = Status::SGL_TYPE_INVALID;
    let forbidden = Status::CONNECT_INVALID_HOST;
    let cases = [
        ("record format", Command(|_, c| c.recfmt.set(1)), format),
        (
            "no data",
            Command(|h, c| c.sgl = DataPtr::from_sgl(h.keyed(0, 0))),
            length,
        ),
        (
            "short data",
            Command(|h, c| c.sgl = DataPtr::from_sgl(h.keyed(0, 1023))),
            length,
        ),
        (
            "long data",
            Command(|h, c| c.sgl = DataPtr::from_sgl(h.keyed(0, 0xff_ffff))),
            length,
        ),
        (
            "data by address",
            Command(|_, c| c.sgl = DataPtr::from_sgl(SglDescriptor::data_block(0x1000, 1024))),
            kind,
        ),
        (
            "data in no capsule",
            Command(|_, c| c.sgl = DataPtr::from_sgl(SglDescriptor::in_capsule(0, 1024))),
            length,
        ),
        (
            "queue of one",
            Command(|_, c| c.sqsize_z.set(0)),
            parameters,
        ),
        (
            "queue too deep",
            Command(|_, c| c.sqsize_z.set(128)),
            parameters,
        ),
        (
            "queue too deep by far",
            Command(|_, c| c.sqsize_z.set(0xffff)),
            parameters,
        ),
        (
            "queue without controller",
            Command(|_, c| c.qid.set(1)),
            parameters,
        ),
        (
            "queue beyond all",
            Command(|_, c| c.qid.set(0xffff)),
            parameters,
        ),
        ("a controller named", Data(16, &[1, 0]), parameters),
        ("no host identifier", Data(0, &[0; 16]), parameters),
        ("unknown subsystem", Data(256 + 27, b"x"), parameters),
        (
            "a subsystem without end",
            Data(256, &[b'n'; 256]),
            parameters,
        ),
        ("no host name", Data(512, &[0; 256]), parameters),
        ("a host not allowed", Data(512 + 25, b"y"), forbidden),
    ];
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let of = QueueOf {
        subsystem: DISK,
        qid: 0,
        cntlid: CNTLID_DYNAMIC,
        entries: 32,
        kato_ms: 0,
    };
    let conn = host.queue_pair(0, 0, 32)?;
    for (name, spoil, status) in cases {
        let mut connect = Connect::from(host.connect_command(&of)?);
        match spoil {
            Spoil::Command(spoil) => spoil(&host, &mut connect),
            Spoil::Data(at, bytes) => host.data_write(at, bytes)?,
        }
        check(&mut host, conn, connect.into(), &[], status).context(name)?;
    }
    // The queue pair is as good as new.
    let good = host.connect_command(&of)?;
    check(&mut host, conn, good, &[], Status::SUCCESS).context("a good one at last")?;
    check(&mut host, conn, good, &[], Status::COMMAND_SEQUENCE_ERROR).context("a second one")?;
    host.disconnect(conn)?;
    bench.healthy()?;
    Ok(())
}

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
            check(&mut host, association.io, *sqe, data, *status)
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
        check(&mut host, admin, sqe, data, status).context(name)?;
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
        check(&mut host, admin, fifth, &[], Status::AER_LIMIT_EXCEEDED)?;
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

/// A host that has more commands under way than it said: in Connect, or when it
/// asked for the connection.
#[rstest::rstest]
#[case::than_connect_said(32, 4, 12)]
#[case::than_the_request_said(2, 128, 100)]
fn more_commands_than_a_queue_has_entries_end_its_connection(
    #[case] requested: u16,
    #[case] connected: u16,
    #[case] commands: usize,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    let conn = host.queue_pair(2, association.cntlid, requested)?;
    let connect = host.connect_command(&QueueOf {
        subsystem: DISK,
        qid: 2,
        cntlid: association.cntlid,
        entries: connected,
        kato_ms: 0,
    })?;
    check(&mut host, conn, connect, &[], Status::SUCCESS)?;
    bench.ssds[1].set_defer(true);
    for _ in 0..commands {
        host.command(
            conn,
            with_sgl(read_write(NvmOpcode::Read, 2, 0, 8), host.keyed(0, 4096)),
        )?;
    }
    host.await_end(conn)?;
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
    host.disconnect(association.admin)?;
    bench.healthy()?;
    Ok(())
}

#[test]
fn a_key_that_is_not_the_hosts_ends_the_connection_and_not_the_target() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    for nsid in [1, 2] {
        for (opcode, invalidate) in [
            (NvmOpcode::Write, false),
            (NvmOpcode::Read, false),
            (NvmOpcode::Flush, true),
        ] {
            let mut host = RawHost::new(bench.remote)?;
            let association = host.associate(DISK, 32, 0)?;
            let wrong = host.rkey() ^ 0x5555_5500;
            let address = host.data_address(0);
            let descriptor = SglDescriptor::keyed(address, 4096, wrong, invalidate);
            let sqe = with_sgl(
                read_write(opcode, nsid, 0, 8),
                descriptor.context("a descriptor")?,
            );
            for _ in 0..16 {
                host.command(association.io, sqe)?;
            }
            host.await_end(association.io)
                .with_context(|| format!("{opcode:?} on namespace {nsid}"))?;
            // The association lives on.
            let keep_alive = bare(Sqe::new(AdminOpcode::KeepAlive.0, 0));
            check(
                &mut host,
                association.admin,
                keep_alive,
                &[],
                Status::SUCCESS,
            )?;
            host.disconnect(association.admin)?;
        }
    }
    bench.healthy()?;
    Ok(())
}

#[test]
fn rdma_into_the_target_is_refused_and_ends_the_connection() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    for key in [0, 1, 0x100, 0x1ff, 0x200, u32::MAX] {
        for write in [true, false] {
            let mut host = RawHost::new(bench.remote)?;
            let association = host.associate(DISK, 32, 0)?;
            let remote = RemoteMemory {
                addr: 0x1_0000,
                rkey: key,
            };
            let op = match write {
                true => SendOp::Write(remote),
                false => SendOp::Read(remote),
            };
            host.post(association.io, op, 4096)?;
            host.until("the refusal", |host| {
                let failure = host.failures.iter().find(|f| f.qp == association.io.qp)?;
                (failure.status == WcStatus::RemoteAccess).then_some(())
            })?;
            host.await_end(association.io)
                .with_context(|| format!("key {key:#x}"))?;
            host.disconnect(association.admin)?;
        }
    }
    bench.healthy()?;
    Ok(())
}

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A command of random bytes, and some of the fields put right so that it gets
/// further than the first check.
fn random_capsule(random: &mut Random, host: &RawHost) -> Vec<u8> {
    let mut bytes = [0; 64];
    random.bytes(&mut bytes);
    let mut sqe: Sqe = zerocopy::transmute!(bytes);
    let mut data = vec![0; [0, 0, 16, 1024, 4096][random.below(5) as usize]];
    random.bytes(&mut data);
    if random.below(4) > 0 {
        sqe.cdw0.set_fuse(Fuse::Normal);
        sqe.cdw0.set_psdt(Psdt::Sgl);
    }
    if random.below(4) > 0 {
        let opcodes = [0, 1, 2, 4, 6, 8, 9, 0x0a, 0x0c, 0x18, 0x7f, 0x7f, 0x7f];
        sqe.cdw0.set_opcode(opcodes[random.below(13) as usize]);
    }
    let fabrics = sqe.opcode() == AdminOpcode::Fabrics.0;
    if random.below(2) > 0 {
        sqe.nsid.set(match fabrics {
            true => [0, 1, 4, 8][random.below(4) as usize],
            false => random.below(4) as u32,
        });
        sqe.cdw10.set(random.below(256) as u32);
        sqe.cdw11.set(0);
        sqe.cdw12.set(random.below(16) as u32);
    }
    let len = [0, 16, 512, 1024, 4096, 8192, 0xff_ffff][random.below(7) as usize];
    let at = random.below(4096);
    let descriptor = match random.below(6) {
        0 => return [sqe.as_bytes(), &data].concat(),
        1 => SglDescriptor::in_capsule(at, len),
        2 => SglDescriptor::in_capsule_segment(at, len, at.is_multiple_of(2)),
        _ => host.keyed(0, len as usize),
    };
    sqe.dptr = DataPtr::from_sgl(descriptor);
    [sqe.as_bytes(), &data].concat()
}

#[rstest::rstest]
#[case(1)]
#[case(2)]
fn random_commands_are_answered_or_end_their_connection(#[case] seed: u64) -> anyhow::Result<()> {
    const COMMANDS: usize = 1500;
    let bench = Bench::usual()?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let mut sent = 0;
    let mut answered = 0;
    while sent < COMMANDS {
        let mut host = RawHost::new(bench.remote)?;
        let (admin, conn) = match random.below(3) {
            0 => (None, host.queue_pair(0, 0, 32)?),
            n => {
                let subsystem = [DISK, CAPSULE][random.below(2) as usize];
                let association = host.associate(subsystem, 32, 0)?;
                match n {
                    1 => (None, association.admin),
                    _ => (Some(association.admin), association.io),
                }
            }
        };
        for _ in 0..40 {
            let capsule = random_capsule(&mut random, &host);
            let cid = u16::from_le_bytes([capsule[2], capsule[3]]);
            // Event requests are held, and so not waited for.
            let held = capsule[0] == AdminOpcode::AsyncEventRequest.0;
            if host.send(conn, &capsule).is_err() {
                break;
            }
            sent += 1;
            let failures = host.failures.len();
            host.until("an answer or an end", |host| {
                let answer = host.responses.iter().any(|(_, cqe)| cqe.cid.get() == cid);
                let ended = host.has_ended(conn) || host.failures.len() > failures;
                (held || answer || ended).then_some(())
            })
            .with_context(|| format!("seed {seed}, command {sent}: {capsule:x?}"))?;
            if host.has_ended(conn) || host.failures.len() > failures {
                break;
            }
            answered += host.responses.len();
            host.responses.clear();
        }
        host.leave(conn);
        if let Some(admin) = admin {
            host.leave(admin);
        }
        host.await_end(conn)?;
    }
    ensure!(
        answered > COMMANDS / 2,
        "only {answered} of {sent} were answered"
    );
    bench.healthy()?;
    Ok(())
}
