//! Memory as a dma-buf, which is how a hardware NIC registers the memory of
//! another device (`ibv_reg_dmabuf_mr`).
//!
//! A [`Region`](crate::Region) knows an [`Exporter`] when whatever made it can
//! export it; the region's [`export`](crate::Region::export) is what callers
//! use. An exported dma-buf can be revoked by the kernel at any time; see
//! [`Revocation`](crate::Revocation).

pub mod fixture;

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Memory as a dma-buf.
///
/// Has to be kept, whole, for as long as anything is registered by it: it keeps
/// the device open, and its being there is what keeps the device from being
/// reset. So: deregister, drop the region, drop this.
pub struct DmaBuf {
    /// The dma-buf. Closed before the device is let go.
    pub fd: OwnedFd,
    /// Where the region's first byte is in it, in bytes.
    pub offset: u64,
    /// Length of the region, in bytes.
    pub len: u64,
    /// Declared last: dropped after the file is closed.
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl DmaBuf {
    /// `len` bytes at `offset` in the dma-buf `fd`.
    pub fn new(fd: OwnedFd, offset: u64, len: u64) -> Self {
        Self {
            fd,
            offset,
            len,
            _owner: None,
        }
    }

    /// The same, which now keeps `owner` alive (the device that has the
    /// memory), and lets go of it only after the file is closed.
    #[must_use]
    pub fn keeping(self, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            _owner: Some(owner),
            ..self
        }
    }
}

impl AsFd for DmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuf")
            .field("fd", &self.fd)
            .field("offset", &format_args!("{:#x}", self.offset))
            .field("len", &format_args!("{:#x}", self.len))
            .finish()
    }
}

/// What can export a region: given to it by whoever makes the region.
pub trait Exporter: Send + Sync {
    /// Exports all of the region, anew with each call.
    ///
    /// # Errors
    /// When the memory cannot be exported.
    fn export(&self) -> Result<DmaBuf, ExportError>;
}

/// Why a region is not to be had as a dma-buf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// It is plain memory of the host.
    #[error(
        "{region} is host memory, which is not exported as a dma-buf; register it by its address"
    )]
    NotPeer {
        /// The region.
        region: String,
    },
    /// The device or the kernel cannot export it.
    #[error("{region} cannot be exported as a dma-buf: {reason}")]
    NotExportable {
        /// The region.
        region: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// It was taken away.
    #[error(
        "{region} was taken away: {reason}; open it anew, when its device is back, to use its memory"
    )]
    Revoked {
        /// The region.
        region: String,
        /// By what.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::Mutex;

    /// Notes, when dropped, whether the other end of a pipe is closed.
    struct Owner(std::io::PipeReader, Arc<Mutex<Option<bool>>>);

    impl Drop for Owner {
        fn drop(&mut self) {
            let mut ends = [PollFd::new(&self.0, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poll(&mut ends, Some(&now)).unwrap();
            let closed = ends[0].revents().contains(PollFlags::HUP);
            *self.1.lock().unwrap() = Some(closed);
        }
    }

    #[test]
    fn the_file_is_closed_before_the_device_is_let_go() {
        let (reader, writer) = std::io::pipe().unwrap();
        let closed = Arc::default();
        let owner = Owner(reader, Arc::clone(&closed));
        let exported = DmaBuf::new(writer.into(), 0, 4096).keeping(Arc::new(owner));
        assert_eq!(*closed.lock().unwrap(), None);
        drop(exported);
        assert_eq!(*closed.lock().unwrap(), Some(true));
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let region = "cmb of 0000:03:00.0".to_owned();
        let reason = "unplugged".to_owned();
        let not_peer = ExportError::NotPeer {
            region: region.clone(),
        };
        assert!(not_peer.to_string().contains("register it by its address"));
        let revoked = ExportError::Revoked { region, reason };
        let text = revoked.to_string();
        assert!(
            text.contains("unplugged") && text.contains("open it anew"),
            "{text}"
        );
    }
}
