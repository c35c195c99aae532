//! Instructions per command, counted by valgrind: the same on every machine with
//! the same compiler.
//!
//! Valgrind collects only inside functions whose name begins with `collected`
//! (of the whole path: inside the reactor's rounds). Each probe runs with two
//! numbers of commands; the difference is what the additional commands cost. Of
//! the driver, that is all of submitting, ringing and polling; commands are made up
//! before. The loop that hands them over one by one is the caller's: the same with
//! a callee in which nothing is collected is measured by itself, shown, and taken
//! off. The model works outside of it, since its
//! doorbells are latched and handed to it afterwards.
//!
//! Among the instructions, those with a bus lock are counted apart: without one,
//! no lock is taken and no reference counted.

use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};
use sidelane::initiator::Host;
use sidelane::session::{Completion, QueueSession, Step};
use sidelane_nvme::Backing;
use sidelane_nvme::driver::{
    Controller, DataPointer, IoCommand, IoQueuePair, Options, QueueStats, SubmitError,
};
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelController, ModelOptions};
use sidelane_nvme::spec::{NvmOpcode, ReadWrite, ReadWriteCdw12, Sqe, offset};
use sidelane_p2p::DmaSpace;
use sidelane_tests::hooked::{Hook, Hooked, Memory};
use sidelane_tests::served::{self, Served};

use super::figures::Figures;
use super::load::Load;
use super::stage::{NULL, SSD_BYTES, Stage};
use super::wire::cores;

/// Commands of the shorter run, and how many more the longer one has.
const COMMANDS: u64 = 960;

/// What the driver may spend on a small command in a large batch.
const DRIVER_GOAL: f64 = 150.0;

/// Functions that valgrind collects in, of most probes and of the whole path.
const COLLECTED: &str = "*collected*";
const ROUNDS: &str = "*Reactor*round*";

/// Runs every probe under valgrind.
pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    doorbells(figures)?;
    if Command::new("valgrind").arg("--version").output().is_err() {
        figures.missing("instructions per command", "there is no valgrind");
        return Ok(());
    }
    let goal = Some(DRIVER_GOAL);
    let probes = [
        ("driver: 4 KiB read, batch 1", "driver-read", 1, None),
        ("driver: 4 KiB read, batch 8", "driver-read", 8, None),
        ("driver: 4 KiB read, batch 32", "driver-read", 32, goal),
        ("driver: 4 KiB write, batch 32", "driver-write", 32, goal),
        ("driver: 4 KiB read, SGL, batch 32", "driver-sgl", 32, goal),
        (
            "driver: 128 KiB read, PRP list, batch 32",
            "driver-list",
            32,
            None,
        ),
        ("session core: 4 KiB read", "session", 1, None),
        ("reactor, whole path: 4 KiB, null backend", "path", 32, None),
    ];
    let locked = locked_instructions();
    let callers = [1, 8, 32].map(|batch| (batch, callers_loop(batch)));
    for (batch, loop_of) in &callers {
        let name = format!("driver: the caller's loop, batch {batch}: instructions");
        match loop_of {
            Ok(value) => figures.add(name, *value, ""),
            Err(error) => figures.missing(name, format!("{error:#}")),
        }
    }
    for (what, probe, batch, goal) in probes {
        let counted = |commands| count(probe, batch, commands, locked.as_ref().ok());
        let (short, long) = match (counted(COMMANDS), counted(2 * COMMANDS)) {
            (Ok(short), Ok(long)) => (short, long),
            (Err(error), _) | (_, Err(error)) => {
                figures.missing(what, format!("{error:#}"));
                continue;
            }
        };
        let per_command = |long: u64, short: u64| (long as f64 - short as f64) / COMMANDS as f64;
        let whole = per_command(long.all, short.all);
        let callers = callers.iter().filter(|_| probe.starts_with("driver"));
        let mut callers = callers.filter(|(of, _)| *of == batch);
        let (name, value) = match callers.next() {
            Some((_, Ok(callers))) => (
                format!("{what}: instructions, less the caller's loop"),
                whole - callers,
            ),
            _ => (format!("{what}: instructions"), whole),
        };
        match goal {
            Some(goal) => figures.add_with_goal(name, value, "", goal),
            None => figures.add(name, value, ""),
        }
        let name = format!("{what}: locked instructions");
        match &locked {
            Ok(_) => {
                figures.add_with_goal(name, per_command(long.locked, short.locked), "", 0.0);
            }
            Err(error) => figures.missing(name, format!("{error:#}")),
        }
    }
    // Valgrind takes each byte of a block copy for an instruction.
    let wire = [
        ("4 KiB READ, path MTU 4096", "wire-read", 4096),
        ("4 KiB READ, path MTU 1024", "wire-read", 1024),
        ("64 B SEND", "wire-send", 4096),
    ];
    for (what, probe, path_mtu) in wire {
        let what =
            format!("protocol core and CRC: instructions and bytes copied, per packet, {what}");
        let instructions = |commands| count(probe, path_mtu, commands, None);
        let more = instructions(2 * COMMANDS)?.all - instructions(COMMANDS)?.all;
        let packets = cores::run(probe == "wire-read", path_mtu as u32, 1)?;
        figures.add(what, more as f64 / (COMMANDS * packets) as f64, "");
    }
    Ok(())
}

