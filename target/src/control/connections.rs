//! Connection set-up: takes requests from connection management, has a reactor
//! make the queue pair, answers; and passes ends on, both ways.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use sidelane_transport::cm::{CmEvent, ConnParams, ConnectionManager};
use sidelane_transport::nic::{NicCaps, QpAttrs, QpNumber};
use sidelane_transport::nvmf::{ConnectAccept, ConnectReject, ConnectRequest, RejectStatus};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;

use super::inquiry::AskManagers;
use super::returning::Returning;
use super::watched::watch;
use crate::reactor::{ConnKey, FromReactor, Mailbox, NewConnection, NotOpened, ToReactor};
use crate::session::QueueSession;
use crate::stats::{ManagerReport, add_counts};
use crate::subsystem::{Portal, Target};

/// Entries of an admin queue, whatever the host asks for.
pub const ADMIN_DEPTH: u16 = 32;

/// Sets up and ends the connections of all listeners.
pub struct ConnectionService {
    managers: Vec<Manager>,
    reactors: Vec<Mailbox>,
    /// Adapters that may come back, by their number in the reactors.
    returning: Vec<Option<Returning>>,
    offered: Arc<Target>,
    max_queue_entries: u16,
    opened: UnboundedSender<Opened>,
    openings: UnboundedReceiver<Opened>,
    /// Admin queues so far, to spread associations over reactors.
    admin_queues: usize,
    ask: AskManagers,
    asked: Receiver<oneshot::Sender<Vec<ManagerReport>>>,
}

/// A connection manager, and what it answers for.
pub struct ManagerSpec {
    /// It.
    pub manager: Box<dyn ConnectionManager>,
    /// Its adapters, in its order: the number in every reactor, and what it can
    /// do; `None` for one that nobody may connect by.
    pub adapters: Vec<Option<(usize, NicCaps)>>,
    /// What it listens on, with the listener's name.
    pub listen: Vec<(String, SocketAddr)>,
}

struct Manager {
    manager: Box<dyn ConnectionManager>,
    adapters: Vec<Option<(usize, NicCaps)>>,
    fd: AsyncFd<OwnedFd>,
}

impl Manager {
    fn report(&self) -> ManagerReport {
        let adapters = self.adapters.iter().flatten();
        let mut report = ManagerReport {
            nics: adapters.map(|(_, caps)| caps.name.clone()).collect(),
            counts: Default::default(),
        };
        add_counts(&mut report.counts, self.manager.counts());
        report
    }
}

/// A reactor has answered.
struct Opened {
    key: ConnKey,
    depth: u16,
    outcome: Result<QpNumber, NotOpened>,
}

