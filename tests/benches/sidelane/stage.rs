//! A target with modelled SSDs and a null backend, and a host's endpoint, in
//! this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use sidelane::devices::{Devices, ModelDevices};
use sidelane::initiator::{Endpoint, EndpointOptions, HostOptions, ProcessMemory};
use sidelane::stats::StatsReport;
use sidelane::{Options, Target};
use sidelane_config::Config;
use sidelane_nvme::Backing;
use sidelane_nvme::model::{
    ModelBacking, ModelBus, ModelCmb, ModelController, ModelNamespace, ModelOptions,
};
use sidelane_nvme::spec::{HostId, offset};
use sidelane_p2p::provider::{Fitness, MemoryFunction};
use sidelane_p2p::{DmaSpace, PciAddress, Placement};
use sidelane_tests::hooked::{Hook, Hooked, Memory};
use sidelane_transport::soft;
use tempfile::TempDir;
use uuid::Uuid;

use super::load::DATA_BYTES;

/// An SSD with a memory buffer, through which all payload goes.
pub const PEER: u32 = 1;
/// An SSD whose payload goes through host memory.
pub const HOST: u32 = 2;
/// No SSD at all.
pub const NULL: u32 = 3;

/// Bytes of a modelled SSD.
pub const SSD_BYTES: u64 = 32 << 20;

/// Entries of the host's I/O queue.
const DEPTH: u16 = 65;

/// Free addresses are drawn by chance so often.
const TRIES: usize = 16;

/// Doorbells of I/O queues that SSDs have heard.
#[derive(Debug, Default)]
pub struct Doorbells {
    /// For commands.
    pub submission: AtomicU64,
    /// For completions that were taken.
    pub completion: AtomicU64,
}

struct Listen(Arc<Doorbells>);

