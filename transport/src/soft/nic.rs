//! The adapter: the protocol core on a datagram socket.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use sidelane_p2p::{PciAddress, Region};

use super::engine::{Config, Engine, PacketSink, Path, Stats};
use super::icrc::{self, BadIcrc};
use super::socket::{SendSlots, Socket};
use super::wire::{Bth, Headers, ICRC_LEN, ROCE_V2_PORT};
use crate::nic::{
    Access, ActiveNic, Adapter, AdapterState, Completions, Count, Flush, MemoryRegion, Nic,
    NicCaps, NicError, NicEvent, QpAttrs, QpCaps, QpNumber, RecvWr, RegisterError, SendWr, Sge,
    Wake,
};

/// Batches that one poll takes from the socket, and gives to it.
const BATCHES: usize = 4;

/// What the kernel counts against a socket's buffer for one byte of payload,
/// rounded up: it counts whole allocations.
const BUFFER_PER_BYTE: usize = 4;

/// A network adapter made of a CPU and a UDP socket, for one reactor.
#[derive(Debug)]
pub struct SoftNic {
    engine: Engine,
    socket: Socket,
    /// What was asked for and is done.
    events: VecDeque<NicEvent>,
    /// The socket was reported broken.
    broken: bool,
}

/// All parts of a software adapter.
#[derive(Debug, Clone)]
pub struct SoftAdapter {
    caps: NicCaps,
}

impl SoftAdapter {
    /// The adapter that this is a part of.
    pub fn of(part: &SoftNic) -> Self {
        Self {
            caps: part.engine.caps().clone(),
        }
    }
}

impl Adapter for SoftAdapter {
    fn caps(&self) -> &NicCaps {
        &self.caps
    }

    /// A socket has no link to lose.
    fn state(&self) -> AdapterState {
        AdapterState::Up
    }

    fn pci(&self) -> Option<PciAddress> {
        None
    }

    /// It reaches whatever the CPU does.
    fn try_register(&self, _region: &Region, _access: Access) -> Result<(), RegisterError> {
        Ok(())
    }

    /// Its parts count all there is.
    fn counts(&self) -> Vec<Count> {
        Vec::new()
    }
}

const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<SoftNic>();
};

impl SoftNic {
    /// An adapter on one socket of its address. READs are held back so that
    /// what answers them fits the socket's buffer.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn new(socket: Socket, mut config: Config) -> io::Result<Self> {
        let room = socket.kernel_buffers()?.receive / BUFFER_PER_BYTE;
        config.read_window = config
            .read_window
            .min(u32::try_from(room).unwrap_or(u32::MAX));
        config.read_chunk = config.read_chunk.min(config.read_window / 4);
        Ok(Self {
            engine: Engine::new(config),
            socket,
            events: VecDeque::new(),
            broken: false,
        })
    }

    /// What the adapter has counted.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// The socket, for what it has counted.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Takes one batch of packets, and says whether there was one.
    fn receive(&mut self, now: Instant) -> bool {
        let (engine, local) = (&mut self.engine, self.socket.local());
        let received = self.socket.receive(|from, packet| match packet {
            Ok(packet) => engine.handle_packet(now, from, local, packet),
            Err(BadIcrc) => {
                let stats = engine.stats_mut();
                stats.packets_in += 1;
                stats.drops.bad_icrc += 1;
            }
        });
        self.report(received) > 0
    }

    /// Sends what there is to send, within the bounds of one poll.
    fn transmit(&mut self, now: Instant) {
        let local = self.socket.local();
        for _ in 0..BATCHES {
            self.engine.transmit(
                now,
                &mut Sink {
                    slots: self.socket.slots(),
                    local,
                },
            );
            let flushed = self.socket.flush();
            self.report(flushed);
            if !self.engine.wants_transmit() || self.socket.slots().waiting() > 0 {
                return;
            }
        }
    }

    /// A broken socket is for a person to know once; to the protocol it is a
    /// network that loses everything.
    fn report(&mut self, result: io::Result<usize>) -> usize {
        result.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.broken, true) {
                let name = &self.engine.caps().name;
                tracing::error!(%error, nic = %name, "the socket is broken, connections will fail");
            }
            0
        })
    }
}

/// Puts packets into the socket's slots, with their CRC.
struct Sink<'a> {
    slots: &'a mut SendSlots,
    local: IpAddr,
}

impl PacketSink for Sink<'_> {
    fn send(&mut self, path: &Path, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let to = SocketAddr::new(path.remote, ROCE_V2_PORT);
        let Some(slot) = self.slots.push(to, len + ICRC_LEN) else {
            return false;
        };
        let Some((packet, _crc)) = slot.split_last_chunk_mut::<ICRC_LEN>() else {
            return false;
        };
        fill(packet);
        let leads = is_full(packet, path.mtu);
        // A peer may spread its queue pairs over sockets, but not a run.
        let (identification, datagram) = self.slots.join(path.remote_qp, leads);
        icrc::seal(self.local, path.remote, identification, datagram);
        true
    }
}

