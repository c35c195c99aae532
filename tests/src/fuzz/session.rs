//! The session core: queues of controllers, fed with commands and data as the
//! input says, after connections that were in order.
//!
//! Promised, whatever hosts send: a command is answered once at most and with
//! its own identifier, no more is outstanding than was taken, and when all
//! connections are gone, no controller is left.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use sidelane::session::{CloseReason, Completion, IoOp, QueueSession, Step, dsm_ranges};
use sidelane::subsystem::{
    AllowedHosts, Limits, Listener, NamespaceInfo, NoHealth, Portal, Subsystem, SubsystemConfig,
    Target,
};
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cc, Connect, ConnectData, DISCOVERY_NQN, FabricsType, Fuse,
    HostId, NqnField, PropertySet, Psdt, SQE_LEN, Sqe, Status, offset,
};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use super::input::Input;

const SUBNQN: &str = "nqn.2026-11.io.sidelane:fuzz";
const HOSTNQN: &str = "nqn.2026-11.io.sidelane:fuzz-host";
const ADDRESS: &str = "192.0.2.1:4420";
/// Entries of the queues that are connected in order.
const ENTRIES: u16 = 16;

/// A target with a subsystem of three namespaces, of which one is read-only.
pub struct Served {
    target: Arc<Target>,
    subsystem: Arc<Subsystem>,
    start: Instant,
}

fn namespace(nsid: u32, block_bytes: u32, read_only: bool) -> NamespaceInfo {
    NamespaceInfo {
        nsid,
        blocks: 4096,
        block_bytes,
        uuid: Uuid::from_u128(u128::from(nsid) + 1),
        nguid: (u128::from(nsid) + 1).to_be_bytes(),
        eui64: None,
        volatile_write_cache: true,
        deallocate: true,
        write_zeroes: true,
        read_only,
        backend: nsid as usize,
    }
}

impl Served {
    /// Started just now.
    pub fn new() -> Self {
        let target = Target::new("FUZZ0001", "Sidelane", "0.1").expect("short texts");
        let config = SubsystemConfig {
            nqn: SUBNQN.parse().expect("a name"),
            serial: "FUZZ0002".to_owned(),
            model: "Sidelane".to_owned(),
            firmware: "0.1".to_owned(),
            hosts: AllowedHosts::only([HOSTNQN]),
            namespaces: vec![
                namespace(1, 512, false),
                namespace(2, 4096, false),
                namespace(4, 512, true),
            ],
            limits: Limits {
                max_io_queues: 4,
                ..Limits::default()
            },
            health: Arc::new(NoHealth),
        };
        let subsystem = Subsystem::new(config).expect("a valid subsystem");
        target.add(Arc::clone(&subsystem)).expect("the first one");
        let address = ADDRESS.parse().expect("an address");
        target.set_listeners(vec![Listener {
            port_id: 1,
            address,
        }]);
        Self {
            target,
            subsystem,
            start: Instant::now(),
        }
    }

    /// A queue whose connection has come up.
    pub fn open(&self) -> QueueSession {
        let portal = Portal {
            address: ADDRESS.parse().expect("an address"),
        };
        QueueSession::new(
            self.target.clone(),
            portal,
            Waker::noop().clone(),
            self.start,
        )
    }

    /// A queue that is connected, and whose controller is enabled.
    pub fn connected(&self, qid: u16, nqn: &str, cntlid: u16) -> QueueSession {
        let mut session = self.open();
        let (command, data) = connect(qid, nqn, cntlid);
        let fetch = session.command(&command, Ok(data.as_bytes().len() as u32), self.start);
        assert!(matches!(fetch, Step::Fetch { .. }), "{fetch:?}");
        let step = session.data(&command, data.as_bytes(), self.start);
        finish(&mut session, &command, &step);
        if qid == 0 {
            let enable = enable();
            let step = session.command(&enable, Ok(0), self.start);
            finish(&mut session, &enable, &step);
        }
        session
    }

