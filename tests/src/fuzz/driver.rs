//! The driver, against an SSD that lies: in its registers, in what Identify and
//! the like give, and in its completions.
//!
//! Promised, whatever a device says: no panic, no wait without an end, and no
//! command ends that is not outstanding.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::{Controller, DataPointer, IoCommand, IoQueuePair, Options};
use sidelane_nvme::model::{ModelBacking, ModelBus, ModelCmb, ModelController, ModelOptions};
use sidelane_nvme::spec::{CQE_LEN, offset};
use sidelane_p2p::DmaSpace;
use sidelane_p2p::provider::{CmbProvider, Provider};

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

/// Commands, and completions that the device makes up.
fn play(queue: &mut IoQueuePair<Hooked<Liar>>, bus: &ModelBus, input: &mut Input<'_>) {
    let Ok(region) = bus.host_region("fuzz data", 16 << 10) else {
        return;
    };
    let mut tags = Vec::new();
    while !input.is_empty() {
        match input.u8() % 4 {
            0 => {
                let (blocks, slba) = (u32::from(input.u8() % 32), u64::from(input.u16()));
                let data = DataPointer {
                    region: &region,
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
                let tag = tags.len() as u64;
                if queue.submit(command, tag).is_ok() {
                    tags.push(0);
                }
            }
            1 => queue.ring(),
            2 => {
                let [_, cq, _] = queue.memory();
                let at = usize::from(input.u8()) * CQE_LEN;
                let _ = cq.view().write(at, &input.array::<CQE_LEN>());
            }
            _ => {
                queue.poll(32, |end| {
                    let times = tags.get_mut(end.tag as usize).expect("it was submitted");
                    *times += 1;
                    assert_eq!(*times, 1, "a command ended twice");
                });
            }
        }
        assert!(queue.outstanding() <= queue.capacity());
    }
}

/// How the device lies while it is opened, and what happens on a queue then.
pub fn driver(bytes: &[u8]) {
    let mut input = Input(bytes);
    let bus = ModelBus::new();
    let options = ModelOptions {
        cmb: Some(ModelCmb::new(64 << 10)),
        ..ModelOptions::default()
    };
    let model = ModelController::new(&bus, options);
    let backing = Hooked::new(model.backing(), liar(&mut input));
    let options = Options {
        io_queues: 2,
        interrupts: false,
        prefer_sgl: input.u8() & 1 == 1,
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
        let _ = CmbProvider::new(controller.backing().clone(), window).open();
    }
    let _ = controller.smart_log();
    if let Ok(mut queue) = controller.create_io_queue_pair(8) {
        play(&mut queue, &bus, &mut input);
    }
    // The end is not what is tried here, and it would wait for long.
    controller
        .backing()
        .hook()
        .honest
        .store(true, Ordering::Relaxed);
    let _ = controller.backing().read32(offset::CSTS);
}