impl Nic for SoftNic {
    fn caps(&self) -> &NicCaps {
        self.engine.caps()
    }

    fn register(&mut self, region: &Region, access: Access) -> Result<MemoryRegion, RegisterError> {
        self.engine
            .register(region, access)
            .ok_or_else(|| RegisterError::Full {
                nic: self.engine.caps().name.clone(),
                region: region.name().to_owned(),
                limit: self.engine.max_registrations(),
            })
    }

    fn deregister(&mut self, memory: &MemoryRegion) {
        self.engine.deregister(memory);
    }

    fn open_qp(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs, _now: Instant) {
        let outcome = self.engine.create_qp(caps).and_then(|qp| {
            let connected = self.engine.connect_qp(qp, attrs);
            if connected.is_err() {
                self.engine.destroy_qp(qp);
            }
            connected.map(|()| qp)
        });
        self.events.push_back(NicEvent::Opened { ticket, outcome });
    }

    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        self.engine.error_qp(qp)
    }

    fn destroy_qp(&mut self, qp: QpNumber) {
        self.engine.destroy_qp(qp);
        self.events.push_back(NicEvent::Destroyed(qp));
    }

    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        self.engine.post_recv(wrs)
    }

    fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError> {
        self.engine.arm_srq_limit(limit)
    }

    fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        self.engine.post_send(qp, wrs)
    }

    /// Done at once: what this adapter places is stored by the CPU that will
    /// ring the doorbell, and the doorbell is a store too. x86 keeps stores to
    /// uncached memory, which a BAR is, in order; for other CPUs and other
    /// kinds of mapping the fence does.
    fn post_flush(&mut self, _last: Sge, _wr_id: u64) -> Result<Flush, NicError> {
        fence(Ordering::SeqCst);
        Ok(Flush::Done)
    }

    fn post_copy(&mut self, from: Sge, to: Sge, _wr_id: u64) -> Result<Flush, NicError> {
        self.engine.copy(from, to)?;
        Ok(Flush::Done)
    }

    fn poll(&mut self, now: Instant, out: &mut Completions) {
        // What was posted since the last poll.
        if self.engine.wants_transmit() {
            self.transmit(now);
        }
        for _ in 0..BATCHES {
            if !self.receive(now) || self.socket.is_drained() {
                break;
            }
        }
        self.engine.expire(now);
        // To a completion there is mostly something to answer, with which the
        // acknowledgements leave, by the next poll or by `arm`. Of a queue pair
        // that failed nothing leaves once its owner has heard of it.
        if self.engine.has_events() || !self.engine.has_completions(Wake::All) {
            self.transmit(now);
        }
        self.engine.poll(out);
    }

    fn event(&mut self) -> Option<NicEvent> {
        let event = self.events.pop_front();
        let event = event.or_else(|| self.engine.failed_qp().map(NicEvent::Failed));
        event.or_else(|| {
            self.engine
                .take_srq_limit_event()
                .then_some(NicEvent::SrqLimit)
        })
    }

    fn arm(&mut self, now: Instant, wake: Wake) -> bool {
        // The socket is read until it is empty, so that a reactor may as well
        // wait for its edge.
        let arrived = self.receive(now);
        self.engine.expire(now);
        self.transmit(now);
        !arrived
            && self.events.is_empty()
            && !self.engine.has_events()
            && !self.engine.has_completions(wake)
            && !self.engine.wants_transmit()
            && self.socket.slots().waiting() == 0
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    fn counts(&self) -> Vec<Count> {
        let socket = self.socket.counters();
        let mut counts = self.engine.stats().counts();
        counts.extend(
            [
                ("socket.receive_calls", socket.receive_calls),
                ("socket.received", socket.received),
                ("socket.received_runs", socket.received_runs),
                ("socket.send_calls", socket.send_calls),
                ("socket.sent", socket.sent),
                ("socket.sent_runs", socket.sent_runs),
                ("socket.refused_runs", socket.refused_runs),
                ("socket.reported", socket.reported),
                ("drops.overrun", socket.overrun),
                ("drops.cut_short", socket.receive_dropped),
                ("drops.too_long", socket.too_long),
                ("drops.unreachable", socket.unreachable),
            ]
            .map(|(name, value)| (name.into(), value)),
        );
        counts
    }

    fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>> {
        self.engine.qp_counts(qp)
    }
}

/// Whether a packet carries as much payload as the path takes. Only such lead a
/// run, so that who receives it in one piece can tell where to cut.
fn is_full(packet: &[u8], mtu: u32) -> bool {
    let headers = Bth::read(packet).map(|(bth, _)| Headers::new(bth).size());
    headers.is_some_and(|headers| packet.len() == headers + mtu as usize)
}

impl ActiveNic for SoftNic {
    fn create_qp(&mut self, caps: QpCaps) -> Result<QpNumber, NicError> {
        self.engine.create_qp(caps)
    }

    fn connect_qp(&mut self, qp: QpNumber, attrs: &QpAttrs, _now: Instant) -> Result<(), NicError> {
        self.engine.connect_qp(qp, attrs)
    }
}

#[cfg(test)]
mod tests;
