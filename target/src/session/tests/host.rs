//! A host for the tests: it sends commands and looks at what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cc, Connect, ConnectData, Cqe, DISCOVERY_NQN, FabricsType, HostId,
    Nqn, NqnField, PropertyGet, PropertySet, Psdt, Sqe, Status, offset,
};
use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::session::{CloseReason, IoRequest, QueueSession, Step};
use crate::subsystem::{
    AllowedHosts, Limits, Listener, NamespaceInfo, NoHealth, Portal, Subsystem, SubsystemConfig,
    Target,
};

pub const SUBNQN: &str = "nqn.2026-01.com.example:disk";
pub const HOSTNQN: &str = "nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef";
pub const STRANGER: &str = "nqn.2026-01.com.example:stranger";

/// 0x7f with the SGL bits that every command on a fabric has.
pub fn sqe(opcode: u8, nsid: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    sqe.cdw0.set_psdt(Psdt::Sgl);
    sqe
}

pub fn admin(opcode: AdminOpcode, nsid: u32) -> Sqe {
    sqe(opcode.into_bits(), nsid)
}

pub fn namespace(nsid: u32) -> NamespaceInfo {
    NamespaceInfo {
        nsid,
        blocks: 1 << 20,
        block_bytes: 512,
        uuid: Uuid::from_u128(u128::from(nsid) << 64 | 7),
        nguid: (u128::from(nsid) << 64 | 9).to_be_bytes(),
        eui64: None,
        volatile_write_cache: true,
        deallocate: true,
        write_zeroes: true,
        read_only: false,
        backend: nsid as usize * 10,
    }
}

pub fn subsystem(nqn: &str, hosts: AllowedHosts, namespaces: Vec<NamespaceInfo>) -> Arc<Subsystem> {
    Subsystem::new(SubsystemConfig {
        nqn: nqn.parse::<Nqn>().unwrap(),
        serial: "SL0001".into(),
        model: "Sidelane".into(),
        firmware: "0.1".into(),
        hosts,
        namespaces,
        limits: Limits {
            max_io_queues: 4,
            ..Limits::default()
        },
        health: Arc::new(NoHealth),
    })
    .unwrap()
}

/// Namespace 1 has 512-byte blocks, 2 has 4 KiB blocks, 3 is read-only, 5 has
/// neither a cache nor deallocation; 4 is not active.
pub fn namespaces() -> Vec<NamespaceInfo> {
    vec![
        namespace(1),
        NamespaceInfo {
            block_bytes: 4096,
            ..namespace(2)
        },
        NamespaceInfo {
            read_only: true,
            ..namespace(3)
        },
        NamespaceInfo {
            volatile_write_cache: false,
            deallocate: false,
            ..namespace(5)
        },
    ]
}

pub struct Lab {
    pub target: Arc<Target>,
    pub subsystem: Arc<Subsystem>,
    pub t0: Instant,
}

impl Lab {
    pub fn new() -> Self {
        let target = Target::new("DISC0001", "Sidelane discovery", "0.1").unwrap();
        let subsystem = subsystem(SUBNQN, AllowedHosts::only([HOSTNQN]), namespaces());
        target.add(subsystem.clone()).unwrap();
        let address = "192.0.2.1:4420".parse().unwrap();
        target.set_listeners(vec![Listener {
            port_id: 1,
            address,
        }]);
        Self {
            target,
            subsystem,
            t0: Instant::now(),
        }
    }

    /// A connection without a Connect.
    pub fn open(&self) -> Host {
        let portal = Portal {
            address: "192.0.2.1:4420".parse().unwrap(),
        };
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let session = QueueSession::new(self.target.clone(), portal, waker, self.t0);
        Host {
            session,
            wakes,
            now: self.t0,
            next_cid: 0,
            ios: Vec::new(),
        }
    }

    /// An enabled controller of `nqn`.
    pub fn controller_of(&self, nqn: &str, kato_ms: u32) -> Host {
        let mut host = self.open();
        let cqe = host.connect(connect(0, 31, kato_ms), &connect_data(nqn, CNTLID_DYNAMIC));
        assert_eq!(cqe.status(), Status::SUCCESS);
        assert_eq!(host.enable(), Status::SUCCESS);
        host
    }

    pub fn controller(&self) -> Host {
        self.controller_of(SUBNQN, 5000)
    }

    pub fn discovery(&self) -> Host {
        self.controller_of(DISCOVERY_NQN, 0)
    }

    /// An I/O queue of the controller that `admin` belongs to.
    pub fn io_queue(&self, admin: &Host, qid: u16) -> Host {
        let mut host = self.open();
        host.now = admin.now;
        let cqe = host.connect(connect(qid, 127, 0), &connect_data(SUBNQN, admin.cntlid()));
        assert_eq!(cqe.status(), Status::SUCCESS);
        host
    }
}

#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn connect(qid: u16, sqsize_z: u16, kato_ms: u32) -> Connect {
    let mut connect = Connect::from(admin(AdminOpcode::Fabrics, 0));
    connect.fctype = FabricsType::Connect;
    connect.qid = U16::new(qid);
    connect.sqsize_z = U16::new(sqsize_z);
    connect.kato_ms = U32::new(kato_ms);
    connect
}

