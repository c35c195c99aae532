//! Tries every leg between some SSDs and some memory, on real PCI.
//!
//! ```text
//! ssd_probe [--sgl] [--overwrite] [--restart] [--events] ADDRESS...
//! ```
//!
//! Opens the functions under vfio-pci, says what they are, and enables their
//! memory buffers. With `--overwrite` (the first 16 MiB of namespace 1 of each are
//! lost) each SSD then writes patterns from host memory, from its own buffer and
//! from the others', reads them back into the same memory, and all is compared:
//! once with interrupts, once polling. `--sgl` names data by SGL descriptors
//! instead of PRP entries. With `--restart` each SSD is then halted with commands
//! under way and restarted, and all is done once more. With `--events` it ends
//! with waiting for an asynchronous event of each. A good status proves nothing
//! about a leg; only compared data does. Ends with status 1 if a leg failed.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use sidelane_nvme::driver::{AsyncEvent, Controller, DataPointer, IoCommand, IoQueuePair, Options};
use sidelane_nvme::spec::Status;
use sidelane_nvme::{Backing, VfioBacking};
use sidelane_p2p::provider::{MemoryProvider, Provider};
use sidelane_p2p::topology::Topology;
use sidelane_p2p::vfio::Container;
use sidelane_p2p::{DmaSpace, PciAddress, Region};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where data is written from and read to, in bytes of the region.
const FROM: usize = 0;
const TO: usize = 4 << 20;
/// Place of the data in memory pages, and bytes.
const CASES: [(usize, usize); 6] = [
    (0, 512),
    (0, 8192),
    (3584, 1024),
    (64, 65_536),
    (0, 131_072),
    (512, 1 << 20),
];
/// Commands that are sent with as many under way as can be.
const DEEP: u64 = 2000;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match probe() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} legs FAILED");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("ssd_probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<usize> {
    let (flags, arguments): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let overwrite = flag("--overwrite");
    let options = Options {
        prefer_sgl: flag("--sgl"),
        ..Options::default()
    };
    let topology = Topology::load(Path::new("/sys"))?;
    let container = Container::open()?;
    let mut controllers = Vec::new();
    for argument in &arguments {
        let address: PciAddress = argument.parse()?;
        let device = container.open_device(address, &topology)?;
        let space = Arc::clone(&container) as Arc<dyn DmaSpace>;
        let backing = VfioBacking::open(device, space)?;
        controllers.push(Controller::open(backing, options.clone())?);
    }
    let mut memories = vec![container.host_region("host memory", 8 << 20)?];
    for controller in &controllers {
        describe(controller)?;
        if let Some(window) = controller.enable_cmb()? {
            println!("  {window:?}");
            let provider = MemoryProvider::cmb(controller.backing().clone(), window);
            memories.push(provider.open()?.region);
        }
    }
    let mut failed = 0;
    for _ in 0..=u32::from(flag("--restart")) {
        for (number, controller) in controllers.iter().enumerate() {
            for memory in memories.iter().filter(|_| overwrite) {
                failed += legs(number, controller, memory, &memories[0])?;
            }
            if flag("--restart") {
                restart(controller, &memories[0])?;
            }
        }
    }
    for controller in controllers.iter().filter(|_| flag("--events")) {
        println!("{} waits for an event", controller.address());
        let events = events(controller)?;
        println!("{} tells of {events:?}", controller.address());
    }
    for controller in controllers {
        let address = controller.address();
        controller.smart_log()?;
        controller.shutdown()?;
        println!("{address} shut down");
    }
    Ok(failed)
}

