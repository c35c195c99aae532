//! What a keeper does with its SSD and with the reactors that use it.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sidelane_nvme::driver::{AsyncEvent, Controller, DriverError, Options};
use sidelane_p2p::PciAddress;
use sidelane_p2p::vfio::DeviceWatch;

use super::machine::{Command, Event};
use super::members::{Change, Member};
use super::memory::Kept;
use super::{Notices, watch};
use crate::backend::NvmeBackend;
use crate::devices::Devices;
use crate::reactor::{Attach, Away, Detach, Mailbox, ToReactor};
use crate::stats::SsdCounters;
use crate::target::journal::Journal;
use crate::target::ssds::{Health, QUEUE_DEPTH};

/// How long reactors may take to let go of their queue pairs.
const DETACH_LIMIT: Duration = Duration::from_secs(5);

/// How often health is read.
const HEALTH_PERIOD: Duration = Duration::from_secs(60);

/// Which SSD it is: another one in its place is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::target) struct Identity {
    pub(in crate::target) serial: String,
    pub(in crate::target) model: String,
}

impl Identity {
    pub(in crate::target) fn of<B: sidelane_nvme::Backing>(controller: &Controller<B>) -> Self {
        let identify = controller.identify();
        Self {
            serial: identify.sn.to_string(),
            model: identify.mn.to_string(),
        }
    }
}

/// An SSD and all that has to do with it.
pub(in crate::target) struct Ssd<D: Devices> {
    pub(in crate::target) devices: Arc<D>,
    pub(in crate::target) address: PciAddress,
    pub(in crate::target) identity: Identity,
    /// As it is opened.
    pub(in crate::target) options: Options,
    /// `None` while it is lost.
    pub(in crate::target) controller: Option<Controller<D::Backing>>,
    pub(in crate::target) members: Vec<Member>,
    pub(in crate::target) memory: Vec<Kept>,
    pub(in crate::target) reactors: Vec<Mailbox>,
    /// Of the subsystems that it is in.
    pub(in crate::target) healths: Vec<Arc<Health>>,
    pub(in crate::target) counters: Arc<SsdCounters>,
    pub(in crate::target) notices: Notices,
    pub(in crate::target) limit: Duration,
    pub(in crate::target) journal: Option<Journal>,
    pub(in crate::target) health_read: Option<Instant>,
    /// Why it was not back when it was last looked for.
    pub(in crate::target) said: String,
}

