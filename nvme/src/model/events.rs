//! Asynchronous events (clause 5.2): requests that wait for them, events that
//! wait for a request, and the masking of a type until its log page was read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::queues::{Fetched, Outcome};
use super::state::State;
use crate::spec::{
    AsyncEventResult, AsyncEventType, CHANGED_NAMESPACES_OVERFLOW, CriticalWarning, LogId,
    NAMESPACE_LIST_LEN, NamespaceList, NoticeInfo, Status,
};

/// Events that wait; more are lost. Equal ones wait as one.
const PENDING_MAX: usize = 64;

/// Something that a controller tells of by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelEvent {
    /// An error of this kind (asynchronous event information, 00h to 05h).
    Error(u8),
    /// The SMART log has these critical warnings from now on. None ends them,
    /// and is no event.
    Health(CriticalWarning),
    /// Identify data of this namespace, or whether it is attached, have changed.
    /// Nothing does change: see [`resize`](super::ModelController::resize) and
    /// the like, which raise it by themselves.
    NamespaceChanged(u32),
    /// Any other.
    Other(AsyncEventResult),
}

#[derive(Default)]
pub(super) struct Events {
    /// Requests that wait.
    requests: VecDeque<Fetched>,
    /// Events that wait.
    pending: VecDeque<AsyncEventResult>,
    /// Types that were reported and not cleared, each with its log page.
    masked: BTreeMap<u8, u8>,
    changed: BTreeSet<u32>,
    pub(super) warning: CriticalWarning,
}

impl Events {
    /// The controller was reset. What the logs say stays.
    pub(super) fn reset(&mut self) {
        self.requests.clear();
        self.pending.clear();
        self.masked.clear();
    }

    /// A request that is to be given up.
    pub(super) fn abort(&mut self, cid: u16) -> Option<Fetched> {
        let at = (self.requests.iter()).position(|request| request.sqe.cid() == cid)?;
        self.requests.remove(at)
    }

    /// Changed namespaces since the log page was read (5.16.1.5).
    pub(super) fn changed(&self) -> NamespaceList {
        if self.changed.len() > NAMESPACE_LIST_LEN {
            NamespaceList::of([CHANGED_NAMESPACES_OVERFLOW])
        } else {
            NamespaceList::of(self.changed.iter().copied())
        }
    }
}

impl State {
    pub(super) fn async_event_request(&mut self, command: &Fetched) -> Result<Outcome, Status> {
        if self.events.requests.len() > usize::from(self.options.aerl_z) {
            return Err(Status::AER_LIMIT_EXCEEDED);
        }
        self.events.requests.push_back(*command);
        let told = self.report();
        self.heed(told);
        Ok(Outcome::Held)
    }

    /// Lets an event happen: it is reported if the host wants to hear of such.
    pub(super) fn raise(&mut self, event: ModelEvent) {
        let config = self.event_config();
        let result = |event_type, information, log: LogId| {
            AsyncEventResult::new()
                .with_event_type(event_type)
                .with_information(information)
                .with_log_page(log.0)
        };
        let (wanted, event) = match event {
            ModelEvent::Error(kind) => (true, result(AsyncEventType::Error, kind, LogId::Error)),
            ModelEvent::Health(warning) => {
                self.events.warning = warning;
                let kind = match () {
                    () if warning.temperature() => 1,
                    () if warning.spare() => 2,
                    () => 0,
                };
                let wanted = config.smart() & warning.raw() != 0;
                (wanted, result(AsyncEventType::Smart, kind, LogId::Smart))
            }
            ModelEvent::NamespaceChanged(nsid) => {
                self.events.changed.insert(nsid);
                let kind = NoticeInfo::NamespaceAttributeChanged.0;
                let event = result(AsyncEventType::Notice, kind, LogId::ChangedNamespaces);
                (config.namespace_attribute(), event)
            }
            ModelEvent::Other(event) => (true, event),
        };
        let pending = &mut self.events.pending;
        if wanted && !pending.contains(&event) && pending.len() < PENDING_MAX {
            pending.push_back(event);
        }
        if self.is_running() {
            let told = self.report();
            self.heed(told);
            self.interrupt();
        }
    }

    /// Answers requests with events whose types are not masked.
    fn report(&mut self) -> Result<(), Status> {
        loop {
            let events = &mut self.events;
            let open = |event: &AsyncEventResult| {
                let kind = event.event_type().0;
                !events.masked.contains_key(&kind)
            };
            let Some(at) = events.pending.iter().position(open) else {
                return Ok(());
            };
            let Some(request) = events.requests.pop_front() else {
                return Ok(());
            };
            if let Some(event) = events.pending.remove(at) {
                events.masked.insert(event.event_type().0, event.log_page());
                let cqe = request.cqe(Status::SUCCESS);
                self.answer(&request, cqe.with_result(event.raw().into()))?;
            }
        }
    }

    /// A log page was read, without retaining its event.
    pub(super) fn log_was_read(&mut self, log: LogId) {
        self.events.masked.retain(|_, page| *page != log.0);
        if log == LogId::ChangedNamespaces {
            self.events.changed.clear();
        }
        let told = self.report();
        self.heed(told);
    }
}
