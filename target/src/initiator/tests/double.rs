//! A fabric in memory with a scripted target at its far end: an adapter and a
//! connection manager for the initiator that need no socket.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};
use sidelane_p2p::Region;
use sidelane_transport::cm::{
    CmError, CmEvent, ConnError, ConnId, ConnParams, ConnectionManager, Connector,
};
use sidelane_transport::nic::*;

use super::target::Target;

/// What both halves share.
#[derive(Default)]
pub struct Fabric {
    pub target: Target,
    region: Option<(Region, MemoryRegion)>,
    receives: VecDeque<RecvWr>,
    done: VecDeque<Completion>,
    events: VecDeque<CmEvent>,
    qps: BTreeMap<QpNumber, bool>,
    conns: BTreeMap<ConnId, (QpNumber, u16)>,
    next: u32,
    /// Send completions are kept back until the response is out.
    pub late_sends: bool,
}

impl Fabric {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub fn open_qps(&self) -> usize {
        self.qps.len()
    }

    pub fn open_conns(&self) -> usize {
        self.conns.len()
    }

    pub fn posted_receives(&self) -> usize {
        self.receives.len()
    }

    fn complete(&mut self, qp: QpNumber, wr_id: u64, op: WcOp, status: WcStatus, len: u32) {
        self.done.push_back(Completion {
            wr_id,
            qp,
            status,
            op,
            len,
            invalidated: None,
            imm: None,
        });
    }

    fn message(&self, sges: &[Sge]) -> Vec<u8> {
        let (region, keys) = self.region.as_ref().unwrap();
        let mut message = Vec::new();
        for sge in sges {
            assert_eq!(sge.lkey, keys.lkey);
            let mut piece = vec![0; sge.len as usize];
            region
                .view()
                .read((sge.addr - keys.base) as usize, &mut piece)
                .unwrap();
            message.extend(piece);
        }
        message
    }

    /// A command has arrived: the target's answer goes into a posted receive.
    fn deliver(&mut self, qp: QpNumber, message: &[u8]) {
        let qid = self
            .conns
            .values()
            .find(|(of, _)| *of == qp)
            .map(|(_, qid)| *qid)
            .unwrap();
        let (region, keys) = self.region.clone().unwrap();
        let answer = self.target.command(qid, message, &mut |key, addr| {
            assert_eq!(key, keys.rkey, "the key that was given to the peer");
            (region.view().clone(), (addr - keys.base) as usize)
        });
        if let Some(answer) = answer {
            let wr = self
                .receives
                .pop_front()
                .expect("a receive buffer is posted");
            let at = (wr.sge.addr - keys.base) as usize;
            let fits = answer.len().min(wr.sge.len as usize);
            region.view().write(at, &answer[..fits]).unwrap();
            self.complete(
                qp,
                wr.wr_id,
                WcOp::Recv,
                WcStatus::Success,
                answer.len() as u32,
            );
            if let Some(last) = self.done.back_mut() {
                last.invalidated = self.target.script.invalidates;
            }
        }
        if self
            .target
            .script
            .hangs_up_on
            .is_some_and(|on| message[0] == on)
        {
            self.hang_up();
        }
    }

    pub fn hang_up(&mut self) {
        for id in std::mem::take(&mut self.conns).into_keys() {
            self.events.push_back(CmEvent::Disconnected { id });
        }
    }
}

pub type Shared = Arc<Mutex<Fabric>>;

pub struct DoubleNic {
    fabric: Shared,
    caps: NicCaps,
    fd: OwnedFd,
}

pub struct DoubleCm {
    fabric: Shared,
    fd: OwnedFd,
}

/// An adapter and a manager with `target` behind them.
pub fn pair(target: Target) -> (Shared, Box<DoubleNic>, Box<DoubleCm>) {
    let fabric = Arc::new(Mutex::new(Fabric {
        target,
        ..Fabric::default()
    }));
    let caps = NicCaps {
        name: "double".into(),
        max_sge: MAX_SGE,
        max_send_wr: 256,
        max_srq_wr: 4096,
        max_qp: 16,
        max_message: 1 << 30,
        max_rd_atomic: 16,
        send_invalidate: true,
    };
    // Never readable: whatever the double does, it does at once.
    let fd = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let nic = DoubleNic {
        fabric: Arc::clone(&fabric),
        caps,
        fd: fd(),
    };
    let cm = DoubleCm {
        fabric: Arc::clone(&fabric),
        fd: fd(),
    };
    (fabric, Box::new(nic), Box::new(cm))
}

impl DoubleNic {
    fn fabric(&self) -> MutexGuard<'_, Fabric> {
        self.fabric.lock().unwrap()
    }

    pub fn caps_mut(&mut self) -> &mut NicCaps {
        &mut self.caps
    }
}

impl Nic for DoubleNic {
    fn caps(&self) -> &NicCaps {
        &self.caps
    }

    fn register(&mut self, region: &Region, _: Access) -> Result<MemoryRegion, RegisterError> {
        let len = region.len() as u64;
        let keys = MemoryRegion {
            region: region.id(),
            lkey: 0x11,
            rkey: 0x22,
            base: 0x7000_0000,
            len,
        };
        self.fabric().region = Some((region.clone(), keys));
        Ok(keys)
    }

    fn deregister(&mut self, _: &MemoryRegion) {
        self.fabric().region = None;
    }

    fn error_qp(&mut self, qp: QpNumber) -> Result<(), NicError> {
        let mut fabric = self.fabric();
        *fabric.qps.get_mut(&qp).ok_or(NicError::NoSuchQp(qp))? = false;
        Ok(())
    }

    fn open_qp(&mut self, _: u64, _: QpCaps, _: &QpAttrs, _: Instant) {
        unreachable!("a host does not answer connections")
    }

