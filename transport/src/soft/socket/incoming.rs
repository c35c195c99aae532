//! Datagrams that arrive, in batches.

use std::io;
use std::mem::size_of;
use std::net::SocketAddr;

use super::address::WireAddress;
use super::batch::{Headers, Trouble, Vectors, kind};
use super::{BATCH, SocketCounters, control};

/// Bytes of the largest datagram that the kernel hands over, a run being one.
const LARGEST: usize = 1 << 16;

/// From one buffer to the next: a few cache lines more, so that the first lines
/// of all buffers do not fall into the same places of a cache.
const STRIDE: usize = LARGEST + 9 * 64;

/// Errors that one receive may meet from earlier sends before it gives up.
const PENDING_ERRORS: usize = 16;

/// Buffers that are offered at least.
const FEWEST: usize = 8;

/// Room for the control messages of a datagram.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
struct Control([u8; 64]);

/// A datagram or a run of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) from: SocketAddr,
    pub(super) bytes: &'a [u8],
    /// Bytes of each datagram but the last, when it is a run.
    pub(super) size: Option<usize>,
}

/// Buffers for what arrives, made once. The system gives memory only to those
/// that are used.
#[derive(Debug)]
pub(super) struct Incoming {
    slots: Box<[u8]>,
    names: Box<[WireAddress; BATCH]>,
    controls: Box<[Control; BATCH]>,
    vectors: Vectors,
    headers: Headers,
    /// Buffers that the next call offers: more when the last one filled all.
    offer: usize,
    /// The last call left nothing.
    pub(super) drained: bool,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![0; BATCH * STRIDE].into_boxed_slice(),
            names: Box::new([WireAddress::default(); BATCH]),
            controls: Box::new([Control([0; 64]); BATCH]),
            vectors: Vectors::new(),
            headers: Headers::new(),
            offer: FEWEST,
            drained: true,
        }
    }

    /// Receives, and calls `f` with each datagram or run. Gives how many came.
    pub(super) fn receive(
        &mut self,
        fd: libc::c_int,
        counters: &mut SocketCounters,
        mut f: impl FnMut(&mut SocketCounters, Arrival<'_>),
    ) -> io::Result<usize> {
        let offer = self.offer;
        let mut pending = 0;
        let count = loop {
            self.point_at_slots();
            // SAFETY: the first `offer` headers point at the slots, addresses, vectors
            // and control buffers of this batch, all of which live as long as it and
            // are used by nobody else during the call.
            let got = unsafe {
                libc::recvmmsg(
                    fd,
                    self.headers.0.as_mut_ptr(),
                    offer as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            counters.receive_calls += 1;
            if let Ok(got) = usize::try_from(got) {
                break got.min(offer);
            }
            let error = io::Error::last_os_error();
            match kind(&error) {
                Trouble::Again => break 0,
                Trouble::Interrupted => {}
                Trouble::Broken => return Err(error),
                Trouble::TooLong | Trouble::Destination => {
                    counters.reported += 1;
                    pending += 1;
                    if pending == PENDING_ERRORS {
                        break 0;
                    }
                }
            }
        };
        self.drained = count < offer && pending < PENDING_ERRORS;
        self.offer = if count < offer {
            (offer / 2).max(count).max(FEWEST)
        } else {
            (2 * offer).min(BATCH)
        };
        for at in 0..count {
            match self.arrival(at) {
                Some(arrival) => f(counters, arrival),
                None => counters.receive_dropped += 1,
            }
        }
        Ok(count)
    }

    /// What is in slot `at` after a call; `None` when it is not whole.
    fn arrival(&self, at: usize) -> Option<Arrival<'_>> {
        let header = self.headers.0.get(at)?;
        if header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        let slot = self.slots.get(at * STRIDE..at * STRIDE + LARGEST)?;
        let control = self.controls.get(at)?;
        let control = control.0.get(..header.msg_hdr.msg_controllen)?;
        Some(Arrival {
            from: self.names.get(at)?.read()?,
            bytes: slot.get(..header.msg_len as usize)?,
            size: control::segment_size(control),
        })
    }

    fn point_at_slots(&mut self) {
        for at in 0..self.offer {
            let slot = &mut self.slots[at * STRIDE..at * STRIDE + LARGEST];
            let vector = &mut self.vectors.0[at];
            vector.iov_base = slot.as_mut_ptr().cast();
            vector.iov_len = LARGEST;
            let header = &mut self.headers.0[at].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.names[at]).cast();
            header.msg_namelen = size_of::<WireAddress>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::from_mut(&mut self.controls[at]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_flags = 0;
        }
    }
}
