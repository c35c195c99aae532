//! Two software adapters on real sockets: connection management and then data.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::cm::{
    CmEvent, ConnError, ConnId, ConnParams, ConnectionManager, Connector,
};
use sidelane_transport::nic::{
    Access, ActiveNic, Completion, Completions, MemoryRegion, Nic, QpCaps, QpNumber, RecvWr,
    SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::soft::{self, cm::SoftCm, nic::SoftNic};

const PORT: u16 = 4420;
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that no other test uses at the same time.
fn fresh_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 128 | high & 63, low, next).into()
}

struct End {
    address: IpAddr,
    nics: Vec<SoftNic>,
    cm: SoftCm,
    events: Vec<CmEvent>,
    done: Vec<Completion>,
}

fn end(reactors: usize) -> End {
    let address = fresh_address();
    let (nics, mut cm) = soft::open(address, reactors).unwrap();
    cm.listen((address, PORT).into()).unwrap();
    End {
        address,
        nics,
        cm,
        events: Vec::new(),
        done: Vec::new(),
    }
}

impl End {
    fn poll(&mut self) {
        let now = Instant::now();
        while let Some(event) = self.cm.poll(now) {
            self.events.push(event);
        }
        for nic in &mut self.nics {
            let mut out = Completions::new();
            nic.poll(now, &mut out);
            self.done.extend(out);
        }
    }

    fn memory(&mut self, reactor: usize) -> (Region, MemoryRegion) {
        let view = MemView::anonymous(1 << 16);
        let region = Region::new("test", Placement::Host, 0x1000_0000, view, Box::new(()));
        let access = Access {
            local_write: true,
            ..Access::default()
        };
        let memory = self.nics[reactor].register(&region, access).unwrap();
        (region, memory)
    }

    fn queue_pair(&mut self, reactor: usize) -> QpNumber {
        self.nics[reactor]
            .create_qp(QpCaps { max_send_wr: 16 })
            .unwrap()
    }
}

fn params(qp: QpNumber, private_data: &'static [u8]) -> ConnParams {
    ConnParams {
        qp,
        private_data: Bytes::from_static(private_data),
    }
}

fn sge(memory: &MemoryRegion, offset: u64, len: u32) -> Sge {
    Sge {
        addr: memory.base + offset,
        len,
        lkey: memory.lkey,
    }
}

/// Polls both ends until `ready` gives something.
fn until<T>(ends: &mut [End; 2], what: &str, ready: impl Fn(&[End; 2]) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        for end in ends.iter_mut() {
            end.poll();
        }
        if let Some(value) = ready(ends) {
            return value;
        }
        let events = [&ends[0].events, &ends[1].events];
        assert!(start.elapsed() < PATIENCE, "{what} never came: {events:?}");
    }
}

/// Connects the first end to the second, the queue pairs being in these reactors.
fn connect(ends: &mut [End; 2], reactors: [usize; 2]) -> ([ConnId; 2], [QpNumber; 2]) {
    let client_qp = ends[0].queue_pair(reactors[0]);
    let to = SocketAddr::new(ends[1].address, PORT);
    let now = Instant::now();
    let client = ends[0]
        .cm
        .connect(to, params(client_qp, b"hello"), now)
        .unwrap();
    let (server, attrs, data) = until(ends, "the request", |ends| match ends[1].events.last()? {
        CmEvent::ConnectRequest {
            id,
            attrs,
            private_data,
            ..
        } => Some((*id, *attrs, private_data.clone())),
        _ => None,
    });
    assert_eq!(&data[..5], b"hello");
    let server_qp = ends[1].queue_pair(reactors[1]);
    let now = Instant::now();
    ends[1].nics[reactors[1]]
        .connect_qp(server_qp, &attrs, now)
        .unwrap();
    ends[1]
        .cm
        .accept(server, params(server_qp, b"welcome"), now)
        .unwrap();
    let attrs = until(ends, "the acceptance", |ends| {
        match ends[0].events.last()? {
            CmEvent::Accepted {
                id,
                attrs,
                private_data,
            } => {
                assert_eq!(*id, client);
                assert_eq!(&private_data[..7], b"welcome");
                Some(*attrs)
            }
            _ => None,
        }
    });
    assert_eq!(attrs.remote_qpn, server_qp.0);
    ends[0].nics[reactors[0]]
        .connect_qp(client_qp, &attrs, Instant::now())
        .unwrap();
    ends[0].cm.establish(client, Instant::now()).unwrap();
    until(ends, "the establishment", |ends| {
        (*ends[1].events.last()? == CmEvent::Established { id: server }).then_some(())
    });
    ([client, server], [client_qp, server_qp])
}

