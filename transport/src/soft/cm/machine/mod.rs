//! The state machine of connection management, both sides (InfiniBand
//! Architecture, volume 1, 12.9), without sockets and without a clock.
//!
//! Whoever drives it gives it what arrived ([`CmCore::handle`]) and lets time
//! pass ([`CmCore::tick`], at the latest at [`CmCore::deadline`]); after either,
//! and after each call of the consumer, it takes what is to be sent
//! ([`CmCore::take_outgoing`]) and what happened ([`CmCore::take_event`]).
//!
//! Every table is bounded by [`CmConfig`], and so is what one peer may have of it.
//! What would overflow one is dropped and counted: the peer sends it again, or is
//! told that there is no room. What is there already stays: under a flood of
//! requests the oldest are as likely honest as the newest, a consumer has spent a
//! queue pair on them, and an honest peer goes on asking for longer than an entry
//! lives that nobody confirms.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::mad::{Body, Mad, MadError, Message};
use super::messages::{Rej, Subject};
use super::{address, reason};
use crate::cm::{CmError, CmEvent, ConnId};

mod active;
mod connection;
mod counters;
mod passive;
mod random;
mod tables;
mod teardown;
mod timers;

use connection::Connection;
use random::Unguessable;
use tables::Load;

pub use counters::{CmCounters, CmDrops, Duplicates};

/// Ports that can be listened on.
pub const MAX_LISTENERS: usize = 64;

/// Datagrams that wait to be sent. Beyond, they are dropped like by a network.
const MAX_OUTGOING: usize = 1024;

/// How long a consumer may take to answer a request or an acceptance.
const CONSUMER_TIME: Duration = Duration::from_secs(20);

/// The time announced to a peer whose message came again while the consumer
/// had not yet decided: 4.096 µs times two to this, 4.3 s.
const CONSUMER_TIMEOUT_CODE: u8 = 20;

/// How long an ended connection answers repeated messages.
const TIME_WAIT: Duration = Duration::from_secs(2);

/// Acknowledge delay told to peers, as a power of two of 4.096 µs: 2.1 s, since a
/// thread on a shared CPU may have to wait for its turn. Peers take it as the least
/// time before they send again what nobody has acknowledged (12.6.8, REP).
/// Shorter, a busy machine makes them do so for nothing; and rdma_rxe, when it goes
/// back, carries out memory registrations that it had carried out already, which
/// fails and ends the connection of an nvme-rdma host. The price: where the last of
/// a peer's packets is lost and nothing follows it, that is noticed later.
const TARGET_ACK_DELAY: u8 = 19;

/// How long peers wait after receiver-not-ready, as the engine says it in its
/// answers: 0.64 ms.
const RNR_TIMER: u8 = 12;

/// The default partition, the only one.
const PKEY: u16 = 0xffff;

/// The bit of a partition key that tells a full member from a limited one.
const FULL_MEMBER: u16 = 0x8000;

/// Longest local ACK timeout of a queue pair, 2.1 s: with all retries a peer that
/// has vanished holds its buffers for some 20 s, and not for hours.
const MAX_ACK_TIMEOUT: u8 = 19;

/// What a manager offers, and its limits.
#[derive(Debug, Clone)]
pub struct CmConfig {
    /// Payload bytes of the largest packet of its port: 256 to 4096.
    pub path_mtu: u32,
    /// RDMA READs that a queue pair can have outstanding, in each direction.
    pub max_rd_atomic: u8,
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, those with one peer, above which no more of its requests are taken.
    pub max_of_peer: usize,
    /// Of all connections, requests of peers that are not yet established.
    pub max_half_open: usize,
    /// Of these, those of one peer.
    pub max_half_open_of_peer: usize,
    /// Secret from which identifiers and sequence numbers are made; a peer that
    /// cannot see the traffic must not be able to guess them.
    pub secret: [u64; 2],
}

