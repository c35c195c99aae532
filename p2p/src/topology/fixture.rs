//! Sysfs trees for tests: a folder that looks to [`Topology`] as `/sys` does,
//! symbolic links and all.

mod lab;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub use lab::lab;

use super::{Acs, CLASS_BRIDGE_PCI, CLASS_NVME, Topology, TopologyError};

/// Makes a tree, function by function.
#[derive(Debug)]
pub struct Builder {
    root: PathBuf,
}

/// A function to be put into a tree.
#[derive(Debug, Clone)]
pub struct Card<'a> {
    /// Host bridge, bridges and function, as in the real path below
    /// `/sys/devices`: `pci0000:00/0000:00:1c.0/0000:01:00.0`.
    pub path: &'a str,
    /// Vendor and device identifiers.
    pub id: (u16, u16),
    /// Class code, 24 bits.
    pub class: u32,
    /// The driver that has it.
    pub driver: Option<&'a str>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// BARs and windows: line, first address, length.
    pub memory: &'a [(usize, u64, u64)],
    /// Its access control settings.
    pub acs: Acs,
    /// For a virtual function, the path of its physical function.
    pub physfn: Option<&'a str>,
}

impl<'a> Card<'a> {
    /// An NVMe controller without driver, group or ACS.
    pub fn nvme(path: &'a str) -> Self {
        Self {
            path,
            id: (0x1b36, 0x0010),
            class: CLASS_NVME,
            driver: None,
            group: None,
            memory: &[],
            acs: Acs::Absent,
            physfn: None,
        }
    }

    /// A bridge without ACS.
    pub fn bridge(path: &'a str) -> Self {
        let driver = Some("pcieport");
        Self {
            id: (0x1b36, 0x000c),
            class: CLASS_BRIDGE_PCI,
            driver,
            ..Self::nvme(path)
        }
    }

    /// The same with all redirection on, as the kernel sets it under an IOMMU.
    #[must_use]
    pub fn redirecting(self) -> Self {
        let bits = Acs::REQUEST_REDIRECT | Acs::COMPLETION_REDIRECT | 0x11;
        Self {
            acs: Acs::Control(bits),
            ..self
        }
    }
}

impl Builder {
    /// A tree whose `/sys` is `folder/sys`, with an Intel CPU.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let root = folder.join("sys");
        fs::create_dir_all(root.join("bus/pci/devices"))?;
        let builder = Self { root };
        builder.cpu("GenuineIntel", 6)?;
        Ok(builder)
    }

    /// What stands for `/sys`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sets the CPU's maker and family.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn cpu(&self, vendor: &str, family: u32) -> io::Result<()> {
        let folder = self.root.join("../proc");
        fs::create_dir_all(&folder)?;
        let text = format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n"
        );
        fs::write(folder.join("cpuinfo"), text)
    }

    /// Adds a function.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn add(&self, card: &Card<'_>) -> io::Result<()> {
        let folder = self.root.join("devices").join(card.path);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("vendor"), format!("{:#06x}\n", card.id.0))?;
        fs::write(folder.join("device"), format!("{:#06x}\n", card.id.1))?;
        fs::write(folder.join("class"), format!("{:#08x}\n", card.class))?;
        fs::write(folder.join("numa_node"), "-1\n")?;
        fs::write(folder.join("current_link_speed"), "16.0 GT/s PCIe\n")?;
        fs::write(folder.join("current_link_width"), "4\n")?;
        fs::write(folder.join("resource"), resource_lines(card.memory))?;
        fs::write(folder.join("config"), config(card.acs))?;
        if let Some(driver) = card.driver {
            self.link(&folder.join("driver"), &format!("bus/pci/drivers/{driver}"))?;
        }
        if let Some(group) = card.group {
            self.link(
                &folder.join("iommu_group"),
                &format!("kernel/iommu_groups/{group}"),
            )?;
        }
        if let Some(physfn) = card.physfn {
            self.link(&folder.join("physfn"), &format!("devices/{physfn}"))?;
        }
        let name = Path::new(card.path).file_name().unwrap_or_default();
        symlink(&folder, self.root.join("bus/pci/devices").join(name))
    }

    /// Adds an RDMA device: on what stands at `path` below `/sys/devices` (the
    /// path of a function, or a part of it), or made of software.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn rdma(&self, name: &str, path: Option<&str>) -> io::Result<()> {
        let parent = self.root.join("devices").join(path.unwrap_or("virtual"));
        let folder = parent.join("infiniband").join(name);
        fs::create_dir_all(&folder)?;
        if path.is_some() {
            symlink(&parent, folder.join("device"))?;
        }
        let class = self.root.join("class/infiniband");
        fs::create_dir_all(&class)?;
        symlink(&folder, class.join(name))
    }

    /// Reads the tree.
    ///
    /// # Errors
    /// When something in it is not as the kernel has it.
    pub fn load(&self) -> Result<Topology, TopologyError> {
        Topology::load(&self.root)
    }

    fn link(&self, from: &Path, to: &str) -> io::Result<()> {
        let to = self.root.join(to);
        fs::create_dir_all(&to)?;
        symlink(to, from)
    }
}

/// The file has 13 lines for a function, one more per window of a bridge.
fn resource_lines(memory: &[(usize, u64, u64)]) -> String {
    (0..17)
        .map(|line| {
            let found = memory.iter().find(|(index, ..)| *index == line);
            let (start, end, flags) = found.map_or((0, 0, 0), |&(_, start, len)| {
                // A controller's registers are in its first BAR; all else is
                // memory that may be prefetched.
                let flags = if line == 0 { 0x14_0204 } else { 0x14_220c };
                (start, start + len - 1, flags)
            });
            format!("{start:#018x} {end:#018x} {flags:#018x}\n")
        })
        .collect()
}

/// A configuration space with an ACS capability, without one, or cut as for a
/// reader without privilege.
fn config(acs: Acs) -> Vec<u8> {
    let mut config = vec![0; 4096];
    match acs {
        Acs::Absent => {}
        Acs::Unreadable => config.truncate(64),
        Acs::Control(bits) => {
            config[0x100..0x104].copy_from_slice(&0x0001_000d_u32.to_le_bytes());
            config[0x106..0x108].copy_from_slice(&bits.to_le_bytes());
        }
    }
    config
}
