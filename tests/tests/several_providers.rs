//! Payload by memory of several kinds, and by several pieces of it for one
//! namespace: the nearest that has room, and what is left when one is lost.

use anyhow::{Context, ensure};
use sidelane::stats::{PoolReport, StatsReport};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout};
use sidelane_tests::in_process::good_host::Work;

const CMB: &str = "kind = \"cmb\"\ndevice = \"0000:01:00.0\"";
const PMR: &str = "kind = \"pmr\"\ndevice = \"0000:03:00.0\"";
const CARD: &str = "kind = \"bar\"\ndevice = \"0000:0a:00.0\"\nbar = 2";

/// A namespace on the SSD of that bus, which must go by these providers.
fn bench(providers: &[(&str, &str)], ssd: u8, named: &str) -> anyhow::Result<Bench> {
    let provider = |(id, lines): &(&str, &str)| format!("[[provider]]\nid = \"{id}\"\n{lines}\n");
    let providers: String = providers.iter().map(provider).collect();
    let rest = format!(
        "{providers}[[subsystem]]\nnqn = \"{DISK}\"\nhosts = [\"{GOOD}\"]\n\
         [[subsystem.namespace]]\nnsid = 1\np2p = \"require\"\nprovider = [{named}]\n\
         backend = {{ kind = \"nvme\", device = \"0000:{ssd:02x}:00.0\", nsid = 1 }}\n"
    );
    Bench::start(&Layout {
        cores: "[0]",
        rest,
        cmbs: 1,
    })
}

fn work(commands: usize) -> Work<'static> {
    Work {
        subsystem: DISK,
        nsids: &[1],
        io_queues: 2,
        commands,
        sizes: &[4096, 512, 65536, 16384],
        region: 0..4 << 20,
        seed: 9,
    }
}

fn pool<'a>(stats: &'a StatsReport, provider: &str) -> anyhow::Result<&'a PoolReport> {
    let mut pools = stats.pools.iter();
    pools
        .find(|pool| pool.provider == provider)
        .with_context(|| format!("no pool of {provider}: {:?}", stats.pools))
}

/// All of it by peer memory, counted for the namespace and for the pools alike.
fn only_by_peer_memory(stats: &StatsReport) -> anyhow::Result<()> {
    let namespace = &stats.namespaces[0];
    let by_pools: u64 = stats.pools.iter().map(|pool| pool.payload_bytes).sum();
    ensure!(
        namespace.payload_bytes_host == 0
            && namespace.payload_bytes_peer > 0
            && by_pools == namespace.payload_bytes_peer
            && stats.pools.iter().all(|pool| pool.peer),
        "{namespace:?} {:?}",
        stats.pools
    );
    Ok(())
}

#[rstest::rstest]
#[case::its_own_region(3, PMR, "pmr of 0000:03:00.0")]
#[case::the_region_of_another(1, PMR, "pmr of 0000:03:00.0")]
#[case::the_buffer_of_another(3, CMB, "cmb of 0000:01:00.0")]
#[case::a_plain_bar(2, CARD, "BAR 2 of 0000:0a:00.0")]
fn payload_goes_by_memory_of_every_kind(
    #[case] ssd: u8,
    #[case] kind: &str,
    #[case] region: &str,
) -> anyhow::Result<()> {
    let bench = bench(&[("mine", kind)], ssd, "\"mine\"")?;
    work(30).run(bench.remote)?;
    let stats = bench.nothing_left()?;
    only_by_peer_memory(&stats)?;
    ensure!(pool(&stats, "mine")?.region == region, "{:?}", stats.pools);
    let touched = bench.ssds[usize::from(ssd) - 1].touched().payload;
    ensure!(touched.host == 0, "{touched:?}");
    let own = region.contains(&format!("0000:{ssd:02x}"));
    ensure!(
        own == (touched.own_pmr > 0) && own == (touched.peer == 0),
        "{touched:?}"
    );
    Ok(())
}

#[test]
fn of_several_the_nearest_serves_what_fits_and_the_next_what_does_not() -> anyhow::Result<()> {
    // Two pages near by, of which no long transfer can have what it needs.
    let near = format!("{CMB}\nsize = \"8 KiB\"");
    let bench = bench(&[("far", CARD), ("near", &near)], 1, "\"far\", \"near\"")?;
    work(60).run(bench.remote)?;
    let stats = bench.nothing_left()?;
    only_by_peer_memory(&stats)?;
    let (near, far) = (pool(&stats, "near")?, pool(&stats, "far")?);
    ensure!(near.commands > 0 && far.commands > 0, "{:?}", stats.pools);
    ensure!(near.payload_bytes <= near.commands * 8192, "{near:?}");
    let way = &stats.namespaces[0].ways[0];
    ensure!(
        way.provider.as_deref() == Some("near, far") && way.code == "peer",
        "{way:?}"
    );
    Ok(())
}

#[test]
fn when_one_of_several_is_taken_away_the_others_serve_on() -> anyhow::Result<()> {
    let bench = bench(&[("cmb", CMB), ("card", CARD)], 2, "\"card\", \"cmb\"")?;
    work(20).run(bench.remote)?;
    let before = bench.nothing_left()?;
    ensure!(pool(&before, "card")?.commands > 0, "{:?}", before.pools);
    bench.card.revoke_memory("the test takes it");
    work(20).run(bench.remote)?;
    let after = bench.nothing_left()?;
    only_by_peer_memory(&after)?;
    ensure!(
        pool(&after, "card")?.commands == pool(&before, "card")?.commands,
        "{:?}",
        after.pools
    );
    let way = &after.namespaces[0].ways[0];
    ensure!(
        way.code == "peer"
            && way.provider.as_deref() == Some("cmb")
            && way.reason.contains("card was taken away"),
        "{way:?}"
    );
    Ok(())
}

#[rstest::rstest]
#[case::no_region(
    "kind = \"pmr\"\ndevice = \"0000:01:00.0\"",
    "no persistent memory region"
)]
#[case::no_such_bar(
    "kind = \"bar\"\ndevice = \"0000:0a:00.0\"\nbar = 4",
    "BAR 4 of 0000:0a:00.0"
)]
#[case::too_long(
    "kind = \"bar\"\ndevice = \"0000:0a:00.0\"\nbar = 2\nsize = \"1 GiB\"",
    "write a smaller size"
)]
#[case::not_there("kind = \"bar\"\ndevice = \"0000:0b:00.0\"\nbar = 2", "0000:0b:00.0")]
fn memory_that_is_not_there_is_named(#[case] kind: &str, #[case] said: &str) {
    let error = bench(&[("mine", kind)], 2, "\"mine\"").err().unwrap();
    let text = format!("{error:#}");
    assert!(
        text.contains("provider mine") && text.contains(said),
        "{text}"
    );
}
