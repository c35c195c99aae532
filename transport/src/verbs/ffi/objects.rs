//! Registrations, queues and queue pairs of rdma-core.
//!
//! Unsafe is allowed here because libibverbs is a C library.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rdma_sys as sys;
use sidelane_p2p::MemView;
use sys::ibv_event_type;

use super::attrs::describe;
use super::completions::WcBuffer;
use super::device::{Context, Pd};
use super::lists::{RecvList, SendList};
use super::types::{AsyncEvent, PostFailure, QpChange, QpShape};
use super::{Cq, Cqs, Mr, Qp, Srq};

/// Completion events that are acknowledged together: each time takes a lock.
const ACK_BATCH: u32 = 64;

/// A pointer that a creator gave; null means that `errno` says why not.
pub(super) fn made<T>(pointer: *mut T) -> io::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(io::Error::last_os_error)
}

/// A verb's answer: zero, an error number, or -1 with the number in `errno`.
pub(super) fn status(answer: c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        error => Err(io::Error::from_raw_os_error(error.abs())),
    }
}

/// For destructors: what they answer can only be told.
pub(super) fn destroyed(what: &'static str, answer: c_int) {
    if let Err(error) = status(answer) {
        tracing::error!(what, %error, "an object of an RDMA adapter could not be given back");
    }
}

pub(super) fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(
        fd,
        flags | rustix::fs::OFlags::NONBLOCK,
    )?)
}

/// `struct ibv_async_event`, with its type as a number.
#[repr(C)]
pub(super) struct RawAsyncEvent {
    pub(super) element: sys::ibv_async_event_element_t,
    pub(super) event_type: u32,
}

impl RawAsyncEvent {
    /// What it says.
    ///
    /// # Safety
    /// The event must be as the library gave it and not acknowledged yet: until
    /// then a queue pair that it names exists.
    pub(super) unsafe fn told(&self) -> AsyncEvent {
        const QP_FATAL: u32 = ibv_event_type::IBV_EVENT_QP_FATAL as u32;
        const QP_REQ_ERR: u32 = ibv_event_type::IBV_EVENT_QP_REQ_ERR as u32;
        const QP_ACCESS_ERR: u32 = ibv_event_type::IBV_EVENT_QP_ACCESS_ERR as u32;
        const LAST_WQE: u32 = ibv_event_type::IBV_EVENT_QP_LAST_WQE_REACHED as u32;
        const CQ_ERR: u32 = ibv_event_type::IBV_EVENT_CQ_ERR as u32;
        const SRQ_LIMIT: u32 = ibv_event_type::IBV_EVENT_SRQ_LIMIT_REACHED as u32;
        const SRQ_ERR: u32 = ibv_event_type::IBV_EVENT_SRQ_ERR as u32;
        const DEVICE_FATAL: u32 = ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32;
        const PORT_ACTIVE: u32 = ibv_event_type::IBV_EVENT_PORT_ACTIVE as u32;
        const PORT_ERR: u32 = ibv_event_type::IBV_EVENT_PORT_ERR as u32;
        // SAFETY: the type says which member of the union is the one; a queue
        // pair is there until the event is acknowledged, as the caller promises.
        let qp = || unsafe { (*self.element.qp).qp_num };
        // SAFETY: as above.
        let port = || unsafe { self.element.port_num } as u8;
        // SAFETY: as above; the pointer is a name here, and is not followed.
        let srq = || unsafe { self.element.srq } as u64;
        match self.event_type {
            QP_FATAL | QP_REQ_ERR | QP_ACCESS_ERR => AsyncEvent::QpFailed(qp()),
            LAST_WQE => AsyncEvent::LastWqe(qp()),
            CQ_ERR => AsyncEvent::CqFailed,
            SRQ_ERR => AsyncEvent::SrqFailed,
            SRQ_LIMIT => AsyncEvent::SrqLimit(srq()),
            DEVICE_FATAL => AsyncEvent::DeviceFatal,
            PORT_ACTIVE => AsyncEvent::PortUp(port()),
            PORT_ERR => AsyncEvent::PortDown(port()),
            other => AsyncEvent::Other(other),
        }
    }
}

