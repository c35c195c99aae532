//! Whatever the kernel and the consumer do, in whatever order: identifiers are
//! used while they are there, each is destroyed once, each end is told once.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::cm::CmError;
use crate::verbs::cm::CLOSING_TIME;

#[derive(Debug, Clone)]
enum Step {
    Request(&'static str),
    /// Something happens to one of all identifiers there are.
    Event(Index, CallKind),
    RemoveDevice(&'static str),
    AddDevices,
    Fail(&'static str),
    NothingFails,
    Accept(Index),
    Reject(Index),
    Disconnect(Index),
    Poll,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = [
        CallKind::ConnectError,
        CallKind::Unreachable,
        CallKind::Rejected,
        CallKind::Established,
        CallKind::Established,
        CallKind::Disconnected,
        CallKind::DeviceRemoval,
        CallKind::AddrChange,
        CallKind::TimewaitExit,
        CallKind::Other(0),
    ];
    let calls = [
        "create",
        "bind",
        "listen",
        "qp_attrs",
        "accept",
        "reject",
        "disconnect",
    ];
    let devices = select(&["rxe0", "rxe1", "mlx5_9"][..]);
    prop_oneof![
        6 => devices.clone().prop_map(Step::Request),
        6 => (any::<Index>(), select(kinds.to_vec())).prop_map(|(of, kind)| Step::Event(of, kind)),
        1 => devices.prop_map(Step::RemoveDevice),
        1 => Just(Step::AddDevices),
        1 => select(calls.to_vec()).prop_map(Step::Fail),
        1 => Just(Step::NothingFails),
        6 => any::<Index>().prop_map(Step::Accept),
        2 => any::<Index>().prop_map(Step::Reject),
        3 => any::<Index>().prop_map(Step::Disconnect),
        6 => Just(Step::Poll),
        2 => (0_u64..3000).prop_map(Step::Pass),
    ]
}

/// What a consumer knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Requested,
    Accepted,
    Up,
    Gone,
}

struct Consumer {
    pair: Pair,
    known: HashMap<ConnId, Known>,
    order: Vec<ConnId>,
    asked: Vec<ConnId>,
}

impl Consumer {
    fn pick(&self, of: Index) -> Option<ConnId> {
        (!self.order.is_empty()).then(|| *of.get(&self.order))
    }

    /// Takes what is told, and checks that it can be.
    fn hear(&mut self, told: Vec<CmEvent>) {
        for event in told {
            let (id, from, to) = match &event {
                CmEvent::ConnectRequest { id, .. } => {
                    assert_eq!(self.known.insert(*id, Known::Requested), None);
                    self.order.push(*id);
                    continue;
                }
                CmEvent::Established { id } => (*id, &[Known::Accepted][..], Known::Up),
                CmEvent::Failed { id, .. } => {
                    (*id, &[Known::Requested, Known::Accepted][..], Known::Gone)
                }
                CmEvent::Disconnected { id } => (
                    *id,
                    &[Known::Requested, Known::Accepted, Known::Up][..],
                    Known::Gone,
                ),
                CmEvent::Accepted { .. } => panic!("{event:?}"),
            };
            let known = self.known.insert(id, to).unwrap();
            assert!(from.contains(&known), "{event:?} when {known:?}");
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.pair.now;
        match step {
            Step::Request(device) => {
                self.pair.kernel.request(device);
            }
            Step::Event(of, kind) => {
                let ids: Vec<_> = self.pair.kernel.lock().ids.keys().copied().collect();
                if !ids.is_empty() {
                    self.pair.kernel.event(*of.get(&ids), kind, -1);
                }
            }
            Step::RemoveDevice(device) => self.pair.kernel.remove_device(device),
            Step::AddDevices => {
                self.pair.kernel.add_device(V4, "rxe0");
                self.pair.kernel.add_device(OTHER, "rxe1");
            }
            Step::Fail(call) => self.pair.kernel.fail(call, libc::EINVAL),
            Step::NothingFails => self.pair.kernel.lock().fails.clear(),
            Step::Accept(of) => {
                let Some(id) = self.pick(of) else { return };
                match self.pair.cm.accept(id, params(), now) {
                    Ok(()) => assert_eq!(
                        self.known.insert(id, Known::Accepted),
                        Some(Known::Requested)
                    ),
                    Err(CmError::Refused(_)) => {
                        assert_eq!(self.known.insert(id, Known::Gone), Some(Known::Requested));
                    }
                    Err(_) => {}
                }
            }
            Step::Reject(of) => {
                let Some(id) = self.pick(of) else { return };
                if self.pair.cm.reject(id, Bytes::new(), now).is_ok() {
                    assert_eq!(self.known.insert(id, Known::Gone), Some(Known::Requested));
                }
            }
            Step::Disconnect(of) => {
                let Some(id) = self.pick(of) else { return };
                let outcome = self.pair.cm.disconnect(id, now);
                match self.known[&id] {
                    Known::Gone => assert_eq!(outcome, Err(CmError::Gone)),
                    _ => self.asked.push(id),
                }
            }
            Step::Poll => {
                let told = self.pair.poll();
                self.hear(told);
            }
            Step::Pass(time_ms) => {
                let told = self.pair.pass(Duration::from_millis(time_ms));
                self.hear(told);
            }
        }
        let cm = &self.pair.cm;
        assert!(cm.connections.len() <= BOUNDS.connections);
        assert!(cm.half_open <= BOUNDS.half_open);
        let half_open = cm.connections.values().filter(|c| c.is_half_open()).count();
        assert_eq!(cm.half_open, half_open);
        self.pair.kernel.said();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn identifiers_and_ends_are_counted_right(steps in vec(step(), 0..120)) {
        let mut consumer = Consumer {
            pair: Pair::new(&[V4, OTHER, "0.0.0.0:4421"]),
            known: HashMap::new(),
            order: Vec::new(),
            asked: Vec::new(),
        };
        for step in steps {
            consumer.step(step);
        }
        // Left alone, what was asked for happens, and nothing is left over.
        consumer.step(Step::NothingFails);
        consumer.step(Step::AddDevices);
        for _ in 0..4 {
            consumer.step(Step::Pass(CLOSING_TIME.as_millis() as u64));
        }
        for id in &consumer.asked {
            prop_assert_eq!(consumer.known[id], Known::Gone);
        }
        let Consumer { pair: Pair { cm, kernel, .. }, known, .. } = consumer;
        let alive = known.values().filter(|known| **known != Known::Gone).count();
        prop_assert_eq!(cm.connections.len(), alive);
        prop_assert_eq!(kernel.lock().ids.len(), alive + 3);
        prop_assert!(kernel.listens(V4) && kernel.listens(OTHER));
        drop(cm);
        kernel.said();
        prop_assert!(kernel.lock().ids.is_empty());
    }
}
