//! A host that writes and reads back, for as long as it is told, and checks
//! every byte: Sidelane's own initiator against whatever target there is, over a
//! network that may lose what it likes.
//!
//! It goes in rounds. In each, all pieces of a part of the namespace are written
//! in one random order and read in another, over all queues at once. A round
//! that a lost connection has cut short is begun anew, on a new association and
//! with new content.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use sidelane::initiator::{
    Endpoint, EndpointOptions, Host, HostError, HostOptions, Io, IoDone, IoKind, ProcessMemory,
    SubmitError,
};
use sidelane_nvme::spec::HostId;
use sidelane_transport::soft;

use crate::in_process::good_host::pattern;

/// Who this host says it is.
const HOST: &str = "nqn.2026-11.io.sidelane:exercise";

/// The namespace that it works on; the number also picks the content.
const NSID: u32 = 1;

/// How long a step of the association may take: longer than connection
/// management and all retries of a queue pair do.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long to sleep at most while commands are under way.
const SLEEP: Duration = Duration::from_millis(50);

/// What is to be done, and with whom.
#[derive(Debug, Clone)]
pub struct Exercise {
    /// The target.
    pub remote: SocketAddr,
    /// Own address, whose UDP port 4791 must be free.
    pub local: IpAddr,
    /// The subsystem.
    pub nqn: String,
    /// I/O queues.
    pub queues: u16,
    /// Commands under way on each.
    pub depth: u16,
    /// Bytes of a command, one after the other.
    pub sizes: Vec<usize>,
    /// Writes of a round, and as many reads.
    pub commands: usize,
    /// Rounds are begun for so long; zero for one round.
    pub time: Duration,
    /// Lost connections that are made up for by new ones.
    pub losses: u32,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Rounds brought to their end.
    pub rounds: u32,
    /// Commands done with success.
    pub commands: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Bytes of those that were read and are what was written.
    pub verified_bytes: u64,
    /// Pieces that were not what had been written, and commands that failed.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Associations that broke, or could not be made.
    pub connections_lost: u32,
    /// Why, for each.
    pub losses: Vec<String>,
    /// Milliseconds that the slowest command took.
    pub slowest_ms: u64,
    /// Seconds that it took in all.
    pub seconds: f64,
    /// What the adapter counted, by name.
    pub counts: BTreeMap<String, u64>,
}

/// A piece of the namespace.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: u64,
    len: usize,
}

impl Exercise {
    /// Does it. That data was wrong or connections were lost is in the report.
    ///
    /// # Errors
    /// When there is no adapter, or the options do not fit together or the
    /// target.
    pub fn run(&self) -> anyhow::Result<Report> {
        let longest = self.sizes.iter().copied().max().context("no sizes")?;
        let slots = usize::from(self.queues) * usize::from(self.depth);
        let (mut nics, cm) = soft::open(self.local, 1)?;
        let nic = nics.pop().context("an adapter without parts")?;
        let sizes = EndpointOptions {
            io_queues: self.queues,
            // A queue of so many entries takes one command fewer.
            depth: self.depth + 1,
            data_len: slots * longest,
        };
        let mut endpoint = Endpoint::open(Box::new(nic), Box::new(cm), &ProcessMemory, sizes)?;
        let mut report = Report::default();
        let start = Instant::now();
        let mut generation = 0;
        while let Err(error) = self.associate(&mut endpoint, start, &mut generation, &mut report) {
            let lost = error.downcast::<HostError>()?;
            report.connections_lost += 1;
            report.losses.push(lost.to_string());
            if report.connections_lost > self.losses {
                break;
            }
        }
        report.seconds = start.elapsed().as_secs_f64();
        let counts = endpoint.counts().into_iter();
        report.counts = counts.map(|(name, n)| (name.into_owned(), n)).collect();
        Ok(report)
    }

    fn options(&self) -> anyhow::Result<HostOptions> {
        let id = HostId(*b"exercising hosts");
        let name = |text: &str| text.parse().with_context(|| format!("the name {text}"));
        Ok(HostOptions {
            io_queues: self.queues,
            depth: self.depth + 1,
            timeout: PATIENCE,
            ..HostOptions::new(self.remote, name(&self.nqn)?, name(HOST)?, id)
        })
    }

    /// Connects, does rounds until the time is over, and disconnects.
    fn associate(
        &self,
        endpoint: &mut Endpoint,
        start: Instant,
        generation: &mut u64,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut host = Host::connect(endpoint, self.options()?)?;
        ensure!(
            host.io_queues() == usize::from(self.queues),
            "the target grants {} queues of {}",
            host.io_queues(),
            self.queues
        );
        let found = host.namespaces().iter().find(|info| info.nsid == NSID);
        let info = found.context("the subsystem has no namespace 1")?;
        let block = info.block_bytes as usize;
        let pieces = self.pieces(block, info.blocks * block as u64)?;
        while report.rounds == 0 || (start.elapsed() < self.time && report.errors == 0) {
            *generation += 1;
            for kind in [IoKind::Write, IoKind::Read] {
                let order = shuffled(&pieces, *generation << 1 | u64::from(kind == IoKind::Read));
                let mut pass = Pass::new(self, kind, *generation, block, order);
                pass.run(&mut host, report)?;
            }
            report.rounds += 1;
        }
        host.disconnect()?;
        Ok(())
    }

