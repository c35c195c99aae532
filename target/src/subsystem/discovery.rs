//! The discovery log (NVMe 2.0, 5.16.1.23): what a host that came by one portal
//! may see.

use std::net::{IpAddr, SocketAddr};

use sidelane_nvme::spec::{
    AddressFamily, Ascii, CNTLID_DYNAMIC, DiscoveryEntry, DiscoveryHeader, Nqn, NqnField, RdmaTsas,
    SubsystemType, TransportType, Treq,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

/// Most entries of an admin queue that hosts are told to ask for.
pub const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// Where connections are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Identifies the port in discovery entries (PORTID).
    pub port_id: u16,
    /// Own address and port. An unspecified address stands for every address of
    /// its family that the machine has.
    pub address: SocketAddr,
}

/// The own address by which a host came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portal {
    /// Own address and port of the connection.
    pub address: SocketAddr,
}

impl Listener {
    /// The address to tell a host that came by `portal`; `None` when the listener
    /// is not reached there.
    fn seen_by(&self, portal: &Portal) -> Option<SocketAddr> {
        let (own, used) = (
            self.address.ip().to_canonical(),
            portal.address.ip().to_canonical(),
        );
        // One of IPv6 takes no IPv4, so that there can be both.
        let fits = own == used || (own.is_unspecified() && own.is_ipv6() == used.is_ipv6());
        fits.then(|| SocketAddr::new(used, self.address.port()))
    }
}

fn entry(port_id: u16, address: SocketAddr, subsystem: &Nqn) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::default();
    entry.trtype = TransportType::Rdma;
    entry.adrfam = match address.ip() {
        IpAddr::V4(_) => AddressFamily::Ipv4,
        IpAddr::V6(_) => AddressFamily::Ipv6,
    };
    entry.subtype = SubsystemType::Nvm;
    entry.treq = Treq::new().with_disable_sq_flow_control(true);
    entry.portid = U16::new(port_id);
    entry.cntlid = U16::new(CNTLID_DYNAMIC);
    entry.asqsz = U16::new(ADMIN_QUEUE_ENTRIES);
    entry.trsvcid = Ascii::new(&address.port().to_string());
    entry.subnqn = NqnField::from(subsystem);
    entry.traddr = Ascii::new(&address.ip().to_string());
    entry.tsas = RdmaTsas::roce_v2();
    entry
}

/// The log as bytes: the header, then an entry for each subsystem at each
/// listener that `portal` reaches.
pub(super) fn log_page<'a>(
    generation: u64,
    subsystems: impl Iterator<Item = &'a Nqn> + Clone,
    listeners: &[Listener],
    portal: &Portal,
) -> Vec<u8> {
    let entries: Vec<DiscoveryEntry> = listeners
        .iter()
        .filter_map(|listener| Some((listener.port_id, listener.seen_by(portal)?)))
        .flat_map(|(port_id, at)| subsystems.clone().map(move |nqn| entry(port_id, at, nqn)))
        .collect();
    let mut header = DiscoveryHeader::default();
    header.genctr = U64::new(generation);
    header.numrec = U64::new(entries.len() as u64);
    let mut log = header.as_bytes().to_vec();
    log.extend_from_slice(entries.as_bytes());
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_shown_at_the_address_that_the_host_used() {
        let cases = [
            ("192.0.2.1:4420", "192.0.2.1:4420", Some("192.0.2.1:4420")),
            ("192.0.2.1:4421", "192.0.2.1:4420", Some("192.0.2.1:4421")),
            ("192.0.2.2:4420", "192.0.2.1:4420", None),
            ("0.0.0.0:4420", "192.0.2.1:4420", Some("192.0.2.1:4420")),
            ("[::]:4420", "192.0.2.1:4420", None),
            (
                "[::]:4420",
                "[2001:db8::1]:4420",
                Some("[2001:db8::1]:4420"),
            ),
            ("0.0.0.0:4420", "[2001:db8::1]:4420", None),
            (
                "192.0.2.1:4420",
                "[::ffff:192.0.2.1]:4420",
                Some("192.0.2.1:4420"),
            ),
        ];
        for (listener, portal, seen) in cases {
            let listener = Listener {
                port_id: 1,
                address: listener.parse().unwrap(),
            };
            let portal = Portal {
                address: portal.parse().unwrap(),
            };
            let expected = seen.map(|text| text.parse::<SocketAddr>().unwrap());
            assert_eq!(
                listener.seen_by(&portal),
                expected,
                "{listener:?} {portal:?}"
            );
        }
    }
}
