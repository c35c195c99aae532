//! Whether memory is fit for a set of clients, and why bytes go the way they
//! go. The codes are counted and shown: their names never change.

use std::fmt;

use crate::topology::{Route, Topology};
use crate::{PciAddress, Placement};

/// Why a command's payload goes by peer memory, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathReason {
    /// It goes by peer memory.
    Peer,
    /// Host memory was asked for.
    HostByPolicy,
    /// No device offers memory.
    NoProvider,
    /// A client cannot reach the memory.
    NoRoute,
    /// The controller does not take data of this direction in its own memory.
    DirectionUnsupported,
    /// The topology has a route, and a transfer by it was tried and failed.
    ProbeFailed,
    /// The host sent the data inside the command's capsule, and capsules are
    /// received in host memory.
    InCapsule,
    /// The NIC cannot register memory of this device.
    NicUnsupported,
    /// The device's memory cannot be exported as a dma-buf, the form in which
    /// NICs register it.
    NotExported,
    /// The memory was taken away while in use.
    Revoked,
    /// The memory is mapped for the devices of one owner (VFIO, or the kernel),
    /// and the namespace's device is the other's.
    OtherOwner,
}

impl PathReason {
    /// Every reason, for tables of counters.
    pub const ALL: [Self; 11] = [
        Self::Peer,
        Self::HostByPolicy,
        Self::NoProvider,
        Self::NoRoute,
        Self::DirectionUnsupported,
        Self::ProbeFailed,
        Self::InCapsule,
        Self::NicUnsupported,
        Self::NotExported,
        Self::Revoked,
        Self::OtherOwner,
    ];

    /// Its name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::HostByPolicy => "host-by-policy",
            Self::NoProvider => "no-provider",
            Self::NoRoute => "no-route",
            Self::DirectionUnsupported => "direction-unsupported",
            Self::ProbeFailed => "probe-failed",
            Self::InCapsule => "in-capsule",
            Self::NicUnsupported => "nic-unsupported",
            Self::NotExported => "not-exported",
            Self::Revoked => "revoked",
            Self::OtherOwner => "other-owner",
        }
    }
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who drives a device, and so for whose devices memory is mapped.
///
/// A BAR under vfio-pci has addresses in this process's I/O address space only;
/// memory that the kernel publishes has them for the kernel's drivers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Realm {
    /// This process, by VFIO.
    Vfio,
    /// The kernel's drivers.
    Kernel,
    /// Either will do: memory that both map, or no device at all.
    Both,
}

impl Realm {
    /// Whether devices of this realm can be given memory of that one.
    #[must_use]
    pub fn takes(self, memory: Self) -> bool {
        self == memory || self == Self::Both || memory == Self::Both
    }

    /// Why devices of this realm cannot have memory of the other.
    #[must_use]
    pub fn refusal(self) -> Fitness {
        let (text, remedy) = match self {
            Self::Kernel => (
                "it is mapped for devices under vfio-pci, and the kernel drives the namespace's device",
                "name a provider of memory that the kernel publishes, or bind the SSD to vfio-pci and \
                 use backend kind \"nvme\"",
            ),
            Self::Vfio | Self::Both => (
                "it is mapped for the kernel's drivers, and the namespace's SSD is under vfio-pci",
                "name a provider of kind \"cmb\", \"pmr\" or \"bar\", or leave the SSD to the kernel \
                 and use another backend",
            ),
        };
        Fitness {
            code: PathReason::OtherOwner,
            text: text.to_owned(),
            remedy: Some(remedy.to_owned()),
            route: None,
        }
    }
}

/// A judgement of memory for a set of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitness {
    /// [`PathReason::Peer`] when it is fit, peer memory; why not, otherwise.
    pub code: PathReason,
    /// The judgement in words.
    pub text: String,
    /// What would make it better, where something would.
    pub remedy: Option<String>,
    /// The way there, for peer memory.
    pub route: Option<Route>,
}

