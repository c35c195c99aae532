//! A peer that says whatever a test wants it to: the software adapter and its
//! connection management, used directly.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cc, Connect, ConnectData, ConnectResult, Cqe, FabricsType, HostId,
    NqnField, SglDescriptor, Sqe, Status,
};
use sidelane_p2p::{MemView, Placement, Region};
use sidelane_transport::cm::{
    CmEvent, ConnError, ConnId, ConnParams, ConnectionManager, Connector,
};
use sidelane_transport::nic::{
    Access, ActiveNic, Completion, Completions, MemoryRegion, Nic, QpCaps, QpNumber, RecvWr,
    SendOp, SendWr, Sge, WcOp, WcStatus,
};
use sidelane_transport::nvmf::ConnectRequest;
use sidelane_transport::soft::{self, cm::SoftCm, nic::SoftNic};
use zerocopy::{FromZeros, IntoBytes};

use super::bench::{PATIENCE, with_free};

mod commands;

pub use commands::{Association, QueueOf, bare, read_write, with_sgl};

/// Receive buffers.
const RECEIVES: usize = 1024;
/// Bytes of each; a response has 16.
const RECEIVE_BYTES: usize = 64;
/// Where capsules are made, one after the other, and room for each.
const CAPSULES: usize = RECEIVES * RECEIVE_BYTES;
const CAPSULE_BYTES: usize = 32 << 10;
const CAPSULE_COUNT: usize = 64;
/// Where the data area begins, and its bytes.
const DATA: usize = CAPSULES + CAPSULE_BYTES * CAPSULE_COUNT;
/// Bytes of the data area.
pub const DATA_BYTES: usize = 4 << 20;

/// A queue pair that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conn {
    /// Its queue pair.
    pub qp: QpNumber,
    /// Its connection.
    pub id: ConnId,
}

/// See the module.
pub struct RawHost {
    nic: SoftNic,
    cm: SoftCm,
    remote: SocketAddr,
    region: Region,
    memory: MemoryRegion,
    events: Vec<CmEvent>,
    /// Responses that have come.
    pub responses: Vec<(QpNumber, Cqe)>,
    /// Work requests that failed.
    pub failures: Vec<Completion>,
    capsules: usize,
    next_cid: u16,
    /// The name that it connects by.
    pub hostnqn: String,
    /// Whether a receive buffer is posted again when a response was in it.
    reposts: bool,
}

