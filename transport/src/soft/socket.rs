//! A UDP socket that moves datagrams in batches: one system call for up to
//! [`BATCH`] of them, into and out of buffers made once.
//!
//! It carries RoCEv2 packets (InfiniBand Architecture, annex A17), so it is bound
//! to one address and the RoCEv2 port, and never lets the kernel fragment:
//! path-MTU discovery is on, which also makes Linux send identification 0 over
//! IPv4, a field that the invariant CRC covers.
//!
//! This is one of the modules in which unsafe code is allowed: the batched
//! system calls and two socket options have no safe wrapper. It never interprets
//! a byte of what it carries.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

mod address;

use address::WireAddress;

/// Datagrams that one system call moves at most.
pub const BATCH: usize = 64;

/// Bytes of a buffer: a packet with 4,096 bytes of payload and every header
/// that can stand before and after it, rounded up to a cache line.
pub const SLOT: usize = 4416;

/// Kernel buffer asked for in each direction, in bytes.
const KERNEL_BUFFER: usize = 16 << 20;

/// Errors that one receive may meet from earlier sends before it gives up.
const PENDING_ERRORS: usize = 16;

/// What a socket has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams that were longer than [`SLOT`], or from no known address
    /// family, and were dropped.
    pub receive_dropped: u64,
    /// Datagrams handed to the network.
    pub sent: u64,
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

/// One socket of a group that shares an address.
#[derive(Debug)]
pub struct Socket {
    /// All sockets of the group. They close together, when the last user of the
    /// group goes: closing one of them alone would renumber the others, and the
    /// steering program would send packets to the wrong ones.
    group: Arc<[socket2::Socket]>,
    index: usize,
    local: IpAddr,
    receive: Batch,
    send: SendSlots,
    counters: SocketCounters,
}

impl Socket {
    /// The socket at `index` of a group that is bound to `local`. `None` when
    /// the group has no such socket.
    pub(super) fn new(group: &Arc<[socket2::Socket]>, index: usize, local: IpAddr) -> Option<Self> {
        (index < group.len()).then(|| Self {
            group: Arc::clone(group),
            index,
            local,
            receive: Batch::new(),
            send: SendSlots {
                batch: Batch::new(),
                head: 0,
                len: 0,
            },
            counters: SocketCounters::default(),
        })
    }

