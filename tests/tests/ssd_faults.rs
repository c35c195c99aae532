//! SSDs that do not do what they should while hosts use them: commands that do
//! not end, controllers that stop or fail. Hosts notice a delay at most, as long
//! as the SSD can be brought back; and the other SSDs notice nothing.

use anyhow::{Context, ensure};
use sidelane::stats::{SsdReport, StatsReport};
use sidelane_nvme::model::{Broken, Fault, Matcher};
use sidelane_nvme::spec::{NvmOpcode, Status};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout};
use sidelane_tests::in_process::good_host::Work;
use sidelane_tests::in_process::raw_host::{RawHost, read_write, with_sgl};

/// A target that does not wait long for its SSDs.
fn impatient() -> anyhow::Result<Bench> {
    Bench::start(&Layout {
        cores: "[0]\ncommand_timeout_ms = 300",
        ..Layout::default()
    })
}

fn work(nsids: &[u32]) -> Work<'_> {
    Work {
        subsystem: DISK,
        nsids,
        io_queues: 2,
        commands: 40,
        sizes: &[4096, 512, 65536, 16384],
        region: 0..4 << 20,
        seed: 11,
    }
}

fn ssd(stats: &StatsReport, number: usize) -> anyhow::Result<&SsdReport> {
    stats.ssds.get(number).context("no such SSD")
}

/// What a keeper did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    Nothing,
    Abort,
    Reset,
}

#[rstest::rstest]
#[case::a_write_that_is_never_answered(Matcher::io(NvmOpcode::Write).after(5), Fault::Drop, Cure::Reset)]
#[case::a_read_that_is_never_answered(Matcher::io(NvmOpcode::Read).after(5), Fault::Drop, Cure::Reset)]
#[case::a_write_that_is_held_back(Matcher::io(NvmOpcode::Write).after(5), Fault::Hold, Cure::Abort)]
#[case::reads_that_are_held_back(Matcher::io(NvmOpcode::Read).after(5).times(9), Fault::Hold, Cure::Abort)]
#[case::a_queue_that_stops(Matcher::io(NvmOpcode::Write).after(9), Fault::StopQueue, Cure::Reset)]
#[case::a_controller_that_stops(Matcher::io(NvmOpcode::Write).after(9), Fault::Break(Broken::Stopped), Cure::Reset)]
#[case::a_controller_that_fails(Matcher::io(NvmOpcode::Read).after(9), Fault::Break(Broken::Fatal), Cure::Reset)]
#[case::an_identifier_that_is_wrong(Matcher::io(NvmOpcode::Read).after(9), Fault::WrongCid(0x4000), Cure::Reset)]
#[case::two_answers_to_one_command(Matcher::io(NvmOpcode::Write).after(9), Fault::Twice, Cure::Nothing)]
#[case::another_order(Matcher::io(NvmOpcode::Read).times(8), Fault::Reorder { batch: 4, seed: 1 }, Cure::Nothing)]
fn no_byte_and_no_command_is_lost_when_an_ssd_has(
    #[case] matcher: Matcher,
    #[case] fault: Fault,
    #[case] cure: Cure,
) -> anyhow::Result<()> {
    let bench = impatient()?;
    let armed = bench.ssds[0].inject(matcher, fault);
    work(&[1, 2]).run(bench.remote)?;
    ensure!(armed.fired() > 0, "the fault never struck");
    let stats = bench.healthy()?;
    let (first, second) = (ssd(&stats, 0)?, ssd(&stats, 1)?);
    let done = match (first.resets, first.aborted) {
        (0, 0) => Cure::Nothing,
        (0, _) => Cure::Abort,
        _ => Cure::Reset,
    };
    ensure!(done == cure, "{first:?}");
    ensure!(
        first.state == "up" && first.failed_commands == 0 && first.losses == 0,
        "{first:?}"
    );
    ensure!(second.resets == 0 && second.timeouts == 0, "{second:?}");
    bench.stop()?;
    Ok(())
}

#[test]
fn a_command_that_brings_its_ssd_down_each_time_fails_and_the_rest_goes_on() -> anyhow::Result<()> {
    let bench = impatient()?;
    let deadly = Matcher::io(NvmOpcode::Read).lbas(40..41).always();
    bench.ssds[0].inject(deadly, Fault::Break(Broken::Fatal));
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 32, 0)?;
    let read =
        |host: &RawHost, lba| with_sgl(read_write(NvmOpcode::Read, 1, lba, 1), host.keyed(0, 512));
    let sqe = read(&host, 40);
    let got = host.transact(association.io, sqe)?.status();
    ensure!(
        got.same_code(Status::INTERNAL_PATH_ERROR) && !got.dnr(),
        "{got}"
    );
    let sqe = read(&host, 41);
    let got = host.transact(association.io, sqe)?.status();
    ensure!(got.is_success(), "{got}");
    let stats = bench.stats()?;
    let first = ssd(&stats, 0)?;
    ensure!(first.resets == 4 && first.losses == 0, "{first:?}");
    ensure!(
        first.retried_commands == 3 && first.failed_commands == 1,
        "{first:?}"
    );
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    bench.ssds[0].disarm();
    bench.healthy()?;
    Ok(())
}

#[test]
fn a_bad_status_is_the_hosts_to_know() -> anyhow::Result<()> {
    let bench = impatient()?;
    let status = Status::UNRECOVERED_READ_ERROR.with_dnr(true);
    bench.ssds[1].inject(Matcher::io(NvmOpcode::Read), Fault::Status(status));
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 32, 0)?;
    let read = with_sgl(read_write(NvmOpcode::Read, 2, 0, 8), host.keyed(0, 4096));
    let got = host.transact(association.io, read)?.status();
    ensure!(got.same_code(status) && got.dnr(), "{got}");
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    let stats = bench.nothing_left()?;
    let second = ssd(&stats, 1)?;
    ensure!(second.resets == 0 && second.aborts == 0, "{second:?}");
    Ok(())
}

/// Two of the three are dead for good, with commands outstanding, and stay so.
#[test]
fn a_dead_ssd_disturbs_neither_the_others_nor_the_end() -> anyhow::Result<()> {
    let bench = impatient()?;
    for (at, broken) in [(0, Broken::Stopped), (2, Broken::NeverReady)] {
        bench.ssds[at].break_for_good(broken);
    }
    bench.ssds[2].break_down(Broken::Stopped);
    let mut host = RawHost::new(bench.remote)?;
    host.hostnqn = GOOD.to_owned();
    let association = host.associate(DISK, 32, 0)?;
    for lba in 0..8 {
        let read = with_sgl(read_write(NvmOpcode::Read, 1, lba, 1), host.keyed(0, 512));
        host.command(association.io, read)?;
    }
    work(&[2]).run(bench.remote)?;
    let took = bench.stop()?;
    // It was more than a minute. This is far more than it takes, and far less.
    ensure!(took.as_secs() < 30, "stopping took {took:?}");
    Ok(())
}
