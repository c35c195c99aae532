//! The kernel itself: system calls, each with a safe face.
//!
//! Unsafe is allowed here because ioctl and mmap take raw addresses.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};
use vfio_bindings::bindings::vfio as uapi;

use super::kernel::{DeviceInfo, IommuInfo, IrqInfo, Kernel, RegionInfo};
use super::words;
use crate::MemView;

/// A request number: `_IO(VFIO_TYPE, VFIO_BASE + n)`, which carries no size.
const fn request(n: u32) -> u32 {
    uapi::_IOC_NONE << uapi::_IOC_DIRSHIFT
        | (uapi::VFIO_TYPE as u32) << uapi::_IOC_TYPESHIFT
        | (uapi::VFIO_BASE + n) << uapi::_IOC_NRSHIFT
}

const GET_API_VERSION: u32 = request(0);
const CHECK_EXTENSION: u32 = request(1);
const SET_IOMMU: u32 = request(2);
const GROUP_GET_STATUS: u32 = request(3);
const GROUP_SET_CONTAINER: u32 = request(4);
const GROUP_UNSET_CONTAINER: u32 = request(5);
const GROUP_GET_DEVICE_FD: u32 = request(6);
const DEVICE_GET_INFO: u32 = request(7);
const DEVICE_GET_REGION_INFO: u32 = request(8);
const DEVICE_GET_IRQ_INFO: u32 = request(9);
const DEVICE_SET_IRQS: u32 = request(10);
const DEVICE_RESET: u32 = request(11);
const DEVICE_FEATURE: u32 = request(17);
// The IOMMU driver of a container counts from 12 again.
const IOMMU_GET_INFO: u32 = request(12);
const IOMMU_MAP_DMA: u32 = request(13);
const IOMMU_UNMAP_DMA: u32 = request(14);

/// No info structure with its chain is longer than this, in bytes.
const MAX_INFO_BYTES: u32 = 1 << 16;

/// The running kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linux;

