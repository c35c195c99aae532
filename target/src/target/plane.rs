//! The thread of the control plane: what it is given, and what it runs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sidelane_p2p::vfio::DeviceWatch;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::control::{ApiSocket, ConnectionService, Inquiry, ManagerSpec, Returning, heed};
use crate::reactor::FromReactor;
use crate::report::{Reporter, SharedAdapter};
use crate::subsystem::Target as Offered;

/// What the control thread is given.
pub(super) struct ControlPlane {
    pub(super) socket: PathBuf,
    /// In their order in reactors.
    pub(super) adapters: Vec<SharedAdapter>,
    /// Of the reactors.
    pub(super) cores: Vec<usize>,
    pub(super) managers: Vec<ManagerSpec>,
    pub(super) returning: Vec<Option<Returning>>,
    pub(super) mailboxes: Vec<crate::reactor::Mailbox>,
    pub(super) offered: Arc<Offered>,
    pub(super) max_queue_entries: u16,
    pub(super) reporter: Arc<Reporter>,
    pub(super) from_reactors: UnboundedReceiver<FromReactor>,
    /// Of devices that no keeper has.
    pub(super) watches: Vec<Arc<DeviceWatch>>,
    pub(super) stopped: oneshot::Receiver<()>,
}

impl ControlPlane {
    /// Runs until it is stopped; sends to `ready` when hosts can connect.
    pub(super) fn run(mut self, ready: &std::sync::mpsc::Sender<()>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let socket = ApiSocket::bind(&self.socket).await?;
            let asked: Vec<_> = self.cores.into_iter().zip(self.mailboxes.clone()).collect();
            let offered = Arc::clone(&self.offered);
            let mut connections = ConnectionService::new(
                self.managers,
                self.returning,
                self.mailboxes,
                self.offered,
                self.max_queue_entries,
            )?;
            let inquiry = Inquiry::new(asked, self.adapters, connections.ask(), offered);
            for device in self.watches {
                heed(device).context("watching a device")?;
            }
            let _ = ready.send(());
            tokio::select! {
                outcome = connections.serve(&mut self.from_reactors) => {
                    outcome.context("connection management failed")
                }
                outcome = socket.serve(self.reporter, inquiry) => outcome.context("the control API failed"),
                _ = &mut self.stopped => Ok(()),
            }
        })
    }
}
