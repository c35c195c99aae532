//! A kernel for tests: it keeps a diary of what it was asked, and refuses what
//! it is told to.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfio_bindings::bindings::vfio as uapi;

use super::Container;
use super::kernel::{DeviceInfo, IommuInfo, IrqInfo, Kernel, RegionInfo};
use crate::MemView;

/// Where the configuration space is in a device's file.
const CONFIG_OFFSET: u64 = 7 << 40;

pub(super) struct Fake {
    pub(super) refuses: Mutex<BTreeMap<&'static str, i32>>,
    pub(super) viable: Mutex<bool>,
    pub(super) device_flags: Mutex<u32>,
    pub(super) bar_sparse: Mutex<Option<Vec<(u64, u64)>>>,
    pub(super) bar_flags: Mutex<u32>,
    pub(super) vectors: Mutex<u32>,
    pub(super) config: Mutex<Vec<u8>>,
    diary: Arc<Mutex<Vec<String>>>,
    /// The name of each open file, and the other end of its pipe.
    files: Mutex<BTreeMap<RawFd, (String, io::PipeReader)>>,
    /// The files on which each kind of interrupt counts.
    triggers: Mutex<BTreeMap<u32, Vec<OwnedFd>>>,
}

/// Writes a line when dropped.
struct Epitaph(Arc<Mutex<Vec<String>>>, String);

impl Drop for Epitaph {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::mem::take(&mut self.1));
    }
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            refuses: Mutex::default(),
            viable: Mutex::new(true),
            device_flags: Mutex::new(uapi::VFIO_DEVICE_FLAGS_PCI | uapi::VFIO_DEVICE_FLAGS_RESET),
            bar_sparse: Mutex::default(),
            bar_flags: Mutex::new(7),
            vectors: Mutex::new(4),
            config: Mutex::new(vec![0; 256]),
            diary: Arc::default(),
            files: Mutex::default(),
            triggers: Mutex::default(),
        })
    }

    pub(super) fn container(self: &Arc<Self>) -> Arc<Container> {
        Container::open_with(Arc::clone(self) as Arc<dyn Kernel>).unwrap()
    }

    /// From now on, the call of that name fails with that error.
    pub(super) fn refuse(&self, call: &'static str, errno: i32) {
        self.refuses.lock().unwrap().insert(call, errno);
    }

    /// What was asked since last looked; questions are left out.
    pub(super) fn diary(&self) -> Vec<String> {
        std::mem::take(&mut *self.diary.lock().unwrap())
    }

    fn note(&self, call: &'static str, text: String) -> io::Result<()> {
        if let Some(&errno) = self.refuses.lock().unwrap().get(call) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if !text.is_empty() {
            self.diary.lock().unwrap().push(format!("{call} {text}"));
        }
        Ok(())
    }

    fn file(&self, name: String) -> OwnedFd {
        let (reader, writer) = io::pipe().unwrap();
        let fd = OwnedFd::from(writer);
        self.files
            .lock()
            .unwrap()
            .insert(fd.as_raw_fd(), (name, reader));
        fd
    }

    fn name(&self, fd: BorrowedFd<'_>) -> String {
        self.files.lock().unwrap()[&fd.as_raw_fd()].0.clone()
    }

    /// Whether any file of that name is still open.
    pub(super) fn is_open(&self, name: &str) -> bool {
        let files = self.files.lock().unwrap();
        files
            .values()
            .filter(|(other, _)| other == name)
            .any(|(_, reader)| {
                let mut ends = [PollFd::new(reader, PollFlags::IN)];
                poll(
                    &mut ends,
                    Some(&Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    }),
                )
                .unwrap();
                !ends[0].revents().contains(PollFlags::HUP)
            })
    }

    /// The first interrupt of that kind happens, if anyone wants to know.
    pub(super) fn fire(&self, index: u32) -> bool {
        let triggers = self.triggers.lock().unwrap();
        let Some(fd) = triggers.get(&index).and_then(|fds| fds.first()) else {
            return false;
        };
        rustix::io::write(fd, &1_u64.to_ne_bytes()) == Ok(8)
    }

    fn memory(&self, len: usize, name: String) -> MemView {
        let epitaph = Epitaph(Arc::clone(&self.diary), format!("munmap {name}"));
        MemView::anonymous(len).keeping(Arc::new(epitaph))
    }
}

