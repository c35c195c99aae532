//! Hosts that go away, at the worst of times or without a word: what they held
//! comes back, and nobody else waits for them.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, FeatureId, NvmOpcode, SetFeatures, SetFeaturesCdw10, Sqe,
};
use sidelane_tests::in_process::bench::{Bench, DISK};
use sidelane_tests::in_process::good_host;
use sidelane_tests::in_process::raw_host::{Conn, QueueOf, RawHost, bare, read_write, with_sgl};
use sidelane_transport::nvmf::ConnectRequest;

/// Keep alive timeout of hosts that vanish, in milliseconds.
const KATO_MS: u32 = 1000;

/// 64 commands of 16 KiB, each with memory of its own.
fn load(host: &mut RawHost, conn: Conn, opcode: NvmOpcode, nsid: u32) -> anyhow::Result<()> {
    for n in 0..64 {
        let descriptor = host.keyed(n * 16384, 16384);
        let sqe = read_write(opcode, nsid, 32 * n as u64, 32);
        host.command(conn, with_sgl(sqe, descriptor))?;
    }
    Ok(())
}

/// What a host does when it is gone: nothing, or not even be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// Its adapter too: no packet is answered.
    Vanished,
    /// Its adapter is there, but nobody moves it on.
    Frozen,
    /// It has ended its connections properly, with all that still under way.
    Left,
}

#[rstest::rstest]
fn a_host_that_goes_amid_64_commands_leaves_nothing_behind(
    #[values(NvmOpcode::Write, NvmOpcode::Read)] opcode: NvmOpcode,
    #[values(Gone::Vanished, Gone::Frozen, Gone::Left)] gone: Gone,
    #[values(false, true)] at_the_ssd: bool,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    for nsid in [1, 2] {
        let ssd = &bench.ssds[nsid as usize - 1];
        ssd.set_defer(at_the_ssd);
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, 128, KATO_MS)?;
        load(&mut host, association.io, opcode, nsid)?;
        // Far enough to be in the middle of it.
        let before = bench.stats()?.reactors[0].commands;
        host.until("some of the commands", |_| {
            let stats = bench.stats().ok()?;
            (stats.reactors[0].commands > before.min(1) + 8).then_some(())
        })?;
        if gone == Gone::Left {
            host.leave(association.io);
            host.leave(association.admin);
            host.poll()?;
        }
        let frozen = (gone == Gone::Frozen).then_some(host);
        if at_the_ssd {
            bench.until("the end of the connections, but for the SSD", |stats| {
                stats.controllers.is_empty()
            })?;
            ssd.set_defer(false);
            while ssd.step() {}
        }
        bench.nothing_left()?;
        drop(frozen);
    }
    bench.healthy()?;
    Ok(())
}

/// Hosts that take part in no transfer any more, and have no keep-alive, must
/// not hold up those that do.
#[test]
fn hosts_that_answer_no_read_do_not_hold_up_others() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut frozen = Vec::new();
    let mut admins = Vec::new();
    for nsid in [1, 2, 2] {
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, 128, 0)?;
        load(&mut host, association.io, NvmOpcode::Write, nsid)?;
        host.poll()?;
        frozen.push(host);
        admins.push(association.admin);
    }
    good_host::verified_io(bench.remote, DISK, &[1, 2], 1, 24)?;
    // Without an answer their queue pairs fail in the end. Their admin queues
    // have nothing to wait for.
    bench.until("the end of the I/O queues", |stats| {
        let left: u64 = stats.reactors.iter().map(|r| r.connections).sum();
        left == 3 && stats.pools.iter().all(|pool| pool.in_use_bytes == 0)
    })?;
    for (host, admin) in frozen.iter_mut().zip(admins) {
        host.disconnect(admin)?;
    }
    bench.healthy()?;
    Ok(())
}

#[rstest::rstest]
#[case::to_connect(0)]
#[case::to_the_next_command(1)]
#[case::after_some(5)]
fn a_host_that_takes_no_response_is_given_up(#[case] responses: usize) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::deaf_after(bench.remote, responses)?;
    let of = QueueOf {
        subsystem: DISK,
        qid: 0,
        cntlid: CNTLID_DYNAMIC,
        entries: 32,
        kato_ms: KATO_MS,
    };
    let admin = host.queue_pair(0, 0, 32)?;
    let connect = host.connect_command(&of)?;
    host.command(admin, connect)?;
    host.until("the controller", |_| {
        let stats = bench.stats().ok()?;
        (!stats.controllers.is_empty()).then_some(())
    })?;
    for _ in 0..20 {
        host.command(admin, bare(Sqe::new(AdminOpcode::KeepAlive.0, 0)))?;
    }
    host.await_end(admin)?;
    bench.nothing_left()?;
    bench.healthy()?;
    Ok(())
}

