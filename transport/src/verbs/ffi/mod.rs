//! The room between Rust and rdma-core: all unsafe code of the verbs adapter is
//! in here, and nothing of it can be misused from outside.
//!
//! [`Verbs`] opens an adapter, [`Device`] is one with its protection domain, and
//! the others are what it makes. Everything undoes itself when dropped, and holds
//! what it depends on, so that no order of dropping is wrong. [`RdmaCore`] is the
//! real thing; the module `double` stands for it in tests.
//!
//! What makes posting safe: memory is named by keys, the adapter checks them
//! against its registrations, and a registration keeps its memory. Data that is
//! sent inline is copied into the list first, so no address is ever followed by
//! the CPU.

mod attrs;
pub mod cm;
mod completions;
mod device;
mod layout;
mod lists;
mod objects;
mod sysfs;
mod types;

use std::io;
use std::os::fd::BorrowedFd;

use sidelane_p2p::{DmaBuf, MemView, PciAddress};

pub use completions::{Wc, WcBuffer};
pub use device::{CoreDevice, RdmaCore};
pub use lists::{
    INLINE_BYTES, LIST_LEN, RecvList, SEND_SGES, SendData, SendFlags, SendList, SendOpcode,
    SendView,
};
pub use objects::{CoreCq, CoreMr, CoreQp, CoreSrq};
pub use types::{
    AsyncEvent, GidEntry, GidType, Limits, LinkLayer, MrAccess, Port, PostFailure, QpChange,
    QpShape, Rtr, Rts, Unopened, status,
};

/// A way to adapters.
pub trait Verbs: Send + Sync + 'static {
    /// An open adapter.
    type Device: Device;

    /// Opens an adapter by its name (`mlx5_0`), with one protection domain.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be opened.
    fn open(&self, name: &str) -> Result<Self::Device, Unopened>;
}

/// An open adapter and its protection domain. Errors are the system's, as the
/// provider library or the kernel gave them.
pub trait Device: Send + Sync + 'static {
    /// A registration.
    type Mr: Mr;
    /// A completion queue with its completion channel.
    type Cq: Cq;
    /// A shared receive queue.
    type Srq: Srq;
    /// A reliable-connected queue pair.
    type Qp: Qp;

    /// What it can do.
    ///
    /// # Errors
    /// When it does not say.
    fn limits(&self) -> io::Result<Limits>;

    /// A port, from 1.
    ///
    /// # Errors
    /// When there is none of that number.
    fn port(&self, port: u8) -> io::Result<Port>;

    /// The GIDs of a port that are in use.
    ///
    /// # Errors
    /// When the table cannot be read.
    fn gids(&self, port: u8) -> io::Result<Vec<GidEntry>>;

    /// The PCI function; none for an adapter made of software.
    fn pci(&self) -> Option<PciAddress>;

    /// What hardware and driver have counted, over all ports, by the names that
    /// the driver gives; those that cannot be read are left out. May block.
    fn counters(&self) -> Vec<(String, u64)>;

    /// Registers memory of this process at its CPU address, and keeps it mapped
    /// while it is registered. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn register_host(&self, view: &MemView, access: MrAccess) -> io::Result<Self::Mr>;

    /// Registers memory of another device, to be named from address `iova` on.
    /// May block.
    ///
    /// # Errors
    /// When it is refused.
    fn register_dmabuf(&self, buffer: &DmaBuf, iova: u64, access: MrAccess)
    -> io::Result<Self::Mr>;

    /// Makes a completion queue for that many completions. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn create_cq(&self, entries: u32) -> io::Result<Self::Cq>;

    /// Makes a shared receive queue of that many work requests with one piece
    /// each. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn create_srq(&self, wrs: u32) -> io::Result<Self::Srq>;

    /// Makes a queue pair, in the state RESET. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn create_qp(
        &self,
        cqs: Cqs<'_, Self::Cq>,
        srq: &Self::Srq,
        shape: QpShape,
    ) -> io::Result<Self::Qp>;

    /// Waits for an asynchronous event and acknowledges it; `None` when `stop`
    /// became readable.
    ///
    /// # Errors
    /// When the device is gone.
    fn wait_event(&self, stop: BorrowedFd<'_>) -> io::Result<Option<AsyncEvent>>;
}

/// A registration, ended when dropped. Dropping may block.
pub trait Mr: Send + Sync + 'static {
    /// The local key.
    fn lkey(&self) -> u32;
    /// The remote key.
    fn rkey(&self) -> u32;
}

/// A completion queue with its channel. Nothing but dropping blocks.
pub trait Cq: Send + Sync + 'static {
    /// Completions that it holds.
    fn entries(&self) -> u32;

    /// Takes completions into the buffer, which must be empty.
    ///
    /// # Errors
    /// When the queue is broken.
    fn poll(&self, into: &mut WcBuffer) -> io::Result<()>;

    /// Asks for an event at the next completion, or only at the next that is of
    /// a solicited event or has failed (InfiniBand Architecture, volume 1,
    /// 11.4.2.2). Of two requests the wider one counts.
    ///
    /// # Errors
    /// When the queue is broken.
    fn arm(&self, solicited_only: bool) -> io::Result<()>;

    /// Takes an event, if one came, and acknowledges them in batches. One arming
    /// makes one at most.
    ///
    /// # Errors
    /// When the device is gone.
    fn take_event(&self) -> io::Result<bool>;

    /// Readable when an event came.
    fn channel(&self) -> BorrowedFd<'_>;
}

/// The completion queues of a queue pair.
pub struct Cqs<'a, C> {
    /// For what it sends.
    pub sends: &'a C,
    /// For what it receives.
    pub receives: &'a C,
}

/// A shared receive queue.
pub trait Srq: Send + Sync + 'static {
    /// Posts the list, empties it.
    ///
    /// # Errors
    /// When the queue refuses one; those before it are posted.
    fn post(&self, list: &mut RecvList) -> Result<(), PostFailure>;

    /// Asks for [`AsyncEvent::SrqLimit`] when it holds fewer than that many, once;
    /// 0 for never. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn set_limit(&self, limit: u32) -> io::Result<()>;

    /// What [`AsyncEvent::SrqLimit`] calls it.
    fn id(&self) -> u64;
}

/// A queue pair, destroyed when dropped. Dropping may block.
pub trait Qp: Send + Sync + 'static {
    /// Its number on the wire.
    fn number(&self) -> u32;

    /// Bytes that it takes inline.
    fn max_inline(&self) -> u32;

    /// Changes its state. May block.
    ///
    /// # Errors
    /// When it is refused.
    fn modify(&self, change: &QpChange) -> io::Result<()>;

    /// Posts the list with one doorbell, empties it.
    ///
    /// # Errors
    /// When the queue refuses one; those before it are posted.
    fn post(&self, list: &mut SendList) -> Result<(), PostFailure>;
}