    /// A connected I/O queue of a new controller, and the admin queue that keeps
    /// it alive.
    pub fn io_queue(&self) -> (QueueSession, QueueSession) {
        let admin = self.connected(0, SUBNQN, CNTLID_DYNAMIC);
        let cntlid = admin.controller().expect("it is connected").cntlid();
        let io = self.connected(1, SUBNQN, cntlid);
        (admin, io)
    }
}

impl Default for Served {
    fn default() -> Self {
        Self::new()
    }
}

fn finish(session: &mut QueueSession, command: &Sqe, step: &Step) {
    let Step::Complete(completion) = step else {
        unreachable!("{step:?}");
    };
    assert_eq!(completion.status, Status::SUCCESS);
    session.completed(command.cid(), *completion);
}

/// A command on fabrics, its data by SGL.
pub fn command(opcode: u8, nsid: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    sqe.cdw0.set_psdt(Psdt::Sgl);
    sqe
}

fn connect(qid: u16, nqn: &str, cntlid: u16) -> (Sqe, ConnectData) {
    let mut connect = Connect::from(command(AdminOpcode::Fabrics.into_bits(), 0));
    connect.fctype = FabricsType::Connect;
    connect.qid = qid.into();
    connect.sqsize_z = (ENTRIES - 1).into();
    connect.kato_ms = 5000.into();
    let mut data = ConnectData {
        hostid: HostId([7; 16]),
        cntlid: cntlid.into(),
        ..ConnectData::default()
    };
    let field = |text: &str| {
        let mut field = NqnField::default();
        field.0[..text.len()].copy_from_slice(text.as_bytes());
        field
    };
    data.subnqn = field(nqn);
    data.hostnqn = field(HOSTNQN);
    (connect.into(), data)
}

fn enable() -> Sqe {
    let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
    let mut set = PropertySet::from(command(AdminOpcode::Fabrics.into_bits(), 0));
    set.fctype = FabricsType::PropertySet;
    set.offset = offset::CC.into();
    set.value = u64::from(cc.raw()).into();
    set.into()
}

/// A queue and what the reactor would know of it.
struct Line {
    session: QueueSession,
    /// Commands that the backend has.
    running: Vec<u16>,
}

impl Line {
    /// Gives a command to the session and does what it says.
    fn send(&mut self, sqe: &Sqe, len: u32, data: &[u8], now: Instant) -> Option<CloseReason> {
        let cid = sqe.cid();
        let mut step = self.session.command(sqe, Ok(len), now);
        if let Step::Fetch { len: fetch } = step {
            assert!(fetch <= len);
            let mut fetched = data.to_vec();
            fetched.resize(fetch as usize, 0);
            step = self.session.data(sqe, &fetched, now);
            if let Step::Io(request) = &step
                && let IoOp::Deallocate { ranges } = request.op
            {
                assert!(dsm_ranges(&fetched).count() <= usize::from(ranges));
            }
        }
        match step {
            Step::Io(request) => {
                assert!(request.cid == cid && !self.running.contains(&cid));
                let moved = match request.op {
                    IoOp::Read | IoOp::Write => len,
                    _ => 0,
                };
                assert_eq!(request.bytes, moved, "{request:?}");
                assert!(moved == 0 || request.slba + u64::from(request.blocks) <= 4096);
                self.running.push(cid);
            }
            Step::Reply { data, completion } => {
                assert_eq!(data.len(), len as usize);
                self.complete(cid, completion);
            }
            Step::Complete(completion) => self.complete(cid, completion),
            Step::CompleteAndClose(completion, reason) => {
                self.complete(cid, completion);
                return Some(reason);
            }
            Step::Held => {}
            Step::Close(reason) => return Some(reason),
            Step::Fetch { .. } => unreachable!("a command fetches once"),
        }
        self.poll();
        None
    }

    fn complete(&mut self, cid: u16, completion: Completion) {
        let cqe = self.session.completed(cid, completion);
        assert_eq!((cqe.cid.get(), cqe.status()), (cid, completion.status));
    }

