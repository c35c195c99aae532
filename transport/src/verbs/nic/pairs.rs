//! The lives of queue pairs: asked for, up, ending, gone. All that takes the
//! device's time is the worker's; here is what is known of it.
//!
//! A queue pair that is to be destroyed first goes to the error state, and then
//! gives back what it took from the shared receive queue: destroying it earlier
//! would lose those buffers, since the provider drops its completions. The device
//! says when it has taken its last (`IBV_EVENT_QP_LAST_WQE_REACHED`); for one
//! that never does there is a limit.

use std::sync::Arc;
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

use super::VerbsNic;
use super::traffic::Traffic;
use crate::nic::{NicError, NicEvent, QpAttrs, QpCaps, QpNumber};
use crate::verbs::ffi::{Device, Verbs};
use crate::verbs::send_queue::SendQueue;
use crate::verbs::worker::{Job, Open, Report};

/// How long a queue pair in the error state has to give back what it took from
/// the shared receive queue, on a device that does not say when it has.
const LAST_WQE_LIMIT: Duration = Duration::from_millis(200);

/// When to try again to give the worker a job.
const RETRY: Duration = Duration::from_millis(10);

/// A queue pair.
pub(super) struct Pair<D: Device> {
    /// `None` when the worker has it, to destroy it.
    qp: Option<Arc<D::Qp>>,
    pub sq: SendQueue,
    pub traffic: Traffic,
    /// Completions that it has claimed.
    send_wrs: u32,
    /// It was asked to go to the error state.
    asked: bool,
    /// It is there, since then at the latest.
    errored: Option<Instant>,
    last_wqe: bool,
    ending: bool,
}

impl<D: Device> Pair<D> {
    /// The queue pair, what is outstanding in it and what it has carried, for
    /// posting.
    pub fn usable(&mut self) -> Option<(&D::Qp, &mut SendQueue, &mut Traffic)> {
        let qp = self.qp.as_deref().filter(|_| !self.ending)?;
        Some((qp, &mut self.sq, &mut self.traffic))
    }

    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// For teardown.
    pub fn take(&mut self) -> Option<Arc<D::Qp>> {
        self.qp.take()
    }

    /// When nothing of it is expected any more, at the latest.
    pub fn drained_by(&self) -> Option<Instant> {
        let errored = self.errored.filter(|_| self.ending && self.qp.is_some())?;
        Some(if self.last_wqe {
            errored
        } else {
            errored + LAST_WQE_LIMIT
        })
    }
}

impl<V: Verbs> VerbsNic<V> {
    pub(super) fn open(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs) {
        if let Err(error) = self.try_open(ticket, caps, attrs) {
            let outcome = Err(error);
            self.events.push_back(NicEvent::Opened { ticket, outcome });
        }
    }

    fn try_open(&mut self, ticket: u64, caps: QpCaps, attrs: &QpAttrs) -> Result<(), NicError> {
        let shared = &self.adapter.shared;
        if self.gone {
            return Err(NicError::Gone);
        }
        let limit = shared.caps.max_send_wr;
        if caps.max_send_wr > limit {
            return Err(NicError::Refused(format!(
                "{}: a queue pair of {} send work requests; the adapter takes {limit}; lower \
                 max_queue_entries in [target]",
                shared.name, caps.max_send_wr
            )));
        }
        let in_use = self.pairs.len() as u32 + self.opening;
        if in_use >= shared.max_connections || self.cq_free < caps.max_send_wr {
            return Err(NicError::NoQpLeft(in_use));
        }
        self.opening += 1;
        self.cq_free -= caps.max_send_wr;
        self.submit(Job::Open(Box::new(Open {
            part: self.part,
            ticket,
            send_wrs: caps.max_send_wr,
            attrs: *attrs,
            cqs: self.cqs.clone(),
            srq: Arc::clone(&self.srq),
        })));
        Ok(())
    }

    pub(super) fn error(&mut self, qp: QpNumber) -> Result<(), NicError> {
        let part = self.part;
        let pair = self.pairs.get_mut(&qp.0).ok_or(NicError::NoSuchQp(qp))?;
        if let Some(qp) = pair.qp.clone()
            && !std::mem::replace(&mut pair.asked, true)
        {
            self.submit(Job::Error { part, qp });
        }
        Ok(())
    }

    pub(super) fn destroy(&mut self, qp: QpNumber) {
        if self.error(qp).is_err() {
            return;
        }
        if let Some(pair) = self.pairs.get_mut(&qp.0)
            && !std::mem::replace(&mut pair.ending, true)
        {
            // Counted from here on, not from when it went there.
            pair.errored = pair.errored.map(|_| Instant::now());
            self.draining.push(qp.0);
        }
    }

