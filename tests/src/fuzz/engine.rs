//! The protocol core of the software adapter: two engines with two connected
//! queue pairs each, and a network between them that loses, repeats, reorders,
//! alters and invents packets as the input says. Keys go in the middle of it, and
//! queue pairs are brought to error.
//!
//! Promised, whatever the network does: nothing is placed outside registered
//! memory, every send work request ends exactly once, no receive buffer ends
//! twice, one thing that happens makes no more packets than were agreed on, and
//! there is an end to it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::nic::{
    Access, AddressVector, Completions, MemoryRegion, QpAttrs, QpCaps, QpNumber, RecvWr,
    RemoteMemory, SendOp, SendWr, Sge, WcOp,
};
use sidelane_transport::soft::engine::{Config, Engine, PacketSink, Path};

use super::input::Input;

/// Bytes of registered memory of a side.
const MEMORY: usize = 64 << 10;
/// Bytes before and behind it that nobody may touch.
const GUARD: usize = 4096;
/// Work requests of a send queue.
const SEND_QUEUE: u32 = 16;
/// Posting stops here, so that identifiers of work requests are places in a list.
const POSTS_MAX: usize = 256;
/// Packets under way, beyond which the network loses all.
const FLIGHTS_MAX: usize = 256;
/// More steps than any end takes.
const STEPS_MAX: usize = 100_000;
/// Queue pairs of a side.
const QPS: usize = 2;
/// READs that one of them may have outstanding: the first, and the second.
const READS: [u8; QPS] = [4, 1];
/// Packets for which one cause is enough, with room: all READs of a side answered
/// whole at the smallest path MTU, and all that may be unacknowledged sent again.
const PACKETS_MAX: usize = (READS[0] + READS[1]) as usize * (MEMORY / 256) + 512;

/// Packets that a side wants to send.
struct Outbox {
    packets: Vec<Vec<u8>>,
    room: usize,
}

impl PacketSink for Outbox {
    fn send(&mut self, _path: &Path, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if self.packets.len() == self.room {
            return false;
        }
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        self.packets.push(bytes);
        true
    }
}

struct Side {
    engine: Engine,
    all: MemView,
    region: Region,
    memory: MemoryRegion,
    /// A second key for the same memory, which may go.
    fragile: MemoryRegion,
    qps: [QpNumber; QPS],
    /// Packets since something happened.
    sent: usize,
    /// For each send work request, how often it has ended.
    sends: Vec<u8>,
    /// The same for receive buffers.
    receives: Vec<u8>,
}

fn address(side: usize) -> IpAddr {
    [192, 0, 2, 1 + side as u8].into()
}

/// The first sequence number that a side sends: they wrap early, or their half.
fn first_psn(side: usize, which: usize) -> u32 {
    [0xff_fff0, 0x7f_fff0][which] + side as u32
}

const ACCESS: Access = Access {
    local_write: true,
    remote_read: true,
    remote_write: true,
};

impl Side {
    fn new(side: usize) -> Self {
        let mut engine = Engine::new(Config {
            max_qp: 4,
            max_send_wr: 64,
            max_srq_wr: 64,
            max_registrations: 4,
            seed: side as u32 * 7,
            read_window: 32 << 10,
            read_chunk: 4 << 10,
            ..Config::default()
        });
        let all = MemView::anonymous(MEMORY + 2 * GUARD);
        let view = all.slice(GUARD..GUARD + MEMORY).expect("a part of it");
        let base = 0x1000_0000 << (8 * side);
        let region = Region::new("fuzz", Placement::Host, base, view, Box::new(()));
        let memory = engine.register(&region, ACCESS).expect("room for one");
        let fragile = engine.register(&region, ACCESS).expect("room for two");
        let caps = QpCaps {
            max_send_wr: SEND_QUEUE,
        };
        let qps = [(); QPS].map(|()| engine.create_qp(caps).expect("room for all"));
        Self {
            engine,
            all,
            region,
            memory,
            fragile,
            qps,
            sent: 0,
            sends: Vec::new(),
            receives: Vec::new(),
        }
    }

    fn connect(&mut self, side: usize, which: usize, remote_qpn: u32, path_mtu: u32) {
        let attrs = QpAttrs {
            local: address(side),
            remote: address(1 - side),
            remote_qpn,
            sq_psn: first_psn(side, which),
            rq_psn: first_psn(1 - side, which),
            path_mtu,
            max_rd_atomic: READS[which],
            max_dest_rd_atomic: READS[which],
            timeout: 14,
            retry_count: [3, 0][which],
            rnr_retry: 3,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        };
        let qp = self.qps[which];
        self.engine.connect_qp(qp, &attrs).expect("it is new");
    }