impl ConnectionService {
    /// A service over these managers, which listen when this returns. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be listened on, or a file descriptor not watched.
    pub fn new(
        managers: Vec<ManagerSpec>,
        returning: Vec<Option<Returning>>,
        reactors: Vec<Mailbox>,
        offered: Arc<Target>,
        max_queue_entries: u16,
    ) -> anyhow::Result<Self> {
        let managers = managers
            .into_iter()
            .map(|spec| {
                let mut manager = spec.manager;
                for (id, at) in spec.listen {
                    manager
                        .listen(at)
                        .with_context(|| format!("listener {id} on {at}"))?;
                }
                let fd = watch(manager.event_fd())?;
                Ok(Manager {
                    manager,
                    adapters: spec.adapters,
                    fd,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let (opened, openings) = unbounded_channel();
        let (ask, asked) = channel(1);
        Ok(Self {
            managers,
            returning,
            reactors,
            offered,
            max_queue_entries,
            opened,
            openings,
            admin_queues: 0,
            ask,
            asked,
        })
    }

    /// Where to ask what the managers have counted.
    pub fn ask(&self) -> AskManagers {
        self.ask.clone()
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When a file descriptor fails.
    pub async fn serve(
        &mut self,
        reports: &mut UnboundedReceiver<FromReactor>,
    ) -> std::io::Result<()> {
        loop {
            let now = Instant::now();
            for at in 0..self.managers.len() {
                while let Some(event) = self.managers[at].manager.poll(now) {
                    self.event(at, event, now);
                }
            }
            let deadline = self
                .managers
                .iter()
                .filter_map(|m| m.manager.deadline())
                .min();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                readable = any_readable(&self.managers) => readable?,
                () = timer => {}
                Some(opened) = self.openings.recv() => self.opened(opened),
                Some(reply) = self.asked.recv() => {
                    // Whoever asked may have given up.
                    let _ = reply.send(self.managers.iter().map(Manager::report).collect());
                }
                Some(report) = reports.recv() => match report {
                    FromReactor::Disconnect(key) => {
                        // Gone already is as good.
                        let manager = &mut self.managers[key.manager].manager;
                        let _ = manager.disconnect(key.id, Instant::now());
                    }
                    FromReactor::AdapterGone(number) => {
                        if let Some(Some(adapter)) = self.returning.get(number) {
                            adapter.seek(number, self.reactors.clone());
                        }
                    }
                    FromReactor::Panicked { core } => {
                        return Err(std::io::Error::other(format!(
                            "the reactor on core {core} met a defect and has ended; what it \
                             said before is above, please report it"
                        )));
                    }
                },
            }
        }
    }

    fn event(&mut self, at: usize, event: CmEvent, now: Instant) {
        match event {
            CmEvent::ConnectRequest {
                id,
                adapter,
                local,
                remote,
                attrs,
                private_data,
            } => {
                let key = ConnKey { manager: at, id };
                match self.request(at, adapter, &attrs, &private_data) {
                    Ok((nic, qid, depth)) => {
                        tracing::info!(%local, %remote, qid, depth, "a host connects");
                        let portal = Portal { address: local };
                        let reactor = self.reactor_for(qid);
                        let session = QueueSession::new(
                            Arc::clone(&self.offered),
                            portal,
                            self.reactors[reactor].waker(),
                            now,
                        );
                        let (reply, answer) = oneshot::channel();
                        let new = NewConnection {
                            key,
                            nic,
                            attrs,
                            depth: usize::from(depth),
                            session,
                            reply,
                        };
                        self.reactors[reactor].send(ToReactor::Open(Box::new(new)));
                        let opened = self.opened.clone();
                        tokio::spawn(async move {
                            // No answer: the reactor is stopping, and so are we.
                            if let Ok(outcome) = answer.await {
                                let _ = opened.send(Opened {
                                    key,
                                    depth,
                                    outcome,
                                });
                            }
                        });
                    }
                    Err(status) => {
                        tracing::warn!(%remote, %status, "a connection is refused");
                        self.reject(key, status, now);
                    }
                }
            }
            CmEvent::Disconnected { id } | CmEvent::Failed { id, .. } => {
                tracing::debug!(?id, "a connection has ended");
                let key = ConnKey { manager: at, id };
                for reactor in &self.reactors {
                    reactor.send(ToReactor::Disconnected(key));
                }
            }
            CmEvent::Established { id } => tracing::debug!(?id, "a connection is up"),
            CmEvent::Accepted { id, .. } => tracing::error!(?id, "accepted what was never asked"),
        }
    }

    /// The adapter's number in reactors, the queue identifier, and the depth: the
    /// least of what the host asks for, the configuration allows and the adapter
    /// can do.
    fn request(
        &self,
        manager: usize,
        adapter: usize,
        attrs: &QpAttrs,
        private_data: &[u8],
    ) -> Result<(usize, u16, u16), RejectStatus> {
        let request = ConnectRequest::parse(private_data)?;
        // All data of writes comes by RDMA READ.
        if attrs.max_rd_atomic == 0 {
            return Err(RejectStatus::InvalidReadDepth);
        }
        let adapter = self.managers[manager].adapters.get(adapter);
        let Some((nic, caps)) = adapter.and_then(Option::as_ref) else {
            return Err(RejectStatus::NoResources);
        };
        let most = if request.qid() == 0 {
            ADMIN_DEPTH
        } else {
            self.max_queue_entries
        };
        // A command in flight has a response of its own to send.
        let can = u16::try_from(caps.max_send_wr).unwrap_or(u16::MAX);
        let depth = request.send_queue_entries().min(most).min(can).max(2);
        Ok((*nic, request.qid(), depth))
    }

    /// I/O queues of a host spread by their identifier, admin queues in turn.
    fn reactor_for(&mut self, qid: u16) -> usize {
        let turn = if qid == 0 {
            self.admin_queues += 1;
            self.admin_queues
        } else {
            usize::from(qid)
        };
        turn % self.reactors.len()
    }

    fn opened(&mut self, opened: Opened) {
        let Opened {
            key,
            depth,
            outcome,
        } = opened;
        let now = Instant::now();
        match outcome {
            Ok(qp) => {
                let accept = ConnectAccept::new(depth);
                let params = ConnParams {
                    qp,
                    private_data: Bytes::copy_from_slice(accept.as_bytes()),
                };
                let manager = &mut self.managers[key.manager].manager;
                if let Err(error) = manager.accept(key.id, params, now) {
                    tracing::info!(?key, %error, "the host is gone before its connection was up");
                    for reactor in &self.reactors {
                        reactor.send(ToReactor::Disconnected(key));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(?key, %error, "a connection is refused");
                self.reject(key, RejectStatus::NoResources, now);
            }
        }
    }

    fn reject(&mut self, key: ConnKey, status: RejectStatus, now: Instant) {
        let reject = ConnectReject::new(status);
        let data = Bytes::copy_from_slice(reject.as_bytes());
        // Gone already is as good.
        let _ = self.managers[key.manager].manager.reject(key.id, data, now);
    }
}

/// Resolves when a manager may have something; which one does not matter.
async fn any_readable(managers: &[Manager]) -> std::io::Result<()> {
    let mut waits: Vec<_> = managers.iter().map(|m| Box::pin(m.fd.readable())).collect();
    std::future::poll_fn(|cx| {
        for wait in &mut waits {
            if let std::task::Poll::Ready(guard) = wait.as_mut().poll(cx) {
                // The manager is polled until it is empty, so the next packet
                // makes the descriptor ready again.
                return std::task::Poll::Ready(guard.map(|mut guard| guard.clear_ready()));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
