//! Faults that a modelled controller shows on demand: which command meets one,
//! what happens to it then, and states of the whole controller.
//!
//! Nothing here depends on a clock or on chance: a fault strikes the commands
//! that its [`Matcher`] names, in the order in which the model fetches them, and
//! what is shuffled or flipped is chosen by a seed. What was held back goes on
//! when other commands are executed, or when
//! [`ModelController::release`](super::ModelController::release) says so.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::spec::{AdminOpcode, NvmOpcode, ReadWrite, Sqe, Status};

/// What happens to a command instead of what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is executed, and never answered. Abort does not find it.
    Drop,
    /// It is held back, not executed, until it is released. Abort ends it.
    Hold,
    /// It is held back until so many other commands have been executed, or until
    /// it is released. Abort ends it.
    Delay(u32),
    /// It is executed; its completion waits until there are `batch` such, which
    /// are then posted in another order, or until it is released.
    Reorder {
        /// Completions that are shuffled together.
        batch: usize,
        /// Chooses the order.
        seed: u64,
    },
    /// It is not executed, and answered with this status.
    Status(Status),
    /// It is executed, and its identifier is answered with these bits flipped.
    /// The right answer never comes.
    WrongCid(u16),
    /// It is executed; its completion is written with the phase of the round
    /// before, as if it were old. The right one comes when the model is next
    /// stepped or rung.
    StalePhase,
    /// It is executed, and answered twice.
    Twice,
    /// It, and what comes by the same queue, is neither executed nor answered
    /// until the queue is made anew.
    StopQueue,
    /// Its data goes to and comes from addresses that nobody named: a DMA fault,
    /// and the command fails.
    DmaOutside,
    /// It succeeds, but one bit of what it wrote or read is wrong; the seed says
    /// which. Of Read and Write only.
    Corrupt(u64),
    /// It is not executed: the controller breaks instead. A reset cures
    /// [`Broken::Stopped`] and [`Broken::Fatal`].
    Break(Broken),
    /// The same, and no reset helps.
    BreakForGood(Broken),
}

/// A state of a controller that should not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It fetches no command and posts nothing. Its registers are alive.
    Stopped,
    /// CSTS.CFS is set.
    Fatal,
    /// Registers read as all ones, nothing is posted, and neither it touches
    /// memory nor others reach its own, until
    /// [`reappear`](super::ModelController::reappear).
    Vanished,
    /// CSTS.RDY does not come, until [`repair`](super::ModelController::repair).
    NeverReady,
    /// CC.EN is deaf to being cleared: CSTS.RDY stays, and the queues go on,
    /// until [`repair`](super::ModelController::repair).
    NeverIdle,
}

/// Queues whose commands are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queues {
    All,
    Admin,
    Io,
}

/// Names commands: all conditions that were given must hold. Without
/// [`times`](Self::times) or [`always`](Self::always), it is the first such.
#[derive(Debug, Clone)]
pub struct Matcher {
    queues: Queues,
    qid: Option<u16>,
    opcode: Option<u8>,
    nsid: Option<u32>,
    lbas: Option<Range<u64>>,
    skip: u64,
    times: u64,
}

impl Matcher {
    fn of(queues: Queues, opcode: Option<u8>) -> Self {
        Self {
            queues,
            qid: None,
            opcode,
            nsid: None,
            lbas: None,
            skip: 0,
            times: 1,
        }
    }

    /// Any command.
    pub fn any() -> Self {
        Self::of(Queues::All, None)
    }

    /// Any admin command.
    pub fn any_admin() -> Self {
        Self::of(Queues::Admin, None)
    }

    /// Any I/O command.
    pub fn any_io() -> Self {
        Self::of(Queues::Io, None)
    }

    /// This admin command.
    pub fn admin(opcode: AdminOpcode) -> Self {
        Self::of(Queues::Admin, Some(opcode.0))
    }

    /// This I/O command.
    pub fn io(opcode: NvmOpcode) -> Self {
        Self::of(Queues::Io, Some(opcode.0))
    }

    /// By this queue.
    #[must_use]
    pub fn on_queue(self, qid: u16) -> Self {
        let qid = Some(qid);
        Self { qid, ..self }
    }

