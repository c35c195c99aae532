//! The driver, against an SSD that lies: in its registers, in what Identify and
//! the like give, and in its completions; and that fails in the ways that the
//! model knows, is halted and restarted meanwhile.
//!
//! Promised, whatever a device says: no panic, no wait without an end, and no
//! command ends that is not outstanding. And that a device which does not lie is
//! served again after a restart, when nothing ails it any more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::{Controller, DataPointer, IoCommand, IoQueuePair, Options};
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelCmb, ModelController, ModelOptions};
use sidelane_nvme::spec::{CQE_LEN, offset};
use sidelane_p2p::provider::{MemoryProvider, Provider};
use sidelane_p2p::{DmaSpace, Region};

use super::fault::{befall, mend};
use super::input::Input;
use crate::hooked::{Hook, Hooked, Memory};

/// The region that admin data comes into, as the driver names it.
const ADMIN_DATA: &str = "admin data";

/// Alters what the driver sees, as long as there are lies left.
struct Liar {
    lies: Mutex<Vec<Lie>>,
    /// Registers are altered, too.
    registers: [(u32, u64); 2],
    honest: AtomicBool,
}

/// After an admin command: this many bytes of its data, and what they become.
struct Lie {
    at: usize,
    bytes: Vec<u8>,
}

impl Liar {
    fn is_truthful(&self) -> bool {
        let lies = self.lies.lock().expect("no panic before");
        lies.is_empty() && self.registers.iter().all(|(_, flip)| *flip == 0)
    }
}

impl Hook for Liar {
    fn write32(&self, model: &ModelBacking, memory: &Memory, at: u32, value: u32) {
        model.write32(at, value);
        if at != offset::sq_tail(0, 0) {
            return;
        }
        let lie = self.lies.lock().expect("no panic before").pop();
        let regions = memory.regions();
        let data = regions.iter().find(|r| r.name().ends_with(ADMIN_DATA));
        if let (Some(lie), Some(data)) = (lie, data) {
            // One that runs past the end is no lie.
            let _ = data.view().write(lie.at, &lie.bytes);
        }
    }

    fn seen(&self, offset: u32, value: u64) -> u64 {
        if self.honest.load(Ordering::Relaxed) {
            return value;
        }
        let flips = self.registers.iter().filter(|(at, _)| *at == offset);
        flips.fold(value, |value, (_, flip)| value ^ flip)
    }
}

/// Registers that tell what a controller is.
const REGISTERS: [u32; 8] = [
    offset::CAP,
    offset::VS,
    offset::CRTO,
    offset::CMBLOC,
    offset::CMBSZ,
    offset::CMBMSC,
    offset::CMBSTS,
    offset::CC,
];

fn liar(input: &mut Input<'_>) -> Liar {
    let mut register = || {
        let at = REGISTERS[input.pick(REGISTERS.len())];
        // CAP.TO would only make the driver wait longer for the same.
        let flip = input.u64() & !0xff00_0000;
        (at, flip)
    };
    let registers = [register(), register()];
    let lies = (0..input.u8() % 8).map(|_| {
        let at = usize::from(input.u16() % 4096);
        let len = usize::from(input.u8());
        Lie {
            at,
            bytes: input.bytes(len).to_vec(),
        }
    });
    let mut lies: Vec<_> = lies.collect();
    lies.reverse();
    Liar {
        lies: Mutex::new(lies),
        registers,
        honest: AtomicBool::new(false),
    }
}

/// Restarts in one life; each may wait for an admin command or two.
const RESTARTS_MAX: usize = 16;

type Device = Controller<Hooked<Liar>>;

/// A queue pair, and how often each of its commands has ended.
struct Play {
    queue: IoQueuePair<Hooked<Liar>>,
    region: Region,
    tags: Vec<u8>,
    restarts: usize,
}

