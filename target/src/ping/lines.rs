//! The connections of the side that asks: how they come up, end, and tell what has
//! happened on them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_transport::cm::{CmEvent, ConnId, ConnParams};
use sidelane_transport::nic::{Completion, QpAttrs, QpCaps, QpNumber, SendWr, WcOp, WcStatus};

use super::end::End;
use super::wire::Welcome;
use super::{Loss, PingError};

/// How long to wait for peers to agree that a connection has ended.
const END_WITHIN: Duration = Duration::from_secs(1);

/// One connection, or the place for one.
#[derive(Debug, Default)]
struct Line {
    held: Option<Held>,
    is_up: bool,
    welcome: Option<Welcome>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    qp: QpNumber,
    conn: ConnId,
}

/// What has happened to a line, by its number.
#[derive(Debug)]
pub(super) enum News {
    /// It is connected.
    Up(usize),
    /// It is not, or not any more.
    Down(usize, Loss),
    /// A message of the length of a nod has come.
    Nod(usize),
    /// Work that was to be told of is done.
    Done(usize),
}

/// See the module.
pub(super) struct Lines {
    pub end: End,
    pub remote: SocketAddr,
    lines: Vec<Line>,
    caps: QpCaps,
    hello: Bytes,
    /// Connections that the peer has not yet agreed to end.
    ending: Vec<ConnId>,
}

impl Lines {
    /// `count` lines, none connected yet; `hello` is what the peer is told when it
    /// is asked for one.
    pub fn new(end: End, remote: SocketAddr, count: usize, caps: QpCaps, hello: Bytes) -> Self {
        Self {
            end,
            remote,
            lines: (0..count).map(|_| Line::default()).collect(),
            caps,
            hello,
            ending: Vec::new(),
        }
    }

    pub fn count(&self) -> usize {
        self.lines.len()
    }

    pub fn is_up(&self, line: usize) -> bool {
        self.lines.get(line).is_some_and(|line| line.is_up)
    }

    /// What the peer said of itself, if it is a Sidelane that was asked.
    pub fn welcome(&self, line: usize) -> Option<Welcome> {
        self.lines.get(line).and_then(|line| line.welcome)
    }

    /// Asks for a connection; [`News::Up`] or [`News::Down`] follows.
    pub fn open(&mut self, line: usize, now: Instant) -> Result<(), PingError> {
        let nic = &mut self.end.nic;
        let qp = nic
            .create_qp(self.caps)
            .map_err(PingError::nic("make a queue pair"))?;
        let params = ConnParams {
            qp,
            private_data: self.hello.clone(),
        };
        match self.end.cm.connect(self.remote, params, now) {
            Ok(conn) => {
                if let Some(line) = self.lines.get_mut(line) {
                    line.held = Some(Held { qp, conn });
                }
                Ok(())
            }
            Err(source) => {
                self.end.nic.destroy_qp(qp);
                Err(PingError::cm("ask for a connection")(source))
            }
        }
    }

    /// Ends a line, whatever state it is in.
    pub fn close(&mut self, line: usize, now: Instant) {
        if let Some(conn) = self.drop_line(line)
            && self.end.cm.disconnect(conn, now).is_ok()
        {
            self.ending.push(conn);
        }
    }

    /// Takes a line's queue pair away; its connection is left to be ended.
    fn drop_line(&mut self, line: usize) -> Option<ConnId> {
        let line = self.lines.get_mut(line)?;
        let held = std::mem::take(line).held?;
        self.end.nic.destroy_qp(held.qp);
        Some(held.conn)
    }

    pub fn post(&mut self, line: usize, wrs: &[SendWr]) -> Result<(), PingError> {
        let Some(held) = self.lines.get(line).and_then(|line| line.held) else {
            return Ok(());
        };
        self.end
            .nic
            .post_send(held.qp, wrs)
            .map_err(PingError::nic("send"))
    }

