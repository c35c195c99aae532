//! Runs the verbs adapter against itself on a real device, with no connection
//! management: two parts, each connected to a queue pair that this program makes
//! by hand and that plays a host. SEND, SEND with invalidate, READ and WRITE of
//! several sizes with compared contents, the flush, immediate data, solicited
//! events and the limit of the shared receive queue, a queue pair that is brought
//! down with work outstanding, what is counted of all that, and what the device
//! says to a dma-buf.
//!
//! ```text
//! verbs_loop DEVICE [UDMABUF]          verbs_loop rxe0 /dev/udmabuf
//! verbs_loop DEVICE watch SECONDS      tells what happens to the device
//! ```

#[cfg(not(feature = "verbs"))]
fn main() {
    eprintln!("built without the feature verbs");
}

#[cfg(feature = "verbs")]
fn main() -> with_verbs::Outcome<()> {
    with_verbs::run()
}

#[cfg(feature = "verbs")]
mod with_verbs {
    use std::error::Error;
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::fs::{MemfdFlags, SealFlags};
    use sidelane_p2p::{
        DmaBuf, DmaSpace, ExportError, Exporter, MemView, Placement, ProcessMemory, Region,
    };
    use sidelane_transport::nic::{
        Access, Adapter, AddressVector, Completion, Completions, Flush, MemoryRegion, Nic,
        NicEvent, QpAttrs, QpCaps, QpNumber, RecvWr, RemoteMemory, SendOp, SendWr, Sge, Wake, WcOp,
        WcStatus,
    };
    use sidelane_transport::verbs::ffi::{
        CoreDevice, CoreMr, CoreQp, CoreSrq, Cq, Cqs, Device, GidType, LinkLayer, Mr, MrAccess, Qp,
        QpChange, QpShape, RdmaCore, RecvList, Rtr, Rts, SendData, SendFlags, SendList, SendOpcode,
        Srq, Verbs, Wc, WcBuffer,
    };
    use sidelane_transport::verbs::{AdapterSettings, VerbsAdapter, VerbsNic};

    pub type Outcome<T> = Result<T, Box<dyn Error>>;

    const BYTES: usize = 256 << 10;
    const SIZES: [usize; 6] = [1, 16, 512, 4096, 65_536, BYTES];
    const LIMIT: Duration = Duration::from_secs(10);

    pub fn run() -> Outcome<()> {
        let mut args = std::env::args().skip(1);
        let name = args.next().ok_or("a device is needed, as rdma dev says")?;
        let settings = AdapterSettings {
            reactors: 2,
            srq_wr: 64,
            max_connections: 8,
            send_wr: 128,
        };
        let (adapter, nics) = VerbsAdapter::open(&name, settings)?;
        println!("{:?}", adapter.caps());
        println!("state {:?}, PCI {:?}", adapter.state(), adapter.pci());
        let mode = args.next();
        if mode.as_deref() == Some("watch") {
            let seconds = args.next().unwrap_or_default().parse()?;
            return watch(&*adapter, nics, Duration::from_secs(seconds));
        }
        for (part, mut nic) in nics.into_iter().enumerate() {
            let mut host = Host::new(&name)?;
            println!("part {part}:");
            exercise(&mut nic, &mut host)?;
            println!("  {:?}", nic.counters());
        }
        println!("counted by the device: {:?}", adapter.counts());
        dma_buf(&*adapter, mode)?;
        println!("all as it should be");
        Ok(())
    }

