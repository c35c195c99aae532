//! How much goes through: WRITEs, READs and SENDs in a pipeline against the memory
//! that a Sidelane lends, or, where the peer is a plain rping, rounds on many
//! connections at a time.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_transport::cm::ConnError;
use sidelane_transport::nic::{QpCaps, RemoteMemory, SendOp, SendWr};
use zerocopy::IntoBytes;

use super::end::{LOCAL, Memory, work};
use super::lines::{Lines, News};
use super::report::{BandwidthReport, Stretch};
use super::rounds::{Plan, Rounds};
use super::server::MAX_LENT;
use super::wire::{Hello, MAX_SIZE, MESSAGE_LEN, Welcome};
use super::{BandwidthOptions, Event, Loss, PingError, RPING_SIZE, Stop, contents};

/// How often a client that only reads and writes says that it is still there, and
/// progress is told.
const BEAT: Duration = Duration::from_secs(1);

/// Connections to a plain rping.
const RPING_LINES: usize = 8;

/// Work requests besides those of the pipeline: beats that are not acknowledged.
const BEATS: u32 = 8;

impl BandwidthOptions {
    pub(super) fn caps(&self) -> QpCaps {
        QpCaps {
            max_send_wr: self.depth + BEATS,
        }
    }

    /// What the peer is asked for, in the private data of the request.
    pub(super) fn hello(&self) -> Bytes {
        Bytes::copy_from_slice(Hello::new(MAX_LENT).as_bytes())
    }

    /// The lines that may be needed: those of a plain rping are more, since each
    /// makes one round at a time.
    pub(super) fn lines(&self) -> usize {
        self.connections.unwrap_or(RPING_LINES)
    }
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Send,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
        }
    }
}

/// One line's part of a stretch.
struct Flow {
    peer: Welcome,
    /// Places of the peer's memory, one after the other.
    places: u64,
    outstanding: u32,
    posted: u64,
}

/// All lines' part, and the own memory, which they share: what is sent, and what
/// is read back.
struct Pipeline<'a> {
    lines: &'a mut Lines,
    flows: Vec<Flow>,
    source: Memory,
    sink: Memory,
    stop: &'a Stop,
    tell: &'a mut dyn FnMut(Event<'_>),
}