impl Kernel for Fake {
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let call = if name == "vfio" { "open" } else { "open_group" };
        self.note(call, name.clone())?;
        Ok(self.file(name))
    }

    fn api_version(&self, _: BorrowedFd<'_>) -> io::Result<u32> {
        Ok(uapi::VFIO_API_VERSION)
    }

    fn has_extension(&self, _: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
        let type1 = !self.refuses.lock().unwrap().contains_key("type1");
        Ok(type1 && extension == uapi::VFIO_TYPE1v2_IOMMU)
    }

    fn set_iommu(&self, _: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
        self.note("set_iommu", kind.to_string())
    }

    fn iommu_info(&self, _: BorrowedFd<'_>) -> io::Result<IommuInfo> {
        self.note("iommu_info", String::new())?;
        let ranges = vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];
        Ok(IommuInfo {
            page_sizes: 0x1000,
            ranges,
        })
    }

    fn map_dma(&self, _: BorrowedFd<'_>, memory: &MemView, iova: u64) -> io::Result<()> {
        self.note("map", format!("{iova:#x} {:#x}", memory.len()))
    }

    fn unmap_dma(&self, _: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<u64> {
        self.note("unmap", format!("{iova:#x} {len:#x}"))
            .map(|()| len)
    }

    fn is_viable(&self, _: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(*self.viable.lock().unwrap())
    }

    fn set_container(&self, group: BorrowedFd<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        self.note("join", self.name(group))
    }

    fn unset_container(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        self.note("leave", self.name(group))
    }

    fn device(&self, _: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
        let name = name.to_str().unwrap().to_owned();
        self.note("device", name.clone())?;
        Ok(self.file(name))
    }

    fn device_info(&self, _: BorrowedFd<'_>) -> io::Result<DeviceInfo> {
        Ok(DeviceInfo {
            flags: *self.device_flags.lock().unwrap(),
        })
    }

    fn region_info(&self, _: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
        if index == uapi::VFIO_PCI_CONFIG_REGION_INDEX {
            return Ok(RegionInfo {
                flags: 3,
                size: 256,
                offset: CONFIG_OFFSET,
                sparse: None,
            });
        }
        let sparse = self.bar_sparse.lock().unwrap().clone();
        let flags = *self.bar_flags.lock().unwrap();
        let size = if index == 0 { 0x4000 } else { 0x400_0000 };
        Ok(RegionInfo {
            flags,
            size,
            offset: u64::from(index) << 40,
            sparse,
        })
    }

    fn irq_info(&self, _: BorrowedFd<'_>, index: u32) -> io::Result<IrqInfo> {
        let (call, count) = match index {
            uapi::VFIO_PCI_ERR_IRQ_INDEX => ("err_info", 1),
            uapi::VFIO_PCI_REQ_IRQ_INDEX => ("req_info", 1),
            _ => ("irq_info", *self.vectors.lock().unwrap()),
        };
        self.note(call, String::new())?;
        let flags = uapi::VFIO_IRQ_INFO_EVENTFD | uapi::VFIO_IRQ_INFO_NORESIZE;
        Ok(IrqInfo { flags, count })
    }

    fn set_triggers(&self, _: BorrowedFd<'_>, index: u32, fds: &[OwnedFd]) -> io::Result<()> {
        self.note("triggers", format!("{index} {}", fds.len()))?;
        let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        self.triggers.lock().unwrap().insert(index, fds);
        Ok(())
    }

    fn probe_feature(&self, _: BorrowedFd<'_>, feature: u32) -> io::Result<()> {
        assert_eq!(feature, uapi::VFIO_DEVICE_FEATURE_DMA_BUF);
        self.note("export", String::new())
    }

    fn export_dma_buf(
        &self,
        device: BorrowedFd<'_>,
        bar: u32,
        offset: u64,
        len: u64,
    ) -> io::Result<OwnedFd> {
        let name = format!("{} BAR {bar}", self.name(device));
        self.note("export", format!("{name} {offset:#x} {len:#x}"))?;
        Ok(self.file(format!("dma-buf of {name}")))
    }

    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.note("reset", self.name(device))
    }

    fn map_device(&self, device: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MemView> {
        let name = format!("{} BAR {}", self.name(device), offset >> 40);
        self.note("mmap", format!("{name} {len:#x}"))?;
        Ok(self.memory(len, name))
    }

    fn map_anonymous(&self, len: usize) -> io::Result<MemView> {
        self.note("anonymous", String::new())?;
        Ok(self.memory(len, "anonymous".to_owned()))
    }

    fn read_at(&self, _: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = usize::try_from(offset - CONFIG_OFFSET).unwrap();
        into.copy_from_slice(&self.config.lock().unwrap()[at..at + into.len()]);
        Ok(into.len())
    }

    fn write_at(&self, _: BorrowedFd<'_>, from: &[u8], offset: u64) -> io::Result<usize> {
        let at = usize::try_from(offset - CONFIG_OFFSET).unwrap();
        self.note("config", format!("{at:#x} {from:02x?}"))?;
        self.config.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
        Ok(from.len())
    }

    fn memlock_limit(&self) -> Option<u64> {
        Some(65536)
    }
}
