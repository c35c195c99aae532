//! Commands of one kind, so many at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidelane::initiator::{Host, Io, IoKind};

/// Bytes of the host's data area: room for all commands on their way.
pub const DATA_BYTES: usize = 4 << 20;

/// Bytes of a block of every namespace.
const BLOCK: usize = 4096;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The namespace.
    pub nsid: u32,
    /// Every second command is a write, or all are reads.
    pub writes: bool,
    /// Bytes of a command, whole blocks.
    pub bytes: usize,
    /// Commands on their way at a time.
    pub depth: usize,
    /// Commands in all.
    pub commands: u64,
    /// Bytes of the namespace that are used, whole commands.
    pub span: u64,
}

impl Load {
    /// Does it, and says how long it took.
    pub fn run(&self, host: &mut Host<'_>) -> anyhow::Result<Duration> {
        ensure!(
            self.depth * self.bytes <= DATA_BYTES,
            "too little room for {self:?}"
        );
        let places = self.span / self.bytes as u64;
        let (mut sent, mut ended) = (0, 0);
        let mut free: Vec<usize> = (0..self.depth).collect();
        let mut failed = None;
        let start = Instant::now();
        while ended < self.commands {
            while sent < self.commands
                && let Some(place) = free.pop()
            {
                let write = self.writes && sent % 2 == 0;
                let io = Io {
                    kind: if write { IoKind::Write } else { IoKind::Read },
                    nsid: self.nsid,
                    lba: sent % places * (self.bytes / BLOCK) as u64,
                    blocks: (self.bytes / BLOCK) as u32,
                    data: place * self.bytes,
                    user: place as u64,
                };
                if host.submit(0, &io).is_err() {
                    // A capsule is not back yet.
                    free.push(place);
                    break;
                }
                sent += 1;
            }
            let before = ended;
            host.poll(|done| {
                ended += 1;
                free.push(done.user as usize);
                if !done.status.is_success() {
                    failed = Some(done.status);
                }
            })?;
            if ended == before {
                host.wait(Duration::from_millis(100))?;
            }
        }
        match failed {
            Some(status) => Err(anyhow::anyhow!("{status}")).context(format!("{self:?}")),
            None => Ok(start.elapsed()),
        }
    }
}
