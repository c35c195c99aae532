//! Connection management: both sides' state machines, over either address
//! family, consumers that accept, refuse and disconnect, and a network that
//! loses, repeats, reorders, alters and invents datagrams as the input says.
//!
//! Promised, whatever the network does: tables agree with each other and stay
//! within their limits, a datagram is answered by two at most, nothing is heard
//! of a connection that is gone, and when all are ended and time has passed, none
//! is left.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_transport::cm::{CmEvent, ConnId, ConnParams};
use sidelane_transport::nic::QpNumber;
use sidelane_transport::soft::cm::mad::MAD_LEN;
use sidelane_transport::soft::cm::{CmConfig, CmCore};
use zerocopy::IntoBytes;

use super::input::Input;

const PORT: u16 = 4420;
const CONNECTIONS_MAX: usize = 6;
/// Of the one side, and of the other: a request is made anew with the smaller.
const PATH_MTU: [u32; 2] = [4096, 1024];
const FLIGHTS_MAX: usize = 128;

/// What a consumer knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Asked,
    Requested,
    Accepted,
    Up,
    Gone,
}

struct Side {
    core: CmCore,
    known: BTreeMap<ConnId, Known>,
}

struct Pair {
    family: Family,
    sides: [Side; 2],
    flights: Vec<(usize, [u8; MAD_LEN])>,
    now: Instant,
}

/// Who a datagram is from that is neither side's.
const STRANGER: usize = 8;

/// Makes the address of a side.
type Family = fn(usize) -> IpAddr;

const FAMILIES: [Family; 2] = [
    |side| [192, 0, 2, 1 + side as u8].into(),
    |side| [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1 + side as u16].into(),
];

impl Side {
    fn new(family: Family, side: usize) -> Self {
        let mut core = CmCore::new(
            family(side),
            CmConfig {
                path_mtu: PATH_MTU[side],
                max_rd_atomic: 16,
                max_connections: CONNECTIONS_MAX,
                max_of_peer: CONNECTIONS_MAX - 1,
                max_half_open: 3,
                max_half_open_of_peer: 2,
                secret: [1 + side as u64, 2],
            },
        );
        core.listen(PORT).expect("the first port");
        Self {
            core,
            known: BTreeMap::new(),
        }
    }

    /// A connection in this state, chosen by the input.
    fn some(&self, input: &mut Input<'_>, state: Option<Known>) -> Option<ConnId> {
        let fits = |known: &Known| state.map_or(*known != Known::Gone, |state| *known == state);
        let found: Vec<_> = self.known.iter().filter(|(_, known)| fits(known)).collect();
        found.get(input.pick(found.len())).map(|(id, _)| **id)
    }

    fn take_events(&mut self) {
        while let Some(event) = self.core.take_event() {
            let (id, state) = match event {
                CmEvent::ConnectRequest { id, .. } => (id, Known::Requested),
                CmEvent::Accepted { id, .. } => (id, Known::Accepted),
                CmEvent::Established { id } => (id, Known::Up),
                CmEvent::Failed { id, .. } | CmEvent::Disconnected { id } => (id, Known::Gone),
            };
            let before = self.known.insert(id, state);
            let fits = match state {
                Known::Requested => before.is_none(),
                Known::Accepted => before == Some(Known::Asked),
                Known::Up => before == Some(Known::Requested),
                _ => before.is_some_and(|before| before != Known::Gone),
            };
            assert!(fits, "{state:?} after {before:?}");
        }
    }
}

impl Pair {
    fn collect(&mut self) {
        for side in 0..2 {
            let Side { core, .. } = &mut self.sides[side];
            while let Some(outgoing) = core.take_outgoing() {
                let mad = outgoing.mad.as_bytes();
                let mut bytes = [0; MAD_LEN];
                bytes.copy_from_slice(mad);
                self.flights.push((1 - side, bytes));
            }
            self.sides[side].take_events();
            assert!(self.sides[side].core.live() <= CONNECTIONS_MAX);
            assert_eq!(self.sides[side].core.inconsistency(), None);
        }
        self.flights.truncate(FLIGHTS_MAX);
    }

    fn deliver(&mut self, to: usize, from: IpAddr, bytes: &[u8]) {
        let core = &mut self.sides[to].core;
        let before = core.counters().sent;
        core.handle(from, bytes, self.now);
        // The second ends a connection that the peer has forgotten.
        assert!(core.counters().sent - before <= 2, "more than two answers");
    }

    fn tick(&mut self) {
        for side in &mut self.sides {
            side.core.tick(self.now);
        }
    }

