//! What the system's error numbers mean for connection management, and what to
//! do about them.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::cm::CmError;
use crate::verbs::OpenError;

/// How to get an RDMA device out of a network interface.
const SOFT_DEVICE: &str = "`rdma link` lists RDMA devices and their network interfaces; \
     `modprobe rdma_rxe && rdma link add rxe0 type rxe netdev INTERFACE` makes one in software";

/// A reason and a remedy.
pub(super) type Words = (String, String);

fn words(reason: &str, remedy: &str) -> Words {
    (reason.to_owned(), remedy.to_owned())
}

/// `rdma_create_event_channel` failed.
pub(super) fn channel(error: &io::Error) -> OpenError {
    let (reason, remedy) = match error.raw_os_error() {
        Some(libc::ENODEV) => words("this machine has no RDMA device", SOFT_DEVICE),
        Some(libc::ENOENT | libc::ENXIO) => words(
            "there is no /dev/infiniband/rdma_cm",
            "`modprobe rdma_ucm` loads the kernel's part; a container must be given the devices in \
             /dev/infiniband",
        ),
        Some(libc::EACCES) => words(
            "this process may not open /dev/infiniband/rdma_cm",
            "run it as root, or as a user or group that may read and write the devices in \
             /dev/infiniband",
        ),
        Some(libc::EPERM) => words(
            "the kernel's interface has a version that librdmacm does not know, or a device \
             policy forbids /dev/infiniband/rdma_cm",
            "install the rdma-core of the kernel's age, or let the container use the device",
        ),
        _ => words(
            &format!("/dev/infiniband/rdma_cm cannot be opened: {error}"),
            "the kernel's log (`dmesg`) may tell more",
        ),
    };
    OpenError::ConnectionManager { reason, remedy }
}

/// `rdma_create_id`, `rdma_bind_addr` or `rdma_listen` failed.
pub(super) fn listen(at: SocketAddr, error: &io::Error) -> Words {
    let taken = || {
        words(
            "something else listens there, or on the wildcard address with this port",
            "`rdma resource show cm_id` lists who; the kernel's own target (nvmet) counts too: end \
             it, or choose another port",
        )
    };
    match error.raw_os_error() {
        // So the kernel answers when a wildcard and an address clash, too.
        Some(libc::EADDRNOTAVAIL) if is_own(at.ip()) => taken(),
        Some(libc::EADDRNOTAVAIL) => words(
            "no network interface of this machine has the address",
            "`ip address` lists what they have",
        ),
        Some(libc::ENODEV) => words(
            "the network interface of the address has no RDMA device",
            SOFT_DEVICE,
        ),
        Some(libc::EADDRINUSE) => taken(),
        Some(libc::EACCES) if at.port() < 1024 => words(
            "ports below 1024 are the administrator's",
            "use the port 4420, or run with CAP_NET_BIND_SERVICE",
        ),
        Some(libc::EINVAL) if is_link_local(at) => words(
            "a link-local address belongs to no interface by itself",
            "name the interface by its number, as in [fe80::1%2]:4420, or use another address",
        ),
        Some(libc::EAFNOSUPPORT) => words(
            "the kernel does not have this kind of address",
            "use an IPv4 address, or turn IPv6 on",
        ),
        _ => words(
            &error.to_string(),
            "the kernel's log (`dmesg`) may tell more",
        ),
    }
}

/// A loopback address was asked for. The kernel takes it and lets nobody in.
pub(super) fn loopback(at: SocketAddr) -> OpenError {
    OpenError::Listen {
        at,
        reason: "no RDMA device has a loopback address, so nobody could connect".to_owned(),
        remedy: "name an address of an RDMA device: hosts on this machine reach it, too".to_owned(),
    }
}

/// A wildcard address finds no device.
pub(super) fn no_device(at: SocketAddr) -> OpenError {
    OpenError::Listen {
        at,
        reason: "no RDMA device of this machine has an active port".to_owned(),
        remedy: format!("bring its network interface up; {SOFT_DEVICE}"),
    }
}

/// `rdma_accept` failed.
pub(super) fn accept(error: &io::Error) -> CmError {
    CmError::Refused(match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOTCONN) => {
            "the host gave up before it was accepted; it will try again".to_owned()
        }
        Some(libc::ENODEV) => "the RDMA device is gone; the host will try again".to_owned(),
        _ => format!("the kernel did not accept the connection: {error}; see `dmesg`"),
    })
}

/// Whether a network interface of this machine has the address, or it is the
/// wildcard.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn is_link_local(at: SocketAddr) -> bool {
    matches!(at, SocketAddr::V6(at) if at.ip().is_unicast_link_local() && at.scope_id() == 0)
}