/// Measures.
pub(super) fn run(
    mut lines: Lines,
    options: &BandwidthOptions,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<BandwidthReport, PingError> {
    let before = lines.end.counts();
    let adapter = lines.end.nic.caps().name.clone();
    let mut report = BandwidthReport::new(lines.remote, adapter);
    let outcome = measure(&mut lines, options, &mut report, stop, tell);
    report.counts = super::since(&lines.end.counts(), &before);
    lines.finish()?;
    outcome.map(|()| report)
}

fn measure(
    lines: &mut Lines,
    options: &BandwidthOptions,
    report: &mut BandwidthReport,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), PingError> {
    open(lines, 0..1)?;
    await_lines(lines, 1, options.timeout, stop, broken)?;
    if lines.welcome(0).is_none() {
        return rounds(lines, options, report, stop, tell);
    }
    let count = options.connections.unwrap_or(1);
    open(lines, 1..count)?;
    await_lines(lines, count, options.timeout, stop, broken)?;
    report.connections = count;
    pipeline(lines, count, options, report, stop, tell)
}

fn open(lines: &mut Lines, which: Range<usize>) -> Result<(), PingError> {
    for line in which {
        lines.open(line, Instant::now())?;
    }
    Ok(())
}

/// Waits until the first `count` lines are up.
fn await_lines(
    lines: &mut Lines,
    count: usize,
    timeout: Duration,
    stop: &Stop,
    mut on: impl FnMut(&mut Lines, News) -> Result<(), PingError>,
) -> Result<(), PingError> {
    let deadline = Instant::now() + timeout;
    loop {
        let now = Instant::now();
        lines.turn(now, &mut on)?;
        if (0..count).all(|line| lines.is_up(line)) {
            return Ok(());
        }
        if stop.is_wished() || now >= deadline {
            let (port, error) = (lines.remote.port(), ConnError::Timeout(lines.remote));
            return Err(broke(lines, Loss::NotConnected { port, error }));
        }
        lines.end.wait(deadline, Some(stop))?;
    }
}

fn broke(lines: &Lines, why: Loss) -> PingError {
    PingError::Broke {
        remote: lines.remote,
        why,
    }
}

/// No line may fail.
fn broken(lines: &mut Lines, news: News) -> Result<(), PingError> {
    match news {
        News::Down(_, why) => Err(broke(lines, why)),
        News::Up(_) | News::Nod(_) | News::Done(_) => Ok(()),
    }
}

/// Against a plain rping: as many rounds as it makes.
fn rounds(
    lines: &mut Lines,
    options: &BandwidthOptions,
    report: &mut BandwidthReport,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), PingError> {
    let size = options.size.unwrap_or(RPING_SIZE).min(MAX_SIZE);
    // One without -P takes no second connection: those that come up are used.
    open(lines, 1..lines.count())?;
    let wanted = lines.count();
    if wanted > 1 {
        let _ = await_lines(lines, wanted, options.timeout, stop, |_, _| Ok(()));
    }
    for line in 0..wanted {
        if !lines.is_up(line) {
            lines.close(line, Instant::now());
        }
    }
    let count = (0..wanted).filter(|line| lines.is_up(*line)).count();
    tell(Event::Note(&format!(
        "the peer is a plain rping: rounds of {size} bytes on {count} of {wanted} connections \
         instead of a pipeline (`rping -s -P -S SIZE` takes more than one connection, and more \
         bytes for --size SIZE)"
    )));
    report.connections = count;
    let begin = Instant::now();
    let plan = Plan {
        count: None,
        until: Some(begin + options.duration),
        interval: Duration::ZERO,
        timeout: options.timeout,
        size,
    };
    let mut rounds = Rounds::new(lines, plan, begin)?;
    rounds.only_connected(lines);
    let progress = &mut |event: Event<'_>| {
        if let Event::Progress(_) = event {
            tell(event);
        }
    };
    rounds.run(lines, stop, progress)?;
    let back = rounds.tally.back;
    // Each is read and written back.
    let bytes = 2 * back * u64::from(size);
    let stretch = Stretch::new("round", size, 1, back, bytes, begin.elapsed());
    report.rounds(stretch, &rounds.tally);
    Ok(())
}

/// Against a Sidelane.
fn pipeline(
    lines: &mut Lines,
    count: usize,
    options: &BandwidthOptions,
    report: &mut BandwidthReport,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), PingError> {
    let size = options.size.unwrap_or(BandwidthOptions::USUAL_SIZE);
    let area = MAX_LENT as usize;
    let mut flows = Vec::with_capacity(count);
    for line in 0..count {
        let peer = lines.welcome(line);
        let peer = peer.ok_or_else(|| broke(lines, Loss::Disconnected))?;
        let places = peer.memory.size.get().min(MAX_LENT) / size;
        if places == 0 {
            return Err(PingError::Options(format!(
                "{size} bytes at a time; the peer lends {} in all",
                peer.memory.size
            )));
        }
        flows.push(Flow {
            peer,
            places: places.into(),
            outstanding: 0,
            posted: 0,
        });
    }
    let source = lines.end.memory("bandwidth source", area, LOCAL)?;
    let sink = lines.end.memory("bandwidth sink", area, LOCAL)?;
    let mut text = vec![0; area];
    for (number, place) in text.chunks_mut(size as usize).enumerate() {
        contents::fill(place, 0, number as u64);
    }
    source.write(0, &text)?;
    let mut pipeline = Pipeline {
        lines,
        flows,
        source,
        sink,
        stop,
        tell,
    };
    let mut compared = u64::MAX;
    for kind in [Kind::Write, Kind::Read, Kind::Send] {
        let stretch = pipeline.stretch(kind, size, options)?;
        report.stretches.push(stretch);
        if kind != Kind::Send {
            let done = pipeline.flows.iter().map(|it| it.posted.min(it.places));
            compared = compared.min(done.min().unwrap_or(0));
        }
    }
    // All lines read to the same places: what was read last is what is there.
    let len = usize::try_from(compared).unwrap_or(0) * size as usize;
    let mut came = vec![0; len];
    pipeline.sink.read(0, &mut came)?;
    let sent = text.get(..len).unwrap_or_default();
    if let Some(at) = contents::difference(sent, &came) {
        return Err(broke(pipeline.lines, Loss::Altered { at }));
    }
    report.verified = len > 0;
    Ok(())
}

