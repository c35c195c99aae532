//! A UDP socket that moves RoCEv2 packets in batches: one system call for up to
//! [`BATCH`] datagrams or runs of them, out of and into buffers made once.
//!
//! It carries RoCEv2 packets (InfiniBand Architecture, annex A17), so it is bound
//! to one address and the RoCEv2 port, and never lets the kernel fragment:
//! path-MTU discovery is on, which also makes Linux send identification 0 over
//! IPv4, a field that the invariant CRC covers. Where a raw socket was opened
//! beside it, packets are received through that: it shows the IP header, and so
//! the CRC is checked wholly.
//!
//! This is one of the modules in which unsafe code is allowed: the batched
//! system calls and some socket options have no safe wrapper. Of what it carries
//! it looks at no more than the invariant CRC, and at the opcode to cut runs.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

mod address;
mod batch;
mod control;
pub mod datagram;
mod incoming;
pub(super) mod options;
mod outgoing;

use datagram::Datagram;
use incoming::Incoming;

pub use outgoing::SendSlots;

use super::icrc::{self, BadIcrc};
use super::wire::ROCE_V2_PORT;

/// Datagrams that can wait to be sent, and datagrams or runs that one system call
/// moves at most.
pub const BATCH: usize = 64;

/// Bytes of a buffer to send from: a packet with 4,096 bytes of payload and every
/// header that can stand before and after it, rounded up to a cache line.
pub const SLOT: usize = 4416;

/// What a socket has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// System calls to receive.
    pub receive_calls: u64,
    /// Datagrams received.
    pub received: u64,
    /// Runs of several that the kernel handed over as one.
    pub received_runs: u64,
    /// Datagrams that were longer than [`SLOT`], of no known address family, or
    /// whose headers contradict themselves, and were dropped.
    pub receive_dropped: u64,
    /// Datagrams that the kernel dropped since nobody took them in time.
    pub overrun: u64,
    /// System calls to send.
    pub send_calls: u64,
    /// Datagrams handed to the network.
    pub sent: u64,
    /// Runs of several that were handed over as one.
    pub sent_runs: u64,
    /// Runs that the kernel refused, to be sent one by one.
    pub refused_runs: u64,
    /// Datagrams that the kernel refused as too long for the path, dropped.
    pub too_long: u64,
    /// Datagrams dropped since their destination could not be reached.
    pub unreachable: u64,
    /// Errors about earlier datagrams that a receive reported.
    pub reported: u64,
}

/// What the kernel granted of the buffers that were asked for, in bytes, as it
/// counts them (overhead included).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelBuffers {
    /// For packets that wait to be received.
    pub receive: usize,
    /// For packets that wait to be sent.
    pub send: usize,
}

/// Makes a UDP socket, which is bound to `address` and not connected, send what
/// invariant CRCs are made for: with "don't fragment" and identification 0.
///
/// # Errors
/// When the system refuses.
pub fn never_fragment(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    options::never_fragment(&socket2::SockRef::from(socket), address)
}

/// What belongs to one place in a group that shares an address.
#[derive(Debug)]
pub(super) struct Member {
    /// Sends, and owns the port. Receives too, unless there is a raw socket.
    pub(super) udp: socket2::Socket,
    /// Receives with the IP header.
    pub(super) raw: Option<socket2::Socket>,
}

/// One socket of a group that shares an address.
#[derive(Debug)]
pub struct Socket {
    /// All sockets of the group. They close together, when the last user of the
    /// group goes: closing one of them alone would renumber the others, and the
    /// steering program would send packets to the wrong ones.
    group: Arc<[Member]>,
    index: usize,
    local: IpAddr,
    incoming: Incoming,
    send: SendSlots,
    counters: SocketCounters,
}

impl Socket {
    /// The socket at `index` of a group that is bound to `local`; `runs`: it may
    /// send several datagrams as one. `None` when the group has no such socket.
    pub(super) fn new(
        group: &Arc<[Member]>,
        index: usize,
        local: IpAddr,
        runs: bool,
    ) -> Option<Self> {
        (index < group.len()).then(|| Self {
            group: Arc::clone(group),
            index,
            local,
            incoming: Incoming::new(),
            send: SendSlots::new(runs),
            counters: SocketCounters::default(),
        })
    }

