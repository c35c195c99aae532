//! What the demo plays on: a temporary folder, modelled SSDs, a target that
//! serves them, and an endpoint for the host; and how it is taken down again.

use std::fs::DirBuilder;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity};
use sidelane_config::Config;
use sidelane_nvme::Backing;
use sidelane_nvme::model::{
    ModelBus, ModelCmb, ModelController, ModelNamespace, ModelOptions, Place,
};
use sidelane_p2p::PciAddress;
use sidelane_transport::soft;
use uuid::Uuid;

use super::addresses::{self, Addresses, OpenFailure};
use super::proof::Expected;
use super::{DemoError, DemoOptions};
use crate::devices::ModelDevices;
use crate::initiator::{Endpoint, EndpointOptions, ProcessMemory};
use crate::stats::StatsReport;
use crate::target::{Options, Target};

/// Bytes of the Controller Memory Buffer: enough for some commands of the
/// longest kind, and far too small to hold what is written.
const CMB_BYTES: usize = 32 << 20;

/// BAR of a modelled controller in which its memory buffer is.
const CMB_BAR: u8 = 2;

/// A namespace of the demo: identifier, policy, and the SSD behind it.
pub struct Scene {
    /// Namespace identifier.
    pub nsid: u32,
    /// `require` or `off`, as the configuration says.
    pub p2p: &'static str,
    /// The SSD.
    pub ssd: ModelController,
    /// Bus addresses of the SSD's memory buffer, if it has one.
    cmb: Option<std::ops::Range<u64>>,
}

/// All of it, running.
pub struct Stage {
    /// The namespaces, in the order in which they are shown.
    pub scenes: Vec<Scene>,
    /// The host's end.
    pub endpoint: Endpoint,
    /// Where the target listens.
    pub remote: SocketAddr,
    target: Target,
    /// Removed when all else is gone.
    _folder: Folder,
}

impl Stage {
    /// Starts everything.
    pub fn open(options: &DemoOptions) -> Result<Self, DemoError> {
        let folder = Folder::new().map_err(DemoError::Folder)?;
        let opened = addresses::with_free(|ends| {
            let bus = ModelBus::new();
            let scenes = scenes(&bus, options.bytes)?;
            let config = config(ends.target, &folder, &scenes)?;
            let models = scenes.iter().map(|scene| scene.ssd.clone());
            // The initiator first: when its address is in use, nothing else has
            // to be taken down again.
            let (endpoint, remote) = (endpoint(ends, options)?, remote(&config)?);
            let devices = ModelDevices::new(bus, models);
            let target = Target::start(&config, devices, Options::default())?;
            Ok((scenes, endpoint, remote, target))
        });
        let (scenes, endpoint, remote, target) = opened.map_err(|failure| match failure {
            OpenFailure::AllInUse { tries, last } => DemoError::Addresses { tries, last },
            OpenFailure::Other(error) => DemoError::Target(error),
        })?;
        for scene in &scenes {
            scene.ssd.restart_record(true);
        }
        Ok(Self {
            scenes,
            endpoint,
            remote,
            target,
            _folder: folder,
        })
    }

    /// What the target has counted.
    pub fn stats(&self) -> StatsReport {
        self.target.stats()
    }

    /// Ends it, the host's end first.
    pub fn close(self) -> Result<(), DemoError> {
        let Self {
            scenes,
            endpoint,
            target,
            _folder,
            ..
        } = self;
        drop(endpoint);
        let outcome = target.stop().map_err(DemoError::Target);
        drop(scenes);
        outcome
    }
}

impl Scene {
    /// The memory in which this namespace's payload has to be: the SSD's own for
    /// `require`, as its BAR says; the target's pools in host memory for `off`.
    pub fn expected(&self, stats: &StatsReport) -> Expected {
        match &self.cmb {
            Some(range) => Expected {
                name: format!("cmb of {}", self.ssd.address()),
                ranges: vec![range.clone()],
                place: Place::OwnCmb,
            },
            None => {
                let pools = stats.pools.iter().filter(|pool| !pool.peer);
                Expected {
                    name: "host memory".to_owned(),
                    ranges: pools
                        .map(|pool| pool.address..pool.address + pool.bytes)
                        .collect(),
                    place: Place::Host,
                }
            }
        }
    }
}

