//! Spans of memory that devices do DMA to, and the address space they share.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{DmaBuf, ExportError, Exporter, MemView, OutOfRange, PciAddress, Revocation};

/// Where the bytes of a region are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// On a PCI function: no byte of it is in host memory.
    Peer {
        /// The function whose BAR it is.
        device: PciAddress,
        /// The number of that BAR, or [`Placement::UNKNOWN_BAR`].
        bar: u8,
    },
    /// In host memory.
    Host,
}

impl Placement {
    /// Stands for the number of a BAR where nobody says which it is.
    pub const UNKNOWN_BAR: u8 = u8::MAX;
}

/// Identifies a region for as long as the process runs; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u64);

/// A span of memory that the clients of one [`DmaSpace`] can do DMA to.
///
/// Cheap to clone; the memory stays mapped for the CPU and in the I/O address
/// space until the last clone is dropped.
#[derive(Clone)]
pub struct Region(Arc<Inner>);

struct Inner {
    id: RegionId,
    name: String,
    placement: Placement,
    iova: u64,
    view: MemView,
    revocation: Revocation,
    /// Undoes the I/O mapping when the region goes. Declared after the CPU view,
    /// which goes first, as teardown wants.
    _mapping: Box<dyn Send + Sync>,
    /// Holds the device that the memory is on: goes last.
    exporter: OnceLock<Arc<dyn Exporter>>,
}

impl Region {
    /// A region at `iova` in its address space, seen by the CPU through `view`.
    /// `mapping` is dropped with the region and undoes the I/O mapping.
    pub fn new(
        name: impl Into<String>,
        placement: Placement,
        iova: u64,
        view: MemView,
        mapping: Box<dyn Send + Sync>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = RegionId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self(Arc::new(Inner {
            id,
            name: name.into(),
            placement,
            iova,
            view,
            revocation: Revocation::new(),
            _mapping: mapping,
            exporter: OnceLock::new(),
        }))
    }

    /// The same region, which `exporter` can export. For whoever makes the
    /// region; one that has an exporter keeps it.
    #[must_use]
    pub fn with_exporter(self, exporter: Arc<dyn Exporter>) -> Self {
        // An error gives back the one that came too late.
        let _ = self.0.exporter.set(exporter);
        self
    }

    /// This region's identity.
    pub fn id(&self) -> RegionId {
        self.0.id
    }

    /// What an operator calls it (`cmb of 0000:03:00.0`).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where its bytes are.
    pub fn placement(&self) -> Placement {
        self.0.placement
    }

    /// Whether its bytes are on a PCI function.
    pub fn is_peer(&self) -> bool {
        matches!(self.0.placement, Placement::Peer { .. })
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.view.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.view.is_empty()
    }

    /// The address at which every client device of the space finds the first
    /// byte. For peer memory it equals the PCI bus address of that byte.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.0.iova
    }

    /// The client's address of a part of the region.
    ///
    /// # Errors
    /// When the range does not lie inside the region.
    #[inline]
    pub fn iova_of(&self, range: Range<usize>) -> Result<u64, OutOfRange> {
        if range.start <= range.end && range.end <= self.len() {
            Ok(self.0.iova + range.start as u64)
        } else {
            let len = range.end.saturating_sub(range.start);
            Err(OutOfRange {
                offset: range.start,
                len,
                view_len: self.len(),
            })
        }
    }

    /// The CPU's view.
    #[inline]
    pub fn view(&self) -> &MemView {
        &self.0.view
    }

    /// The region as a dma-buf, for a NIC to register. What comes back has to
    /// be kept for as long as the registration, and dropped after it.
    ///
    /// # Errors
    /// When it is host memory, when its device or the kernel cannot export it,
    /// or when it was taken away.
    pub fn export(&self) -> Result<DmaBuf, ExportError> {
        let region = || self.name().to_owned();
        if let Some(reason) = self.0.revocation.reason() {
            return Err(ExportError::Revoked {
                region: region(),
                reason: reason.to_owned(),
            });
        }
        match (self.0.exporter.get(), self.placement()) {
            (Some(exporter), _) => exporter.export(),
            (None, Placement::Host) => Err(ExportError::NotPeer { region: region() }),
            (None, Placement::Peer { .. }) => Err(ExportError::NotExportable {
                region: region(),
                reason: "no kernel device stands behind it (it is a model's, or of a kind of \
                         provider without export); use the memory of a device under vfio-pci, \
                         or the software NIC"
                    .to_owned(),
            }),
        }
    }

    /// Whether its memory was taken away, and a way to be told.
    pub fn revocation(&self) -> &Revocation {
        &self.0.revocation
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("name", &self.0.name)
            .field("placement", &self.0.placement)
            .field("iova", &format_args!("{:#x}", self.0.iova))
            .field("len", &format_args!("{:#x}", self.len()))
            .finish()
    }
}