/// Instructions per command of the loop around submitting.
fn callers_loop(batch: u64) -> anyhow::Result<f64> {
    let instructions = |commands| count("driver-caller", batch, commands, None);
    let more = instructions(2 * COMMANDS)?.all - instructions(COMMANDS)?.all;
    Ok(more as f64 / COMMANDS as f64)
}

/// Doorbells that the driver rings, by its own count.
fn doorbells(figures: &mut Figures) -> anyhow::Result<()> {
    for batch in [1, 8, 32] {
        let stats = driver("driver-read", batch, COMMANDS)?;
        let kinds = [
            ("submission", stats.doorbells),
            ("completion", stats.head_doorbells),
        ];
        for (kind, rung) in kinds {
            let what = format!("driver: {kind} doorbells per command, batch {batch}");
            let value = rung as f64 / stats.submitted as f64;
            figures.add_with_goal(what, value, "", 1.0 / batch as f64);
        }
    }
    Ok(())
}

/// What valgrind has collected.
struct Counted {
    all: u64,
    /// With a bus lock, in this program itself.
    locked: u64,
}

/// Addresses of the instructions in this program that lock the bus.
fn locked_instructions() -> anyhow::Result<HashSet<u64>> {
    let program = std::env::current_exe()?;
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn"])
        .arg(program)
        .output()
        .context("no objdump")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let locked = listing.lines().filter_map(|line| {
        let (address, instruction) = line.split_once(":\t")?;
        // An exchange with memory locks by itself.
        let locks = instruction.starts_with("lock")
            || instruction.starts_with("xchg") && instruction.contains('(');
        u64::from_str_radix(address.trim(), 16)
            .ok()
            .filter(|_| locks)
    });
    let locked: HashSet<u64> = locked.collect();
    ensure!(!locked.is_empty(), "objdump shows no locked instruction");
    Ok(locked)
}

