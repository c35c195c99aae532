//! Asynchronous events (clause 5.2): what a controller tells of itself.
//!
//! An event of a kind comes once, and again only after the log page that says
//! more of it was read. So it is read here, before the event is given to anyone.

use std::os::fd::{AsFd, BorrowedFd};

use super::admin::AdminQueue;
use super::{Controller, DriverError, Inner};
use crate::Backing;
use crate::spec::{
    AsyncEventResult, AsyncEventType, CHANGED_NAMESPACES_OVERFLOW, CriticalWarning, ErrorLogEntry,
    LogId, NSID_ALL, NamespaceList, NoticeInfo, SmartLog,
};

/// Events that are taken at a time, so that a controller that sends them without
/// end does not keep the caller.
const TAKEN_MAX: usize = 16;

/// What a controller has told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsyncEvent {
    /// Attributes of these namespaces have changed, or which are active. None
    /// are named when any may be concerned. See [`Controller::rescan`].
    NamespacesChanged(Vec<u32>),
    /// Its health has changed: the critical warnings that stand now.
    Health(CriticalWarning),
    /// An error that no command reports; what of (figure 146 of 2.0).
    Error(u8),
    /// Another event.
    Other {
        /// Its type.
        event_type: AsyncEventType,
        /// What it says, by its type.
        information: u8,
        /// The log page that says more, which was not read.
        log_page: u8,
    },
}

impl<B: Backing> Controller<B> {
    /// Readable when an event may have come, until [`take_events`](Self::take_events).
    /// `None` without interrupts: look from time to time then.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.vectors.first().map(AsFd::as_fd)
    }

    /// Takes the events that have come, each once, oldest first, and asks for
    /// the next ones. Does not wait for events.
    ///
    /// # Errors
    /// When the controller does not answer. Events that were not given are given
    /// the next time, be it after a restart.
    pub fn take_events(&self) -> Result<Vec<AsyncEvent>, DriverError> {
        let inner = &self.inner;
        let mut admin = inner.admin_queue()?;
        if let Some(event) = self.event_fd() {
            // That there is none to take is not an error.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        let mut events = Vec::new();
        while events.len() < TAKEN_MAX {
            admin.look_for_events(&inner.device);
            let Some(event) = admin.first_event() else {
                break;
            };
            match inner.read_event(&mut admin, event) {
                Ok(event) => events.push(event),
                // This one stays; those before it must not be lost with it.
                Err(error) if events.is_empty() => return Err(error),
                Err(_) => return Ok(events),
            }
            admin.take_event();
            admin.ask_for_events(&inner.device);
        }
        Ok(events)
    }
}

impl<B: Backing> Inner<B> {
    /// Reads what an event is about.
    fn read_event(
        &self,
        admin: &mut AdminQueue,
        event: AsyncEventResult,
    ) -> Result<AsyncEvent, DriverError> {
        let device = &self.device;
        let information = event.information();
        let read = match (event.event_type(), NoticeInfo(information)) {
            (AsyncEventType::Error, _) => admin
                .log_page(device, "Get Log Page (errors)", LogId::Error, NSID_ALL)
                .map(|entry: Box<ErrorLogEntry>| {
                    let (device, status) = (device.address, entry.status());
                    tracing::warn!(%device, information, %status, "it reports an error");
                    AsyncEvent::Error(information)
                }),
            (AsyncEventType::Smart, _) => admin
                .log_page(device, "Get Log Page (SMART)", LogId::Smart, NSID_ALL)
                .map(|log: Box<SmartLog>| AsyncEvent::Health(log.critical_warning)),
            (AsyncEventType::Notice, NoticeInfo::NamespaceAttributeChanged) => {
                let name = "Get Log Page (changed namespaces)";
                admin
                    .log_page(device, name, LogId::ChangedNamespaces, NSID_ALL)
                    .map(|list: Box<NamespaceList>| AsyncEvent::NamespacesChanged(named(&list)))
            }
            (event_type, _) => Ok(AsyncEvent::Other {
                event_type,
                information,
                log_page: event.log_page(),
            }),
        };
        match read {
            // It does not say more; that it happened is told all the same.
            Err(DriverError::Command {
                command, status, ..
            }) => {
                let device = device.address;
                tracing::warn!(%device, command, %status, "an event without particulars");
                Ok(bare(event))
            }
            read => read,
        }
    }
}

/// Namespaces that a list of changed ones names, none if it has overflowed.
fn named(list: &NamespaceList) -> Vec<u32> {
    let named = list.iter();
    let named = named.take_while(|nsid| *nsid != CHANGED_NAMESPACES_OVERFLOW);
    named.collect()
}

/// An event of which nothing more can be read.
fn bare(event: AsyncEventResult) -> AsyncEvent {
    match event.event_type() {
        AsyncEventType::Error => AsyncEvent::Error(event.information()),
        AsyncEventType::Notice => AsyncEvent::NamespacesChanged(Vec::new()),
        event_type => AsyncEvent::Other {
            event_type,
            information: event.information(),
            log_page: event.log_page(),
        },
    }
}
