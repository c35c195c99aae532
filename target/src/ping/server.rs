//! The side that answers: rounds as rping's server does, and memory to measure
//! bandwidth against for a Sidelane that asks for it.
//!
//! A client of rounds is given no right to anything here: it is the server that
//! reads and writes. A client of bandwidth is told the key of a buffer of its own. A
//! key is good for whoever knows it, so such a buffer holds nothing but what such
//! clients wrote, and nothing is read from it. Whatever else a client does ends its
//! own connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_transport::cm::{CmEvent, ConnId, ConnParams, Connector};
use sidelane_transport::nic::{
    Access, ActiveNic, Completion, QpAttrs, QpCaps, QpNumber, SendOp, WcOp, WcStatus,
};
use zerocopy::IntoBytes;

use super::answer::{Action, Answer};
use super::end::{End, Inbox, LOCAL, Memory, work};
use super::wire::{Hello, MAX_SIZE, MESSAGE_LEN, Welcome};
use super::{Event, PingError, Stop};

/// Connections at a time.
pub const MAX_CLIENTS: usize = 64;

/// The most memory that a client of bandwidth is given, in bytes.
pub(super) const MAX_LENT: u32 = 1 << 20;

/// Messages of a client of bandwidth: their bytes, and how many may be on their
/// way. For all clients together there are as many buffers.
const SEND_SIZE: u32 = 4096;
const SEND_DEPTH: u32 = 32;

/// Work requests of a round: a READ or a WRITE, and a nod for each, and as many of
/// the round before that were not acknowledged yet.
const CAPS: QpCaps = QpCaps { max_send_wr: 8 };

/// How a server serves.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Own address, and port.
    pub at: SocketAddr,
    /// Connections at a time, up to [`MAX_CLIENTS`].
    pub clients: usize,
    /// A client that has sent nothing for so long has vanished.
    pub idle: Duration,
}

impl ServeOptions {
    /// Serves [`MAX_CLIENTS`], each of which may be silent for a minute.
    pub fn new(at: SocketAddr) -> Self {
        Self {
            at,
            clients: MAX_CLIENTS,
            idle: Duration::from_secs(60),
        }
    }
}

enum Kind {
    Rounds(Answer),
    Bandwidth,
}

struct Client {
    qp: QpNumber,
    conn: ConnId,
    remote: SocketAddr,
    memory: Memory,
    kind: Kind,
    heard: Instant,
}

struct Server<'a> {
    end: End,
    options: &'a ServeOptions,
    clients: Vec<Client>,
    nod: Memory,
    tell: &'a mut dyn FnMut(Event<'_>),
}

/// Answers until the end is wished for.
///
/// # Errors
/// When the adapter has no room for it, or breaks.
pub fn serve(
    nic: Box<dyn ActiveNic>,
    cm: Box<dyn Connector>,
    options: &ServeOptions,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), PingError> {
    let inbox = Inbox {
        buffers: options.clients.min(MAX_CLIENTS) * SEND_DEPTH as usize,
        len: SEND_SIZE,
    };
    let mut end = End::new(nic, cm, inbox)?;
    let nod = end.memory("nod", MESSAGE_LEN, LOCAL)?;
    end.cm.listen(options.at).map_err(PingError::cm("listen"))?;
    let mut server = Server {
        end,
        options,
        clients: Vec::with_capacity(options.clients),
        nod,
        tell,
    };
    while !stop.is_wished() {
        let now = Instant::now();
        server.turn(now)?;
        let patience = server.drop_silent(now);
        server.end.wait(patience, Some(stop))?;
    }
    server.say_goodbye();
    Ok(())
}

