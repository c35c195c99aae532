//! `sidelane ping` from one soft NIC to another, over loopback: rounds, bandwidth,
//! peers that are not there, go away, or send what they should not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rstest::rstest;
use sidelane::ping::{
    self, BandwidthOptions, Event, PingError, PingOptions, PingReport, ServeOptions, Stop,
};
use sidelane_p2p::{DmaSpace, ProcessMemory, Region};
use sidelane_transport::cm::{CmEvent, ConnParams, ConnectionManager, Connector};
use sidelane_transport::nic::{
    Access, ActiveNic, Completion, Completions, MemoryRegion, Nic, QpCaps, QpNumber, RecvWr,
    SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::soft::{self, cm::SoftCm, nic::SoftNic};

const PATIENCE: Duration = Duration::from_secs(20);

/// An address that no other test uses at the same time.
fn fresh_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 192 | high & 63, low, next).into()
}

/// A server on a thread of its own.
struct Served {
    stop: Stop,
    said: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<Result<(), PingError>>,
}

fn serve(options: ServeOptions) -> Served {
    let (stop, said) = (Stop::new().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let (wish, sayings) = (stop.clone(), Arc::clone(&said));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (nic, cm) = ping::open(options.at.ip())?;
        ready.send(()).unwrap();
        ping::serve(nic, cm, &options, &wish, &mut |event| {
            if let Event::Note(note) = event {
                sayings.lock().unwrap().push(note.to_owned());
            }
        })
    });
    is_ready.recv().unwrap();
    Served { stop, said, thread }
}

impl Served {
    /// Ends it, and gives what it said.
    fn end(self) -> String {
        self.stop.wish();
        self.thread.join().unwrap().unwrap();
        self.said.lock().unwrap().join("\n")
    }
}

fn new_server() -> (SocketAddr, Served) {
    let at = SocketAddr::new(fresh_address(), ping::PORT);
    (at, serve(ServeOptions::new(at)))
}

/// As fast as can be.
fn rounds(remote: SocketAddr, count: u64) -> PingOptions {
    PingOptions {
        count: Some(count),
        interval: Duration::ZERO,
        ..PingOptions::new(remote)
    }
}

fn ping_with(options: &PingOptions, mut tell: impl FnMut(Event<'_>)) -> PingReport {
    let (nic, cm) = ping::open(fresh_address()).unwrap();
    let stop = Stop::new().unwrap();
    ping::ping(nic, cm, options, &stop, &mut tell).unwrap()
}

fn ping(options: &PingOptions) -> PingReport {
    ping_with(options, |_| {})
}

#[rstest]
#[case(64, 1, 200)]
#[case(ping::MIN_SIZE, 3, 50)]
#[case(ping::MAX_SIZE, 2, 20)]
fn every_round_comes_back_as_it_was_sent(
    #[case] size: u32,
    #[case] connections: usize,
    #[case] count: u64,
) {
    let (remote, served) = new_server();
    let options = PingOptions {
        size,
        connections,
        ..rounds(remote, count)
    };
    let mut told = 0;
    let report = ping_with(&options, |event| {
        told += u64::from(matches!(event, Event::Back { .. }));
    });
    assert!(report.is_good(), "{report}");
    assert_eq!(report.back, count * connections as u64);
    assert_eq!(told, report.back);
    let times = report.round_trip.unwrap();
    assert!(times.min_us > 0.0 && times.min_us <= times.avg_us);
    assert!(times.avg_us <= times.max_us && times.p99_us <= times.max_us);
    // Each client said goodbye, and was let go.
    let said = served.end();
    let ended = format!("{count} rounds: it disconnected");
    assert_eq!(said.matches(&ended).count(), connections, "{said}");
}

#[rstest]
#[case(1, 16, None)]
#[case(3, 40, Some(4096))]
#[case(1, 2, Some(1 << 20))]
fn bandwidth_is_measured_each_way_and_what_came_is_compared(
    #[case] connections: usize,
    #[case] depth: u32,
    #[case] size: Option<u32>,
) {
    let (remote, served) = new_server();
    let options = BandwidthOptions {
        duration: Duration::from_millis(200),
        size,
        depth,
        connections: Some(connections),
        ..BandwidthOptions::new(remote)
    };
    let (nic, cm) = ping::open(fresh_address()).unwrap();
    let stop = Stop::new().unwrap();
    let report = ping::bandwidth(nic, cm, &options, &stop, &mut |_| {}).unwrap();
    assert!(report.is_good() && report.pipelined, "{report}");
    let operations: Vec<_> = report.stretches.iter().map(|it| it.operation).collect();
    assert_eq!(operations, ["write", "read", "send"]);
    for stretch in &report.stretches {
        let bytes = stretch.operations * u64::from(stretch.size_bytes);
        assert_eq!(stretch.bytes, bytes);
        assert!(stretch.operations > 0 && stretch.depth <= depth, "{report}");
    }
    let moved = report.counts["bytes_out"] + report.counts["bytes_in"];
    let measured: u64 = report.stretches.iter().map(|it| it.bytes).sum();
    assert!(moved >= measured, "{moved} of {measured}");
    served.end();
}

#[test]
fn rounds_that_nobody_answers_are_lost_and_the_reason_is_told() {
    // The machine answers, but on another port.
    let other = SocketAddr::new(fresh_address(), 7);
    let served = serve(ServeOptions::new(other));
    let remote = SocketAddr::new(other.ip(), ping::PORT);
    let report = ping(&rounds(remote, 2));
    assert_eq!((report.back, report.lost), (0, 2));
    let why = report.last_loss.unwrap();
    assert!(why.contains("nothing listens on port 7174"), "{why}");
    served.end();

    // No machine.
    let options = PingOptions {
        timeout: Duration::from_millis(300),
        ..rounds(SocketAddr::new(fresh_address(), ping::PORT), 1)
    };
    let report = ping(&options);
    assert_eq!((report.back, report.lost), (0, 1));
    assert!(report.last_loss.unwrap().contains("UDP port 4791"));
}

#[test]
fn rounds_are_lost_while_the_server_is_gone_and_come_back_with_it() {
    let (remote, served) = new_server();
    let mut servers = vec![served];
    let (mut seen, mut losses) = (0, 0);
    let options = PingOptions {
        timeout: Duration::from_millis(500),
        ..rounds(remote, 60)
    };
    let report = ping_with(&options, |event| match event {
        Event::Back { .. } => {
            seen += 1;
            if seen == 20 {
                servers.pop().unwrap().end();
            }
        }
        Event::Lost { .. } => {
            losses += 1;
            if losses == 2 {
                servers.push(serve(ServeOptions::new(remote)));
            }
        }
        _ => {}
    });
    assert_eq!(report.lost, losses);
    assert!(losses >= 2 && report.back + losses == 60, "{report}");
    servers.pop().unwrap().end();
}

#[test]
fn a_wish_ends_a_ping_in_the_middle_of_its_waiting() {
    let (remote, served) = new_server();
    let options = PingOptions {
        interval: Duration::from_secs(3600),
        ..PingOptions::new(remote)
    };
    let (nic, cm) = ping::open(fresh_address()).unwrap();
    let stop = Stop::new().unwrap();
    let wish = stop.clone();
    let report = ping::ping(nic, cm, &options, &stop, &mut |event| {
        if matches!(event, Event::Back { .. }) {
            let wish = wish.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                wish.wish();
            });
        }
    });
    let report = report.unwrap();
    assert_eq!((report.back, report.lost), (1, 0));
    served.end();
}

