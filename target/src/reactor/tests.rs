//! A whole reactor over an adapter that does as a test says.

mod flush;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use rustix::event::{EventfdFlags, eventfd};
use sidelane_p2p::ProcessMemory;
use sidelane_transport::cm::ConnId;
use sidelane_transport::nic::{
    AddressVector, Completion, Count, Flush, NicCaps, QpAttrs, QpCaps, QpNumber, RecvWr, SendWr,
    Sge, Wake, WcStatus,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::*;
use crate::session::QueueSession;
use crate::subsystem::{Portal, Target};

/// Receive buffers of the adapter.
const SLOTS: usize = 64;

/// The one queue pair.
const QP: QpNumber = QpNumber(7);

/// The one connection.
const KEY: ConnKey = ConnKey {
    manager: 0,
    id: ConnId(1),
};

/// How long anything may take that is to happen soon.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the adapter was told, and what it is to tell.
#[derive(Default)]
struct State {
    posted: Vec<u64>,
    limits: Vec<u32>,
    errored: bool,
    /// Regions that were registered.
    registered: u32,
    /// The key that each flush reads by, and how many placements it is for.
    flushes: Vec<(u32, u64)>,
    completions: VecDeque<Completion>,
    events: VecDeque<NicEvent>,
}

/// The adapter's end that the test holds.
#[derive(Clone)]
struct Script {
    state: Arc<Mutex<State>>,
    bell: Arc<OwnedFd>,
}

impl Script {
    fn new() -> Self {
        let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        Self {
            state: Arc::default(),
            bell: Arc::new(bell),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn ring(&self) {
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).unwrap();
    }

    /// Buffer `wr_id` is used.
    fn receive(&self, op: WcOp, wr_id: u64) {
        let mut state = self.state();
        state.posted.retain(|posted| *posted != wr_id);
        state.completions.push_back(Completion {
            wr_id,
            qp: QP,
            status: WcStatus::Success,
            op,
            len: 16,
            invalidated: None,
            imm: Some(1),
        });
        drop(state);
        self.ring();
    }

    fn event(&self, event: NicEvent) {
        self.state().events.push_back(event);
        self.ring();
    }

    /// Waits for something.
    fn until<T>(&self, what: impl Fn(&State) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = what(&self.state()) {
                return got;
            }
            assert!(Instant::now() < end, "it did not come about");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Scripted {
    script: Script,
    caps: NicCaps,
}

impl Nic for Scripted {
    fn caps(&self) -> &NicCaps {
        &self.caps
    }

    fn register(&mut self, region: &Region, _: Access) -> Result<MemoryRegion, RegisterError> {
        let mut state = self.script.state();
        state.registered += 1;
        Ok(MemoryRegion {
            region: region.id(),
            lkey: state.registered,
            rkey: state.registered,
            base: 0,
            len: region.len() as u64,
        })
    }

    fn deregister(&mut self, _: &MemoryRegion) {}

    fn open_qp(&mut self, ticket: u64, _: QpCaps, _: &QpAttrs, _: Instant) {
        let outcome = Ok(QP);
        self.script.event(NicEvent::Opened { ticket, outcome });
    }

    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        assert_eq!(qp, QP);
        self.script.state().errored = true;
        Ok(())
    }

    fn destroy_qp(&mut self, qp: QpNumber) {
        self.script.event(NicEvent::Destroyed(qp));
    }

    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        let numbers = wrs.iter().map(|wr| wr.wr_id);
        self.script.state().posted.extend(numbers);
        Ok(())
    }

    fn arm_srq_limit(&mut self, limit: u32) -> Result<(), NicError> {
        self.script.state().limits.push(limit);
        Ok(())
    }

    fn post_send(&mut self, _: QpNumber, _: &[SendWr]) -> Result<(), NicError> {
        unreachable!("nothing is asked that is answered")
    }

    fn post_flush(&mut self, tail: Sge, count: u64) -> Result<Flush, NicError> {
        self.script.state().flushes.push((tail.lkey, count));
        Ok(Flush::Done)
    }

    fn post_copy(&mut self, _: Sge, _: Sge, _: u64) -> Result<Flush, NicError> {
        Ok(Flush::Done)
    }

    fn poll(&mut self, _: Instant, out: &mut Completions) {
        let mut state = self.script.state();
        while !out.is_full()
            && let Some(completion) = state.completions.pop_front()
        {
            out.push(completion);
        }
    }

    fn event(&mut self) -> Option<NicEvent> {
        self.script.state().events.pop_front()
    }

    fn arm(&mut self, _: Instant, _: Wake) -> bool {
        mailbox::clear_eventfd(&self.script.bell);
        let state = self.script.state();
        state.completions.is_empty() && state.events.is_empty()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.script.bell.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn counts(&self) -> Vec<Count> {
        vec![("packets_in".into(), 5)]
    }

    fn qp_counts(&self, qp: QpNumber) -> Option<Vec<Count>> {
        (qp == QP).then(|| vec![("packets_in".into(), 2)])
    }
}

struct Rig {
    script: Script,
    reactor: ReactorHandle,
    reports: UnboundedReceiver<FromReactor>,
}

/// A reactor with one adapter and nothing to serve.
fn rig() -> Rig {
    let script = Script::new();
    let (spec, reports) = spec(&script);
    Rig {
        script,
        reactor: ReactorHandle::start(spec).unwrap(),
        reports,
    }
}

fn spec(script: &Script) -> (ReactorSpec, UnboundedReceiver<FromReactor>) {
    let caps = NicCaps {
        name: "scripted".to_owned(),
        max_sge: 4,
        max_send_wr: 256,
        max_srq_wr: SLOTS as u32,
        max_qp: 1,
        max_message: 1 << 20,
        max_rd_atomic: 4,
        send_invalidate: true,
    };
    let nic = Scripted {
        script: script.clone(),
        caps,
    };
    let (sender, reports) = unbounded_channel();
    let spec = ReactorSpec {
        core: 0,
        nics: vec![NicSpec {
            nic: Box::new(nic),
            slots: SLOTS,
        }],
        space: Arc::new(ProcessMemory),
        pools: Vec::new(),
        namespaces: Vec::new(),
        flush: FlushPolicy::Auto,
        in_capsule: 0,
        counters: ReactorCounters::new(0, 0, 0),
        reports: sender,
    };
    (spec, reports)
}

/// A connection of 8 commands that a host asks for now; the other end says when
/// it is up.
fn asked(
    now: Instant,
) -> (
    NewConnection,
    oneshot::Receiver<Result<QpNumber, NotOpened>>,
) {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let session = QueueSession::new(
        Target::new("1", "Sidelane", "1").unwrap(),
        Portal {
            address: SocketAddr::new(here, 4420),
        },
        Waker::noop().clone(),
        now,
    );
    let (reply, answer) = oneshot::channel();
    let new = NewConnection {
        key: KEY,
        nic: 0,
        attrs: QpAttrs {
            local: here,
            remote: Ipv4Addr::new(192, 0, 2, 9).into(),
            remote_qpn: 1,
            sq_psn: 0,
            rq_psn: 0,
            path_mtu: 1024,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        },
        depth: 8,
        session,
        reply,
    };
    (new, answer)
}

impl Rig {
    /// A connection of 8 commands, up.
    fn connect(&self) -> ConnKey {
        let (new, answer) = asked(Instant::now());
        self.reactor.mailbox.send(ToReactor::Open(Box::new(new)));
        assert_eq!(answer.blocking_recv().unwrap(), Ok(QP));
        KEY
    }

    fn count(&self) -> NicCounts {
        let (reply, answer) = oneshot::channel();
        self.reactor.mailbox.send(ToReactor::Count(reply));
        let [counts] = <[_; 1]>::try_from(answer.blocking_recv().unwrap()).unwrap();
        counts
    }
}

/// A queue pair takes it, since it takes a buffer, though no key was given to
/// anybody that it could write by: no capsule comes this way.
#[test]
fn a_write_with_immediate_data_ends_its_connection_and_gives_the_buffer_back() {
    let mut rig = rig();
    let key = rig.connect();
    rig.script.receive(WcOp::RecvWrite, 3);
    let report = rig.reports.blocking_recv();
    assert!(
        matches!(report, Some(FromReactor::Disconnect(ended)) if ended == key),
        "{report:?}"
    );
    rig.script.until(|state| {
        let all_back = state.posted.len() == SLOTS && state.posted.contains(&3);
        (all_back && state.errored).then_some(())
    });
    assert_eq!(rig.reactor.counters.commands.get(), 0, "it is no command");
}

#[test]
fn receive_buffers_that_run_low_are_counted_and_watched_again_when_they_are_back() {
    let rig = rig();
    rig.connect();
    let limits = |count| {
        rig.script
            .until(|state| (state.limits.len() == count).then(|| state.limits.clone()))
    };
    assert_eq!(limits(1), [8]);
    rig.script.event(NicEvent::SrqLimit);
    // All buffers are there, so it may be told again at once.
    assert_eq!(limits(2), [8, 8]);
    let low = |counts: &NicCounts| {
        let mut counts = counts.counts.iter();
        let found = counts.find(|(name, _)| name == RECEIVE_QUEUE_LOW);
        found.map(|(_, value)| *value)
    };
    assert_eq!(low(&rig.count()), Some(1));
}

#[test]
fn a_reactor_that_sleeps_tells_what_it_has_counted_and_whose_queue_pairs_it_has() {
    let rig = rig();
    assert_eq!(rig.count().queue_pairs.len(), 0);
    rig.connect();
    // Long enough to fall asleep.
    let asleep = || rig.reactor.counters.sleeps.get();
    let before = asleep();
    rig.script.until(|_| (asleep() > before).then_some(()));
    let counts = rig.count();
    assert!(counts.counts.contains(&("packets_in".into(), 5)));
    let [pair] = &counts.queue_pairs[..] else {
        panic!("{counts:?}")
    };
    assert_eq!((pair.qp, pair.ending), (QP, false));
    assert_eq!(pair.remote, IpAddr::from(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!(pair.counts, [("packets_in".into(), 2)]);
    assert!(pair.queue.is_none(), "no Connect has come");
}

/// Stopped, or without a core for a while: what has come meanwhile is from a
/// host that has given its association up.
#[rstest::rstest]
#[case::in_time(Duration::from_secs(29), 1)]
#[case::too_late(Duration::from_secs(31), 0)]
fn a_reactor_that_did_not_run_looks_at_the_time_before_it_takes_commands(
    #[case] asleep: Duration,
    #[case] commands: u64,
) {
    let script = Script::new();
    let (spec, _reports) = spec(&script);
    let (mailbox, inbox) = mailbox().unwrap();
    let mut reactor = Reactor::new(spec, inbox).unwrap();
    let begin = Instant::now();
    let (new, mut answer) = asked(begin);
    mailbox.send(ToReactor::Open(Box::new(new)));
    reactor.round(begin);
    reactor.round(begin);
    assert_eq!(answer.try_recv().unwrap(), Ok(QP));
    reactor.round(begin);
    // 30 s are the time that a host has for Connect.
    script.receive(WcOp::Recv, 3);
    reactor.round(begin + asleep);
    assert_eq!(reactor.counters.commands.get(), commands);
    assert!(
        script.state().errored,
        "too short for a command, or too late"
    );
}
