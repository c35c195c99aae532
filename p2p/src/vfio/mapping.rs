//! A mapping in a container's address space, undone when dropped.

use std::io;
use std::sync::Arc;

use super::container::Shared;
use super::iova::IovaSpace;
use crate::{DmaError, MemView};

/// Keeps memory mapped for devices. Dropped, it unmaps it there first and lets
/// go of the CPU's mapping (and of the device that it belongs to) afterwards.
pub(super) struct Mapping {
    container: Arc<Shared>,
    iova: u64,
    /// Holds the CPU's mapping, and through it a BAR's device.
    memory: MemView,
}

impl Mapping {
    /// Maps `memory` at `iova`, which the caller has taken; gives it back if
    /// the kernel refuses.
    pub(super) fn new(
        container: &Arc<Shared>,
        name: &str,
        memory: MemView,
        iova: u64,
    ) -> Result<Self, DmaError> {
        let len = memory.len();
        if let Err(error) = container.kernel.map_dma(container.fd(), &memory, iova) {
            let mut state = container.state();
            state.iova.release(iova);
            let limit = container.kernel.memlock_limit();
            let reason = explain(&error, iova, len, &state.iova, limit);
            return Err(DmaError::Map {
                name: name.to_owned(),
                len,
                iova,
                reason,
            });
        }
        Ok(Self {
            container: Arc::clone(container),
            iova,
            memory,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let len = self.memory.len() as u64;
        match self
            .container
            .kernel
            .unmap_dma(self.container.fd(), self.iova, len)
        {
            Ok(unmapped) if unmapped == len => self.container.state().iova.release(self.iova),
            // The addresses stay taken: a device may still reach the memory.
            result => tracing::error!(
                iova = format_args!("{:#x}", self.iova),
                len,
                ?result,
                "memory could not be unmapped from its devices"
            ),
        }
    }
}

/// The kernel's refusal in an operator's terms.
fn explain(
    error: &io::Error,
    iova: u64,
    len: usize,
    space: &IovaSpace,
    memlock: Option<u64>,
) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) if !space.translates(iova, len as u64) => format!(
            "the IOMMU translates addresses only up to {:#x} or keeps these for itself; a wider IOMMU is needed (in a virtual machine: intel-iommu with aw-bits=48), or BARs below that address",
            space.highest()
        ),
        Some(libc::EINVAL) => format!(
            "the kernel refuses it ({error}); if the address is beyond the IOMMU's width (in a virtual machine, its aw-bits), a wider one is needed"
        ),
        Some(libc::ENOMEM) => {
            let limit = match memlock {
                Some(bytes) => format!("{bytes} bytes"),
                None => "none".to_owned(),
            };
            format!(
                "no more memory may be locked (RLIMIT_MEMLOCK is {limit}): raise it (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the service), or give the process CAP_IPC_LOCK"
            )
        }
        Some(libc::EEXIST) => "devices already have something mapped there".to_owned(),
        Some(libc::ENOSPC) => {
            "the container has as many mappings as it may (parameter dma_entry_limit of the module vfio_iommu_type1)".to_owned()
        }
        Some(libc::EFAULT) => {
            "the memory cannot be pinned; for a BAR, its device must have memory access enabled".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(libc::EINVAL, 1 << 40, "aw-bits=48")]
    #[case(libc::EINVAL, 1 << 32, "the kernel refuses it")]
    #[case(libc::ENOMEM, 1 << 32, "RLIMIT_MEMLOCK is 65536 bytes")]
    #[case(libc::ENOMEM, 1 << 32, "ulimit -l")]
    #[case(libc::EEXIST, 1 << 32, "already")]
    #[case(libc::ENOSPC, 1 << 32, "dma_entry_limit")]
    fn a_refusal_is_explained_with_its_remedy(
        #[case] errno: i32,
        #[case] iova: u64,
        #[case] expected: &str,
    ) {
        let mut space = IovaSpace::default();
        space.set_limits(vec![0..=(1 << 39) - 1], vec![]);
        let error = io::Error::from_raw_os_error(errno);
        let text = explain(&error, iova, 4096, &space, Some(65536));
        assert!(text.contains(expected), "{text}");
    }
}
