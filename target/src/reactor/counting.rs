//! What a reactor says of its adapters and their queue pairs when the control
//! plane asks. Only its own thread may look at them, so it answers by message;
//! the answer is made at once, and is as long as there are connections.

use std::net::IpAddr;
use std::sync::Weak;

use sidelane_transport::nic::{Count, QpNumber};

use super::Reactor;
use crate::subsystem::ControllerShared;

/// Times that fewer than an eighth of the receive buffers were left.
pub const RECEIVE_QUEUE_LOW: &str = "receive_queue_low";

/// What a reactor's part of an adapter has counted.
#[derive(Debug)]
pub struct NicCounts {
    /// By name; more than one may have the same.
    pub counts: Vec<Count>,
    /// Of each queue pair that has a connection.
    pub queue_pairs: Vec<QueuePairCounts>,
}

/// What a queue pair has counted, and whose it is.
#[derive(Debug)]
pub struct QueuePairCounts {
    /// Its number.
    pub qp: QpNumber,
    /// The host's address.
    pub remote: IpAddr,
    /// The queue, once Connect has succeeded.
    pub queue: Option<(Weak<ControllerShared>, u16)>,
    /// Whether its connection is ending.
    pub ending: bool,
    /// By name.
    pub counts: Vec<Count>,
}

impl Reactor {
    /// By adapter.
    pub(super) fn count(&self) -> Vec<NicCounts> {
        let mut all: Vec<_> = self
            .ports
            .iter()
            .map(|port| {
                let mut counts = port.nic.counts();
                counts.push((RECEIVE_QUEUE_LOW.into(), port.receives.times_low()));
                NicCounts {
                    counts,
                    queue_pairs: Vec::new(),
                }
            })
            .collect();
        for connection in self.connections.live() {
            let (port, qp) = (connection.port, connection.qp);
            // One that was destroyed waits only for a backend.
            let Some(counts) = self.ports[port].nic.qp_counts(qp) else {
                continue;
            };
            let session = &connection.session;
            let controller = session.controller().map(std::sync::Arc::downgrade);
            all[port].queue_pairs.push(QueuePairCounts {
                qp,
                remote: connection.remote,
                queue: controller.zip(session.qid()),
                ending: connection.closing.is_some(),
                counts,
            });
        }
        all
    }
}
