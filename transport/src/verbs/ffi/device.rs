//! Opening a device, and what it makes.
//!
//! Unsafe is allowed here because libibverbs is a C library.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys as sys;
use rustix::event::{PollFd, PollFlags};
use sidelane_p2p::{DmaBuf, MemView, PciAddress};
use sys::{ibv_device_cap_flags, ibv_transport_type};

use super::attrs::{access_flags, mtu_bytes};
use super::objects::{
    CoreCq, CoreMr, CoreQp, CoreSrq, RawAsyncEvent, destroyed, made, nonblocking, status,
};
use super::types::{AsyncEvent, GidEntry, Limits, LinkLayer, MrAccess, Port, QpShape, Unopened};
use super::{Cqs, Device, SEND_SGES, Verbs, sysfs};

/// rdma-core.
#[derive(Debug, Default, Clone, Copy)]
pub struct RdmaCore;

/// An open device: `ibv_context`.
pub(super) struct Context(NonNull<sys::ibv_context>);

// SAFETY: libibverbs allows a context to be used from any thread and from several
// at once (its "thread safe" note in ibv_open_device's manual and verbs.h).
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn as_ptr(&self) -> *mut sys::ibv_context {
        self.0.as_ptr()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened once, closed here only; whatever was made of it holds it
        // and so is gone.
        destroyed("ibv_close_device", unsafe {
            sys::ibv_close_device(self.0.as_ptr())
        });
    }
}

/// A protection domain: `ibv_pd`.
pub(super) struct Pd {
    ptr: NonNull<sys::ibv_pd>,
    pub(super) context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Pd {}
// SAFETY: as for `Context`.
unsafe impl Sync for Pd {}

impl Pd {
    pub(super) fn as_ptr(&self) -> *mut sys::ibv_pd {
        self.ptr.as_ptr()
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed here only; registrations, queues and
        // queue pairs hold it and so are gone.
        destroyed("ibv_dealloc_pd", unsafe {
            sys::ibv_dealloc_pd(self.ptr.as_ptr())
        });
    }
}

/// A device of rdma-core.
pub struct CoreDevice {
    pd: Arc<Pd>,
    name: String,
    iwarp: bool,
}

/// The list of devices, freed when dropped.
struct DeviceList {
    first: NonNull<*mut sys::ibv_device>,
    count: usize,
}

impl DeviceList {
    fn get() -> io::Result<Self> {
        let mut count = 0;
        // SAFETY: `count` is written by the call.
        let first = made(unsafe { sys::ibv_get_device_list(&mut count) })?;
        Ok(Self {
            first,
            count: usize::try_from(count).unwrap_or(0),
        })
    }

    fn devices(&self) -> impl Iterator<Item = (*mut sys::ibv_device, String)> + '_ {
        (0..self.count).map(|at| {
            // SAFETY: the library gave an array of that many devices, which live
            // until the list is freed; a name is a C string inside of one.
            unsafe {
                let device = *self.first.as_ptr().add(at);
                let name = CStr::from_ptr(sys::ibv_get_device_name(device));
                (device, name.to_string_lossy().into_owned())
            }
        })
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: got once, freed here only.
        unsafe { sys::ibv_free_device_list(self.first.as_ptr()) };
    }
}

impl Verbs for RdmaCore {
    type Device = CoreDevice;

    fn open(&self, name: &str) -> Result<CoreDevice, Unopened> {
        let list = DeviceList::get().map_err(Unopened::NoList)?;
        let Some((device, _)) = list.devices().find(|(_, found)| found == name) else {
            let available = list.devices().map(|(_, name)| name).collect();
            return Err(Unopened::NotFound { available });
        };
        let refused = |what| move |error| Unopened::Refused { what, error };
        // SAFETY: a device of the list, which is still there.
        let (context, transport) =
            unsafe { (sys::ibv_open_device(device), (*device).transport_type) };
        let context = Arc::new(Context(made(context).map_err(refused("ibv_open_device"))?));
        // SAFETY: the context is open.
        let pd = made(unsafe { sys::ibv_alloc_pd(context.as_ptr()) })
            .map_err(refused("ibv_alloc_pd"))?;
        let device = CoreDevice {
            pd: Arc::new(Pd { ptr: pd, context }),
            name: name.to_owned(),
            iwarp: transport == ibv_transport_type::IBV_TRANSPORT_IWARP,
        };
        nonblocking(device.async_fd())
            .map_err(refused("making the event descriptor non-blocking"))?;
        Ok(device)
    }
}

impl CoreDevice {
    fn context(&self) -> *mut sys::ibv_context {
        self.pd.context.as_ptr()
    }

    fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the context's and open as long as that is.
        unsafe { BorrowedFd::borrow_raw((*self.context()).async_fd) }
    }

    /// An event that is there already.
    fn next_event(&self) -> io::Result<AsyncEvent> {
        let mut event = MaybeUninit::<RawAsyncEvent>::zeroed();
        let raw = event.as_mut_ptr().cast::<sys::ibv_async_event>();
        // SAFETY: the structures have one layout (see `layout`), and the call
        // writes the whole of it when it returns zero. What an event names stays
        // until the event is acknowledged.
        unsafe {
            if sys::ibv_get_async_event(self.context(), raw) != 0 {
                return Err(io::Error::last_os_error());
            }
            let told = event.assume_init_ref().told();
            sys::ibv_ack_async_event(raw);
            Ok(told)
        }
    }
}

