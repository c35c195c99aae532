//! RDMA through rdma-core: libibverbs for the adapters, librdmacm for
//! connection management. For hardware adapters, and for the kernel's software
//! ones (rxe, siw).
//!
//! [`open`] is the whole of it for the target: from the addresses to listen on
//! it learns which RDMA devices are meant, opens each, with one
//! [`Nic`](crate::nic::Nic) per reactor, and gives the one [`RdmaCm`] that
//! answers for all of them. What can go wrong before anything is served is an
//! [`OpenError`]; it tells the thing, the reason and the remedy.
//!
//! All unsafe code is in [`ffi`]: nothing else here calls rdma-core, or holds
//! what it returned.

mod adapter;
mod cm;
#[cfg(test)]
mod double;
mod explain;
pub mod ffi;
mod flusher;
mod nic;
mod registration;
mod send_queue;
mod tag;
mod worker;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::adapter::{AdapterSettings, VerbsAdapter};
pub use self::cm::{
    ListenerPhase, ListenerState, ListenerStates, NeededDevice, RdmaCm, RdmaCmCounters,
};
pub use self::nic::VerbsNic;

/// Why RDMA hardware cannot be used for what was asked. Each says the reason and
/// the remedy in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The kernel's part of connection management.
    #[error("RDMA connection management cannot be used: {reason}; {remedy}")]
    ConnectionManager {
        /// What the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// An address to listen on.
    #[error("cannot listen on {at} for RDMA: {reason}; {remedy}")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// What the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// An RDMA device.
    #[error("RDMA device {name} cannot be used: {reason}; {remedy}")]
    Adapter {
        /// Its name, as `rdma dev` lists it.
        name: String,
        /// What was tried and what the system said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}

/// What [`open`] found and opened.
pub struct Opened {
    /// The RDMA devices, in the order in which [`RdmaCm`] counts them.
    pub adapters: Vec<OpenedAdapter>,
    /// Connection management for all of them, bound but not listening:
    /// [`ConnectionManager::listen`](crate::cm::ConnectionManager::listen) for
    /// each address lets hosts in.
    pub cm: RdmaCm,
}

/// Opens a device by its name, as `rdma dev` lists it: one that was removed and
/// is back.
///
/// # Errors
/// When it is not there, or cannot be used.
pub fn reopen(
    name: &str,
    settings: AdapterSettings,
) -> Result<(Arc<VerbsAdapter>, Vec<VerbsNic>), OpenError> {
    VerbsAdapter::open(name, settings)
}

/// An opened RDMA device.
pub struct OpenedAdapter {
    /// The device as a whole.
    pub adapter: Arc<VerbsAdapter>,
    /// Its parts, one a reactor.
    pub parts: Vec<VerbsNic>,
    /// The addresses that it serves, by their place in the list.
    pub listeners: Vec<usize>,
}

/// Binds to the addresses, and opens the RDMA devices that they belong to; for a
/// wildcard all devices that have an active port, except those that cannot be
/// opened, which are left out with a warning.
///
/// # Errors
/// When connection management is not to be had, when an address cannot be
/// listened on, or when a device that an address names cannot be opened, or none
/// that a wildcard means.
pub fn open(listen: &[SocketAddr], settings: AdapterSettings) -> Result<Opened, OpenError> {
    let mut cm = RdmaCm::bind(listen)?;
    let adapters = open_devices(cm.devices()?, |device| {
        let (adapter, parts) = VerbsAdapter::open(&device.name, settings)?;
        Ok(OpenedAdapter {
            adapter,
            parts,
            listeners: device.listeners.clone(),
        })
    })?;
    let (names, adapters) = adapters.into_iter().unzip();
    cm.set_adapters(names);
    Ok(Opened { adapters, cm })
}

/// Opens the devices that can be opened. Those that only wildcards mean may
/// fail, as long as each wildcard is left with one.
fn open_devices<T>(
    devices: Vec<NeededDevice>,
    mut open: impl FnMut(&NeededDevice) -> Result<T, OpenError>,
) -> Result<Vec<(String, T)>, OpenError> {
    let mut opened = Vec::new();
    let mut served = HashSet::new();
    let mut left_out = Vec::new();
    for device in devices {
        match open(&device) {
            Ok(adapter) => {
                served.extend(device.listeners);
                opened.push((device.name, adapter));
            }
            Err(error) if device.named => return Err(error),
            Err(error) => left_out.push((device, error)),
        }
    }
    for (device, error) in left_out {
        if !device.listeners.iter().all(|at| served.contains(at)) {
            return Err(error);
        }
        tracing::warn!(%error, "an RDMA device is left out");
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, listeners: &[usize], named: bool) -> NeededDevice {
        NeededDevice {
            name: name.to_owned(),
            listeners: listeners.to_vec(),
            named,
        }
    }

    /// Names of what is opened, or of what fails, when these are broken.
    fn outcome(devices: &[NeededDevice], broken: &[&str]) -> Result<Vec<String>, String> {
        let opened = open_devices(devices.to_vec(), |device| {
            let error = OpenError::Adapter {
                name: device.name.clone(),
                reason: "broken".to_owned(),
                remedy: "mend it".to_owned(),
            };
            match broken.contains(&device.name.as_str()) {
                true => Err(error),
                false => Ok(()),
            }
        });
        match opened {
            Ok(opened) => Ok(opened.into_iter().map(|(name, ())| name).collect()),
            Err(OpenError::Adapter { name, .. }) => Err(name),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_device_may_be_broken_if_only_a_wildcard_means_it_and_another_serves_that() {
        let devices = [device("a", &[0, 1], true), device("b", &[0], false)];
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(outcome(&devices, &[]), Ok(names(&["a", "b"])));
        assert_eq!(outcome(&devices, &["b"]), Ok(names(&["a"])));
        assert_eq!(outcome(&devices, &["a"]), Err("a".to_owned()));
        assert_eq!(outcome(&devices, &["a", "b"]), Err("a".to_owned()));
        assert_eq!(outcome(&devices[1..], &["b"]), Err("b".to_owned()));
    }
}