    /// Receives up to [`BATCH`] datagrams and calls `f` with the source and the
    /// payload of each. Gives how many arrived; 0 when none wait.
    ///
    /// # Errors
    /// When the socket itself is broken; never for what a peer or the network did.
    pub fn receive(&mut self, mut f: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        let mut pending = 0;
        let count = loop {
            self.receive.point_at_whole_slots();
            // SAFETY: the headers point at the slots, addresses and vectors of
            // this batch, all of which live as long as it and are used by nobody
            // else during the call; the length is that of the header array.
            let got = unsafe {
                libc::recvmmsg(
                    self.fd(),
                    self.receive.headers.0.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if let Ok(got) = usize::try_from(got) {
                break got.min(BATCH);
            }
            let error = io::Error::last_os_error();
            match kind(&error) {
                Trouble::Again => return Ok(0),
                Trouble::Interrupted => {}
                Trouble::Broken => return Err(error),
                Trouble::TooLong | Trouble::Destination => {
                    self.counters.reported += 1;
                    pending += 1;
                    if pending == PENDING_ERRORS {
                        return Ok(0);
                    }
                }
            }
        };
        for ((header, name), slot) in self
            .receive
            .headers
            .0
            .iter()
            .zip(self.receive.names.iter())
            .zip(self.receive.slots.chunks_exact(SLOT))
            .take(count)
        {
            let payload = slot.get(..header.msg_len as usize);
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            match (name.read(), payload) {
                (Some(from), Some(payload)) if !cut => {
                    self.counters.received += 1;
                    f(from, payload);
                }
                _ => self.counters.receive_dropped += 1,
            }
        }
        Ok(count)
    }

    /// The buffers for datagrams to be sent by the next [`Self::flush`].
    pub fn slots(&mut self) -> &mut SendSlots {
        &mut self.send
    }

    /// Sends all that was pushed, in order. Gives how many the kernel took; what
    /// it has no room for stays for the next call. A datagram whose destination
    /// cannot be reached, or that is too long for the path, is dropped and
    /// counted: its sender will notice, as with any loss.
    ///
    /// # Errors
    /// When the socket itself is broken.
    pub fn flush(&mut self) -> io::Result<usize> {
        let fd = self.fd();
        let mut sent = 0;
        while self.send.len > 0 {
            let count = self.send.point_at_pushed();
            let head = self.send.head;
            let Some(first) = self.send.batch.headers.0.get_mut(head) else {
                break;
            };
            // SAFETY: `count` headers from `head` on lie in the array; each points at a
            // slot and an address of this batch, which live as long as it and are used
            // by nobody else during the call.
            let took = unsafe { libc::sendmmsg(fd, first, count, libc::MSG_DONTWAIT) };
            if let Ok(took) = usize::try_from(took) {
                self.counters.sent += took as u64;
                sent += took;
                self.send.advance(took);
                continue;
            }
            let error = io::Error::last_os_error();
            match kind(&error) {
                Trouble::Again => break,
                Trouble::Interrupted => continue,
                Trouble::Broken => return Err(error),
                Trouble::TooLong => self.counters.too_long += 1,
                Trouble::Destination => self.counters.unreachable += 1,
            }
            self.send.advance(1);
        }
        Ok(sent)
    }

    /// The address it is bound to.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// What it has done so far.
    pub fn counters(&self) -> SocketCounters {
        self.counters
    }

    /// What the kernel granted of the buffers that were asked for.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn kernel_buffers(&self) -> io::Result<KernelBuffers> {
        let socket = socket2::SockRef::from(self);
        Ok(KernelBuffers {
            receive: socket.recv_buffer_size()?,
            send: socket.send_buffer_size()?,
        })
    }

    fn fd(&self) -> libc::c_int {
        self.group.get(self.index).map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // In bounds: `new` has checked it, and neither changes.
        self.group[self.index].as_fd()
    }
}

/// Datagrams on their way out, in buffers made once.
#[derive(Debug)]
pub struct SendSlots {
    batch: Batch,
    /// The oldest datagram not yet sent.
    head: usize,
    /// How many wait, from `head` on and around the end.
    len: usize,
}

impl SendSlots {
    /// Room for a datagram of `len` bytes to `to`, to be filled wholly by the
    /// caller (it holds bytes of an earlier one). `None` when all slots wait to
    /// be sent, or when `len` is above [`SLOT`], which is a mistake of the caller.
    pub fn push(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        debug_assert!(len <= SLOT, "a datagram longer than a slot");
        if self.len == BATCH || len > SLOT {
            return None;
        }
        let at = (self.head + self.len) % BATCH;
        self.batch.names.get_mut(at)?.write(to);
        *self.batch.lengths.get_mut(at)? = len;
        self.len += 1;
        self.batch.slots.get_mut(at * SLOT..at * SLOT + len)
    }

    /// How many datagrams wait to be sent.
    pub fn waiting(&self) -> usize {
        self.len
    }

    /// Whether every slot waits to be sent.
    pub fn is_full(&self) -> bool {
        self.len == BATCH
    }

    fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.head = (self.head + count) % BATCH;
        self.len -= count;
    }

    /// Readies the headers of the first run of waiting datagrams, which ends at
    /// the last slot at the latest, and gives its length.
    fn point_at_pushed(&mut self) -> libc::c_uint {
        let end = (self.head + self.len).min(BATCH);
        for at in self.head..end {
            let len = self.batch.lengths[at];
            self.batch.point(at, len);
        }
        (end - self.head) as libc::c_uint
    }
}

/// The arrays of a batched system call.
#[derive(Debug)]
struct Batch {
    slots: Box<[u8]>,
    lengths: Box<[usize; BATCH]>,
    names: Box<[WireAddress; BATCH]>,
    vectors: Vectors,
    headers: Headers,
}

/// Pointers in here are written anew before every use.
#[derive(Debug)]
struct Vectors(Box<[libc::iovec; BATCH]>);

/// Pointers in here are written anew before every use.
struct Headers(Box<[libc::mmsghdr; BATCH]>);