/// `ibv_mr`.
pub struct CoreMr {
    ptr: NonNull<sys::ibv_mr>,
    _pd: Arc<Pd>,
    /// Memory of this process that it is about: unmapped after the registration.
    _memory: Option<MemView>,
}

// SAFETY: the keys are constant, and the library allows deregistration from any
// thread.
unsafe impl Send for CoreMr {}
// SAFETY: as above.
unsafe impl Sync for CoreMr {}

impl CoreMr {
    pub(super) fn new(ptr: NonNull<sys::ibv_mr>, pd: Arc<Pd>, memory: Option<MemView>) -> Self {
        Self {
            ptr,
            _pd: pd,
            _memory: memory,
        }
    }
}

impl Mr for CoreMr {
    fn lkey(&self) -> u32 {
        // SAFETY: the registration exists as long as `self`.
        unsafe { self.ptr.as_ref() }.lkey
    }

    fn rkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.ptr.as_ref() }.rkey
    }
}

impl Drop for CoreMr {
    fn drop(&mut self) {
        // SAFETY: made once, ended here only.
        destroyed("ibv_dereg_mr", unsafe {
            sys::ibv_dereg_mr(self.ptr.as_ptr())
        });
    }
}

/// `ibv_comp_channel`.
struct Channel {
    ptr: NonNull<sys::ibv_comp_channel>,
    _context: Arc<Context>,
}

impl Channel {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the channel's and open as long as that is.
        unsafe { BorrowedFd::borrow_raw((*self.ptr.as_ptr()).fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed here only, after its completion queue.
        destroyed("ibv_destroy_comp_channel", unsafe {
            sys::ibv_destroy_comp_channel(self.ptr.as_ptr())
        });
    }
}

/// `ibv_cq`, destroyed with the last queue pair that uses it.
struct CqInner {
    ptr: NonNull<sys::ibv_cq>,
    channel: Channel,
    /// Events taken and not acknowledged. Destroying waits for them.
    unacked: AtomicU32,
}

// SAFETY: the library allows the calls used here from any thread and from
// several at once.
unsafe impl Send for CqInner {}
// SAFETY: as above.
unsafe impl Sync for CqInner {}

impl Drop for CqInner {
    fn drop(&mut self) {
        let unacked = *self.unacked.get_mut();
        // SAFETY: made once, destroyed here only, when no queue pair is left, and
        // with all events acknowledged, without which it would wait for ever.
        unsafe {
            sys::ibv_ack_cq_events(self.ptr.as_ptr(), unacked);
            destroyed("ibv_destroy_cq", sys::ibv_destroy_cq(self.ptr.as_ptr()));
        }
    }
}

/// A completion queue with its channel.
pub struct CoreCq(Arc<CqInner>);

impl CoreCq {
    pub(super) fn new(context: Arc<Context>, entries: u32) -> io::Result<Self> {
        let entries = c_int::try_from(entries).map_err(io::Error::other)?;
        // SAFETY: the context is open.
        let channel = made(unsafe { sys::ibv_create_comp_channel(context.as_ptr()) })?;
        let channel = Channel {
            ptr: channel,
            _context: Arc::clone(&context),
        };
        nonblocking(channel.fd())?;
        // SAFETY: context and channel exist; vector 0 always does.
        let cq = made(unsafe {
            let channel = channel.ptr.as_ptr();
            sys::ibv_create_cq(context.as_ptr(), entries, ptr::null_mut(), channel, 0)
        })?;
        Ok(Self(Arc::new(CqInner {
            ptr: cq,
            channel,
            unacked: AtomicU32::new(0),
        })))
    }
}

impl Cq for CoreCq {
    fn entries(&self) -> u32 {
        // SAFETY: the queue exists as long as `self`; the field is constant as
        // long as it is not resized.
        let cqe = unsafe { (*self.0.ptr.as_ptr()).cqe };
        u32::try_from(cqe).unwrap_or(0)
    }

