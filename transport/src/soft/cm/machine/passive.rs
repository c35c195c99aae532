//! The side that is asked: REQ in, REP or REJ out, RTU in.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::connection::{Connection, State, coded_time};
use super::{
    CONSUMER_TIME, CONSUMER_TIMEOUT_CODE, CmCore, FULL_MEMBER, MAX_ACK_TIMEOUT, PKEY, RNR_TIMER,
    Refusal, TARGET_ACK_DELAY, address, check_private_data, copy, is_gid_of, mtu_bytes, mtu_code,
    reason,
};
use crate::cm::{CmError, CmEvent, ConnId, ConnParams};
use crate::nic::{AddressVector, QpAttrs};
use crate::soft::cm::mad::Mad;
use crate::soft::cm::messages::{
    Mra, Rep, RepRetries, RepTransport, Req, Rtu, Subject, U24, Upper5,
};

/// Retries after receiver-not-ready asked of peers: for ever, since a shared
/// receive queue may run dry for as long as the SSDs take.
const RNR_RETRY: u8 = 7;

/// Times a REP is repeated at most, whatever the peer allows: some 25 s. A forged
/// request must not buy its victim many packets.
const REP_TIMES: u8 = 7;

/// What is said of an alternate path, should the request name one (12.7.33).
const FAILOVER_NOT_SUPPORTED: u8 = 1;

/// Local ACK timeout where the peer names none: 1.07 s.
const USUAL_ACK_TIMEOUT: u8 = 18;

/// What a request asks for, checked.
struct Wish<'a> {
    port: u16,
    peer_port: u16,
    path_mtu: u32,
    private_data: &'a [u8],
}

/// Why a request cannot be taken: the reason, and what would be.
struct Unfit {
    reason: u16,
    info: [u8; 16],
    info_len: usize,
}

impl From<u16> for Unfit {
    fn from(reason: u16) -> Self {
        Self {
            reason,
            info: [0; 16],
            info_len: 0,
        }
    }
}

impl CmCore {
    pub(super) fn on_req(&mut self, from: IpAddr, transaction: u64, req: &Req, now: Instant) {
        let remote_comm = req.local_comm_id.get();
        if let Some(&id) = self.by_remote.get(&(from, remote_comm)) {
            self.on_known_req(id, from, transaction, req, now);
            return;
        }
        if let Some(&id) = self.by_qpn.get(&(from, req.qpn.get())) {
            self.on_stale(id, now);
            self.refuse_req(from, transaction, req, &reason::STALE_CONNECTION.into());
            return;
        }
        let wish = match self.judge(from, req) {
            Ok(wish) => wish,
            Err(unfit) => return self.refuse_req(from, transaction, req, &unfit),
        };
        // It asks again, and by then there may be room.
        let load = self.load_of(from);
        if load.half_open >= self.config.max_half_open_of_peer {
            self.counters.drops.half_open_of_peer += 1;
            return;
        }
        if self.load.half_open >= self.config.max_half_open {
            self.counters.drops.half_open += 1;
            return;
        }
        if !self.has_room() || load.live >= self.config.max_of_peer {
            self.refuse_req(from, transaction, req, &reason::NO_RESOURCES.into());
            return;
        }
        let limit = self.config.max_rd_atomic;
        let attrs = QpAttrs {
            local: self.local,
            remote: from,
            remote_qpn: req.qpn.get(),
            sq_psn: req.starting_psn.get(),
            rq_psn: self.new_psn(),
            path_mtu: wish.path_mtu,
            max_rd_atomic: req.responder_resources.min(limit),
            max_dest_rd_atomic: req.initiator_depth.min(limit),
            timeout: match req.primary.ack_timeout.value() {
                0 => USUAL_ACK_TIMEOUT,
                timeout => timeout.min(MAX_ACK_TIMEOUT),
            },
            retry_count: req.timing.retry_count(),
            rnr_retry: req.path.rnr_retry(),
            min_rnr_timer: RNR_TIMER,
            vector: AddressVector::default(),
        };
        let remote = SocketAddr::new(from, wish.peer_port);
        let local_comm = self.new_comm_id();
        let id = self.insert(Connection {
            state: State::ReqReceived,
            peer: remote,
            transaction,
            local_comm,
            remote_comm: Some(remote_comm),
            local_qpn: 0,
            attrs,
            peer_retries: req.retries.max_cm_retries().min(REP_TIMES),
            peer_response: coded_time(req.timing.local_response_timeout()),
            active: false,
            mra_taken: false,
            resend: None,
            deadline: None,
        });
        self.arm(id, now + CONSUMER_TIME);
        self.event(CmEvent::ConnectRequest {
            id,
            adapter: 0,
            local: self.own(wish.port),
            remote,
            attrs,
            private_data: Bytes::copy_from_slice(wish.private_data),
        });
    }

    /// A request with a number that the peer has used before: the same again, or
    /// a peer that has forgotten the connection (12.9.8.3).
    fn on_known_req(
        &mut self,
        id: ConnId,
        from: IpAddr,
        transaction: u64,
        req: &Req,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let same = connection.transaction == transaction
            && connection.attrs.remote_qpn == req.qpn.get()
            && connection.attrs.sq_psn == req.starting_psn.get()
            && !connection.active;
        let (state, local_comm) = (connection.state, connection.local_comm);
        if !same || state == State::TimeWait {
            self.on_stale(id, now);
            self.refuse_req(from, transaction, req, &reason::STALE_CONNECTION.into());
            return;
        }
        self.counters.duplicates.req += 1;
        match state {
            State::ReqReceived => {
                let mra = Mra {
                    local_comm_id: local_comm.into(),
                    remote_comm_id: req.local_comm_id,
                    subject: Subject::Req.into(),
                    service_timeout: Upper5::new().with_value(CONSUMER_TIMEOUT_CODE),
                    ..Mra::default()
                };
                self.send_body(from, transaction, &mra);
            }
            State::RepSent => self.send_again(id),
            _ => {}
        }
    }