/// # Safety
/// `arg` must be what `request` takes: a number, or the address of memory that
/// the kernel may read and write as that request does.
unsafe fn call(fd: BorrowedFd<'_>, request: u32, arg: usize) -> io::Result<i32> {
    // SAFETY: the caller vouches for the argument; the descriptor is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A request that takes a number, or nothing.
fn call_value(fd: BorrowedFd<'_>, request: u32, value: u32) -> io::Result<i32> {
    debug_assert!(matches!(
        request,
        GET_API_VERSION | CHECK_EXTENSION | SET_IOMMU | GROUP_UNSET_CONTAINER | DEVICE_RESET
    ));
    // SAFETY: these requests take a number or ignore their argument.
    unsafe { call(fd, request, value as usize) }
}

/// A request that takes a structure that begins with its own length.
fn call_words(fd: BorrowedFd<'_>, request: u32, words: &mut [u32]) -> io::Result<i32> {
    let Some(argsz) = words.first_mut() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    *argsz = 0;
    let len = u32::try_from(words.len() * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    words[0] = len;
    // SAFETY: the words are ours alone, and the kernel stays within the length
    // that their first one states.
    unsafe { call(fd, request, words.as_mut_ptr() as usize) }
}

/// An info request: asked again with more room when the kernel has more to say.
fn info(fd: BorrowedFd<'_>, request: u32, fixed: usize, index: u32) -> io::Result<Vec<u32>> {
    let ask = |len: usize| {
        let mut words = vec![0; len];
        if let Some(word) = words.get_mut(2).filter(|_| index != NO_INDEX) {
            *word = index;
        }
        call_words(fd, request, &mut words).map(|_| words)
    };
    let words = ask(fixed)?;
    let wanted = words[0];
    if wanted as usize <= fixed * 4 || wanted > MAX_INFO_BYTES {
        return Ok(words);
    }
    ask((wanted as usize).div_ceil(4))
}

/// For info structures that have no index in their third word.
const NO_INDEX: u32 = u32::MAX;

/// Pages mapped by this process; unmapped when dropped.
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: owns a mapping, touches it only to unmap it.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn into_view(base: *mut std::ffi::c_void, len: usize) -> io::Result<MemView> {
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let owner = Arc::new(Self { base, len });
        // SAFETY: just mapped readable and writable by the kernel, so page
        // aligned; unmapped only when `owner` goes; no reference to it exists.
        Ok(unsafe { MemView::new(base, len, owner) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by us with that length; all views of it are gone,
        // since each holds this owner.
        let result = unsafe { mm::munmap(self.base.as_ptr().cast(), self.len) };
        if let Err(error) = result {
            tracing::error!(%error, base = ?self.base, len = self.len, "munmap failed");
        }
    }
}

/// Maps a part of a file, for the CPU to read and write.
pub(crate) fn map_shared(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MemView> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let anywhere = std::ptr::null_mut();
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { mm::mmap(anywhere, len, access, MapFlags::SHARED, file, offset) }?;
    Pages::into_view(base, len)
}

impl Kernel for Linux {
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
    }

    fn api_version(&self, container: BorrowedFd<'_>) -> io::Result<u32> {
        call_value(container, GET_API_VERSION, 0).map(i32::unsigned_abs)
    }

    fn has_extension(&self, container: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
        call_value(container, CHECK_EXTENSION, extension).map(|answer| answer > 0)
    }

    fn set_iommu(&self, container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
        call_value(container, SET_IOMMU, kind).map(drop)
    }

    fn iommu_info(&self, container: BorrowedFd<'_>) -> io::Result<IommuInfo> {
        let fixed = words::len::<uapi::vfio_iommu_type1_info>();
        info(container, IOMMU_GET_INFO, fixed, NO_INDEX).map(|words| words::iommu_info(&words))
    }

    fn map_dma(&self, container: BorrowedFd<'_>, memory: &MemView, iova: u64) -> io::Result<()> {
        let mut map = uapi::vfio_iommu_type1_dma_map {
            argsz: size_of::<uapi::vfio_iommu_type1_dma_map>() as u32,
            flags: uapi::VFIO_DMA_MAP_FLAG_READ | uapi::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: memory.as_ptr() as u64,
            iova,
            size: memory.len() as u64,
        };
        // SAFETY: the structure is ours and states its length. What devices do
        // to the memory named in it is what a view allows for, and the kernel
        // holds the pages themselves.
        unsafe { call(container, IOMMU_MAP_DMA, (&raw mut map) as usize) }.map(drop)
    }

    fn unmap_dma(&self, container: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<u64> {
        let mut unmap = uapi::vfio_iommu_type1_dma_unmap {
            argsz: size_of::<uapi::vfio_iommu_type1_dma_unmap>() as u32,
            iova,
            size: len,
            ..Default::default()
        };
        // SAFETY: the structure is ours and states its length; without flags
        // the kernel writes nothing behind it.
        unsafe { call(container, IOMMU_UNMAP_DMA, (&raw mut unmap) as usize) }.map(|_| unmap.size)
    }

    fn is_viable(&self, group: BorrowedFd<'_>) -> io::Result<bool> {
        let mut words = [0; words::len::<uapi::vfio_group_status>()];
        call_words(group, GROUP_GET_STATUS, &mut words)?;
        Ok(words[1] & uapi::VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    fn set_container(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
        let mut number: i32 = container.as_raw_fd();
        // SAFETY: the request reads one i32 at this address.
        unsafe { call(group, GROUP_SET_CONTAINER, (&raw mut number) as usize) }.map(drop)
    }

    fn unset_container(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        call_value(group, GROUP_UNSET_CONTAINER, 0).map(drop)
    }

    fn device(&self, group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
        // SAFETY: the request reads a string with its terminating zero.
        let number = unsafe { call(group, GROUP_GET_DEVICE_FD, name.as_ptr() as usize) }?;
        // SAFETY: the kernel made this descriptor for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    fn device_info(&self, device: BorrowedFd<'_>) -> io::Result<DeviceInfo> {
        let mut words = [0; words::len::<uapi::vfio_device_info>()];
        call_words(device, DEVICE_GET_INFO, &mut words)?;
        Ok(DeviceInfo { flags: words[1] })
    }

    fn region_info(&self, device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
        let fixed = words::len::<uapi::vfio_region_info>();
        info(device, DEVICE_GET_REGION_INFO, fixed, index).map(|words| words::region_info(&words))
    }

    fn irq_info(&self, device: BorrowedFd<'_>, index: u32) -> io::Result<IrqInfo> {
        let fixed = words::len::<uapi::vfio_irq_info>();
        let words = info(device, DEVICE_GET_IRQ_INFO, fixed, index)?;
        Ok(IrqInfo {
            flags: words[1],
            count: words[3],
        })
    }

    fn set_triggers(
        &self,
        device: BorrowedFd<'_>,
        index: u32,
        triggers: &[OwnedFd],
    ) -> io::Result<()> {
        let data = match triggers {
            [] => uapi::VFIO_IRQ_SET_DATA_NONE,
            _ => uapi::VFIO_IRQ_SET_DATA_EVENTFD,
        };
        let flags = data | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
        let mut words = vec![0, flags, index, 0, triggers.len() as u32];
        words.extend(triggers.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
        call_words(device, DEVICE_SET_IRQS, &mut words).map(drop)
    }

    fn probe_feature(&self, device: BorrowedFd<'_>, feature: u32) -> io::Result<()> {
        let flags = uapi::VFIO_DEVICE_FEATURE_PROBE | uapi::VFIO_DEVICE_FEATURE_GET | feature;
        call_words(device, DEVICE_FEATURE, &mut [0, flags]).map(drop)
    }

    fn export_dma_buf(
        &self,
        device: BorrowedFd<'_>,
        bar: u32,
        offset: u64,
        len: u64,
    ) -> io::Result<OwnedFd> {
        let flags = (OFlags::RDWR | OFlags::CLOEXEC).bits();
        let mut words = words::dma_buf_request(bar, flags, offset, len);
        let number = call_words(device, DEVICE_FEATURE, &mut words)?;
        // SAFETY: the kernel made this descriptor for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        call_value(device, DEVICE_RESET, 0).map(drop)
    }

    fn map_device(&self, device: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MemView> {
        map_shared(device, offset, len)
    }

    fn map_anonymous(&self, len: usize) -> io::Result<MemView> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mm::mmap_anonymous(std::ptr::null_mut(), len, access, flags) }?;
        let view = Pages::into_view(base, len)?;
        // A child of a fork must not share these pages: after the fork, the
        // first write of the parent would go to a copy that no device knows.
        // SAFETY: the range is the mapping just made; its contents stay.
        unsafe { mm::madvise(base, len, Advice::LinuxDontFork) }?;
        Ok(view)
    }

    fn read_at(&self, device: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(device, into, offset)?)
    }

    fn write_at(&self, device: BorrowedFd<'_>, from: &[u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwrite(device, from, offset)?)
    }

    fn memlock_limit(&self) -> Option<u64> {
        getrlimit(Resource::Memlock).current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn request_numbers_are_those_of_the_kernel_header() {
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        assert_eq!(DEVICE_FEATURE, 0x3b75);
        assert_eq!(IOMMU_UNMAP_DMA, 0x3b72);
    }

    #[test]
    fn anonymous_memory_is_zeroed_page_aligned_and_writable() {
        let view = Linux.map_anonymous(8192).unwrap();
        assert_eq!(view.as_ptr() as usize % 4096, 0);
        let mut bytes = [1; 16];
        view.read(8176, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 16]);
        view.write(8176, &[5; 16]).unwrap();
    }

    #[test]
    fn what_exports_nothing_is_known_by_its_answer() {
        let null = Linux.open(Path::new("/dev/null")).unwrap();
        let feature = uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
        let probed = Linux.probe_feature(null.as_fd(), feature).unwrap_err();
        let exported = Linux.export_dma_buf(null.as_fd(), 2, 0, 4096).unwrap_err();
        assert_eq!(probed.raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(exported.raw_os_error(), Some(libc::ENOTTY));
    }
}
