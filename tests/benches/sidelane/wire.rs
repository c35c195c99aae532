//! Two software adapters, each on a thread of its own, beside two plain UDP
//! sockets that move datagrams of the same sizes by the same batches: what the
//! protocol costs on top of what the machine can do at all.

mod bare;
pub mod cores;
mod soft;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use sidelane_transport::soft::port::{IcrcCheck, Settings};
use sidelane_transport::soft::socket::SocketCounters;

use super::counting;
use super::figures::Figures;
use super::threads;

/// Rounds over all ways, each second one in the opposite order.
const ROUNDS: usize = 6;

/// How long one measurement goes on, and how long it is readied for.
const RUN: Duration = Duration::from_millis(250);
const READY: Duration = Duration::from_millis(50);

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The first side READs from the second.
    Read,
    /// The first side WRITEs to the second.
    Write,
    /// A SEND each way is one operation.
    PingPong,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    kind: Kind,
    /// Of one operation.
    bytes: usize,
    /// Operations under way.
    depth: u64,
}

const PATH_MTU: usize = 4096;

const JOBS: [(&str, Job, Option<Goal>); 4] = [
    (
        "4 KiB READs, depth 32",
        Job {
            kind: Kind::Read,
            bytes: 4096,
            depth: 32,
        },
        Some(Goal::PerSecond(200_000.0)),
    ),
    (
        "128 KiB READs, depth 8",
        Job {
            kind: Kind::Read,
            bytes: 128 << 10,
            depth: 8,
        },
        Some(Goal::MegabytesPerSecond(2_000.0)),
    ),
    (
        "4 KiB WRITEs, depth 32",
        Job {
            kind: Kind::Write,
            bytes: 4096,
            depth: 32,
        },
        None,
    ),
    (
        "64 B SENDs, to and fro",
        Job {
            kind: Kind::PingPong,
            bytes: 64,
            depth: 1,
        },
        None,
    ),
];

#[derive(Clone, Copy)]
enum Goal {
    PerSecond(f64),
    MegabytesPerSecond(f64),
}

/// Of the rate of plain sockets.
const SHARE_GOAL: f64 = 60.0;

/// One of the two sides.
trait Side: Send {
    /// Makes the first side do a job for some time, and says how many operations
    /// have ended.
    fn lead(&mut self, job: Job, until: Instant) -> anyhow::Result<u64>;
    /// Serves the job until it is told that it has ended.
    fn follow(&mut self, job: Job, ended: &AtomicBool) -> anyhow::Result<()>;
    fn counters(&self) -> SocketCounters;
}

/// A way of moving bytes.
struct Way {
    name: &'static str,
    sides: [Box<dyn Side>; 2],
}

/// What a job took.
#[derive(Clone, Copy, Default)]
struct Taken {
    operations: u64,
    time: Duration,
    /// Of both threads.
    processor: Duration,
    calls: u64,
    packets: u64,
    allocations: u64,
}