    fn poll(&mut self) {
        while let Some((cid, completion)) = self.session.poll_async() {
            self.complete(cid, completion);
        }
    }

    fn close(&mut self, served: &Served) {
        self.session.closed();
        *self = Self::of(served.open());
    }

    fn of(session: QueueSession) -> Self {
        Self {
            session,
            running: Vec::new(),
        }
    }
}

/// An SQE from the input: wild, or with fields that are likely to mean something.
fn sqe(input: &mut Input<'_>) -> (Sqe, u32) {
    let shape = input.u8();
    if shape & 1 == 0 {
        let mut sqe = Sqe::read_from_bytes(&input.array::<SQE_LEN>()).expect("any bytes do");
        if shape & 2 == 0 {
            sqe.cdw0 = sqe.cdw0.with_psdt(Psdt::Sgl).with_fuse(Fuse::Normal);
        }
        return (sqe, input.u32());
    }
    let mut sqe = command(input.u8(), u32::from(input.u8() % 6));
    sqe.cdw0.set_cid(u16::from(input.u8() % 32));
    let small = |input: &mut Input<'_>| match shape & 2 {
        0 => u32::from(input.u8()),
        _ => input.u32(),
    };
    for dword in [
        &mut sqe.cdw10,
        &mut sqe.cdw11,
        &mut sqe.cdw12,
        &mut sqe.cdw13,
        &mut sqe.cdw14,
        &mut sqe.cdw15,
    ] {
        dword.set(small(input));
    }
    let len = match shape >> 2 & 3 {
        0 => 0,
        1 => 4096,
        // What a read or write of so many blocks moves.
        2 => (sqe.cdw12.get() & 0xffff).saturating_add(1) * 512,
        _ => u32::from(input.u16()),
    };
    (sqe, len)
}

/// A sequence of commands to four queues and of what else happens to them.
pub fn session(bytes: &[u8]) {
    let mut input = Input(bytes);
    let served = Served::new();
    let (admin, io) = served.io_queue();
    let discovery = served.connected(0, DISCOVERY_NQN, CNTLID_DYNAMIC);
    let mut lines = [admin, io, discovery, served.open()].map(Line::of);
    let mut now = served.start;
    while !input.is_empty() {
        let action = input.u8();
        let line = &mut lines[usize::from(action & 3)];
        let ended = match action >> 2 & 15 {
            0..=10 => {
                let (sqe, len) = sqe(&mut input);
                let size = usize::from(input.u8()) * 4;
                line.send(&sqe, len, input.bytes(size), now)
            }
            11 => {
                let (qid, cntlid) = (u16::from(input.u8() % 4), u16::from(input.u8() % 4));
                let nqn = [SUBNQN, DISCOVERY_NQN][input.pick(2)];
                let cntlid = if qid == 0 { CNTLID_DYNAMIC } else { cntlid };
                let (command, data) = connect(qid, nqn, cntlid);
                line.send(&command, 1024, data.as_bytes(), now)
            }
            12 => {
                for cid in std::mem::take(&mut line.running) {
                    line.complete(cid, Completion::OK);
                }
                None
            }
            13 => {
                now += Duration::from_millis(input.u16().into());
                line.session.tick(now)
            }
            14 => {
                let mut changed = namespace(1, 512, false);
                changed.blocks = 4096 - u64::from(input.u8());
                let set = served.subsystem.set_namespaces(vec![changed]);
                set.expect("a valid namespace");
                line.poll();
                None
            }
            _ => Some(CloseReason::Closed),
        };
        if ended.is_some() {
            line.close(&served);
        }
        let outstanding = line.session.queue().outstanding();
        assert!(outstanding as usize >= line.running.len());
        assert!(outstanding <= line.session.queue().entries());
    }
    drop(lines);
    assert!(served.subsystem.controllers().is_empty());
    assert!(served.target.discovery().controllers().is_empty());
}
