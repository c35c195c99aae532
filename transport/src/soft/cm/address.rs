//! How IP addresses and ports appear in InfiniBand connection management: global
//! identifiers, service identifiers, and the IP header that a request carries in
//! its private data (InfiniBand Architecture, annex A11, "RDMA IP CM service").

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::messages::Gid;

/// Bytes of the IP header at the start of a request's private data.
pub const IP_HEADER_LEN: usize = 36;

/// Service identifiers of the port space that Linux calls `RDMA_PS_TCP`, less
/// the port: the IP CM service prefix and protocol 6 (A11.2.1).
const TCP_SERVICES: u64 = 0x0000_0000_0106_0000;

/// The IP header (A11.2.2, figure "IP addressing CM REQ message private data").
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
struct IpHeader {
    /// Major version in the upper half, minor in the lower; both 0.
    version: u8,
    /// 4 or 6 in the upper half.
    ip_version: u8,
    /// The sender's port.
    port: U16,
    source: [u8; 16],
    destination: [u8; 16],
}

const _: () = assert!(size_of::<IpHeader>() == IP_HEADER_LEN);

/// The global identifier of an address on RoCEv2 (A17.4.1.2).
pub fn gid(address: IpAddr) -> Gid {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that a global identifier stands for on RoCEv2.
pub fn address(gid: &Gid) -> IpAddr {
    Ipv6Addr::from(*gid).to_canonical()
}

/// The service identifier of a port.
pub fn service_id(port: u16) -> u64 {
    TCP_SERVICES | u64::from(port)
}

/// The port of a service identifier; `None` in another port space.
pub fn port_of(service_id: u64) -> Option<u16> {
    let port = (service_id & 0xffff) as u16;
    (service_id == self::service_id(port)).then_some(port)
}

/// The IP header for a connection from `from` to `to`.
pub fn write_ip_header(from: SocketAddr, to: IpAddr) -> [u8; IP_HEADER_LEN] {
    let header = IpHeader {
        version: 0,
        ip_version: if to.is_ipv4() { 4 << 4 } else { 6 << 4 },
        port: from.port().into(),
        source: field(from.ip()),
        destination: field(to),
    };
    zerocopy::transmute!(header)
}

/// Reads the IP header of a request that came from `from` to `own`, two addresses
/// of one family, and gives the sender's port and the consumer's own private data.
/// `None` when it is not one, or names other addresses: on RoCEv2 they are those
/// of the packet.
pub fn read_ip_header(private_data: &[u8], from: IpAddr, own: IpAddr) -> Option<(u16, &[u8])> {
    let (header, rest) = IpHeader::read_from_prefix(private_data).ok()?;
    let family = if own.is_ipv4() { 4 } else { 6 };
    let fits = header.version == 0
        && header.ip_version >> 4 == family
        && is_field_of(&header.source, from)
        && is_field_of(&header.destination, own);
    fits.then_some((header.port.get(), rest))
}

/// The bytes before an IPv4 address mean nothing.
fn is_field_of(bytes: &[u8; 16], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => bytes.ends_with(&v4.octets()),
        IpAddr::V6(v6) => *bytes == v6.octets(),
    }
}

/// IPv4 stands in the last four bytes, the others being 0.
fn field(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped() {
        let address_: IpAddr = "192.168.77.2".parse().unwrap();
        let gid = gid(address_);
        assert_eq!(gid[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(gid[12..], [192, 168, 77, 2]);
        assert_eq!(address(&gid), address_);
    }

    #[test]
    fn nvme_over_rdma_has_its_service_identifier() {
        assert_eq!(service_id(4420), 0x0106_1144);
        assert_eq!(port_of(0x0106_1144), Some(4420));
        assert_eq!(port_of(0x0111_1144), None);
        assert_eq!(port_of(0x1_0106_1144), None);
    }

    #[rstest::rstest]
    #[case("10.1.2.3:777", "10.1.2.4", 0x40)]
    #[case("[2001:db8::1]:9", "2001:db8::2", 0x60)]
    fn the_ip_header_is_read_as_written(
        #[case] from: SocketAddr,
        #[case] to: IpAddr,
        #[case] version: u8,
    ) {
        let header = write_ip_header(from, to);
        assert_eq!(header[..2], [0, version]);
        let read = |header: &[u8]| read_ip_header(header, from.ip(), to).map(|(port, _)| port);
        assert_eq!(read(&header), Some(from.port()));
        assert_eq!(read(&header[..35]), None, "cut short");
        // Version, family, and the last byte of each address.
        for (at, bits) in [(0, 0x10), (1, 0x20), (19, 1), (35, 1)] {
            let mut other = header;
            other[at] ^= bits;
            assert_eq!(read(&other), None, "byte {at}");
        }
        let other: IpAddr = if to.is_ipv4() { "::1" } else { "127.0.0.1" }
            .parse()
            .unwrap();
        assert_eq!(
            read_ip_header(&header, other, other),
            None,
            "another family"
        );
    }
}