impl Fitness {
    /// Whether the memory is peer memory that every client reaches.
    pub fn is_peer(&self) -> bool {
        self.code == PathReason::Peer
    }
}

/// Judges memory at `placement` for PCI functions that would do DMA to it. A
/// software NIC is no such function: it reaches any memory that the CPU does.
///
/// This is what topology says. A probe transfer has to prove it.
pub fn verdict(topology: &Topology, placement: Placement, clients: &[PciAddress]) -> Fitness {
    let Placement::Peer { device, .. } = placement else {
        return Fitness {
            code: PathReason::HostByPolicy,
            text: "host memory: every device reaches it, and none of it is peer memory".to_owned(),
            remedy: None,
            route: None,
        };
    };
    let route = topology.route_all(device, clients);
    let code = if route.is_possible() {
        PathReason::Peer
    } else {
        PathReason::NoRoute
    };
    Fitness {
        code,
        text: route.reason.clone(),
        remedy: route.remedy.clone(),
        route: Some(route),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::fixture;

    #[test]
    fn names_are_distinct_and_in_kebab_case() {
        let names: std::collections::BTreeSet<_> =
            PathReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), PathReason::ALL.len());
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        );
    }

    #[rstest::rstest]
    #[case(PathReason::NicUnsupported, "nic-unsupported")]
    #[case(PathReason::NotExported, "not-exported")]
    #[case(PathReason::Revoked, "revoked")]
    #[case(PathReason::OtherOwner, "other-owner")]
    fn what_keeps_a_device_from_peer_memory_has_names_that_stay(
        #[case] reason: PathReason,
        #[case] name: &str,
    ) {
        assert!(PathReason::ALL.contains(&reason));
        assert_eq!(reason.to_string(), name);
    }

    #[rstest::rstest]
    #[case::own_memory(&["0000:03:00.0"], PathReason::Peer)]
    #[case::neighbour(&["0000:03:00.0", "0000:04:00.0"], PathReason::Peer)]
    #[case::far(&["0000:06:00.0"], PathReason::NoRoute)]
    #[case::one_of_them_far(&["0000:04:00.0", "0000:06:00.0"], PathReason::NoRoute)]
    #[case::nobody(&[], PathReason::NoRoute)]
    fn memory_is_fit_when_every_client_reaches_it(
        #[case] clients: &[&str],
        #[case] expected: PathReason,
    ) {
        let root = tempfile::tempdir().unwrap();
        let topology = fixture::lab(root.path()).unwrap();
        let clients: Vec<_> = clients.iter().map(|text| text.parse().unwrap()).collect();
        let placement = Placement::Peer {
            device: "0000:03:00.0".parse().unwrap(),
            bar: 2,
        };
        let fitness = verdict(&topology, placement, &clients);
        assert_eq!(fitness.code, expected, "{}", fitness.text);
        assert_eq!(fitness.is_peer(), fitness.remedy.is_none());
    }

    #[rstest::rstest]
    #[case(Realm::Vfio, Realm::Vfio, true)]
    #[case(Realm::Kernel, Realm::Kernel, true)]
    #[case(Realm::Vfio, Realm::Kernel, false)]
    #[case(Realm::Kernel, Realm::Vfio, false)]
    #[case(Realm::Both, Realm::Kernel, true)]
    #[case(Realm::Vfio, Realm::Both, true)]
    fn memory_is_for_the_devices_of_its_owner(
        #[case] device: Realm,
        #[case] memory: Realm,
        #[case] taken: bool,
    ) {
        assert_eq!(device.takes(memory), taken);
        let refusal = device.refusal();
        assert_eq!(refusal.code, PathReason::OtherOwner);
        assert!(refusal.remedy.is_some());
    }

    #[test]
    fn host_memory_is_never_called_peer() {
        let root = tempfile::tempdir().unwrap();
        let topology = fixture::lab(root.path()).unwrap();
        assert_eq!(
            verdict(&topology, Placement::Host, &[]).code,
            PathReason::HostByPolicy
        );
    }
}