    /// The pieces of a round, side by side.
    fn pieces(&self, block: usize, end: u64) -> anyhow::Result<Vec<Piece>> {
        ensure!(
            self.sizes.iter().all(|len| *len > 0 && len % block == 0),
            "sizes are multiples of the block, {block} bytes"
        );
        let mut at = 0;
        let mut pieces = Vec::with_capacity(self.commands);
        for len in self.sizes.iter().cycle().take(self.commands) {
            pieces.push(Piece { at, len: *len });
            at += *len as u64;
        }
        ensure!(at <= end, "a round of {at} bytes on {end} bytes");
        Ok(pieces)
    }
}

/// All writes of a round, or all its reads.
struct Pass<'a> {
    exercise: &'a Exercise,
    kind: IoKind,
    generation: u64,
    block: usize,
    todo: Vec<Piece>,
    /// The piece in each slot; a slot is a part of the data area, and belongs to
    /// one queue.
    slots: Vec<Option<Piece>>,
    free: Vec<usize>,
    longest: usize,
    wanted: Vec<u8>,
    found: Vec<u8>,
}

impl<'a> Pass<'a> {
    fn new(
        exercise: &'a Exercise,
        kind: IoKind,
        generation: u64,
        block: usize,
        todo: Vec<Piece>,
    ) -> Self {
        let longest = exercise.sizes.iter().copied().max().unwrap_or(0);
        let slots = usize::from(exercise.queues) * usize::from(exercise.depth);
        Self {
            exercise,
            kind,
            generation,
            block,
            todo,
            slots: vec![None; slots],
            free: (0..slots).rev().collect(),
            longest,
            wanted: vec![0; longest],
            found: vec![0; longest],
        }
    }

    fn run(&mut self, host: &mut Host<'_>, report: &mut Report) -> anyhow::Result<()> {
        let mut done = Vec::with_capacity(self.slots.len());
        let mut last = Instant::now();
        while !self.todo.is_empty() || self.free.len() < self.slots.len() {
            self.submit(host)?;
            host.poll(|io| done.push(io))?;
            if done.is_empty() {
                // The host gives up on a command that is late, but not on one
                // that it cannot get rid of.
                ensure!(last.elapsed() < 2 * PATIENCE, "no command ends any more");
                host.wait(SLEEP)?;
                continue;
            }
            last = Instant::now();
            for io in done.drain(..) {
                self.end(host, &io, report)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, host: &mut Host<'_>) -> anyhow::Result<()> {
        while let (Some(piece), Some(slot)) = (self.todo.last(), self.free.last()) {
            let (piece, slot) = (*piece, *slot);
            let data = &mut self.wanted[..piece.len];
            pattern(self.generation, NSID, piece.at, data);
            if self.kind == IoKind::Read {
                // Nothing that is left over may pass for what is to be read.
                data.iter_mut().for_each(|byte| *byte = !*byte);
            }
            host.data().write(slot * self.longest, data)?;
            let io = Io {
                kind: self.kind,
                nsid: NSID,
                lba: piece.at / self.block as u64,
                blocks: (piece.len / self.block) as u32,
                data: slot * self.longest,
                user: slot as u64,
            };
            match host.submit(slot % usize::from(self.exercise.queues), &io) {
                Ok(()) => {
                    self.slots[slot] = Some(piece);
                    self.todo.pop();
                    self.free.pop();
                }
                Err(SubmitError::QueueFull) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn end(&mut self, host: &Host<'_>, io: &IoDone, report: &mut Report) -> anyhow::Result<()> {
        let slot = io.user as usize;
        let piece = self.slots[slot].take().context("an end of no command")?;
        self.free.push(slot);
        let elapsed_ms = io.elapsed.as_millis() as u64;
        report.slowest_ms = report.slowest_ms.max(elapsed_ms);
        let (at, len) = (piece.at, piece.len);
        if !io.status.is_success() {
            report.failed(format!("{:?} at byte {at}: {:?}", self.kind, io.status));
            return Ok(());
        }
        report.commands += 1;
        report.bytes += len as u64;
        if self.kind == IoKind::Read {
            let (wanted, found) = (&mut self.wanted[..len], &mut self.found[..len]);
            pattern(self.generation, NSID, at, wanted);
            host.data().read(slot * self.longest, found)?;
            match wanted.iter().zip(&*found).position(|(a, b)| a != b) {
                None => report.verified_bytes += len as u64,
                Some(first) => report.failed(format!(
                    "{len} bytes from byte {at} on are not what was written, from the {first}th on"
                )),
            }
        }
        Ok(())
    }
}

impl Report {
    fn failed(&mut self, what: String) {
        self.errors += 1;
        self.first_error.get_or_insert(what);
    }
}

/// Another order, the same one for the same seed.
fn shuffled(pieces: &[Piece], seed: u64) -> Vec<Piece> {
    let mut pieces = pieces.to_vec();
    for left in (1..pieces.len()).rev() {
        let mut random = [0; 8];
        pattern(seed, 0, left as u64, &mut random);
        let other = u64::from_le_bytes(random) % (left as u64 + 1);
        pieces.swap(left, other as usize);
    }
    pieces
}