#[rstest::rstest]
#[case(1, [0, 0])]
#[case(2, [0, 1])]
#[case(3, [2, 1])]
fn a_message_goes_each_way_over_a_connection(#[case] reactors: usize, #[case] chosen: [usize; 2]) {
    let mut ends = [end(reactors), end(reactors)];
    let (ids, qps) = connect(&mut ends, chosen);

    let mut memories = Vec::new();
    for (end, reactor) in ends.iter_mut().zip(chosen) {
        let (region, memory) = end.memory(reactor);
        let buffer = RecvWr {
            wr_id: 1,
            sge: sge(&memory, 4096, 4096),
        };
        end.nics[reactor].post_recv(&[buffer]).unwrap();
        memories.push((region, memory));
    }
    let texts: [&[u8]; 2] = [b"a capsule", b"a response"];
    for (at, text) in texts.into_iter().enumerate() {
        let (region, memory) = &memories[at];
        region.view().write(0, text).unwrap();
        let wr = SendWr {
            wr_id: 2,
            op: SendOp::Send,
            sges: [sge(memory, 0, text.len() as u32)].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        ends[at].nics[chosen[at]].post_send(qps[at], &[wr]).unwrap();
    }
    until(&mut ends, "all completions", |ends| {
        ends.iter().all(|end| end.done.len() == 2).then_some(())
    });
    for (at, end) in ends.iter().enumerate() {
        assert!(end.done.iter().all(|done| done.status == WcStatus::Success));
        let received = end.done.iter().find(|done| done.op == WcOp::Recv).unwrap();
        let text = texts[1 - at];
        assert_eq!((received.len as usize, received.qp), (text.len(), qps[at]));
        let mut bytes = vec![0; text.len()];
        memories[at].0.view().read(4096, &mut bytes).unwrap();
        assert_eq!(bytes, text);
    }

    ends[0].cm.disconnect(ids[0], Instant::now()).unwrap();
    until(&mut ends, "the end", |ends| {
        let ended = |at: usize| {
            ends[at]
                .events
                .contains(&CmEvent::Disconnected { id: ids[at] })
        };
        (ended(0) && ended(1)).then_some(())
    });
}

#[test]
fn many_connections_come_up_and_end() {
    let mut ends = [end(2), end(2)];
    let mut all = Vec::new();
    for n in 0..40 {
        all.push(connect(&mut ends, [n % 2, n % 2]).0);
    }
    for (n, ids) in all.iter().enumerate() {
        ends[n % 2]
            .cm
            .disconnect(ids[n % 2], Instant::now())
            .unwrap();
    }
    until(&mut ends, "all ends", |ends| {
        let ended = |end: &End| {
            end.events
                .iter()
                .filter(|event| matches!(event, CmEvent::Disconnected { .. }))
                .count()
        };
        (ended(&ends[0]) == 40 && ended(&ends[1]) == 40).then_some(())
    });
    for end in &ends {
        let counters = end.cm.counters();
        assert_eq!((counters.bad_icrc, counters.not_management), (0, 0));
    }
}

#[test]
fn a_refusal_carries_the_words_of_the_consumer() {
    let mut ends = [end(1), end(1)];
    let qp = ends[0].queue_pair(0);
    let to = SocketAddr::new(ends[1].address, PORT);
    let client = ends[0]
        .cm
        .connect(to, params(qp, b""), Instant::now())
        .unwrap();
    let server = until(&mut ends, "the request", |ends| {
        match ends[1].events.last()? {
            CmEvent::ConnectRequest { id, .. } => Some(*id),
            _ => None,
        }
    });
    let words = Bytes::from_static(b"no");
    ends[1].cm.reject(server, words, Instant::now()).unwrap();
    let error = until(&mut ends, "the refusal", |ends| {
        match ends[0].events.last()? {
            CmEvent::Failed { id, error } if *id == client => Some(error.clone()),
            _ => None,
        }
    });
    let ConnError::Rejected {
        reason,
        private_data,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((reason, &private_data[..3]), (28, &b"no\0"[..]));
}

#[test]
fn the_manager_says_by_its_descriptor_when_there_is_something() {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut ends = [end(1), end(1)];
    let ready = |end: &End, ms: i64| {
        let fd = end.cm.event_fd();
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: ms * 1_000_000,
        };
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)).unwrap() == 1
    };
    assert!(!ready(&ends[1], 0));
    assert_eq!(ends[0].cm.deadline(), None);
    let qp = ends[0].queue_pair(0);
    let to = SocketAddr::new(ends[1].address, PORT);
    ends[0]
        .cm
        .connect(to, params(qp, b""), Instant::now())
        .unwrap();
    assert!(ends[0].cm.deadline().is_some());
    assert!(ready(&ends[1], 900));
    assert!(ends[1].cm.poll(Instant::now()).is_some());
}
