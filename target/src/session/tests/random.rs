//! Whatever hosts send, in whatever order: no panic, at most one completion for
//! each command, nothing that grows.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use sidelane_nvme::spec::{CNTLID_DYNAMIC, DISCOVERY_NQN, Psdt, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::host::*;
use crate::session::{Completion, QueueSession, Step};

#[derive(Debug, Clone)]
enum Action {
    /// A command of arbitrary bytes, with arbitrary data length.
    Wild {
        queue: usize,
        bytes: Vec<u8>,
        len: u32,
    },
    /// A command whose opcode and few fields are likely to mean something.
    Likely {
        queue: usize,
        opcode: u8,
        fctype: u8,
        cid: u16,
        nsid: u32,
        dwords: [u32; 6],
        len: u32,
    },
    /// An I/O or an Identify that is mostly right.
    Good {
        queue: usize,
        opcode: u8,
        cid: u16,
        nsid: u32,
        at: u16,
        count: u8,
        flags: u32,
    },
    /// A Connect that may well succeed.
    Connect {
        queue: usize,
        qid: u16,
        cntlid: u16,
        discovery: bool,
        cid: u16,
    },
    /// CC is written.
    Configure {
        queue: usize,
        value: u32,
        cid: u16,
    },
    /// Backend or fabric finishes what is outstanding.
    Finish {
        queue: usize,
    },
    Pass {
        ms: u64,
    },
    Close {
        queue: usize,
    },
    Change {
        blocks: u64,
    },
}

const QUEUES: usize = 4;

fn action() -> impl Strategy<Value = Action> {
    let queue = 0..QUEUES;
    let small = prop_oneof![Just(0_u32), 0..8_u32, Just(u32::MAX), any::<u32>()];
    let len = prop_oneof![Just(0_u32), Just(512), Just(1024), Just(4096), any::<u32>()];
    let opcode = prop_oneof![
        Just(0x7f_u8),
        Just(0x02),
        Just(0x06),
        Just(0x09),
        Just(0x0a),
        Just(0x0c),
        Just(0x01),
        Just(0x08),
        any::<u8>()
    ];
    prop_oneof![
        1 => (queue.clone(), prop::collection::vec(any::<u8>(), 64), len.clone())
            .prop_map(|(queue, bytes, len)| Action::Wild { queue, bytes, len }),
        30 => (queue.clone(), opcode, 0..10_u8, 0..40_u16, small.clone(),
              prop::array::uniform6(small), len)
            .prop_map(|(queue, opcode, fctype, cid, nsid, dwords, len)| Action::Likely {
                queue, opcode, fctype, cid, nsid, dwords, len
            }),
        40 => (queue.clone(), prop::sample::select(vec![0_u8, 1, 2, 6, 8, 9]), 0..40_u16, 1..6_u32,
              0..5000_u16, 0..64_u8, prop_oneof![3 => Just(0_u32), 1 => any::<u32>()])
            .prop_map(|(queue, opcode, cid, nsid, at, count, flags)| Action::Good {
                queue, opcode, cid, nsid, at, count, flags
            }),
        3 => (queue.clone(), 0..3_u16, prop_oneof![Just(CNTLID_DYNAMIC), 0..4_u16], any::<bool>(),
              0..40_u16)
            .prop_map(|(queue, qid, cntlid, discovery, cid)| Action::Connect {
                queue, qid, cntlid, discovery, cid
            }),
        2 => (queue.clone(), prop_oneof![Just(0x0046_0001_u32), Just(0x0046_4001), Just(0), any::<u32>()],
              0..40_u16)
            .prop_map(|(queue, value, cid)| Action::Configure { queue, value, cid }),
        3 => queue.clone().prop_map(|queue| Action::Finish { queue }),
        1 => (0..4000_u64).prop_map(|ms| Action::Pass { ms }),
        1 => queue.prop_map(|queue| Action::Close { queue }),
        1 => (1..5000_u64).prop_map(|blocks| Action::Change { blocks }),
    ]
}

/// One connection and what is outstanding on it.
struct Line {
    session: QueueSession,
    /// In the backend, or waiting for data.
    running: Vec<u16>,
    held: HashSet<u16>,
    open: bool,
}

