//! An exporter for tests: a memfd stands for the dma-buf.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{DmaBuf, ExportError, Exporter};

/// Exports a memfd of a stated length, or refuses. No device can reach it, and
/// the kernel does not take it for a dma-buf.
#[derive(Debug, Default)]
pub struct MemfdExporter {
    offset: u64,
    len: u64,
    refusal: Option<ExportError>,
    live: Arc<AtomicUsize>,
}

/// One export, counted until it is dropped.
struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MemfdExporter {
    /// Exports `len` bytes at `offset` of a file that is that long.
    pub fn new(offset: u64, len: u64) -> Arc<Self> {
        Arc::new(Self {
            offset,
            len,
            ..Self::default()
        })
    }

    /// Refuses each time.
    pub fn refusing(refusal: ExportError) -> Arc<Self> {
        Arc::new(Self {
            refusal: Some(refusal),
            ..Self::default()
        })
    }

    /// The number of exports that nobody has dropped.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }
}

impl Exporter for MemfdExporter {
    fn export(&self) -> Result<DmaBuf, ExportError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let system = |error: rustix::io::Errno| ExportError::NotExportable {
            region: "a memfd that stands for a dma-buf".to_owned(),
            reason: error.to_string(),
        };
        let fd = memfd_create("dma-buf", MemfdFlags::CLOEXEC).map_err(system)?;
        ftruncate(&fd, self.offset.saturating_add(self.len)).map_err(system)?;
        self.live.fetch_add(1, Ordering::Relaxed);
        let live = Live(Arc::clone(&self.live));
        Ok(DmaBuf::new(fd, self.offset, self.len).keeping(Arc::new(live)))
    }
}
