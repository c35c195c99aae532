//! What tests of the verbs adapter begin with.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use sidelane_p2p::export::fixture::MemfdExporter;
use sidelane_p2p::{DmaSpace, MemView, Placement, ProcessMemory, Region};

use super::Double;
use crate::nic::{
    Access, AddressVector, Completion, Completions, MemoryRegion, Nic, NicEvent, QpAttrs, QpCaps,
    QpNumber, SendOp, SendWr, Sge,
};
use crate::verbs::adapter::{AdapterSettings, VerbsAdapter};
use crate::verbs::nic::VerbsNic;

pub type Part = VerbsNic<Double>;

pub const WRITABLE: Access = Access {
    local_write: true,
    remote_read: false,
    remote_write: false,
};

/// Send work requests of a queue pair.
pub const SEND_WR: u32 = 160;

pub fn settings(reactors: usize) -> AdapterSettings {
    AdapterSettings {
        reactors,
        srq_wr: 32,
        max_connections: 4,
        send_wr: SEND_WR,
    }
}

pub fn open(double: &Double, reactors: usize) -> (Arc<VerbsAdapter<Double>>, Vec<Part>) {
    VerbsAdapter::open_with(double, "mlx5_0", settings(reactors)).unwrap()
}

/// An adapter with one part.
pub fn part(double: &Double) -> Part {
    open(double, 1).1.pop().unwrap()
}

pub fn attrs() -> QpAttrs {
    QpAttrs {
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        remote: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        remote_qpn: 77,
        sq_psn: 1,
        rq_psn: 2,
        path_mtu: 1024,
        max_rd_atomic: 255,
        max_dest_rd_atomic: 3,
        timeout: 14,
        retry_count: 6,
        rnr_retry: 7,
        min_rnr_timer: 12,
        vector: AddressVector {
            port: 1,
            is_global: true,
            ..AddressVector::default()
        },
    }
}

pub fn host_region(len: usize) -> Region {
    ProcessMemory.host_region("host memory", len).unwrap()
}

/// Memory of another device, at 4096 in its dma-buf.
pub fn peer_region(len: usize) -> Region {
    let device = "0000:03:00.0".parse().unwrap();
    let placement = Placement::Peer { device, bar: 2 };
    let view = MemView::anonymous(len);
    Region::new("cmb", placement, 0x10_0000_0000, view, Box::new(()))
        .with_exporter(MemfdExporter::new(4096, len as u64))
}

/// Polls until `what` gives something.
pub fn until<T>(part: &mut Part, mut what: impl FnMut(&mut Part, &Completions) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let mut out = Completions::new();
        part.poll(Instant::now(), &mut out);
        if let Some(got) = what(part, &out) {
            return got;
        }
        assert!(Instant::now() < end, "nothing came in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the next event; completions are lost.
pub fn event(part: &mut Part) -> NicEvent {
    until(part, |part, _| part.event())
}

/// Everything that is there now.
pub fn now(part: &mut Part) -> Vec<Completion> {
    let mut out = Completions::new();
    part.poll(Instant::now(), &mut out);
    out.to_vec()
}

pub fn ask(part: &mut Part) {
    let caps = QpCaps {
        max_send_wr: SEND_WR,
    };
    part.open_qp(7, caps, &attrs(), Instant::now());
}

/// A queue pair, up.
pub fn opened(part: &mut Part) -> QpNumber {
    ask(part);
    match event(part) {
        NicEvent::Opened { ticket: 7, outcome } => outcome.unwrap(),
        other => panic!("{other:?}"),
    }
}

pub fn wr(wr_id: u64, op: SendOp, memory: &MemoryRegion, len: u32) -> SendWr {
    SendWr {
        wr_id,
        op,
        sges: [sge(memory, len)].into_iter().collect(),
        signaled: true,
        solicited: false,
    }
}

/// The first bytes of a registration.
pub fn sge(memory: &MemoryRegion, len: u32) -> Sge {
    Sge {
        addr: memory.base,
        len,
        lkey: memory.lkey,
    }
}

/// Whether a reactor that sleeps would wake.
pub fn wakes(part: &Part) -> bool {
    let fd = part.event_fd();
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&none)).unwrap() > 0
}
