//! The side that asks: REQ out, REP or REJ in, RTU out.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::connection::{Connection, State, coded_time};
use super::{
    CONSUMER_TIME, CONSUMER_TIMEOUT_CODE, CmCore, MAX_ACK_TIMEOUT, PKEY, RNR_TIMER, Refusal,
    address, check_private_data, copy, mtu_bytes, mtu_code, reason,
};
use crate::cm::{CmError, CmEvent, ConnError, ConnId, ConnParams};
use crate::nic::{AddressVector, QpAttrs};
use crate::soft::cm::address::IP_HEADER_LEN;
use crate::soft::cm::mad::{Mad, Message};
use crate::soft::cm::messages::{
    Mra, Path, Rej, Rep, Req, ReqPath, ReqRetries, ReqTiming, ReqTransport, Rtu, Subject, U24,
    Upper5,
};

/// How long either side may take to answer, 4.3 s; Linux names the same.
const RESPONSE_TIMEOUT: u8 = 20;

/// Times a REQ is repeated: with growing waits, some 30 s in all.
const REQ_TIMES: u8 = 7;

/// Times the peer may repeat its answer.
const PEER_TIMES: u8 = 15;

/// Retries of the queue pairs, and after receiver-not-ready: for ever.
const RETRY_COUNT: u8 = 7;
const RNR_RETRY: u8 = 7;

/// Local ACK timeout: 0.54 s.
const ACK_TIMEOUT: u8 = 17;

/// Hops that packets may take.
const HOP_LIMIT: u8 = 64;

/// Local identifiers mean nothing on Ethernet; this value says so.
const PERMISSIVE_LID: u16 = 0xffff;

/// 10 Gb/s. Nothing comes of it.
const RATE: u8 = 3;

