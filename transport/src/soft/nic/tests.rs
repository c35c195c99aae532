//! Two adapters on real sockets, in one process.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use super::*;
use crate::nic::{ActiveNic, AddressVector, Completion, RemoteMemory, SendOp, WcOp, WcStatus};
use crate::soft::port;
use sidelane_p2p::{MemView, Placement};

const MIB: usize = 1 << 20;
/// What each side registers: what it gives, what it takes, receive buffers.
const MEMORY: usize = 129 * MIB;
const TOTAL: usize = 64 * MIB;
const TAKEN: usize = TOTAL;
const BUFFERS: usize = 2 * TOTAL;
const PIECE: usize = 256 << 10;

struct End {
    nic: SoftNic,
    region: Region,
    memory: MemoryRegion,
    qp: QpNumber,
    addr: IpAddr,
    path_mtu: u32,
    done: Vec<Completion>,
}

/// An address of the loopback net that no other test uses.
fn fresh_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
    IpAddr::V4(Ipv4Addr::new(127, 64 | high & 63, low, next))
}

fn end() -> End {
    let addr = fresh_address();
    let mut port = port::open(addr, 1).unwrap();
    let socket = port.reactors.pop().unwrap();
    let config = Config {
        name: format!("soft {addr}"),
        ..Config::default()
    };
    let mut nic = SoftNic::new(socket, config).unwrap();
    let view = MemView::anonymous(MEMORY);
    let region = Region::new("test", Placement::Host, 0x1000_0000, view, Box::new(()));
    let access = Access {
        local_write: true,
        remote_read: true,
        remote_write: true,
    };
    let memory = nic.register(&region, access).unwrap();
    let qp = nic.create_qp(QpCaps { max_send_wr: 512 }).unwrap();
    End {
        nic,
        region,
        memory,
        qp,
        addr,
        path_mtu: port.path_mtu,
        done: Vec::new(),
    }
}

fn connect(from: &mut End, to: &End, now: Instant) {
    let attrs = QpAttrs {
        local: from.addr,
        remote: to.addr,
        remote_qpn: to.qp.0,
        sq_psn: 7,
        rq_psn: 7,
        path_mtu: from.path_mtu.min(to.path_mtu),
        max_rd_atomic: 16,
        max_dest_rd_atomic: 16,
        timeout: 17,
        retry_count: 7,
        rnr_retry: 7,
        min_rnr_timer: 12,
        vector: AddressVector::default(),
    };
    from.nic.connect_qp(from.qp, &attrs, now).unwrap();
}

impl End {
    fn sge(&self, offset: usize, len: usize) -> Sge {
        Sge {
            addr: self.memory.base + offset as u64,
            len: len as u32,
            lkey: self.memory.lkey,
        }
    }

    fn remote(&self, offset: usize) -> RemoteMemory {
        RemoteMemory {
            addr: self.memory.base + offset as u64,
            rkey: self.memory.rkey,
        }
    }

    fn post(&mut self, wr_id: usize, op: SendOp, sge: Sge) {
        let sges = [sge].into_iter().collect();
        let wr = SendWr {
            wr_id: wr_id as u64,
            op,
            sges,
            signaled: true,
            solicited: false,
        };
        self.nic.post_send(self.qp, &[wr]).unwrap();
    }

    fn poll(&mut self) {
        let mut out = Completions::new();
        self.nic.poll(Instant::now(), &mut out);
        self.done.extend(out);
    }

    fn fill(&self, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let words = (0..TOTAL / 8).flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_ne_bytes()
        });
        let bytes: Vec<u8> = words.collect();
        self.region.view().write(0, &bytes).unwrap();
        bytes
    }

    fn taken(&self) -> Vec<u8> {
        let mut bytes = vec![0; TOTAL];
        self.region.view().read(TAKEN, &mut bytes).unwrap();
        bytes
    }
}

fn pair() -> (End, End) {
    let (mut a, mut b) = (end(), end());
    let now = Instant::now();
    connect(&mut a, &b, now);
    connect(&mut b, &a, now);
    (a, b)
}

fn run(a: &mut End, b: &mut End, done: impl Fn(&End, &End) -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done(a, b) {
        a.poll();
        b.poll();
        for side in [&*a, &*b] {
            let failed = side.done.iter().find(|c| c.status != WcStatus::Success);
            assert_eq!(failed, None, "{:?}", side.nic.stats());
        }
        assert!(
            Instant::now() < end,
            "{:?} {:?}",
            a.nic.stats(),
            b.nic.stats()
        );
    }
}