impl Hook for Listen {
    fn write32(&self, model: &ModelBacking, _memory: &Memory, at: u32, value: u32) {
        // The admin queue has the first two.
        if let Some(index) = at.checked_sub(offset::DOORBELLS + 8) {
            let count = match index / 4 % 2 {
                0 => &self.0.submission,
                _ => &self.0.completion,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        model.write32(at, value);
    }
}

/// Models whose doorbells are counted.
struct CountedDevices {
    models: ModelDevices,
    doorbells: Arc<Doorbells>,
}

impl Devices for CountedDevices {
    type Backing = Hooked<Listen>;

    fn open(&self, address: PciAddress) -> anyhow::Result<Hooked<Listen>> {
        let model = self.models.open(address)?;
        Ok(Hooked::new(model, Listen(Arc::clone(&self.doorbells))))
    }

    fn open_memory(&self, address: PciAddress) -> anyhow::Result<Arc<dyn MemoryFunction>> {
        self.models.open_memory(address)
    }

    fn space(&self) -> Arc<dyn DmaSpace> {
        self.models.space()
    }

    fn verdict(&self, memory: Placement, clients: &[PciAddress]) -> Fitness {
        self.models.verdict(memory, clients)
    }
}

/// A running target.
pub struct Stage {
    target: Target,
    remote: SocketAddr,
    /// Of all SSDs together.
    pub doorbells: Arc<Doorbells>,
    ssds: Vec<ModelController>,
    _folder: TempDir,
}

fn ssd(bus: &ModelBus, place: u8, cmb: Option<ModelCmb>) -> ModelController {
    let options = ModelOptions {
        address: PciAddress {
            domain: 0,
            bus: place,
            device: 0,
            function: 0,
        },
        serial: format!("BENCH{place}"),
        namespaces: vec![ModelNamespace::of_bytes(SSD_BYTES).in_4k_blocks()],
        cmb,
        ..ModelOptions::default()
    };
    ModelController::new(bus, options)
}

fn config(address: IpAddr, folder: &TempDir) -> anyhow::Result<Config> {
    let control = folder.path().join("control.sock");
    let text = format!(
        r#"
        [target]
        control = "{}"
        cores = [0]
        [[listener]]
        id = "loopback"
        nic = "soft"
        address = "{address}"
        [[provider]]
        id = "cmb"
        kind = "cmb"
        device = "0000:03:00.0"
        [[subsystem]]
        nqn = "nqn.2026-11.io.sidelane:bench"
        in_capsule = 0
        allow_any_host = true
        [[subsystem.namespace]]
        nsid = {PEER}
        backend = {{ kind = "nvme", device = "0000:03:00.0", nsid = 1 }}
        p2p = "require"
        provider = "cmb"
        [[subsystem.namespace]]
        nsid = {HOST}
        backend = {{ kind = "nvme", device = "0000:04:00.0", nsid = 1 }}
        p2p = "off"
        [[subsystem.namespace]]
        nsid = {NULL}
        backend = {{ kind = "null", size = "1 GiB", block = 4096 }}
        p2p = "off"
        "#,
        control.display()
    );
    Ok(Config::parse(&text, "bench.toml")?)
}

/// Calls `open` with an address of this machine until one is free.
pub fn with_free<T>(mut open: impl FnMut(IpAddr) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut outcome = Err(anyhow::anyhow!("not tried"));
    for _ in 0..TRIES {
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        outcome = open(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)).into());
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

impl Stage {
    /// Starts it.
    pub fn open() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let doorbells = Arc::new(Doorbells::default());
        let (target, remote, ssds) = with_free(|address| {
            let bus = ModelBus::new();
            let ssds = vec![
                ssd(&bus, 3, Some(ModelCmb::new(32 << 20))),
                ssd(&bus, 4, None),
            ];
            let devices = CountedDevices {
                models: ModelDevices::new(bus, ssds.clone()),
                doorbells: Arc::clone(&doorbells),
            };
            let config = config(address, &folder)?;
            let target = Target::start(&config, devices, Options::default())?;
            Ok((target, SocketAddr::new(address, 4420), ssds))
        })?;
        Ok(Self {
            target,
            remote,
            doorbells,
            ssds,
            _folder: folder,
        })
    }

    /// An adapter for a host.
    pub fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let (mut nics, cm) = with_free(|address| Ok(soft::open(address, 1)?))?;
        let nic = nics.pop().context("an adapter without parts")?;
        let options = EndpointOptions {
            io_queues: 1,
            depth: DEPTH,
            data_len: DATA_BYTES,
        };
        let endpoint = Endpoint::open(Box::new(nic), Box::new(cm), &ProcessMemory, options);
        Ok(endpoint?)
    }

    /// Whom a host connects to.
    pub fn host_options(&self) -> anyhow::Result<HostOptions> {
        let options = HostOptions::new(
            self.remote,
            "nqn.2026-11.io.sidelane:bench".parse()?,
            "nqn.2026-11.io.sidelane:bench-host".parse()?,
            HostId([3; 16]),
        );
        Ok(HostOptions {
            depth: DEPTH,
            ..options
        })
    }

    /// What the target has counted.
    pub fn stats(&self) -> StatsReport {
        self.target.stats()
    }

    /// From now on the SSDs work on a thread of their own, as real ones do, not
    /// on the one that rings their doorbell.
    pub fn ssds_by_themselves(&self) -> anyhow::Result<SsdThread> {
        let stop = Arc::new(AtomicBool::new(false));
        self.ssds.iter().for_each(|ssd| ssd.set_defer(true));
        let (ssds, stopped) = (self.ssds.clone(), Arc::clone(&stop));
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                if !ssds.iter().fold(false, |any, ssd| any | ssd.step()) {
                    std::thread::yield_now();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("ssd".to_owned())
            .spawn(run)?;
        Ok(SsdThread {
            ssds: self.ssds.clone(),
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it in order.
    pub fn close(self) -> anyhow::Result<()> {
        self.target.stop()
    }
}

/// SSDs that work by themselves, until this is dropped.
pub struct SsdThread {
    ssds: Vec<ModelController>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SsdThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for ssd in &self.ssds {
            ssd.set_defer(false);
            while ssd.step() {}
        }
    }
}
