//! Datagrams on their way out.
//!
//! Several of one size to one peer may leave as a run: the kernel takes them as
//! one piece, carries them as one as far as it can, and cuts them into datagrams
//! as late as it can (UDP generic segmentation offload). It then counts the
//! identification of IPv4 up from the 0 of the first (`inet_gso_segment` in
//! `net/ipv4/af_inet.c`), and the invariant CRC covers that field: so the place
//! in the run is part of what is sealed.

use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::address::WireAddress;
use super::batch::{Headers, Trouble, Vectors, kind};
use super::{BATCH, SLOT, SocketCounters};
use crate::soft::icrc;

/// Datagrams of a run at most (`UDP_MAX_SEGMENTS`, of which no kernel has less).
const MAX_RUN: usize = 64;

/// Bytes of a run at most: those of the largest datagram of IPv4.
const MAX_RUN_BYTES: usize = 65_507;

/// The control message that tells the kernel the size of a run's datagrams.
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentSize {
    header: libc::cmsghdr,
    size: u16,
    /// Up to the alignment of a header.
    pad: [u16; 3],
}

/// Sizes are written anew before every use.
struct Sizes(Box<[SegmentSize; BATCH]>);

impl std::fmt::Debug for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sizes").finish_non_exhaustive()
    }
}

/// The run that the newest datagram belongs to.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
    bytes: usize,
    /// Of each datagram but the last, which may be shorter.
    size: usize,
    to: SocketAddr,
    flow: u32,
    /// One more may join.
    open: bool,
}

/// Datagrams on their way out, in buffers made once.
#[derive(Debug)]
pub struct SendSlots {
    slots: Box<[u8]>,
    lengths: Box<[usize; BATCH]>,
    names: Box<[WireAddress; BATCH]>,
    /// Whether a datagram goes on with the run of the one before it.
    joined: Box<[bool; BATCH]>,
    vectors: Vectors,
    sizes: Sizes,
    headers: Headers,
    /// The oldest datagram not yet sent.
    head: usize,
    /// How many wait, from `head` on and around the end.
    len: usize,
    run: Run,
    /// Runs are made.
    runs: bool,
}

impl SendSlots {
    pub(super) fn new(runs: bool) -> Self {
        // SAFETY: all-zero is a valid value of integers.
        let mut size: SegmentSize = unsafe { zeroed() };
        size.header.cmsg_len = (offset_of!(SegmentSize, size) + size_of::<u16>()) as _;
        size.header.cmsg_level = libc::SOL_UDP;
        size.header.cmsg_type = libc::UDP_SEGMENT;
        Self {
            slots: vec![0; BATCH * SLOT].into_boxed_slice(),
            lengths: Box::new([0; BATCH]),
            names: Box::new([WireAddress::default(); BATCH]),
            joined: Box::new([false; BATCH]),
            vectors: Vectors::new(),
            sizes: Sizes(Box::new([size; BATCH])),
            headers: Headers::new(),
            head: 0,
            len: 0,
            run: Run {
                first: 0,
                count: 0,
                bytes: 0,
                size: 0,
                to: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
                flow: 0,
                open: false,
            },
            runs,
        }
    }

    /// Room for a datagram of `len` bytes to `to`, to be filled wholly by the
    /// caller (it holds bytes of an earlier one). `None` when all slots wait to
    /// be sent, or when `len` is above [`SLOT`], which is a mistake of the caller.
    ///
    /// It leaves alone, with identification 0, unless [`Self::join`] follows.
    pub fn push(&mut self, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        debug_assert!(len <= SLOT, "a datagram longer than a slot");
        if self.len == BATCH || len > SLOT {
            return None;
        }
        let at = (self.head + self.len) % BATCH;
        // A run goes on with the next datagram or not at all.
        if self.run.first + self.run.count != at || self.run.to != to {
            self.run.open = false;
            self.run.to = to;
        }
        self.names.get_mut(at)?.write(to);
        *self.lengths.get_mut(at)? = len;
        *self.joined.get_mut(at)? = false;
        self.len += 1;
        self.slots.get_mut(at * SLOT..at * SLOT + len)
    }

    /// Lets the datagram that was just pushed travel in a run with those before
    /// it, if they are of the same `flow` and as long or longer. A receiver takes
    /// the whole run for what its first datagram is, so a flow is what no receiver
    /// spreads. `leads`: others may join it.
    ///
    /// Gives the identification that it will have over IPv4, and the datagram,
    /// for its invariant CRC to be set at its end: it must have one, since a run
    /// that the kernel refuses is sealed anew.
    pub fn join(&mut self, flow: u32, leads: bool) -> (u16, &mut [u8]) {
        let at = (self.head + self.len + BATCH - 1) % BATCH;
        let len = self.lengths[at];
        let run = &mut self.run;
        let fits = run.open
            && run.flow == flow
            && len <= run.size
            && run.count < MAX_RUN
            && run.bytes + len <= MAX_RUN_BYTES;
        if fits {
            self.joined[at] = true;
            run.count += 1;
            run.bytes += len;
            run.open = len == run.size;
        } else {
            *run = Run {
                first: at,
                count: 1,
                bytes: len,
                size: len,
                to: run.to,
                flow,
                open: leads && self.runs,
            };
        }
        let place = run.count - 1;
        (place as u16, &mut self.slots[at * SLOT..at * SLOT + len])
    }

