//! Two managers, a network between them, and virtual time. What they say to each
//! other travels in whole packets, of either address family.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cm::{CmEvent, ConnId, ConnParams};
use crate::nic::{QpAttrs, QpNumber};
use crate::soft::cm::mad::{Attribute, Mad};
use crate::soft::cm::packet::{self, PACKET_LEN};
use crate::soft::cm::{CmConfig, CmCore};
use crate::soft::psn::Psn;
use crate::soft::wire::ROCE_V2_PORT;

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
pub(super) const PORT: u16 = 4420;
pub(super) const CLIENT_QPN: u32 = 0x11;
pub(super) const SERVER_QPN: u32 = 0x2222;

pub(super) fn config(secret: u64) -> CmConfig {
    CmConfig {
        path_mtu: 4096,
        max_rd_atomic: 16,
        max_connections: 8,
        max_of_peer: 6,
        max_half_open: 4,
        max_half_open_of_peer: 4,
        secret: [secret, !secret],
    }
}

/// The address family of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

pub(super) use Family::{V4, V6};

impl Family {
    /// The address of a side; numbers from 2 on are strangers.
    pub(super) fn address(self, side: usize) -> IpAddr {
        let host = 1 + side as u16;
        match self {
            V4 => Ipv4Addr::new(10, 0, (host >> 8) as u8, host as u8).into(),
            V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(),
        }
    }
}

pub(super) fn params(qpn: u32, private_data: &'static [u8]) -> ConnParams {
    ConnParams {
        qp: QpNumber(qpn),
        private_data: Bytes::from_static(private_data),
    }
}

/// What the network does to a datagram.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// Of those that arrive, so many have some of their bits turned over.
    pub corrupt_percent: u64,
    /// Delays are up to this, so that datagrams overtake each other.
    pub jitter: Duration,
    /// At the start nothing gets through for so long, and again after as long.
    pub partition: Duration,
}

impl Weather {
    /// Any weather: bearable, bad and hopeless in turn.
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut up_to = |each: [u64; 3]| random.next() % (each[seed as usize % 3] + 1);
        Self {
            loss_percent: up_to([5, 30, 100]),
            duplicate_percent: up_to([30, 30, 50]),
            corrupt_percent: up_to([2, 10, 50]),
            jitter: Duration::from_millis(up_to([400, 1000, 3000])),
            partition: Duration::from_millis(up_to([2000, 5000, 60_000])),
        }
    }

    /// Whether connections must come up in it: a round trip fails so seldom that
    /// it does not do so seven times in a row.
    pub(super) fn is_bearable(&self) -> bool {
        self.loss_percent + self.corrupt_percent <= 7 && self.partition.as_millis() <= 2000
    }
}

/// Random numbers, the same each time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}

struct Flight {
    arrives: Instant,
    to: usize,
    from: usize,
    bytes: [u8; PACKET_LEN],
}

pub(super) struct Pair {
    pub family: Family,
    pub sides: [CmCore; 2],
    pub now: Instant,
    start: Instant,
    pub weather: Weather,
    pub events: [Vec<CmEvent>; 2],
    /// Messages that went out, in order, lost or not.
    pub log: Vec<(usize, Attribute)>,
    /// The last of each kind.
    pub last: HashMap<(usize, Attribute), Mad>,
    in_flight: Vec<Flight>,
    random: Random,
    /// Packets that arrived and did not pass the check of their CRC.
    pub spoilt: usize,
    /// Datagrams of these kinds from this side are lost as long as they are in here.
    pub blocked: Vec<(usize, Attribute)>,
}

impl Pair {
    pub(super) fn new(family: Family, seed: u64) -> Self {
        let mut server = CmCore::new(family.address(SERVER), config(seed + 1));
        server.listen(PORT).unwrap();
        let now = Instant::now();
        Self {
            family,
            sides: [CmCore::new(family.address(CLIENT), config(seed)), server],
            now,
            start: now,
            weather: Weather::default(),
            events: [Vec::new(), Vec::new()],
            log: Vec::new(),
            last: HashMap::new(),
            in_flight: Vec::new(),
            random: Random::new(seed),
            spoilt: 0,
            blocked: Vec::new(),
        }
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.random.next() % 100 < percent
    }

    fn is_cut(&self) -> bool {
        let period = self.weather.partition.as_millis().max(1);
        let turn = (self.now - self.start).as_millis() / period;
        !self.weather.partition.is_zero() && matches!(turn, 0 | 2)
    }

    /// Makes one side a manager with another configuration.
    pub(super) fn replace(&mut self, side: usize, config: CmConfig) {
        self.sides[side] = CmCore::new(self.family.address(side), config);
        self.sides[side].listen(PORT).unwrap();
    }

    /// Where the server listens.
    pub(super) fn target(&self) -> SocketAddr {
        SocketAddr::new(self.family.address(SERVER), PORT)
    }

    pub(super) fn connect(&mut self) -> ConnId {
        self.connect_with(CLIENT_QPN)
    }

    pub(super) fn connect_with(&mut self, qpn: u32) -> ConnId {
        let to = self.target();
        let id = self.sides[CLIENT]
            .connect(to, &params(qpn, b"hello"), self.now)
            .unwrap();
        self.collect();
        id
    }

