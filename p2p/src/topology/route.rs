//! The way a client's requests take to a provider's memory.

use std::fmt::Write as _;

use super::{Function, Topology, hosts};
use crate::PciAddress;

/// The kind of way, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoutePath {
    /// The client's own memory: nothing leaves the device.
    SameDevice,
    /// Below one bridge, which passes requests on by their bus address.
    ThroughSwitch,
    /// Up to the root complex and down again, through the IOMMU.
    ThroughHostBridge,
    /// The hardware is not known to take the request there.
    NotPossible,
}

/// How a client reaches a provider, in terms an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Hops, as the kernel counts them: 0 for the same function, 2 between
    /// functions of one device, 4 below the same switch. For several clients,
    /// their sum.
    pub distance: u32,
    /// The kind of way; for several clients, the worst.
    pub path: RoutePath,
    /// Why it is so, in words.
    pub reason: String,
    /// What would make it better, where something would.
    pub remedy: Option<String>,
}

impl Route {
    /// Whether requests arrive at all.
    pub fn is_possible(&self) -> bool {
        self.path != RoutePath::NotPossible
    }

    fn impossible(reason: String, remedy: &str) -> Self {
        let remedy = Some(remedy.to_owned());
        Self {
            distance: 0,
            path: RoutePath::NotPossible,
            reason,
            remedy,
        }
    }
}

/// The two ways up to the first bridge that both have.
struct Meeting {
    distance: u32,
    common: Option<PciAddress>,
    /// Bridges and functions on the way that redirect, in the order met.
    redirecting: Vec<PciAddress>,
    /// Those whose settings cannot be read.
    unreadable: Vec<PciAddress>,
}

impl Topology {
    /// The way from `client` to memory on `provider`.
    ///
    /// Where access control settings cannot be read (that takes
    /// CAP_SYS_ADMIN), they are taken to redirect: the kernel turns that on
    /// wherever an IOMMU is on.
    pub fn route(&self, provider: PciAddress, client: PciAddress) -> Route {
        let find = |address| {
            self.function(address).ok_or_else(|| {
                Route::impossible(
                    format!("there is no PCI function {address}"),
                    "see `lspci -D` for the functions that there are",
                )
            })
        };
        match (find(provider), find(client)) {
            (Ok(provider), Ok(client)) => self.between(provider, client),
            (Err(route), _) | (_, Err(route)) => route,
        }
    }

    /// The way from every one of `clients` to memory on `provider`: distances
    /// add up, and it is not possible if it is not for one of them.
    pub fn route_all(&self, provider: PciAddress, clients: &[PciAddress]) -> Route {
        let routes = clients.iter().map(|&client| self.route(provider, client));
        let total = routes.reduce(|sum, next| {
            let distance = sum.distance.saturating_add(next.distance);
            let worse = if next.path > sum.path { next } else { sum };
            Route { distance, ..worse }
        });
        total.unwrap_or_else(|| {
            Route::impossible(
                format!("no device was named that would use memory on {provider}"),
                "name at least one",
            )
        })
    }

    fn between(&self, provider: &Function, client: &Function) -> Route {
        if provider.address == client.address {
            return Route {
                distance: 0,
                path: RoutePath::SameDevice,
                reason: format!("the memory is on {} itself", client.address),
                remedy: None,
            };
        }
        let meeting = self.meet(provider, client);
        match meeting.common {
            Some(common) if meeting.redirecting.is_empty() && meeting.unreadable.is_empty() => {
                Route {
                    distance: meeting.distance,
                    path: RoutePath::ThroughSwitch,
                    reason: format!(
                        "{} and {} are both below {common}, and nothing on the way redirects",
                        provider.address, client.address
                    ),
                    remedy: None,
                }
            }
            _ => self.through_host_bridge(provider, client, &meeting),
        }
    }

