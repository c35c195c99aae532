//! The state machine over a socket.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::machine::{CmConfig, CmCore, CmCounters};
use super::packet::{self, PACKET_LEN, Unwelcome};
use crate::cm::{CmError, CmEvent, ConnId, ConnParams, ConnectionManager, Connector};
use crate::nic::Count;
use crate::soft::psn::Psn;
use crate::soft::socket::{Socket, SocketCounters};
use crate::soft::wire::ROCE_V2_PORT;

/// Connections that one address can have at a time.
const MAX_CONNECTIONS: usize = 4096;

/// Of these, those of one peer: 15 associations of a host that makes a queue for
/// each of 128 cores.
const MAX_OF_PEER: usize = 2048;

/// Requests that are not yet established. Good peers confirm theirs within a round
/// trip.
const MAX_HALF_OPEN: usize = 256;

/// Of these, those of one peer. Hosts connect the queues of a controller one after
/// the other. Each may hold a queue pair and room for all commands of a queue
/// until it is given up, which must not be most of what its consumer has.
const MAX_HALF_OPEN_OF_PEER: usize = 32;

/// Batches of datagrams that one call of `poll` takes from the socket.
const BATCHES: usize = 16;

/// Wait before packets are tried again that the kernel had no room for.
const SOCKET_RETRY: Duration = Duration::from_millis(5);

/// What a manager has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SoftCmCounters {
    /// The state machine.
    pub messages: CmCounters,
    /// The socket.
    pub socket: SocketCounters,
    /// Packets dropped for a wrong invariant CRC.
    pub bad_icrc: u64,
    /// Packets dropped since they were no management datagrams.
    pub not_management: u64,
}

/// Connection management over the socket of queue pair 1.
///
/// A call of [`ConnectionManager::poll`] takes 1,024 datagrams at most; when more
/// wait, its [`ConnectionManager::deadline`] has passed already.
#[derive(Debug)]
pub struct SoftCm {
    core: CmCore,
    socket: Socket,
    psn: Psn,
    counters: SoftCmCounters,
    /// Packets wait for room in the kernel; try again then.
    retry: Option<Instant>,
    /// More waits in the socket than was taken by then.
    unread: Option<Instant>,
    broken: bool,
}

impl SoftCm {
    /// A manager over the socket that receives what is for queue pair 1, for an
    /// adapter with this path MTU and this many RDMA READs outstanding in each
    /// direction of a queue pair.
    pub fn new(socket: Socket, path_mtu: u32, max_rd_atomic: u8) -> Self {
        let config = CmConfig {
            path_mtu,
            max_rd_atomic,
            max_connections: MAX_CONNECTIONS,
            max_of_peer: MAX_OF_PEER,
            max_half_open: MAX_HALF_OPEN,
            max_half_open_of_peer: MAX_HALF_OPEN_OF_PEER,
            // The standard library's source of hash keys is the system's.
            secret: [
                RandomState::new().hash_one(0),
                RandomState::new().hash_one(1),
            ],
        };
        Self {
            core: CmCore::new(socket.local(), config),
            socket,
            psn: Psn::new(0),
            counters: SoftCmCounters::default(),
            retry: None,
            unread: None,
            broken: false,
        }
    }

    /// What it has met so far.
    pub fn counters(&self) -> SoftCmCounters {
        SoftCmCounters {
            messages: self.core.counters(),
            socket: self.socket.counters(),
            ..self.counters
        }
    }

    /// Takes one batch of datagrams, and gives their number.
    fn receive(&mut self, now: Instant) -> io::Result<usize> {
        let (core, counters) = (&mut self.core, &mut self.counters);
        self.socket.receive(|from, packet| {
            match packet.map_err(|_| Unwelcome::Icrc).and_then(packet::mad) {
                Ok(mad) => core.handle(from, mad, now),
                Err(why) => {
                    tracing::debug!(%from, %why, "packet for queue pair 1 dropped");
                    match why {
                        Unwelcome::Icrc => counters.bad_icrc += 1,
                        Unwelcome::Kind => counters.not_management += 1,
                    }
                }
            }
        })
    }

