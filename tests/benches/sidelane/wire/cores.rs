//! Two protocol cores and their CRCs without any socket, for valgrind.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::ensure;
use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::nic::{
    Access, AddressVector, Completions, MemoryRegion, QpAttrs, QpCaps, QpNumber, RecvWr,
    RemoteMemory, SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::soft::engine::{Config, Engine, PacketSink, Path};
use sidelane_transport::soft::icrc;
use sidelane_transport::soft::wire::{ICRC_LEN, ROCE_V2_PORT};

/// Packets under way in one direction.
const PLACES: usize = 16;

struct Wire {
    places: Vec<([u8; 4416], usize)>,
    used: usize,
    local: IpAddr,
}

impl PacketSink for Wire {
    fn send(&mut self, path: &Path, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Some((bytes, used)) = self.places.get_mut(self.used) else {
            return false;
        };
        *used = len + ICRC_LEN;
        fill(&mut bytes[..len]);
        icrc::seal(self.local, path.remote, 0, &mut bytes[..*used]);
        self.used += 1;
        true
    }
}

struct Core {
    engine: Engine,
    memory: MemoryRegion,
    qp: QpNumber,
    wire: Wire,
}

impl Core {
    fn new(last: u8) -> anyhow::Result<Self> {
        let mut engine = Engine::new(Config::default());
        let view = MemView::anonymous(1 << 20);
        let region = Region::new("core", Placement::Host, 0x1000, view, Box::new(()));
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let memory = engine.register(&region, access);
        let memory = memory.ok_or_else(|| anyhow::anyhow!("no room"))?;
        let qp = engine.create_qp(QpCaps { max_send_wr: 64 })?;
        let wire = Wire {
            places: vec![([0; 4416], 0); PLACES],
            used: 0,
            local: Ipv4Addr::new(192, 0, 2, last).into(),
        };
        Ok(Self {
            engine,
            memory,
            qp,
            wire,
        })
    }

    fn connect(&mut self, other: &Self, path_mtu: u32) -> anyhow::Result<()> {
        let attrs = QpAttrs {
            local: self.wire.local,
            remote: other.wire.local,
            remote_qpn: other.qp.0,
            sq_psn: 0,
            rq_psn: 0,
            path_mtu,
            max_rd_atomic: 4,
            max_dest_rd_atomic: 4,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        };
        Ok(self.engine.connect_qp(self.qp, &attrs)?)
    }

    fn sge(&self, len: usize) -> Sge {
        Sge {
            addr: self.memory.base,
            len: len as u32,
            lkey: self.memory.lkey,
        }
    }
}

/// Carries what one core sends to the other; how many packets that were.
#[inline(never)]
fn collected_packets(from: &mut Core, to: &mut Core, now: Instant) -> usize {
    from.wire.used = 0;
    from.engine.transmit(now, &mut from.wire);
    let (source, local) = (from.wire.local, to.wire.local);
    for (bytes, len) in &from.wire.places[..from.wire.used] {
        let bytes = black_box(&bytes[..*len]);
        if let Ok(packet) = icrc::verify(source, local, ROCE_V2_PORT, ROCE_V2_PORT, bytes) {
            to.engine.handle_packet(now, source, local, packet);
        }
    }
    from.wire.used
}

/// Does `count` operations, one after the other, and says how many packets each
/// of them is. `read`: 4 KiB are READ, else 64 bytes sent.
pub fn run(read: bool, path_mtu: u32, count: u64) -> anyhow::Result<u64> {
    let (mut first, mut second) = (Core::new(1)?, Core::new(2)?);
    first.connect(&second, path_mtu)?;
    second.connect(&first, path_mtu)?;
    let now = Instant::now();
    let remote = RemoteMemory {
        addr: second.memory.base,
        rkey: second.memory.rkey,
    };
    let (bytes, op, ends) = if read {
        (4096, SendOp::Read(remote), WcOp::Read)
    } else {
        (64, SendOp::Send, WcOp::Send)
    };
    let mut packets = 0;
    for number in 0..count {
        if !read {
            let sge = second.sge(bytes);
            second.engine.post_recv(&[RecvWr { wr_id: 0, sge }])?;
        }
        let wr = SendWr {
            wr_id: number,
            op,
            sges: [first.sge(bytes)].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        first.engine.post_send(first.qp, &[wr])?;
        packets += collected_packets(&mut first, &mut second, now);
        packets += collected_packets(&mut second, &mut first, now);
        for core in [&mut first, &mut second] {
            let mut out = Completions::new();
            core.engine.poll(&mut out);
            let good = |status| status == WcStatus::Success;
            ensure!(out.iter().all(|done| good(done.status)), "{out:?}");
            let leads = core.wire.local == Ipv4Addr::new(192, 0, 2, 1);
            let done = out.iter().filter(|done| done.op == ends).count();
            ensure!(!leads || done == 1, "operation {number} has not ended");
        }
    }
    Ok(packets as u64 / count.max(1))
}