    fn meet(&self, provider: &Function, client: &Function) -> Meeting {
        let (ours, theirs) = (self.chain(provider), self.chain(client));
        let shared = ours
            .iter()
            .enumerate()
            .find_map(|(i, bridge)| Some((i, theirs.iter().position(|other| other == bridge)?)));
        let (up, down) = shared.map_or((ours.len(), theirs.len()), |(i, j)| (i, j));
        // The bridge where they meet decides too, and counts once.
        let way = ours
            .iter()
            .take(up + 1)
            .chain(theirs.iter().take(down))
            .copied();
        let (mut redirecting, mut unreadable) = (Vec::new(), Vec::new());
        for address in way {
            match self
                .function(address)
                .and_then(|function| function.acs.redirects())
            {
                Some(true) => redirecting.push(address),
                Some(false) => {}
                None => unreadable.push(address),
            }
        }
        let distance = u32::try_from(up + down).unwrap_or(u32::MAX);
        Meeting {
            distance,
            common: shared.map(|(i, _)| ours[i]),
            redirecting,
            unreadable,
        }
    }

    fn through_host_bridge(
        &self,
        provider: &Function,
        client: &Function,
        meeting: &Meeting,
    ) -> Route {
        let (cause, mut remedy) = cause_and_remedy(provider, client, meeting);
        let (path, judgement) = match self.forwarding_host(provider, client) {
            Ok(why) => (RoutePath::ThroughHostBridge, why),
            Err(why) => {
                if meeting.common.is_none() {
                    remedy = Some(format!(
                        "put both behind one PCIe switch, or use memory on {} itself or on a device nearer to it",
                        client.address
                    ));
                }
                (RoutePath::NotPossible, why)
            }
        };
        let reason = format!("{cause}; {judgement}");
        Route {
            distance: meeting.distance,
            path,
            reason,
            remedy,
        }
    }

    /// Why the root complex forwards between the two, or why it is not known to.
    fn forwarding_host(&self, provider: &Function, client: &Function) -> Result<String, String> {
        if self.cpu.forwards() {
            let family = self.cpu.family();
            return Ok(format!(
                "the CPU (AMD, family {family:#x}) forwards between root ports"
            ));
        }
        let same = provider.host_bridge == client.host_bridge;
        for end in [provider, client] {
            let Some(host) = self.host_bridge_device(end) else {
                return Err(format!("{} has no device to know it by", end.host_bridge));
            };
            if !hosts::known_to_forward(host, same) {
                return Err(format!(
                    "the host bridge {} ({:04x}:{:04x}) is not known to forward {}",
                    end.host_bridge,
                    host.vendor,
                    host.device,
                    if same {
                        "between its ports"
                    } else {
                        "to another host bridge"
                    }
                ));
            }
        }
        Ok(format!(
            "the host bridge {} is known to forward",
            provider.host_bridge
        ))
    }
}

fn cause_and_remedy(
    provider: &Function,
    client: &Function,
    meeting: &Meeting,
) -> (String, Option<String>) {
    if meeting.common.is_none() {
        let (a, b) = (provider.address, client.address);
        return (
            format!("{a} and {b} share no bridge below the root complex"),
            None,
        );
    }
    if meeting.redirecting.is_empty() {
        let cause = format!(
            "whether {} redirects (ACS) cannot be read, so it is taken to",
            list(&meeting.unreadable, ", ")
        );
        return (
            cause,
            Some("run with CAP_SYS_ADMIN, which reading it takes".to_owned()),
        );
    }
    let cause = format!(
        "peer requests are sent up to the root complex by ACS redirect on {}",
        list(&meeting.redirecting, ", ")
    );
    let remedy = format!(
        "boot with pci=disable_acs_redir={} (this merges IOMMU groups, and every member must then be under vfio-pci)",
        list(&meeting.redirecting, ";")
    );
    (cause, Some(remedy))
}

fn list(addresses: &[PciAddress], separator: &str) -> String {
    let mut text = String::new();
    for (i, address) in addresses.iter().enumerate() {
        let separator = if i == 0 { "" } else { separator };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{address}");
    }
    text
}

#[cfg(test)]
mod tests;
