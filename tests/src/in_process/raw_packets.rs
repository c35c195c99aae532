//! A peer made of packets: it sets a connection up by the rules, and then says
//! whatever a test wants it to, byte by byte.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use sidelane::stats::FullReport;
use sidelane_transport::cm::{CmEvent, ConnId, ConnParams};
use sidelane_transport::nic::QpNumber;
use sidelane_transport::nvmf::ConnectRequest;
use sidelane_transport::soft::cm::mad::Mad;
use sidelane_transport::soft::cm::packet::{self, GENERAL_SERVICE_QP, PACKET_LEN};
use sidelane_transport::soft::cm::{CmConfig, CmCore};
use sidelane_transport::soft::icrc;
use sidelane_transport::soft::psn::Psn;
use sidelane_transport::soft::wire::{
    AethKind, Bth, Headers, ICRC_LEN, Opcode, ROCE_V2_PORT, pad_for,
};

use super::bench::{Bench, PATIENCE, random_address};

/// Addresses tried before the machine is taken to be full.
const TRIES: usize = 16;

/// A connection of a [`RawPeer`].
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The target's queue pair.
    pub qp: u32,
    /// The sequence number that the target expects next.
    pub psn: Psn,
    /// The own queue pair, which is a number and nothing else.
    pub own_qp: u32,
    id: ConnId,
}

impl Link {
    /// The headers of a packet for the target's queue pair, with the number that
    /// is due.
    pub fn headers(&self, opcode: Opcode) -> Headers {
        let mut bth = Bth::new(opcode, self.qp, self.psn);
        bth.ack_request = true;
        Headers::new(bth)
    }
}

/// See the module.
pub struct RawPeer {
    socket: UdpSocket,
    /// Its address.
    pub at: IpAddr,
    /// The target's.
    pub target: SocketAddr,
    core: CmCore,
    links: u32,
    ended: Vec<ConnId>,
    /// What the target has answered, by the own queue pair.
    pub answers: Vec<(u32, AethKind)>,
}

