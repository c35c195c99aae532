//! Asking a discovery controller what there is (Base 5.16.1.23).

use std::net::SocketAddr;

use sidelane_nvme::spec::{DiscoveryEntry, DiscoveryHeader, HostId, Nqn};

use super::host::{Data, Host};
use super::memory::ADMIN_DATA_LEN;
use super::{Endpoint, HostError, HostOptions, command};

/// Entries that this host reads.
const ENTRIES_MAX: u64 = 4096;

/// How often the log may change under the reader before it gives up.
const TRIES: usize = 5;

impl Endpoint {
    /// Reads the discovery log of the target at `remote`, as host `hostnqn`.
    ///
    /// # Errors
    /// When the target cannot be connected to, or its log cannot be read.
    pub fn discover(
        &mut self,
        remote: SocketAddr,
        hostnqn: &Nqn,
        hostid: HostId,
    ) -> Result<Vec<DiscoveryEntry>, HostError> {
        let subnqn = command::discovery_nqn()?;
        let options = HostOptions {
            kato_ms: 0,
            ..HostOptions::new(remote, subnqn.clone(), hostnqn.clone(), hostid)
        };
        let mut host = Host::new(self, options);
        host.enable(&subnqn)?;
        let entries = host.discovery_log()?;
        host.shut_down()?;
        Ok(entries)
    }
}

impl Host<'_> {
    /// The whole log, all of one generation.
    fn discovery_log(&mut self) -> Result<Vec<DiscoveryEntry>, HostError> {
        for _ in 0..TRIES {
            let before = self.log_header()?;
            let count = before.numrec.get();
            if before.recfmt.get() != 0 || count > ENTRIES_MAX {
                let what = format!(
                    "a discovery log of {count} records, format {}",
                    before.recfmt
                );
                return Err(HostError::protocol(0, what));
            }
            let mut entries = Vec::with_capacity(count as usize);
            while (entries.len() as u64) < count {
                let some: Box<[DiscoveryEntry; ADMIN_DATA_LEN / 1024]> =
                    self.log_part(1024 * (1 + entries.len() as u64), ADMIN_DATA_LEN)?;
                entries.extend(some.iter().take(count as usize - entries.len()));
            }
            if self.log_header()?.genctr == before.genctr {
                return Ok(entries);
            }
        }
        Err(HostError::protocol(
            0,
            "the discovery log changes faster than it can be read",
        ))
    }

    fn log_header(&mut self) -> Result<Box<DiscoveryHeader>, HostError> {
        self.log_part(0, size_of::<DiscoveryHeader>())
    }

    fn log_part<T>(&mut self, at: u64, len: usize) -> Result<Box<T>, HostError>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes,
    {
        self.endpoint.memory.admin_clear()?;
        let sge = self.endpoint.memory.admin_sge(len);
        let sqe = command::discovery_log(at, len);
        self.command("Get Log Page (discovery)", 0, sqe, Data::Keyed(sge))?;
        Ok(self.endpoint.memory.admin_read()?)
    }
}