/// At which point of setting a connection up the host goes away.
#[derive(Debug, Clone, Copy)]
enum Point {
    Request,
    Answer,
    QueuePair,
    Connect,
    ConnectAnswer,
}

#[rstest::rstest]
fn a_host_may_go_at_any_point_of_setting_up(
    #[values(
        Point::Request,
        Point::Answer,
        Point::QueuePair,
        Point::Connect,
        Point::ConnectAnswer
    )]
    point: Point,
    #[values(false, true)] vanishes: bool,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let of = QueueOf {
        subsystem: DISK,
        qid: 0,
        cntlid: CNTLID_DYNAMIC,
        entries: 32,
        kato_ms: KATO_MS,
    };
    for _ in 0..8 {
        let mut host = RawHost::new(bench.remote)?;
        let request = ConnectRequest::new(0, 0, 32, 32);
        let request = request.map_or_else(Vec::new, |request| request.as_bytes().to_vec());
        let conn = host.request(&request)?;
        host.poll()?;
        match point {
            Point::Request => {}
            Point::Answer => host.linger(Duration::from_millis(5))?,
            Point::QueuePair | Point::Connect | Point::ConnectAnswer => {
                host.answer(conn)??;
            }
        }
        if let Point::Connect | Point::ConnectAnswer = point {
            let connect = host.connect_command(&of)?;
            host.command(conn, connect)?;
            host.poll()?;
        }
        if let Point::ConnectAnswer = point {
            host.linger(Duration::from_millis(5))?;
        }
        if !vanishes {
            host.leave(conn);
            host.linger(Duration::from_millis(5))?;
        }
    }
    // A connection without Connect is given 30 s when nobody says that it has
    // ended; all else ends sooner. Others never wait.
    good_host::verified_io(bench.remote, DISK, &[1, 2], 1, 24)?;
    let connects = matches!(point, Point::Connect | Point::ConnectAnswer);
    if connects || !vanishes {
        bench.nothing_left()?;
    }
    bench.stop()?;
    Ok(())
}

#[test]
fn a_host_may_come_back_before_its_old_association_is_gone() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut cntlids = Vec::new();
    for _ in 0..8 {
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, 128, 2000)?;
        ensure!(
            !cntlids.contains(&association.cntlid),
            "used twice: {cntlids:?}"
        );
        cntlids.push(association.cntlid);
        load(&mut host, association.io, NvmOpcode::Write, 2)?;
        host.poll()?;
    }
    good_host::verified_io(bench.remote, DISK, &[1, 2], 1, 24)?;
    bench.healthy()?;
    Ok(())
}

#[rstest::rstest]
#[case::by_connect(KATO_MS, None)]
#[case::by_set_features(120_000, Some(KATO_MS))]
fn a_silent_host_is_noticed_in_its_time(
    #[case] kato_ms: u32,
    #[case] set_ms: Option<u32>,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, kato_ms)?;
    if let Some(ms) = set_ms {
        let mut command = SetFeatures::from(bare(Sqe::new(AdminOpcode::SetFeatures.0, 0)));
        command.cdw10 = SetFeaturesCdw10::new().with_fid(FeatureId::KeepAliveTimer);
        command.cdw11.set(ms);
        let cqe = host.transact(association.admin, command.into())?;
        ensure!(cqe.status().is_success(), "{}", cqe.status());
    }
    // Not while it says something, on whatever queue.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        let read = with_sgl(read_write(NvmOpcode::Read, 2, 0, 8), host.keyed(0, 4096));
        let cqe = host.transact(association.io, read)?;
        ensure!(cqe.status().is_success(), "{}", cqe.status());
        host.linger(Duration::from_millis(100))?;
    }
    let silent = Instant::now();
    host.await_end(association.admin)?;
    host.await_end(association.io)?;
    let took = silent.elapsed();
    ensure!(
        (Duration::from_millis(u64::from(KATO_MS) / 2)..Duration::from_secs(8)).contains(&took),
        "after {took:?}"
    );
    bench.nothing_left()?;
    bench.healthy()?;
    Ok(())
}
