//! An adapter, its connection management and the host's memory, as one thread
//! owns and polls them.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use sidelane_nvme::spec::{CQE_LEN, Cqe};
use sidelane_p2p::{DmaSpace, MemView};
use sidelane_transport::cm::Connector;
use sidelane_transport::nic::{
    Access, ActiveNic, Completions, Count, MAX_COMPLETIONS, RecvWr, Wake,
};

use super::memory::{HostMemory, Layout};
use super::options::{DEPTH_MAX, IO_QUEUES_MAX};
use super::{EndpointOptions, HostError};

/// What a [`Host`](super::Host) or a discovery runs on, one after the other.
///
/// Its memory is registered once and its receive buffers are posted once; both
/// last until it is dropped, since a shared receive queue gives nothing back.
pub struct Endpoint {
    pub(super) nic: Box<dyn ActiveNic>,
    pub(super) cm: Box<dyn Connector>,
    pub(super) memory: HostMemory,
    pub(super) options: EndpointOptions,
    pub(super) completions: Completions,
    /// Receive buffers to be posted again, collected over one poll.
    reposts: arrayvec::ArrayVec<RecvWr, MAX_COMPLETIONS>,
}

impl Endpoint {
    /// Takes an adapter and its connection manager into use, with buffers from
    /// `space` ([`ProcessMemory`](super::ProcessMemory) for an adapter made of
    /// CPU).
    ///
    /// # Errors
    /// When the sizes are out of their limits or more than the adapter has, or
    /// memory cannot be had or registered.
    pub fn open(
        mut nic: Box<dyn ActiveNic>,
        cm: Box<dyn Connector>,
        space: &dyn DmaSpace,
        options: EndpointOptions,
    ) -> Result<Self, HostError> {
        check(&options, nic.as_ref())?;
        let layout = Layout::new(&options);
        let region = space.host_region("initiator", layout.len)?;
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let keys = nic.register(&region, access)?;
        let memory = HostMemory::new(region, keys, layout)?;
        let mut endpoint = Self {
            nic,
            cm,
            memory,
            options,
            completions: Completions::new(),
            reposts: arrayvec::ArrayVec::new(),
        };
        for index in 0..layout.receives {
            let wr = RecvWr {
                wr_id: index as u64,
                sge: endpoint.memory.receive_sge(index),
            };
            endpoint
                .nic
                .post_recv(&[wr])
                .map_err(HostError::nic("post a receive buffer"))?;
        }
        Ok(endpoint)
    }

    /// The data area: what reads fill and writes send, named by offset.
    pub fn data(&self) -> &MemView {
        self.memory.data()
    }

    /// What the adapter has counted, by name.
    pub fn counts(&self) -> Vec<Count> {
        self.nic.counts()
    }

    /// The completion in a receive buffer; the buffer is due to be posted again.
    pub(super) fn take_response(&mut self, wr_id: u64) -> Result<Cqe, HostError> {
        let index = wr_id as usize;
        let mut bytes = [0; CQE_LEN];
        self.memory.receive_read(index, &mut bytes)?;
        self.reposts.push(RecvWr {
            wr_id,
            sge: self.memory.receive_sge(index),
        });
        Ok(zerocopy::transmute!(bytes))
    }

    /// Posts again what [`Self::take_response`] has emptied.
    pub(super) fn repost(&mut self) -> Result<(), HostError> {
        if !self.reposts.is_empty() {
            self.nic
                .post_recv(&self.reposts)
                .map_err(HostError::nic("post receive buffers"))?;
            self.reposts.clear();
        }
        Ok(())
    }

    /// Sleeps until there may be work or `until` has come.
    pub(super) fn wait(&mut self, until: Instant) -> Result<(), HostError> {
        let now = Instant::now();
        if until <= now || !self.nic.arm(now, Wake::All) {
            return Ok(());
        }
        let deadlines = [self.nic.deadline(), self.cm.deadline()];
        let until = deadlines.into_iter().flatten().fold(until, Instant::min);
        let fds = [self.nic.event_fd(), self.cm.event_fd()];
        let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match rustix::event::poll(
            &mut fds,
            Some(&timespec(until.saturating_duration_since(now))),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(HostError::Wait(errno.into())),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.nic.deregister(self.memory.keys());
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn check(options: &EndpointOptions, nic: &dyn ActiveNic) -> Result<(), HostError> {
    let EndpointOptions {
        io_queues,
        depth,
        data_len,
    } = *options;
    if !(1..=IO_QUEUES_MAX).contains(&io_queues) || !(2..=DEPTH_MAX).contains(&depth) {
        return Err(HostError::Options(format!(
            "{io_queues} I/O queues of {depth} entries asked for; 1 to {IO_QUEUES_MAX} queues of 2 \
             to {DEPTH_MAX} entries are possible"
        )));
    }
    let caps = nic.caps();
    let receives = Layout::new(options).receives;
    let wanting = if receives > caps.max_srq_wr as usize {
        Some(format!(
            "{receives} receive buffers, and it has room for {}",
            caps.max_srq_wr
        ))
    } else if u32::from(io_queues) + 1 > caps.max_qp {
        Some(format!(
            "{} queue pairs, and it has {}",
            io_queues + 1,
            caps.max_qp
        ))
    } else if u32::from(depth) > caps.max_send_wr {
        Some(format!(
            "send queues of {depth}, and it takes {}",
            caps.max_send_wr
        ))
    } else if data_len == 0 {
        return Err(HostError::Options(
            "a data area of no bytes is of no use".to_owned(),
        ));
    } else {
        None
    };
    match wanting {
        Some(what) => Err(HostError::Options(format!(
            "{io_queues} I/O queues of {depth} entries need {what} ({})",
            caps.name
        ))),
        None => Ok(()),
    }
}
