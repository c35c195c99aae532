//! Adapters that were removed, by a reset or a reload of their driver: they are
//! looked for until they are back, and then handed to the reactors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidelane_transport::nic::Adapter;

use crate::reactor::{Mailbox, NicSpec, ToReactor};
use crate::report::SharedAdapter;

/// How often an adapter that is gone is looked for.
const PERIOD: Duration = Duration::from_secs(1);

/// Opens an adapter again: the whole, and its parts by reactor. May block.
pub type Reopen = Arc<dyn Fn() -> anyhow::Result<(Arc<dyn Adapter>, Vec<NicSpec>)> + Send + Sync>;

/// An adapter that may go and come back.
#[derive(Clone)]
pub struct Returning {
    /// Its name.
    pub name: String,
    /// What statistics look at.
    pub shared: SharedAdapter,
    /// How to open it again.
    pub reopen: Reopen,
    /// Whether it is being looked for.
    pub sought: Arc<AtomicBool>,
}

impl Returning {
    /// Looks for it, on the runtime, until it is there; `number` is its number in
    /// the reactors. Does nothing when it is being looked for.
    pub fn seek(&self, number: usize, reactors: Vec<Mailbox>) {
        if self.sought.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let (adapter, parts) = this.found().await;
            this.shared.set(adapter);
            this.sought.store(false, Ordering::Release);
            for (reactor, part) in reactors.iter().zip(parts) {
                reactor.send(ToReactor::Replace(number, Box::new(part)));
            }
        });
    }

    async fn found(&self) -> (Arc<dyn Adapter>, Vec<NicSpec>) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(PERIOD).await;
            let reopen = Arc::clone(&self.reopen);
            // On a thread of its own: a driver may take its time.
            match tokio::task::spawn_blocking(move || reopen()).await {
                Ok(Ok(opened)) => return opened,
                Ok(Err(error)) => {
                    let text = format!("{error:#}");
                    // Once for each reason, not once a second.
                    if said != text {
                        tracing::warn!(nic = self.name, error = text, "the adapter is not back");
                        said = text;
                    }
                }
                Err(error) => tracing::error!(%error, "looking for an adapter failed"),
            }
        }
    }
}
