//! librdmacm: what stands behind `CmCalls` in earnest.
//!
//! Rules of the library that this module keeps, so that no caller can break
//! them (`man rdma_cm`, and librdmacm's `cma.c`):
//! - An identifier is destroyed once, and never used after. Callers hold a
//!   [`CmId`], which is a number; pointers stay in here.
//! - An event is acknowledged once, before its identifier is destroyed: else
//!   `rdma_destroy_id` waits for ever. So an event is copied and acknowledged at
//!   once, before anyone sees it.
//! - All identifiers are destroyed before their channel.
//!
//! Unsafe is allowed here for calls into librdmacm and for reading what it
//! returned.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{self, NonNull};

use bytes::Bytes;
use rdma_sys::{rdma_cm_event_type as event_type, *};

use crate::nic::AddressVector;
use crate::verbs::cm::calls::{
    AcceptParam, CallAttrs, CallEvent, CallKind, CmCalls, CmId, Endpoint,
};

/// `RDMA_OPTION_ID` and `RDMA_OPTION_ID_AFONLY` of `rdma/rdma_cma.h`, which
/// rdma-sys leaves out.
const OPTION_ID: c_int = 0;
const OPTION_ID_AFONLY: c_int = 2;

/// The library.
pub(in crate::verbs) struct Librdmacm {
    channel: NonNull<rdma_event_channel>,
    ids: HashMap<CmId, NonNull<rdma_cm_id>>,
    next: u64,
}

// SAFETY: librdmacm's objects belong to no thread, and each call locks what it
// shares; all pointers in here are reached through this object alone.
unsafe impl Send for Librdmacm {}

impl Librdmacm {
    /// Opens a channel to the kernel's connection manager.
    ///
    /// # Errors
    /// As `rdma_create_event_channel` leaves it.
    pub(in crate::verbs) fn open() -> io::Result<Self> {
        // SAFETY: no arguments; null is an error.
        let channel = NonNull::new(unsafe { rdma_create_event_channel() })
            .ok_or_else(io::Error::last_os_error)?;
        let this = Self {
            channel,
            ids: HashMap::new(),
            next: 1,
        };
        rustix::fs::fcntl_setfl(this.fd(), rustix::fs::OFlags::NONBLOCK)?;
        Ok(this)
    }

    fn get(&self, id: CmId) -> io::Result<NonNull<rdma_cm_id>> {
        let found = self.ids.get(&id).copied();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn new_id(&mut self) -> CmId {
        let id = CmId(self.next);
        self.next += 1;
        id
    }

    /// Attributes for the step to this state.
    fn init_qp_attr(id: NonNull<rdma_cm_id>, state: ibv_qp_state::Type) -> io::Result<ibv_qp_attr> {
        // SAFETY: it consists of numbers, for which all bits zero is a value.
        let mut attr: ibv_qp_attr = unsafe { std::mem::zeroed() };
        attr.qp_state = state;
        let mut mask = 0;
        // SAFETY: the identifier lives, since it is in our table; the library
        // writes one structure and one number.
        check(unsafe { rdma_init_qp_attr(id.as_ptr(), &mut attr, &mut mask) })?;
        Ok(attr)
    }
}

/// 0, or -1 with the error number set.
fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A number of the kernel's that fits eight bits on any device.
fn narrow(value: c_int) -> u8 {
    u8::try_from(value.max(0)).unwrap_or(u8::MAX)
}

impl CmCalls for Librdmacm {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives as long as this object, and its descriptor
        // as long as the channel.
        unsafe {
            let fd: RawFd = self.channel.as_ref().fd;
            BorrowedFd::borrow_raw(fd)
        }
    }

    fn create(&mut self) -> io::Result<CmId> {
        let handle = self.new_id();
        let mut id = ptr::null_mut();
        // SAFETY: the channel lives; the context is a number that the library
        // hands back untouched.
        check(unsafe {
            rdma_create_id(
                self.channel.as_ptr(),
                &mut id,
                context(handle),
                rdma_port_space::RDMA_PS_TCP,
            )
        })?;
        let id = NonNull::new(id).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        self.ids.insert(handle, id);
        Ok(handle)
    }

    fn bind(&mut self, id: CmId, at: SocketAddr) -> io::Result<()> {
        let id = self.get(id)?.as_ptr();
        if at.is_ipv6() {
            let mut on: c_int = 1;
            // SAFETY: the identifier lives; the option is one `int`, which the
            // library reads before it returns.
            check(unsafe {
                rdma_set_option(
                    id,
                    OPTION_ID,
                    OPTION_ID_AFONLY,
                    (&raw mut on).cast::<c_void>(),
                    size_of::<c_int>(),
                )
            })?;
        }
        let address = socket2::SockAddr::from(at);
        // SAFETY: the identifier lives; the library reads an address of the
        // family that it says, and does not write to it.
        check(unsafe { rdma_bind_addr(id, address.as_ptr().cast_mut().cast()) })
    }