impl Line {
    fn open(lab: &Lab) -> Self {
        Self {
            session: lab.open().session,
            running: Vec::new(),
            held: HashSet::new(),
            open: true,
        }
    }

    fn command(&mut self, sqe: &Sqe, data: &[u8], len: u32, lab: &Lab, ms: u64) {
        if !self.open {
            *self = Self::open(lab);
        }
        let now = lab.t0 + Duration::from_millis(ms);
        let cid = sqe.cid();
        let in_use = self.running.contains(&cid) || self.held.contains(&cid);
        let mut step = self.session.command(sqe, Ok(len), now);
        if let Step::Fetch { len: fetch } = step {
            assert!(fetch <= len && fetch <= 4096 && !in_use);
            let mut data = data.to_vec();
            data.resize(fetch as usize, 0x5a);
            step = self.session.data(sqe, &data, now);
        }
        match step {
            Step::Io(request) => {
                assert!(!in_use && request.cid == cid);
                let blocks_bytes = u64::from(request.blocks) << 9;
                assert!(request.bytes == 0 || u64::from(request.bytes) >= blocks_bytes);
                self.running.push(cid);
            }
            Step::Reply { data, completion } => {
                assert!(!in_use && data.len() == len as usize);
                self.complete(cid, completion);
            }
            Step::Complete(completion) => {
                assert!(!in_use || completion.status.same_code(Status::COMMAND_ID_CONFLICT));
                self.complete(cid, completion);
            }
            Step::CompleteAndClose(completion, _) => {
                self.complete(cid, completion);
                self.close();
            }
            Step::Held => assert!(!in_use && self.held.insert(cid)),
            Step::Close(_) => self.close(),
            Step::Fetch { .. } => panic!("a command fetches once"),
        }
        self.poll();
    }

    fn complete(&mut self, cid: u16, completion: Completion) {
        assert_eq!(self.session.completed(cid, completion).cid.get(), cid);
    }

    /// Held commands are answered once each, or forgotten by a reset.
    fn poll(&mut self) {
        while let Some(cid) = self.session.poll_abort() {
            match self.running.iter().position(|running| *running == cid) {
                Some(at) => {
                    self.running.swap_remove(at);
                    self.complete(cid, Completion::of(Status::ABORT_REQUESTED));
                }
                None => self.session.not_aborted(cid),
            }
        }
        while let Some((cid, completion)) = self.session.poll_async() {
            assert!(self.held.remove(&cid), "{cid} was not held");
            self.complete(cid, completion);
        }
        assert!(self.held.len() <= 8 || !self.open);
    }

    fn close(&mut self) {
        self.session.closed();
        self.running.clear();
        self.held.clear();
        self.open = false;
    }
}

fn likely(opcode: u8, fctype: u8, cid: u16, nsid: u32, dwords: [u32; 6]) -> Sqe {
    let mut command = sqe(opcode, nsid);
    command.cdw0.set_cid(cid);
    if opcode == 0x7f {
        command.nsid.set(fctype.into());
    }
    let [a, b, c, d, e, f] = dwords;
    command.cdw10.set(a);
    command.cdw11.set(b);
    command.cdw12.set(c);
    command.cdw13.set(d);
    command.cdw14.set(e);
    command.cdw15.set(f);
    command
}

/// A command, and the length that goes with it.
fn good(opcode: u8, cid: u16, nsid: u32, at: u16, count: u8, flags: u32) -> (Sqe, u32) {
    let block = if nsid == 2 { 4096 } else { 512 };
    let (dwords, len) = match opcode {
        // Identify: CNS.
        0x06 => ([u32::from(at % 9), 0, 0, 0, 0, 0], 4096),
        // Dataset Management: ranges, deallocate.
        0x09 => ([count.into(), 4, 0, 0, 0, 0], 4096),
        0x01 | 0x02 => {
            let length = u32::from(count) | flags & 0xffff_0000;
            (
                [at.into(), 0, length, 0, 0, 0],
                (u32::from(count) + 1) * block,
            )
        }
        _ => (
            [
                at.into(),
                0,
                u32::from(count) | flags & 0xffff_0000,
                0,
                0,
                0,
            ],
            0,
        ),
    };
    (likely(opcode, 0, cid, nsid, dwords), len)
}