impl Way {
    fn run(&mut self, job: Job, time: Duration) -> anyhow::Result<Taken> {
        let before = self.counts();
        let (ready, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let [first, second] = &mut self.sides;
        let outcome = std::thread::scope(|scope| {
            let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
            let follower = thread("reactor-follows").spawn_scoped(scope, || {
                ready.store(true, Ordering::SeqCst);
                second.follow(job, &ended)?;
                threads::own_run_time()
            })?;
            let leader = thread("reactor-leads").spawn_scoped(scope, || {
                while !ready.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                let start = Instant::now();
                let lead = || first.lead(job, start + time);
                let (allocations, led) = counting::of_reactors(lead);
                let time = start.elapsed();
                ended.store(true, Ordering::SeqCst);
                anyhow::Ok((led?, allocations, time, threads::own_run_time()?))
            })?;
            let panicked = || anyhow::anyhow!("a thread has panicked");
            let (operations, allocations, time, first) =
                leader.join().map_err(|_| panicked())??;
            let second = follower.join().map_err(|_| panicked())??;
            anyhow::Ok((operations, allocations, time, first + second))
        });
        let (operations, allocations, time, processor) =
            outcome.with_context(|| format!("{}: {job:?}", self.name))?;
        let after = self.counts();
        Ok(Taken {
            operations,
            time,
            processor,
            calls: after.0 - before.0,
            packets: after.1 - before.1,
            allocations,
        })
    }

    /// System calls and packets of both.
    fn counts(&self) -> (u64, u64) {
        let counters = self.sides.iter().map(|side| side.counters());
        counters.fold((0, 0), |(calls, packets), one| {
            let sum = one.receive_calls + one.send_calls;
            (calls + sum, packets + one.sent)
        })
    }
}

/// Everything of this room.
pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let settings = |icrc| Settings {
        icrc,
        ..Settings::default()
    };
    let alone = Settings {
        offload: false,
        ..settings(IcrcCheck::Socket)
    };
    let mut ways = vec![
        bare::open()?,
        soft::open("soft", settings(IcrcCheck::Socket))?,
        soft::open("soft, one by one", alone)?,
    ];
    match soft::open("soft, raw", settings(IcrcCheck::Full)) {
        Ok(way) => ways.push(way),
        Err(why) => figures.missing("wire: soft, raw", format!("{why:#}")),
    }
    for (name, job, goal) in JOBS {
        let mut taken = vec![Vec::new(); ways.len()];
        for way in &mut ways {
            way.run(job, READY)?;
        }
        for round in 0..ROUNDS {
            let count = ways.len();
            for at in 0..count {
                let at = if round % 2 == 0 { at } else { count - 1 - at };
                taken[at].push(ways[at].run(job, RUN)?);
            }
        }
        let names = ways.iter().map(|way| way.name);
        let taken: Vec<_> = names.zip(taken).collect();
        report(figures, name, job, goal, &taken);
    }
    Ok(())
}

/// The first way is that of plain sockets.
fn report(
    figures: &mut Figures,
    name: &str,
    job: Job,
    goal: Option<Goal>,
    taken: &[(&str, Vec<Taken>)],
) {
    let rate = |taken: &[Taken]| {
        let rate = |one: &Taken| one.operations as f64 / one.time.as_secs_f64();
        let mut rates: Vec<_> = taken.iter().map(rate).collect();
        rates.sort_by(f64::total_cmp);
        (rates[rates.len() / 2 - 1] + rates[rates.len() / 2]) / 2.0
    };
    let bare = taken.first().map_or(f64::NAN, |(_, taken)| rate(taken));
    for (at, (way, taken)) in taken.iter().enumerate() {
        let what = |figure: &str| format!("{name}: {way}{figure}");
        let of_adapter = at == 1;
        let rate = rate(taken);
        let megabytes = rate * job.bytes as f64 / 1e6;
        match goal.filter(|_| of_adapter) {
            Some(Goal::PerSecond(goal)) => {
                figures.add_with_floor(what(""), rate, "/s", goal);
            }
            Some(Goal::MegabytesPerSecond(goal)) => {
                figures.add_with_floor(what(""), megabytes, "MB/s", goal);
            }
            None if job.bytes > PATH_MTU => figures.add(what(""), megabytes, "MB/s"),
            None => figures.add(what(""), rate, "/s"),
        }
        let share = rate / bare * 100.0;
        match at {
            0 => {}
            1 => figures.add_with_floor(what(", of plain sockets"), share, "%", SHARE_GOAL),
            _ => figures.add(what(", of plain sockets"), share, "%"),
        }
        let sum = |of: fn(&Taken) -> f64| taken.iter().map(of).sum::<f64>();
        let operations = sum(|one| one.operations as f64);
        let packets = sum(|one| one.packets as f64);
        let processor = sum(|one| one.processor.as_secs_f64()) / operations * 1e6;
        let calls = sum(|one| one.calls as f64) / packets;
        figures.add(what(", processor time each, both sides"), processor, "us");
        figures.add(what(", system calls per packet"), calls, "");
        if of_adapter {
            let allocations = sum(|one| one.allocations as f64) / packets;
            let what = what(", allocations per packet");
            figures.add_with_goal(what, allocations, "", 0.0);
        }
    }
}
