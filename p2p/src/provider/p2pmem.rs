//! Memory of an SSD that stays under the kernel's nvme driver, which publishes
//! what it has for others (`drivers/pci/p2pdma.c`; `p2pmem` in the function's
//! folder in sysfs, from Linux 6.2 on with `allocate`, to be mapped).
//!
//! Made of pages, it may be named in direct I/O on storage that stays with the
//! kernel too, and the kernel checks the route of each transfer. It is device
//! memory all the same: the CPU reaches it by volatile access only. The kernel
//! takes it back when the driver lets go of the device: whoever touches it then
//! is killed (SIGBUS), so the driver is to be left alone while a target runs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Offer, OwnUse, Provider, ProviderError, Realm};
use crate::topology::{Resource, Topology};
use crate::vfio::map_shared;
use crate::{MemView, PciAddress, Placement, Region};

const PAGE: u64 = 4096;

/// Less is not tried when the kernel has no longer piece in one.
const LEAST: u64 = 64 << 10;

/// Offers memory that the kernel publishes.
pub struct P2pmemProvider {
    sysfs: PathBuf,
    address: PciAddress,
    size: Option<u64>,
}

impl P2pmemProvider {
    /// That of the function at `address`, in the tree at `sysfs` (usually
    /// `/sys`): so many bytes, or all that is left of it.
    pub fn new(sysfs: impl Into<PathBuf>, address: PciAddress, size: Option<u64>) -> Self {
        Self {
            sysfs: sysfs.into(),
            address,
            size,
        }
    }

    /// Whether it could be opened, as far as can be told without doing so. What is
    /// free of it may be another amount when it is opened, so nothing is said of
    /// that.
    ///
    /// # Errors
    /// When nothing is published, or less than is wanted.
    pub fn check(&self) -> Result<(), ProviderError> {
        let available = self.available()?;
        let all = number(&self.function().join("p2pmem/size"));
        match self.size.zip(all) {
            Some((_, all)) => self.len(all.max(available)).map(drop),
            None => Ok(()),
        }
    }

    fn function(&self) -> PathBuf {
        let functions = self.sysfs.join("bus/pci/devices");
        functions.join(self.address.to_string())
    }

    fn unfit(&self, reason: impl Into<String>) -> ProviderError {
        ProviderError::Unfit {
            name: self.name(),
            reason: reason.into(),
        }
    }

    /// Bytes that are free, when it may be had at all.
    fn available(&self) -> Result<u64, ProviderError> {
        let function = self.function();
        let folder = function.join("p2pmem");
        if !function.exists() {
            return Err(self.unfit("there is no such PCI function; see `lspci -D`"));
        }
        if !folder.exists() {
            let driver = fs::read_link(function.join("driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name);
            return Err(match driver.map(|name| name.to_string_lossy()).as_deref() {
                Some("nvme") => self.unfit(
                    "the kernel publishes none: the SSD has no controller memory buffer that holds \
                     read and write data, or one that is not aligned to 2 MiB, or the kernel is built \
                     without CONFIG_PCI_P2PDMA; see `dmesg` for its CMB",
                ),
                driver => self.unfit(format!(
                    "the kernel's nvme driver does not have it ({}); give it back to that driver, or \
                     write kind = \"cmb\" for an SSD under vfio-pci",
                    driver.map_or("nobody has".to_owned(), |name| format!("{name} has"))
                )),
            });
        }
        if text(&folder.join("published")).as_deref() != Some("1") {
            return Err(self.unfit(
                "the kernel's driver keeps it for itself (p2pmem/published is not 1); an SSD whose \
                 buffer holds both read and write data is needed",
            ));
        }
        if !folder.join("allocate").exists() {
            return Err(self.unfit(
                "this kernel hands it out to nobody (there is no p2pmem/allocate); Linux 6.2 or later \
                 is needed",
            ));
        }
        number(&folder.join("available"))
            .ok_or_else(|| self.unfit("p2pmem/available is unreadable"))
    }

    /// How much is taken.
    fn len(&self, available: u64) -> Result<u64, ProviderError> {
        let len = self.size.unwrap_or(available / PAGE * PAGE);
        if len == 0 || len > available {
            let size = number(&self.function().join("p2pmem/size")).unwrap_or(0);
            return Err(self.unfit(format!(
                "{len} bytes are wanted, and of its {size} bytes {available} are free; the driver's \
                 own queues take some (its parameter use_cmb_sqs), and so does every process that \
                 has mapped some"
            )));
        }
        Ok(len)
    }

    /// Maps `len` bytes. The kernel gives one piece, and what is free may be in
    /// several: unless a size was asked for, a shorter one will do.
    fn map(&self, mut len: u64) -> Result<MemView, ProviderError> {
        let path = self.function().join("p2pmem/allocate");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| self.explain(&error))?;
        loop {
            let bytes = usize::try_from(len).map_err(|_| self.unfit("it is too long to map"))?;
            match map_shared(file.as_fd(), 0, bytes) {
                Ok(view) => return Ok(view),
                Err(error) => {
                    let shorter = len / 8 * 7 / PAGE * PAGE;
                    let scattered = error.raw_os_error() == Some(libc::ENOMEM);
                    if !scattered || self.size.is_some() || shorter < LEAST {
                        return Err(self.explain(&error));
                    }
                    len = shorter;
                }
            }
        }
    }

    fn explain(&self, error: &io::Error) -> ProviderError {
        let remedy = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => "; run the target as root",
            Some(libc::ENOMEM) => "; what is free is in pieces: ask for a smaller size",
            Some(libc::ENODEV) => "; Linux 6.2 or later is needed",
            _ => "; see `dmesg`",
        };
        self.unfit(format!("it cannot be mapped: {error}{remedy}"))
    }