    fn event(&mut self) -> Option<NicEvent> {
        None
    }

    fn post_copy(&mut self, _: Sge, _: Sge, _: u64) -> Result<Flush, NicError> {
        unreachable!("a host tests no adapter")
    }

    fn destroy_qp(&mut self, qp: QpNumber) {
        let mut fabric = self.fabric();
        fabric.qps.remove(&qp);
        fabric.done.retain(|completion| completion.qp != qp);
    }

    fn post_recv(&mut self, wrs: &[RecvWr]) -> Result<(), NicError> {
        self.fabric().receives.extend(wrs);
        Ok(())
    }

    fn post_send(&mut self, qp: QpNumber, wrs: &[SendWr]) -> Result<(), NicError> {
        let mut fabric = self.fabric();
        assert_eq!(
            fabric.qps.get(&qp),
            Some(&true),
            "sending on a queue pair that is not up"
        );
        for wr in wrs {
            assert_eq!(wr.op, SendOp::Send);
            let message = fabric.message(&wr.sges);
            if fabric.target.script.breaks_on == Some(message[0]) {
                fabric.complete(qp, wr.wr_id, WcOp::Send, WcStatus::RetryExceeded, 0);
                continue;
            }
            if !fabric.late_sends {
                fabric.complete(qp, wr.wr_id, WcOp::Send, WcStatus::Success, 0);
            }
            fabric.deliver(qp, &message);
            if fabric.late_sends {
                fabric.complete(qp, wr.wr_id, WcOp::Send, WcStatus::Success, 0);
            }
        }
        Ok(())
    }

    fn post_flush(&mut self, _: Sge, _: u64) -> Result<Flush, NicError> {
        unreachable!("a host has no other devices")
    }

    fn poll(&mut self, _: Instant, out: &mut Completions) {
        let mut fabric = self.fabric();
        while let Some(completion) = (!out.is_full()).then(|| fabric.done.pop_front()).flatten() {
            out.push(completion);
        }
    }

    fn arm(&mut self, _: Instant, _: Wake) -> bool {
        let fabric = self.fabric();
        fabric.done.is_empty() && fabric.events.is_empty()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn arm_srq_limit(&mut self, _: u32) -> Result<(), NicError> {
        unreachable!("a host knows how many answers come")
    }

    fn counts(&self) -> Vec<Count> {
        Vec::new()
    }

    fn qp_counts(&self, _: QpNumber) -> Option<Vec<Count>> {
        None
    }
}

impl ConnectionManager for DoubleCm {
    fn listen(&mut self, _: SocketAddr) -> Result<(), CmError> {
        unreachable!("a host does not listen")
    }

    fn accept(&mut self, _: ConnId, _: ConnParams, _: Instant) -> Result<(), CmError> {
        unreachable!("a host does not accept")
    }

    fn reject(&mut self, _: ConnId, _: Bytes, _: Instant) -> Result<(), CmError> {
        unreachable!("nobody asks a host")
    }

    fn disconnect(&mut self, id: ConnId, _: Instant) -> Result<(), CmError> {
        let mut fabric = self.fabric.lock().unwrap();
        fabric.conns.remove(&id).ok_or(CmError::Gone)?;
        fabric.events.push_back(CmEvent::Disconnected { id });
        Ok(())
    }

    fn poll(&mut self, _: Instant) -> Option<CmEvent> {
        self.fabric.lock().unwrap().events.pop_front()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn counts(&self) -> Vec<Count> {
        Vec::new()
    }
}

impl ActiveNic for DoubleNic {
    fn create_qp(&mut self, _: QpCaps) -> Result<QpNumber, NicError> {
        let mut fabric = self.fabric();
        let qp = QpNumber(fabric.number());
        fabric.qps.insert(qp, false);
        Ok(qp)
    }

    fn connect_qp(&mut self, qp: QpNumber, _: &QpAttrs, _: Instant) -> Result<(), NicError> {
        let mut fabric = self.fabric();
        let up = fabric.qps.get_mut(&qp).ok_or(NicError::NoSuchQp(qp))?;
        if std::mem::replace(up, true) {
            Err(NicError::State(qp))
        } else {
            Ok(())
        }
    }
}

impl Connector for DoubleCm {
    fn connect(
        &mut self,
        remote: SocketAddr,
        params: ConnParams,
        _: Instant,
    ) -> Result<ConnId, CmError> {
        let mut fabric = self.fabric.lock().unwrap();
        let id = ConnId(fabric.number().into());
        let data = &params.private_data;
        let qid = u16::from_le_bytes([data[2], data[3]]);
        if !fabric.target.script.answers_cm {
            return Ok(id);
        }
        if let Some((reason, status)) = fabric.target.script.rejects {
            let private_data = Bytes::copy_from_slice(&[0, 0, status, 0]);
            let error = ConnError::Rejected {
                reason,
                text: "scripted".into(),
                private_data,
            };
            fabric.events.push_back(CmEvent::Failed { id, error });
            return Ok(id);
        }
        fabric.conns.insert(id, (params.qp, qid));
        let attrs = QpAttrs {
            local: remote.ip(),
            remote: remote.ip(),
            remote_qpn: 9,
            sq_psn: 0,
            rq_psn: 0,
            path_mtu: 1024,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            timeout: 14,
            retry_count: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            vector: AddressVector::default(),
        };
        let private_data = fabric.target.accept(qid, data);
        fabric.events.push_back(CmEvent::Accepted {
            id,
            attrs,
            private_data,
        });
        Ok(id)
    }

    fn establish(&mut self, id: ConnId, _: Instant) -> Result<(), CmError> {
        let known = self.fabric.lock().unwrap().conns.contains_key(&id);
        if known { Ok(()) } else { Err(CmError::Gone) }
    }
}
