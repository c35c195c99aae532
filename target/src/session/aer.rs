//! Asynchronous Event Requests (NVMe 2.0, 5.2): held until there is something
//! to say, and then said once, until the host reads the log page that goes with
//! it.

use arrayvec::ArrayVec;
use sidelane_nvme::spec::{
    AsyncEventConfig, AsyncEventResult, AsyncEventType, CriticalWarning, LogId, NoticeInfo, Status,
};

use super::refusal::Refusal;
use super::step::Completion;
use crate::subsystem::{ControllerShared, Event, HealthWarning};

/// Requests that may be outstanding (AERL).
pub const AER_LIMIT: usize = 4;

/// The kinds of events.
const KINDS: usize = 5;

const EVENTS: [Event; KINDS] = [
    Event::NamespacesChanged,
    Event::DiscoveryChanged,
    Event::Health(HealthWarning::Reliability),
    Event::Health(HealthWarning::Temperature),
    Event::Health(HealthWarning::Spare),
];

/// The type of an event, its information, and the log page that says more
/// (NVMe 2.0, figures 145 to 149).
fn report(event: Event) -> (AsyncEventType, u8, LogId) {
    let notice = |info: NoticeInfo, page| (AsyncEventType::Notice, info.into_bits(), page);
    match event {
        Event::NamespacesChanged => notice(
            NoticeInfo::NamespaceAttributeChanged,
            LogId::ChangedNamespaces,
        ),
        Event::DiscoveryChanged => notice(NoticeInfo::DiscoveryLogChange, LogId::Discovery),
        Event::Health(warning) => (AsyncEventType::Smart, warning as u8, LogId::Smart),
    }
}

fn enabled(event: Event, config: AsyncEventConfig) -> bool {
    let warnings = CriticalWarning::from(config.smart());
    match event {
        Event::Health(HealthWarning::Spare) => warnings.spare(),
        Event::Health(HealthWarning::Temperature) => warnings.temperature(),
        // Whatever else may be wrong with the media.
        Event::Health(HealthWarning::Reliability) => {
            warnings.reliability() || warnings.read_only() || warnings.backup()
        }
        Event::NamespacesChanged => config.namespace_attribute(),
        Event::DiscoveryChanged => config.discovery_log(),
    }
}

/// The requests that a controller holds.
#[derive(Debug, Default)]
pub struct AerQueue {
    held: ArrayVec<u16, AER_LIMIT>,
    /// Events that were reported and whose log page was not read since.
    masked: ArrayVec<Event, KINDS>,
    /// Requests that were aborted.
    given_up: ArrayVec<u16, AER_LIMIT>,
}

impl AerQueue {
    /// Holds a request.
    ///
    /// # Errors
    /// When as many are held as may be.
    pub fn hold(&mut self, cid: u16) -> Result<(), Refusal> {
        if self.held.len() + self.given_up.len() == AER_LIMIT {
            return Err(Refusal::AerLimit);
        }
        self.held.push(cid);
        Ok(())
    }

    /// Forgets requests and masks, as a controller reset does, and gives the
    /// identifiers of the commands that will never be answered.
    pub fn reset(&mut self) -> ArrayVec<u16, AER_LIMIT> {
        self.masked.clear();
        self.held.drain(..).chain(self.given_up.drain(..)).collect()
    }

    /// A request is to be aborted; `false` when it is not held.
    pub fn abort(&mut self, cid: u16) -> bool {
        let Some(at) = self.held.iter().position(|held| *held == cid) else {
            return false;
        };
        self.given_up.push(self.held.remove(at));
        true
    }

    /// The host is about to get a log page, without retaining its event. Call it
    /// before the page is made, so that no later change is lost.
    pub fn page_is_read(&mut self, shared: &ControllerShared, page: LogId) {
        self.masked.retain(|event| report(*event).2 != page);
        for event in EVENTS {
            if report(event).2 == page {
                shared.take_event(event);
            }
        }
    }

    /// The next request that can be answered, and its answer.
    pub fn poll(
        &mut self,
        shared: &ControllerShared,
        config: AsyncEventConfig,
    ) -> Option<(u16, Completion)> {
        if let Some(cid) = self.given_up.pop() {
            return Some((cid, Completion::of(Status::ABORT_REQUESTED)));
        }
        for event in EVENTS {
            if !shared.has_event(event) {
                continue;
            }
            if !enabled(event, config) {
                // The host does not want to hear of it, not later either.
                shared.take_event(event);
                continue;
            }
            if self.masked.contains(&event) || self.held.is_empty() || !shared.take_event(event) {
                continue;
            }
            let (event_type, information, page) = report(event);
            let result = AsyncEventResult::new()
                .with_event_type(event_type)
                .with_information(information)
                .with_log_page(page.into_bits());
            self.masked.push(event);
            let dword = u32::from_le_bytes(zerocopy::transmute!(result));
            return Some((self.held.remove(0), Completion::with_dword(dword)));
        }
        None
    }
}