#[rstest::rstest]
fn sixty_four_mebibytes_arrive_unchanged_by_write_and_by_read(#[values(false, true)] read: bool) {
    let (mut a, mut b) = pair();
    let bytes = if read { b.fill(1) } else { a.fill(1) };
    for i in 0..TOTAL / PIECE {
        let at = i * PIECE;
        if read {
            let remote = b.remote(at);
            a.post(i, SendOp::Read(remote), a.sge(TAKEN + at, PIECE));
        } else {
            let remote = b.remote(TAKEN + at);
            a.post(i, SendOp::Write(remote), a.sge(at, PIECE));
        }
    }
    run(&mut a, &mut b, |a, _| a.done.len() == TOTAL / PIECE);
    assert!(a.done.iter().enumerate().all(|(i, c)| c.wr_id == i as u64));
    assert!(bytes == if read { a.taken() } else { b.taken() });
    assert_eq!(
        b.nic.stats().drops.bad_icrc + a.nic.stats().drops.bad_icrc,
        0
    );
}

#[test]
fn sixty_four_mebibytes_arrive_unchanged_by_send() {
    let (mut a, mut b) = pair();
    let bytes = a.fill(3);
    let mut next = 0;
    let post_recv = |b: &mut End, buffer: usize| {
        let sge = b.sge(BUFFERS + buffer * PIECE, PIECE);
        b.nic
            .post_recv(&[RecvWr {
                wr_id: buffer as u64,
                sge,
            }])
            .unwrap();
    };
    for buffer in 0..4 {
        post_recv(&mut b, buffer);
    }
    for i in 0..TOTAL / PIECE {
        a.post(i, SendOp::Send, a.sge(i * PIECE, PIECE));
    }
    let mut received = Vec::with_capacity(TOTAL);
    while received.len() < TOTAL {
        let before = b.done.len();
        run(&mut a, &mut b, |_, b| b.done.len() > before);
        for done in b.done.split_off(before) {
            assert_eq!((done.op, done.len), (WcOp::Recv, PIECE as u32));
            let mut message = vec![0; PIECE];
            let at = BUFFERS + done.wr_id as usize * PIECE;
            b.region.view().read(at, &mut message).unwrap();
            received.extend(message);
            post_recv(&mut b, done.wr_id as usize);
            next += 1;
        }
    }
    run(&mut a, &mut b, |a, _| a.done.len() == next);
    assert!(received == bytes);
}

#[test]
fn a_reactor_with_nothing_to_do_sleeps_and_a_packet_wakes_it() {
    let (mut a, mut b) = pair();
    let now = Instant::now();
    assert!(a.nic.arm(now, Wake::All) && b.nic.arm(now, Wake::All));
    let remote = b.remote(TAKEN);
    a.post(1, SendOp::Write(remote), a.sge(0, 100));
    assert!(a.nic.arm(Instant::now(), Wake::All), "arming sends");
    let mut fds = [rustix::event::PollFd::new(
        &b.nic.socket,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1);
    assert!(!b.nic.arm(Instant::now(), Wake::All), "there is work");
    assert!(b.nic.arm(Instant::now(), Wake::All));
    assert!(a.nic.deadline().is_some());
    run(&mut a, &mut b, |a, _| a.done.len() == 1);
    assert!(a.nic.arm(Instant::now(), Wake::All));
}

#[test]
fn a_queue_pair_may_be_connected_to_another_of_the_same_adapter() {
    let mut a = end();
    let other = a.nic.create_qp(QpCaps { max_send_wr: 4 }).unwrap();
    let (addr, now) = (a.addr, Instant::now());
    let mut attrs = QpAttrs {
        local: addr,
        remote: addr,
        remote_qpn: other.0,
        sq_psn: 1,
        rq_psn: 2,
        path_mtu: 1024,
        max_rd_atomic: 1,
        max_dest_rd_atomic: 1,
        timeout: 17,
        retry_count: 7,
        rnr_retry: 7,
        min_rnr_timer: 12,
        vector: AddressVector::default(),
    };
    a.nic.connect_qp(a.qp, &attrs, now).unwrap();
    (attrs.remote_qpn, attrs.sq_psn, attrs.rq_psn) = (a.qp.0, 2, 1);
    a.nic.connect_qp(other, &attrs, now).unwrap();
    let remote = a.remote(TAKEN);
    a.region.view().write(0, b"to myself").unwrap();
    a.post(1, SendOp::Write(remote), a.sge(0, 9));
    let end = now + Duration::from_secs(5);
    while a.done.is_empty() && Instant::now() < end {
        a.poll();
    }
    assert_eq!(a.done[0].status, WcStatus::Success);
    let mut back = [0; 9];
    a.region.view().read(TAKEN, &mut back).unwrap();
    assert_eq!(&back, b"to myself");
    assert_eq!(a.nic.post_flush(a.sge(0, 1), 9), Ok(Flush::Done));
}