impl RawHost {
    /// A peer of the target at `remote`, at an address of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(remote: SocketAddr) -> anyhow::Result<Self> {
        Self::with_receives(remote, RECEIVES, true)
    }

    /// One that takes this many responses, and then no more.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn deaf_after(remote: SocketAddr, responses: usize) -> anyhow::Result<Self> {
        Self::with_receives(remote, responses, false)
    }

    fn with_receives(remote: SocketAddr, receives: usize, reposts: bool) -> anyhow::Result<Self> {
        let (mut nics, cm) = with_free(|address: IpAddr| Ok(soft::open(address, 1)?))?;
        let mut nic = nics.pop().context("an adapter without parts")?;
        let view = MemView::anonymous(DATA + DATA_BYTES);
        let region = Region::new("raw host", Placement::Host, 1 << 40, view, Box::new(()));
        let access = Access {
            local_write: true,
            remote_read: true,
            remote_write: true,
        };
        let memory = nic.register(&region, access)?;
        let mut host = Self {
            nic,
            cm,
            remote,
            region,
            memory,
            events: Vec::new(),
            responses: Vec::new(),
            failures: Vec::new(),
            capsules: 0,
            next_cid: 0,
            hostnqn: super::bench::BAD.to_owned(),
            reposts,
        };
        for index in 0..receives {
            host.post_receive(index as u64)?;
        }
        Ok(host)
    }

    fn post_receive(&mut self, index: u64) -> anyhow::Result<()> {
        let sge = self.sge(index as usize * RECEIVE_BYTES, RECEIVE_BYTES);
        Ok(self.nic.post_recv(&[RecvWr { wr_id: index, sge }])?)
    }

    fn sge(&self, at: usize, len: usize) -> Sge {
        Sge {
            addr: self.memory.base + at as u64,
            len: len as u32,
            lkey: self.memory.lkey,
        }
    }

    /// The key by which the target reaches this host's memory.
    pub fn rkey(&self) -> u32 {
        self.memory.rkey
    }

    /// The address of a byte of the data area.
    pub fn data_address(&self, at: usize) -> u64 {
        self.memory.base + (DATA + at) as u64
    }

    /// Writes to the data area.
    ///
    /// # Errors
    /// When that is outside.
    pub fn data_write(&self, at: usize, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.region.view().write(DATA + at, bytes)?)
    }

    /// Reads from the data area.
    ///
    /// # Errors
    /// When that is outside.
    pub fn data_read(&self, at: usize, bytes: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.region.view().read(DATA + at, bytes)?)
    }

    /// Moves everything on once.
    ///
    /// # Errors
    /// When the adapter takes no receive buffer.
    pub fn poll(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(event) = self.cm.poll(now) {
            if let CmEvent::Disconnected { .. } | CmEvent::Failed { .. } = event {
                tracing::debug!(?event, "raw host");
            }
            self.events.push(event);
        }
        let mut done = Completions::new();
        self.nic.poll(now, &mut done);
        for completion in done {
            match (completion.op, completion.status) {
                (WcOp::Recv, status) => {
                    if status == WcStatus::Success {
                        let mut cqe = Cqe::new_zeroed();
                        let at = completion.wr_id as usize * RECEIVE_BYTES;
                        ensure!(
                            completion.len == 16,
                            "a response of {} bytes",
                            completion.len
                        );
                        self.region.view().read(at, cqe.as_mut_bytes())?;
                        self.responses.push((completion.qp, cqe));
                    }
                    if self.reposts {
                        self.post_receive(completion.wr_id)?;
                    }
                }
                (_, WcStatus::Success) => {}
                _ => self.failures.push(completion),
            }
        }
        Ok(())
    }

    /// Moves everything on until there is what `ready` looks for.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn until<T>(
        &mut self,
        what: &str,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            self.poll()?;
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "{what} did not come; responses {:?}, failures {:?}, events {:?}",
                    self.responses,
                    self.failures,
                    self.events
                );
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Moves everything on for a while.
    ///
    /// # Errors
    /// As for [`Self::poll`].
    pub fn linger(&mut self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.poll()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends a connection request with any private data, and does not wait.
    ///
    /// # Errors
    /// When the adapter or connection management refuses.
    pub fn request(&mut self, private_data: &[u8]) -> anyhow::Result<Conn> {
        let qp = self.nic.create_qp(QpCaps { max_send_wr: 1024 })?;
        let params = ConnParams {
            qp,
            private_data: Bytes::copy_from_slice(private_data),
        };
        let id = self.cm.connect(self.remote, params, Instant::now())?;
        Ok(Conn { qp, id })
    }

    /// Waits for the answer to a request, and confirms an acceptance. The inner
    /// result is the target's.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn answer(&mut self, conn: Conn) -> anyhow::Result<Result<(), ConnError>> {
        let event = self.until("an answer to a connection request", |host| {
            let of = |event: &CmEvent| match event {
                CmEvent::Accepted { id, .. } | CmEvent::Failed { id, .. } => *id == conn.id,
                _ => false,
            };
            let at = host.events.iter().position(of)?;
            Some(host.events.remove(at))
        })?;
        match event {
            CmEvent::Accepted { attrs, .. } => {
                let now = Instant::now();
                self.nic.connect_qp(conn.qp, &attrs, now)?;
                self.cm.establish(conn.id, now)?;
                Ok(Ok(()))
            }
            CmEvent::Failed { error, .. } => {
                self.nic.destroy_qp(conn.qp);
                Ok(Err(error))
            }
            other => bail!("{other:?}"),
        }
    }

    /// Connects a queue pair for a queue of `entries`, without NVMe's Connect.
    ///
    /// # Errors
    /// When the target does not take it.
    pub fn queue_pair(&mut self, qid: u16, cntlid: u16, entries: u16) -> anyhow::Result<Conn> {
        let request =
            ConnectRequest::new(qid, cntlid, entries, entries).context("a queue of nothing")?;
        let conn = self.request(request.as_bytes())?;
        self.answer(conn)??;
        Ok(conn)
    }

    /// Posts any bytes as one SEND.
    ///
    /// # Errors
    /// When the adapter refuses.
    pub fn send(&mut self, conn: Conn, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(bytes.len() <= CAPSULE_BYTES, "a capsule is too long");
        let at = CAPSULES + self.capsules % CAPSULE_COUNT * CAPSULE_BYTES;
        self.capsules += 1;
        self.region.view().write(at, bytes)?;
        let sges = if bytes.is_empty() {
            Default::default()
        } else {
            [self.sge(at, bytes.len())].into_iter().collect()
        };
        let wr = SendWr {
            wr_id: 0,
            op: SendOp::Send,
            sges,
            signaled: true,
            solicited: false,
        };
        Ok(self.nic.post_send(conn.qp, &[wr])?)
    }

    /// Posts any work request.
    ///
    /// # Errors
    /// When the adapter refuses.
    pub fn post(&mut self, conn: Conn, op: SendOp, len: usize) -> anyhow::Result<()> {
        let wr = SendWr {
            wr_id: 0,
            op,
            sges: [self.sge(DATA, len)].into_iter().collect(),
            signaled: true,
            solicited: false,
        };
        Ok(self.nic.post_send(conn.qp, &[wr])?)
    }

    /// A command identifier that was not used lately.
    pub fn cid(&mut self) -> u16 {
        self.next_cid = self.next_cid.wrapping_add(1);
        self.next_cid
    }

    /// Sends a command under an identifier of its own, and gives that.
    ///
    /// # Errors
    /// When the adapter refuses.
    pub fn command(&mut self, conn: Conn, mut sqe: Sqe) -> anyhow::Result<u16> {
        let cid = self.cid();
        sqe.cdw0.set_cid(cid);
        self.send(conn, sqe.as_bytes())?;
        Ok(cid)
    }

    /// Takes the response to a command.
    ///
    /// # Errors
    /// When none comes.
    pub fn response(&mut self, conn: Conn, cid: u16) -> anyhow::Result<Cqe> {
        self.until("a response", |host| {
            let of = |(qp, cqe): &(QpNumber, Cqe)| *qp == conn.qp && cqe.cid.get() == cid;
            let at = host.responses.iter().position(of)?;
            Some(host.responses.swap_remove(at).1)
        })
    }

    /// Sends a command and takes its response.
    ///
    /// # Errors
    /// When none comes.
    pub fn transact(&mut self, conn: Conn, sqe: Sqe) -> anyhow::Result<Cqe> {
        let cid = self.command(conn, sqe)?;
        self.response(conn, cid)
    }

    /// Sends a command with this data in its capsule, and checks the status of its
    /// response.
    ///
    /// # Errors
    /// When none comes, or it has another status.
    pub fn check(
        &mut self,
        conn: Conn,
        mut sqe: Sqe,
        data: &[u8],
        status: Status,
    ) -> anyhow::Result<()> {
        sqe.cdw0.set_cid(self.cid());
        let capsule = [sqe.as_bytes(), data].concat();
        self.send(conn, &capsule)?;
        let cqe = self.response(conn, sqe.cid())?;
        ensure!(
            cqe.status().same_code(status),
            "{} and not {status}",
            cqe.status()
        );
        Ok(())
    }

    /// Whether the target has ended a connection.
    pub fn has_ended(&self, conn: Conn) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, CmEvent::Disconnected { id } if *id == conn.id))
    }

    /// Waits until the target has ended a connection.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_end(&mut self, conn: Conn) -> anyhow::Result<()> {
        self.until("the end of a connection", |host| {
            host.has_ended(conn).then_some(())
        })
    }

    /// Ends a connection, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn disconnect(&mut self, conn: Conn) -> anyhow::Result<()> {
        // Ended by the target already is as good.
        let _ = self.cm.disconnect(conn.id, Instant::now());
        self.await_end(conn)
    }

    /// Begins to end a connection.
    pub fn leave(&mut self, conn: Conn) {
        let _ = self.cm.disconnect(conn.id, Instant::now());
    }

    /// A keyed descriptor of this host's data area.
    pub fn keyed(&self, at: usize, len: usize) -> SglDescriptor {
        SglDescriptor::keyed(self.data_address(at), len as u32, self.rkey(), false)
            .unwrap_or_default()
    }

    /// NVMe's Connect as `hostnqn`, its data at the start of the data area.
    ///
    /// # Errors
    /// When the data does not fit.
    pub fn connect_command(&self, of: &QueueOf<'_>) -> anyhow::Result<Sqe> {
        let mut data = ConnectData::default();
        data.cntlid.set(of.cntlid);
        data.hostid = HostId(*b"a raw test host!");
        data.subnqn = NqnField::from(&of.subsystem.parse()?);
        data.hostnqn = NqnField::from(&self.hostnqn.parse()?);
        self.data_write(0, data.as_bytes())?;
        let mut command = Connect::default();
        command.cdw0.set_opcode(AdminOpcode::Fabrics.0);
        command.fctype = FabricsType::Connect;
        command.qid.set(of.qid);
        command.sqsize_z.set(of.entries - 1);
        command.kato_ms.set(of.kato_ms);
        Ok(with_sgl(command.into(), self.keyed(0, 1024)))
    }

    /// Connects a queue altogether; gives the controller too.
    ///
    /// # Errors
    /// When the target does not take it.
    pub fn queue(&mut self, of: &QueueOf<'_>) -> anyhow::Result<(Conn, u16)> {
        let conn = self.queue_pair(of.qid, of.cntlid, of.entries)?;
        let connect = self.connect_command(of)?;
        let cqe = self.transact(conn, connect)?;
        ensure!(cqe.status().is_success(), "Connect: {}", cqe.status());
        Ok((conn, ConnectResult::from_bits(cqe.dw0).cntlid()))
    }

    /// Enables the controller of an admin queue, or resets it.
    ///
    /// # Errors
    /// When it refuses.
    pub fn enable(&mut self, admin: Conn, on: bool) -> anyhow::Result<()> {
        self.configure(admin, Cc::new().with_en(on))
    }

    /// An association with one I/O queue of `entries`.
    ///
    /// # Errors
    /// When the target does not take it.
    pub fn associate(
        &mut self,
        subsystem: &str,
        entries: u16,
        kato_ms: u32,
    ) -> anyhow::Result<Association> {
        let mut of = QueueOf {
            subsystem,
            qid: 0,
            cntlid: CNTLID_DYNAMIC,
            entries: 32,
            kato_ms,
        };
        let (admin, cntlid) = self.queue(&of)?;
        self.enable(admin, true)?;
        (of.qid, of.cntlid, of.entries) = (1, cntlid, entries);
        let (io, _) = self.queue(&of)?;
        Ok(Association { admin, io, cntlid })
    }
}