impl RawPeer {
    /// A peer of the target at `target`, at an address of its own.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(target: SocketAddr) -> anyhow::Result<Self> {
        for _ in 0..TRIES {
            let at = random_address();
            if let Ok(socket) = UdpSocket::bind(SocketAddr::new(at, ROCE_V2_PORT)) {
                return Self::over(socket, at, target);
            }
        }
        bail!("{TRIES} addresses were all in use")
    }

    /// One at an address that belongs to somebody else: its packets come from
    /// another port of it, and what is answered goes to the other.
    ///
    /// # Errors
    /// When the address is none of this machine.
    pub fn beside(at: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        Self::over(UdpSocket::bind(SocketAddr::new(at, 0))?, at, target)
    }

    fn over(socket: UdpSocket, at: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        sidelane_transport::soft::socket::never_fragment(&socket, at)?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let config = CmConfig {
            path_mtu: 4096,
            max_rd_atomic: 16,
            max_connections: 1024,
            max_of_peer: 1024,
            max_half_open: 16,
            max_half_open_of_peer: 16,
            secret: [0x7261_7720, 0x7065_6572],
        };
        Ok(Self {
            socket,
            at,
            target,
            core: CmCore::new(at, config),
            links: 0,
            ended: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Sends any bytes to the target's RoCEv2 port.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn throw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let to = SocketAddr::new(self.target.ip(), ROCE_V2_PORT);
        self.socket.send_to(bytes, to)?;
        Ok(())
    }

    /// A packet with its padding and its CRC.
    ///
    /// # Errors
    /// When the headers cannot be written.
    pub fn packet(&self, mut headers: Headers, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        headers.bth.pad = pad_for(payload.len()) as u8;
        let mut bytes = vec![0; headers.size()];
        headers.write(&mut bytes).context("no room")?;
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len() + pad_for(payload.len()), 0);
        self.sealed(bytes)
    }

    /// The bytes with a good CRC at the end, whatever they are.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn sealed(&self, mut bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let port = self.socket.local_addr()?.port();
        let crc = icrc::compute(self.at, self.target.ip(), port, ROCE_V2_PORT, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// A packet that takes a datagram to connection management.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn management(&self, mad: &Mad) -> anyhow::Result<[u8; PACKET_LEN]> {
        let mut bytes = [0; PACKET_LEN];
        packet::write(&mut bytes, self.at, self.target.ip(), Psn::new(0), mad)
            .context("no room")?;
        Ok(bytes)
    }

    /// Connects an admin queue's queue pair by the rules, without NVMe's Connect.
    ///
    /// # Errors
    /// When the target does not take it.
    pub fn connect(&mut self) -> anyhow::Result<Link> {
        self.links += 1;
        let own_qp = 0x1000 + self.links;
        let request = ConnectRequest::new(0, 0, 32, 32).context("a queue of nothing")?;
        let params = ConnParams {
            qp: QpNumber(own_qp),
            private_data: Bytes::copy_from_slice(request.as_bytes()),
        };
        let id = self.core.connect(self.target, &params, Instant::now())?;
        let start = Instant::now();
        loop {
            self.poll()?;
            while let Some(event) = self.core.take_event() {
                match event {
                    CmEvent::Accepted {
                        id: accepted,
                        attrs,
                        ..
                    } if accepted == id => {
                        self.core.establish(id)?;
                        self.poll()?;
                        return Ok(Link {
                            qp: attrs.remote_qpn,
                            psn: Psn::new(attrs.sq_psn),
                            own_qp,
                            id,
                        });
                    }
                    CmEvent::Failed { error, .. } => return Err(error.into()),
                    CmEvent::Disconnected { id } => self.ended.push(id),
                    _ => {}
                }
            }
            ensure!(start.elapsed() < PATIENCE, "no answer to a request");
        }
    }

    /// Moves everything on once; waits a millisecond for packets at most.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn poll(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 8192];
        let local = self.at;
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let bytes = &buffer[..len];
            let headers = len.checked_sub(ICRC_LEN).map(|end| &bytes[..end]);
            let Some(Ok((headers, _))) = headers.map(Headers::read) else {
                continue;
            };
            if headers.bth.dest_qp == GENERAL_SERVICE_QP {
                let mad = packet::read(local, from, bytes).context("a bad answer")?;
                self.core.handle(from.ip(), mad, Instant::now());
            } else if let Some(aeth) = headers.aeth {
                self.answers.push((headers.bth.dest_qp, aeth.kind));
            }
        }
        self.core.tick(Instant::now());
        while let Some(outgoing) = self.core.take_outgoing() {
            let packet = self.management(&outgoing.mad)?;
            self.throw(&packet)?;
        }
        Ok(())
    }

    /// Whether the target has ended a connection.
    pub fn has_ended(&mut self, link: &Link) -> bool {
        while let Some(event) = self.core.take_event() {
            if let CmEvent::Disconnected { id } | CmEvent::Failed { id, .. } = event {
                self.ended.push(id);
            }
        }
        self.ended.contains(&link.id)
    }

    /// Moves everything on until what is wanted has come about.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn until(
        &mut self,
        what: &str,
        mut ready: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !ready(self) {
            self.poll()?;
            ensure!(
                start.elapsed() < PATIENCE,
                "{what} did not come; answers {:?}",
                self.answers
            );
        }
        Ok(())
    }

    /// Ends a connection by the rules, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn disconnect(&mut self, link: &Link) -> anyhow::Result<()> {
        // Ended by the target already is as good.
        let _ = self.core.disconnect(link.id, Instant::now());
        let link = *link;
        self.until("the end of a connection", |peer| peer.has_ended(&link))
    }
}

/// What the target's adapter and connection management have counted, by name.
#[derive(Debug)]
pub struct Counted(FullReport);

impl Counted {
    /// Asks a target by its control socket, again if a reactor is too busy to
    /// answer.
    ///
    /// # Errors
    /// When it does not answer, or not with all there is.
    pub fn by(bench: &Bench) -> anyhow::Result<Self> {
        let start = Instant::now();
        loop {
            let counted = Self::ask(bench)?;
            let silent = &counted.0.network.silent;
            if silent.is_empty() {
                return Ok(counted);
            }
            ensure!(start.elapsed() < PATIENCE, "{silent:?} did not answer");
        }
    }

    fn ask(bench: &Bench) -> anyhow::Result<Self> {
        use std::io::{Read, Write};
        let mut socket = UnixStream::connect(bench.control())?;
        let request = "GET /v1/stats HTTP/1.1\r\nHost: sidelane\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(Self(serde_json::from_str(body)?))
    }

    /// A count of the adapter, or of connection management (`cm.`).
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn of(&self, name: &str) -> anyhow::Result<u64> {
        let network = &self.0.network;
        let adapters = network.adapters.iter().map(|adapter| &adapter.counts);
        let managers = network.connection_managers.iter().map(|m| &m.counts);
        let mut found = adapters
            .chain(managers)
            .filter_map(|counts| counts.get(name));
        found
            .next()
            .copied()
            .with_context(|| format!("{name} is not counted"))
    }

    /// The hosts that have a queue pair: address and the target's number.
    pub fn peers(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let queue_pairs = self.0.network.queue_pairs.iter();
        queue_pairs.filter_map(|qp| Some((qp.remote.parse().ok()?, qp.qp)))
    }
}
