//! More commands than there are buffers: everybody gets on, in turn, and what
//! was written is what is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout, SSD_BYTES};
use sidelane_tests::in_process::good_host::Work;

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
