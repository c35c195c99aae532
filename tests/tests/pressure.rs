//! More commands than there are buffers: everybody gets on, in turn, and what
//! was written is what is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{AdminOpcode, Cns, Identify, NvmOpcode, Sqe, Status};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout, SSD_BYTES};
use sidelane_tests::in_process::good_host::Work;
use sidelane_tests::in_process::raw_host::{
    Association, Conn, QueueOf, RawHost, read_write, with_sgl,
};

const LONGEST: usize = 64 << 10;

/// Namespace 1 goes through 64 KiB of an SSD's memory, namespace 2 through 64
/// KiB of the host's: 16 buffers of 4 KiB, or one of the longest command.
fn scarce(cores: &'static str, pool: &str) -> anyhow::Result<Bench> {
    let rest = format!(
        r#"
[[provider]]
id = "cmb"
kind = "cmb"
device = "0000:01:00.0"
size = "{pool}"
[[provider]]
id = "host"
kind = "host"
size = "{pool}"

[[subsystem]]
nqn = "{DISK}"
in_capsule = 0
hosts = ["{GOOD}"]
[[subsystem.namespace]]
nsid = 1
backend = {{ kind = "nvme", device = "0000:01:00.0", nsid = 1 }}
p2p = "require"
provider = "cmb"
[[subsystem.namespace]]
nsid = 2
backend = {{ kind = "nvme", device = "0000:02:00.0", nsid = 1 }}
p2p = "off"
provider = "host"
"#
    );
    Bench::start(&Layout {
        cores,
        rest,
        cmbs: 1,
    })
}

/// Runs all of it at once, each in a thread of its own.
fn all_at_once(bench: &Bench, work: &[Work<'_>]) -> anyhow::Result<()> {
    let remote = bench.remote;
    thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .map(|work| scope.spawn(move || work.run(remote).map(drop)))
            .collect();
        threads.into_iter().enumerate().try_for_each(|(n, thread)| {
            let outcome = thread.join();
            let outcome = outcome.map_err(|_| anyhow::anyhow!("a host has panicked"))?;
            outcome.with_context(|| format!("host {n}"))
        })
    })
}

#[test]
fn hosts_with_commands_of_all_sizes_share_a_pool_that_one_of_them_fills() -> anyhow::Result<()> {
    let bench = scarce("[0]", "64 KiB")?;
    let sizes = [
        [LONGEST, 512, 4096, 32768],
        [4096, 8192, LONGEST, 512],
        [16384, 512, 1024, LONGEST],
    ];
    let work: Vec<_> = (0..3)
        .map(|n| Work {
            subsystem: DISK,
            nsids: &[1, 2],
            io_queues: 2,
            commands: 40,
            sizes: &sizes[n as usize],
            region: n << 20..(n + 1) << 20,
            seed: 7 + n,
        })
        .collect();
    all_at_once(&bench, &work)?;
    let stats = bench.nothing_left()?;
    for pool in &stats.pools {
        ensure!(pool.waits > 0, "nobody ever waited: {pool:?}");
        ensure!(pool.peak_bytes <= 64 << 10, "more than there is: {pool:?}");
        ensure!(pool.peak_bytes > 32 << 10, "never half full: {pool:?}");
    }
    bench.stop()?;
    Ok(())
}

/// The SSDs refuse what is longer than 64 KiB; the target takes 1 MiB.
#[test]
fn a_command_longer_than_the_ssd_takes_is_carried_out_in_parts() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let work = Work {
        subsystem: DISK,
        nsids: &[1, 2],
        io_queues: 1,
        commands: 4,
        sizes: &[1 << 20, (192 << 10) + 512, 64 << 10, 512 << 10],
        region: 0..SSD_BYTES,
        seed: 7,
    };
    work.run(bench.remote)?;
    let stats = bench.nothing_left()?;
    for namespace in &stats.namespaces[..2] {
        ensure!(namespace.errors == 0, "{namespace:?}");
        // One command each to the host, whatever number it was to the SSD.
        ensure!(namespace.writes.commands == 4, "{namespace:?}");
    }
    bench.stop()?;
    Ok(())
}