/// A controller with two I/O queues, and a discovery controller.
fn connected(lab: &Lab) -> Vec<Line> {
    let admin = lab.controller();
    let queues = [lab.io_queue(&admin, 1), lab.io_queue(&admin, 2)];
    let sessions = [admin].into_iter().chain(queues).chain([lab.discovery()]);
    sessions
        .map(|host| Line {
            session: host.session,
            ..Line::open(lab)
        })
        .collect()
}

fn play(from_connected: bool, actions: Vec<Action>) {
    let lab = Lab::new();
    let mut lines: Vec<Line> = match from_connected {
        true => connected(&lab),
        false => (0..QUEUES).map(|_| Line::open(&lab)).collect(),
    };
    let mut ms = 0;
    for action in actions {
        match action {
            Action::Wild { queue, bytes, len } => {
                let mut sqe = Sqe::read_from_bytes(&bytes).unwrap();
                if bytes[0] % 2 == 0 {
                    sqe.cdw0.set_psdt(Psdt::Sgl);
                }
                lines[queue].command(&sqe, &bytes, len, &lab, ms);
            }
            Action::Likely {
                queue,
                opcode,
                fctype,
                cid,
                nsid,
                dwords,
                len,
            } => {
                // A reset forgets what was held without an answer.
                let sqe = likely(opcode, fctype, cid, nsid, dwords);
                let sets_cc = opcode == 0x7f && fctype == 0;
                lines[queue].command(&sqe, &[], len, &lab, ms);
                if sets_cc {
                    forget_held(&mut lines[queue]);
                }
            }
            Action::Good {
                queue,
                opcode,
                cid,
                nsid,
                at,
                count,
                flags,
            } => {
                let (sqe, len) = good(opcode, cid, nsid, at, count, flags);
                lines[queue].command(&sqe, &[0; 4096], len, &lab, ms);
            }
            Action::Connect {
                queue,
                qid,
                cntlid,
                discovery,
                cid,
            } => {
                let nqn = if discovery { DISCOVERY_NQN } else { SUBNQN };
                let mut command: Sqe = connect(qid, 31, 5000).into();
                command.cdw0.set_cid(cid);
                let data = connect_data(nqn, cntlid);
                lines[queue].command(&command, data.as_bytes(), 1024, &lab, ms);
            }
            Action::Configure { queue, value, cid } => {
                let sqe = likely(0x7f, 0, cid, 0, [0, 0x14, value, 0, 0, 0]);
                lines[queue].command(&sqe, &[], 0, &lab, ms);
                forget_held(&mut lines[queue]);
            }
            Action::Finish { queue } => {
                let line = &mut lines[queue];
                for cid in std::mem::take(&mut line.running) {
                    line.complete(cid, Completion::OK);
                }
            }
            Action::Pass { ms: more } => {
                ms += more;
                for line in lines.iter_mut().filter(|line| line.open) {
                    if line
                        .session
                        .tick(lab.t0 + Duration::from_millis(ms))
                        .is_some()
                    {
                        line.close();
                    }
                }
            }
            Action::Close { queue } => lines[queue].close(),
            Action::Change { blocks } => {
                let mut changed = namespaces();
                changed[0].blocks = blocks;
                lab.subsystem.set_namespaces(changed).unwrap();
            }
        }
        for line in lines.iter_mut().filter(|line| line.open) {
            line.poll();
            let outstanding = line.running.len() + line.held.len();
            assert_eq!(line.session.queue().outstanding() as usize, outstanding);
        }
    }
    lines.into_iter().for_each(|mut line| line.close());
    assert!(
        lab.subsystem.controllers().is_empty(),
        "controllers are left"
    );
    assert!(
        lab.target.discovery().controllers().is_empty(),
        "discovery controllers are left"
    );
}

/// After a write of CC, held commands may be gone; the session knows how many.
fn forget_held(line: &mut Line) {
    if line.session.queue().outstanding() as usize == line.running.len() {
        line.held.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_keeps_the_invariants(
        from_connected in prop::bool::weighted(0.8),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        play(from_connected, actions);
    }
}