    fn sge(&self, offset: u16, len: u16) -> Sge {
        Sge {
            addr: self.memory.base + u64::from(offset),
            len: len.into(),
            lkey: self.memory.lkey,
        }
    }

    /// The second key goes, and another one comes.
    fn renew(&mut self) {
        self.engine.deregister(&self.fragile);
        let fragile = self.engine.register(&self.region, ACCESS);
        self.fragile = fragile.expect("room for two");
    }

    /// Posts a work request; often a good one.
    fn post(&mut self, input: &mut Input<'_>, peer: RemoteMemory) {
        if self.sends.len() == POSTS_MAX {
            return;
        }
        let kind = input.u8();
        let mut remote = peer;
        remote.addr += u64::from(input.u16());
        if kind & 0x80 != 0 {
            remote.rkey = remote.rkey.wrapping_add(input.u8().into());
        }
        let (which, immediate) = (usize::from(kind >> 4 & 1), kind & 0x20 != 0);
        let (imm, to) = (remote.rkey, remote);
        let op = match kind % 4 {
            0 if immediate => SendOp::SendImmediate { imm },
            0 => SendOp::Send,
            1 => SendOp::SendInvalidate { rkey: remote.rkey },
            2 if immediate => SendOp::WriteImmediate { to, imm },
            2 => SendOp::Write(remote),
            _ => SendOp::Read(remote),
        };
        let pieces = usize::from(kind >> 2 & 3);
        let sges = (0..pieces).map(|_| self.sge(input.u16(), input.u16()));
        let wr = SendWr {
            wr_id: self.sends.len() as u64,
            op,
            sges: sges.collect(),
            signaled: true,
            solicited: kind & 0x40 != 0,
        };
        self.sent = 0;
        if self.engine.post_send(self.qps[which], &[wr]).is_ok() {
            self.sends.push(0);
        }
    }

    fn post_recv(&mut self, input: &mut Input<'_>) {
        if self.receives.len() == POSTS_MAX {
            return;
        }
        let wr = RecvWr {
            wr_id: self.receives.len() as u64,
            sge: self.sge(input.u16(), input.u16()),
        };
        if self.engine.post_recv(&[wr]).is_ok() {
            self.receives.push(0);
        }
    }

    fn poll(&mut self) {
        loop {
            let mut out = Completions::new();
            self.engine.poll(&mut out);
            for end in &out {
                let ended = match end.op {
                    WcOp::Recv | WcOp::RecvWrite => &mut self.receives,
                    _ => &mut self.sends,
                };
                let times = ended.get_mut(end.wr_id as usize).expect("it was posted");
                *times += 1;
                assert_eq!(*times, 1, "{end:?} ended before");
            }
            if out.is_empty() {
                return;
            }
        }
    }
}

struct Pair {
    sides: [Side; 2],
    /// To whom, and what.
    flights: Vec<(usize, Vec<u8>)>,
    now: Instant,
}

impl Pair {
    fn transmit(&mut self) {
        for side in 0..2 {
            let mut sink = Outbox {
                packets: Vec::new(),
                room: 16,
            };
            let own = &mut self.sides[side];
            own.engine.transmit(self.now, &mut sink);
            own.sent += sink.packets.len();
            assert!(own.sent <= PACKETS_MAX, "too much for one cause");
            let sent = sink.packets.into_iter().map(|packet| (1 - side, packet));
            self.flights.extend(sent);
        }
        self.flights.truncate(FLIGHTS_MAX);
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let (from, own) = (address(1 - to), address(to));
        let side = &mut self.sides[to];
        side.sent = 0;
        side.engine.handle_packet(self.now, from, own, packet);
    }

