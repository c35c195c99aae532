//! Two software adapters with a connected queue pair each.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::nic::{
    Access, ActiveNic, AddressVector, Completion, Completions, MemoryRegion, Nic, QpAttrs, QpCaps,
    QpNumber, RecvWr, RemoteMemory, SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::soft;
use sidelane_transport::soft::cm::SoftCm;
use sidelane_transport::soft::nic::SoftNic;
use sidelane_transport::soft::port::Settings;
use sidelane_transport::soft::socket::SocketCounters;

use super::super::stage::with_free;
use super::{Job, Kind, PATH_MTU, Side, Way};

/// Bytes of the memory of a side.
const MEMORY: usize = 2 << 20;

struct Soft {
    nic: SoftNic,
    memory: MemoryRegion,
    qp: QpNumber,
    address: IpAddr,
    remote: RemoteMemory,
    /// A buffer to receive is posted.
    receives: bool,
    /// Keeps the port whole.
    _cm: SoftCm,
}

/// A pair.
pub fn open(name: &'static str, settings: Settings) -> anyhow::Result<Way> {
    let (mut first, mut second) = (Soft::open(settings)?, Soft::open(settings)?);
    first.connect(&second)?;
    second.connect(&first)?;
    Ok(Way {
        name,
        sides: [Box::new(first), Box::new(second)],
    })
}

impl Soft {
    fn open(settings: Settings) -> anyhow::Result<Self> {
        let (address, (mut nics, cm)) =
            with_free(|address| Ok((address, soft::open_with(address, 1, settings)?)))?;
        let mut nic = nics.pop().context("an adapter without parts")?;
        let view = MemView::anonymous(MEMORY);
        let region = Region::new("wire", Placement::Host, 0x1000_0000, view, Box::new(()));
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let memory = nic.register(&region, access)?;
        let qp = nic.create_qp(QpCaps { max_send_wr: 64 })?;
        Ok(Self {
            nic,
            memory,
            qp,
            address,
            remote: RemoteMemory { addr: 0, rkey: 0 },
            receives: false,
            _cm: cm,
        })
    }

    fn connect(&mut self, other: &Self) -> anyhow::Result<()> {
        let reads = self.nic.caps().max_rd_atomic;
        let attrs = QpAttrs {
            local: self.address,
            remote: other.address,
            remote_qpn: other.qp.0,
            sq_psn: 7,
            rq_psn: 7,
            path_mtu: PATH_MTU as u32,
            max_rd_atomic: reads,
            max_dest_rd_atomic: reads,
            timeout: 17,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        };
        self.nic.connect_qp(self.qp, &attrs, Instant::now())?;
        self.remote = RemoteMemory {
            addr: other.memory.base,
            rkey: other.memory.rkey,
        };
        Ok(())
    }

    fn sge(&self, number: u64, bytes: usize) -> Sge {
        let places = (MEMORY / bytes.max(PATH_MTU)) as u64;
        Sge {
            addr: self.memory.base + number % places * bytes as u64,
            len: bytes as u32,
            lkey: self.memory.lkey,
        }
    }

    fn post(&mut self, job: Job, number: u64) -> anyhow::Result<()> {
        let sge = self.sge(number, job.bytes);
        let remote = RemoteMemory {
            addr: self.remote.addr + (sge.addr - self.memory.base),
            ..self.remote
        };
        let wr = SendWr {
            wr_id: number,
            op: match job.kind {
                Kind::Read => SendOp::Read(remote),
                Kind::Write => SendOp::Write(remote),
                Kind::PingPong => SendOp::Send,
            },
            sges: [sge].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        Ok(self.nic.post_send(self.qp, &[wr])?)
    }

    fn post_recv(&mut self, job: Job) -> anyhow::Result<()> {
        let sge = self.sge(0, job.bytes);
        Ok(self.nic.post_recv(&[RecvWr { wr_id: 0, sge }])?)
    }

    fn poll(
        &mut self,
        mut f: impl FnMut(&mut Self, Completion) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out = Completions::new();
        self.nic.poll(Instant::now(), &mut out);
        if out.is_empty() {
            std::thread::yield_now();
        }
        for completion in out {
            ensure!(completion.status == WcStatus::Success, "{completion:?}");
            f(self, completion)?;
        }
        Ok(())
    }
}

impl Side for Soft {
    fn lead(&mut self, job: Job, until: Instant) -> anyhow::Result<u64> {
        let ends = match job.kind {
            Kind::Read => WcOp::Read,
            Kind::Write => WcOp::Write,
            Kind::PingPong => WcOp::Recv,
        };
        let (mut posted, mut done) = (0, 0);
        let mut goes_on = true;
        while goes_on || done < posted {
            goes_on = goes_on && Instant::now() < until;
            while goes_on && posted - done < job.depth {
                if job.kind == Kind::PingPong {
                    self.post_recv(job)?;
                }
                self.post(job, posted)?;
                posted += 1;
            }
            self.poll(|_, completion| {
                done += u64::from(completion.op == ends);
                Ok(())
            })?;
        }
        Ok(done)
    }

    fn follow(&mut self, job: Job, ended: &AtomicBool) -> anyhow::Result<()> {
        if job.kind == Kind::PingPong && !self.receives {
            self.post_recv(job)?;
            self.receives = true;
        }
        while !ended.load(Ordering::Relaxed) {
            self.poll(|side, completion| {
                if completion.op == WcOp::Recv {
                    side.post_recv(job)?;
                    side.post(job, 0)?;
                }
                Ok(())
            })?;
        }
        // What is under way still is to be answered.
        self.poll(|_, _| Ok(()))
    }

    fn counters(&self) -> SocketCounters {
        self.nic.socket().counters()
    }
}