    /// Receives up to [`BATCH`] datagrams or runs, and calls `f` with the source
    /// of each packet and the packet without its CRC, if that is right. Gives how
    /// many datagrams or runs arrived; 0 when none wait.
    ///
    /// # Errors
    /// When the socket itself is broken; never for what a peer or the network did.
    pub fn receive(
        &mut self,
        mut f: impl FnMut(IpAddr, Result<&[u8], BadIcrc>),
    ) -> io::Result<usize> {
        let local = self.local;
        if self.member().raw.is_none() {
            return self.receive_unchecked(|from, payload| {
                let packet = icrc::verify(from.ip(), local, from.port(), ROCE_V2_PORT, payload);
                f(from.ip(), packet);
            });
        }
        let fd = self.receiving().as_raw_fd();
        let (incoming, counters) = (&mut self.incoming, &mut self.counters);
        incoming.receive(fd, counters, |counters, arrival| {
            let Some(datagram) = Datagram::read(arrival.bytes) else {
                counters.receive_dropped += 1;
                return;
            };
            let mut count = 0;
            datagram.packets(|packet| {
                count += 1;
                f(datagram.source, packet);
            });
            counters.received += count;
            counters.received_runs += u64::from(count > 1);
        })
    }

    /// As [`Self::receive`], but gives what UDP carries, without a check: for who
    /// wants a plain UDP socket with the same batches. Not for one that receives
    /// through a raw socket.
    ///
    /// # Errors
    /// When the socket itself is broken.
    pub fn receive_unchecked(&mut self, mut f: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        let fd = self.receiving().as_raw_fd();
        let (incoming, counters) = (&mut self.incoming, &mut self.counters);
        incoming.receive(fd, counters, |counters, arrival| {
            let size = arrival.size.unwrap_or(arrival.bytes.len()).max(1);
            counters.received_runs += u64::from(arrival.bytes.len() > size);
            for payload in arrival.bytes.chunks(size) {
                if payload.len() > SLOT {
                    counters.receive_dropped += 1;
                } else {
                    counters.received += 1;
                    f(arrival.from, payload);
                }
            }
        })
    }

    /// Whether the last receive left nothing that waited.
    pub fn is_drained(&self) -> bool {
        self.incoming.drained
    }

    /// Whether the invariant CRC of what arrives is checked wholly. Over IPv6 it
    /// always is: it covers nothing there that a UDP socket does not show.
    pub fn checks_wholly(&self) -> bool {
        self.local.is_ipv6() || self.member().raw.is_some()
    }

    /// The buffers for datagrams to be sent by the next [`Self::flush`].
    pub fn slots(&mut self) -> &mut SendSlots {
        &mut self.send
    }

    /// Sends all that was pushed, in order. Gives how many datagrams the kernel
    /// took; what it has no room for stays for the next call. A datagram whose
    /// destination cannot be reached, or that is too long for the path, is
    /// dropped and counted: its sender will notice, as with any loss. A run that
    /// the kernel refuses is sent as single datagrams, and so is all that follows.
    ///
    /// # Errors
    /// When the socket itself is broken.
    pub fn flush(&mut self) -> io::Result<usize> {
        let fd = self.member().udp.as_raw_fd();
        self.send.flush(fd, self.local, &mut self.counters)
    }

    /// The address it is bound to.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// What it has done so far. Asks the kernel, so it is not for every packet.
    pub fn counters(&self) -> SocketCounters {
        SocketCounters {
            overrun: options::dropped(self.receiving()),
            ..self.counters
        }
    }

    /// What the kernel granted of the buffers that were asked for.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn kernel_buffers(&self) -> io::Result<KernelBuffers> {
        Ok(KernelBuffers {
            receive: self.receiving().recv_buffer_size()?,
            send: self.member().udp.send_buffer_size()?,
        })
    }

    fn member(&self) -> &Member {
        // In bounds: `new` has checked it, and neither changes.
        &self.group[self.index]
    }

    fn receiving(&self) -> &socket2::Socket {
        let Member { udp, raw } = self.member();
        raw.as_ref().unwrap_or(udp)
    }
}

/// What becomes readable when packets wait.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving().as_fd()
    }
}
