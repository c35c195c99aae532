//! Controllers that their hosts reset or shut down with commands under way, and
//! associations that lose a queue: all commands end, what they held comes back,
//! and CSTS says when.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{
    AdminOpcode, Cc, Csts, NvmOpcode, ShutdownNotification, ShutdownStatus, Sqe, Status,
};
use sidelane_tests::in_process::bench::{Bench, DISK, Layout};
use sidelane_tests::in_process::raw_host::{
    Association, Conn, QueueOf, RawHost, bare, read_write, with_sgl,
};

/// More commands than the pool of namespace 2 has buffers: some are at the SSD,
/// the others wait.
fn bench() -> anyhow::Result<Bench> {
    let usual = Layout::default().rest;
    let pool = "[[provider]]\nid = \"host\"\nkind = \"host\"\nsize = \"128 KiB\"\n";
    Bench::start(&Layout {
        cores: "[0, 1]",
        rest: format!("\n{pool}{usual}"),
        cmbs: 1,
    })
}

/// 48 commands of 16 KiB, of which 8 get a buffer, on each of the queues.
fn load(host: &mut RawHost, queues: &[Conn], n: usize) -> anyhow::Result<()> {
    for io in queues {
        for at in 0..24 {
            let opcode = [NvmOpcode::Write, NvmOpcode::Read][(at + n) % 2];
            let sqe = read_write(opcode, 2, 32 * at as u64, 32);
            host.command(*io, with_sgl(sqe, host.keyed(16384 * at, 16384)))?;
        }
    }
    Ok(())
}

/// An association with two I/O queues.
fn associate(host: &mut RawHost, kato_ms: u32) -> anyhow::Result<(Association, Vec<Conn>)> {
    let association = host.associate(DISK, 32, kato_ms)?;
    let second = io_queue(host, &association, 2)?;
    Ok((association, vec![association.io, second]))
}

fn io_queue(host: &mut RawHost, of: &Association, qid: u16) -> anyhow::Result<Conn> {
    let queue = QueueOf {
        subsystem: DISK,
        qid,
        cntlid: of.cntlid,
        entries: 32,
        kato_ms: 0,
    };
    Ok(host.queue(&queue)?.0)
}

fn until_csts(
    host: &mut RawHost,
    admin: Conn,
    what: &str,
    wanted: impl Fn(Csts) -> bool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while !wanted(host.csts(admin)?) {
        ensure!(start.elapsed() < Duration::from_secs(15), "{what}");
        host.linger(Duration::from_millis(2))?;
    }
    Ok(())
}

/// Commands that have ever been at an SSD.
fn executing(bench: &Bench) -> anyhow::Result<u64> {
    let stats = bench.stats()?;
    Ok(stats.reactors.iter().map(|r| r.states["executing"]).sum())
}

fn at_ssd(host: &mut RawHost, bench: &Bench, count: u64) -> anyhow::Result<()> {
    host.until("commands at the SSD", |_| {
        (executing(bench).ok()? >= count).then_some(())
    })
}

fn release(bench: &Bench) {
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
}

fn read_one(host: &mut RawHost, io: Conn) -> anyhow::Result<()> {
    let read = with_sgl(read_write(NvmOpcode::Read, 2, 0, 8), host.keyed(0, 4096));
    let cqe = host.transact(io, read)?;
    ensure!(cqe.status().is_success(), "{}", cqe.status());
    Ok(())
}