    /// Moves everything on that can be moved on now, and tells what happened. A
    /// line that is told of as down has been closed.
    pub fn turn(
        &mut self,
        now: Instant,
        mut tell: impl FnMut(&mut Self, News) -> Result<(), PingError>,
    ) -> Result<(), PingError> {
        while let Some(event) = self.end.cm_event(now) {
            if let Some(news) = self.on_event(event, now)? {
                tell(self, news)?;
            }
        }
        for completion in self.end.poll(now) {
            if let Some(news) = self.on_completion(&completion, now)? {
                tell(self, news)?;
            }
        }
        self.end.repost()?;
        while let Some(qp) = self.end.failed() {
            if let Some(line) = self.find(|held| held.qp == qp) {
                self.close(line, now);
                tell(self, News::Down(line, Loss::Failed))?;
            }
        }
        Ok(())
    }

    fn find(&self, is_it: impl Fn(&Held) -> bool) -> Option<usize> {
        let held = |line: &Line| line.held.as_ref().is_some_and(&is_it);
        self.lines.iter().position(held)
    }

    fn on_event(&mut self, event: CmEvent, now: Instant) -> Result<Option<News>, PingError> {
        let (id, loss) = match event {
            CmEvent::Accepted {
                id,
                attrs,
                private_data,
            } => return self.on_accepted(id, &attrs, &private_data, now),
            CmEvent::ConnectRequest { id, .. } => {
                // Nobody listens here; if it is gone already, all the better.
                let _ = self.end.cm.reject(id, Bytes::new(), now);
                return Ok(None);
            }
            CmEvent::Established { .. } => return Ok(None),
            CmEvent::Failed { id, error } => {
                let port = self.remote.port();
                (id, Loss::NotConnected { port, error })
            }
            CmEvent::Disconnected { id } => (id, Loss::Disconnected),
        };
        self.ending.retain(|ending| *ending != id);
        let Some(line) = self.find(|held| held.conn == id) else {
            return Ok(None);
        };
        self.drop_line(line);
        Ok(Some(News::Down(line, loss)))
    }

    fn on_accepted(
        &mut self,
        id: ConnId,
        attrs: &QpAttrs,
        private_data: &[u8],
        now: Instant,
    ) -> Result<Option<News>, PingError> {
        let Some(at) = self.find(|held| held.conn == id) else {
            return Ok(None);
        };
        let Some(line) = self.lines.get_mut(at) else {
            return Ok(None);
        };
        let Some(held) = line.held.filter(|_| !line.is_up) else {
            return Ok(None);
        };
        line.is_up = true;
        line.welcome = Welcome::parse(private_data);
        self.end
            .nic
            .connect_qp(held.qp, attrs, now)
            .map_err(PingError::nic("connect a queue pair"))?;
        if self.end.cm.establish(id, now).is_err() {
            self.drop_line(at);
            return Ok(Some(News::Down(at, Loss::Disconnected)));
        }
        Ok(Some(News::Up(at)))
    }

    fn on_completion(
        &mut self,
        completion: &Completion,
        now: Instant,
    ) -> Result<Option<News>, PingError> {
        let received = matches!(completion.op, WcOp::Recv | WcOp::RecvWrite);
        let message = match received {
            true => self.end.message(completion)?,
            false => None,
        };
        let Some(line) = self.find(|held| held.qp == completion.qp) else {
            return Ok(None);
        };
        let loss = match completion.status {
            WcStatus::Success if !received => return Ok(Some(News::Done(line))),
            WcStatus::Success if message.is_some() => return Ok(Some(News::Nod(line))),
            WcStatus::Success => Loss::Garbage {
                len: completion.len,
            },
            status => Loss::Work {
                op: completion.op,
                status,
            },
        };
        self.close(line, now);
        Ok(Some(News::Down(line, loss)))
    }

    /// Ends what is still connected, and waits a moment for the peer to agree: it
    /// would else hold the connections until it notices by itself.
    pub fn finish(&mut self) -> Result<(), PingError> {
        let now = Instant::now();
        for line in 0..self.lines.len() {
            self.close(line, now);
        }
        let until = now + END_WITHIN;
        while !self.ending.is_empty() && Instant::now() < until {
            self.turn(Instant::now(), |_, _| Ok(()))?;
            if !self.ending.is_empty() {
                self.end.wait(until, None)?;
            }
        }
        Ok(())
    }
}
