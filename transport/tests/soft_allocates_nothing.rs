//! The software adapter's core allocates nothing once it runs.
#![allow(unsafe_code, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::nic::{
    Access, AddressVector, Completions, MemoryRegion, QpAttrs, QpCaps, QpNumber, RecvWr,
    RemoteMemory, SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::soft::engine::{Config, Engine, PacketSink, Path};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what the thread asks of the system's allocator.
struct Counting;

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the system allocator's demand.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MTU: usize = 1024;
const LEN: usize = 10_000;

/// Packets on their way, in memory of a fixed size.
struct Wire {
    slots: Vec<([u8; 2048], usize)>,
    used: usize,
}

impl Wire {
    fn new() -> Self {
        Self {
            slots: vec![([0; 2048], 0); 64],
            used: 0,
        }
    }
}

impl PacketSink for Wire {
    fn send(&mut self, _path: &Path, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Some(slot) = self.slots.get_mut(self.used) else {
            return false;
        };
        fill(&mut slot.0[..len]);
        slot.1 = len;
        self.used += 1;
        true
    }
}

struct Side {
    engine: Engine,
    memory: MemoryRegion,
    qp: QpNumber,
    addr: IpAddr,
    wire: Wire,
}

impl Side {
    fn new(last: u8) -> Self {
        let mut engine = Engine::new(Config::default());
        let view = MemView::anonymous(1 << 20);
        let region = Region::new("test", Placement::Host, 0x1000, view, Box::new(()));
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let memory = engine.register(&region, access).expect("room");
        let qp = engine.create_qp(QpCaps { max_send_wr: 64 }).expect("room");
        let addr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        Self {
            engine,
            memory,
            qp,
            addr,
            wire: Wire::new(),
        }
    }

    fn connect(&mut self, other: &Self) {
        let attrs = QpAttrs {
            local: self.addr,
            remote: other.addr,
            remote_qpn: other.qp.0,
            sq_psn: 0,
            rq_psn: 0,
            path_mtu: MTU as u32,
            max_rd_atomic: 4,
            max_dest_rd_atomic: 4,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        };
        self.engine.connect_qp(self.qp, &attrs).expect("fresh");
    }

    fn sge(&self, offset: u64) -> Sge {
        Sge {
            addr: self.memory.base + offset,
            len: LEN as u32,
            lkey: self.memory.lkey,
        }
    }

    fn post_recv(&mut self) {
        let wr = RecvWr {
            wr_id: 0,
            sge: self.sge(0x80000),
        };
        self.engine.post_recv(&[wr]).expect("room");
    }

    /// Sends what there is; one packet of `lose` is lost.
    fn exchange(&mut self, to: &mut Self, now: Instant, sent: &mut u64, lose: u64) {
        self.wire.used = 0;
        self.engine.transmit(now, &mut self.wire);
        for (bytes, len) in &self.wire.slots[..self.wire.used] {
            *sent += 1;
            if !sent.is_multiple_of(lose) {
                to.engine
                    .handle_packet(now, self.addr, to.addr, &bytes[..*len]);
            }
        }
    }
}

#[test]
fn thousands_of_messages_with_and_without_loss_allocate_nothing() {
    let (mut a, mut b) = (Side::new(1), Side::new(2));
    a.connect(&b);
    b.connect(&a);
    for _ in 0..8 {
        b.post_recv();
    }
    let mut now = Instant::now();
    let remote = RemoteMemory {
        addr: b.memory.base + 0x40000,
        rkey: b.memory.rkey,
    };
    let (mut done, mut posted, mut sent) = (0, 0u64, 0);
    let mut before = None;
    while done < 6000 {
        if posted > 600 && before.is_none() {
            before = Some(ALLOCATIONS.with(Cell::get));
        }
        while posted < done + 9 {
            let ops = [SendOp::Send, SendOp::Write(remote), SendOp::Read(remote)];
            let sges = [a.sge(0)].into_iter().collect();
            let op = ops[(posted % 3) as usize];
            let wr = SendWr {
                wr_id: posted,
                op,
                sges,
                signaled: true,
                solicited: false,
            };
            a.engine.post_send(a.qp, &[wr]).expect("room");
            posted += 1;
        }
        now += Duration::from_micros(10);
        let lose = if done < 3000 { u64::MAX } else { 211 };
        a.exchange(&mut b, now, &mut sent, lose);
        b.exchange(&mut a, now, &mut sent, lose);
        if !a.engine.wants_transmit() && !b.engine.wants_transmit() {
            now = a
                .engine
                .deadline()
                .map_or(now, |deadline| deadline.max(now));
            a.engine.expire(now);
        }
        for side in [&mut a, &mut b] {
            let mut out = Completions::new();
            side.engine.poll(&mut out);
            for completion in out {
                assert_eq!(completion.status, WcStatus::Success);
                if completion.op == WcOp::Recv {
                    side.post_recv();
                } else {
                    done += 1;
                }
            }
        }
    }
    assert!(a.engine.stats().retransmits > 100, "losses were met");
    let after = ALLOCATIONS.with(Cell::get);
    assert_eq!(before, Some(after));
}