#[test]
fn one_client_more_than_there_is_room_for_is_refused_in_words() {
    let at = SocketAddr::new(fresh_address(), ping::PORT);
    let served = serve(ServeOptions {
        clients: 1,
        ..ServeOptions::new(at)
    });
    let mut guest = Raw::new();
    guest.connect(at);
    let report = ping(&rounds(at, 1));
    assert_eq!(report.lost, 1);
    let why = report.last_loss.unwrap();
    assert!(why.contains("all 1 connections are in use"), "{why}");
    served.end();
}

#[test]
fn a_client_that_vanishes_gives_its_place_back() {
    let at = SocketAddr::new(fresh_address(), ping::PORT);
    let served = serve(ServeOptions {
        clients: 1,
        idle: Duration::from_millis(200),
        ..ServeOptions::new(at)
    });
    let mut guest = Raw::new();
    guest.connect(at);
    drop(guest);
    // Each try that comes too early is followed by a pause.
    let report = ping(&rounds(at, 5));
    assert!(report.back > 0, "{report}");
    assert!(served.end().contains("silent for too long"));
}

#[test]
fn a_server_that_waits_for_clients_hears_the_wish_to_end() {
    // Soon enough that it may come while the server makes up its mind to sleep.
    for _ in 0..50 {
        let (_, served) = new_server();
        served.end();
    }
}

#[test]
fn options_out_of_bounds_are_refused() {
    let remote = SocketAddr::new(fresh_address(), ping::PORT);
    let stop = Stop::new().unwrap();
    let (nic, cm) = ping::open(fresh_address()).unwrap();
    let options = PingOptions {
        size: ping::MAX_SIZE + 1,
        ..PingOptions::new(remote)
    };
    let error = ping::ping(nic, cm, &options, &stop, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("32 to 65535"), "{error}");
}

#[test]
fn the_own_address_is_told_from_a_peer() {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    for from in [None, Some(loopback)] {
        let error = ping::own_address(from, loopback).unwrap_err();
        assert!(matches!(error, PingError::OwnAddress(_)), "{error}");
    }
    assert_eq!(ping::own_address(None, fresh_address()).unwrap(), loopback);
    let own = fresh_address();
    assert_eq!(ping::own_address(Some(own), loopback).unwrap(), own);
    let other_family = ping::own_address(Some(own), "fd00::1".parse().unwrap());
    assert!(matches!(other_family, Err(PingError::Family { .. })));
}

/// A peer that does what it likes.
struct Raw {
    nic: SoftNic,
    cm: SoftCm,
    region: Region,
    memory: MemoryRegion,
    qp: QpNumber,
}

