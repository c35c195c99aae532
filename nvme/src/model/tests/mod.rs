//! The model as a host sees it that has no driver: entries written by hand, and
//! doorbells rung.

mod events;
mod shadow;
mod world;

use sidelane_p2p::{DmaSpace, Region};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::Backing;
use crate::spec::{
    AdminOpcode, Aqa, Cc, Cqe, CreateCqFlags, CreateIoCq, CreateIoSq, CreateSqFlags, DataPtr,
    FeatureId, NvmOpcode, QueueIdSize, ReadWrite, ReadWriteCdw12, SetFeatures, SetFeaturesCdw10,
    Sqe, Status, offset,
};

pub(super) const PAGE: usize = 4096;
const ENTRIES: u16 = 16;

/// One queue pair as the host knows it.
struct Queue {
    qid: u16,
    /// Pages of the host's memory.
    sq: usize,
    cq: usize,
    tail: u16,
    head: u16,
    phase: bool,
}

pub(super) struct Host {
    pub(super) model: ModelController,
    pub(super) backing: ModelBacking,
    pub(super) memory: Region,
    admin: Queue,
    io: Queue,
    cid: u16,
    /// Completions of the admin queue that came before they were wanted.
    pub(super) late: Vec<Cqe>,
}

/// Pages of the memory.
const DATA: usize = 4;
pub(super) const DOORBELLS: usize = 5;
pub(super) const EVENTS: usize = 6;

impl Host {
    /// A host of a controller that is ready, with one I/O queue pair.
    pub(super) fn new(options: ModelOptions) -> Self {
        let bus = ModelBus::new();
        let model = ModelController::new(&bus, options);
        let queue = |qid, page| Queue {
            qid,
            sq: page,
            cq: page + 1,
            tail: 0,
            head: 0,
            phase: true,
        };
        let mut host = Self {
            backing: model.backing(),
            model,
            memory: bus.host_region("host", 16 * PAGE).unwrap(),
            admin: queue(0, 0),
            io: queue(1, 2),
            cid: 0,
            late: Vec::new(),
        };
        host.enable();
        host
    }

    /// Resets and enables the controller, and makes the I/O queues.
    pub(super) fn enable(&mut self) {
        self.write(0, &[0; 4 * PAGE]);
        for queue in [&mut self.admin, &mut self.io] {
            (queue.tail, queue.head, queue.phase) = (0, 0, true);
        }
        let backing = &self.backing;
        backing.write32(offset::CC, 0);
        let aqa = Aqa::new().with_asqs_z(ENTRIES - 1).with_acqs_z(ENTRIES - 1);
        backing.write32(offset::AQA, aqa.raw());
        backing.write64(offset::ASQ, self.at(0));
        backing.write64(offset::ACQ, self.at(1));
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
        backing.write32(offset::CC, cc.raw());
        let queue = QueueIdSize::new().with_qid(1).with_qsize_z(ENTRIES - 1);
        let cq = CreateIoCq {
            prp1: self.at(3).into(),
            queue,
            flags: CreateCqFlags::new().with_pc(true),
            ..Sqe::new(AdminOpcode::CreateIoCq.0, 0).into()
        };
        self.admin(cq.into()).unwrap();
        let sq = CreateIoSq {
            prp1: self.at(2).into(),
            queue,
            flags: CreateSqFlags::new().with_pc(true).with_cqid(1),
            ..Sqe::new(AdminOpcode::CreateIoSq.0, 0).into()
        };
        self.admin(sq.into()).unwrap();
    }