    /// Tells of changes while somebody takes the link down or the device away.
    fn watch(adapter: &dyn Adapter, mut nics: Vec<VerbsNic>, time: Duration) -> Outcome<()> {
        let begin = Instant::now();
        let mut state = adapter.state();
        while begin.elapsed() < time {
            for (part, nic) in nics.iter_mut().enumerate() {
                nic.poll(Instant::now(), &mut Completions::new());
                while let Some(event) = nic.event() {
                    println!("part {part}: {event:?}");
                }
            }
            if adapter.state() != state {
                state = adapter.state();
                println!("state {state:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn exercise(nic: &mut VerbsNic, host: &mut Host) -> Outcome<()> {
        let region = ProcessMemory.host_region("data", BYTES)?;
        let writable = Access {
            local_write: true,
            ..Access::default()
        };
        let memory = nic.register(&region, writable)?;
        let qp = open(nic, host)?;
        println!("  {qp:?} is connected to {}", host.qp.number());

        for size in SIZES {
            fill(&host.memory, size, 3)?;
            let read = wr(1, SendOp::Read(host.remote()), &memory, size);
            nic.post_send(qp, &[read])?;
            expect(nic, WcOp::Read, 1)?;
            compare(region.view(), size, 3)?;

            let last = Sge {
                addr: memory.base + size as u64 - 1,
                len: 1,
                lkey: memory.lkey,
            };
            if nic.post_flush(last, 9)? == Flush::Pending {
                expect(nic, WcOp::Flush, 9)?;
            }

            fill(region.view(), size, 5)?;
            let write = wr(2, SendOp::Write(host.remote()), &memory, size);
            nic.post_send(qp, &[write])?;
            expect(nic, WcOp::Write, 2)?;
            compare(&host.memory, size, 5)?;

            fill(region.view(), size, 7)?;
            host.receive(size)?;
            nic.post_send(qp, &[wr(3, SendOp::Send, &memory, size)])?;
            expect(nic, WcOp::Send, 3)?;
            let got = host.wait(nic)?;
            if got.len as usize != size {
                return Err(format!("{got:?} for {size} bytes").into());
            }
            compare(&host.memory, size, 7)?;
            println!("  {size} bytes: READ, flush, WRITE, SEND: contents compared");
        }

        // The other way, into a shared receive buffer, and with a list: the data
        // and the response behind it, one completion.
        let recv = Sge {
            addr: memory.base,
            len: 4096,
            lkey: memory.lkey,
        };
        nic.post_recv(&[RecvWr {
            wr_id: 77,
            sge: recv,
        }])?;
        fill(&host.memory, 64, 11)?;
        host.send(64)?;
        let got = expect(nic, WcOp::Recv, 77)?;
        compare(region.view(), got.len as usize, 11)?;
        println!("  received {got:?}");

        beside(nic, host, qp, &memory)?;

        host.receive(4096)?;
        let mut data = wr(4, SendOp::Write(host.remote()), &memory, 4096);
        data.signaled = false;
        let key = host.mr.rkey();
        let response = wr(5, SendOp::SendInvalidate { rkey: key }, &memory, 16);
        nic.post_send(qp, &[data, response])?;
        let got = wait(nic, 1)?[0];
        println!(
            "  a response that invalidates key {key:#x}: {got:?}, and the host got {:?}",
            host.wait(nic)?
        );
        // Software adapters refuse to invalidate a key that was not made by fast
        // registration, which is the kernel's alone, and the connection is over.
        println!("  counted of {qp:?}: {:?}", nic.qp_counts(qp));
        close(nic, qp)?;
        let qp = open(nic, host)?;

        // Nobody takes these: the host has no receive buffer. Then the queue pair
        // is brought down, and each comes back.
        for number in 0..4 {
            nic.post_send(qp, &[wr(100 + number, SendOp::Send, &memory, 512)])?;
        }
        nic.error_qp(qp)?;
        let back = wait(nic, 4)?;
        println!(
            "  brought down with 4 outstanding: {:?}",
            back.iter()
                .map(|wc| (wc.wr_id, wc.status))
                .collect::<Vec<_>>()
        );
        let began = Instant::now();
        close(nic, qp)?;
        println!("  destroyed after {:?}", began.elapsed());
        nic.deregister(&memory);
        println!("  counted by the part: {:?}", nic.counts());
        Ok(())
    }

    /// What goes along with messages, both ways, and what is told beside them.
    fn beside(
        nic: &mut VerbsNic,
        host: &mut Host,
        qp: QpNumber,
        memory: &MemoryRegion,
    ) -> Outcome<()> {
        let imm = 0x0102_0304;
        let to = host.remote();
        for op in [
            SendOp::SendImmediate { imm },
            SendOp::WriteImmediate { to, imm },
        ] {
            host.receive(64)?;
            nic.post_send(qp, &[wr(6, op, memory, 64)])?;
            wait(nic, 1)?;
            let got = host.wait(nic)?;
            let wrote = matches!(op, SendOp::WriteImmediate { .. });
            if (got.imm, got.wrote, got.len) != (Some(imm), wrote, 64) {
                return Err(format!("{op:?} arrived as {got:?}").into());
            }
        }

        // The first spends what the queue was armed for before, the second wakes
        // nobody, and of the fourth the limit tells.
        let sge = Sge {
            addr: memory.base,
            len: 64,
            lkey: memory.lkey,
        };
        nic.post_recv(&[50, 51, 52, 53, 54].map(|wr_id| RecvWr { wr_id, sge }))?;
        nic.arm_srq_limit(2)?;
        let mut woken = Vec::new();
        for solicited in [false, false, true, false] {
            let mut got = Completions::new();
            while !nic.arm(Instant::now(), Wake::Solicited) {
                nic.poll(Instant::now(), &mut got);
            }
            host.post(SendOpcode::SendImmediate(imm), solicited, 64)?;
            let wait = Timespec {
                tv_sec: 0,
                tv_nsec: 300_000_000,
            };
            let fd = nic.event_fd();
            let ready = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait))?;
            woken.push(ready > 0);
            let end = Instant::now() + LIMIT;
            while got.is_empty() && Instant::now() < end {
                nic.poll(Instant::now(), &mut got);
            }
            if got.first().is_none_or(|wc| wc.imm != Some(imm)) {
                return Err(format!("immediate data arrived as {got:?}").into());
            }
        }
        println!("  woken by messages of which the third is solicited: {woken:?}");
        if woken[1..3] != [false, true] {
            return Err("solicited events are not told apart".into());
        }
        println!("  {:?}", event(nic)?);
        host.send(64)?;
        expect(nic, WcOp::Recv, 54)?;
        Ok(())
    }

    fn wr(wr_id: u64, op: SendOp, memory: &MemoryRegion, len: usize) -> SendWr {
        let sge = Sge {
            addr: memory.base,
            len: len as u32,
            lkey: memory.lkey,
        };
        SendWr {
            wr_id,
            op,
            sges: [sge].into_iter().collect(),
            signaled: true,
            solicited: false,
        }
    }

    fn fill(view: &MemView, len: usize, seed: usize) -> Outcome<()> {
        let bytes: Vec<u8> = (0..len).map(|at| (at * seed + seed) as u8).collect();
        Ok(view.write(0, &bytes)?)
    }

    fn compare(view: &MemView, len: usize, seed: usize) -> Outcome<()> {
        let mut bytes = vec![0; len];
        view.read(0, &mut bytes)?;
        match (0..len).find(|at| bytes[*at] != (at * seed + seed) as u8) {
            None => Ok(()),
            Some(at) => Err(format!("byte {at} of {len} is wrong").into()),
        }
    }

    /// Sleeps as a reactor does, until `what` gives something.
    fn until<T>(
        nic: &mut VerbsNic,
        mut what: impl FnMut(&mut VerbsNic) -> Option<T>,
    ) -> Outcome<T> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(got) = what(nic) {
                return Ok(got);
            }
            if nic.arm(Instant::now(), Wake::All) {
                let wait = Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                };
                let fd = nic.event_fd();
                rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait))?;
            }
        }
        Err("nothing came in time".into())
    }

    fn event(nic: &mut VerbsNic) -> Outcome<NicEvent> {
        until(nic, |nic| {
            nic.poll(Instant::now(), &mut Completions::new());
            nic.event()
        })
    }

    fn wait(nic: &mut VerbsNic, count: usize) -> Outcome<Vec<Completion>> {
        let mut got = Vec::new();
        until(nic, |nic| {
            let mut out = Completions::new();
            nic.poll(Instant::now(), &mut out);
            got.extend(out);
            (got.len() >= count).then_some(())
        })?;
        Ok(got)
    }

    fn expect(nic: &mut VerbsNic, op: WcOp, wr_id: u64) -> Outcome<Completion> {
        let got = wait(nic, 1)?[0];
        if (got.op, got.wr_id, got.status) != (op, wr_id, WcStatus::Success) {
            return Err(format!("{op:?} {wr_id} ended as {got:?}").into());
        }
        Ok(got)
    }

    fn open(nic: &mut VerbsNic, host: &mut Host) -> Outcome<QpNumber> {
        host.renew()?;
        let attrs = QpAttrs {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote_qpn: host.qp.number(),
            sq_psn: 100,
            rq_psn: 200,
            path_mtu: host.mtu,
            max_rd_atomic: 4,
            max_dest_rd_atomic: 4,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: host.vector,
        };
        nic.open_qp(1, QpCaps { max_send_wr: 32 }, &attrs, Instant::now());
        match event(nic)? {
            NicEvent::Opened { outcome, .. } => {
                let qp = outcome?;
                host.connect(qp.0)?;
                Ok(qp)
            }
            other => Err(format!("{other:?} instead of a queue pair").into()),
        }
    }

    fn close(nic: &mut VerbsNic, qp: QpNumber) -> Outcome<()> {
        nic.destroy_qp(qp);
        loop {
            match event(nic)? {
                NicEvent::Destroyed(gone) if gone == qp => return Ok(()),
                other => println!("  {other:?}"),
            }
        }
    }

    /// A host, made of bare verbs.
    struct Host {
        qp: CoreQp,
        mr: CoreMr,
        srq: CoreSrq,
        cq: <CoreDevice as Device>::Cq,
        device: CoreDevice,
        memory: MemView,
        vector: AddressVector,
        mtu: u32,
        wcs: WcBuffer,
    }

    impl Host {
        fn new(name: &str) -> Outcome<Self> {
            let device = RdmaCore.open(name).map_err(|why| format!("{why:?}"))?;
            let (cq, srq) = (device.create_cq(64)?, device.create_srq(16)?);
            let memory = MemView::anonymous(BYTES);
            let mr = device.register_host(&memory, ALL)?;
            let port = device.port(1)?;
            let vector = match port.link {
                LinkLayer::InfiniBand => AddressVector {
                    port: 1,
                    dlid: port.lid,
                    ..AddressVector::default()
                },
                LinkLayer::Ethernet => {
                    let gids = device.gids(1)?;
                    let v2 = || gids.iter().filter(|gid| gid.kind == GidType::RoceV2);
                    let gid = v2().find(|gid| gid.is_ipv4()).or_else(|| v2().next());
                    let gid = gid.ok_or("no GID for RoCE version 2")?;
                    AddressVector {
                        port: 1,
                        sgid_index: gid.index,
                        dgid: gid.gid,
                        hop_limit: 64,
                        is_global: true,
                        ..AddressVector::default()
                    }
                }
            };
            Ok(Self {
                qp: device.create_qp(
                    Cqs {
                        sends: &cq,
                        receives: &cq,
                    },
                    &srq,
                    SHAPE,
                )?,
                mr,
                srq,
                cq,
                device,
                memory,
                vector,
                mtu: port.mtu,
                wcs: WcBuffer::new(),
            })
        }

        /// A new queue pair, since one is good for one connection.
        fn renew(&mut self) -> Outcome<()> {
            self.qp = {
                let cqs = Cqs {
                    sends: &self.cq,
                    receives: &self.cq,
                };
                self.device.create_qp(cqs, &self.srq, SHAPE)?
            };
            self.mr = self.device.register_host(&self.memory, ALL)?;
            Ok(())
        }

        fn connect(&self, remote_qpn: u32) -> Outcome<()> {
            self.qp.modify(&QpChange::Init {
                port: 1,
                pkey_index: 0,
                access: ALL,
            })?;
            self.qp.modify(&QpChange::Rtr(Rtr {
                path_mtu: self.mtu,
                remote_qpn,
                rq_psn: 100,
                max_dest_rd_atomic: 4,
                min_rnr_timer: 12,
                vector: self.vector,
            }))?;
            self.qp.modify(&QpChange::Rts(Rts {
                sq_psn: 200,
                max_rd_atomic: 4,
                timeout: 14,
                retry_count: 7,
                rnr_retry: 7,
            }))?;
            Ok(())
        }

        fn remote(&self) -> RemoteMemory {
            RemoteMemory {
                addr: self.memory.as_ptr() as u64,
                rkey: self.mr.rkey(),
            }
        }

        fn sge(&self, len: usize) -> Sge {
            Sge {
                addr: self.memory.as_ptr() as u64,
                len: len as u32,
                lkey: self.mr.lkey(),
            }
        }

        fn receive(&self, len: usize) -> Outcome<()> {
            let mut list = RecvList::new();
            assert!(list.push(1, self.sge(len)));
            self.srq.post(&mut list).map_err(|why| format!("{why:?}"))?;
            Ok(())
        }

        fn send(&mut self, len: usize) -> Outcome<()> {
            self.post(SendOpcode::Send, false, len)
        }

        fn post(&mut self, opcode: SendOpcode, solicited: bool, len: usize) -> Outcome<()> {
            let mut list = SendList::new();
            let pieces = [self.sge(len)];
            let flags = SendFlags {
                signaled: false,
                solicited,
            };
            assert!(list.push(2, opcode, flags, SendData::Pieces(&pieces)));
            self.qp.post(&mut list).map_err(|why| format!("{why:?}"))?;
            Ok(())
        }

        fn wait(&mut self, nic: &mut VerbsNic) -> Outcome<Wc> {
            until(nic, |_| {
                self.cq.poll(&mut self.wcs).ok()?;
                self.wcs.pop()
            })
        }
    }

    const ALL: MrAccess = MrAccess {
        local_write: true,
        remote_read: true,
        remote_write: true,
    };

    const SHAPE: QpShape = QpShape {
        send_wrs: 16,
        inline: 0,
    };

    /// What the device says to memory that comes as a dma-buf: a memfd by way of
    /// udmabuf, where that is given, stands for another device's.
    fn dma_buf(adapter: &dyn Adapter, udmabuf: Option<String>) -> Outcome<()> {
        let Some(path) = udmabuf else {
            return Ok(());
        };
        let device = "0000:03:00.0".parse()?;
        let view = MemView::anonymous(BYTES);
        let placement = Placement::Peer { device, bar: 2 };
        let region = Region::new("a stand-in", placement, 1 << 32, view, Box::new(()))
            .with_exporter(Arc::new(Udmabuf(path)));
        let writable = Access {
            local_write: true,
            ..Access::default()
        };
        match adapter.try_register(&region, writable) {
            Ok(()) => println!("a dma-buf is registered"),
            Err(error) => println!("a dma-buf is refused: {error}"),
        }
        Ok(())
    }

    struct Udmabuf(String);

    impl Exporter for Udmabuf {
        fn export(&self) -> Result<DmaBuf, ExportError> {
            let fd = self.make().map_err(|error| ExportError::NotExportable {
                region: "a stand-in".into(),
                reason: format!("{}: {error}", self.0),
            })?;
            Ok(DmaBuf::new(fd, 0, BYTES as u64))
        }
    }

    impl Udmabuf {
        /// `UDMABUF_CREATE` (linux/udmabuf.h) on a memfd that cannot shrink.
        fn make(&self) -> std::io::Result<OwnedFd> {
            #[repr(C)]
            struct Create {
                memfd: u32,
                flags: u32,
                offset: u64,
                size: u64,
            }
            const UDMABUF_CREATE: libc::Ioctl = 0x4018_7542;
            let memfd = rustix::fs::memfd_create("stand-in", MemfdFlags::ALLOW_SEALING)?;
            rustix::fs::ftruncate(&memfd, BYTES as u64)?;
            rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&self.0)?;
            let create = Create {
                memfd: std::os::fd::AsRawFd::as_raw_fd(&memfd) as u32,
                flags: 0,
                offset: 0,
                size: BYTES as u64,
            };
            #[allow(unsafe_code)]
            // SAFETY: the structure is the one that the call reads; a descriptor
            // that it gives is new and ours.
            unsafe {
                let fd = libc::ioctl(
                    std::os::fd::AsRawFd::as_raw_fd(&file),
                    UDMABUF_CREATE,
                    &create,
                );
                if fd < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(OwnedFd::from_raw_fd(fd))
            }
        }
    }
}
