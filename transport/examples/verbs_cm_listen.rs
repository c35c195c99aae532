//! Shows what connection management through librdmacm tells: listens for NVMe
//! over RDMA and prints each request, what comes of it, and how the listeners are
//! whenever that changes.
//!
//! ```text
//! verbs_cm_listen ADDRESS[,ADDRESS...] PORT [reject|accept|receive] [SECONDS]
//! ```
//!
//! `reject` refuses each request. `accept` takes it without a queue pair behind
//! it, and ends it after two seconds. `receive` makes a queue pair, and prints
//! the commands that come; none is answered.

#[cfg(not(feature = "verbs"))]
fn main() {
    eprintln!("built without the cargo feature `verbs`");
}

#[cfg(feature = "verbs")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // By its words, not by its structure.
    with_verbs::run().map_err(|error| error.to_string().into())
}

#[cfg(feature = "verbs")]
mod with_verbs {
    use std::collections::{HashMap, VecDeque};
    use std::error::Error;
    use std::net::{IpAddr, SocketAddr};
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use rustix::event::{PollFd, PollFlags, Timespec};
    use sidelane_p2p::{DmaSpace, ProcessMemory, Region};
    use sidelane_transport::cm::{CmEvent, ConnId, ConnParams, ConnectionManager};
    use sidelane_transport::nic::{
        Access, Completions, Nic, NicEvent, QpAttrs, QpCaps, QpNumber, RecvWr, Sge, Wake,
    };
    use sidelane_transport::nvmf::{ConnectAccept, ConnectReject, ConnectRequest, RejectStatus};
    use sidelane_transport::verbs::{self, AdapterSettings, RdmaCm, VerbsNic};

    type Outcome<T> = Result<T, Box<dyn Error>>;

    /// How long a connection is left up.
    const UP: Duration = Duration::from_secs(2);

    /// The longest sleep, to notice changes of listeners and what adapters say.
    const NAP: Duration = Duration::from_millis(50);

    /// Bytes and number of receive buffers.
    const BUFFER: u32 = 8192;
    const BUFFERS: u32 = 8;

