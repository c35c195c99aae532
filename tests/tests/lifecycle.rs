//! Starting where something is in the way, idling, and stopping in the middle of
//! it all.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sidelane::devices::ModelDevices;
use sidelane::initiator::Host;
use sidelane::{Options, Target};
use sidelane_nvme::model::ModelBus;
use sidelane_nvme::spec::NvmOpcode;
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout, config, ssds, with_free};
use sidelane_tests::in_process::good_host;
use sidelane_tests::in_process::raw_host::{RawHost, read_write, with_sgl};

/// Starts what cannot start, and says why it did not.
fn refusal(layout: &Layout, address: IpAddr, control: &std::path::Path) -> anyhow::Result<String> {
    let config = match config(layout, address, control) {
        Ok(config) => config,
        Err(error) => return Ok(format!("{error:#}")),
    };
    let bus = ModelBus::new();
    let ssds = ssds(&bus, layout.cmbs);
    let start = Instant::now();
    let outcome = Target::start(&config, ModelDevices::new(bus, ssds), Options::default());
    ensure!(start.elapsed() < Duration::from_secs(10), "slow to refuse");
    match outcome {
        Ok(target) => {
            target.stop()?;
            bail!("it started")
        }
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn says(text: &str, words: &[&str]) -> anyhow::Result<()> {
    for word in words {
        ensure!(text.contains(word), "`{word}` is not in: {text}");
    }
    Ok(())
}

#[test]
fn what_another_target_has_is_not_taken_and_the_other_one_does_not_notice() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let layout = Layout::default();
    let folder = tempfile::tempdir()?;
    let text = refusal(&layout, bench.remote.ip(), &folder.path().join("socket"))?;
    says(
        &text,
        &["4791", "in use", "ss -ulpn", &bench.remote.ip().to_string()],
    )?;
    let text = with_free(|address| {
        let text = refusal(&layout, address, &bench.control())?;
        ensure!(!text.contains("4791"), "{text}");
        Ok(text)
    })?;
    says(
        &text,
        &["another target answers", "target.control", "control.sock"],
    )?;
    ensure!(
        bench.control().exists(),
        "the other one's socket was removed"
    );
    bench.healthy()?;
    // What did not start has given all it had back.
    let (address, control) = (bench.remote.ip(), bench.control());
    bench.stop()?;
    ensure!(!control.exists(), "the socket was left behind");
    let config = config(&layout, address, &folder.path().join("socket"))?;
    let bus = ModelBus::new();
    let ssds = ssds(&bus, 1);
    Target::start(&config, ModelDevices::new(bus, ssds), Options::default())
        .context("the address is free again")?
        .stop()
}

#[rstest::rstest]
#[case::no_such_device(
    "backend = { kind = \"nvme\", device = \"0000:09:00.0\", nsid = 1 }\np2p = \"off\"",
    &["0000:09:00.0"]
)]
#[case::no_such_namespace(
    "backend = { kind = \"nvme\", device = \"0000:01:00.0\", nsid = 7 }\np2p = \"off\"",
    &["0000:01:00.0", "no active namespace 7", "[1]"]
)]
#[case::required_without_memory(
    "backend = { kind = \"nvme\", device = \"0000:02:00.0\", nsid = 1 }\np2p = \"require\"",
    &["nqn.2026-11.io.sidelane:disk nsid 1", "require", "provider"]
)]
#[case::required_where_there_is_host_memory(
    "backend = { kind = \"nvme\", device = \"0000:02:00.0\", nsid = 1 }\np2p = \"require\"\n[[provider]]\nid = \"host\"\nkind = \"host\"\nsize = \"1 MiB\"",
    &["nqn.2026-11.io.sidelane:disk nsid 1", "require", "provider"]
)]
fn what_cannot_be_met_refuses_to_start_and_says_why(
    #[case] namespace: &str,
    #[case] words: &[&str],
) -> anyhow::Result<()> {
    let layout = Layout {
        rest: format!(
            "\n[[subsystem]]\nnqn = \"{DISK}\"\nin_capsule = 0\nhosts = [\"{GOOD}\"]\n[[subsystem.namespace]]\nnsid = 1\n{namespace}\n"
        ),
        ..Layout::default()
    };
    let folder = tempfile::tempdir()?;
    let text = with_free(|address| refusal(&layout, address, &folder.path().join("socket")))?;
    eprintln!("{text}");
    says(&text, words)
}

