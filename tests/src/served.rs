//! A session core with something to serve, without reactor and adapter: for the
//! fuzzer, and to count the core's instructions.
#![expect(
    clippy::expect_used,
    reason = "what is served here is always the same, and right"
)]

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use sidelane::session::{QueueSession, Step};
use sidelane::subsystem::{
    AllowedHosts, Limits, Listener, NamespaceInfo, NoHealth, Portal, Subsystem, SubsystemConfig,
    Target,
};
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cc, Connect, ConnectData, FabricsType, HostId, NqnField,
    PropertySet, Psdt, Sqe, Status, offset,
};
use uuid::Uuid;
use zerocopy::IntoBytes;

/// The subsystem.
pub const SUBNQN: &str = "nqn.2026-11.io.sidelane:fuzz";
const HOSTNQN: &str = "nqn.2026-11.io.sidelane:fuzz-host";
const ADDRESS: &str = "192.0.2.1:4420";
/// Entries of the queues that are connected in order.
const ENTRIES: u16 = 16;

/// A target with a subsystem of three namespaces, of which one is read-only.
pub struct Served {
    /// All of it.
    pub target: Arc<Target>,
    /// The one subsystem.
    pub subsystem: Arc<Subsystem>,
    /// When all connections came up.
    pub start: Instant,
}

/// A namespace of 4096 blocks.
pub fn namespace(nsid: u32, block_bytes: u32, read_only: bool) -> NamespaceInfo {
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

/// Connect to a queue, and its data.
pub fn connect(qid: u16, nqn: &str, cntlid: u16) -> (Sqe, ConnectData) {
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