impl CmCore {
    /// See [`crate::cm::Connector::connect`].
    ///
    /// # Errors
    /// When the private data is too long, the peer's address is of another family,
    /// or the table is full.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        params: &ConnParams,
        now: Instant,
    ) -> Result<ConnId, CmError> {
        if remote.is_ipv4() != self.local.is_ipv4() {
            return Err(CmError::State);
        }
        if !self.has_room() {
            return Err(CmError::Full(self.config.max_connections));
        }
        let mut private_data = [0; 92];
        check_private_data(
            params.private_data.len(),
            private_data.len() - IP_HEADER_LEN,
        )?;
        let local_comm = self.new_comm_id();
        // A port out of the range that systems give to those that name none.
        let port = 0xc000 | local_comm as u16;
        let header = address::write_ip_header(self.own(port), remote.ip());
        copy(&mut private_data, &header);
        copy(&mut private_data[IP_HEADER_LEN..], &params.private_data);

        let attrs = QpAttrs {
            local: self.local,
            remote: remote.ip(),
            remote_qpn: 0,
            sq_psn: 0,
            rq_psn: self.new_psn(),
            path_mtu: self.config.path_mtu,
            max_rd_atomic: self.config.max_rd_atomic,
            max_dest_rd_atomic: self.config.max_rd_atomic,
            timeout: ACK_TIMEOUT,
            retry_count: RETRY_COUNT,
            rnr_retry: RNR_RETRY,
            min_rnr_timer: RNR_TIMER,
            vector: AddressVector::default(),
        };
        let req = Req {
            local_comm_id: local_comm.into(),
            service_id: address::service_id(remote.port()).into(),
            ca_guid: self.ca_guid.into(),
            qpn: U24::new(params.qp.0),
            responder_resources: attrs.max_dest_rd_atomic,
            initiator_depth: attrs.max_rd_atomic,
            transport: ReqTransport::new().with_remote_response_timeout(RESPONSE_TIMEOUT),
            starting_psn: U24::new(attrs.rq_psn),
            timing: ReqTiming::new()
                .with_local_response_timeout(RESPONSE_TIMEOUT)
                .with_retry_count(RETRY_COUNT),
            pkey: PKEY.into(),
            path: ReqPath::new()
                .with_mtu(mtu_code(attrs.path_mtu))
                .with_rnr_retry(RNR_RETRY),
            retries: ReqRetries::new()
                .with_max_cm_retries(PEER_TIMES)
                .with_shared_receive_queue(true),
            primary: Path {
                local_lid: PERMISSIVE_LID.into(),
                remote_lid: PERMISSIVE_LID.into(),
                local_gid: address::gid(self.local),
                remote_gid: address::gid(remote.ip()),
                rate: RATE,
                hop_limit: HOP_LIMIT,
                ack_timeout: Upper5::new().with_value(ACK_TIMEOUT),
                ..Path::default()
            },
            private_data,
            ..Req::default()
        };
        let transaction = self.random.next();
        let id = self.insert(Connection {
            state: State::ReqSent,
            peer: remote,
            transaction,
            local_comm,
            remote_comm: None,
            local_qpn: params.qp.0 & 0x00ff_ffff,
            attrs,
            peer_retries: PEER_TIMES,
            peer_response: coded_time(RESPONSE_TIMEOUT),
            active: true,
            mra_taken: false,
            resend: None,
            deadline: None,
        });
        self.send_until_answered(id, Mad::new(transaction, &req), REQ_TIMES, now);
        Ok(id)
    }

    pub(super) fn on_rep(&mut self, from: IpAddr, transaction: u64, rep: &Rep, now: Instant) {
        let (local, remote) = (rep.remote_comm_id.get(), rep.local_comm_id.get());
        let Some((id, connection)) = self.find(from, local, remote) else {
            self.refuse_rep(from, transaction, rep, reason::INVALID_COMM_ID);
            return;
        };
        match connection.state {
            State::ReqSent => self.on_first_rep(id, from, transaction, rep, now),
            State::RepReceived => {
                self.counters.duplicates.rep += 1;
                let mra = Mra {
                    local_comm_id: local.into(),
                    remote_comm_id: remote.into(),
                    subject: Subject::Rep.into(),
                    service_timeout: Upper5::new().with_value(CONSUMER_TIMEOUT_CODE),
                    ..Mra::default()
                };
                self.send_body(from, transaction, &mra);
            }
            State::Established if connection.active => {
                self.counters.duplicates.rep += 1;
                self.send_rtu(id);
            }
            _ if connection.active => self.counters.duplicates.rep += 1,
            _ => self.counters.drops.unexpected += 1,
        }
    }

    fn on_first_rep(
        &mut self,
        id: ConnId,
        from: IpAddr,
        transaction: u64,
        rep: &Rep,
        now: Instant,
    ) {
        let (remote, qpn) = (rep.local_comm_id.get(), rep.qpn.get());
        let refused = if qpn < 2 {
            Some(reason::NO_QP)
        } else if let Some(&other) = self.by_qpn.get(&(from, qpn)) {
            self.on_stale(other, now);
            Some(reason::STALE_CONNECTION)
        } else if self.by_remote.contains_key(&(from, remote)) {
            Some(reason::STALE_CONNECTION)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.refuse_rep(from, transaction, rep, reason);
            let text = format!("its reply was not usable: {}", reason::text(reason));
            self.fail(
                id,
                ConnError::Rejected {
                    reason,
                    text,
                    private_data: Bytes::new(),
                },
            );
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.remote_comm = Some(remote);
        connection.mra_taken = false;
        let attrs = &mut connection.attrs;
        attrs.remote_qpn = qpn;
        attrs.sq_psn = rep.starting_psn.get();
        attrs.max_rd_atomic = attrs.max_rd_atomic.min(rep.responder_resources);
        attrs.max_dest_rd_atomic = attrs.max_dest_rd_atomic.min(rep.initiator_depth);
        attrs.rnr_retry = rep.retries.rnr_retry();
        // The peer's adapter may take so long to acknowledge (12.6.8). To repeat a
        // request before that does no harm, to give up would: with its seven retries
        // the queue pair waits for eight times its timeout, twice the delay.
        let delay = rep.transport.target_ack_delay();
        attrs.timeout = attrs
            .timeout
            .max(delay.saturating_sub(2).min(MAX_ACK_TIMEOUT));
        let attrs = *attrs;
        self.by_remote.insert((from, remote), id);
        self.by_qpn.insert((from, qpn), id);
        self.answered(id);
        self.enter(id, State::RepReceived);
        self.arm(id, now + CONSUMER_TIME);
        let private_data = Bytes::copy_from_slice(&rep.private_data);
        self.event(CmEvent::Accepted {
            id,
            attrs,
            private_data,
        });
    }

    /// The path takes no packets as large as were asked for, and the peer says
    /// which it does: asked again with those. `None` when it names none that is
    /// smaller; so this ends.
    pub(super) fn ask_smaller(&mut self, id: ConnId, rej: &Rej, now: Instant) -> Option<()> {
        let transaction = self.random.next();
        let connection = self.connections.get_mut(&id)?;
        let resend = connection.resend.as_ref()?;
        let Ok((_, Message::Req(req))) = Mad::read(resend.mad.as_bytes()) else {
            return None;
        };
        let mut req = *req;
        let code = rej.info().first()? >> 4;
        let path_mtu = mtu_bytes(code).filter(|&mtu| mtu < connection.attrs.path_mtu)?;
        req.path.set_mtu(code);
        connection.attrs.path_mtu = path_mtu;
        connection.transaction = transaction;
        connection.mra_taken = false;
        self.send_until_answered(id, Mad::new(transaction, &req), REQ_TIMES, now);
        Some(())
    }

    fn refuse_rep(&mut self, from: IpAddr, transaction: u64, rep: &Rep, reason: u16) {
        self.refuse(
            from,
            &Refusal {
                transaction,
                local_comm_id: rep.remote_comm_id.get(),
                remote_comm_id: rep.local_comm_id.get(),
                subject: Subject::Rep,
                reason,
                info: &[],
            },
        );
    }

    /// See [`crate::cm::Connector::establish`].
    ///
    /// # Errors
    /// When the connection is gone, or was not accepted.
    pub fn establish(&mut self, id: ConnId) -> Result<(), CmError> {
        if self.owned(id)?.state != State::RepReceived {
            return Err(CmError::State);
        }
        self.disarm(id);
        self.enter(id, State::Established);
        self.send_rtu(id);
        Ok(())
    }

    fn send_rtu(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let rtu = Rtu {
            local_comm_id: connection.local_comm.into(),
            remote_comm_id: connection.remote_comm.unwrap_or(0).into(),
            ..Rtu::default()
        };
        let (to, transaction) = (connection.peer.ip(), connection.transaction);
        self.send_body(to, transaction, &rtu);
    }
}
