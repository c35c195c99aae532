//! Writes a whole namespace and reads it back, with a number of commands on
//! their way at a time, comparing every byte.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sidelane_p2p::MemView;

use super::DemoError;
use super::pattern::{Difference, Pattern};
use super::progress::Progress;
use crate::initiator::{Host, HostError, Io, IoKind, SubmitError};

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// What read data may look like before it was read: never like the pattern.
const POISON: u8 = 0x5a;

/// How much, and how.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The namespace.
    pub nsid: u32,
    /// What to write.
    pub pattern: Pattern,
    /// Bytes in all, whole blocks.
    pub bytes: u64,
    /// Bytes of one command, whole blocks; the last one may be shorter.
    pub command_bytes: usize,
    /// Commands on their way at a time.
    pub depth: usize,
    /// Commands after which all that are on their way are waited for.
    pub lap: u64,
}

/// Who looks on while a plan is carried out.
pub struct Observer<'a> {
    /// Is told of every byte.
    pub progress: &'a mut Progress,
    /// Says when to end early.
    pub stop: &'a AtomicBool,
    /// Called when nothing is on its way: after each lap, and at the end. The
    /// time it takes is not counted.
    pub at_rest: &'a mut dyn FnMut(),
}

/// What a pass over the namespace took.
#[derive(Debug, Clone)]
pub struct Measure {
    /// Commands that succeeded.
    pub commands: u64,
    /// Payload they moved.
    pub bytes: u64,
    /// From the first submission to the last completion: with the host's making
    /// and comparing of data, without what [`Observer::at_rest`] took.
    pub elapsed: Duration,
    /// Nanoseconds from submission to completion.
    pub latency: Histogram<u64>,
}

/// One command of a plan.
#[derive(Debug, Clone, Copy)]
struct Part {
    lba: u64,
    /// Offset of its place in the data area.
    data: usize,
    bytes: usize,
}

impl Plan {
    fn commands(&self) -> u64 {
        self.bytes.div_ceil(self.command_bytes as u64)
    }

    fn part(&self, number: u64, place: usize) -> Part {
        let from = number * self.command_bytes as u64;
        let bytes = (self.bytes - from).min(self.command_bytes as u64) as usize;
        let lba = from / self.pattern.block_bytes as u64;
        Part {
            lba,
            data: place * self.command_bytes,
            bytes,
        }
    }

