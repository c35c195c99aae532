//! A running reactor, as the rest of the target holds it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::Reactor;
use super::mailbox::{self, FromReactor, Mailbox, ToReactor};
use super::spec::{ReactorError, ReactorSpec};
use crate::stats::ReactorCounters;

/// A running reactor.
#[derive(Debug)]
pub struct ReactorHandle {
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// What it counts.
    pub counters: Arc<ReactorCounters>,
    /// Until it has been waited for.
    thread: Option<JoinHandle<()>>,
}

impl ReactorHandle {
    /// Starts a reactor, and returns when it is ready or has failed.
    ///
    /// # Errors
    /// When memory cannot be had, mapped or registered.
    pub fn start(spec: ReactorSpec) -> Result<Self, ReactorError> {
        let (mailbox, inbox) = mailbox::mailbox()?;
        let counters = Arc::clone(&spec.counters);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{}", spec.core))
            .spawn(move || match Reactor::new(spec, inbox) {
                Ok(mut reactor) => {
                    let _ = ready.send(Ok(()));
                    let (core, reports) = (reactor.counters.core, reactor.reports.clone());
                    // A defect; what is left is to say so, and to end in order.
                    if catch_unwind(AssertUnwindSafe(|| reactor.run())).is_err() {
                        let _ = reports.send(FromReactor::Panicked { core });
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self {
                mailbox,
                counters,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::Error::other("it ended at once").into()),
        }
    }
}

/// Dropping it stops the reactor: its connections are ended, commands that SSDs
/// still have are waited for, and all it owned is given back.
impl Drop for ReactorHandle {
    fn drop(&mut self) {
        self.mailbox.send(ToReactor::Stop);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("a reactor had panicked");
        }
    }
}