    /// Address of a page.
    pub(super) fn at(&self, page: usize) -> u64 {
        self.memory.iova() + (page * PAGE) as u64
    }

    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        self.memory.view().write(at, bytes).unwrap();
    }

    pub(super) fn read<T: FromBytes>(&self, at: usize) -> T {
        let mut bytes = vec![0; size_of::<T>()];
        self.memory.view().read(at, &mut bytes).unwrap();
        T::read_from_bytes(&bytes).unwrap()
    }

    /// Puts a command into a queue, and gives its identifier and the new tail.
    fn put(&mut self, io: bool, mut sqe: Sqe) -> (u16, u16) {
        self.cid += 1;
        sqe.cdw0.set_cid(self.cid);
        let queue = if io { &mut self.io } else { &mut self.admin };
        let at = queue.sq * PAGE + usize::from(queue.tail) * 64;
        queue.tail = (queue.tail + 1) % ENTRIES;
        let tail = queue.tail;
        self.write(at, sqe.as_bytes());
        (self.cid, tail)
    }

    /// Sends a command, and gives its identifier.
    pub(super) fn send_admin(&mut self, sqe: Sqe) -> u16 {
        let (cid, tail) = self.put(false, sqe);
        self.backing.write32(offset::sq_tail(0, 0), tail.into());
        cid
    }

    /// Puts an I/O command into its queue without telling anyone, and gives its
    /// identifier and the new tail.
    pub(super) fn put_io(&mut self, sqe: Sqe) -> (u16, u16) {
        self.put(true, sqe)
    }

    /// Takes the completions that have come. The controller is told by its
    /// doorbell, unless `quietly`.
    pub(super) fn take(&mut self, io: bool, quietly: bool) -> Vec<Cqe> {
        let mut taken = Vec::new();
        loop {
            let queue = if io { &self.io } else { &self.admin };
            let cqe: Cqe = self.read(queue.cq * PAGE + usize::from(queue.head) * 16);
            if cqe.status.phase() != queue.phase {
                break;
            }
            taken.push(cqe);
            let queue = if io { &mut self.io } else { &mut self.admin };
            queue.head = (queue.head + 1) % ENTRIES;
            queue.phase ^= queue.head == 0;
        }
        let queue = if io { &self.io } else { &self.admin };
        if !quietly {
            let doorbell = offset::cq_head(queue.qid, 0);
            self.backing.write32(doorbell, queue.head.into());
        }
        taken
    }

    /// Head of the I/O completion queue.
    pub(super) fn io_head(&self) -> u16 {
        self.io.head
    }

    /// Executes an admin command: its result.
    pub(super) fn admin(&mut self, sqe: Sqe) -> Result<u64, Status> {
        let cid = self.send_admin(sqe);
        let ends = self.take(false, false);
        let [end] = ends[..] else { panic!("{ends:?}") };
        assert_eq!(end.cid.get(), cid);
        match end.status() {
            status if status.is_success() => Ok(end.result()),
            status => Err(status),
        }
    }

    /// Executes an I/O command.
    pub(super) fn io(&mut self, sqe: Sqe) -> Status {
        let (_, tail) = self.put_io(sqe);
        self.backing.write32(offset::sq_tail(1, 0), tail.into());
        let ends = self.take(true, false);
        let [end] = ends[..] else { panic!("{ends:?}") };
        end.status()
    }

    /// A command for one block of namespace 1 with data in the data page.
    pub(super) fn block(&self, opcode: NvmOpcode, slba: u64, fua: bool) -> Sqe {
        let command = ReadWrite {
            dptr: DataPtr::from_prp(self.at(DATA), 0),
            slba: slba.into(),
            cdw12: ReadWriteCdw12::new().with_fua(fua),
            ..Sqe::new(opcode.0, 1).into()
        };
        command.into()
    }

    /// Writes a block full of this byte.
    pub(super) fn fill(&mut self, slba: u64, byte: u8, fua: bool) {
        self.write(DATA * PAGE, &[byte; PAGE]);
        let write = self.block(NvmOpcode::Write, slba, fua);
        assert!(self.io(write).is_success());
    }

    pub(super) fn set_feature(&mut self, fid: FeatureId, value: u32) -> Result<u64, Status> {
        let set = SetFeatures {
            cdw10: SetFeaturesCdw10::new().with_fid(fid),
            cdw11: value.into(),
            ..Sqe::new(AdminOpcode::SetFeatures.0, 0).into()
        };
        self.admin(set.into())
    }

    /// A command that brings a page of data.
    pub(super) fn with_page(&self, sqe: Sqe) -> Sqe {
        Sqe {
            dptr: DataPtr::from_prp(self.at(DATA), 0),
            ..sqe
        }
    }

    /// The page of data, as something.
    pub(super) fn page<T: FromBytes>(&self) -> T {
        self.read(DATA * PAGE)
    }
}