/// Small commands without end, and a host whose every command needs the pool for
/// itself alone.
#[test]
fn a_long_command_is_not_starved_by_short_ones() -> anyhow::Result<()> {
    let bench = scarce("[0]", "64 KiB")?;
    let done = AtomicBool::new(false);
    let long = Work {
        subsystem: DISK,
        nsids: &[2],
        io_queues: 1,
        commands: 12,
        sizes: &[LONGEST],
        region: 0..1 << 20,
        seed: 1,
    };
    let short = |n: u64| Work {
        sizes: &[4096],
        commands: 60,
        region: (n + 1) << 20..(n + 2) << 20,
        seed: 2 + n,
        ..long.clone()
    };
    thread::scope(|scope| {
        let shorts: Vec<_> = (0..2)
            .map(|n| {
                let (work, done, remote) = (short(n), &done, bench.remote);
                scope.spawn(move || {
                    let mut rounds = 0;
                    while !done.load(Ordering::Acquire) {
                        work.run(remote)?;
                        rounds += 1;
                    }
                    anyhow::Ok(rounds)
                })
            })
            .collect();
        let outcome = bench
            .until("the short ones", |stats| stats.reactors[0].commands > 100)
            .and_then(|_| long.run(bench.remote));
        done.store(true, Ordering::Release);
        for short in shorts {
            let rounds = short.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            ensure!(rounds > 0, "the short ones did not run");
        }
        outcome.context("the long commands")
    })?;
    let stats = bench.nothing_left()?;
    ensure!(stats.pools.iter().any(|pool| pool.waits > 0));
    bench.stop()?;
    Ok(())
}

#[test]
fn two_reactors_share_the_queues_of_a_host_and_a_scarce_pool() -> anyhow::Result<()> {
    let bench = scarce("[0, 1]", "128 KiB")?;
    let work: Vec<_> = (0..2)
        .map(|n| Work {
            subsystem: DISK,
            nsids: &[1, 2],
            io_queues: 4,
            commands: 48,
            sizes: &[4096, 512, LONGEST, 16384],
            region: n << 21..(n + 1) << 21,
            seed: 20 + n,
        })
        .collect();
    all_at_once(&bench, &work)?;
    let stats = bench.nothing_left()?;
    ensure!(stats.reactors.len() == 2);
    for reactor in &stats.reactors {
        ensure!(reactor.commands > 100, "hardly any commands: {reactor:?}");
    }
    ensure!(
        stats.pools.iter().all(|pool| pool.waits > 0),
        "{:?}",
        stats.pools
    );
    bench.stop()?;
    Ok(())
}

/// I/O queues beside the admin queue: 64 queues in all.
const QUEUES: u16 = 63;

/// As [`scarce`], for a host that says what a test wants.
fn sixteen_buffers() -> anyhow::Result<(Bench, RawHost, Association, Vec<Conn>)> {
    let bench = scarce("[0]", "64 KiB")?;
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 8, 0)?;
    let mut queues = vec![association.io];
    for qid in 2..=QUEUES {
        queues.push(io_queue(&mut host, association.cntlid, qid)?);
    }
    Ok((bench, host, association, queues))
}

fn io_queue(host: &mut RawHost, cntlid: u16, qid: u16) -> anyhow::Result<Conn> {
    let of = QueueOf {
        subsystem: DISK,
        qid,
        cntlid,
        entries: 8,
        kato_ms: 0,
    };
    Ok(host.queue(&of)?.0)
}

/// A command of queue `n`, each of which has a size and a direction of its own.
fn of_queue(host: &RawHost, n: usize) -> Sqe {
    let blocks = [8, 1, 128, 32, 16][n % 5];
    let opcode = [NvmOpcode::Write, NvmOpcode::Read][n % 2];
    let sqe = read_write(opcode, 2, 64 * n as u64, blocks);
    with_sgl(
        sqe,
        host.keyed(n * 65536 % (1 << 21), blocks as usize * 512),
    )
}