#[rstest::rstest]
fn a_reset_under_load_ends_all_io_and_the_controller_works_again(
    #[values(false, true)] at_the_ssd: bool,
) -> anyhow::Result<()> {
    let bench = bench()?;
    let mut host = RawHost::new(bench.remote)?;
    let (association, mut queues) = associate(&mut host, 0)?;
    let admin = association.admin;
    for round in 0..6 {
        bench.ssds[1].set_defer(at_the_ssd);
        let before = executing(&bench)?;
        load(&mut host, &queues, round)?;
        host.linger(Duration::from_millis(round as u64))?;
        if at_the_ssd {
            at_ssd(&mut host, &bench, before + 8)?;
        }
        host.enable(admin, false)?;
        for io in &queues {
            host.await_end(*io)
                .with_context(|| format!("round {round}"))?;
        }
        if at_the_ssd {
            ensure!(host.csts(admin)?.rdy(), "the SSD still has commands");
            release(&bench);
        }
        until_csts(&mut host, admin, "the reset is never done", |csts| {
            !csts.rdy()
        })?;
        bench.until("all buffers", |stats| {
            stats.pools.iter().all(|pool| pool.in_use_bytes == 0)
        })?;
        host.responses.clear();
        host.enable(admin, true)?;
        ensure!(host.csts(admin)?.rdy());
        queues = vec![
            io_queue(&mut host, &association, 1)?,
            io_queue(&mut host, &association, 2)?,
        ];
        read_one(&mut host, queues[0])?;
        read_one(&mut host, queues[1])?;
    }
    host.disconnect(admin)?;
    bench.healthy()?;
    Ok(())
}

#[rstest::rstest]
fn a_shutdown_under_load_is_complete_when_all_io_has_ended(
    #[values(ShutdownNotification::Normal, ShutdownNotification::Abrupt)] how: ShutdownNotification,
) -> anyhow::Result<()> {
    let bench = bench()?;
    let mut host = RawHost::new(bench.remote)?;
    for round in 0..3 {
        let (Association { admin, .. }, queues) = associate(&mut host, 0)?;
        bench.ssds[1].set_defer(true);
        let before = executing(&bench)?;
        load(&mut host, &queues, round)?;
        at_ssd(&mut host, &bench, before + 8)?;
        host.configure(admin, Cc::new().with_en(true).with_shn(how))?;
        for io in &queues {
            host.await_end(*io)?;
        }
        let csts = host.csts(admin)?;
        ensure!(csts.shst() == ShutdownStatus::Occurring, "{csts:?}");
        release(&bench);
        until_csts(&mut host, admin, "the shutdown is never done", |csts| {
            csts.shst() == ShutdownStatus::Complete
        })?;
        // The admin queue is there until the host leaves.
        let keep_alive = bare(Sqe::new(AdminOpcode::KeepAlive.0, 0));
        host.check(admin, keep_alive, &[], Status::SUCCESS)?;
        host.disconnect(admin)?;
        bench.nothing_left()?;
        host.responses.clear();
    }
    bench.healthy()?;
    Ok(())
}

/// The host lives, and its adapter answers, but it says nothing while its commands
/// are at the SSD.
#[test]
fn a_keep_alive_that_expires_with_commands_under_way_ends_all_queues() -> anyhow::Result<()> {
    let bench = bench()?;
    let mut host = RawHost::new(bench.remote)?;
    let (association, queues) = associate(&mut host, 1000)?;
    bench.ssds[1].set_defer(true);
    load(&mut host, &queues, 0)?;
    for conn in queues.iter().chain([&association.admin]) {
        host.await_end(*conn)?;
    }
    ensure!(bench.stats()?.controllers.is_empty());
    release(&bench);
    bench.nothing_left()?;
    bench.healthy()?;
    Ok(())
}

/// No association is left without its admin queue, and no time is given to it.
#[rstest::rstest]
fn when_only_io_queues_are_left_they_end_at_once(
    #[values(false, true)] under_load: bool,
) -> anyhow::Result<()> {
    let bench = bench()?;
    let mut host = RawHost::new(bench.remote)?;
    let (association, queues) = associate(&mut host, 0)?;
    bench.ssds[1].set_defer(under_load);
    if under_load {
        load(&mut host, &queues, 0)?;
    }
    host.disconnect(association.admin)?;
    for io in &queues {
        host.await_end(*io)?;
    }
    // Its controller is not there for another queue either.
    let of = QueueOf {
        subsystem: DISK,
        qid: 3,
        cntlid: association.cntlid,
        entries: 32,
        kato_ms: 0,
    };
    let late = host.queue_pair(3, association.cntlid, 32)?;
    let connect = host.connect_command(&of)?;
    host.check(late, connect, &[], Status::CONNECT_INVALID_PARAMETERS)?;
    host.disconnect(late)?;
    release(&bench);
    bench.healthy()?;
    Ok(())
}
