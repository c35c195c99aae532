//! The shape of a configuration after parsing.
//!
//! Defaults are filled in and every rule between fields holds. Serialising gives the same shape that is
//! parsed, so a printed configuration can be read again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

mod backend;
mod provider;

pub use backend::Backend;
pub use provider::{Provider, ProviderChoice, ProviderKind};

use crate::{ByteSize, Nqn, Uuid};

/// Everything that `sidelane serve` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// `[target]`: the process itself.
    pub target: Target,
    /// `[[listener]]`: where hosts connect; at least one, ids and addresses unique.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// `[[provider]]`: memory for payload, in the order of the file; ids unique, and no two of the same
    /// memory.
    #[serde(rename = "provider", skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<Provider>,
    /// `[[subsystem]]`: what hosts connect to; at least one, NQNs unique.
    #[serde(rename = "subsystem")]
    pub subsystems: Vec<Subsystem>,
}

impl Config {
    /// What is no mistake, but may not be what was meant; one sentence each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.target.flush == Flush::Never {
            remarks.push(
                "flush = \"never\": an SSD may read what a buffer held before the data of a write \
                 arrived in it, unless `sidelane selftest` has shown otherwise on this machine"
                    .to_owned(),
            );
        }
        for subsystem in &self.subsystems {
            let nqn = &subsystem.nqn;
            if !subsystem.allow_any_host && subsystem.hosts.is_empty() {
                remarks.push(format!(
                    "no host may connect to subsystem `{nqn}`: it has neither hosts nor \
                     allow_any_host = true"
                ));
            }
            for namespace in &subsystem.namespaces {
                let named = self.providers_of(namespace);
                let no_peer = named.iter().all(|provider| !provider.is_peer());
                if let (true, Some(provider)) = (no_peer, named.first())
                    && namespace.p2p == P2pPolicy::Prefer
                {
                    remarks.push(format!(
                        "namespace {} of `{nqn}` prefers peer memory, but its provider `{}` is host \
                         memory, so all of its payload will go there",
                        namespace.nsid, provider.id
                    ));
                }
            }
        }
        remarks
    }

    /// The providers that a namespace names, in its order; none when it leaves the choice to the target.
    #[must_use]
    pub fn providers_of(&self, namespace: &Namespace) -> Vec<&Provider> {
        let ids = namespace.provider.ids().iter();
        ids.filter_map(|id| self.providers.iter().find(|provider| provider.id == *id))
            .collect()
    }
}

/// `[target]`: settings of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Unix socket of the control API; an absolute path, short enough for a socket.
    pub control: PathBuf,
    /// CPUs, by number; one reactor runs on each. Not empty, no number twice.
    pub cores: Vec<u16>,
    /// Entries a host may ask for in one I/O queue, 2 to 1024 (CAP.MQES plus one).
    pub max_queue_entries: u16,
    /// I/O queues a controller grants, 1 to 1024.
    pub max_io_queues: u16,
    /// When data that a NIC has placed is made visible before an SSD reads it.
    pub flush: Flush,
    /// Milliseconds after which an SSD that has not ended a command is asked to abort it, and then
    /// reset; 50 to 600,000.
    pub command_timeout_ms: u32,
}

/// When data that a NIC has placed is made visible to other devices, by reading its last byte back
/// through the same NIC, before an SSD is told to read it.
///
/// A NIC's completion does not say that its data has arrived in a third device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// Where the data is in peer memory.
    #[default]
    Auto,
    /// Wherever it is.
    Always,
    /// Never. An SSD may then read what was there before: for measurements, and for machines whose
    /// self-test has shown that they do not need it.
    Never,
}

impl Target {
    /// Where the control API listens when nothing else is said.
    pub const DEFAULT_CONTROL: &'static str = "/run/sidelane/control.sock";
}

impl Default for Target {
    fn default() -> Self {
        Self {
            control: PathBuf::from(Self::DEFAULT_CONTROL),
            cores: vec![0],
            max_queue_entries: 128,
            max_io_queues: 64,
            flush: Flush::Auto,
            command_timeout_ms: 12_000,
        }
    }
}