const RAW_LEN: usize = 1 << 17;

impl Raw {
    fn new() -> Self {
        Self::at(fresh_address())
    }

    fn at(address: IpAddr) -> Self {
        let (mut nics, cm) = soft::open(address, 1).unwrap();
        let mut nic = nics.pop().unwrap();
        let region = ProcessMemory.host_region("raw", RAW_LEN).unwrap();
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let memory = nic.register(&region, access).unwrap();
        let qp = nic.create_qp(QpCaps { max_send_wr: 64 }).unwrap();
        let mut raw = Self {
            nic,
            cm,
            region,
            memory,
            qp,
        };
        for _ in 0..64 {
            raw.listen_for_one();
        }
        raw
    }

    fn listen_for_one(&mut self) {
        let sge = self.sge(RAW_LEN as u64 - 4096, 4096);
        self.nic.post_recv(&[RecvWr { wr_id: 0, sge }]).unwrap();
    }

    fn sge(&self, offset: u64, len: u32) -> Sge {
        Sge {
            addr: self.memory.base + offset,
            len,
            lkey: self.memory.lkey,
        }
    }

    fn event(&mut self) -> CmEvent {
        let start = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(event) = self.cm.poll(now) {
                return event;
            }
            self.nic.poll(now, &mut Completions::new());
            assert!(start.elapsed() < PATIENCE, "nothing happened");
        }
    }

    fn connect(&mut self, to: SocketAddr) {
        let params = ConnParams {
            qp: self.qp,
            private_data: Bytes::new(),
        };
        let now = Instant::now();
        self.cm.connect(to, params, now).unwrap();
        match self.event() {
            CmEvent::Accepted { id, attrs, .. } => {
                self.nic.connect_qp(self.qp, &attrs, now).unwrap();
                self.cm.establish(id, now).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.region.view().write(0, bytes).unwrap();
        let wr = SendWr {
            wr_id: 0,
            op: SendOp::Send,
            sges: [self.sge(0, bytes.len() as u32)].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        self.nic.post_send(self.qp, &[wr]).unwrap();
    }

    /// Until the server has ended the connection.
    fn is_thrown_out(&mut self) {
        let ended = self.event();
        assert!(matches!(ended, CmEvent::Disconnected { .. }), "{ended:?}");
    }
}

/// A message of the protocol.
fn message(addr: u64, rkey: u32, size: u32) -> Vec<u8> {
    let mut bytes = addr.to_be_bytes().to_vec();
    bytes.extend(rkey.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes
}

#[rstest]
#[case::too_short(vec![vec![1; 15]])]
#[case::too_long(vec![vec![1; 17]])]
#[case::longer_than_any_buffer(vec![vec![1; 60_000]])]
#[case::empty(vec![vec![]])]
#[case::no_bytes_to_read(vec![message(0x1000, 1, 0)])]
#[case::more_than_a_buffer_has(vec![message(0x1000, 1, u32::MAX)])]
#[case::memory_that_is_not_there(vec![message(0x1000, 0xdead_beef, 64)])]
#[case::two_at_a_time(vec![message(0x1000, 1, 64); 2])]
fn garbage_ends_the_connection_that_it_came_on_and_no_other(#[case] messages: Vec<Vec<u8>>) {
    let (remote, served) = new_server();
    let mut raw = Raw::new();
    raw.connect(remote);
    let mut sent = false;
    let report = ping_with(&rounds(remote, 100), |_| {
        if !std::mem::replace(&mut sent, true) {
            for message in &messages {
                raw.send(message);
            }
            raw.is_thrown_out();
        }
    });
    assert!(report.is_good() && report.back == 100, "{report}");
    served.end();
}

#[test]
fn a_server_that_only_nods_is_not_believed() {
    let at = SocketAddr::new(fresh_address(), ping::PORT);
    let stop = Stop::new().unwrap();
    let wish = stop.clone();
    let mut raw = Raw::at(at.ip());
    raw.cm.listen(at).unwrap();
    let nodder = std::thread::spawn(move || {
        let CmEvent::ConnectRequest { id, attrs, .. } = raw.event() else {
            panic!("no request")
        };
        let now = Instant::now();
        raw.nic.connect_qp(raw.qp, &attrs, now).unwrap();
        let params = ConnParams {
            qp: raw.qp,
            private_data: Bytes::new(),
        };
        raw.cm.accept(id, params, now).unwrap();
        while !stop.is_wished() {
            let now = Instant::now();
            raw.cm.poll(now);
            let mut done = Completions::new();
            raw.nic.poll(now, &mut done);
            let heard = |it: &&Completion| it.op == WcOp::Recv && it.status == WcStatus::Success;
            for _ in 0..done.iter().filter(heard).count() {
                raw.send(&[0; 16]);
            }
        }
    });
    let report = ping(&rounds(at, 1));
    wish.wish();
    nodder.join().unwrap();
    assert_eq!((report.back, report.lost), (0, 1));
    let why = report.last_loss.unwrap();
    assert!(why.contains("not what was sent, from byte 0 on"), "{why}");
}
