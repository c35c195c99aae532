//! A whole target in this process: modelled SSDs, the software adapter on a
//! loopback address of its own, and what must hold of it when all is over.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sidelane::devices::ModelDevices;
use sidelane::stats::StatsReport;
use sidelane::{Options, Target};
use sidelane_config::Config;
use sidelane_nvme::model::{
    ModelBus, ModelCmb, ModelController, ModelMemory, ModelNamespace, ModelOptions, ModelPmr,
};
use sidelane_p2p::PciAddress;
use sidelane_transport::soft::port::OpenError;

use super::good_host;

/// The subsystem of most tests. Namespace 1 is an SSD whose payload has to go
/// through its own memory, namespace 2 one whose payload goes through the host's.
pub const DISK: &str = "nqn.2026-11.io.sidelane:disk";
/// A subsystem that takes data in capsules: namespace 1 is an SSD.
pub const CAPSULE: &str = "nqn.2026-11.io.sidelane:capsule";
/// Hosts that may connect.
pub const GOOD: &str = "nqn.2026-11.io.sidelane:good";
/// As [`GOOD`], by its name only.
pub const BAD: &str = "nqn.2026-11.io.sidelane:bad";

/// Bytes of each modelled SSD.
pub const SSD_BYTES: u64 = 4 << 20;
/// Bytes of a memory buffer.
pub const CMB_BYTES: usize = 1 << 20;
/// Where the memory card is.
const CARD: PciAddress = PciAddress {
    domain: 0,
    bus: 10,
    device: 0,
    function: 0,
};
/// Longest command of an SSD, as a power of two of 4 KiB pages: 64 KiB, far less
/// than the target takes from its hosts.
pub const SSD_MDTS: u8 = 4;

/// How long anything may take that is to happen soon.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Receive buffers of a reactor.
const SLOTS: u64 = 8192;

/// Addresses tried before the machine is taken to be full.
const TRIES: usize = 16;

/// How to make a target.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Cores, one reactor each.
    pub cores: &'static str,
    /// All after the `[target]` and `[[listener]]` sections.
    pub rest: String,
    /// SSDs that have a memory buffer, from the first.
    pub cmbs: u8,
}

impl Default for Layout {
    fn default() -> Self {
        let hosts = format!("hosts = [\"{GOOD}\", \"{BAD}\"]");
        let rest = format!(
            r#"
[[subsystem]]
nqn = "{DISK}"
in_capsule = 0
{hosts}
[[subsystem.namespace]]
nsid = 1
backend = {{ kind = "nvme", device = "0000:01:00.0", nsid = 1 }}
p2p = "require"
[[subsystem.namespace]]
nsid = 2
backend = {{ kind = "nvme", device = "0000:02:00.0", nsid = 1 }}
p2p = "off"

[[subsystem]]
nqn = "{CAPSULE}"
in_capsule = "4 KiB"
{hosts}
[[subsystem.namespace]]
nsid = 1
backend = {{ kind = "nvme", device = "0000:03:00.0", nsid = 1 }}
p2p = "off"
"#
        );
        Self {
            cores: "[0]",
            rest,
            cmbs: 1,
        }
    }
}

/// A running target and what it is made of.
pub struct Bench {
    target: Option<Target>,
    /// Where it listens.
    pub remote: SocketAddr,
    /// Its SSDs, by PCI bus from 1.
    pub ssds: Vec<ModelController>,
    /// A memory card at 0000:0a:00.0, of [`CMB_BYTES`] in BAR 2.
    pub card: ModelMemory,
    folder: tempfile::TempDir,
}