    /// Takes what the sides want to send, and their events.
    fn collect(&mut self) {
        for side in [CLIENT, SERVER] {
            while let Some(outgoing) = self.sides[side].take_outgoing() {
                let to = if outgoing.to == self.family.address(CLIENT) {
                    CLIENT
                } else {
                    SERVER
                };
                let attribute = outgoing.mad.header.attribute();
                self.log.push((side, attribute));
                self.last.insert((side, attribute), outgoing.mad);
                let blocked = self.blocked.contains(&(side, attribute));
                let copies = if blocked || self.is_cut() || self.happens(self.weather.loss_percent)
                {
                    0
                } else if self.happens(self.weather.duplicate_percent) {
                    2
                } else {
                    1
                };
                for _ in 0..copies {
                    let jitter = self.weather.jitter.as_micros() as u64;
                    let delay = Duration::from_micros(100 + self.random.next() % (jitter + 1));
                    self.inject(side, to, &outgoing.mad, delay);
                    if self.happens(self.weather.corrupt_percent) {
                        self.corrupt();
                    }
                }
            }
            while let Some(event) = self.sides[side].take_event() {
                self.events[side].push(event);
            }
            assert_eq!(self.sides[side].inconsistency(), None);
        }
    }

    /// Turns some bits of the newest packet over.
    fn corrupt(&mut self) {
        for _ in 0..=self.random.next() % 4 {
            let bit = self.random.next() as usize % (8 * PACKET_LEN);
            if let Some(flight) = self.in_flight.last_mut() {
                flight.bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    pub(super) fn inject(&mut self, from: usize, to: usize, mad: &Mad, delay: Duration) {
        let mut bytes = [0; PACKET_LEN];
        let [local, remote] = [from, to].map(|side| self.family.address(side));
        packet::write(&mut bytes, local, remote, Psn::new(0), mad).unwrap();
        self.in_flight.push(Flight {
            arrives: self.now + delay,
            to,
            from,
            bytes,
        });
    }

    /// Lets happen what happens next, if anything does until `end`.
    pub(super) fn step(&mut self, end: Instant) -> bool {
        self.collect();
        let arrival = self.in_flight.iter().map(|flight| flight.arrives).min();
        let timers = self.sides.iter().filter_map(CmCore::deadline).min();
        let Some(next) = arrival
            .into_iter()
            .chain(timers)
            .min()
            .filter(|&at| at <= end)
        else {
            self.now = end.max(self.now);
            return false;
        };
        self.now = next.max(self.now);
        if let Some(at) = self
            .in_flight
            .iter()
            .position(|flight| flight.arrives <= self.now)
        {
            let flight = self.in_flight.swap_remove(at);
            let [from, to] = [flight.from, flight.to].map(|side| self.family.address(side));
            match packet::read(to, SocketAddr::new(from, ROCE_V2_PORT), &flight.bytes) {
                Ok(mad) => self.sides[flight.to].handle(from, mad, self.now),
                Err(_) => self.spoilt += 1,
            }
        }
        for side in &mut self.sides {
            side.tick(self.now);
        }
        self.collect();
        true
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// The request that the server has.
    pub(super) fn request(&self) -> (ConnId, QpAttrs, Bytes) {
        self.events[SERVER]
            .iter()
            .find_map(|event| match event {
                CmEvent::ConnectRequest {
                    id,
                    attrs,
                    private_data,
                    ..
                } => Some((*id, *attrs, private_data.clone())),
                _ => None,
            })
            .expect("a request")
    }

    /// The acceptance that the client has.
    pub(super) fn accepted(&self) -> (ConnId, QpAttrs, Bytes) {
        self.events[CLIENT]
            .iter()
            .find_map(|event| match event {
                CmEvent::Accepted {
                    id,
                    attrs,
                    private_data,
                } => Some((*id, *attrs, private_data.clone())),
                _ => None,
            })
            .expect("an acceptance")
    }

    pub(super) fn accept(&mut self) -> ConnId {
        let (id, ..) = self.request();
        self.sides[SERVER]
            .accept(id, &params(SERVER_QPN, b"welcome"), self.now)
            .unwrap();
        id
    }

    pub(super) fn establish(&mut self) -> ConnId {
        let (id, ..) = self.accepted();
        self.sides[CLIENT].establish(id).unwrap();
        id
    }

    /// A connection that is up, over a good network; the events and the log are
    /// forgotten.
    pub(super) fn up(&mut self) -> (ConnId, ConnId) {
        self.connect();
        self.run(Duration::from_millis(10));
        let server = self.accept();
        self.run(Duration::from_millis(10));
        let client = self.establish();
        self.run(Duration::from_millis(10));
        assert_eq!(
            self.events[SERVER].last(),
            Some(&CmEvent::Established { id: server })
        );
        self.events = [Vec::new(), Vec::new()];
        self.log.clear();
        (client, server)
    }

    pub(super) fn sent(&self, side: usize, attribute: Attribute) -> usize {
        self.log
            .iter()
            .filter(|&&entry| entry == (side, attribute))
            .count()
    }
}
