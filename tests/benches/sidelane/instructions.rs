//! Instructions per command, counted by valgrind: the same on every machine with
//! the same compiler.
//!
//! Valgrind collects only inside functions whose name begins with `collected`.
//! Each probe runs with two numbers of commands; the difference is what the
//! additional commands cost.

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};
use sidelane::session::{Completion, QueueSession, Step};
use sidelane_nvme::Backing;
use sidelane_nvme::driver::{Controller, DataPointer, IoCommand, IoQueuePair, Options};
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelController, ModelOptions};
use sidelane_nvme::spec::{NvmOpcode, ReadWrite, ReadWriteCdw12, Sqe, offset};
use sidelane_p2p::{DmaSpace, Region};
use sidelane_tests::hooked::{Hook, Hooked, Memory};
use sidelane_tests::served::{self, Served};

use super::figures::Figures;
use super::wire::cores;

/// Commands of the shorter run, and how many more the longer one has.
const COMMANDS: u64 = 960;

/// Runs every probe under valgrind.
pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let probes = [
        ("driver: instructions per 4 KiB read, batch 1", "driver", 1),
        ("driver: instructions per 4 KiB read, batch 8", "driver", 8),
        (
            "driver: instructions per 4 KiB read, batch 32",
            "driver",
            32,
        ),
        ("session core: instructions per 4 KiB read", "session", 1),
    ];
    let wire = [
        ("4 KiB READ, path MTU 4096", "wire-read", 4096),
        ("4 KiB READ, path MTU 1024", "wire-read", 1024),
        ("64 B SEND", "wire-send", 4096),
    ];
    let there = Command::new("valgrind").arg("--version").output().is_ok();
    for (what, probe, batch) in probes {
        if !there {
            figures.missing(what, "there is no valgrind");
            continue;
        }
        let instructions = |commands| count(probe, batch, commands);
        let more = instructions(2 * COMMANDS)? - instructions(COMMANDS)?;
        figures.add(what, more as f64 / COMMANDS as f64, "");
    }
    // Valgrind takes each byte of a block copy for an instruction.
    for (what, probe, path_mtu) in wire {
        let what =
            format!("protocol core and CRC: instructions and bytes copied, per packet, {what}");
        if !there {
            figures.missing(what, "there is no valgrind");
            continue;
        }
        let instructions = |commands| count(probe, path_mtu, commands);
        let more = instructions(2 * COMMANDS)? - instructions(COMMANDS)?;
        let packets = cores::run(probe == "wire-read", path_mtu as u32, 1)?;
        figures.add(what, more as f64 / (COMMANDS * packets) as f64, "");
    }
    Ok(())
}

/// The instructions that valgrind collects in a probe.
fn count(probe: &str, batch: u64, commands: u64) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*collected*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["--probe", probe, &batch.to_string(), &commands.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {said}");
    let profile = std::fs::read_to_string(&file)?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total
        .context("no totals in what valgrind wrote")?
        .trim()
        .parse()?;
    ensure!(total > 0, "valgrind collected nothing in {probe}");
    Ok(total)
}

/// What valgrind runs.
pub fn probe(arguments: &mut impl Iterator<Item = String>) -> anyhow::Result<()> {
    let name = arguments.next().context("--probe NAME BATCH COMMANDS")?;
    let mut number = || arguments.next()?.parse().ok();
    let (batch, commands): (u64, u64) = number().zip(number()).context("two numbers")?;
    match name.as_str() {
        "driver" => driver(batch, commands),
        "session" => session(commands),
        "wire-read" | "wire-send" => {
            cores::run(name == "wire-read", batch as u32, commands).map(|_| ())
        }
        other => bail!("unknown probe {other}"),
    }
}

/// Doorbells are stores, as on a real bus: the SSD looks at them later, when
/// nothing is collected.
#[derive(Default)]
struct Latch {
    doorbells: [AtomicU32; 2],
}

impl Hook for Latch {
    fn write32(&self, model: &ModelBacking, _memory: &Memory, at: u32, value: u32) {
        match at.checked_sub(offset::sq_tail(1, 0)) {
            Some(0) => self.doorbells[0].store(value, Ordering::Release),
            Some(4) => self.doorbells[1].store(value, Ordering::Release),
            _ => model.write32(at, value),
        }
    }
}

type Queue = IoQueuePair<Hooked<Latch>>;

#[inline(never)]
fn collected_submit(queue: &mut Queue, region: &Region, first: u64, batch: u64) -> bool {
    let mut taken = true;
    for tag in first..first + batch {
        let data = DataPointer {
            region,
            offset: (tag % 32) as usize * 4096,
            len: 4096,
        };
        let command = IoCommand::Read {
            nsid: 1,
            slba: tag % 1024 * 8,
            blocks: 8,
            data,
        };
        taken &= queue.submit(command, tag).is_ok();
    }
    queue.ring();
    taken
}

#[inline(never)]
fn collected_poll(queue: &mut Queue) -> u64 {
    let mut good = 0;
    queue.poll(64, |end| good += u64::from(end.status.is_success()));
    good
}

fn driver(batch: u64, commands: u64) -> anyhow::Result<()> {
    let bus = ModelBus::new();
    let model = ModelController::new(&bus, ModelOptions::default());
    let backing = Hooked::new(model.backing(), Latch::default());
    let controller = Controller::open(backing, Options::default())?;
    let backing = controller.backing().clone();
    let region = bus.host_region("data", 32 * 4096)?;
    let mut queue = controller.create_io_queue_pair(64)?;
    let ring = |doorbell: usize| {
        let value = backing.hook().doorbells[doorbell].load(Ordering::Acquire);
        backing
            .model()
            .write32(offset::sq_tail(1, 0) + 4 * doorbell as u32, value);
    };
    for first in (0..commands).step_by(batch as usize) {
        ensure!(
            collected_submit(&mut queue, &region, first, batch),
            "not taken"
        );
        ring(0);
        ensure!(collected_poll(&mut queue) == batch, "not all have ended");
        ring(1);
    }
    Ok(())
}

#[inline(never)]
fn collected_command(session: &mut QueueSession, sqe: &Sqe, now: std::time::Instant) -> bool {
    let step = session.command(black_box(sqe), Ok(4096), now);
    let taken = matches!(black_box(step), Step::Io(_));
    black_box(session.completed(sqe.cid(), Completion::OK));
    taken
}

fn session(commands: u64) -> anyhow::Result<()> {
    let served = Served::new();
    let (_admin, mut session) = served.io_queue();
    for number in 0..commands {
        let mut sqe = served::command(NvmOpcode::Read.into_bits(), 1);
        sqe.cdw0.set_cid(number as u16);
        let read = ReadWrite {
            slba: (number % 128 * 8).into(),
            cdw12: ReadWriteCdw12::new().with_nlb_z(7),
            ..sqe.into()
        };
        let taken = collected_command(&mut session, &read.into(), served.start);
        ensure!(taken, "not taken");
    }
    Ok(())
}
