//! What the batched system calls are given: vectors and headers, in arrays made
//! once, and what their errors mean.

use std::io;
use std::mem::zeroed;

use super::BATCH;

/// Pointers in here are written anew before every use.
#[derive(Debug)]
pub(super) struct Vectors(pub(super) Box<[libc::iovec; BATCH]>);

/// Pointers in here are written anew before every use.
pub(super) struct Headers(pub(super) Box<[libc::mmsghdr; BATCH]>);

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

impl Vectors {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a valid value: a length and a null pointer, which is
        // written before it is followed.
        let vector: libc::iovec = unsafe { zeroed() };
        Self(Box::new([vector; BATCH]))
    }
}

impl Headers {
    pub(super) fn new() -> Self {
        // SAFETY: as for a vector: integers and null pointers.
        let header: libc::mmsghdr = unsafe { zeroed() };
        Self(Box::new([header; BATCH]))
    }
}

/// What an error of a batched call is about.
pub(super) enum Trouble {
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

pub(super) fn kind(error: &io::Error) -> Trouble {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Trouble::Again,
        Some(libc::EINTR) => Trouble::Interrupted,
        Some(libc::EMSGSIZE) => Trouble::TooLong,
        Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) | None => Trouble::Broken,
        Some(_) => Trouble::Destination,
    }
}
