//! A host that keeps to the rules, and checks every byte that it reads.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidelane::initiator::{
    Endpoint, EndpointOptions, Host, HostOptions, Io, IoKind, ProcessMemory,
};
use sidelane_nvme::spec::HostId;
use sidelane_transport::soft;

use super::bench::{GOOD, PATIENCE, with_free};

/// Bytes of the longest command of [`verified_io`].
const LONGEST: usize = 64 << 10;

/// Opens an adapter on an address of its own, for so many I/O queues.
///
/// # Errors
/// When there is none.
pub fn endpoint(io_queues: u16, depth: u16, data_len: usize) -> anyhow::Result<Endpoint> {
    with_free(|address| {
        let (mut nics, cm) = soft::open(address, 1)?;
        let nic = nics.pop().context("an adapter without parts")?;
        let options = EndpointOptions {
            io_queues,
            depth,
            data_len,
        };
        Ok(Endpoint::open(
            Box::new(nic),
            Box::new(cm),
            &ProcessMemory,
            options,
        )?)
    })
}

/// Options of the host [`GOOD`].
///
/// # Errors
/// When the subsystem's name is not one.
pub fn options(remote: SocketAddr, subsystem: &str) -> anyhow::Result<HostOptions> {
    let mut options = HostOptions::new(
        remote,
        subsystem.parse()?,
        GOOD.parse()?,
        HostId(*b"a good test host"),
    );
    options.timeout = PATIENCE;
    Ok(options)
}

/// The bytes that belong to a place on a namespace.
pub fn pattern(seed: u64, nsid: u32, at: u64, into: &mut [u8]) {
    for (word, bytes) in into.chunks_mut(8).enumerate() {
        let mut x = seed ^ u64::from(nsid) << 56 ^ (at + 8 * word as u64);
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 29;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.copy_from_slice(&(x ^ x >> 32).to_le_bytes()[..bytes.len()]);
    }
}

/// Connects, writes to each of the namespaces and reads back, with commands of
/// mixed sizes all under way at once over all queues; disconnects.
///
/// # Errors
/// When anything fails, or a byte is not what was written.
pub fn verified_io(
    remote: SocketAddr,
    subsystem: &str,
    nsids: &[u32],
    io_queues: u16,
    commands: usize,
) -> anyhow::Result<()> {
    let sizes = [4096, 512, LONGEST, 1024, 16384, 8192];
    let work = Work {
        subsystem,
        nsids,
        io_queues,
        commands,
        sizes: &sizes,
        region: 0..4 << 20,
        seed: 1,
    };
    work.run(remote).map(drop)
}

/// Verified I/O.
#[derive(Debug, Clone)]
pub struct Work<'a> {
    /// The subsystem.
    pub subsystem: &'a str,
    /// Its namespaces.
    pub nsids: &'a [u32],
    /// I/O queues.
    pub io_queues: u16,
    /// Writes, and then as many reads, for each namespace.
    pub commands: usize,
    /// Bytes of a command, one after the other.
    pub sizes: &'a [usize],
    /// Bytes of the namespace that this host may use.
    pub region: std::ops::Range<u64>,
    /// What the content depends on.
    pub seed: u64,
}

impl Work<'_> {
    /// Does it; says how long the slowest command took.
    ///
    /// # Errors
    /// When anything fails, or a byte is not what was written.
    pub fn run(&self, remote: SocketAddr) -> anyhow::Result<Duration> {
        let longest = self.sizes.iter().copied().max().context("no sizes")?;
        let mut endpoint = endpoint(self.io_queues, 64, self.commands * longest)?;
        let mut options = options(remote, self.subsystem)?;
        options.io_queues = self.io_queues;
        options.depth = 64;
        let mut host = Host::connect(&mut endpoint, options)?;
        ensure!(
            host.io_queues() == usize::from(self.io_queues),
            "fewer queues were granted"
        );
        let mut slowest = Duration::ZERO;
        for nsid in self.nsids {
            for kind in [IoKind::Write, IoKind::Read] {
                let took = self
                    .pass(&mut host, *nsid, kind, longest)
                    .with_context(|| format!("{kind:?} on namespace {nsid}"))?;
                slowest = slowest.max(took);
            }
        }
        host.disconnect()?;
        Ok(slowest)
    }

    fn pass(
        &self,
        host: &mut Host<'_>,
        nsid: u32,
        kind: IoKind,
        longest: usize,
    ) -> anyhow::Result<Duration> {
        let found = host.namespaces().iter().find(|ns| ns.nsid == nsid);
        let block = found.context("no such namespace")?.block_bytes as usize;
        let mut at = self.region.start;
        let mut todo: VecDeque<(usize, Io, usize)> = VecDeque::new();
        for n in 0..self.commands {
            let bytes = self.sizes[n % self.sizes.len()];
            if at + bytes as u64 > self.region.end {
                break;
            }
            let io = Io {
                kind,
                nsid,
                lba: at / block as u64,
                blocks: (bytes / block) as u32,
                data: n * longest,
                user: n as u64,
            };
            todo.push_back((n % usize::from(self.io_queues), io, bytes));
            at += bytes as u64;
        }
        let all: Vec<_> = todo.iter().copied().collect();
        let mut buffer = vec![0; longest];
        for (_, io, bytes) in &all {
            let data = &mut buffer[..*bytes];
            match kind {
                IoKind::Write => pattern(self.seed, nsid, io.lba * block as u64, data),
                _ => data.fill(0xee),
            }
            host.data().write(io.data, data)?;
        }
        let mut slowest = Duration::ZERO;
        let mut left = all.len();
        let start = Instant::now();
        while left > 0 {
            while let Some((queue, io, _)) = todo.front() {
                match host.submit(*queue, io) {
                    Ok(()) => drop(todo.pop_front()),
                    Err(sidelane::initiator::SubmitError::QueueFull) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let mut failed = None;
            host.poll(|done| {
                left -= 1;
                slowest = slowest.max(done.elapsed);
                if !done.status.is_success() {
                    failed = Some(done);
                }
            })?;
            ensure!(failed.is_none(), "{failed:?}");
            ensure!(start.elapsed() < PATIENCE, "{left} commands are not done");
            if left > 0 {
                host.wait(Duration::from_millis(50))?;
            }
        }
        if kind == IoKind::Read {
            let mut wanted = vec![0; longest];
            for (_, io, bytes) in &all {
                pattern(
                    self.seed,
                    nsid,
                    io.lba * block as u64,
                    &mut wanted[..*bytes],
                );
                host.data().read(io.data, &mut buffer[..*bytes])?;
                ensure!(
                    buffer[..*bytes] == wanted[..*bytes],
                    "{bytes} bytes from block {} on are not what was written",
                    io.lba
                );
            }
        }
        Ok(slowest)
    }
}