    /// The function's BARs.
    fn bars(&self) -> Vec<Resource> {
        let topology = Topology::load(&self.sysfs).ok();
        let function = topology.as_ref().and_then(|it| it.function(self.address));
        let resources = function.map(|function| function.resources.iter().copied());
        let bars = resources.into_iter().flatten();
        bars.filter(|it| it.index < 6 && it.is_memory()).collect()
    }

    /// The BAR that the controller says its buffer is in (CMBLOC.BIR), as the
    /// driver shows it.
    fn told_bar(&self) -> Option<u8> {
        let controllers = fs::read_dir(self.function().join("nvme")).ok()?;
        let location = controllers
            .flatten()
            .find_map(|entry| number(&entry.path().join("cmbloc")))?;
        Some((location & 7) as u8).filter(|bar| *bar < 6)
    }
}

impl Provider for P2pmemProvider {
    fn kind(&self) -> &'static str {
        "p2pmem"
    }

    fn name(&self) -> String {
        format!("p2pmem of {}", self.address)
    }

    fn placement(&self) -> Placement {
        Placement::Peer {
            device: self.address,
            bar: self.told_bar().unwrap_or(Placement::UNKNOWN_BAR),
        }
    }

    fn open(&self) -> Result<Offer, ProviderError> {
        let view = self.map(self.len(self.available()?)?)?;
        let bus = bus_address(&view);
        let holds = |address: u64| {
            let mut bars = self.bars().into_iter();
            let bar = bars.find(|it| (it.start..it.start + it.len).contains(&address))?;
            u8::try_from(bar.index).ok()
        };
        let bar = bus.and_then(holds).or_else(|| self.told_bar());
        // Without the right to know more, the address is the process's, and the
        // name says so.
        let (address, name) = match bus {
            Some(address) => (address, self.name()),
            None => (
                view.as_ptr() as u64,
                format!("{} (addresses are this process's)", self.name()),
            ),
        };
        let placement = Placement::Peer {
            device: self.address,
            bar: bar.unwrap_or(Placement::UNKNOWN_BAR),
        };
        Ok(Offer {
            region: Region::new(name, placement, address, view, Box::new(())),
            realm: Realm::Kernel,
            // The kernel publishes only what can hold both.
            own_use: OwnUse {
                reads: true,
                writes: true,
            },
        })
    }
}