impl Pipeline<'_> {
    /// One kind of work, for as long as the options say.
    fn stretch(
        &mut self,
        kind: Kind,
        size: u32,
        options: &BandwidthOptions,
    ) -> Result<Stretch, PingError> {
        let peer = self.flows.first().map(|flow| flow.peer);
        let lent = peer.map_or((size, options.depth), |peer| {
            (peer.send_size.get(), peer.send_depth.get())
        });
        let (size, depth) = match kind {
            Kind::Send => (size.min(lent.0), options.depth.min(lent.1)),
            Kind::Write | Kind::Read => (size, options.depth),
        };
        for flow in &mut self.flows {
            flow.posted = 0;
        }
        let begin = Instant::now();
        let mut until = begin + options.duration;
        let mut beat = begin + BEAT;
        let mut operations: u64 = 0;
        let mut wrs = Vec::with_capacity(depth as usize);
        loop {
            let now = Instant::now();
            let stop = Some(self.stop).filter(|stop| !stop.is_wished());
            if stop.is_none() {
                until = until.min(now);
            }
            let flows = &mut self.flows;
            self.lines.turn(now, |lines, news| {
                if let News::Done(line) = news {
                    operations += u64::from(now < until);
                    if let Some(flow) = flows.get_mut(line) {
                        flow.outstanding = flow.outstanding.saturating_sub(1);
                    }
                    return Ok(());
                }
                broken(lines, news)
            })?;
            if now < until {
                self.post(kind, size, depth, &mut wrs)?;
            } else if self.flows.iter().all(|flow| flow.outstanding == 0) {
                break;
            } else if now >= until + options.timeout {
                let (what, after) = ("the end of what is on its way", options.timeout);
                return Err(broke(self.lines, Loss::Silence { what, after }));
            }
            if now >= beat {
                beat = now + BEAT;
                self.beat()?;
                let seconds = now.duration_since(begin).as_secs_f64();
                let rate = operations as f64 * f64::from(size) / seconds / 1e9;
                let name = kind.name();
                (self.tell)(Event::Progress(&format!("{name}: {rate:.4} GB/s")));
            }
            let next = match now < until {
                true => until.min(beat),
                false => until + options.timeout,
            };
            self.lines.end.wait(next, stop)?;
        }
        let bytes = operations * u64::from(size);
        let time = until.duration_since(begin);
        let name = kind.name();
        Ok(Stretch::new(name, size, depth, operations, bytes, time))
    }

    /// Fills the pipeline up.
    fn post(
        &mut self,
        kind: Kind,
        size: u32,
        depth: u32,
        wrs: &mut Vec<SendWr>,
    ) -> Result<(), PingError> {
        for (line, flow) in self.flows.iter_mut().enumerate() {
            wrs.clear();
            while flow.outstanding < depth {
                let offset = flow.posted % flow.places * u64::from(size);
                let peer = flow.peer.memory.memory();
                let there = RemoteMemory {
                    addr: peer.addr.wrapping_add(offset),
                    ..peer
                };
                let (op, own) = match kind {
                    Kind::Write => (SendOp::Write(there), &self.source),
                    Kind::Read => (SendOp::Read(there), &self.sink),
                    Kind::Send => (SendOp::Send, &self.source),
                };
                wrs.push(work(0, op, own.sge(offset as usize, size), true));
                flow.outstanding += 1;
                flow.posted += 1;
            }
            if !wrs.is_empty() {
                self.lines.post(line, wrs)?;
            }
        }
        Ok(())
    }

    /// Tells the peer that its client is still there.
    fn beat(&mut self) -> Result<(), PingError> {
        let sge = self.source.sge(0, MESSAGE_LEN as u32);
        for line in 0..self.flows.len() {
            self.lines
                .post(line, &[work(0, SendOp::Send, sge, false)])?;
        }
        Ok(())
    }
}
