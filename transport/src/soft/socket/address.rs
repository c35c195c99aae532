//! Socket addresses in the form in which system calls take them.

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an address of either family, as the kernel reads and writes it.
#[derive(Clone, Copy)]
pub(super) union WireAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Default for WireAddress {
    fn default() -> Self {
        // SAFETY: every member is made of integers, for which zero is valid; and
        // zeroing writes each byte of the union.
        unsafe { std::mem::zeroed() }
    }
}

impl std::fmt::Debug for WireAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}

impl WireAddress {
    /// Holds `address` from now on.
    pub(super) fn write(&mut self, address: SocketAddr) {
        *self = Self::default();
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: address.ip().to_bits().to_be(),
                    },
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
            }
        }
    }

    /// The address; `None` when it is of no family known here.
    pub(super) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: all bytes of the union have been written (zeroed, then an address
        // by `write` or by the kernel), and any bytes are valid for these integers.
        unsafe {
            match libc::c_int::from(self.family) {
                libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from_bits(u32::from_be(self.v4.sin_addr.s_addr)),
                    u16::from_be(self.v4.sin_port),
                ))),
                libc::AF_INET6 => Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(self.v6.sin6_addr.s6_addr),
                    u16::from_be(self.v6.sin6_port),
                    u32::from_be(self.v6.sin6_flowinfo),
                    self.v6.sin6_scope_id,
                ))),
                _ => None,
            }
        }
    }

    /// Bytes of it that the kernel is to read.
    pub(super) fn len(&self) -> libc::socklen_t {
        // SAFETY: as in `read`.
        let family = unsafe { self.family };
        let bytes = if libc::c_int::from(family) == libc::AF_INET {
            size_of::<libc::sockaddr_in>()
        } else {
            size_of::<libc::sockaddr_in6>()
        };
        bytes as libc::socklen_t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("192.0.2.7:4791")]
    #[case("[2001:db8::5]:4791")]
    #[case("[fe80::1%3]:9")]
    fn an_address_comes_back_as_it_was_written(#[case] text: SocketAddr) {
        let mut wire = WireAddress::default();
        assert_eq!(wire.read(), None);
        wire.write(text);
        assert_eq!(wire.read(), Some(text));
    }
}