pub fn nqn_field(text: &str) -> NqnField {
    let mut field = NqnField::default();
    field.0[..text.len()].copy_from_slice(text.as_bytes());
    field
}

pub fn connect_data(nqn: &str, cntlid: u16) -> ConnectData {
    let mut data = ConnectData::default();
    data.hostid = HostId([0x42; 16]);
    data.cntlid = U16::new(cntlid);
    data.subnqn = nqn_field(nqn);
    data.hostnqn = nqn_field(HOSTNQN);
    data
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its CQE; none when it is held, or the connection was closed.
    pub cqe: Option<Cqe>,
    /// What the target sent.
    pub data: Vec<u8>,
    /// What the target told the backend.
    pub io: Option<IoRequest>,
    /// Whether the connection is to end.
    pub close: Option<CloseReason>,
}

impl Outcome {
    pub fn status(&self) -> Status {
        self.cqe.expect("the command has a completion").status()
    }

    /// Type and code alone.
    pub fn is(&self, status: Status) -> bool {
        self.status().same_code(status)
    }
}

pub struct Host {
    pub session: QueueSession,
    wakes: Arc<Wakes>,
    pub now: Instant,
    next_cid: u16,
    /// Requests that the backend got.
    pub ios: Vec<IoRequest>,
}

impl Host {
    pub fn cntlid(&self) -> u16 {
        self.session.controller().unwrap().cntlid()
    }

    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Sends a command with data of `len` bytes, which are `out` as far as that
    /// goes; the backend succeeds at once.
    pub fn send(&mut self, command: impl Into<Sqe>, out: &[u8], len: u32) -> Outcome {
        let mut sqe: Sqe = command.into();
        sqe.cdw0.set_cid(self.next_cid);
        self.next_cid = self.next_cid.wrapping_add(1);
        self.send_as_is(&sqe, out, Ok(len))
    }

    /// As [`Host::send`], with the command identifier that the command has.
    pub fn send_as_is(&mut self, sqe: &Sqe, out: &[u8], len: Result<u32, Status>) -> Outcome {
        let mut outcome = Outcome {
            cqe: None,
            data: Vec::new(),
            io: None,
            close: None,
        };
        let mut step = self.session.command(sqe, len, self.now);
        if let Step::Fetch { len: fetch } = step {
            assert!(fetch <= len.unwrap(), "more is fetched than the host has");
            let mut data = out.to_vec();
            data.resize(fetch as usize, 0);
            step = self.session.data(sqe, &data, self.now);
        }
        let completion = match step {
            Step::Io(request) => {
                outcome.io = Some(request);
                self.ios.push(request);
                Some(crate::session::Completion::OK)
            }
            Step::Reply { data, completion } => {
                assert_eq!(Ok(data.len() as u32), len, "a reply has the host's length");
                outcome.data = data;
                Some(completion)
            }
            Step::Complete(completion) => Some(completion),
            Step::CompleteAndClose(completion, reason) => {
                outcome.close = Some(reason);
                Some(completion)
            }
            Step::Close(reason) => {
                outcome.close = Some(reason);
                None
            }
            Step::Held => None,
            Step::Fetch { .. } => panic!("a command fetches once"),
        };
        outcome.cqe = completion.map(|completion| {
            let cqe = self.session.completed(sqe.cid(), completion);
            assert_eq!(cqe.cid.get(), sqe.cid());
            cqe
        });
        outcome
    }

    pub fn connect(&mut self, connect: Connect, data: &ConnectData) -> Cqe {
        self.send(connect, data.as_bytes(), 1024).cqe.unwrap()
    }

    pub fn property(&mut self, at: u32, size: u8) -> Outcome {
        let mut get = PropertyGet::from(admin(AdminOpcode::Fabrics, 0));
        get.fctype = FabricsType::PropertyGet;
        get.offset = U32::new(at);
        get.attributes.set_size(size);
        self.send(get, &[], 0)
    }

    pub fn register(&mut self, at: u32) -> u64 {
        let outcome = self.property(at, u8::from(at == offset::CAP));
        assert_eq!(outcome.status(), Status::SUCCESS);
        outcome.cqe.unwrap().result()
    }

    pub fn set_property(&mut self, at: u32, size: u8, value: u64) -> Outcome {
        let mut set = PropertySet::from(admin(AdminOpcode::Fabrics, 0));
        set.fctype = FabricsType::PropertySet;
        set.offset = U32::new(at);
        set.attributes.set_size(size);
        set.value = U64::new(value);
        self.send(set, &[], 0)
    }

    pub fn configure(&mut self, cc: Cc) -> Status {
        let value: U32 = zerocopy::transmute!(cc);
        self.set_property(offset::CC, 0, value.get().into())
            .status()
    }

    pub fn enable(&mut self) -> Status {
        self.configure(enabled())
    }

    /// Answers to held commands.
    pub fn events(&mut self) -> Vec<(u16, u64)> {
        let mut answers = Vec::new();
        while let Some((cid, completion)) = self.session.poll_async() {
            let cqe = self.session.completed(cid, completion);
            assert_eq!(cqe.status(), Status::SUCCESS);
            answers.push((cid, cqe.result()));
        }
        answers
    }
}

/// CC as Linux writes it.
pub fn enabled() -> Cc {
    Cc::new().with_en(true).with_iosqes(6).with_iocqes(4)
}