    /// How many datagrams wait to be sent.
    pub fn waiting(&self) -> usize {
        self.len
    }

    /// Whether every slot waits to be sent.
    pub fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// See [`super::Socket::flush`].
    pub(super) fn flush(
        &mut self,
        fd: libc::c_int,
        local: IpAddr,
        counters: &mut SocketCounters,
    ) -> io::Result<usize> {
        self.run.open = false;
        let mut sent = 0;
        // A run was refused, and nothing has been sent since.
        let mut refused = false;
        while self.len > 0 {
            let messages = self.point_at_waiting();
            // SAFETY: the first `messages` headers were pointed at addresses, vectors
            // and control messages of these slots, and the vectors at slots, all of
            // which live as long as they and are used by nobody else during the call.
            let took = unsafe {
                let headers = self.headers.0.as_mut_ptr();
                libc::sendmmsg(fd, headers, messages as libc::c_uint, libc::MSG_DONTWAIT)
            };
            counters.send_calls += 1;
            if let Ok(took) = usize::try_from(took) {
                if std::mem::take(&mut refused) && took > 0 {
                    // The first of them was taken alone: it was for being a run.
                    self.runs = false;
                    tracing::info!(%local, "the kernel refuses runs of datagrams; each goes alone");
                }
                for message in 0..took.min(messages) {
                    let count = self.datagrams_of(message);
                    counters.sent += count as u64;
                    counters.sent_runs += u64::from(count > 1);
                    sent += count;
                    self.advance(count);
                }
                continue;
            }
            let error = io::Error::last_os_error();
            let count = self.datagrams_of(0);
            match kind(&error) {
                Trouble::Again => break,
                Trouble::Interrupted => continue,
                Trouble::Broken => return Err(error),
                Trouble::Destination if count > 1 && refuses_run(&error) => {
                    counters.refused_runs += 1;
                    refused = true;
                    self.take_apart(count, local);
                    continue;
                }
                Trouble::TooLong => counters.too_long += count as u64,
                Trouble::Destination => counters.unreachable += count as u64,
            }
            refused = false;
            self.advance(count);
        }
        Ok(sent)
    }

    fn datagrams_of(&self, message: usize) -> usize {
        self.headers.0[message].msg_hdr.msg_iovlen
    }

    fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.head = (self.head + count) % BATCH;
        self.len -= count;
        if self.len == 0 {
            // The slots at the start are warm, and no run is cut by the end.
            self.head = 0;
        }
    }

    /// Readies the headers for the waiting datagrams up to the last slot, a run
    /// being one, and gives how many they are.
    fn point_at_waiting(&mut self) -> usize {
        let end = (self.head + self.len).min(BATCH);
        let mut messages = 0;
        for at in self.head..end {
            let len = self.lengths[at];
            let vector = &mut self.vectors.0[at];
            vector.iov_base = self.slots[at * SLOT..at * SLOT + len].as_mut_ptr().cast();
            vector.iov_len = len;
            if self.joined[at] && messages > 0 {
                let header = &mut self.headers.0[messages - 1].msg_hdr;
                header.msg_iovlen += 1;
                if header.msg_controllen == 0 {
                    let size = &mut self.sizes.0[messages - 1];
                    size.size = self.lengths[at - 1] as u16;
                    header.msg_control = std::ptr::from_mut(size).cast();
                    header.msg_controllen = size_of::<SegmentSize>() as _;
                }
                continue;
            }
            let name = &mut self.names[at];
            let header = &mut self.headers.0[messages].msg_hdr;
            header.msg_namelen = name.len();
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            header.msg_flags = 0;
            messages += 1;
        }
        messages
    }

    /// Makes single datagrams of the run at the head. Each then has
    /// identification 0.
    fn take_apart(&mut self, count: usize, local: IpAddr) {
        for at in self.head + 1..(self.head + count).min(BATCH) {
            self.joined[at] = false;
            if let Some(to) = self.names[at].read() {
                let datagram = &mut self.slots[at * SLOT..at * SLOT + self.lengths[at]];
                icrc::seal(local, to.ip(), 0, datagram);
            }
        }
    }
}

/// Whether an error may be about the form of a run: the interface cannot compute
/// checksums, the packets are to be encrypted, or the kernel knows no runs.
fn refuses_run(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP)
    )
}