impl Bench {
    /// Starts a target, at an address that nobody has.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(layout: &Layout) -> anyhow::Result<Self> {
        Self::start_with(layout, |_| {})
    }

    /// One whose SSDs are like `change` makes them.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(layout: &Layout, change: fn(&mut ModelOptions)) -> anyhow::Result<Self> {
        watch_for_panics();
        with_free(|address| {
            let folder = tempfile::tempdir()?;
            let control = folder.path().join("control.sock");
            let config = config(layout, address, &control)?;
            let bus = ModelBus::new();
            let ssds = changed_ssds(&bus, layout.cmbs, change);
            let card = ModelMemory::new(&bus, CARD, 2, CMB_BYTES);
            let devices = ModelDevices::new(bus, ssds.clone()).with_memory([card.clone()]);
            let target = Target::start(&config, devices, Options::default())?;
            Ok(Self {
                target: Some(target),
                remote: SocketAddr::new(address, 4420),
                ssds,
                card,
                folder,
            })
        })
    }

    /// The target of most tests.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn usual() -> anyhow::Result<Self> {
        Self::start(&Layout::default())
    }

    /// Its control socket.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// What it has counted.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn stats(&self) -> anyhow::Result<StatsReport> {
        Ok(self.target.as_ref().context("stopped")?.stats())
    }

    /// Waits until the statistics are as wanted.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn until(
        &self,
        what: &str,
        wanted: impl Fn(&StatsReport) -> bool,
    ) -> anyhow::Result<StatsReport> {
        let start = Instant::now();
        loop {
            let stats = self.stats()?;
            if wanted(&stats) {
                return Ok(stats);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{what} did not come about: {stats:#?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until every connection, buffer and response slot has been given back.
    ///
    /// # Errors
    /// When something stays behind, or a thread of the target has panicked.
    pub fn nothing_left(&self) -> anyhow::Result<StatsReport> {
        let stats = self.until("the end of all connections", |stats| {
            let idle = stats.reactors.iter().all(|r| r.connections == 0);
            idle && stats.controllers.is_empty() && stats.pools.iter().all(|p| p.in_use_bytes == 0)
        })?;
        for reactor in &stats.reactors {
            ensure!(
                reactor.unspent_permits == 0,
                "a response was lost: {reactor:?}"
            );
            let count = |state| reactor.states.get(state).copied().unwrap_or_default();
            // Every slot that was taken has been posted again; those that took
            // something of a connection that had ended never were.
            ensure!(
                count("posted") >= SLOTS + count("received"),
                "slots were lost: {reactor:?}"
            );
        }
        no_panics()?;
        Ok(stats)
    }

    /// A well-behaved host still gets what it asks for, and afterwards nothing
    /// is left behind.
    ///
    /// # Errors
    /// When it does not, or something is.
    pub fn healthy(&self) -> anyhow::Result<StatsReport> {
        good_host::verified_io(self.remote, DISK, &[1, 2], 1, 24)
            .context("a well-behaved host afterwards")?;
        self.nothing_left()
    }

    /// Stops it.
    ///
    /// # Errors
    /// When that is not in order, takes too long, or a thread has panicked.
    pub fn stop(mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.target.take().context("stopped twice")?.stop()?;
        no_panics()?;
        Ok(start.elapsed())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            // Whatever the test has found comes first.
            let _ = target.stop();
        }
    }
}

/// The configuration of a layout.
///
/// # Errors
/// When it is not a good one.
pub fn config(
    layout: &Layout,
    address: IpAddr,
    control: &std::path::Path,
) -> anyhow::Result<Config> {
    let text = format!(
        "[target]\ncontrol = \"{}\"\ncores = {}\n\n[[listener]]\nid = \"soft\"\nnic = \"soft\"\naddress = \"{address}\"\n{}",
        control.display(),
        layout.cores,
        layout.rest
    );
    Ok(Config::parse(&text, "the test")?)
}

/// Three SSDs, on PCI buses 1 to 3; the first so many have a memory buffer, and
/// the third has a persistent memory region.
pub fn ssds(bus: &ModelBus, cmbs: u8) -> Vec<ModelController> {
    changed_ssds(bus, cmbs, |_| {})
}

/// The same, where `change` has the last word on each.
fn changed_ssds(bus: &ModelBus, cmbs: u8, change: fn(&mut ModelOptions)) -> Vec<ModelController> {
    (1..=3)
        .map(|number| {
            let mut options = ModelOptions {
                address: PciAddress {
                    domain: 0,
                    bus: number,
                    device: 0,
                    function: 0,
                },
                serial: format!("BENCH{number}"),
                namespaces: vec![ModelNamespace::of_bytes(SSD_BYTES)],
                cmb: (number <= cmbs).then(|| ModelCmb::new(CMB_BYTES)),
                pmr: (number == 3).then(|| ModelPmr::new(CMB_BYTES)),
                mdts: SSD_MDTS,
                ..ModelOptions::default()
            };
            change(&mut options);
            ModelController::new(bus, options)
        })
        .collect()
}

/// A loopback address by chance.
pub fn random_address() -> IpAddr {
    let bits = RandomState::new().hash_one(std::process::id());
    let [a, b, c, ..] = bits.to_le_bytes();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)).into()
}

/// Calls `open` with addresses until it does not fail for one that is in use.
///
/// # Errors
/// When it fails for another reason, or for too many addresses.
pub fn with_free<T>(mut open: impl FnMut(IpAddr) -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 0..TRIES {
        match open(random_address()) {
            Err(error) if in_use(&error) => {}
            outcome => return outcome,
        }
    }
    bail!("{TRIES} addresses were all in use")
}

fn in_use(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<OpenError>());
    causes.any(|cause| matches!(cause, OpenError::InUse { .. }))
}

static PANICS: AtomicUsize = AtomicUsize::new(0);
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// From now on panics of the target's threads are remembered.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let ours = ["reactor-", "ssd-", "control"];
            if ours.iter().any(|start| name.starts_with(start)) {
                PANICS.fetch_add(1, Ordering::SeqCst);
                *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) =
                    format!("{name}: {info}");
            }
            before(info);
        }));
    });
}

fn no_panics() -> anyhow::Result<()> {
    if PANICS.load(Ordering::SeqCst) == 0 {
        return Ok(());
    }
    let last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    bail!("the target has panicked: {last}")
}