    /// A packet made up, with what it takes to be looked at closely.
    fn invent(&mut self, input: &mut Input<'_>) {
        let flags = input.u8();
        let to = usize::from(flags & 1);
        let mut packet = input.array::<12>().to_vec();
        let len = usize::from(input.u16() % 1200);
        packet.extend(input.bytes(len));
        if flags & 2 != 0 {
            packet[0] &= 0x1f;
            packet[1] = packet[1] & 0x30 | 0x40;
            packet[2..4].fill(0xff);
            let which = usize::from(flags >> 4 & 1);
            let qp = self.sides[to].qps[which];
            packet[5..8].copy_from_slice(&qp.0.to_be_bytes()[1..]);
            let base = first_psn(if flags & 4 != 0 { to } else { 1 - to }, which);
            let psn = base.wrapping_add(u32::from(packet[11])) & 0xff_ffff;
            packet[9..12].copy_from_slice(&psn.to_be_bytes()[1..]);
        }
        if flags & 8 != 0 && packet.len() >= 28 {
            let memory = self.sides[to].memory;
            packet[12..18].copy_from_slice(&memory.base.to_be_bytes()[..6]);
            packet[20..24].copy_from_slice(&memory.rkey.to_be_bytes());
            packet[24..26].fill(0);
        }
        self.deliver(to, &packet);
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.u8();
        let side = usize::from(action >> 7);
        let flight = match action % 16 {
            4..=10 => input.pick(self.flights.len()),
            _ => 0,
        };
        match action % 16 {
            0 | 1 => {
                let peer = &self.sides[1 - side];
                let peer = [peer.memory, peer.fragile][usize::from(action >> 6 & 1)];
                let remote = RemoteMemory {
                    addr: peer.base,
                    rkey: peer.rkey,
                };
                self.sides[side].post(input, remote);
            }
            2 | 3 => self.sides[side].post_recv(input),
            4..=10 if self.flights.is_empty() => {}
            4..=6 => {
                let (to, packet) = self.flights.remove(flight);
                self.deliver(to, &packet);
            }
            7 => {
                self.flights.remove(flight);
            }
            8 => {
                let (to, packet) = self.flights[flight].clone();
                self.deliver(to, &packet);
            }
            9 | 10 => {
                let (to, mut packet) = self.flights.remove(flight);
                for _ in 0..=input.u8() % 4 {
                    let at = input.pick(packet.len().min(256));
                    packet[at] ^= input.u8();
                }
                self.deliver(to, &packet);
            }
            11 | 12 => self.invent(input),
            13 => {
                self.now += Duration::from_micros(input.u16().into());
                self.expire();
            }
            14 => {
                self.wait();
            }
            _ => {
                let own = &mut self.sides[side];
                match input.u8() {
                    rare @ 0..16 => {
                        let qp = own.qps[usize::from(rare & 1)];
                        own.engine.error_qp(qp).expect("it exists");
                    }
                    16..32 => own.renew(),
                    limit @ 32..48 => {
                        let armed = own.engine.arm_srq_limit(limit.into());
                        armed.expect("no more than it holds");
                    }
                    _ => own.poll(),
                }
            }
        }
        self.transmit();
    }

    fn expire(&mut self) {
        for side in &mut self.sides {
            side.sent = 0;
            side.engine.expire(self.now);
        }
    }

    /// Until the next timer; `false` when there is none.
    fn wait(&mut self) -> bool {
        let timers = self.sides.iter().filter_map(|side| side.engine.deadline());
        let Some(next) = timers.min() else {
            return false;
        };
        self.now = self.now.max(next);
        self.expire();
        true
    }

    /// The network becomes good, until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            self.transmit();
            self.sides.iter_mut().for_each(Side::poll);
            if !self.flights.is_empty() {
                let (to, packet) = self.flights.remove(0);
                self.deliver(to, &packet);
            } else if !self.sides.iter().any(|side| side.engine.wants_transmit()) && !self.wait() {
                return;
            }
        }
        assert!(self.flights.len() > FLIGHTS_MAX, "there is no end to it");
    }
}

/// A sequence of actions on two engines.
pub fn engine(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mtu = [256, 512, 1024, 4096][input.pick(4)];
    let mut sides = [Side::new(0), Side::new(1)];
    for which in 0..QPS {
        let [a, b] = [sides[0].qps[which], sides[1].qps[which]];
        sides[0].connect(0, which, b.0, mtu);
        sides[1].connect(1, which, a.0, mtu);
    }
    let mut pair = Pair {
        sides,
        flights: Vec::new(),
        now: Instant::now(),
    };
    while !input.is_empty() {
        pair.act(&mut input);
    }
    pair.settle();
    for side in &mut pair.sides {
        assert!(
            side.sends.iter().all(|times| *times == 1),
            "{:?}",
            side.sends
        );
        let mut guard = [0; GUARD];
        for at in [0, GUARD + MEMORY] {
            side.all.read(at, &mut guard).expect("a part of it");
            assert!(guard.iter().all(|byte| *byte == 0), "written outside");
        }
        let counted = side.engine.stats();
        side.qps.iter().for_each(|qp| side.engine.destroy_qp(*qp));
        assert_eq!(
            side.engine.stats(),
            counted,
            "counts outlive their queue pair"
        );
    }
}