/// Where a mapping begins for devices; on machines where they see memory as the
/// CPU does. `None` without the privilege to know (CAP_SYS_ADMIN), or when it is
/// not in one piece.
fn bus_address(view: &MemView) -> Option<u64> {
    /// One entry of `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`).
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let pages = File::open("/proc/self/pagemap").ok()?;
    let frame_of = |page: u64| {
        let mut entry = [0; 8];
        pages.read_exact_at(&mut entry, page * 8).ok()?;
        let entry = u64::from_ne_bytes(entry);
        Some(entry & FRAME).filter(|frame| entry & PRESENT != 0 && *frame != 0)
    };
    let first = view.as_ptr() as u64 / PAGE;
    let count = view.len() as u64 / PAGE;
    let start = frame_of(first)?;
    let last = frame_of(first + count.checked_sub(1)?)?;
    (last == start + count - 1).then(|| start * PAGE)
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::fixture::{Builder, Card};

    const SSD: &str = "0000:03:00.0";
    const MIB: u64 = 1 << 20;

    /// A tree with an SSD that publishes `available` bytes, and its folder.
    fn tree(root: &Path, available: u64) -> PathBuf {
        let builder = Builder::new(root).unwrap();
        let path = "pci0000:00/0000:00:01.0/0000:03:00.0";
        let memory = [(0, 0xfe00_0000, 0x4000), (2, 0x38_0000_0000, 64 * MIB)];
        let card = Card {
            driver: Some("nvme"),
            memory: &memory,
            ..Card::nvme(path)
        };
        builder.add(&card).unwrap();
        let function = builder.root().join("devices").join(path);
        let folder = function.join("p2pmem");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(function.join("nvme/nvme0")).unwrap();
        fs::write(function.join("nvme/nvme0/cmbloc"), "98\n").unwrap();
        for (name, value) in [
            ("size", 64 * MIB),
            ("available", available),
            ("published", 1),
        ] {
            fs::write(folder.join(name), format!("{value}\n")).unwrap();
        }
        // Mapped as the real one is.
        File::create(folder.join("allocate"))
            .unwrap()
            .set_len(available)
            .unwrap();
        function
    }

    fn provider(root: &Path, size: Option<u64>) -> P2pmemProvider {
        P2pmemProvider::new(root.join("sys"), SSD.parse().unwrap(), size)
    }

    #[rstest::rstest]
    #[case::all_of_it(None, MIB)]
    #[case::so_much_of_it(Some(64 << 10), 64 << 10)]
    fn published_memory_becomes_a_region_of_the_ssd(#[case] size: Option<u64>, #[case] len: u64) {
        let root = tempfile::tempdir().unwrap();
        tree(root.path(), MIB);
        let provider = provider(root.path(), size);
        let offer = provider.open().unwrap();
        assert_eq!(offer.region.len() as u64, len);
        assert_eq!(offer.realm, Realm::Kernel);
        let placement = Placement::Peer {
            device: SSD.parse().unwrap(),
            bar: 2,
        };
        assert_eq!(offer.region.placement(), placement);
        assert_eq!(provider.placement(), placement);
        // What the CPU writes is there.
        offer.region.view().write(0, b"here").unwrap();
        let mut bytes = [0; 4];
        offer.region.view().read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"here");
    }

    #[test]
    fn an_address_that_is_no_bus_address_is_told_as_such() {
        let root = tempfile::tempdir().unwrap();
        tree(root.path(), MIB);
        let region = provider(root.path(), None).open().unwrap().region;
        let is_mine = region.iova() == region.view().as_ptr() as u64;
        assert_eq!(
            region.name().contains("addresses are this process's"),
            is_mine
        );
    }

    #[test]
    fn a_bar_that_nobody_tells_is_said_to_be_unknown() {
        let root = tempfile::tempdir().unwrap();
        let function = tree(root.path(), MIB);
        fs::remove_dir_all(function.join("nvme")).unwrap();
        let Placement::Peer { bar, .. } = provider(root.path(), None).placement() else {
            panic!("it is peer memory");
        };
        assert_eq!(bar, Placement::UNKNOWN_BAR);
    }

    #[rstest::rstest]
    #[case::too_much(&[], Some(2 * MIB), "are free")]
    #[case::nothing_left(&[("available", "0")], None, "0 are free")]
    #[case::kept(&[("published", "0")], None, "keeps it for itself")]
    #[case::odd(&[("available", "much")], None, "unreadable")]
    fn what_cannot_be_had_is_refused_with_the_reason(
        #[case] changed: &[(&str, &str)],
        #[case] size: Option<u64>,
        #[case] said: &str,
    ) {
        let root = tempfile::tempdir().unwrap();
        let function = tree(root.path(), MIB);
        for (name, value) in changed {
            fs::write(function.join("p2pmem").join(name), value).unwrap();
        }
        let error = provider(root.path(), size).open().unwrap_err().to_string();
        assert!(error.contains(SSD) && error.contains(said), "{error}");
    }

    #[test]
    fn a_kernel_or_a_driver_without_it_is_told_from_one_another() {
        let root = tempfile::tempdir().unwrap();
        let function = tree(root.path(), MIB);
        let refusal = || provider(root.path(), None).open().unwrap_err().to_string();
        fs::remove_file(function.join("p2pmem/allocate")).unwrap();
        assert!(refusal().contains("Linux 6.2"), "{}", refusal());
        fs::remove_dir_all(function.join("p2pmem")).unwrap();
        assert!(
            refusal().contains("the kernel publishes none"),
            "{}",
            refusal()
        );
        fs::remove_file(function.join("driver")).unwrap();
        assert!(refusal().contains("nobody has"), "{}", refusal());
        fs::remove_file(root.path().join("sys/bus/pci/devices").join(SSD)).unwrap();
        assert!(refusal().contains("no such PCI function"), "{}", refusal());
    }
}