/// Why memory could not be made reachable for devices.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// No memory of that size could be had from the system.
    #[error("no {len} bytes of host memory for {name}: {source}")]
    Memory {
        /// What the memory was for.
        name: String,
        /// Bytes asked for.
        len: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The I/O address space refused the mapping.
    #[error("{name} ({len:#x} bytes) cannot be mapped for devices at {iova:#x}: {reason}")]
    Map {
        /// What was to be mapped.
        name: String,
        /// Bytes.
        len: usize,
        /// The address wanted.
        iova: u64,
        /// What was refused, why, and what to do about it.
        reason: String,
    },
    /// No free addresses are left.
    #[error("no room for {len:#x} bytes ({name}) in the devices' address space")]
    Full {
        /// What was to be mapped.
        name: String,
        /// Bytes.
        len: usize,
    },
}

/// The I/O virtual address space that all client devices of a target share: a
/// VFIO container, or the bus of the models.
pub trait DmaSpace: Send + Sync {
    /// Zeroed host memory, page-aligned, mapped for all clients. `len` is
    /// rounded up to whole pages.
    ///
    /// # Errors
    /// When memory or addresses run out, or the mapping is refused.
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError>;
}

/// Plain memory of this process, for adapters and backends that are made of CPU.
///
/// No device can reach it; the address it claims is that of the CPU.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessMemory;

impl DmaSpace for ProcessMemory {
    fn host_region(&self, name: &str, len: usize) -> Result<Region, DmaError> {
        let view = MemView::anonymous(len.next_multiple_of(4096));
        let address = view.as_ptr() as u64;
        Ok(Region::new(
            name,
            Placement::Host,
            address,
            view,
            Box::new(()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture::MemfdExporter;

    fn region(placement: Placement) -> Region {
        let view = MemView::anonymous(8192);
        Region::new("memory", placement, 1 << 32, view, Box::new(()))
    }

    fn peer() -> Region {
        let device = "0000:03:00.0".parse().unwrap();
        region(Placement::Peer { device, bar: 2 })
    }

    #[test]
    fn memory_without_an_exporter_says_why_it_is_not_exported() {
        let host = region(Placement::Host).export().unwrap_err();
        assert!(matches!(host, ExportError::NotPeer { .. }), "{host}");
        let model = peer().export().unwrap_err().to_string();
        assert!(
            model.starts_with("memory cannot be exported") && model.contains("software NIC"),
            "{model}"
        );
    }

    #[test]
    fn an_exporter_makes_every_clone_exportable_and_the_first_one_stays() {
        let region = peer();
        let clone = region.clone();
        let exporter = MemfdExporter::new(4096, 8192);
        let region = region
            .with_exporter(exporter.clone())
            .with_exporter(MemfdExporter::new(0, 1));
        let (one, two) = (region.export().unwrap(), clone.export().unwrap());
        assert_eq!((one.offset, one.len), (4096, 8192));
        assert_eq!(rustix::fs::fstat(&one.fd).unwrap().st_size, 12288);
        assert_eq!(exporter.live(), 2);
        drop((one, two));
        assert_eq!(exporter.live(), 0);
    }

    #[test]
    fn a_refusal_of_the_exporter_is_handed_on() {
        let refusal = ExportError::NotExportable {
            region: "memory".into(),
            reason: "too old a kernel".into(),
        };
        let region = peer().with_exporter(MemfdExporter::refusing(refusal.clone()));
        assert_eq!(region.export().unwrap_err(), refusal);
    }

    #[test]
    fn what_was_taken_away_is_not_exported_any_more() {
        let exporter = MemfdExporter::new(0, 8192);
        let region = peer().with_exporter(exporter.clone());
        let clone = region.clone();
        region.revocation().revoke("unplugged");
        let text = clone.export().unwrap_err().to_string();
        assert!(text.contains("memory was taken away: unplugged"), "{text}");
        assert_eq!(exporter.live(), 0);
    }
}