    /// Checks what a request asks for (12.6.7.2 names the reasons).
    fn judge<'a>(&self, from: IpAddr, req: &'a Req) -> Result<Wish<'a>, Unfit> {
        if req.transport.service_type() != 0 || req.retries.extended_transport() != 0 {
            return Err(reason::INVALID_TRANSPORT_TYPE.into());
        }
        if (req.pkey.get() ^ PKEY) & !FULL_MEMBER != 0 {
            return Err(reason::UNSUPPORTED.into());
        }
        let port = address::port_of(req.service_id.get())
            .filter(|port| self.listeners.contains(port))
            .ok_or(reason::INVALID_SERVICE_ID)?;
        if req.qpn.get() < 2 {
            return Err(reason::NO_QP.into());
        }
        // Answers go to where the request came from, so its claims must agree.
        if !is_gid_of(&req.primary.local_gid, from)
            || !is_gid_of(&req.primary.remote_gid, self.local)
        {
            let info = address::gid(self.local);
            return Err(Unfit {
                reason: reason::INVALID_GID,
                info,
                info_len: info.len(),
            });
        }
        // A reply cannot lower the path MTU: it is taken, or refused with the
        // largest that would be.
        let path_mtu = mtu_bytes(req.path.mtu())
            .filter(|&mtu| mtu <= self.config.path_mtu)
            .ok_or_else(|| {
                let mut info = [0; 16];
                info[0] = mtu_code(self.config.path_mtu) << 4;
                Unfit {
                    reason: reason::INVALID_MTU,
                    info,
                    info_len: 1,
                }
            })?;
        let (peer_port, private_data) =
            address::read_ip_header(&req.private_data, from, self.local)
                .ok_or(reason::UNSUPPORTED)?;
        Ok(Wish {
            port,
            peer_port,
            path_mtu,
            private_data,
        })
    }

    fn refuse_req(&mut self, from: IpAddr, transaction: u64, req: &Req, unfit: &Unfit) {
        self.refuse(
            from,
            &Refusal {
                transaction,
                local_comm_id: 0,
                remote_comm_id: req.local_comm_id.get(),
                subject: Subject::Req,
                reason: unfit.reason,
                info: unfit.info.get(..unfit.info_len).unwrap_or_default(),
            },
        );
    }

    /// See [`crate::cm::ConnectionManager::accept`].
    ///
    /// # Errors
    /// When the connection is gone or no request, or the private data too long.
    pub fn accept(&mut self, id: ConnId, params: &ConnParams, now: Instant) -> Result<(), CmError> {
        let connection = self.owned(id)?;
        if connection.state != State::ReqReceived {
            return Err(CmError::State);
        }
        let mut rep = Rep {
            local_comm_id: connection.local_comm.into(),
            remote_comm_id: connection.remote_comm.unwrap_or(0).into(),
            qpn: U24::new(params.qp.0),
            starting_psn: U24::new(connection.attrs.rq_psn),
            responder_resources: connection.attrs.max_dest_rd_atomic,
            initiator_depth: connection.attrs.max_rd_atomic,
            transport: RepTransport::new()
                .with_target_ack_delay(TARGET_ACK_DELAY)
                .with_failover(FAILOVER_NOT_SUPPORTED),
            retries: RepRetries::new()
                .with_rnr_retry(RNR_RETRY)
                .with_shared_receive_queue(true),
            ca_guid: self.ca_guid.into(),
            ..Rep::default()
        };
        check_private_data(params.private_data.len(), rep.private_data.len())?;
        copy(&mut rep.private_data, &params.private_data);
        let mad = Mad::new(connection.transaction, &rep);
        let times = connection.peer_retries;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.local_qpn = params.qp.0 & 0x00ff_ffff;
        }
        self.enter(id, State::RepSent);
        self.send_until_answered(id, mad, times, now);
        Ok(())
    }

    /// See [`crate::cm::ConnectionManager::reject`].
    ///
    /// # Errors
    /// When the connection is gone or no request, or the private data too long.
    pub fn reject(&mut self, id: ConnId, private_data: &[u8]) -> Result<(), CmError> {
        if self.owned(id)?.state != State::ReqReceived {
            return Err(CmError::State);
        }
        check_private_data(private_data.len(), 148)?;
        self.reject_peer(id, Subject::Req, reason::CONSUMER, private_data);
        self.remove(id);
        Ok(())
    }

    pub(super) fn on_rtu(&mut self, from: IpAddr, rtu: &Rtu) {
        let (local, remote) = (rtu.remote_comm_id.get(), rtu.local_comm_id.get());
        match self.find(from, local, remote) {
            Some((id, connection)) if connection.state == State::RepSent => {
                self.answered(id);
                self.enter(id, State::Established);
                self.event(CmEvent::Established { id });
            }
            Some((_, connection)) if !connection.active && connection.state.was_confirmed() => {
                self.counters.duplicates.rtu += 1;
            }
            Some(_) => self.counters.drops.unexpected += 1,
            None => self.counters.drops.unknown_connection += 1,
        }
    }
}