fn describe<B: Backing>(controller: &Controller<B>) -> Result<()> {
    let identify = controller.identify();
    println!(
        "{} {} {} firmware {}: at most {} bytes a command, {} I/O queue pairs, SGLs {} ({}), {} doorbells",
        controller.address(),
        identify.mn,
        identify.sn,
        identify.fr,
        controller.max_transfer_bytes(),
        controller.max_io_queue_pairs(),
        identify.sgls.support(),
        if controller.uses_sgl() {
            "used"
        } else {
            "not used"
        },
        match controller.uses_shadow_doorbells() {
            true => "shadow",
            false => "plain",
        },
    );
    for namespace in controller.namespaces().iter() {
        println!(
            "  namespace {}: {} blocks of {} bytes",
            namespace.nsid, namespace.blocks, namespace.block_bytes
        );
    }
    for namespace in controller.unusable_namespaces().iter() {
        println!("  namespace {}: {}", namespace.nsid, namespace.reason);
    }
    let smart = controller.smart_log()?;
    println!(
        "  {} K, {} power cycles, {} write cache",
        smart.temperature_k,
        smart.power_cycles,
        match controller.volatile_write_cache() {
            true => "volatile",
            false => "no volatile",
        }
    );
    Ok(())
}

/// Halts a controller that has commands under way, and brings it up again.
fn restart<B: Backing>(controller: &Controller<B>, memory: &Region) -> Result<()> {
    let mut queue = controller.create_io_queue_pair(64)?;
    let len = controller.max_transfer_bytes().min(128 << 10);
    for tag in 0..32 {
        let data = DataPointer {
            region: memory,
            offset: 0,
            len,
        };
        let read = IoCommand::Read {
            nsid: 1,
            slba: 0,
            blocks: (len / 512) as u32,
            data,
        };
        queue.submit(read, tag)?;
    }
    queue.ring();
    let start = Instant::now();
    controller.halt()?;
    let halted = start.elapsed();
    memory.view().write(0, &vec![0xa5; len])?;
    controller.restart()?;
    let outstanding = queue.outstanding();
    drop(queue);
    let mut after = vec![0; len];
    memory.view().read(0, &mut after)?;
    println!(
        "{} halted in {halted:.1?} with {outstanding} commands under way, {} afterwards; again in use after {:.1?}, events {:?}, {} changes",
        controller.address(),
        match after.iter().all(|byte| *byte == 0xa5) {
            true => "nothing touched",
            false => "MEMORY TOUCHED",
        },
        start.elapsed(),
        controller.take_events()?,
        controller.rescan()?.len(),
    );
    Ok(())
}

/// Waits for an event, and gives what has come.
fn events<B: Backing>(controller: &Controller<B>) -> Result<Vec<AsyncEvent>> {
    let event = controller.event_fd().ok_or("no interrupt vector")?;
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    loop {
        if rustix::event::poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit))? == 0 {
            return Err("no event".into());
        }
        // Answers to admin commands make it readable, too.
        let events = controller.take_events()?;
        if !events.is_empty() {
            return Ok(events);
        }
    }
}

/// Every case through one memory; gives the number of those that failed.
fn legs<B: Backing>(
    number: usize,
    controller: &Controller<B>,
    memory: &Region,
    host: &Region,
) -> Result<usize> {
    let mut queue = controller.create_io_queue_pair(64)?;
    let bounds = memory.iova()..memory.iova() + memory.len() as u64;
    queue.set_tap(Box::new({
        let host = host.iova()..host.iova() + host.len() as u64;
        move |sqe, list| {
            let entries = std::iter::once(sqe.dptr.prp1()).chain(list.iter().copied());
            for entry in entries.filter(|entry| *entry != 0) {
                let inside = bounds.contains(&entry) || host.contains(&entry);
                assert!(
                    inside,
                    "the SSD was told of {entry:#x}, outside of its memory"
                );
            }
        }
    }));
    let mut failed = 0;
    for interrupts in [true, false] {
        let start = Instant::now();
        let mut bytes = 0;
        let mut bad = Vec::new();
        for (case, (offset, len)) in CASES.into_iter().enumerate() {
            let len = len.min(controller.max_transfer_bytes());
            let seed = (number << 8 | case) as u64 ^ memory.iova() ^ u64::from(interrupts) << 60;
            if let Err(words) = leg(&mut queue, memory, host, (offset, len), seed, interrupts) {
                bad.push(format!("{len} bytes at page offset {offset}: {words}"));
            }
            bytes += 2 * len;
        }
        println!(
            "{} through {} by {}: {} in {:.1?} ({bytes} bytes)",
            controller.address(),
            memory.name(),
            if interrupts { "interrupts" } else { "polling" },
            if bad.is_empty() { "ok" } else { "FAILED" },
            start.elapsed(),
        );
        bad.iter().for_each(|words| println!("  {words}"));
        failed += bad.len();
    }
    deep(&mut queue, host)?;
    let stats = queue.stats();
    println!(
        "  {} commands, {} doorbells, {} spared",
        stats.submitted,
        stats.doorbells + stats.head_doorbells,
        stats.spared_doorbells
    );
    if stats.stale != 0 || stats.submitted != stats.completed {
        println!("  {stats:?}");
        failed += 1;
    }
    queue.delete()?;
    Ok(failed)
}