    fn poll(&self, into: &mut WcBuffer) -> io::Result<()> {
        let wcs = into.fill();
        // SAFETY: the queue exists, and the array has room for as many as are
        // asked for.
        let count = unsafe {
            let wanted = wcs.len() as c_int;
            sys::ibv_poll_cq(self.0.ptr.as_ptr(), wanted, wcs.as_mut_ptr())
        };
        match usize::try_from(count) {
            Ok(count) => {
                into.filled(count);
                Ok(())
            }
            Err(_) => Err(io::Error::other("ibv_poll_cq failed")),
        }
    }

    fn arm(&self, solicited_only: bool) -> io::Result<()> {
        // SAFETY: the queue exists.
        status(unsafe { sys::ibv_req_notify_cq(self.0.ptr.as_ptr(), solicited_only.into()) })
    }

    fn take_event(&self) -> io::Result<bool> {
        let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
        let channel = self.0.channel.ptr.as_ptr();
        // SAFETY: the channel exists, and the call writes both pointers, which are
        // not used: the channel has only this queue.
        if unsafe { sys::ibv_get_cq_event(channel, &mut cq, &mut context) } != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                // Interrupted: it is still there the next time.
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
                _ => Err(error),
            };
        }
        if self.0.unacked.fetch_add(1, Ordering::Relaxed) + 1 >= ACK_BATCH {
            let taken = self.0.unacked.swap(0, Ordering::Relaxed);
            // SAFETY: so many events were taken and not acknowledged.
            unsafe { sys::ibv_ack_cq_events(self.0.ptr.as_ptr(), taken) };
        }
        Ok(true)
    }

    fn channel(&self) -> BorrowedFd<'_> {
        self.0.channel.fd()
    }
}

/// `ibv_srq`, destroyed with the last queue pair that uses it.
struct SrqInner {
    ptr: NonNull<sys::ibv_srq>,
    _pd: Arc<Pd>,
}

// SAFETY: as for `CqInner`.
unsafe impl Send for SrqInner {}
// SAFETY: as for `CqInner`.
unsafe impl Sync for SrqInner {}

impl Drop for SrqInner {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed here only, when no queue pair is left.
        destroyed("ibv_destroy_srq", unsafe {
            sys::ibv_destroy_srq(self.ptr.as_ptr())
        });
    }
}

/// A shared receive queue.
pub struct CoreSrq(Arc<SrqInner>);

impl CoreSrq {
    pub(super) fn new(pd: Arc<Pd>, wrs: u32) -> io::Result<Self> {
        let mut attr = sys::ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: sys::ibv_srq_attr {
                max_wr: wrs,
                max_sge: 1,
                srq_limit: 0,
            },
        };
        // SAFETY: the domain exists; the call reads and updates the attributes.
        let ptr = made(unsafe { sys::ibv_create_srq(pd.as_ptr(), &mut attr) })?;
        Ok(Self(Arc::new(SrqInner { ptr, _pd: pd })))
    }
}

impl Srq for CoreSrq {
    fn post(&self, list: &mut RecvList) -> Result<(), PostFailure> {
        let first = list.chain();
        let mut bad = ptr::null_mut();
        if first.is_null() {
            return Ok(());
        }
        // SAFETY: the queue exists, and the chain is good until the list is
        // touched again. The memory it names is checked by the adapter, by key.
        let answer = unsafe { sys::ibv_post_srq_recv(self.0.ptr.as_ptr(), first, &mut bad) };
        let outcome = posted(answer, || list.place(bad));
        list.clear();
        outcome
    }

