//! Requests and connections: what the library tells of them.

use std::net::SocketAddr;
use std::time::Instant;

use super::{CLOSING_TIME, RdmaCm, attrs};
use crate::cm::{CmEvent, ConnError, ConnId};
use crate::nvmf::{ConnectReject, RejectStatus};
use crate::soft::cm::reason;
use crate::verbs::cm::calls::{CallEvent, CallKind, CmId};

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The consumer was asked.
    Requested,
    /// It accepted; the peer has not confirmed.
    Accepted,
    /// Up on both sides.
    Up,
    /// We asked for its end; the peer has not confirmed.
    Closing,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) remote: SocketAddr,
    /// READs that our queue pair answers, and that it may have outstanding.
    pub(super) responder_resources: u8,
    pub(super) initiator_depth: u8,
}

impl Connection {
    pub(super) fn is_half_open(&self) -> bool {
        matches!(self.state, State::Requested | State::Accepted)
    }
}

/// Why a request is refused here, before a consumer sees it.
enum Refusal {
    Full,
    Device(String),
    Attributes(String),
}

impl RdmaCm {
    /// Takes an event of the library.
    pub(super) fn handle(&mut self, event: CallEvent, now: Instant) {
        let id = ConnId(event.id.0);
        if self.listeners.owns(event.id) {
            match event.kind {
                CallKind::DeviceRemoval => {
                    self.listeners.removed(self.calls.as_mut(), event.id, now);
                }
                CallKind::AddrChange => {
                    self.listeners.moved(self.calls.as_mut(), event.id, now);
                }
                _ => self.ignore(&event),
            }
        } else if event.kind == CallKind::ConnectRequest {
            self.request(&event, now);
        } else if self.connections.contains_key(&id) {
            self.connection_event(id, event, now);
        } else {
            self.ignore(&event);
        }
    }

    fn ignore(&mut self, event: &CallEvent) {
        self.counters.ignored_events += 1;
        tracing::debug!(
            ?event,
            "an event of connection management means nothing here"
        );
    }

    fn request(&mut self, event: &CallEvent, now: Instant) {
        self.counters.requests += 1;
        match self.judge(event) {
            Ok((told, connection)) => {
                self.connections.insert(ConnId(event.id.0), connection);
                self.half_open += 1;
                self.out.push_back(told);
            }
            Err(refusal) => self.refuse(event.id, refusal, now),
        }
    }

    /// What to tell of a request, if it can be served.
    fn judge(&mut self, event: &CallEvent) -> Result<(CmEvent, Connection), Refusal> {
        if self.connections.len() >= self.bounds.connections
            || self.half_open >= self.bounds.half_open
        {
            return Err(Refusal::Full);
        }
        let unknown = |error: std::io::Error| Refusal::Attributes(error.to_string());
        let endpoint = self.calls.endpoint(event.id).map_err(unknown)?;
        let device = endpoint.device.unwrap_or_default();
        let adapter = self.adapters.iter().position(|name| *name == device);
        let adapter = adapter.ok_or(Refusal::Device(device))?;
        let (Some(local), Some(remote)) = (endpoint.local, endpoint.remote) else {
            return Err(Refusal::Attributes("its addresses are unknown".to_owned()));
        };
        let call = self.calls.qp_attrs(event.id).map_err(unknown)?;
        let attrs = attrs::agree(&call, event, local.ip(), remote.ip())
            .ok_or_else(|| Refusal::Attributes(format!("path MTU code {}", call.path_mtu)))?;
        let told = CmEvent::ConnectRequest {
            id: ConnId(event.id.0),
            adapter,
            local,
            remote,
            attrs,
            private_data: event.private_data.clone(),
        };
        let connection = Connection {
            state: State::Requested,
            remote,
            responder_resources: attrs.max_dest_rd_atomic,
            initiator_depth: attrs.max_rd_atomic,
        };
        Ok((told, connection))
    }