    fn send(&mut self, now: Instant) -> io::Result<()> {
        let local = self.socket.local();
        loop {
            while !self.socket.slots().is_full()
                && let Some(outgoing) = self.core.take_outgoing()
            {
                let to = SocketAddr::new(outgoing.to, ROCE_V2_PORT);
                if let Some(slot) = self.socket.slots().push(to, PACKET_LEN) {
                    let written = packet::write(slot, local, outgoing.to, self.psn, &outgoing.mad);
                    debug_assert!(written.is_some());
                    self.psn = self.psn.plus(1);
                }
            }
            self.socket.flush()?;
            if self.socket.slots().waiting() > 0 {
                self.retry = Some(now + SOCKET_RETRY);
                return Ok(());
            }
            if !self.core.has_outgoing() {
                self.retry = None;
                return Ok(());
            }
        }
    }

    /// Sends what a call of the consumer gave rise to.
    fn send_now(&mut self, now: Instant) {
        let sent = self.send(now);
        self.note(sent.map(|()| 0));
    }

    /// A socket that is broken stays so. Connections end by their timers.
    fn note(&mut self, result: io::Result<usize>) -> usize {
        result.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.broken, true) {
                let address = self.socket.local();
                tracing::error!(%address, %error, "the socket of connection management is broken");
            }
            0
        })
    }
}

impl ConnectionManager for SoftCm {
    fn listen(&mut self, at: SocketAddr) -> Result<(), CmError> {
        let own = self.socket.local();
        if at.ip() != own {
            let refused = format!("this manager is bound to {own} and cannot listen on {at}");
            return Err(CmError::Refused(refused));
        }
        self.core.listen(at.port())
    }

    fn accept(&mut self, id: ConnId, params: ConnParams, now: Instant) -> Result<(), CmError> {
        self.core.accept(id, &params, now)?;
        self.send_now(now);
        Ok(())
    }

    fn reject(&mut self, id: ConnId, private_data: Bytes, now: Instant) -> Result<(), CmError> {
        self.core.reject(id, &private_data)?;
        self.send_now(now);
        Ok(())
    }

    fn disconnect(&mut self, id: ConnId, now: Instant) -> Result<(), CmError> {
        self.core.disconnect(id, now)?;
        self.send_now(now);
        Ok(())
    }

    fn poll(&mut self, now: Instant) -> Option<CmEvent> {
        if let Some(event) = self.core.take_event() {
            return Some(event);
        }
        self.unread = None;
        for _ in 0..BATCHES {
            let received = self.receive(now);
            let received = self.note(received);
            self.core.tick(now);
            self.send_now(now);
            let event = self.core.take_event();
            if event.is_some() || received == 0 {
                return event;
            }
        }
        // A flood must not keep others from being served; but who waits for the
        // edge of the descriptor would wait in vain for what is left.
        self.unread = Some(now);
        None
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn counts(&self) -> Vec<Count> {
        let SoftCmCounters {
            messages,
            socket,
            bad_icrc,
            not_management,
        } = self.counters();
        let mut counts = messages.counts();
        counts.extend([
            ("cm.drops.bad_icrc".into(), bad_icrc),
            ("cm.drops.not_management".into(), not_management),
            ("cm.drops.cut_short".into(), socket.receive_dropped),
            ("cm.drops.unreachable".into(), socket.unreachable),
        ]);
        counts
    }

    fn deadline(&self) -> Option<Instant> {
        [self.core.deadline(), self.retry, self.unread]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Connector for SoftCm {
    fn connect(
        &mut self,
        remote: SocketAddr,
        params: ConnParams,
        now: Instant,
    ) -> Result<ConnId, CmError> {
        let id = self.core.connect(remote, &params, now)?;
        self.send_now(now);
        Ok(id)
    }

    fn establish(&mut self, id: ConnId, now: Instant) -> Result<(), CmError> {
        self.core.establish(id)?;
        self.send_now(now);
        Ok(())
    }
}