/// What a C library says in an `int` that is never negative.
fn count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

impl Device for CoreDevice {
    type Mr = CoreMr;
    type Cq = CoreCq;
    type Srq = CoreSrq;
    type Qp = CoreQp;

    fn limits(&self) -> io::Result<Limits> {
        let mut attr = MaybeUninit::<sys::ibv_device_attr>::zeroed();
        // SAFETY: the call fills the structure; all of its fields are integers.
        let attr = unsafe {
            status(sys::ibv_query_device(self.context(), attr.as_mut_ptr()))?;
            attr.assume_init()
        };
        let mem_mgt = ibv_device_cap_flags::IBV_DEVICE_MEM_MGT_EXTENSIONS.0;
        Ok(Limits {
            ports: attr.phys_port_cnt,
            iwarp: self.iwarp,
            send_invalidate: attr.device_cap_flags & mem_mgt != 0,
            max_mr: count(attr.max_mr),
            max_qp: count(attr.max_qp),
            max_qp_wr: count(attr.max_qp_wr),
            max_sge: count(attr.max_sge),
            max_sge_rd: count(attr.max_sge_rd),
            max_cq: count(attr.max_cq),
            max_cqe: count(attr.max_cqe),
            max_srq: count(attr.max_srq),
            max_srq_wr: count(attr.max_srq_wr),
            max_qp_rd_atom: count(attr.max_qp_rd_atom),
            max_qp_init_rd_atom: count(attr.max_qp_init_rd_atom),
        })
    }

    fn port(&self, port: u8) -> io::Result<Port> {
        let mut attr = MaybeUninit::<sys::ibv_port_attr>::zeroed();
        // SAFETY: the call fills the structure or its older, shorter part; all
        // of its fields are integers and zero before.
        let attr = unsafe {
            status(sys::___ibv_query_port(
                self.context(),
                port,
                attr.as_mut_ptr(),
            ))?;
            attr.assume_init()
        };
        /// `IBV_LINK_LAYER_ETHERNET`, a macro in C.
        const ETHERNET: u8 = 2;
        Ok(Port {
            active: attr.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            link: if attr.link_layer == ETHERNET {
                LinkLayer::Ethernet
            } else {
                LinkLayer::InfiniBand
            },
            lid: attr.lid,
            mtu: mtu_bytes(attr.active_mtu),
            max_message: attr.max_msg_sz,
        })
    }

    fn gids(&self, port: u8) -> io::Result<Vec<GidEntry>> {
        sysfs::gids(&sysfs::device_dir(&self.name), port)
    }

    fn pci(&self) -> Option<PciAddress> {
        sysfs::pci(&sysfs::device_dir(&self.name))
    }

    fn counters(&self) -> Vec<(String, u64)> {
        sysfs::counters(&sysfs::device_dir(&self.name))
    }

    fn register_host(&self, view: &MemView, access: MrAccess) -> io::Result<CoreMr> {
        let (address, len) = (view.as_ptr().cast(), view.len());
        // SAFETY: the view keeps the memory mapped, and the registration keeps
        // the view. What the adapter does there is what views are made for.
        let mr = made(unsafe {
            sys::ibv_reg_mr(self.pd.as_ptr(), address, len, access_flags(access) as i32)
        })?;
        Ok(CoreMr::new(mr, Arc::clone(&self.pd), Some(view.clone())))
    }

    fn register_dmabuf(&self, buffer: &DmaBuf, iova: u64, access: MrAccess) -> io::Result<CoreMr> {
        let len = usize::try_from(buffer.len).map_err(io::Error::other)?;
        // SAFETY: the kernel takes its own hold of the memory behind the
        // descriptor, which is not this process's.
        let mr = made(unsafe {
            sys::ibv_reg_dmabuf_mr(
                self.pd.as_ptr(),
                buffer.offset,
                len,
                iova,
                buffer.fd.as_raw_fd(),
                access_flags(access) as i32,
            )
        })?;
        Ok(CoreMr::new(mr, Arc::clone(&self.pd), None))
    }

    fn create_cq(&self, entries: u32) -> io::Result<CoreCq> {
        CoreCq::new(Arc::clone(&self.pd.context), entries)
    }

    fn create_srq(&self, wrs: u32) -> io::Result<CoreSrq> {
        CoreSrq::new(Arc::clone(&self.pd), wrs)
    }

    fn create_qp(&self, cqs: Cqs<'_, CoreCq>, srq: &CoreSrq, shape: QpShape) -> io::Result<CoreQp> {
        CoreQp::new(Arc::clone(&self.pd), cqs, srq, shape, SEND_SGES as u32)
    }

    fn wait_event(&self, stop: BorrowedFd<'_>) -> io::Result<Option<AsyncEvent>> {
        loop {
            match self.next_event() {
                Ok(event) => return Ok(Some(event)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.async_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Ok(None),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
