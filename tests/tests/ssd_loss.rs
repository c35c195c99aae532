//! SSDs that go and come back, or change, while hosts use them.

use anyhow::{Context, ensure};
use sidelane::initiator::Host;
use sidelane_nvme::spec::{AdminOpcode, NvmOpcode, Sqe, Status};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout};
use sidelane_tests::in_process::good_host::{self, Work};
use sidelane_tests::in_process::raw_host::{Association, RawHost, bare, read_write, with_sgl};

fn bench() -> anyhow::Result<Bench> {
    Bench::start(&Layout {
        cores: "[0]\ncommand_timeout_ms = 300",
        ..Layout::default()
    })
}

/// A target whose second SSD uses the memory of the first.
fn sharing() -> anyhow::Result<Bench> {
    let rest = format!(
        "[[provider]]\nid = \"memory\"\nkind = \"cmb\"\ndevice = \"0000:01:00.0\"\n\
         [[subsystem]]\nnqn = \"{DISK}\"\nin_capsule = 0\nhosts = [\"{GOOD}\"]\n\
         [[subsystem.namespace]]\nnsid = 1\np2p = \"require\"\n\
         backend = {{ kind = \"nvme\", device = \"0000:01:00.0\", nsid = 1 }}\n\
         [[subsystem.namespace]]\nnsid = 2\np2p = \"prefer\"\nprovider = \"memory\"\n\
         backend = {{ kind = \"nvme\", device = \"0000:02:00.0\", nsid = 1 }}\n"
    );
    Bench::start(&Layout {
        cores: "[0]\ncommand_timeout_ms = 300",
        rest,
        cmbs: 1,
    })
}

fn host(bench: &Bench) -> anyhow::Result<(RawHost, Association)> {
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 32, 0)?;
    Ok((host, association))
}

fn goodbye(mut host: RawHost, association: &Association) -> anyhow::Result<()> {
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    Ok(())
}

fn read(host: &mut RawHost, association: &Association, nsid: u32) -> anyhow::Result<Status> {
    let sqe = with_sgl(read_write(NvmOpcode::Read, nsid, 0, 8), host.keyed(0, 4096));
    Ok(host.transact(association.io, sqe)?.status())
}

/// Blocks and bytes of a block of a namespace, as a host that comes now sees it.
fn seen(bench: &Bench, nsid: u32) -> anyhow::Result<Option<(u64, u32)>> {
    let mut endpoint = good_host::endpoint(1, 8, 4096)?;
    let mut options = good_host::options(bench.remote, DISK)?;
    options.depth = 8;
    let host = Host::connect(&mut endpoint, options)?;
    let mut namespaces = host.namespaces().iter();
    let found = namespaces.find(|ns| ns.nsid == nsid);
    let found = found.map(|ns| (ns.blocks, ns.block_bytes));
    host.disconnect()?;
    Ok(found)
}

fn is(bench: &Bench, number: usize, state: &str) -> anyhow::Result<()> {
    bench.until(state, |stats| {
        stats.ssds.get(number).is_some_and(|ssd| ssd.state == state)
    })?;
    Ok(())
}

fn work(nsid: &[u32]) -> Work<'_> {
    Work {
        subsystem: DISK,
        nsids: nsid,
        io_queues: 2,
        commands: 30,
        sizes: &[4096, 16384, 65536],
        region: 0..2 << 20,
        seed: 5,
    }
}

#[test]
fn a_lost_ssd_is_a_path_error_and_an_event_and_serves_again_when_it_is_back() -> anyhow::Result<()>
{
    let bench = bench()?;
    let (mut host, association) = host(&bench)?;
    ensure!(read(&mut host, &association, 1)?.is_success());
    // Namespace attribute notices are wanted.
    let mut features = Sqe::new(AdminOpcode::SetFeatures.0, 0);
    features.cdw10.set(0x0b);
    features.cdw11.set(1 << 8);
    ensure!(
        host.transact(association.admin, bare(features))?
            .status()
            .is_success()
    );
    let event = host.command(
        association.admin,
        bare(Sqe::new(AdminOpcode::AsyncEventRequest.0, 0)),
    )?;

    bench.ssds[0].vanish();
    let told = host.response(association.admin, event)?;
    // A notice (2), of namespace attributes (0), with the list of changed ones (04h).
    ensure!(told.dw0.get() == 0x0004_0002, "{:#x}", told.dw0.get());
    let got = read(&mut host, &association, 1)?;
    ensure!(
        got.same_code(Status::INTERNAL_PATH_ERROR) && !got.dnr(),
        "{got}"
    );
    is(&bench, 0, "lost")?;
    ensure!(seen(&bench, 1)?.is_none() && seen(&bench, 2)?.is_some());
    work(&[2])
        .run(bench.remote)
        .context("the SSD that is there")?;

    bench.ssds[0].reappear();
    is(&bench, 0, "up")?;
    ensure!(seen(&bench, 1)?.is_some());
    ensure!(
        read(&mut host, &association, 1)?.is_success(),
        "the connection of before"
    );
    goodbye(host, &association)?;
    // Its payload must go by its own memory, which is back too.
    let before = bench.stats()?.namespaces[0].payload_bytes_peer;
    work(&[1, 2]).run(bench.remote)?;
    let stats = bench.healthy()?;
    ensure!(stats.namespaces[0].payload_bytes_peer > before);
    ensure!(
        (stats.ssds[0].losses, stats.ssds[0].returns) == (1, 1),
        "{:?}",
        stats.ssds[0]
    );
    ensure!(stats.ssds[1].losses == 0 && stats.ssds[1].resets == 0);
    bench.stop()?;
    Ok(())
}

