//! Asks reactors, connection managers and devices what they have counted.
//!
//! Each owns its counts, so each is asked by message; and any of them may be
//! stuck, so none is waited for longer than [`PATIENCE`], nor asked again before
//! it has answered.

use std::sync::Arc;
use std::time::Duration;

use sidelane_transport::nic::Count;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::reactor::{Mailbox, NicCounts, QueuePairCounts, ToReactor};
use crate::report::SharedAdapter;
use crate::stats::{
    AdapterReport, ManagerReport, NetworkReport, QueuePairReport, QueueReport, add_counts,
};
use crate::subsystem::{ControllerShared, Subsystem, Target};

/// How long an answer may take, over all that are asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks connection management.
pub type AskManagers = mpsc::Sender<oneshot::Sender<Vec<ManagerReport>>>;

/// Whom to ask.
pub struct Inquiry {
    reactors: Vec<Reactor>,
    /// In their order in reactors.
    adapters: Vec<Adapter>,
    managers: AskManagers,
    of_managers: Question<Vec<ManagerReport>>,
    offered: Arc<Target>,
}

struct Reactor {
    core: usize,
    mailbox: Mailbox,
    question: Question<Vec<NicCounts>>,
}

struct Adapter {
    shared: SharedAdapter,
    question: Question<Vec<Count>>,
}

impl Inquiry {
    /// Of these reactors, by core; of these adapters, in their order in reactors.
    pub fn new(
        reactors: impl IntoIterator<Item = (usize, Mailbox)>,
        adapters: impl IntoIterator<Item = SharedAdapter>,
        managers: AskManagers,
        offered: Arc<Target>,
    ) -> Self {
        let reactor = |(core, mailbox)| Reactor {
            core,
            mailbox,
            question: Question::default(),
        };
        let adapter = |shared| Adapter {
            shared,
            question: Question::default(),
        };
        Self {
            reactors: reactors.into_iter().map(reactor).collect(),
            adapters: adapters.into_iter().map(adapter).collect(),
            managers,
            of_managers: Question::default(),
            offered,
        }
    }

    /// What was sent and received until now. Must be called in a tokio runtime.
    pub async fn ask(&mut self) -> NetworkReport {
        for reactor in &mut self.reactors {
            let mailbox = &reactor.mailbox;
            reactor.question.put(|reply| {
                // One that has ended drops the message, and so the question.
                let _ = mailbox.send(ToReactor::Count(reply));
            });
        }
        self.of_managers.put(|reply| {
            // Full only while an earlier question is not heard.
            let _ = self.managers.try_send(reply);
        });
        for adapter in &mut self.adapters {
            let device = adapter.shared.get();
            // A driver may take its time.
            adapter.question.put(|reply| {
                tokio::task::spawn_blocking(move || reply.send(device.counts()));
            });
        }
        let until = Instant::now() + PATIENCE;
        let mut report = NetworkReport::default();
        for Adapter { shared, question } in &mut self.adapters {
            let (adapter, counted) = (shared.get(), question.answer(until).await);
            let nic = adapter.caps().name.clone();
            if counted.is_none() {
                report.silent.push(format!("the device of {nic}"));
            }
            let mut of_it = AdapterReport {
                nic,
                state: adapter.state().name().to_owned(),
                counts: Default::default(),
                device: Default::default(),
            };
            add_counts(&mut of_it.device, counted.unwrap_or_default());
            report.adapters.push(of_it);
        }
        match self.of_managers.answer(until).await {
            Some(managers) => report.connection_managers = managers,
            None => report.silent.push("connection management".to_owned()),
        }
        for Reactor { core, question, .. } in &mut self.reactors {
            let Some(parts) = question.answer(until).await else {
                report.silent.push(format!("the reactor on core {core}"));
                continue;
            };
            for (adapter, part) in report.adapters.iter_mut().zip(parts) {
                add_counts(&mut adapter.counts, part.counts);
                let pairs = part.queue_pairs.into_iter();
                let pairs = pairs.map(|pair| queue_pair(&self.offered, &adapter.nic, *core, pair));
                report.queue_pairs.extend(pairs);
            }
        }
        report
            .queue_pairs
            .sort_by(|a, b| (&a.nic, a.qp).cmp(&(&b.nic, b.qp)));
        report
    }
}

fn queue_pair(offered: &Target, nic: &str, core: usize, pair: QueuePairCounts) -> QueuePairReport {
    let queue = pair.queue.and_then(|(controller, qid)| {
        let controller = controller.upgrade()?;
        Some(QueueReport {
            nqn: subsystem_of(offered, &controller)?.nqn().to_string(),
            cntlid: controller.cntlid(),
            host: controller.host().nqn.to_string(),
            qid,
        })
    });
    let mut report = QueuePairReport {
        nic: nic.to_owned(),
        core,
        qp: pair.qp.0,
        remote: pair.remote.to_string(),
        queue,
        ending: pair.ending,
        counts: Default::default(),
    };
    add_counts(&mut report.counts, pair.counts);
    report
}

/// Identifiers of controllers are unique in a subsystem only.
fn subsystem_of(offered: &Target, controller: &Arc<ControllerShared>) -> Option<Arc<Subsystem>> {
    let subsystems = offered.subsystems().into_iter();
    let mut all = subsystems.chain([Arc::clone(offered.discovery())]);
    all.find(|subsystem| {
        let found = subsystem.controller(controller.cntlid());
        found.is_some_and(|found| Arc::ptr_eq(&found, controller))
    })
}

/// A question to somebody who may be slow. While it is not answered it is not
/// put again: whoever never answers has one message, however often it is asked.
struct Question<T> {
    asked: Option<oneshot::Receiver<T>>,
}

impl<T> Default for Question<T> {
    fn default() -> Self {
        Self { asked: None }
    }
}

impl<T> Question<T> {
    /// Puts it, unless an earlier one is on its way. An answer to that one that
    /// nobody has waited for is too old.
    fn put(&mut self, send: impl FnOnce(oneshot::Sender<T>)) {
        let pending = self.asked.as_mut().is_some_and(|answer| {
            matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        });
        if !pending {
            let (reply, answer) = oneshot::channel();
            self.asked = Some(answer);
            send(reply);
        }
    }

    /// The answer; `None` when it does not come in time, or never will.
    async fn answer(&mut self, until: Instant) -> Option<T> {
        let answer = timeout_at(until, self.asked.as_mut()?).await.ok()?;
        self.asked = None;
        answer.ok()
    }
}

#[cfg(test)]
mod tests;