impl Play {
    fn submit(&mut self, input: &mut Input<'_>) {
        let (blocks, slba) = (u32::from(input.u8() % 32), u64::from(input.u16()));
        let data = DataPointer {
            region: &self.region,
            offset: usize::from(input.u16()),
            len: blocks as usize * 512,
        };
        let nsid = u32::from(input.u8() % 3);
        let command = IoCommand::Read {
            nsid,
            slba,
            blocks,
            data,
        };
        let tag = self.tags.len() as u64;
        if self.queue.submit(command, tag).is_ok() {
            self.tags.push(0);
        }
    }

    fn poll(&mut self) {
        let tags = &mut self.tags;
        self.queue.poll(32, |end| {
            let times = tags.get_mut(end.tag as usize).expect("it was submitted");
            *times += 1;
            assert_eq!(*times, 1, "a command ended twice");
        });
    }

    /// What the control side does. Whatever it gives is right, if it comes.
    fn manage(&mut self, controller: &Device, input: &mut Input<'_>) {
        match input.u8() % 5 {
            0 => {
                let tag = u64::from(input.u8());
                let cid = self.queue.cids_of(tag).next();
                let _ = controller.abort(self.queue.qid(), cid.unwrap_or(1));
            }
            1 => drop(controller.take_events()),
            2 => drop(controller.rescan()),
            3 => drop(controller.halt()),
            _ if self.restarts < RESTARTS_MAX => {
                self.restarts += 1;
                if controller.restart().is_ok()
                    && let Ok(queue) = controller.create_io_queue_pair(8)
                {
                    self.queue = queue;
                }
            }
            _ => {}
        }
    }

    /// Commands, completions that the device makes up, and mishaps.
    fn act(&mut self, controller: &Device, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0 => self.submit(input),
            1 => self.queue.ring(),
            2 => {
                let [_, cq, _] = self.queue.memory();
                let at = usize::from(input.u8()) * CQE_LEN;
                let _ = cq.view().write(at, &input.array::<CQE_LEN>());
            }
            3 => self.poll(),
            4 | 5 => drop(befall(controller.backing().model().model(), input)),
            _ => self.manage(controller, input),
        }
        assert!(self.queue.outstanding() <= self.queue.capacity());
    }
}

fn play(controller: &Device, bus: &ModelBus, input: &mut Input<'_>) {
    let region = bus.host_region("fuzz data", 16 << 10);
    let (Ok(queue), Ok(region)) = (controller.create_io_queue_pair(8), region) else {
        return;
    };
    let mut play = Play {
        queue,
        region,
        tags: Vec::new(),
        restarts: 0,
    };
    while !input.is_empty() {
        play.act(controller, input);
    }
}

/// How the device lies while it is opened, and what happens on a queue then.
pub fn driver(bytes: &[u8]) {
    let mut input = Input(bytes);
    let bus = ModelBus::new();
    let liar = liar(&mut input);
    let truthful = liar.is_truthful();
    let flags = input.u8();
    let options = ModelOptions {
        cmb: Some(ModelCmb::new(64 << 10)),
        shadow_doorbells: flags & 2 != 0,
        ..ModelOptions::default()
    };
    let model = ModelController::new(&bus, options);
    let backing = Hooked::new(model.backing(), liar);
    let options = Options {
        io_queues: 2,
        interrupts: false,
        prefer_sgl: flags & 1 != 0,
        admin_timeout: Duration::from_millis(2),
        ..Options::default()
    };
    let controller = match Controller::open(backing, options) {
        Ok(controller) => controller,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for namespace in controller.namespaces().iter() {
        assert!(matches!(namespace.block_bytes, 512 | 4096) && namespace.blocks > 0);
    }
    if let Ok(Some(window)) = controller.enable_cmb() {
        assert!(window.len > 0, "{window:?}");
        let _ = MemoryProvider::cmb(controller.backing().clone(), window).open();
    }
    let _ = controller.smart_log();
    play(&controller, &bus, &mut input);
    // The end is not what is tried here, and it would wait for long.
    let hook = controller.backing().hook();
    hook.honest.store(true, Ordering::Relaxed);
    mend(&model);
    let restarted = controller.restart().and_then(|()| controller.smart_log());
    if truthful {
        restarted.expect("nothing ails it");
    }
}