/// A datagram to be sent to queue pair 1 of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The peer.
    pub to: IpAddr,
    /// What to send.
    pub mad: Mad,
}

/// The state machine.
#[derive(Debug)]
pub struct CmCore {
    config: CmConfig,
    local: IpAddr,
    ca_guid: u64,
    random: Unguessable,
    listeners: ArrayVec<u16, MAX_LISTENERS>,
    connections: HashMap<ConnId, Connection>,
    /// By the number that this side gave.
    by_local: HashMap<u32, ConnId>,
    /// By the peer and the number that it gave.
    by_remote: HashMap<(IpAddr, u32), ConnId>,
    /// By the peer and its queue pair; ended connections are not in here.
    by_qpn: HashMap<(IpAddr, u32), ConnId>,
    timers: BTreeSet<(Instant, ConnId)>,
    /// Ended connections, the oldest first.
    waiting: VecDeque<ConnId>,
    /// What all peers hold, and what each does.
    load: Load,
    loads: HashMap<IpAddr, Load>,
    outgoing: VecDeque<Outgoing>,
    events: VecDeque<CmEvent>,
    next_id: u64,
    counters: CmCounters,
}

impl CmCore {
    /// A manager for the address `local`.
    pub fn new(local: IpAddr, config: CmConfig) -> Self {
        let mut random = Unguessable::new(config.secret);
        // An EUI-64 of local administration, not of a group. A new one each time:
        // peers tell queue pairs apart by it, and must not take those of a process
        // that was started again for those of the one before.
        let ca_guid = random.next() & !(3 << 56) | 2 << 56;
        Self {
            config,
            local,
            ca_guid,
            random,
            listeners: ArrayVec::new(),
            connections: HashMap::new(),
            by_local: HashMap::new(),
            by_remote: HashMap::new(),
            by_qpn: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: VecDeque::new(),
            load: Load::default(),
            loads: HashMap::new(),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            next_id: 1,
            counters: CmCounters::default(),
        }
    }

    /// See [`crate::cm::ConnectionManager::listen`].
    ///
    /// # Errors
    /// When [`MAX_LISTENERS`] are in use.
    pub fn listen(&mut self, port: u16) -> Result<(), CmError> {
        if self.listeners.contains(&port) {
            return Ok(());
        }
        self.listeners
            .try_push(port)
            .map_err(|_| CmError::Full(MAX_LISTENERS))
    }