    pub fn run() -> Outcome<()> {
        let mut args = std::env::args().skip(1);
        let addresses = args.next().ok_or("an address is needed")?;
        let port: u16 = args.next().ok_or("a port is needed")?.parse()?;
        let mode = args.next().unwrap_or_else(|| "reject".to_owned());
        let seconds = args.next().map_or(Ok(10), |text| text.parse())?;
        let addresses = addresses.split(',').map(str::parse::<IpAddr>);
        let listen = addresses.map(|ip| Ok(SocketAddr::new(ip?, port)));
        let listen: Vec<SocketAddr> = listen.collect::<Outcome<_>>()?;

        let (mut manager, mut adapters) = match mode.as_str() {
            "receive" => with_adapters(&listen)?,
            _ => (without_adapters(&listen)?, Vec::new()),
        };
        for at in listen {
            manager.listen(at)?;
        }

        let states = manager.listeners();
        let mut seen = Vec::new();
        let mut up: VecDeque<(Instant, ConnId)> = VecDeque::new();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let now = Instant::now();
            while let Some(event) = manager.poll(now) {
                println!("{event:?}");
                match event {
                    CmEvent::ConnectRequest {
                        id,
                        adapter,
                        attrs,
                        private_data,
                        ..
                    } => {
                        println!("  NVMe: {:?}", ConnectRequest::parse(&private_data));
                        match (mode.as_str(), adapters.get_mut(adapter)) {
                            ("receive", Some(adapter)) => adapter.open(id, &attrs, now),
                            ("accept", _) => accept(&mut manager, id, QpNumber(0x100), now),
                            _ => reject(&mut manager, id, now),
                        }
                    }
                    CmEvent::Established { id } if mode == "accept" => {
                        up.push_back((now + UP, id));
                    }
                    CmEvent::Disconnected { id } | CmEvent::Failed { id, .. } => {
                        for adapter in &mut adapters {
                            adapter.close(id);
                        }
                    }
                    _ => {}
                }
            }
            for adapter in &mut adapters {
                adapter.poll(&mut manager, now);
            }
            while up.front().is_some_and(|(until, _)| *until <= now) {
                if let Some((_, id)) = up.pop_front() {
                    println!("disconnect {id:?}: {:?}", manager.disconnect(id, now));
                }
            }
            if states.get() != seen {
                seen = states.get();
                println!("listeners: {seen:?}");
            }
            sleep(&manager, now)?;
        }
        println!("{:?}", manager.counters());
        Ok(())
    }

    fn without_adapters(listen: &[SocketAddr]) -> Outcome<RdmaCm> {
        let mut manager = RdmaCm::bind(listen)?;
        let devices = manager.devices()?;
        println!("devices: {devices:?}");
        manager.set_adapters(devices.into_iter().map(|device| device.name).collect());
        Ok(manager)
    }

    fn with_adapters(listen: &[SocketAddr]) -> Outcome<(RdmaCm, Vec<Part>)> {
        let settings = AdapterSettings {
            reactors: 1,
            srq_wr: 64,
            max_connections: 8,
            send_wr: 64,
        };
        let opened = verbs::open(listen, settings)?;
        let mut parts = Vec::new();
        for adapter in opened.adapters {
            let served = adapter.listeners;
            for nic in adapter.parts {
                println!("opened {} for {served:?}", nic.caps().name);
                parts.push(Part::new(nic)?);
            }
        }
        Ok((opened.cm, parts))
    }

    /// An adapter with buffers to receive into, and its queue pairs.
    struct Part {
        nic: VerbsNic,
        region: Region,
        pairs: HashMap<ConnId, QpNumber>,
    }

    impl Part {
        fn new(mut nic: VerbsNic) -> Outcome<Self> {
            let region = ProcessMemory.host_region("receive", (BUFFER * BUFFERS) as usize)?;
            let writable = Access {
                local_write: true,
                ..Access::default()
            };
            let memory = nic.register(&region, writable)?;
            let buffers = (0..BUFFERS).map(|buffer| RecvWr {
                wr_id: u64::from(buffer),
                sge: Sge {
                    addr: memory.base + u64::from(buffer * BUFFER),
                    len: BUFFER,
                    lkey: memory.lkey,
                },
            });
            nic.post_recv(&buffers.collect::<Vec<_>>())?;
            Ok(Self {
                nic,
                region,
                pairs: HashMap::new(),
            })
        }

        fn open(&mut self, id: ConnId, attrs: &QpAttrs, now: Instant) {
            let caps = QpCaps { max_send_wr: 8 };
            self.nic.open_qp(id.0, caps, attrs, now);
        }

        fn close(&mut self, id: ConnId) {
            if let Some(pair) = self.pairs.remove(&id) {
                self.nic.destroy_qp(pair);
            }
        }

        fn poll(&mut self, manager: &mut RdmaCm, now: Instant) {
            let mut done = Completions::new();
            self.nic.poll(now, &mut done);
            for completion in done {
                let mut head = [0; 8];
                let at = completion.wr_id as usize * BUFFER as usize;
                let read = self.region.view().read(at, &mut head);
                println!("  {completion:?}, begins with {head:02x?} ({read:?})");
            }
            while let Some(event) = self.nic.event() {
                println!("  {event:?}");
                if let NicEvent::Opened { ticket, outcome } = event {
                    let id = ConnId(ticket);
                    match outcome {
                        Ok(pair) => {
                            self.pairs.insert(id, pair);
                            accept(manager, id, pair, now);
                        }
                        Err(_) => reject(manager, id, now),
                    }
                }
            }
            self.nic.arm(now, Wake::All);
        }
    }

    fn accept(manager: &mut RdmaCm, id: ConnId, qp: QpNumber, now: Instant) {
        let private_data = Bytes::copy_from_slice(ConnectAccept::new(32).as_bytes());
        let params = ConnParams { qp, private_data };
        println!("  accept: {:?}", manager.accept(id, params, now));
    }

    fn reject(manager: &mut RdmaCm, id: ConnId, now: Instant) {
        let reject = ConnectReject::new(RejectStatus::InvalidQueueId);
        let data = Bytes::copy_from_slice(reject.as_bytes());
        println!("  reject: {:?}", manager.reject(id, data, now));
    }

    fn sleep(manager: &RdmaCm, now: Instant) -> Outcome<()> {
        let until = manager.deadline().unwrap_or(now + NAP).min(now + NAP);
        let timeout = Timespec::try_from(until.saturating_duration_since(now))?;
        let fd = manager.event_fd();
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))?;
        Ok(())
    }
}