    fn listen(&mut self, id: CmId, backlog: i32) -> io::Result<()> {
        let id = self.get(id)?;
        // SAFETY: the identifier lives.
        check(unsafe { rdma_listen(id.as_ptr(), backlog) })
    }

    fn endpoint(&self, id: CmId) -> io::Result<Endpoint> {
        let id = self.get(id)?;
        // SAFETY: the identifier lives and no call is at work on it; its device
        // is null or one that the library keeps open while identifiers use it;
        // its addresses are zero (no family) until they are known.
        unsafe {
            let id = id.as_ref();
            let device = id.verbs.as_ref().map(|verbs| {
                let name = ibv_get_device_name(verbs.device);
                CStr::from_ptr(name).to_string_lossy().into_owned()
            });
            let (source, destination) =
                (&id.route.addr.src_addr_union, &id.route.addr.dst_addr_union);
            Ok(Endpoint {
                device,
                local: socket_address(&source.src_storage),
                remote: socket_address(&destination.dst_storage),
            })
        }
    }

    fn qp_attrs(&mut self, id: CmId) -> io::Result<CallAttrs> {
        let id = self.get(id)?;
        let init = Self::init_qp_attr(id, ibv_qp_state::IBV_QPS_INIT)?;
        let rtr = Self::init_qp_attr(id, ibv_qp_state::IBV_QPS_RTR)?;
        let rts = Self::init_qp_attr(id, ibv_qp_state::IBV_QPS_RTS)?;
        // SAFETY: the identifier lives; a device is there once attributes are,
        // and null is refused here; the structure consists of numbers and an
        // array of characters.
        let device = unsafe {
            let mut device: ibv_device_attr = std::mem::zeroed();
            let verbs = NonNull::new(id.as_ref().verbs)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
            match ibv_query_device(verbs.as_ptr(), &mut device) {
                0 => device,
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        let way = rtr.ah_attr;
        Ok(CallAttrs {
            vector: AddressVector {
                port: init.port_num,
                pkey_index: init.pkey_index,
                sgid_index: way.grh.sgid_index,
                // SAFETY: both views of a GID are 16 bytes without padding.
                dgid: unsafe { way.grh.dgid.raw },
                flow_label: way.grh.flow_label,
                hop_limit: way.grh.hop_limit,
                traffic_class: way.grh.traffic_class,
                is_global: way.is_global != 0,
                dlid: way.dlid,
                service_level: way.sl,
                source_path_bits: way.src_path_bits,
                static_rate: way.static_rate,
            },
            path_mtu: rtr.path_mtu,
            remote_qpn: rtr.dest_qp_num,
            rq_psn: rtr.rq_psn,
            sq_psn: rts.sq_psn,
            timeout: rts.timeout,
            retry_count: rts.retry_cnt,
            rnr_retry: rts.rnr_retry,
            device_initiator_depth: narrow(device.max_qp_init_rd_atom),
            device_responder_resources: narrow(device.max_qp_rd_atom),
        })
    }

    fn accept(&mut self, id: CmId, param: AcceptParam<'_>) -> io::Result<()> {
        let id = self.get(id)?;
        let mut conn = rdma_conn_param {
            private_data: param.private_data.as_ptr().cast(),
            private_data_len: length(param.private_data)?,
            responder_resources: param.responder_resources,
            initiator_depth: param.initiator_depth,
            flow_control: 1,
            retry_count: 0,
            rnr_retry_count: param.rnr_retry,
            srq: 1,
            qp_num: param.qp,
        };
        // SAFETY: the identifier lives; the library copies parameters and
        // private data before it returns.
        check(unsafe { rdma_accept(id.as_ptr(), &mut conn) })
    }

    fn reject(&mut self, id: CmId, private_data: &[u8]) -> io::Result<()> {
        let id = self.get(id)?;
        let len = length(private_data)?;
        // SAFETY: the identifier lives; the library copies that many bytes
        // before it returns.
        check(unsafe { rdma_reject(id.as_ptr(), private_data.as_ptr().cast(), len) })
    }

    fn disconnect(&mut self, id: CmId) -> io::Result<()> {
        let id = self.get(id)?;
        // SAFETY: the identifier lives.
        check(unsafe { rdma_disconnect(id.as_ptr()) })
    }

    fn destroy(&mut self, id: CmId) {
        if let Some(raw) = self.ids.remove(&id) {
            // SAFETY: it was in our table and is no longer, so this is the only
            // time; all its events are acknowledged.
            let destroyed = check(unsafe { rdma_destroy_id(raw.as_ptr()) });
            if let Err(error) = destroyed {
                // The library keeps its memory then.
                tracing::warn!(%error, "an identifier of connection management is left behind");
            }
        }
    }

    fn next_event(&mut self) -> io::Result<Option<CallEvent>> {
        let mut raw = ptr::null_mut();
        // SAFETY: the channel lives; on success the library has set the pointer.
        let got = check(unsafe { rdma_get_cm_event(self.channel.as_ptr(), &mut raw) });
        match got {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // The kernel drops events of identifiers that are destroyed. For a service of
        // type RC `conn` is the part of the union that is set, or zero.
        // SAFETY: a structure of the library's, ours until acknowledged; its
        // identifier is never null, and lives.
        let event = unsafe {
            let event = &*raw;
            let kind = kind(event.event);
            let id = match kind {
                CallKind::ConnectRequest => {
                    let id = self.new_id();
                    (*event.id).context = context(id);
                    self.ids.insert(id, NonNull::new_unchecked(event.id));
                    id
                }
                _ => CmId((*event.id).context.addr() as u64),
            };
            let conn = &event.param.conn;
            CallEvent {
                id,
                kind,
                status: event.status,
                responder_resources: conn.responder_resources,
                initiator_depth: conn.initiator_depth,
                private_data: private_data(conn),
            }
        };
        // SAFETY: not acknowledged before, and not used after.
        unsafe { rdma_ack_cm_event(raw) };
        Ok(Some(event))
    }
}

impl Drop for Librdmacm {
    fn drop(&mut self) {
        let ids: Vec<_> = self.ids.keys().copied().collect();
        for id in ids {
            self.destroy(id);
        }
        // SAFETY: created by the library, not used after, and without
        // identifiers.
        unsafe { rdma_destroy_event_channel(self.channel.as_ptr()) };
    }
}

/// A number as the context of an identifier.
fn context(id: CmId) -> *mut c_void {
    // Counting to 2^32 takes a 32-bit machine longer than it will live.
    ptr::without_provenance_mut(usize::try_from(id.0).unwrap_or(usize::MAX))
}

fn kind(event: event_type::Type) -> CallKind {
    match event {
        event_type::RDMA_CM_EVENT_CONNECT_REQUEST => CallKind::ConnectRequest,
        event_type::RDMA_CM_EVENT_CONNECT_ERROR => CallKind::ConnectError,
        event_type::RDMA_CM_EVENT_UNREACHABLE => CallKind::Unreachable,
        event_type::RDMA_CM_EVENT_REJECTED => CallKind::Rejected,
        event_type::RDMA_CM_EVENT_ESTABLISHED => CallKind::Established,
        event_type::RDMA_CM_EVENT_DISCONNECTED => CallKind::Disconnected,
        event_type::RDMA_CM_EVENT_DEVICE_REMOVAL => CallKind::DeviceRemoval,
        event_type::RDMA_CM_EVENT_ADDR_CHANGE => CallKind::AddrChange,
        event_type::RDMA_CM_EVENT_TIMEWAIT_EXIT => CallKind::TimewaitExit,
        other => CallKind::Other(other),
    }
}

fn length(private_data: &[u8]) -> io::Result<u8> {
    u8::try_from(private_data.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A copy of an event's private data.
///
/// # Safety
/// The event must not be acknowledged yet.
unsafe fn private_data(conn: &rdma_conn_param) -> Bytes {
    if conn.private_data.is_null() {
        return Bytes::new();
    }
    let len = usize::from(conn.private_data_len);
    // SAFETY: where it is not null the library has put that many bytes there,
    // which live until the event is acknowledged.
    Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(conn.private_data.cast(), len) })
}

/// The address in it, if it is of the internet.
fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = ptr::from_ref(storage);
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what is in there; the storage is larger
            // than any address, and aligned for all.
            let address = unsafe { at.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
            let port = u16::from_be(address.sin_port);
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

// Structures that rdma-sys writes by hand, against `rdma/rdma_cma.h`: what is
// read here must lie where the library put it.
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<rdma_addr>() == 296);
    assert!(offset_of!(rdma_addr, dst_addr_union) == 128);
    assert!(size_of::<rdma_cm_id>() == 416);
    assert!(offset_of!(rdma_cm_event, event) == 16);
    assert!(offset_of!(rdma_cm_event, param) == 24);
    assert!(size_of::<rdma_cm_event>() == 80);
    assert!(size_of::<ibv_ah_attr>() == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_system_s_form() {
        for text in [
            "192.0.2.7:4420",
            "0.0.0.0:1",
            "[2001:db8::1]:4420",
            "[fe80::1%3]:65535",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            // SAFETY: all bits zero is an address of no family.
            let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
            assert_eq!(socket_address(&storage), None);
            let from = socket2::SockAddr::from(address);
            // SAFETY: both are as long as any address; nothing overlaps.
            unsafe {
                ptr::copy_nonoverlapping(
                    from.as_ptr().cast::<u8>(),
                    (&raw mut storage).cast::<u8>(),
                    usize::try_from(from.len()).unwrap(),
                );
            }
            assert_eq!(socket_address(&storage), Some(address));
        }
    }
}