/// Two SSDs on one bus, the first with a memory buffer.
fn scenes(bus: &ModelBus, bytes: u64) -> anyhow::Result<Vec<Scene>> {
    let ssd = |pci_bus, serial: &str, cmb| {
        let options = ModelOptions {
            address: PciAddress {
                domain: 0,
                bus: pci_bus,
                device: 0,
                function: 0,
            },
            serial: serial.to_owned(),
            namespaces: vec![ModelNamespace::of_bytes(bytes).in_4k_blocks()],
            cmb,
            ..ModelOptions::default()
        };
        ModelController::new(bus, options)
    };
    let with_cmb = ssd(3, "DEMO-WITH-CMB", Some(ModelCmb::new(CMB_BYTES)));
    let bar = with_cmb.backing().bar_info(CMB_BAR)?;
    let cmb = Some(bar.bus_address..bar.bus_address + bar.len as u64);
    let without = ssd(4, "DEMO-WITHOUT-CMB", None);
    Ok(vec![
        Scene {
            nsid: 1,
            p2p: "require",
            ssd: with_cmb,
            cmb,
        },
        Scene {
            nsid: 2,
            p2p: "off",
            ssd: without,
            cmb: None,
        },
    ])
}

/// The embedded configuration with its gaps filled.
fn config(address: IpAddr, folder: &Folder, scenes: &[Scene]) -> anyhow::Result<Config> {
    let slot = |at: usize| scenes.get(at).map(|scene| scene.ssd.address().to_string());
    let text = include_str!("config.toml")
        .replace(
            "{control}",
            &folder.0.join("control.sock").display().to_string(),
        )
        .replace("{core}", &core()?.to_string())
        .replace("{address}", &address.to_string())
        .replace("{ssd_with_cmb}", &slot(0).unwrap_or_default())
        .replace("{ssd_without}", &slot(1).unwrap_or_default());
    Config::parse(&text, "the demo's own configuration").map_err(anyhow::Error::from)
}

fn remote(config: &Config) -> anyhow::Result<SocketAddr> {
    let listener = config
        .listeners
        .first()
        .context("the demo's configuration has no listener")?;
    Ok(listener.socket_address())
}

fn endpoint(ends: Addresses, options: &DemoOptions) -> anyhow::Result<Endpoint> {
    let (mut nics, cm) = soft::open(ends.initiator, 1)?;
    let nic = nics.pop().context("an adapter without parts")?;
    let sizes = EndpointOptions {
        io_queues: 1,
        depth: options.depth + 1,
        data_len: usize::from(options.depth) * options.block_bytes as usize,
    };
    Ok(Endpoint::open(
        Box::new(nic),
        Box::new(cm),
        &ProcessMemory,
        sizes,
    )?)
}

/// A processor that this process may use, any of them: demos side by side are
/// better not all on the first.
fn core() -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(None).context("the processors of this process")?;
    let allowed: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let [.., random] = *Uuid::new_v4().as_bytes();
    let pick = usize::from(random) % allowed.len().max(1);
    allowed
        .get(pick)
        .copied()
        .context("this process may use no processor")
}

/// A folder of this demo's own.
struct Folder(PathBuf);

/// Longest folder in which a socket's path still fits its field of 108 bytes.
const FOLDER_LEN_MAX: usize = 90;

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = format!("sidelane-demo-{}", Uuid::new_v4().simple());
        let mut path = std::env::temp_dir().join(&name);
        if path.as_os_str().len() > FOLDER_LEN_MAX {
            path = Path::new("/tmp").join(&name);
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} was not removed", self.0.display());
        }
    }
}
