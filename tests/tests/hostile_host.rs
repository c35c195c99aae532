//! Hosts that say what no host may say when they connect, or use RDMA as no host
//! may: each gets the answer that the specification names, or loses its
//! connection, and nobody else notices.

use anyhow::{Context, bail, ensure};
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Connect, DataPtr, NvmOpcode, SglDescriptor, Sqe, Status,
};
use sidelane_tests::in_process::bench::{Bench, DISK};
use sidelane_tests::in_process::raw_host::{QueueOf, RawHost, bare, read_write, with_sgl};
use sidelane_transport::cm::ConnError;
use sidelane_transport::nic::{RemoteMemory, SendOp, WcStatus};
use sidelane_transport::nvmf::{ConnectReject, RejectStatus};

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
            host.check(conn, sqe, &[], Status::COMMAND_SEQUENCE_ERROR)
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
        host.check(conn, connect.into(), &[], status)
            .context(name)?;
    }
    // The queue pair is as good as new.
    let good = host.connect_command(&of)?;
    host.check(conn, good, &[], Status::SUCCESS)
        .context("a good one at last")?;
    host.check(conn, good, &[], Status::COMMAND_SEQUENCE_ERROR)
        .context("a second one")?;
    host.disconnect(conn)?;
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
    host.check(conn, connect, &[], Status::SUCCESS)?;
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
            host.check(association.admin, keep_alive, &[], Status::SUCCESS)?;
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