/// What valgrind collects in a probe.
fn count(
    probe: &str,
    batch: u64,
    commands: u64,
    locked: Option<&HashSet<u64>>,
) -> anyhow::Result<Counted> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("callgrind");
    let functions = if probe == "path" { ROUNDS } else { COLLECTED };
    let program = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=yes"])
        .args(["--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--toggle-collect={functions}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(&program)
        .args(["--probe", probe, &batch.to_string(), &commands.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {said}");
    let profile = std::fs::read_to_string(&file)?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    let all: u64 = total
        .context("no totals in what valgrind wrote")?
        .trim()
        .parse()?;
    ensure!(all > 0, "valgrind collected nothing in {probe}");
    let locked = locked.map_or(0, |locked| locked_in(&profile, &program, locked));
    Ok(Counted { all, locked })
}

/// How often instructions at these addresses of the program were executed.
fn locked_in(profile: &str, program: &Path, locked: &HashSet<u64>) -> u64 {
    let (mut here, mut of_callee, mut sum) = (false, false, 0);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            here = Path::new(object) == program;
        } else if line.starts_with("calls=") {
            // The next line is what the callee cost, which is listed by itself.
            of_callee = true;
        } else if let Some(cost) = line.strip_prefix("0x") {
            // Address, line of source, executions.
            let mut fields = cost.split(' ');
            let address = fields
                .next()
                .and_then(|at| u64::from_str_radix(at, 16).ok());
            let times: Option<u64> = fields.nth(1).and_then(|times| times.parse().ok());
            if here && !of_callee && address.is_some_and(|at| locked.contains(&at)) {
                sum += times.unwrap_or(0);
            }
            of_callee = false;
        }
    }
    sum
}

/// What valgrind runs.
pub fn probe(arguments: &mut impl Iterator<Item = String>) -> anyhow::Result<()> {
    let name = arguments.next().context("--probe NAME BATCH COMMANDS")?;
    let mut number = || arguments.next()?.parse().ok();
    let (batch, commands): (u64, u64) = number().zip(number()).context("two numbers")?;
    match name.as_str() {
        "path" => path(batch, commands),
        driver_probe if driver_probe.starts_with("driver") => {
            driver(driver_probe, batch, commands).map(|_| ())
        }
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
fn collected_submit(queue: &mut Queue, commands: &[IoCommand<'_>]) -> bool {
    let mut taken = true;
    for (tag, command) in commands.iter().enumerate() {
        taken &= queue.submit(*command, tag as u64).is_ok();
    }
    queue.ring();
    taken
}

/// The loop of [`collected_submit`], round what costs nothing.
#[inline(never)]
fn collected_loop(queue: &mut Queue, commands: &[IoCommand<'_>]) -> bool {
    let mut taken = true;
    for (tag, command) in commands.iter().enumerate() {
        taken &= uncollected_submit(queue, *command, tag as u64).is_ok();
    }
    taken
}

/// By its name, valgrind stops collecting where this begins, till where it ends.
#[inline(never)]
fn uncollected_submit(
    queue: &mut Queue,
    command: IoCommand<'_>,
    tag: u64,
) -> Result<(), SubmitError> {
    black_box((queue, command, tag));
    black_box(Ok(()))
}

#[inline(never)]
fn collected_poll(queue: &mut Queue) -> u64 {
    let mut good = 0;
    queue.poll(64, |end| good += u64::from(end.status.is_success()));
    good
}

/// Commands of 128 KiB if the probe is about lists, else of 4 KiB.
fn driver(probe: &str, batch: u64, commands: u64) -> anyhow::Result<QueueStats> {
    let len: usize = if probe == "driver-list" {
        128 << 10
    } else {
        4096
    };
    let bus = ModelBus::new();
    let model = ModelController::new(&bus, ModelOptions::default());
    let backing = Hooked::new(model.backing(), Latch::default());
    let options = Options {
        prefer_sgl: probe == "driver-sgl",
        ..Options::default()
    };
    let controller = Controller::open(backing, options)?;
    let backing = controller.backing().clone();
    let region = bus.host_region("data", 32 * len)?;
    let mut queue = controller.create_io_queue_pair(64)?;
    let ring = |doorbell: usize| {
        let value = backing.hook().doorbells[doorbell].load(Ordering::Acquire);
        backing
            .model()
            .write32(offset::sq_tail(1, 0) + 4 * doorbell as u32, value);
    };
    let command = |number: u64| {
        let data = DataPointer {
            region: &region,
            offset: (number % 32) as usize * len,
            len,
        };
        let (nsid, slba, blocks) = (1, number % 64 * 256, (len / 512) as u32);
        match probe {
            "driver-write" => IoCommand::Write {
                nsid,
                slba,
                blocks,
                data,
                fua: false,
            },
            _ => IoCommand::Read {
                nsid,
                slba,
                blocks,
                data,
            },
        }
    };
    for first in (0..commands).step_by(batch as usize) {
        let batch_of: Vec<_> = (first..first + batch).map(command).collect();
        if probe == "driver-caller" {
            ensure!(collected_loop(&mut queue, &batch_of), "not taken");
            continue;
        }
        ensure!(collected_submit(&mut queue, &batch_of), "not taken");
        ring(0);
        ensure!(collected_poll(&mut queue) == batch, "not all have ended");
        ring(1);
    }
    Ok(queue.stats())
}

/// A target and a host over loopback; what the reactor executes is collected.
fn path(depth: u64, commands: u64) -> anyhow::Result<()> {
    let stage = Stage::open()?;
    let mut endpoint = stage.endpoint()?;
    let mut host = Host::connect(&mut endpoint, stage.host_options()?)?;
    let load = Load {
        nsid: NULL,
        writes: true,
        bytes: 4096,
        depth: depth as usize,
        commands,
        span: SSD_BYTES / 4,
    };
    load.run(&mut host)?;
    host.disconnect()?;
    drop(endpoint);
    stage.close()
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