#[rstest::rstest]
#[case::of_writes(NvmOpcode::Write, false)]
#[case::of_reads(NvmOpcode::Read, false)]
#[case::that_an_ssd_never_ends(NvmOpcode::Write, true)]
fn a_target_stops_in_the_middle_of_64_commands(
    #[case] opcode: NvmOpcode,
    #[case] ssd_hangs: bool,
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut hosts = Vec::new();
    for nsid in [1, 2] {
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, 128, 0)?;
        let ssd = bench.ssds[nsid as usize - 1].clone();
        ssd.set_defer(true);
        for n in 0..64 {
            let descriptor = host.keyed(n * 4096, 4096);
            let sqe = read_write(opcode, nsid, 8 * n as u64, 8);
            host.command(association.io, with_sgl(sqe, descriptor))?;
        }
        host.until("commands at the SSD", |_| {
            let stats = bench.stats().ok()?;
            (stats.reactors[0].states["executing"] >= 16).then_some(())
        })?;
        hosts.push((host, association));
    }
    if !ssd_hangs {
        for ssd in &bench.ssds {
            ssd.set_defer(false);
        }
        bench.ssds[0].step();
    }
    let hanging = bench.ssds.clone();
    let stopping = std::thread::spawn(move || {
        if ssd_hangs {
            // Only the I/O hangs: shutting down is answered in the end.
            std::thread::sleep(Duration::from_secs(12));
            for ssd in hanging {
                ssd.set_defer(false);
                while ssd.step() {}
            }
        } else {
            for ssd in hanging {
                while ssd.step() {}
            }
        }
    });
    let took = bench.stop()?;
    let limit = if ssd_hangs { 18 } else { 5 };
    ensure!(took < Duration::from_secs(limit), "stopping took {took:?}");
    stopping.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    for (host, association) in &mut hosts {
        host.await_end(association.io)?;
        host.await_end(association.admin)?;
    }
    Ok(())
}

/// Whether a target that has nothing to do does nothing: with a host that is
/// connected, and only says that it is alive.
#[test]
fn an_idle_target_sleeps() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut endpoint = good_host::endpoint(2, 64, 1 << 20)?;
    let mut options = good_host::options(bench.remote, DISK)?;
    options.io_queues = 2;
    options.depth = 64;
    let mut host = Host::connect(&mut endpoint, options)?;
    let mut calm = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        let before = bench.stats()?;
        while start.elapsed() < Duration::from_secs(3) {
            host.poll(|_| {})?;
            host.wait(Duration::from_millis(100))?;
        }
        let rounds = bench.stats()?.reactors[0].rounds - before.reactors[0].rounds;
        calm.push(rounds as f64 / start.elapsed().as_secs_f64());
    }
    host.disconnect()?;
    ensure!(
        calm.iter().all(|rate| *rate < 60.0),
        "rounds per second: {calm:?}"
    );
    eprintln!("rounds per second: {calm:?}");
    bench.nothing_left()?;
    Ok(())
}

/// One whose host is gone, and whose SSD does not answer.
#[test]
fn a_target_sleeps_while_an_ssd_does_not_answer() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 128, 0)?;
    bench.ssds[1].set_defer(true);
    for _ in 0..8 {
        let read = read_write(NvmOpcode::Read, 2, 0, 8);
        host.command(association.io, with_sgl(read, host.keyed(0, 4096)))?;
    }
    host.until("commands at the SSD", |_| {
        let stats = bench.stats().ok()?;
        (stats.reactors[0].states["executing"] == 8).then_some(())
    })?;
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    // Longer than a queue pair may take to drain.
    std::thread::sleep(Duration::from_secs(6));
    let before = bench.stats()?.reactors[0].rounds;
    std::thread::sleep(Duration::from_secs(2));
    let rounds = bench.stats()?.reactors[0].rounds - before;
    ensure!(rounds < 200, "{rounds} rounds in two seconds");
    bench.ssds[1].set_defer(false);
    while bench.ssds[1].step() {}
    bench.healthy()?;
    Ok(())
}