impl<D: Devices> Ssd<D> {
    pub(super) fn address(&self) -> String {
        format!("SSD {}", self.address)
    }

    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.controller.as_ref().and_then(Controller::event_fd)
    }

    /// Whether events are worth a look: its interrupt has come, or it has none
    /// and a second has gone.
    pub(super) fn may_have_events(&self, due: bool) -> bool {
        if self.controller.is_none() {
            return false;
        }
        match self.event_fd() {
            Some(fd) => super::is_readable(fd),
            None => due,
        }
    }

    pub(super) fn device_watch(&self) -> Option<Arc<DeviceWatch>> {
        self.controller.as_ref()?;
        self.devices.watch(self.address)
    }

    /// Whether it is well; `None` when nothing is to be said.
    pub(super) fn look(&mut self) -> Option<Event> {
        let controller = self.controller.as_ref()?;
        if let Err(error) = controller.check() {
            return Some(trouble(&error));
        }
        let due = self
            .health_read
            .is_none_or(|at| at.elapsed() >= HEALTH_PERIOD);
        if due { self.read_health() } else { None }
    }

    fn read_health(&mut self) -> Option<Event> {
        let controller = self.controller.as_ref()?;
        self.health_read = Some(Instant::now());
        match controller.smart_log() {
            Ok(log) => {
                for health in &self.healths {
                    health.update(self.address, *log);
                }
                None
            }
            Err(error @ DriverError::Command { .. }) => {
                tracing::warn!(ssd = %self.address, %error, "no health of an SSD");
                None
            }
            Err(error) => Some(trouble(&error)),
        }
    }

    pub(super) fn abort(&self, command: Command, overdue: bool) -> Option<Event> {
        let controller = self.controller.as_ref()?;
        let Command { qid, cid } = command;
        if overdue {
            self.counters.timeouts.add(1);
        }
        self.counters.aborts.add(1);
        let outcome = controller.abort(qid, cid);
        if overdue {
            let said = match &outcome {
                Ok(true) => "it was aborted",
                Ok(false) => "it was not aborted",
                Err(_) => "the abort failed",
            };
            tracing::warn!(ssd = %self.address, qid, cid, said, "a command did not end within {} ms", self.limit.as_millis());
        }
        match outcome {
            Ok(done) => {
                self.counters.aborted.add(u64::from(done));
                None
            }
            // It will be reset when the command does not end.
            Err(DriverError::Command { .. }) => None,
            Err(error) => Some(trouble(&error)),
        }
    }

    /// Resets it: its commands are taken back, and started again afterwards.
    pub(super) fn reset(&mut self, why: &str) -> Result<(), String> {
        tracing::error!(ssd = %self.address, "reset: {why}");
        self.counters.resets.add(1);
        self.counters.set_reason(why);
        let since = Instant::now();
        let Some(controller) = &self.controller else {
            return Err("it is not open".to_owned());
        };
        let halted = controller.halt();
        self.detach(self.all(), Away::Held);
        let outcome = halted
            .and_then(|()| controller.restart())
            .map_err(|error| error.to_string())
            .and_then(|()| self.serve_all());
        match &outcome {
            Ok(()) => {
                tracing::info!(ssd = %self.address, ms = since.elapsed().as_millis(), "it was reset and goes on");
            }
            Err(error) => tracing::error!(ssd = %self.address, "its reset failed: {error}"),
        }
        outcome
    }

    /// Lets it go: commands fail, its namespaces and memory leave service, and
    /// nothing of it stays open.
    pub(super) fn lose(&mut self, why: &str) {
        tracing::error!(ssd = %self.address, "lost: {why}; it is looked for once a second");
        self.counters.losses.add(1);
        self.counters.set_reason(why);
        self.said.clear();
        if let Some(controller) = &self.controller
            && let Err(error) = controller.halt()
        {
            tracing::debug!(ssd = %self.address, %error, "it could not be halted");
        }
        for kept in &self.memory {
            kept.revoke(&format!("SSD {} is lost: {why}", self.address));
        }
        self.detach(self.all(), Away::Failed);
        for member in &mut self.members {
            member.hide();
        }
        for health in &self.healths {
            health.forget(self.address);
        }
        // Descriptors are closed with the last buffer on it. The controller is cut
        // off now, and not by whoever is the last to let go of it: that one might
        // meet the one that is back.
        if let Some(controller) = self.controller.take()
            && let Err(error) = controller.shutdown()
        {
            tracing::debug!(ssd = %self.address, %error, "it was not closed in order");
        }
    }

    /// Stops it at the end of the target: what it had ends without it.
    pub(super) fn halt(&mut self) {
        tracing::error!(ssd = %self.address, "it did not give its commands back, and is halted");
        if let Some(controller) = &self.controller
            && let Err(error) = controller.halt()
        {
            tracing::warn!(ssd = %self.address, %error, "it could not be halted");
        }
        self.detach(self.all(), Away::Failed);
    }

    /// Shuts it down in order. All its queue pairs are gone by now.
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        match self.controller.take() {
            Some(controller) => controller
                .shutdown()
                .context("it was closed, but not in order"),
            None => Ok(()),
        }
    }

    /// Opens it again, if it is there; says whether it is.
    pub(super) fn look_for(&mut self) -> bool {
        match self.open_again() {
            Ok(()) => {
                self.counters.returns.add(1);
                self.counters.set_reason("");
                tracing::info!(ssd = %self.address, serial = self.identity.serial, "it is back in use");
                true
            }
            Err(error) => {
                if let Some(controller) = self.controller.take() {
                    let _ = controller.halt();
                    for kept in &self.memory {
                        kept.revoke(&format!("SSD {} is not back after all", self.address));
                    }
                    self.detach(self.all(), Away::Failed);
                    for member in &mut self.members {
                        member.hide();
                    }
                }
                let text = format!("{error:#}");
                // Once for each reason, not once a second.
                if self.said != text {
                    tracing::warn!(ssd = %self.address, "not back: {text}");
                    self.said = text;
                }
                false
            }
        }
    }

    fn open_again(&mut self) -> anyhow::Result<()> {
        let backing = self.devices.open_again(self.address)?;
        let controller = Controller::open(Arc::new(backing), self.options.clone())?;
        let found = Identity::of(&controller);
        ensure!(
            found == self.identity,
            "another SSD is in its place: {} {} instead of {} {}",
            found.model,
            found.serial,
            self.identity.model,
            self.identity.serial
        );
        for kept in &mut self.memory {
            // Without its memory the SSD serves all the same, as far as the
            // policy of its namespaces lets it.
            if let Err(error) = kept.give_back(&controller, &self.reactors) {
                tracing::error!(ssd = %self.address, memory = kept.name(), "memory is not back: {error:#}");
            }
        }
        self.controller = Some(controller);
        self.health_read = None;
        self.serve_all().map_err(anyhow::Error::msg)
    }

    /// Reads its events, and does what they ask for.
    pub(super) fn take_events(&mut self) -> Option<Event> {
        let events = match self.controller.as_ref()?.take_events() {
            Ok(events) => events,
            Err(error) => return Some(trouble(&error)),
        };
        let mut rescan = false;
        for event in events {
            match event {
                AsyncEvent::NamespacesChanged(nsids) => {
                    tracing::info!(ssd = %self.address, ?nsids, "its namespaces were changed by somebody else");
                    self.counters.namespace_events.add(1);
                    rescan = true;
                }
                AsyncEvent::Health(warning) => {
                    tracing::warn!(ssd = %self.address, ?warning, "its health has changed");
                    self.counters.health_events.add(1);
                    if let Some(event) = self.read_health() {
                        return Some(event);
                    }
                    for member in &self.members {
                        member.subsystem.warn_of_health(warning);
                    }
                }
                AsyncEvent::Error(information) => {
                    tracing::error!(ssd = %self.address, information, "it reports an error of its own");
                    self.counters.error_events.add(1);
                }
                other => tracing::info!(ssd = %self.address, ?other, "an event"),
            }
        }
        if rescan { self.rescan() } else { None }
    }

    fn rescan(&mut self) -> Option<Event> {
        match self.controller.as_ref()?.rescan() {
            Ok(changes) => {
                for change in &changes {
                    tracing::info!(ssd = %self.address, ?change, "a namespace has changed");
                }
            }
            Err(error) => return Some(trouble(&error)),
        }
        let members = std::mem::take(&mut self.members);
        let mut outcome = Ok(());
        for mut member in members {
            outcome = outcome.and_then(|()| self.follow(&mut member));
            self.members.push(member);
        }
        outcome.err().map(Event::Broken)
    }

    /// Follows a change of a namespace.
    fn follow(&self, member: &mut Member) -> Result<(), String> {
        let Some(controller) = &self.controller else {
            return Ok(());
        };
        match member.update(controller) {
            Change::Same => member.show(),
            Change::Anew => {
                self.take_out(member);
                self.put_in(controller, member)?;
                member.show();
            }
            Change::Gone => self.take_out(member),
        }
        Ok(())
    }

    /// Gives all its namespaces queue pairs again, after a reset or a return.
    fn serve_all(&mut self) -> Result<(), String> {
        let members = std::mem::take(&mut self.members);
        let mut outcome = Ok(());
        for mut member in members {
            outcome = outcome.and_then(|()| self.serve(&mut member));
            self.members.push(member);
        }
        outcome
    }

    fn serve(&self, member: &mut Member) -> Result<(), String> {
        let Some(controller) = &self.controller else {
            return Ok(());
        };
        match member.update(controller) {
            Change::Same => {}
            Change::Anew => self.take_out(member),
            Change::Gone => {
                tracing::error!(ssd = %self.address, nsid = member.nsid, "a namespace is not there, or cannot be used");
                self.take_out(member);
                return Ok(());
            }
        }
        // Nobody sees it before it serves, unless nothing of it has changed.
        self.put_in(controller, member)?;
        member.show();
        Ok(())
    }

    /// Commands that were checked against what a namespace was must not reach
    /// what it is now.
    fn take_out(&self, member: &mut Member) {
        member.hide();
        self.detach(vec![member.number], Away::Failed);
    }

    fn put_in(&self, controller: &Controller<D::Backing>, member: &Member) -> Result<(), String> {
        for reactor in &self.reactors {
            let mut queue = controller
                .create_io_queue_pair(QUEUE_DEPTH)
                .map_err(|error| error.to_string())?;
            if let Some(journal) = &self.journal {
                queue.set_tap(journal.tap(self.address));
            }
            let backend = NvmeBackend::new(
                queue,
                member.nsid,
                controller.max_transfer_bytes(),
                watch(&self.notices, self.limit),
            );
            reactor.send(ToReactor::Attach(Attach {
                namespace: member.number,
                backend: Box::new(backend),
                block_bytes: member.shown.block_bytes,
            }));
        }
        Ok(())
    }

    fn all(&self) -> Vec<usize> {
        self.members.iter().map(|member| member.number).collect()
    }

    /// Has all reactors let go of their queue pairs, and waits until they have.
    fn detach(&self, namespaces: Vec<usize>, away: Away) {
        let (reply, replies) = mpsc::channel();
        for reactor in &self.reactors {
            let namespaces = namespaces.clone();
            let reply = reply.clone();
            reactor.send(ToReactor::Detach(Detach {
                namespaces,
                away,
                reply,
            }));
        }
        drop(reply);
        let end = Instant::now() + DETACH_LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match replies.recv_timeout(left) {
                Ok(detached) => {
                    self.counters.retried_commands.add(detached.again);
                    self.counters.failed_commands.add(detached.failed);
                }
                // All have answered, or ended.
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    tracing::error!(ssd = %self.address, "a reactor did not let go of it in time");
                    return;
                }
            }
        }
    }
}

/// What an error of the driver says of the SSD.
fn trouble(error: &DriverError) -> Event {
    match error {
        DriverError::Gone { .. } => Event::Gone(error.to_string()),
        error => Event::Broken(error.to_string()),
    }
}
