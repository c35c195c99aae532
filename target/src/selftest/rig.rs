//! What a case is run on: buffers in the pool, host memory beside them, a queue
//! pair of the SSD, and the adapter's registrations.

use std::time::Duration;

use sidelane_nvme::Backing;
use sidelane_nvme::driver::{DataPointer, IoCommand, IoQueuePair};
use sidelane_p2p::pool::{AllocError, Pool, PoolBuf};
use sidelane_p2p::{MemView, Region};
use sidelane_transport::nic::{MemoryRegion, Sge};

use super::case::Bench;
use super::wire::{Trouble, Wire};
use crate::target::ssds::QUEUE_DEPTH;

/// The parts of the host memory, each with a place for every slot.
#[derive(Debug, Clone, Copy)]
pub(super) enum Area {
    /// What the SSD's blocks contain.
    Content,
    /// What is neither that nor what was there before.
    Junk,
    /// Where copies of buffers go.
    Landing,
}

impl Area {
    const COUNT: usize = 3;
}

/// What an SSD is told of a slot. Nothing else: no case changes what is on it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// Read its blocks to host memory.
    Learn,
    /// Read its blocks to its buffer.
    Read,
    /// Compare its blocks with its buffer.
    Compare,
}

/// A transfer in flight.
pub(super) struct Slot {
    /// Its memory in the pool.
    pub(super) buffer: PoolBuf,
    /// Its first block on the SSD.
    pub(super) lba: u64,
    /// What its blocks contain.
    pub(super) content: Vec<u8>,
}

pub(super) struct Rig<'a, B: Backing> {
    pub(super) wire: &'a mut Wire,
    pub(super) queue: IoQueuePair<B>,
    pub(super) slots: Vec<Slot>,
    pub(super) nsid: u32,
    /// Logical blocks of a transfer.
    pub(super) blocks: u32,
    /// Bytes of a transfer.
    pub(super) len: usize,
    /// How long nothing may happen.
    pub(super) patience: Duration,
    host: Region,
    host_memory: MemoryRegion,
    pool_memory: MemoryRegion,
}

impl<'a, B: Backing> Rig<'a, B> {
    pub(super) fn open(bench: &Bench<'_, B>, wire: &'a mut Wire) -> Result<Self, Trouble> {
        let (ssd, nsid, len) = (bench.ssd, bench.path.nsid, bench.block_bytes as usize);
        let namespaces = ssd.namespaces();
        let found = namespaces.iter().find(|it| it.nsid == nsid);
        let namespace =
            found.ok_or_else(|| Trouble::Failed(format!("there is no namespace {nsid}")))?;
        let untestable = |reason| Err(Trouble::NotTestable(reason));
        let unit = u64::from(namespace.block_bytes);
        if !bench.block_bytes.is_multiple_of(unit) {
            return untestable(format!("the SSD has blocks of {unit} bytes"));
        }
        if len > ssd.max_transfer_bytes() {
            let most = ssd.max_transfer_bytes();
            return untestable(format!("the SSD moves at most {most} bytes by a command"));
        }
        let blocks = bench.block_bytes / unit;
        let places = namespace.blocks / blocks;
        if places == 0 {
            return untestable(format!(
                "the namespace has only {} blocks",
                namespace.blocks
            ));
        }
        let pool = Pool::new(bench.path.pool.clone())
            .map_err(|error| Trouble::Failed(error.to_string()))?;
        let queue = ssd
            .create_io_queue_pair(QUEUE_DEPTH)
            .map_err(|error| Trouble::failed("the SSD gives no queue", error))?;
        let depth = usize::from(bench.depth).min(queue.capacity());
        let mut slots = Vec::with_capacity(depth);
        for at in 0..depth {
            let buffer = match pool.alloc(len) {
                Ok(buffer) => buffer,
                Err(AllocError::Exhausted { .. }) => break,
                Err(error @ AllocError::TooLong { .. }) => return untestable(error.to_string()),
            };
            // Over the whole of the namespace; with few places, some twice.
            let place = (u128::from(places) * at as u128 / depth as u128) as u64;
            slots.push(Slot {
                buffer,
                lba: place * blocks,
                content: vec![0; len],
            });
        }
        let host = bench
            .space
            .host_region("self-test", Area::COUNT * depth * len)
            .map_err(|error| Trouble::failed("memory to compare with", error))?;
        let host_memory = wire.register(&host)?;
        let pool_memory = match wire.register(&bench.path.pool.region) {
            Ok(memory) => memory,
            Err(error) => {
                wire.deregister(&host_memory);
                return Err(error);
            }
        };
        Ok(Self {
            wire,
            queue,
            slots,
            nsid,
            blocks: blocks as u32,
            len,
            patience: bench.patience,
            host,
            host_memory,
            pool_memory,
        })
    }

    /// Ends it in the order in which nobody touches what is gone: the SSD, the
    /// adapter, its registrations, memory.
    pub(super) fn close(self) {
        let Self {
            wire,
            queue,
            host_memory,
            pool_memory,
            patience,
            ..
        } = self;
        drop(queue);
        wire.end_case(patience);
        wire.deregister(&pool_memory);
        wire.deregister(&host_memory);
    }

    fn offset(&self, area: Area, slot: usize) -> usize {
        (area as usize * self.slots.len() + slot) * self.len
    }

    /// The CPU's view of a slot's place.
    pub(super) fn view(&self, area: Area, slot: usize) -> Result<MemView, Trouble> {
        let start = self.offset(area, slot);
        let view = self.host.view().slice(start..start + self.len);
        view.map_err(|error| Trouble::failed("a defect of the self-test", error))
    }

    /// Queues a command; the SSD hears of it when the queue is rung.
    pub(super) fn tell(&mut self, told: Told, at: usize) -> Result<(), Trouble> {
        let content = self.offset(Area::Content, at);
        let Some(slot) = self.slots.get(at) else {
            return Err(Trouble::failed("a defect of the self-test", "no such slot"));
        };
        let (region, offset) = match told {
            Told::Learn => (&self.host, content),
            Told::Read | Told::Compare => (slot.buffer.region(), slot.buffer.offset()),
        };
        let (nsid, slba, blocks) = (self.nsid, slot.lba, self.blocks);
        let data = DataPointer {
            region,
            offset,
            len: self.len,
        };
        let command = match told {
            Told::Learn | Told::Read => IoCommand::Read {
                nsid,
                slba,
                blocks,
                data,
            },
            Told::Compare => IoCommand::Compare {
                nsid,
                slba,
                blocks,
                data,
            },
        };
        self.queue
            .submit(command, at as u64)
            .map_err(|error| Trouble::failed("the SSD's queue takes no command", error))
    }

    /// The adapter's.
    pub(super) fn host_sge(&self, area: Area, slot: usize) -> Sge {
        self.sge(&self.host_memory, self.offset(area, slot))
    }

    /// The adapter's, of a slot's buffer.
    pub(super) fn buffer_sge(&self, slot: usize) -> Sge {
        let offset = self.slots.get(slot).map_or(0, |slot| slot.buffer.offset());
        self.sge(&self.pool_memory, offset)
    }

    fn sge(&self, memory: &MemoryRegion, offset: usize) -> Sge {
        Sge {
            addr: memory.base + offset as u64,
            len: self.len as u32,
            lkey: memory.lkey,
        }
    }
}