/// `[[listener]]`: an address at which hosts connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// The name that messages and statistics use.
    pub id: String,
    /// The kind of NIC behind the address.
    pub nic: NicKind,
    /// A unicast address of this machine, or, on verbs, the unspecified one for all of them;
    /// discovery then tells a host the address that it used.
    pub address: IpAddr,
    /// The service port, not 0.
    pub port: u16,
    /// Settings of a software NIC; `None` when the NIC is another. All listeners at one address have
    /// the same.
    #[serde(flatten)]
    pub soft: Option<SoftNic>,
}

/// Settings of a listener's software NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SoftNic {
    /// Whether packets may be handed to the kernel in runs, to be cut as late as it can.
    ///
    /// To be turned off for an interface that cuts them itself and does not count the identification
    /// of IPv4 up as Linux does: the invariant CRC covers it, and peers would drop all but the first.
    pub offload: bool,
    /// How far the invariant CRC of received packets is checked.
    pub icrc: IcrcCheck,
}

impl Default for SoftNic {
    fn default() -> Self {
        Self {
            offload: true,
            icrc: IcrcCheck::Auto,
        }
    }
}

/// How far a software NIC checks the invariant CRC of packets that come over IPv4.
///
/// It covers 16 bits that a UDP socket does not show and a raw socket does, which takes the privilege
/// CAP_NET_RAW. Over IPv6 the check is always whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IcrcCheck {
    /// Wholly where the privilege is there, else as far as a UDP socket shows it.
    #[default]
    Auto,
    /// Wholly, or the target does not start.
    Full,
    /// As far as a UDP socket shows it.
    Socket,
}

impl Listener {
    /// The NVMe/RDMA port that IANA registered.
    pub const DEFAULT_PORT: u16 = 4420;

    /// Address and port in one.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// What a listener's NIC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NicKind {
    /// RoCEv2 over a UDP socket; needs neither RDMA hardware nor privilege.
    Soft,
    /// The RDMA device that has the address, by rdma-core: hardware, or the kernel's `rdma_rxe`.
    Verbs,
}

impl NicKind {
    /// As it is written in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Verbs => "verbs",
        }
    }
}

/// `[[subsystem]]`: a set of namespaces under one name, and who may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subsystem {
    /// Its NVMe Qualified Name; never the discovery service's.
    pub nqn: Nqn,
    /// Serial number, 1 to 20 printable ASCII characters; derived from the NQN when not given.
    pub serial: String,
    /// Model number, 1 to 40 printable ASCII characters.
    pub model: String,
    /// Payload that a host may put into a command capsule: 0, or a multiple of 4096 bytes up to 16 KiB.
    /// Such payload lands in host memory; so it is 0 when a namespace has [`P2pPolicy::Require`].
    pub in_capsule: ByteSize,
    /// Any host may connect; `hosts` is empty then.
    pub allow_any_host: bool,
    /// The hosts that may connect; nobody else may.
    pub hosts: Vec<Nqn>,
    /// What it offers; at least one, `nsid` unique within the subsystem.
    #[serde(rename = "namespace")]
    pub namespaces: Vec<Namespace>,
}

impl Subsystem {
    /// What hosts see as the model when nothing else is said.
    pub const DEFAULT_MODEL: &'static str = "Sidelane";

    /// Whether a host with this NQN may connect.
    #[must_use]
    pub fn allows(&self, host_nqn: &str) -> bool {
        self.allow_any_host || self.hosts.iter().any(|host| host.as_str() == host_nqn)
    }
}

/// `[[subsystem.namespace]]`: one namespace, as a host sees it, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Namespace id, 1 to 1024.
    pub nsid: u32,
    /// Where its blocks are.
    pub backend: Backend,
    /// Whether payload goes by peer memory.
    pub p2p: P2pPolicy,
    /// Where its buffers come from.
    pub provider: ProviderChoice,
    /// Its UUID, unique; when not given, the target derives one from NQN and NSID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
}

/// Whether the payload of a namespace goes by peer memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum P2pPolicy {
    /// Never: payload goes by host memory.
    #[default]
    Off,
    /// Where it can; what could not is counted with its reason.
    Prefer,
    /// Always: the target refuses to start, or fails the command, rather than touch host memory.
    Require,
}

impl P2pPolicy {
    /// As it is written in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }
}