    /// Of this namespace.
    #[must_use]
    pub fn nsid(self, nsid: u32) -> Self {
        let nsid = Some(nsid);
        Self { nsid, ..self }
    }

    /// That concerns one of these blocks: Read, Write, Compare, Write Zeroes.
    #[must_use]
    pub fn lbas(self, lbas: Range<u64>) -> Self {
        let lbas = Some(lbas);
        Self { lbas, ..self }
    }

    /// Not the first so many.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// So many, and then no more.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Every one.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn matches(&self, qid: u16, sqe: &Sqe) -> bool {
        let queue = match self.queues {
            Queues::All => true,
            Queues::Admin => qid == 0,
            Queues::Io => qid != 0,
        };
        queue
            && self.qid.is_none_or(|wanted| wanted == qid)
            && self.opcode.is_none_or(|opcode| opcode == sqe.opcode())
            && self.nsid.is_none_or(|nsid| nsid == sqe.nsid.get())
            && (self.lbas.as_ref()).is_none_or(|lbas| concerns(qid, sqe, lbas))
    }
}

/// Whether a command is for one of these blocks.
fn concerns(qid: u16, sqe: &Sqe, lbas: &Range<u64>) -> bool {
    let has_blocks = qid != 0
        && matches!(
            NvmOpcode(sqe.opcode()),
            NvmOpcode::Read | NvmOpcode::Write | NvmOpcode::Compare | NvmOpcode::WriteZeroes
        );
    // All four have these fields in the same places.
    let command = ReadWrite::from(*sqe);
    let first = command.slba.get();
    let last = first.saturating_add(command.cdw12.nlb_z().into());
    has_blocks && first < lbas.end && lbas.start <= last
}

/// A fault that was armed.
#[derive(Debug, Clone)]
pub struct Armed(Arc<AtomicU64>);

impl Armed {
    /// Commands that it has struck so far.
    pub fn fired(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Entry {
    matcher: Matcher,
    fault: Fault,
    /// Commands that matched, struck or not.
    seen: u64,
    fired: Armed,
}

/// The faults of a controller. The first that names a command strikes it; the
/// others do not see it.
#[derive(Default)]
pub(super) struct Faults {
    entries: Vec<Entry>,
}

impl Faults {
    pub(super) fn arm(&mut self, matcher: Matcher, fault: Fault) -> Armed {
        let fired = Armed(Arc::default());
        self.entries.push(Entry {
            matcher,
            fault,
            seen: 0,
            fired: fired.clone(),
        });
        fired
    }

    pub(super) fn disarm(&mut self) {
        self.entries.clear();
    }

    /// What strikes this command.
    pub(super) fn strike(&mut self, qid: u16, sqe: &Sqe) -> Option<Fault> {
        for entry in &mut self.entries {
            let matcher = &entry.matcher;
            if !matcher.matches(qid, sqe) {
                continue;
            }
            let nth = entry.seen;
            entry.seen += 1;
            if nth >= matcher.skip && nth - matcher.skip < matcher.times {
                entry.fired.0.fetch_add(1, Ordering::Relaxed);
                return Some(entry.fault);
            }
        }
        None
    }
}

/// The breakages of a controller, and whether only a repair cures each.
#[derive(Default)]
pub(super) struct Health {
    broken: Vec<(Broken, bool)>,
}

impl Health {
    pub(super) fn is(&self, broken: Broken) -> bool {
        self.broken.iter().any(|(one, _)| *one == broken)
    }

    pub(super) fn add(&mut self, broken: Broken, for_good: bool) {
        let for_good = for_good || !matches!(broken, Broken::Stopped | Broken::Fatal);
        self.remove(|one| one == broken);
        self.broken.push((broken, for_good));
    }

    pub(super) fn remove(&mut self, which: impl Fn(Broken) -> bool) {
        self.broken.retain(|(one, _)| !which(*one));
    }

    /// The controller was reset.
    pub(super) fn reset(&mut self) {
        self.broken.retain(|(_, for_good)| *for_good);
    }
}
