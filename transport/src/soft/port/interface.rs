//! What the network interface behind an address can carry.
//!
//! One of the modules in which unsafe code is allowed: the list of interfaces is
//! a C structure, and the MTU comes by an ioctl.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// Bytes of headers to leave room for: IPv6, UDP, the transport headers and the
/// invariant CRC, rounded up as Linux' rdma_rxe does it, so that both ends of a
/// link find the same path MTU.
const HEADERS: u32 = 80;

/// Assumed where the interface cannot be found out: that of Ethernet.
const USUAL_LINK_MTU: u32 = 1500;

/// The largest path MTU that the interface with this address takes.
pub(super) fn path_mtu(address: IpAddr) -> u32 {
    let link = link_mtu(address).unwrap_or(USUAL_LINK_MTU);
    [4096, 2048, 1024, 512]
        .into_iter()
        .find(|mtu| mtu + HEADERS <= link)
        .unwrap_or(256)
}

/// The MTU of the interface that has this address, or whose loopback network it
/// lies in.
fn link_mtu(address: IpAddr) -> Option<u32> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the call fills `list` with a chain that is ours until freed below.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut next = list;
    while !next.is_null() && found.is_none() {
        // SAFETY: `next` is an element of the chain, which lives until freed.
        let entry = unsafe { &*next };
        // SAFETY: the address is null or of the family that it says.
        let own = unsafe { ip(entry.ifa_addr) };
        let loopback = own.is_some_and(|own| own.is_loopback()) && address.is_loopback();
        if own == Some(address) || loopback {
            // SAFETY: the name is a terminated string of the element.
            found = mtu_of(unsafe { CStr::from_ptr(entry.ifa_name) });
        }
        next = entry.ifa_next;
    }
    // SAFETY: `list` is the chain got above, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// # Safety
/// `address` must be null, or valid for the family that it says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: valid by the contract above; the kernel's library aligns each.
    unsafe {
        match libc::c_int::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

fn mtu_of(name: &CStr) -> Option<u32> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok()?;
    // SAFETY: an all-zero request is valid: integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = name.to_bytes();
    // One byte less, so that the name stays terminated.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is a valid `ifreq`, which this ioctl reads the name from
    // and writes the MTU to.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) };
    if done != 0 {
        return None;
    }
    // SAFETY: the ioctl has written this member.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_takes_the_largest_path_mtu() {
        assert_eq!(path_mtu("127.23.4.5".parse().unwrap()), 4096);
    }

    #[test]
    fn an_unknown_address_gets_what_ethernet_takes() {
        assert_eq!(path_mtu("192.0.2.1".parse().unwrap()), 1024);
    }
}