/// Every queue always has commands that wait: whatever their size, no queue gets
/// far ahead of another.
#[test]
fn sixteen_buffers_serve_64_queues_in_turn() -> anyhow::Result<()> {
    const UNDER_WAY: usize = 4;
    const EACH: usize = 8;
    let (bench, mut host, association, queues) = sixteen_buffers()?;
    let mut sent = bench.stats()?.reactors[0].commands;
    // So many wait before the first ends that all have their turns.
    bench.ssds[1].set_defer(true);
    for _ in 0..UNDER_WAY {
        for (n, conn) in queues.iter().enumerate() {
            let sqe = of_queue(&host, n);
            host.command(*conn, sqe)?;
        }
        sent += queues.len() as u64;
        host.until("commands that wait", |_| {
            (bench.stats().ok()?.reactors[0].commands >= sent).then_some(())
        })?;
    }
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
    let mut ended = vec![0; queues.len()];
    while ended.iter().any(|count| *count < EACH) {
        host.until("a response", |host| {
            (!host.responses.is_empty()).then_some(())
        })?;
        for (qp, cqe) in std::mem::take(&mut host.responses) {
            ensure!(cqe.status().is_success(), "{}", cqe.status());
            let of = queues.iter().position(|conn| conn.qp == qp);
            let n = of.context("the response of no queue")?;
            ended[n] += 1;
            let sqe = of_queue(&host, n);
            host.command(queues[n], sqe)?;
        }
        let (least, most) = (ended.iter().min(), ended.iter().max());
        ensure!(
            most.zip(least)
                .is_some_and(|(most, least)| most - least <= 2 * UNDER_WAY),
            "some get ahead: {ended:?}"
        );
    }
    for conn in queues.iter().chain([&association.admin]) {
        host.leave(*conn);
    }
    for conn in queues.iter().chain([&association.admin]) {
        host.await_end(*conn)?;
    }
    let stats = bench.nothing_left()?;
    let pool = stats.pools.iter().find(|pool| pool.waits > 0);
    let pool = pool.context("nobody ever waited")?;
    ensure!(pool.peak_bytes <= 64 << 10, "more than there is: {pool:?}");
    Ok(())
}

/// The SSD gives no buffer back, and 63 queues wait for one.
#[test]
fn admin_commands_and_connect_never_wait_behind_io() -> anyhow::Result<()> {
    let (bench, mut host, association, queues) = sixteen_buffers()?;
    bench.ssds[1].set_defer(true);
    let before = bench.stats()?.reactors[0].states["waiting-buffer"];
    for (n, conn) in queues.iter().enumerate() {
        let sqe = of_queue(&host, n);
        host.command(*conn, sqe)?;
    }
    host.until("commands that wait", |_| {
        let stats = bench.stats().ok()?;
        (stats.reactors[0].states["waiting-buffer"] >= before + 40).then_some(())
    })?;
    let mut identify = Identify::from(with_sgl(
        Sqe::new(AdminOpcode::Identify.0, 0),
        host.keyed(3 << 20, 4096),
    ));
    identify.cns = Cns::Controller;
    for _ in 0..100 {
        host.check(association.admin, identify.into(), &[], Status::SUCCESS)?;
    }
    // Queues and whole associations too.
    for _ in 0..8 {
        let conn = io_queue(&mut host, association.cntlid, QUEUES + 1)?;
        host.disconnect(conn)?;
    }
    let other = host.associate(DISK, 8, 0)?;
    host.disconnect(other.io)?;
    host.disconnect(other.admin)?;
    ensure!(
        bench
            .stats()?
            .pools
            .iter()
            .any(|pool| pool.in_use_bytes > 0)
    );
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
    host.until("all that waited", |host| {
        (host.responses.len() == queues.len()).then_some(())
    })?;
    host.disconnect(association.admin)?;
    bench.nothing_left()?;
    Ok(())
}