/// Many commands with many under way, none of which may be forgotten.
fn deep<B: Backing>(queue: &mut IoQueuePair<B>, host: &Region) -> Result<()> {
    let data = DataPointer {
        region: host,
        offset: TO,
        len: 4096,
    };
    let (mut sent, mut ended) = (0, 0);
    let mut last = Instant::now();
    while ended < DEEP {
        while sent < DEEP && queue.outstanding() < queue.capacity() {
            let read = IoCommand::Read {
                nsid: 1,
                slba: sent % 2048,
                blocks: 8,
                data,
            };
            queue.submit(read, sent)?;
            sent += 1;
        }
        queue.ring();
        let before = ended;
        queue.poll(16, |end| ended += u64::from(end.status.is_success()));
        if ended > before {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            return Err(format!("{} of {sent} commands did not end", sent - ended).into());
        }
    }
    Ok(())
}

fn leg<B: Backing>(
    queue: &mut IoQueuePair<B>,
    memory: &Region,
    host: &Region,
    (offset, len): (usize, usize),
    seed: u64,
    interrupts: bool,
) -> Result<()> {
    let data = pattern(seed, len);
    let blocks = (len / 512) as u32;
    let slba = (seed % 16) * 2048;
    let at = |region, offset| DataPointer {
        region,
        offset,
        len,
    };
    memory.view().write(FROM + offset, &data)?;
    memory.view().write(TO + offset, &vec![0xa5; len])?;
    let write = IoCommand::Write {
        nsid: 1,
        slba,
        blocks,
        data: at(memory, FROM + offset),
        fua: false,
    };
    run(queue, write, interrupts)?;
    let read = IoCommand::Read {
        nsid: 1,
        slba,
        blocks,
        data: at(memory, TO + offset),
    };
    run(queue, read, interrupts)?;
    let mut back = vec![0; len];
    memory.view().read(TO + offset, &mut back)?;
    if back != data {
        return Err("the memory holds something else than was written".into());
    }
    // The media itself, by a path that is not in doubt.
    let read = IoCommand::Read {
        nsid: 1,
        slba,
        blocks,
        data: at(host, TO),
    };
    run(queue, read, interrupts)?;
    host.view().read(TO, &mut back)?;
    if back != data {
        return Err("the SSD holds something else than was written".into());
    }
    Ok(())
}

fn run<B: Backing>(
    queue: &mut IoQueuePair<B>,
    command: IoCommand<'_>,
    interrupts: bool,
) -> Result<()> {
    queue.submit(command, 1)?;
    queue.ring();
    let start = Instant::now();
    let mut status: Option<Status> = None;
    while status.is_none() {
        if start.elapsed() > PATIENCE {
            queue.check()?;
            return Err("no completion".into());
        }
        if interrupts {
            let event = queue.eventfd().ok_or("no interrupt vector")?;
            let limit = Timespec {
                tv_sec: PATIENCE.as_secs() as i64,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit))? == 0 {
                return Err("no interrupt".into());
            }
            queue.acknowledge();
        }
        queue.poll(8, |completion| status = Some(completion.status));
    }
    // Interrupts of polled commands must not be taken for those of later ones.
    queue.acknowledge();
    match status {
        Some(status) if status.is_success() => Ok(()),
        Some(status) => Err(status.to_string().into()),
        None => Err("no completion".into()),
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
