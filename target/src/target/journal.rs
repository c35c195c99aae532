//! A journal of every command given to an SSD, for audits from outside: which
//! memory was each told to touch? Off unless asked for, and slow.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use sidelane_nvme::driver::Tap;
use sidelane_p2p::PciAddress;
use zerocopy::IntoBytes;

/// The file that all queue pairs write to, one JSON object a line: `device`,
/// `sqe` as 64 bytes in hexadecimal, `prps` the entries of its PRP list.
#[derive(Clone)]
pub(super) struct Journal(Arc<Mutex<BufWriter<File>>>);

impl Journal {
    /// Begins a journal; what was in the file goes.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("the journal {} cannot be written", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(BufWriter::new(file)))))
    }

    /// What writes the commands of one queue pair down.
    pub(super) fn tap(&self, device: PciAddress) -> Tap {
        let file = Arc::clone(&self.0);
        Box::new(move |sqe, list| {
            let hex: String = sqe
                .as_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let line =
                serde_json::json!({ "device": device.to_string(), "sqe": hex, "prps": list });
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writeln!(file, "{line}") {
                tracing::error!(%error, "the journal of commands has a gap");
            }
        })
    }
}