    /// Takes a management datagram that came from a peer's queue pair 1.
    pub fn handle(&mut self, from: IpAddr, bytes: &[u8], now: Instant) {
        if self.is_crowded() {
            self.counters.drops.crowded += 1;
            return;
        }
        let (header, message) = match Mad::read(bytes) {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%from, %error, "management datagram dropped");
                let drops = &mut self.counters.drops;
                match error {
                    MadError::Length(_) => drops.bad_length += 1,
                    MadError::Class => drops.other_class += 1,
                    MadError::Attribute(_) => drops.unknown_attribute += 1,
                }
                return;
            }
        };
        self.counters.received += 1;
        let transaction = header.transaction.get();
        match message {
            Message::Req(req) => self.on_req(from, transaction, req, now),
            Message::Rep(rep) => self.on_rep(from, transaction, rep, now),
            Message::Rtu(rtu) => self.on_rtu(from, rtu),
            Message::Mra(mra) => self.on_mra(from, mra, now),
            Message::Rej(rej) => self.on_rej(from, transaction, rej, now),
            Message::Dreq(dreq) => self.on_dreq(from, transaction, dreq, now),
            Message::Drep(drep) => self.on_drep(from, drep, now),
        }
    }

    /// The next datagram to be sent.
    pub fn take_outgoing(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// Whether datagrams wait to be sent.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The next event for the consumer.
    pub fn take_event(&mut self) -> Option<CmEvent> {
        self.events.pop_front()
    }

    /// What it has met so far.
    pub fn counters(&self) -> CmCounters {
        self.counters
    }

    /// Connections in any state but ended.
    pub fn live(&self) -> usize {
        self.load.live
    }

    /// Whether the consumer has left so many events lying that nothing more is
    /// taken in. Each connection makes three events in its life, so a consumer
    /// that takes them in never sees this.
    fn is_crowded(&self) -> bool {
        self.events.len() >= 3 * self.config.max_connections
    }

    fn event(&mut self, event: CmEvent) {
        self.events.push_back(event);
    }

    fn send(&mut self, to: IpAddr, mad: Mad) {
        if self.outgoing.len() < MAX_OUTGOING {
            self.counters.sent += 1;
            self.outgoing.push_back(Outgoing { to, mad });
        } else {
            self.counters.drops.outgoing += 1;
        }
    }

    fn send_body<B: Body>(&mut self, to: IpAddr, transaction: u64, body: &B) {
        self.send(to, Mad::new(transaction, body));
    }

    /// Rejects a message that belongs to no connection of this side.
    fn refuse(&mut self, to: IpAddr, refusal: &Refusal<'_>) {
        self.counters.refused += 1;
        tracing::debug!(%to, reason = reason::text(refusal.reason), "message rejected");
        let mut rej = Rej {
            local_comm_id: refusal.local_comm_id.into(),
            remote_comm_id: refusal.remote_comm_id.into(),
            subject: refusal.subject.into(),
            reason: refusal.reason.into(),
            ..Rej::default()
        };
        rej.set_info(refusal.info);
        self.send_body(to, refusal.transaction, &rej);
    }

    /// Rejects what the peer of a connection said, or its silence.
    fn reject_peer(&mut self, id: ConnId, subject: Subject, reason: u16, private_data: &[u8]) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (to, transaction) = (connection.peer.ip(), connection.transaction);
        let mut rej = Rej {
            local_comm_id: connection.local_comm.into(),
            remote_comm_id: connection.remote_comm.unwrap_or(0).into(),
            subject: subject.into(),
            reason: reason.into(),
            ..Rej::default()
        };
        if reason == reason::TIMEOUT {
            // The peer may not know the number of this side, but its adapter.
            rej.set_info(&self.ca_guid.to_be_bytes());
        }
        copy(&mut rej.private_data, private_data);
        self.send_body(to, transaction, &rej);
    }

    /// A number for a connection, not 0 and not in use.
    fn new_comm_id(&mut self) -> u32 {
        loop {
            let number = self.random.next() as u32;
            if number != 0 && !self.by_local.contains_key(&number) {
                return number;
            }
        }
    }

    fn new_psn(&mut self) -> u32 {
        self.random.next() as u32 & 0x00ff_ffff
    }

    fn has_room(&self) -> bool {
        self.live() < self.config.max_connections
    }

    fn own(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.local, port)
    }
}

/// A rejection without a connection.
struct Refusal<'a> {
    transaction: u64,
    local_comm_id: u32,
    remote_comm_id: u32,
    subject: Subject,
    reason: u16,
    info: &'a [u8],
}

/// Copies as much as there is, at most as much as fits.
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

fn check_private_data(len: usize, max: usize) -> Result<(), CmError> {
    if len > max {
        Err(CmError::PrivateData { len, max })
    } else {
        Ok(())
    }
}

/// Path MTU code of a REQ for a number of bytes, and back.
fn mtu_code(bytes: u32) -> u8 {
    match bytes {
        4096.. => 5,
        2048.. => 4,
        1024.. => 3,
        512.. => 2,
        _ => 1,
    }
}

fn mtu_bytes(code: u8) -> Option<u32> {
    (1..=5).contains(&code).then(|| 128 << code)
}

/// The address that a path names for a side must be the one it uses.
fn is_gid_of(gid: &super::messages::Gid, address: IpAddr) -> bool {
    *gid == address::gid(address)
}
