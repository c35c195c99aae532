//! The software controller: registers, doorbells, and commands of any content,
//! with data pointers of any kind, whose lists may be anything as well; faults on
//! top of that, and a world that changes.
//!
//! Promised: whatever it was told, a reset brings it back, unless a fault was
//! injected that says otherwise; then it comes when that is mended.

use std::ops::Range;

use sidelane_nvme::Backing;
use sidelane_nvme::model::{
    ModelBacking, ModelBus, ModelCmb, ModelController, ModelNamespace, ModelOptions,
};
use sidelane_nvme::spec::{Aqa, Cc, Csts, SQE_LEN, offset};
use sidelane_p2p::{DmaSpace, Region};

use super::fault::{befall, mend};
use super::input::Input;

const ENTRIES: u16 = 16;
/// In one region: the admin queues, then the memory that commands may name.
const SQ: usize = 0;
const CQ: usize = 4096;
const FREE: Range<usize> = 8192..128 << 10;

struct Bench {
    backing: ModelBacking,
    memory: Region,
    tail: u16,
    /// A fault was injected that a reset need not cure.
    lasting: bool,
}

impl Bench {
    fn new() -> Self {
        let bus = ModelBus::new();
        let options = ModelOptions {
            namespaces: vec![
                ModelNamespace::of_bytes(1 << 20),
                ModelNamespace::of_bytes(1 << 20).in_4k_blocks(),
            ],
            cmb: Some(ModelCmb::new(64 << 10)),
            mdts: 5,
            io_queues: 4,
            vectors: 0,
            shadow_doorbells: true,
            forgetful: true,
            ..ModelOptions::default()
        };
        let backing = ModelController::new(&bus, options).backing();
        let memory = bus.host_region("fuzz", FREE.end).expect("there is room");
        let mut bench = Self {
            backing,
            memory,
            tail: 0,
            lasting: false,
        };
        bench.enable();
        bench
    }

    fn enable(&mut self) {
        self.backing.write32(offset::CC, 0);
        let aqa = Aqa::new().with_asqs_z(ENTRIES - 1).with_acqs_z(ENTRIES - 1);
        self.backing.write32(offset::AQA, aqa.raw());
        self.backing
            .write64(offset::ASQ, self.memory.iova() + SQ as u64);
        self.backing
            .write64(offset::ACQ, self.memory.iova() + CQ as u64);
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
        self.backing.write32(offset::CC, cc.raw());
        self.tail = 0;
    }

    /// An address that something may answer to.
    fn address(&self, input: &mut Input<'_>) -> u64 {
        let (kind, at) = (input.u8(), u64::from(input.u16()));
        let free = self.memory.iova() + FREE.start as u64;
        match kind % 8 {
            0..=3 => free + (at & !0xfff),
            4 | 5 => free + at,
            6 => 0x38_0000_0000 + (at << 2),
            _ => input.u64(),
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let fits = bytes.len().min(self.memory.len().saturating_sub(at));
        self.memory
            .view()
            .write(at, &bytes[..fits])
            .expect("it fits");
    }

    /// Puts a command into the admin queue and rings.
    fn submit(&mut self, input: &mut Input<'_>) {
        let shape = input.u8();
        let mut sqe = input.array::<SQE_LEN>();
        if shape & 1 != 0 {
            let pointers = [self.address(input), self.address(input)];
            sqe[24..32].copy_from_slice(&pointers[0].to_le_bytes());
            let second = match shape & 2 {
                0 => pointers[1].to_le_bytes(),
                // An SGL descriptor, of a length that is not absurd.
                _ => {
                    let mut last = [0; 8];
                    last[..2].copy_from_slice(&input.u16().to_le_bytes());
                    last[7] = input.u8();
                    last
                }
            };
            sqe[32..40].copy_from_slice(&second);
        }
        if shape & 4 != 0 {
            // Small dwords mean more than large ones.
            for dword in sqe[40..].chunks_exact_mut(4) {
                dword[2..].fill(0);
            }
            sqe[4..8].copy_from_slice(&[shape >> 6, 0, 0, 0]);
        }
        self.write(SQ + usize::from(self.tail) * SQE_LEN, &sqe);
        self.tail = (self.tail + 1) % ENTRIES;
        self.ring();
    }

    fn ring(&self) {
        self.backing
            .write32(offset::sq_tail(0, 0), self.tail.into());
        // Room for more: the host's head follows.
        self.backing
            .write32(offset::cq_head(0, 0), self.tail.into());
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 10 {
            0..=3 => self.submit(input),
            4 => {
                // A list for PRPs or SGLs, or commands of an I/O queue.
                let at = FREE.start + usize::from(input.u16() & !7);
                let len = usize::from(input.u8());
                let bytes = input.bytes(len);
                self.write(at, bytes);
            }
            5 => {
                let at = FREE.start + usize::from(input.u16() & !7);
                let entry = self.address(input);
                self.write(at, &entry.to_le_bytes());
            }
            6 => {
                // Doorbells of I/O queues.
                let index = u32::from(input.u8());
                self.backing
                    .write32(offset::DOORBELLS + 4 * index, input.u8().into());
            }
            7 => {
                let at = u32::from(input.u8() & !3);
                self.backing.write32(at, input.u32());
                let _ = self.backing.read64(at);
            }
            _ => self.lasting |= befall(self.backing.model(), input),
        }
        if self.serves() {
            return;
        }
        self.enable();
        if self.lasting && !self.serves() {
            mend(self.backing.model());
            self.lasting = false;
            self.enable();
        }
        assert!(self.serves(), "it does not come back");
    }

    fn serves(&self) -> bool {
        let csts = Csts::from_raw(self.backing.read32(offset::CSTS));
        csts.rdy() && !csts.cfs()
    }
}

/// A sequence of actions of a driver that has gone mad.
pub fn model(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut bench = Bench::new();
    while !input.is_empty() {
        bench.act(&mut input);
    }
}