    fn refuse(&mut self, id: CmId, refusal: Refusal, now: Instant) {
        let (counter, why) = match refusal {
            Refusal::Full => (
                &mut self.counters.refused_full,
                format!(
                    "{} connections, {} of them half open, are all in use",
                    self.connections.len(),
                    self.half_open
                ),
            ),
            Refusal::Device(name) => (
                &mut self.counters.refused_device,
                format!(
                    "RDMA device {name} was not there, or had no active port, when the target \
                     started; restart it to use the device"
                ),
            ),
            Refusal::Attributes(why) => (
                &mut self.counters.refused_attributes,
                format!("the system gave no attributes for its queue pair: {why}"),
            ),
        };
        *counter += 1;
        if let Some(unsaid) = self.refusals.may_say(now) {
            let remote = self.calls.endpoint(id).ok().and_then(|end| end.remote);
            tracing::warn!(?remote, %why, unsaid, "a request for a connection is refused");
        }
        let answer = ConnectReject::new(RejectStatus::NoResources);
        // Nobody is left to tell when this fails.
        let _ = self.calls.reject(id, answer.as_bytes());
        self.calls.destroy(id);
    }

    fn connection_event(&mut self, id: ConnId, event: CallEvent, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let half_open = connection.is_half_open();
        let remote = connection.remote;
        match event.kind {
            CallKind::Established if connection.state == State::Accepted => {
                connection.state = State::Up;
                self.half_open -= 1;
                self.out.push_back(CmEvent::Established { id });
            }
            CallKind::Disconnected => {
                // Answers the peer's question, if it was one.
                let _ = self.calls.disconnect(event.id);
                self.finish(id);
            }
            CallKind::TimewaitExit => self.finish(id),
            CallKind::DeviceRemoval => {
                self.counters.device_removed += 1;
                tracing::info!(%remote, "a connection ends: its RDMA device was removed");
                self.finish(id);
            }
            CallKind::AddrChange => {
                self.counters.address_changed += 1;
                tracing::info!(%remote, "a connection ends: its address moved to another port");
                self.close(id, now);
            }
            CallKind::Rejected | CallKind::ConnectError | CallKind::Unreachable if half_open => {
                let error = failure(event, remote);
                self.end(id);
                self.out.push_back(CmEvent::Failed { id, error });
            }
            CallKind::Rejected | CallKind::ConnectError | CallKind::Unreachable => self.finish(id),
            CallKind::Established | CallKind::ConnectRequest | CallKind::Other(_) => {
                self.ignore(&event);
            }
        }
    }

    /// Begins the end of a connection; its peer is told.
    pub(super) fn close(&mut self, id: ConnId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match connection.state {
            State::Closing => {}
            // The library ends no half-open connection; that it is destroyed
            // tells the peer.
            State::Requested | State::Accepted => self.finish(id),
            State::Up => match self.calls.disconnect(CmId(id.0)) {
                Ok(()) => {
                    connection.state = State::Closing;
                    self.closing.push_back((now + CLOSING_TIME, id));
                }
                Err(error) => {
                    tracing::debug!(%error, ?id, "the peer cannot be told of the end");
                    self.finish(id);
                }
            },
        }
    }

    /// Ends the connections whose peers have had their time to confirm it.
    pub(super) fn give_up_closing(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.closing.front() {
            let is_gone = !self.connections.contains_key(&id);
            if !is_gone && until > now {
                return;
            }
            self.closing.pop_front();
            if !is_gone {
                self.counters.unconfirmed += 1;
                self.finish(id);
            }
        }
    }

    /// Ends a connection and tells so.
    fn finish(&mut self, id: ConnId) {
        self.end(id);
        self.out.push_back(CmEvent::Disconnected { id });
    }

    /// Forgets a connection. What the peer still needs to hear, it hears.
    pub(super) fn end(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.remove(&id) {
            if connection.is_half_open() {
                self.half_open -= 1;
            }
            self.calls.destroy(CmId(id.0));
        }
    }
}

/// Why a connection did not come about.
fn failure(event: CallEvent, remote: SocketAddr) -> ConnError {
    match event.kind {
        CallKind::Rejected => {
            let code = u16::try_from(event.status).unwrap_or_default();
            ConnError::Rejected {
                reason: code,
                text: reason::text(code).to_owned(),
                private_data: event.private_data,
            }
        }
        CallKind::ConnectError => {
            let error = std::io::Error::from_raw_os_error(event.status.saturating_neg());
            ConnError::Broken(error.to_string())
        }
        _ => ConnError::Timeout(remote),
    }
}
