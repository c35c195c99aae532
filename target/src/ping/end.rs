//! One end of a ping: an adapter, its connection management, and the buffers that
//! messages arrive in, as one thread owns and polls them.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec};
use sidelane_p2p::{DmaSpace, ProcessMemory, Region};
use sidelane_transport::cm::{CmEvent, Connector};
use sidelane_transport::nic::{
    Access, ActiveNic, Completion, Completions, MAX_COMPLETIONS, MemoryRegion, NicEvent, QpNumber,
    RecvWr, SendOp, SendWr, Sge, Wake, WcOp,
};

use super::wire::{Advert, MESSAGE_LEN};
use super::{PingError, Stop};

/// How long to look for more after something came, before sleeping: a wake-up
/// costs about as much.
const SPIN: Duration = Duration::from_micros(50);

/// What no peer may touch.
pub(super) const LOCAL: Access = Access {
    local_write: true,
    remote_read: false,
    remote_write: false,
};

/// Registered memory of its own.
#[derive(Debug)]
pub(super) struct Memory {
    region: Region,
    keys: MemoryRegion,
}

impl Memory {
    pub fn sge(&self, offset: usize, len: u32) -> Sge {
        Sge {
            addr: self.keys.base + offset as u64,
            len,
            lkey: self.keys.lkey,
        }
    }

    /// How a peer is told of its first bytes.
    pub fn advert(&self, size: u32) -> Advert {
        Advert::new(self.keys.base, self.keys.rkey, size)
    }

    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), PingError> {
        Ok(self.region.view().write(offset, from)?)
    }

    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), PingError> {
        Ok(self.region.view().read(offset, into)?)
    }
}

/// How many buffers for messages there are, and how long they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inbox {
    pub buffers: usize,
    pub len: u32,
}

/// See the module.
pub(super) struct End {
    pub nic: Box<dyn ActiveNic>,
    pub cm: Box<dyn Connector>,
    inbox: Inbox,
    inbox_memory: Memory,
    /// Buffers to be posted again, collected over one poll.
    reposts: ArrayVec<RecvWr, MAX_COMPLETIONS>,
    /// When something came last.
    busy_at: Instant,
}

impl End {
    pub fn new(
        mut nic: Box<dyn ActiveNic>,
        cm: Box<dyn Connector>,
        inbox: Inbox,
    ) -> Result<Self, PingError> {
        let inbox_memory = register(
            nic.as_mut(),
            "messages",
            inbox.buffers * inbox.len as usize,
            LOCAL,
        )?;
        let mut end = Self {
            nic,
            cm,
            inbox,
            inbox_memory,
            reposts: ArrayVec::new(),
            busy_at: Instant::now(),
        };
        for index in 0..inbox.buffers {
            let wr = end.receive(index as u64);
            end.nic
                .post_recv(&[wr])
                .map_err(PingError::nic("post a receive buffer"))?;
        }
        Ok(end)
    }

    fn receive(&self, index: u64) -> RecvWr {
        let len = self.inbox.len;
        RecvWr {
            wr_id: index,
            sge: self.inbox_memory.sge(index as usize * len as usize, len),
        }
    }

    /// Memory of `len` bytes with these rights, zeroed.
    pub fn memory(&mut self, name: &str, len: usize, access: Access) -> Result<Memory, PingError> {
        register(self.nic.as_mut(), name, len, access)
    }

    /// Takes the rights on memory back.
    pub fn release(&mut self, memory: &Memory) {
        self.nic.deregister(&memory.keys);
    }

    /// What connection management has to say.
    pub fn cm_event(&mut self, now: Instant) -> Option<CmEvent> {
        let event = self.cm.poll(now);
        if event.is_some() {
            self.busy_at = now;
        }
        event
    }

    /// The work that has ended.
    pub fn poll(&mut self, now: Instant) -> Completions {
        let mut completions = Completions::new();
        self.nic.poll(now, &mut completions);
        if !completions.is_empty() {
            self.busy_at = now;
        }
        completions
    }

    /// The queue pair that has failed by itself, if one has.
    pub fn failed(&mut self) -> Option<QpNumber> {
        loop {
            if let NicEvent::Failed(qp) = self.nic.event()? {
                return Some(qp);
            }
        }
    }

    /// The message in a completed receive buffer, if it is one; the buffer is due
    /// to be posted again, as it has to be after a failure too.
    pub fn message(&mut self, completion: &Completion) -> Result<Option<Advert>, PingError> {
        let mut bytes = [0; MESSAGE_LEN];
        let wr = self.receive(completion.wr_id);
        self.inbox_memory.read(
            completion.wr_id as usize * self.inbox.len as usize,
            &mut bytes,
        )?;
        self.reposts.push(wr);
        let whole = completion.op == WcOp::Recv && completion.len as usize == MESSAGE_LEN;
        Ok(Advert::parse(&bytes).filter(|_| whole))
    }

    /// Posts again what [`Self::message`] has emptied: once after each poll.
    pub fn repost(&mut self) -> Result<(), PingError> {
        if !self.reposts.is_empty() {
            self.nic
                .post_recv(&self.reposts)
                .map_err(PingError::nic("post receive buffers"))?;
            self.reposts.clear();
        }
        Ok(())
    }

    /// Sleeps until there may be work, the end is wished for, or `until` has come.
    /// Without a `stop` a wish wakes nobody: it has been heard, and rings for ever.
    pub fn wait(&mut self, until: Instant, stop: Option<&Stop>) -> Result<(), PingError> {
        let now = Instant::now();
        let spinning = now.duration_since(self.busy_at) < SPIN;
        if spinning || until <= now || !self.nic.arm(now, Wake::All) {
            return Ok(());
        }
        let deadlines = [self.nic.deadline(), self.cm.deadline()];
        let until = deadlines.into_iter().flatten().fold(until, Instant::min);
        let left = until.saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let bell = stop.map(Stop::event_fd);
        let fds = [self.nic.event_fd(), self.cm.event_fd()];
        let mut fds: ArrayVec<_, 3> = fds
            .into_iter()
            .chain(bell)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(PingError::Wait(errno.into())),
        }
    }

    /// What adapter and connection management have counted, by name.
    pub fn counts(&self) -> super::Counts {
        let counts = self.nic.counts().into_iter().chain(self.cm.counts());
        counts
            .map(|(name, value)| (name.into_owned(), value))
            .collect()
    }
}

fn register(
    nic: &mut dyn ActiveNic,
    name: &str,
    len: usize,
    access: Access,
) -> Result<Memory, PingError> {
    let region = ProcessMemory.host_region(name, len)?;
    let keys = nic.register(&region, access)?;
    Ok(Memory { region, keys })
}

/// A work request of one piece.
pub(super) fn work(wr_id: u64, op: SendOp, sge: Sge, signaled: bool) -> SendWr {
    SendWr {
        wr_id,
        op,
        sges: ArrayVec::from_iter([sge]),
        signaled,
        solicited: false,
    }
}