    /// Writes the pattern over the whole of it, then flushes.
    pub fn write(
        &self,
        host: &mut Host<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<Measure, DemoError> {
        let mut made = vec![0; self.command_bytes];
        let prepare = |data: &MemView, part: Part| {
            let made = &mut made[..part.bytes];
            self.pattern.fill(part.lba, made);
            data.write(part.data, made).map_err(HostError::from)
        };
        let measure = self.drive(host, IoKind::Write, prepare, |_, _| Ok(()), observer)?;
        self.flush(host)?;
        Ok(measure)
    }

    /// Overwrites the first block with its own data but for one byte, as a
    /// broken device might. Gives the bytes written.
    pub fn spoil(&self, host: &mut Host<'_>) -> Result<u64, DemoError> {
        let first = self.part(0, 0);
        let part = Part {
            bytes: self.pattern.block_bytes,
            ..first
        };
        let mut block = vec![0; part.bytes];
        self.pattern.fill(part.lba, &mut block);
        if let Some(middle) = block.get_mut(part.bytes / 2) {
            *middle ^= 0x01;
        }
        host.data()
            .write(part.data, &block)
            .map_err(HostError::from)?;
        self.one(host, IoKind::Write, part)?;
        Ok(part.bytes as u64)
    }

    /// Reads the whole of it and compares.
    pub fn read(
        &self,
        host: &mut Host<'_>,
        observer: &mut Observer<'_>,
    ) -> Result<(Measure, Difference), DemoError> {
        let poison = vec![POISON; self.command_bytes];
        let (mut expected, mut found) = (poison.clone(), poison.clone());
        let mut difference = Difference::default();
        let prepare = |data: &MemView, part: Part| {
            data.write(part.data, &poison[..part.bytes])
                .map_err(HostError::from)
        };
        let inspect = |data: &MemView, part: Part| {
            let (expected, found) = (&mut expected[..part.bytes], &mut found[..part.bytes]);
            data.read(part.data, found)?;
            self.pattern.fill(part.lba, expected);
            difference.merge(self.pattern.compare(part.lba, found, expected));
            Ok(())
        };
        let measure = self.drive(host, IoKind::Read, prepare, inspect, observer)?;
        Ok((measure, difference))
    }

    fn drive(
        &self,
        host: &mut Host<'_>,
        kind: IoKind,
        mut prepare: impl FnMut(&MemView, Part) -> Result<(), HostError>,
        mut inspect: impl FnMut(&MemView, Part) -> Result<(), HostError>,
        observer: &mut Observer<'_>,
    ) -> Result<Measure, DemoError> {
        let mut latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)
            .map_err(|error| DemoError::Internal(format!("latencies cannot be kept: {error}")))?;
        let depth = self.depth.min(host.queue_places(0));
        let mut places: Vec<usize> = (0..depth).rev().collect();
        let mut ended = Vec::with_capacity(depth);
        let (mut next, mut commands, mut bytes) = (0, 0, 0);
        let mut lap_end = self.lap.min(self.commands());
        let mut started = Instant::now();
        while commands < self.commands() {
            if observer.stop.load(Ordering::Relaxed) {
                return Err(DemoError::Interrupted);
            }
            while next < lap_end
                && let Some(place) = places.pop()
            {
                let part = self.part(next, place);
                prepare(host.data(), part)?;
                let user = next << 16 | place as u64;
                match host.submit(0, &self.io(kind, part, user)) {
                    Ok(()) => next += 1,
                    Err(SubmitError::QueueFull) => {
                        places.push(place);
                        break;
                    }
                    Err(source) => {
                        return Err(DemoError::Submit {
                            nsid: self.nsid,
                            source,
                        });
                    }
                }
            }
            host.poll(|done| ended.push(done))?;
            if ended.is_empty() {
                host.wait(Duration::from_millis(100))?;
            }
            for done in ended.drain(..) {
                let place = (done.user & 0xffff) as usize;
                let part = self.part(done.user >> 16, place);
                if !done.status.is_success() {
                    let (nsid, lba, status) = (self.nsid, part.lba, done.status);
                    return Err(DemoError::Io {
                        kind,
                        nsid,
                        lba,
                        status,
                    });
                }
                latency.saturating_record(done.elapsed.as_nanos() as u64);
                inspect(host.data(), part)?;
                places.push(place);
                (commands, bytes) = (commands + 1, bytes + part.bytes as u64);
                observer.progress.advance(part.bytes as u64);
            }
            if commands == lap_end {
                let at_rest = Instant::now();
                (observer.at_rest)();
                started += at_rest.elapsed();
                lap_end = (lap_end + self.lap.max(1)).min(self.commands());
            }
        }
        Ok(Measure {
            commands,
            bytes,
            elapsed: started.elapsed(),
            latency,
        })
    }

    fn io(&self, kind: IoKind, part: Part, user: u64) -> Io {
        let blocks = (part.bytes / self.pattern.block_bytes) as u32;
        Io {
            kind,
            nsid: self.nsid,
            lba: part.lba,
            blocks,
            data: part.data,
            user,
        }
    }

    fn flush(&self, host: &mut Host<'_>) -> Result<(), DemoError> {
        self.one(
            host,
            IoKind::Flush,
            Part {
                lba: 0,
                data: 0,
                bytes: 0,
            },
        )
    }

    /// One command by itself.
    fn one(&self, host: &mut Host<'_>, kind: IoKind, part: Part) -> Result<(), DemoError> {
        let (nsid, lba) = (self.nsid, part.lba);
        let submitted = host.submit(0, &self.io(kind, part, 0));
        submitted.map_err(|source| DemoError::Submit { nsid, source })?;
        let mut status = None;
        loop {
            host.poll(|done| status = Some(done.status))?;
            match status {
                Some(status) if status.is_success() => return Ok(()),
                Some(status) => {
                    return Err(DemoError::Io {
                        kind,
                        nsid,
                        lba,
                        status,
                    });
                }
                None => host.wait(Duration::from_millis(100))?,
            }
        }
    }
}