    fn set_limit(&self, limit: u32) -> io::Result<()> {
        let mut attr = sys::ibv_srq_attr {
            max_wr: 0,
            max_sge: 0,
            srq_limit: limit,
        };
        let mask = sys::ibv_srq_attr_mask::IBV_SRQ_LIMIT.0 as c_int;
        // SAFETY: the queue exists; the call only reads the attributes.
        status(unsafe { sys::ibv_modify_srq(self.0.ptr.as_ptr(), &mut attr, mask) })
    }

    fn id(&self) -> u64 {
        self.0.ptr.as_ptr() as u64
    }
}

/// `ibv_qp`.
pub struct CoreQp {
    ptr: NonNull<sys::ibv_qp>,
    max_inline: u32,
    /// After the queue pair, in this order.
    _cqs: [Arc<CqInner>; 2],
    _srq: Arc<SrqInner>,
    _pd: Arc<Pd>,
}

// SAFETY: as for `CqInner`.
unsafe impl Send for CoreQp {}
// SAFETY: as for `CqInner`.
unsafe impl Sync for CoreQp {}

impl CoreQp {
    pub(super) fn new(
        pd: Arc<Pd>,
        cqs: Cqs<'_, CoreCq>,
        srq: &CoreSrq,
        shape: QpShape,
        sges: u32,
    ) -> io::Result<Self> {
        let mut attr = sys::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: cqs.sends.0.ptr.as_ptr(),
            recv_cq: cqs.receives.0.ptr.as_ptr(),
            srq: srq.0.ptr.as_ptr(),
            cap: sys::ibv_qp_cap {
                max_send_wr: shape.send_wrs,
                max_recv_wr: 0,
                max_send_sge: sges,
                max_recv_sge: 0,
                max_inline_data: shape.inline,
            },
            qp_type: sys::ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: all that the attributes name exists, and is held from here on.
        let ptr = made(unsafe { sys::ibv_create_qp(pd.as_ptr(), &mut attr) })?;
        Ok(Self {
            ptr,
            max_inline: attr.cap.max_inline_data,
            _cqs: [cqs.sends, cqs.receives].map(|cq| Arc::clone(&cq.0)),
            _srq: Arc::clone(&srq.0),
            _pd: pd,
        })
    }
}

impl Drop for CoreQp {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed here only.
        destroyed("ibv_destroy_qp", unsafe {
            sys::ibv_destroy_qp(self.ptr.as_ptr())
        });
    }
}

impl Qp for CoreQp {
    fn number(&self) -> u32 {
        // SAFETY: the queue pair exists as long as `self`; the field is constant.
        unsafe { (*self.ptr.as_ptr()).qp_num }
    }

    fn max_inline(&self) -> u32 {
        self.max_inline
    }

    fn modify(&self, change: &QpChange) -> io::Result<()> {
        // SAFETY: all fields are integers, for which zero is a value.
        let mut attr = unsafe { MaybeUninit::<sys::ibv_qp_attr>::zeroed().assume_init() };
        let mask = describe(change, &mut attr);
        // SAFETY: the queue pair exists; the call only reads the attributes.
        status(unsafe { sys::ibv_modify_qp(self.ptr.as_ptr(), &mut attr, mask.0 as c_int) })
    }

    fn post(&self, list: &mut SendList) -> Result<(), PostFailure> {
        let first = list.chain();
        let mut bad = ptr::null_mut();
        if first.is_null() {
            return Ok(());
        }
        // SAFETY: the queue pair exists, and the chain is good until the list is
        // touched again. Inline data lies in the list, all other memory is named
        // by keys that the adapter checks.
        let answer = unsafe { sys::ibv_post_send(self.ptr.as_ptr(), first, &mut bad) };
        let outcome = posted(answer, || list.place(bad));
        list.clear();
        outcome
    }
}

fn posted(answer: c_int, place: impl FnOnce() -> usize) -> Result<(), PostFailure> {
    status(answer).map_err(|error| PostFailure {
        posted: place(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    })
}
