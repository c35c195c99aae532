//! The keeper of an SSD: a thread that owns its controller, and may block in the
//! driver, so that reactors do not. One exception: a queue pair of an SSD that
//! goes on (a namespace was taken out) is deleted by the reactor that has it,
//! which waits for the admin queue meanwhile.
//!
//! It hears of commands that are overdue (`notices`), of the SSD's own events, of
//! the kernel that wants the device back, and looks after it once a second. What
//! is done about that is decided by `machine` and carried out by `ssd`, with
//! `members` for the namespaces and `memory` for the memory on the SSD. A keeper
//! touches nothing of other SSDs.

mod machine;
mod members;
mod memory;
mod notices;
mod ssd;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sidelane_p2p::vfio::DeviceEvent;

use self::machine::{Action, Command, Event, Machine, State};
use self::notices::{Inbox, Notice, notices};
use crate::backend::{Trouble, Watch};
use crate::devices::Devices;
use crate::stats::SsdCounters;

pub(super) use self::members::{Member, Name};
pub(super) use self::memory::{Kept, tell_revoked};
pub(super) use self::notices::Notices;
pub(super) use self::ssd::{Identity, Ssd};

/// How often an SSD is looked after, and looked for when it is lost.
const PERIOD: Duration = Duration::from_secs(1);

/// The longest time between the abort of a command and the reset of its SSD.
const MAX_GRACE: Duration = Duration::from_secs(4);

/// Where a keeper is told, before there is one.
pub(super) struct Desk {
    pub(super) notices: Notices,
    inbox: Inbox,
    /// Age from which a command is overdue.
    pub(super) limit: Duration,
    pub(super) counters: Arc<SsdCounters>,
}

impl Desk {
    /// For an SSD whose commands are overdue at this age.
    ///
    /// # Errors
    /// When the system gives no eventfd.
    pub(super) fn new(limit: Duration, counters: Arc<SsdCounters>) -> std::io::Result<Self> {
        let (notices, inbox) = notices()?;
        Ok(Self {
            notices,
            inbox,
            limit,
            counters,
        })
    }

    /// What watches the commands of one queue pair.
    pub(super) fn watch(&self) -> Watch {
        watch(&self.notices, self.limit)
    }
}

fn watch(notices: &Notices, limit: Duration) -> Watch {
    let notices = notices.clone();
    Watch {
        limit,
        report: Box::new(move |trouble| notices.trouble(trouble)),
    }
}

/// A keeper at work.
pub(super) struct Keeper {
    notices: Notices,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Keeper {
    /// Begins to keep an SSD.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start<D: Devices>(ssd: Ssd<D>, desk: Desk) -> anyhow::Result<Self> {
        let notices = desk.notices.clone();
        let name = format!("ssd-{}", ssd.address);
        let work = Work {
            machine: Machine::new((desk.limit / 3).min(MAX_GRACE)),
            limit: desk.limit,
            inbox: desk.inbox,
            counters: desk.counters,
            next_look: Instant::now() + PERIOD,
            ssd,
        };
        // The kernel keeps 15 characters of it.
        let thread = std::thread::Builder::new().name(name);
        let thread = thread.spawn(move || work.run())?;
        Ok(Self { notices, thread })
    }

    /// The target is about to stop: a lost SSD need not be looked for.
    pub(super) fn stop_soon(&self) {
        self.notices.stop_soon();
    }

    /// Has it end, without waiting.
    pub(super) fn ask_to_stop(&self) {
        self.notices.stop();
    }

    /// Waits for its end: the SSD was shut down.
    ///
    /// # Errors
    /// When that was not in order.
    pub(super) fn join(self) -> anyhow::Result<()> {
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the keeper of an SSD had panicked")))
    }
}

/// Whether a descriptor has something to be read now.
fn is_readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

struct Work<D: Devices> {
    machine: Machine,
    limit: Duration,
    inbox: Inbox,
    counters: Arc<SsdCounters>,
    next_look: Instant,
    ssd: Ssd<D>,
}

impl<D: Devices> Work<D> {
    fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.wait();
            let mut events = VecDeque::new();
            self.gather(&mut events);
            while let Some(event) = events.pop_front() {
                let state = self.machine.state();
                let Some(action) = self.machine.apply(event) else {
                    self.note(state);
                    continue;
                };
                self.note(state);
                if action == Action::Close {
                    return self.ssd.close().context(self.ssd.address());
                }
                events.extend(self.carry_out(action));
            }
        }
    }

    /// Makes a change of state visible.
    fn note(&self, before: State) {
        let state = self.machine.state();
        if state != before {
            self.counters.set_state(match state {
                State::Up => "up",
                State::Resetting => "resetting",
                State::Lost => "lost",
                State::Halted | State::Closed => "stopped",
            });
        }
    }

    /// Sleeps until somebody has something to say, or it is time to look.
    fn wait(&self) {
        let left = self.next_look.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let watch = self.ssd.device_watch();
        let mut fds = vec![PollFd::from_borrowed_fd(self.inbox.as_fd(), PollFlags::IN)];
        fds.extend(
            watch
                .iter()
                .map(|watch| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)),
        );
        let events = self.ssd.event_fd();
        fds.extend(events.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // An interrupted wait is as good as a short one.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn gather(&mut self, events: &mut VecDeque<Event>) {
        if let Some(event) = self.ssd.device_watch().and_then(|watch| watch.read_event()) {
            events.push_back(Event::Gone(match event {
                DeviceEvent::RemovalRequested => {
                    "the kernel wants it back (it is removed or unbound)".to_owned()
                }
                DeviceEvent::FatalError => "it met a fatal PCI error (see `dmesg`)".to_owned(),
            }));
        }
        self.inbox.clear();
        while let Some(notice) = self.inbox.take() {
            events.push_back(match notice {
                Notice::Stop => Event::Stop,
                Notice::Trouble(Trouble::Overdue { qid, cid, age }) => {
                    Event::Overdue(Command { qid, cid }, age.saturating_sub(self.limit))
                }
                Notice::Trouble(Trouble::Unwanted { qid, cid }) => {
                    Event::Unwanted(Command { qid, cid })
                }
                Notice::Trouble(Trouble::GivenUp) => Event::GivenUp,
            });
        }
        let now = Instant::now();
        let due = now >= self.next_look;
        if due {
            self.next_look = now + PERIOD;
            events.push_back(self.ssd.look().unwrap_or(Event::Second));
        }
        // Where there is no interrupt to tell of events, they are looked for.
        if self.ssd.may_have_events(due) {
            events.push_back(Event::HasEvents);
        }
    }

    /// Does it, and says what came of it.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Abort { command, overdue } => self.ssd.abort(command, overdue),
            Action::Reset { why } => Some(Event::ResetEnded(self.ssd.reset(&why))),
            Action::Lose { why } => {
                self.ssd.lose(&why);
                None
            }
            Action::Halt => {
                self.ssd.halt();
                None
            }
            Action::TakeEvents => self.ssd.take_events(),
            Action::LookFor if self.inbox.stops_soon() => None,
            Action::LookFor => self.ssd.look_for().then_some(Event::Returned),
            // It ends the thread.
            Action::Close => None,
        }
    }
}