    /// Until the next timer; `false` when there is none.
    fn wait(&mut self) -> bool {
        let timers = self.sides.iter().filter_map(|side| side.core.deadline());
        let Some(next) = timers.min() else {
            return false;
        };
        self.now = self.now.max(next);
        self.tick();
        true
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.u8();
        let side = usize::from(action >> 7);
        let flight = match action % 16 {
            5..=11 => input.pick(self.flights.len()),
            _ => 0,
        };
        let now = self.now;
        let own = &mut self.sides[side];
        let params = ConnParams {
            qp: QpNumber(0x10 + u32::from(action >> 4)),
            private_data: Bytes::from_static(b"private"),
        };
        // A connection may have gone meanwhile, so a refusal is no mistake.
        match action % 16 {
            0 => {
                let port = PORT + u16::from(action & 0x40 != 0);
                let to = SocketAddr::new((self.family)(1 - side), port);
                if let Ok(id) = own.core.connect(to, &params, now) {
                    own.known.insert(id, Known::Asked);
                }
            }
            1 => {
                if let Some(id) = own.some(input, Some(Known::Requested)) {
                    let _ = own.core.accept(id, &params, now);
                }
            }
            2 => {
                if let Some(id) = own.some(input, Some(Known::Requested))
                    && own.core.reject(id, b"no").is_ok()
                {
                    own.known.insert(id, Known::Gone);
                }
            }
            3 => {
                if let Some(id) = own.some(input, Some(Known::Accepted)) {
                    let _ = own.core.establish(id);
                }
            }
            4 => {
                if let Some(id) = own.some(input, None) {
                    let _ = own.core.disconnect(id, now);
                }
            }
            5..=11 if self.flights.is_empty() => {}
            5..=7 => {
                let (to, bytes) = self.flights.remove(flight);
                self.deliver(to, (self.family)(1 - to), &bytes);
            }
            8 => {
                self.flights.remove(flight);
            }
            9 => {
                let (to, bytes) = self.flights[flight];
                self.deliver(to, (self.family)(1 - to), &bytes);
            }
            10 | 11 => {
                let (to, mut bytes) = self.flights[flight];
                for _ in 0..=input.u8() % 4 {
                    bytes[usize::from(input.u8())] ^= input.u8();
                }
                self.deliver(to, (self.family)(1 - to), &bytes);
            }
            12 | 13 => {
                // A datagram made up; mostly one of connection management, and by 13
                // about a connection that there is.
                let mut bytes = [0; MAD_LEN];
                bytes[..4].copy_from_slice(&[1, 7, 2, 3]);
                bytes[17] = 0x10 + input.u8() % 8;
                let len = usize::from(input.u8()) + 1;
                let body = input.bytes(len);
                let at = if action & 0x40 != 0 { 0 } else { 24 };
                for (to, from) in bytes[at..].iter_mut().zip(body) {
                    *to = *from;
                }
                if action % 16 == 13 {
                    for (at, of) in [(24, 1 - side), (28, side)] {
                        let mut ids: Vec<_> = self.sides[of].core.local_comm_ids().collect();
                        ids.sort_unstable();
                        if let Some(id) = ids.get(input.pick(ids.len())) {
                            bytes[at..at + 4].copy_from_slice(&id.to_be_bytes());
                        }
                    }
                }
                let from = if action & 0x20 != 0 {
                    (self.family)(STRANGER)
                } else {
                    (self.family)(1 - side)
                };
                let cut = if input.u8() == 1 { len } else { MAD_LEN };
                self.deliver(side, from, &bytes[..cut]);
            }
            14 => {
                self.now += Duration::from_millis(input.u16().into());
                self.tick();
            }
            _ => {
                self.wait();
            }
        }
        self.collect();
    }

    /// The consumers let go of everything, and time passes.
    fn end(&mut self) {
        for side in &mut self.sides {
            for (id, known) in side.known.clone() {
                if known != Known::Gone {
                    let _ = side.core.disconnect(id, self.now);
                }
            }
        }
        self.flights.clear();
        let mut steps = 0;
        loop {
            self.collect();
            // What is left arrives or not, turn by turn.
            if let Some((to, bytes)) = self.flights.pop() {
                if steps % 2 == 0 {
                    self.deliver(to, (self.family)(1 - to), &bytes);
                }
            } else if !self.wait() {
                break;
            }
            // Those that came up meanwhile are ended, too.
            for side in &mut self.sides {
                for (id, known) in &side.known {
                    if *known == Known::Requested {
                        let _ = side.core.disconnect(*id, self.now);
                    }
                }
            }
            steps += 1;
            assert!(steps < 10_000, "there is no end to it");
        }
    }
}

/// A sequence of actions on two managers.
pub fn cm(bytes: &[u8]) {
    for family in FAMILIES {
        story(family, Input(bytes));
    }
}

fn story(family: Family, mut input: Input<'_>) {
    let mut pair = Pair {
        family,
        sides: [Side::new(family, 0), Side::new(family, 1)],
        flights: Vec::new(),
        now: Instant::now(),
    };
    while !input.is_empty() {
        pair.act(&mut input);
    }
    pair.end();
    for side in &pair.sides {
        assert_eq!(side.core.live(), 0, "{:?}", side.known);
        let left = side.known.values().filter(|known| **known != Known::Gone);
        assert_eq!(left.count(), 0, "the consumer was not told of an end");
    }
}