// SAFETY: what keeps these from being `Send` are the pointers they hold. They
// are only followed by the kernel, during a call made through `&mut Socket`, and
// are set right before it to memory that the same `Socket` owns.
unsafe impl Send for Vectors {}
// SAFETY: as for `Vectors`.
unsafe impl Send for Headers {}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers").finish_non_exhaustive()
    }
}

impl Batch {
    fn new() -> Self {
        // SAFETY: all-zero is a valid value of both: integers and null pointers,
        // which are written before they are followed.
        let (vector, header): (libc::iovec, libc::mmsghdr) = unsafe { (zeroed(), zeroed()) };
        Self {
            slots: vec![0; BATCH * SLOT].into_boxed_slice(),
            lengths: Box::new([0; BATCH]),
            names: Box::new([WireAddress::default(); BATCH]),
            vectors: Vectors(Box::new([vector; BATCH])),
            headers: Headers(Box::new([header; BATCH])),
        }
    }

    /// Makes header `at` name the first `len` bytes of its slot, and its address.
    /// `at` is below [`BATCH`] and `len` at most [`SLOT`].
    fn point(&mut self, at: usize, len: usize) {
        let slot = &mut self.slots[at * SLOT..at * SLOT + len];
        let vector = &mut self.vectors.0[at];
        vector.iov_base = slot.as_mut_ptr().cast();
        vector.iov_len = len;
        let name = &mut self.names[at];
        let header = &mut self.headers.0[at];
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = name.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_flags = 0;
    }

    fn point_at_whole_slots(&mut self) {
        for at in 0..BATCH {
            self.point(at, SLOT);
            self.headers.0[at].msg_hdr.msg_namelen = size_of::<WireAddress>() as libc::socklen_t;
        }
    }
}

/// What an error of a batched call is about.
enum Trouble {
    /// Nothing waits, or no room is left.
    Again,
    Interrupted,
    /// The datagram is longer than the path takes.
    TooLong,
    /// One destination, now or by a report about an earlier datagram.
    Destination,
    /// The socket.
    Broken,
}

fn kind(error: &io::Error) -> Trouble {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Trouble::Again,
        Some(libc::EINTR) => Trouble::Interrupted,
        Some(libc::EMSGSIZE) => Trouble::TooLong,
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => Trouble::Broken,
        Some(_) => Trouble::Destination,
    }
}

/// Asks for large kernel buffers: past the system's limit where the privilege is
/// there, else up to it.
pub(super) fn enlarge_buffers(socket: &socket2::Socket) -> io::Result<()> {
    let bytes = KERNEL_BUFFER as libc::c_int;
    if set_option(socket, libc::SO_RCVBUFFORCE, &bytes).is_err() {
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    }
    if set_option(socket, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        socket.set_send_buffer_size(KERNEL_BUFFER)?;
    }
    Ok(())
}

/// Gives the group that `socket` is a member of a classic BPF program, which is
/// run on each UDP payload and answers with the index of the socket, in the order
/// in which they joined.
pub(super) fn steer(socket: &socket2::Socket, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Turns path-MTU discovery on: the kernel sets "don't fragment" and refuses
/// datagrams that do not fit.
pub(super) fn never_fragment(socket: &socket2::Socket, address: IpAddr) -> io::Result<()> {
    let (level, option, value) = match address {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    set_option_at(socket, level, option, &value)
}

/// Takes datagrams over IPv6 without a UDP checksum: RoCEv2 sends none, since the
/// invariant CRC covers more (InfiniBand Architecture, annex A17.3.2), and the
/// kernel drops such unless asked not to (RFC 6936).
pub(super) fn take_without_checksum(socket: &socket2::Socket) -> io::Result<()> {
    // `include/uapi/linux/udp.h`
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    let on: libc::c_int = 1;
    set_option_at(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, &on)
}

fn set_option<T>(socket: &socket2::Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    set_option_at(socket, libc::SOL_SOCKET, option, value)
}

fn set_option_at<T>(
    socket: &socket2::Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only
    // reads. Where `value` holds a pointer itself (the filter program), its caller
    // made it from a slice that outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
