//! Peer memory that is taken away while hosts use it: the pool leaves service,
//! commands go the next way that the policy allows or fail with a status that
//! says so, and no byte goes by it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{Cqe, NvmOpcode, Sqe, Status};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout};
use sidelane_tests::in_process::good_host::Work;
use sidelane_tests::in_process::raw_host::{RawHost, bare, read_write, with_sgl};

/// A namespace on the first SSD, with a second SSD whose memory may do instead.
fn bench(policy: &str, spare: bool) -> anyhow::Result<Bench> {
    let second = match spare {
        true => format!(
            "[[subsystem.namespace]]\nnsid = 2\np2p = \"{policy}\"\n\
             backend = {{ kind = \"nvme\", device = \"0000:02:00.0\", nsid = 1 }}\n"
        ),
        false => String::new(),
    };
    let rest = format!(
        "[[subsystem]]\nnqn = \"{DISK}\"\nin_capsule = 0\nhosts = [\"{GOOD}\"]\n\
         [[subsystem.namespace]]\nnsid = 1\np2p = \"{policy}\"\n\
         backend = {{ kind = \"nvme\", device = \"0000:01:00.0\", nsid = 1 }}\n{second}"
    );
    Bench::start(&Layout {
        cores: "[0]",
        rest,
        cmbs: 1 + u8::from(spare),
    })
}

fn work(commands: usize) -> Work<'static> {
    Work {
        subsystem: DISK,
        nsids: &[1],
        io_queues: 2,
        commands,
        sizes: &[4096, 512, 65536],
        region: 0..4 << 20,
        seed: 3,
    }
}

#[rstest::rstest]
#[case::host_memory("prefer", false, "revoked")]
#[case::the_other_providers_memory("require", true, "peer")]
fn commands_go_the_next_way_that_the_policy_allows(
    #[case] policy: &str,
    #[case] spare: bool,
    #[case] counted_as: &str,
) -> anyhow::Result<()> {
    let bench = bench(policy, spare)?;
    work(20).run(bench.remote)?;
    let before = bench.stats()?;
    ensure!(before.namespaces[0].payload_bytes_host == 0, "{before:?}");
    let lost = &before.pools[0];
    ensure!(
        lost.peer && lost.region.contains("0000:01:00.0"),
        "{lost:?}"
    );

    bench.ssds[0].revoke_memory("the test takes it");
    bench.ssds[0].restart_record(false);
    work(20).run(bench.remote)?;

    let after = bench.nothing_left()?;
    let (was, is) = (&before.namespaces[0], &after.namespaces[0]);
    let way = &is.ways[0];
    ensure!(way.code == "revoked" && way.provider.is_none(), "{way:?}");
    let moved = is.reads.commands + is.writes.commands;
    ensure!(moved > was.reads.commands + was.writes.commands, "{is:?}");
    let peer = is.payload_bytes_peer - was.payload_bytes_peer;
    let host = is.payload_bytes_host;
    let by_host = is.writes.host_bytes_by_reason.get("revoked").copied();
    match counted_as {
        "peer" => ensure!(peer > 0 && host == 0, "{is:?}"),
        _ => ensure!(peer == 0 && host > 0 && by_host.is_some(), "{is:?}"),
    }
    ensure!(
        bench.ssds[0].touched().payload.own_cmb == 0,
        "the SSD still moved payload through the memory that was taken away"
    );
    Ok(())
}

#[test]
fn where_nothing_else_is_allowed_commands_fail_as_on_a_broken_path_and_the_target_lives()
-> anyhow::Result<()> {
    let bench = bench("require", false)?;
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 32, 0)?;
    let read = with_sgl(read_write(NvmOpcode::Read, 1, 0, 8), host.keyed(0, 4096));
    let status = |cqe: Cqe| cqe.status();
    ensure!(status(host.transact(association.io, read)?).is_success());
    // An answer that the adapter still has would end its connection.
    host.until("the buffer to come back", |_| {
        let stats = bench.stats().ok()?;
        stats
            .pools
            .iter()
            .all(|it| it.in_use_bytes == 0)
            .then_some(())
    })?;
    bench.ssds[0].revoke_memory("the test takes it");
    let refused = || Status::INTERNAL_PATH_ERROR;
    // The reactor hears of it in its next round, at the latest.
    host.until("the pool to leave service", |_| {
        bench
            .stats()
            .ok()
            .filter(|it| it.namespaces[0].ways[0].code == "revoked")
    })?;
    for op in [NvmOpcode::Read, NvmOpcode::Write] {
        let sqe = with_sgl(read_write(op, 1, 0, 8), host.keyed(0, 4096));
        let got = status(host.transact(association.io, sqe)?);
        ensure!(got.same_code(refused()) && !got.dnr(), "{op:?}: {got}");
    }
    // What moves no payload goes on.
    let flush = bare(Sqe::new(NvmOpcode::Flush.0, 1));
    ensure!(status(host.transact(association.io, flush)?).is_success());
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    bench.nothing_left()?;
    Ok(())
}

/// Hosts may see their connection end, and try again; nobody reads what was not
/// written.
#[test]
fn memory_that_goes_under_load_loses_no_data() -> anyhow::Result<()> {
    let bench = bench("prefer", false)?;
    let (remote, done) = (bench.remote, AtomicBool::new(false));
    thread::scope(|scope| {
        let host = scope.spawn(|| -> anyhow::Result<u32> {
            let mut ended = 0;
            while !done.load(Ordering::Relaxed) {
                match work(30).run(remote) {
                    Ok(_) => {}
                    Err(error) if format!("{error:#}").contains("is not what was written") => {
                        return Err(error);
                    }
                    Err(_) => ended += 1,
                }
            }
            work(30).run(remote)?;
            Ok(ended)
        });
        thread::sleep(Duration::from_millis(300));
        bench.ssds[0].revoke_memory("the test takes it");
        thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        let ended = host.join().ok().context("the host has panicked")??;
        ensure!(ended <= 2, "{ended} associations ended for one loss");
        Ok(())
    })?;
    bench.nothing_left()?;
    Ok(())
}