impl Server<'_> {
    fn turn(&mut self, now: Instant) -> Result<(), PingError> {
        while let Some(event) = self.end.cm_event(now) {
            self.on_event(event, now);
        }
        for completion in self.end.poll(now) {
            self.on_completion(&completion, now)?;
        }
        self.end.repost()?;
        while let Some(qp) = self.end.failed() {
            if let Some(at) = self.find(|client| client.qp == qp) {
                self.drop_client(at, "the connection failed", now);
            }
        }
        Ok(())
    }

    fn find(&self, is_it: impl Fn(&Client) -> bool) -> Option<usize> {
        self.clients.iter().position(is_it)
    }

    fn on_event(&mut self, event: CmEvent, now: Instant) {
        match event {
            CmEvent::ConnectRequest {
                id,
                remote,
                attrs,
                private_data,
                ..
            } => {
                if let Err(why) = self.admit(id, remote, &attrs, &private_data, now) {
                    (self.tell)(Event::Note(&format!("{remote} refused: {why}")));
                    // It may have given up meanwhile.
                    let _ = self.end.cm.reject(id, why.into_bytes().into(), now);
                }
            }
            CmEvent::Failed { id, .. } | CmEvent::Disconnected { id } => {
                if let Some(at) = self.find(|client| client.conn == id) {
                    self.drop_client(at, "it disconnected", now);
                }
            }
            CmEvent::Accepted { .. } | CmEvent::Established { .. } => {}
        }
    }

    /// Takes a client in, or says why not, for its private data too: in at most 148
    /// bytes.
    fn admit(
        &mut self,
        conn: ConnId,
        remote: SocketAddr,
        attrs: &QpAttrs,
        private_data: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        if self.clients.len() >= self.options.clients {
            return Err(format!("all {} connections are in use", self.clients.len()));
        }
        let hello = Hello::parse(private_data);
        if hello.is_none() && attrs.max_rd_atomic == 0 {
            return Err("a client of rounds must let itself be read".to_owned());
        }
        let short = |error: PingError| error.to_string().chars().take(100).collect::<String>();
        let (len, access) = match hello {
            Some(hello) => (
                hello.size.get().clamp(1, MAX_LENT),
                Access {
                    local_write: true,
                    remote_read: true,
                    remote_write: true,
                },
            ),
            None => (MAX_SIZE, LOCAL),
        };
        let memory = self
            .end
            .memory("client", len as usize, access)
            .map_err(short)?;
        let (kind, answer) = match hello {
            Some(_) => {
                let welcome = Welcome::new(memory.advert(len), SEND_SIZE, SEND_DEPTH);
                (Kind::Bandwidth, Bytes::copy_from_slice(welcome.as_bytes()))
            }
            None => (Kind::Rounds(Answer::default()), Bytes::new()),
        };
        match self.connect(conn, attrs, answer, now) {
            Ok(qp) => {
                self.clients.push(Client {
                    qp,
                    conn,
                    remote,
                    memory,
                    kind,
                    heard: now,
                });
                (self.tell)(Event::Note(&format!("{remote} connected")));
                Ok(())
            }
            Err(error) => {
                self.end.release(&memory);
                Err(short(error))
            }
        }
    }

    fn connect(
        &mut self,
        conn: ConnId,
        attrs: &QpAttrs,
        private_data: Bytes,
        now: Instant,
    ) -> Result<QpNumber, PingError> {
        let nic = &mut self.end.nic;
        let qp = nic
            .create_qp(CAPS)
            .map_err(PingError::nic("make a queue pair"))?;
        let up = nic
            .connect_qp(qp, attrs, now)
            .map_err(PingError::nic("connect a queue pair"));
        let accepted = up.and_then(|()| {
            let params = ConnParams { qp, private_data };
            let accepted = self.end.cm.accept(conn, params, now);
            accepted.map_err(PingError::cm("accept"))
        });
        match accepted {
            Ok(()) => Ok(qp),
            Err(error) => {
                self.end.nic.destroy_qp(qp);
                Err(error)
            }
        }
    }

    fn on_completion(&mut self, completion: &Completion, now: Instant) -> Result<(), PingError> {
        let received = matches!(completion.op, WcOp::Recv | WcOp::RecvWrite);
        let message = match received {
            true => self.end.message(completion)?,
            false => None,
        };
        let Some(at) = self.find(|client| client.qp == completion.qp) else {
            return Ok(());
        };
        let Some(client) = self.clients.get_mut(at) else {
            return Ok(());
        };
        if completion.status != WcStatus::Success {
            let why = format!("{:?} failed: {:?}", completion.op, completion.status);
            self.drop_client(at, &why, now);
            return Ok(());
        }
        if received {
            client.heard = now;
        }
        let action = match (&mut client.kind, completion.op, message) {
            (Kind::Bandwidth, ..) => return Ok(()),
            (Kind::Rounds(answer), WcOp::Recv, Some(advert)) => answer.on_message(&advert),
            (Kind::Rounds(answer), WcOp::Read, _) => answer.has_read(),
            (Kind::Rounds(_), WcOp::Recv | WcOp::RecvWrite, _) => {
                let why = format!("it sent {} bytes, which is no message", completion.len);
                self.drop_client(at, &why, now);
                return Ok(());
            }
            (Kind::Rounds(_), ..) => return Ok(()),
        };
        let done = action.map_err(|breach| breach.to_string());
        let done = done.and_then(|action| self.carry_out(at, action));
        if let Err(why) = done {
            self.drop_client(at, &why, now);
        }
        Ok(())
    }

    fn carry_out(&mut self, at: usize, action: Action) -> Result<(), String> {
        let Some(client) = self.clients.get(at) else {
            return Ok(());
        };
        let nod = work(0, SendOp::Send, self.nod.sge(0, MESSAGE_LEN as u32), false);
        let data = |len| client.memory.sge(0, len);
        let nic = &mut self.end.nic;
        let posted = match action {
            Action::Read(from, len) => {
                nic.post_send(client.qp, &[work(0, SendOp::Read(from), data(len), true)])
            }
            Action::Nod => nic.post_send(client.qp, &[nod]),
            Action::WriteAndNod(to, len) => {
                let write = work(0, SendOp::Write(to), data(len), false);
                nic.post_send(client.qp, &[write, nod])
            }
        };
        posted.map_err(|error| error.to_string())
    }

    fn drop_client(&mut self, at: usize, why: &str, now: Instant) {
        let client = self.clients.swap_remove(at);
        self.end.nic.destroy_qp(client.qp);
        self.end.release(&client.memory);
        // It is gone already where the client itself has ended it.
        let _ = self.end.cm.disconnect(client.conn, now);
        let done = match client.kind {
            Kind::Rounds(answer) => format!("{} rounds", answer.rounds),
            Kind::Bandwidth => "bandwidth".to_owned(),
        };
        (self.tell)(Event::Note(&format!("{} {done}: {why}", client.remote)));
    }

    /// Ends those that have been silent for too long, and says when to look again.
    fn drop_silent(&mut self, now: Instant) -> Instant {
        let idle = self.options.idle;
        while let Some(at) = self.find(|client| now >= client.heard + idle) {
            self.drop_client(at, "it has been silent for too long", now);
        }
        let oldest = self.clients.iter().map(|client| client.heard).min();
        oldest.unwrap_or(now) + idle
    }

    /// What is said is on its way when this returns; who does not hear it notices
    /// by itself.
    fn say_goodbye(&mut self) {
        let now = Instant::now();
        while !self.clients.is_empty() {
            self.drop_client(0, "the server ends", now);
        }
        while self.end.cm_event(now).is_some() {}
    }
}
