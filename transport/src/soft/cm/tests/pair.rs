//! Two managers, a network between them, and virtual time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use zerocopy::IntoBytes;

use crate::cm::{CmEvent, ConnId, ConnParams};
use crate::nic::{QpAttrs, QpNumber};
use crate::soft::cm::mad::{Attribute, MAD_LEN, Mad};
use crate::soft::cm::{CmConfig, CmCore};

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
        max_half_open: 4,
        secret: [secret, !secret],
    }
}

pub(super) fn address(side: usize) -> IpAddr {
    [10, 0, 0, 1 + side as u8].into()
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
    /// Delays are up to this, so that datagrams overtake each other.
    pub jitter: Duration,
}

struct Flight {
    arrives: Instant,
    to: usize,
    from: usize,
    bytes: [u8; MAD_LEN],
}

pub(super) struct Pair {
    pub sides: [CmCore; 2],
    pub now: Instant,
    pub weather: Weather,
    pub events: [Vec<CmEvent>; 2],
    /// Messages that went out, in order, lost or not.
    pub log: Vec<(usize, Attribute)>,
    in_flight: Vec<Flight>,
    random: u64,
    /// Datagrams of these kinds from this side are lost as long as they are in here.
    pub blocked: Vec<(usize, Attribute)>,
}

impl Pair {
    pub(super) fn new(seed: u64) -> Self {
        let mut server = CmCore::new(address(SERVER), config(seed + 1));
        server.listen(PORT).unwrap();
        Self {
            sides: [CmCore::new(address(CLIENT), config(seed)), server],
            now: Instant::now(),
            weather: Weather::default(),
            events: [Vec::new(), Vec::new()],
            log: Vec::new(),
            in_flight: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            blocked: Vec::new(),
        }
    }

    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.random() % 100 < percent
    }

    pub(super) fn connect(&mut self) -> ConnId {
        self.connect_with(CLIENT_QPN)
    }

    pub(super) fn connect_with(&mut self, qpn: u32) -> ConnId {
        let to = SocketAddr::new(address(SERVER), PORT);
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
                let to = if outgoing.to == address(CLIENT) {
                    CLIENT
                } else {
                    SERVER
                };
                self.log.push((side, outgoing.mad.header.attribute()));
                let blocked = self
                    .blocked
                    .contains(&(side, outgoing.mad.header.attribute()));
                let copies = if blocked || self.happens(self.weather.loss_percent) {
                    0
                } else if self.happens(self.weather.duplicate_percent) {
                    2
                } else {
                    1
                };
                for _ in 0..copies {
                    let jitter = self.weather.jitter.as_micros() as u64;
                    let delay = 100 + self.random() % (jitter + 1);
                    self.inject(side, to, &outgoing.mad, Duration::from_micros(delay));
                }
            }
            while let Some(event) = self.sides[side].take_event() {
                self.events[side].push(event);
            }
            self.sides[side].assert_consistent();
        }
    }

    pub(super) fn inject(&mut self, from: usize, to: usize, mad: &Mad, delay: Duration) {
        let bytes = mad.as_bytes().try_into().unwrap();
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
            self.sides[flight.to].handle(address(flight.from), &flight.bytes, self.now);
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