    /// Gives the worker a job, or keeps it until there is room.
    pub(super) fn submit(&mut self, job: Job<V::Device>) {
        self.deferred.push_back(job);
        self.hand_over();
    }

    /// Hands jobs to the worker while there is room.
    fn hand_over(&mut self) {
        while let Some(job) = self.deferred.pop_front() {
            match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
                Some(Err(TrySendError::Full(job))) => {
                    self.deferred.push_front(job);
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
                Some(Err(TrySendError::Disconnected(_))) | None => self.set_gone(),
                Some(Ok(())) => {}
            }
        }
        self.retry_at = None;
    }

    /// Gives the worker a job at the end, when waiting is allowed, but not for
    /// ever: what a device that stalls has is left as it is.
    pub(super) fn submit_at_end(&mut self, mut job: Job<V::Device>, until: Instant) {
        let Some(jobs) = &self.jobs else {
            return;
        };
        loop {
            job = match jobs.try_send(job) {
                Err(TrySendError::Full(job)) => job,
                // Without a worker the job is dropped, and what it holds with it.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            };
            if Instant::now() >= until {
                // Dropping it here would wait for the device as well.
                std::mem::forget(job);
                return;
            }
            std::thread::sleep(RETRY);
        }
    }

    pub(super) fn read_reports(&mut self, now: Instant) {
        while let Ok(report) = self.reports.try_recv() {
            self.read(report, now);
        }
    }

    fn read(&mut self, report: Report<V::Device>, now: Instant) {
        match report {
            Report::Opened {
                ticket,
                send_wrs,
                outcome,
            } => {
                self.opening -= 1;
                let outcome = outcome.map(|(qp, sq)| {
                    let number = crate::verbs::ffi::Qp::number(&*qp);
                    let pair = Pair {
                        qp: Some(qp),
                        sq,
                        traffic: Traffic::default(),
                        send_wrs,
                        asked: false,
                        errored: None,
                        last_wqe: false,
                        ending: false,
                    };
                    self.pairs.insert(number, pair);
                    QpNumber(number)
                });
                if outcome.is_err() {
                    self.cq_free += send_wrs;
                }
                self.events.push_back(NicEvent::Opened { ticket, outcome });
            }
            Report::Errored(qp) => {
                if let Some(pair) = self.pairs.get_mut(&qp) {
                    pair.errored = Some(now);
                }
            }
            Report::LastWqe(qp) => {
                if let Some(pair) = self.pairs.get_mut(&qp) {
                    pair.last_wqe = true;
                }
            }
            Report::Failed(qp) => {
                if self.flusher.number() == Some(qp) {
                    self.flusher.broke(now);
                } else if self.pairs.get(&qp).is_some_and(|pair| !pair.asked) {
                    self.events.push_back(NicEvent::Failed(QpNumber(qp)));
                }
            }
            Report::Destroyed(qp) => {
                if let Some(pair) = self.pairs.remove(&qp) {
                    self.cq_free += pair.send_wrs;
                    self.ended.add(&pair.traffic);
                    self.events.push_back(NicEvent::Destroyed(QpNumber(qp)));
                }
            }
            Report::Flusher(outcome) => {
                self.counters.flushers_remade += u64::from(outcome.is_ok());
                self.flusher.made(outcome, now);
            }
            Report::Revoked(region) => self.revoke(region),
            Report::SrqLimit => self.events.push_back(NicEvent::SrqLimit),
            Report::Gone => self.set_gone(),
        }
    }

    /// What is due besides completions; `emptied` when no completion is left
    /// that came before the reports that were read.
    pub(super) fn keep_house(&mut self, now: Instant, emptied: bool) {
        if !self.deferred.is_empty() {
            self.hand_over();
        }
        if emptied && !self.draining.is_empty() {
            self.destroy_drained(now);
        }
        if self.flusher.is_idle() {
            return;
        }
        self.give_flushes_up(now);
        if !self.gone
            && let Some(old) = self.flusher.wants(now)
        {
            self.submit(Job::Flusher {
                part: self.part,
                old,
                cqs: self.cqs.clone(),
                srq: Arc::clone(&self.srq),
            });
        }
    }

    fn destroy_drained(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(qp) = self.draining.get(at).copied() {
            let part = self.part;
            let gone = self.gone;
            let drained = self.pairs.get_mut(&qp).and_then(|pair| {
                let due = gone || pair.drained_by().is_some_and(|by| by <= now);
                if due { pair.qp.take() } else { None }
            });
            match drained {
                Some(qp) => {
                    self.draining.swap_remove(at);
                    self.submit(Job::Destroy { part, qp });
                }
                None => at += 1,
            }
        }
    }
}