#[test]
fn commands_under_way_end_when_their_ssd_vanishes() -> anyhow::Result<()> {
    let bench = bench()?;
    let (mut host, association) = host(&bench)?;
    bench.ssds[1].set_defer(true);
    let mut cids = Vec::new();
    for n in 0..8 {
        let sqe = with_sgl(read_write(NvmOpcode::Write, 2, n, 1), host.keyed(0, 512));
        cids.push(host.command(association.io, sqe)?);
    }
    host.until("commands at the SSD", |_| {
        let stats = bench.stats().ok()?;
        let executing = stats.reactors[0].states.get("executing").copied()?;
        (executing >= 8).then_some(())
    })?;
    bench.ssds[1].vanish();
    for cid in cids {
        let got = host.response(association.io, cid)?.status();
        ensure!(
            got.same_code(Status::INTERNAL_PATH_ERROR) && !got.dnr(),
            "{got}"
        );
    }
    goodbye(host, &association)?;
    bench.nothing_left()?;
    bench.stop()?;
    Ok(())
}

#[test]
fn memory_that_is_lost_with_its_ssd_serves_the_other_ssds_again_when_it_is_back()
-> anyhow::Result<()> {
    let bench = sharing()?;
    let way = |bench: &Bench| anyhow::Ok(bench.stats()?.namespaces[1].ways[0].code.clone());
    work(&[2]).run(bench.remote)?;
    ensure!(way(&bench)? == "peer", "{}", way(&bench)?);
    bench.ssds[0].vanish();
    is(&bench, 0, "lost")?;
    work(&[2]).run(bench.remote).context("by host memory")?;
    ensure!(way(&bench)? == "revoked", "{}", way(&bench)?);
    bench.ssds[0].reappear();
    is(&bench, 0, "up")?;
    bench.until("the way back", |stats| {
        stats.namespaces[1].ways[0].code == "peer"
    })?;
    let before = bench.stats()?.namespaces[1].clone();
    work(&[2])
        .run(bench.remote)
        .context("by peer memory again")?;
    let after = bench.stats()?.namespaces[1].clone();
    ensure!(after.payload_bytes_host == before.payload_bytes_host);
    ensure!(after.payload_bytes_peer > before.payload_bytes_peer);
    bench.healthy()?;
    bench.stop()?;
    Ok(())
}

#[test]
fn a_namespace_that_was_resized_or_formatted_elsewhere_is_what_it_is_now() -> anyhow::Result<()> {
    let bench = bench()?;
    let (mut host, association) = host(&bench)?;
    ensure!(read(&mut host, &association, 2)?.is_success());
    let (blocks, _) = seen(&bench, 2)?.context("no namespace")?;
    bench.ssds[1].resize(1, blocks / 2);
    let told = || bench.stats().map(|stats| stats.ssds[1].namespace_events);
    bench.until("the event", |stats| stats.ssds[1].namespace_events == 1)?;
    host.until("the new size", |_| {
        (seen(&bench, 2).ok()? == Some((blocks / 2, 512))).then_some(())
    })?;
    let beyond = with_sgl(
        read_write(NvmOpcode::Read, 2, blocks / 2, 1),
        host.keyed(0, 512),
    );
    let got = host.transact(association.io, beyond)?.status();
    ensure!(got.same_code(Status::LBA_OUT_OF_RANGE), "{got}");

    bench.ssds[1].format(1, 12);
    bench.until("the next event", |stats| stats.ssds[1].namespace_events > 1)?;
    host.until("the new format", |_| {
        (seen(&bench, 2).ok()? == Some((blocks / 16, 4096))).then_some(())
    })?;
    ensure!(told()? >= 2);
    goodbye(host, &association)?;
    work(&[2])
        .run(bench.remote)
        .context("blocks of 4096 bytes")?;
    bench.nothing_left()?;

    bench.ssds[1].detach(1);
    let (mut host, association) = self::host(&bench)?;
    host.until("its end", |_| seen(&bench, 2).ok()?.is_none().then_some(()))?;
    let got = read(&mut host, &association, 2)?;
    ensure!(got.same_code(Status::INTERNAL_PATH_ERROR), "{got}");
    ensure!(read(&mut host, &association, 1)?.is_success());
    bench.ssds[1].attach(1);
    host.until("its return", |_| seen(&bench, 2).ok()?.map(drop))?;
    goodbye(host, &association)?;
    work(&[2])
        .run(bench.remote)
        .context("it is attached again")?;
    bench.nothing_left()?;
    bench.stop()?;
    Ok(())
}
