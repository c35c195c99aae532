//! The flush: a queue pair that is connected to itself reads the last byte that
//! was placed in another device's memory. The READ follows the same path as the
//! data before it, and PCI Express lets no read pass a posted write (PCI Express
//! Base Specification, 2.4.1): when its response is there, so is the data.
//!
//! It is the only queue pair that may be READ from. Nobody but its own adapter
//! knows its number and its sequence numbers.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::explain::{MemoryLock, Refusal, refused};
use super::ffi::{
    Cqs, Device, GidEntry, GidType, Limits, LinkLayer, MrAccess, Port, Qp, QpChange, QpShape, Rtr,
    Rts,
};
use crate::nic::AddressVector;

/// Flushes outstanding at most, in one part.
pub const FLUSH_DEPTH: usize = 64;

/// How long a failed flush queue pair may take to give its work back.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait until another one is made, when that was refused.
const RETRY: Duration = Duration::from_secs(1);

/// A flush on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flushing {
    /// The consumer's.
    pub wr_id: u64,
    /// The registration that was read.
    pub lkey: u32,
}

/// The flush queue pair of a part and what is outstanding on it.
pub(super) struct Flusher<D: Device> {
    qp: Option<Arc<D::Qp>>,
    state: State,
    flushing: VecDeque<Flushing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It takes work.
    Ready,
    /// It failed, and has until then to give its work back.
    Broken(Instant),
    /// The worker makes another.
    Making,
    /// The worker could not; another try is then.
    Refused(Instant),
}

impl<D: Device> Flusher<D> {
    pub fn new(qp: D::Qp) -> Self {
        Self {
            qp: Some(Arc::new(qp)),
            state: State::Ready,
            flushing: VecDeque::with_capacity(FLUSH_DEPTH),
        }
    }

    /// Whether it takes work, and so nothing else is to be done about it.
    pub fn is_idle(&self) -> bool {
        self.state == State::Ready
    }

    /// The queue pair, if it takes work.
    pub fn ready(&self) -> Option<&Arc<D::Qp>> {
        self.qp.as_ref().filter(|_| self.state == State::Ready)
    }

    pub fn number(&self) -> Option<u32> {
        self.qp.as_ref().map(|qp| qp.number())
    }

    pub fn is_empty(&self) -> bool {
        self.flushing.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.flushing.len() == FLUSH_DEPTH
    }

    pub fn posted(&mut self, flushing: Flushing) {
        self.flushing.push_back(flushing);
    }

    /// One came back: the oldest, since a queue pair completes in order. `None`
    /// when it is of an earlier queue pair, or was given up.
    pub fn complete(&mut self, wr_id: u64) -> Option<Flushing> {
        let fits = self.flushing.front()?.wr_id == wr_id;
        fits.then(|| self.flushing.pop_front()).flatten()
    }

    /// The queue pair has failed.
    pub fn broke(&mut self, now: Instant) {
        if self.state == State::Ready {
            self.state = State::Broken(now + DRAIN_LIMIT);
        }
    }

    /// What became of the queue pair that was asked for.
    pub fn made(&mut self, outcome: Result<Arc<D::Qp>, String>, now: Instant) {
        match outcome {
            Ok(qp) => {
                self.qp = Some(qp);
                self.state = State::Ready;
            }
            Err(reason) => {
                tracing::error!(%reason, "no flush is possible");
                self.state = State::Refused(now + RETRY);
            }
        }
    }

    /// Flushes that a broken queue pair did not give back in time.
    pub fn given_up(&mut self, now: Instant) -> Option<Flushing> {
        match self.state {
            State::Broken(until) if now >= until => self.flushing.pop_front(),
            _ => None,
        }
    }

    /// Whether another queue pair has to be asked for, now; the old one is for
    /// the worker to destroy.
    pub fn wants(&mut self, now: Instant) -> Option<Option<Arc<D::Qp>>> {
        let due = match self.state {
            State::Broken(_) => self.flushing.is_empty(),
            State::Refused(at) => now >= at,
            State::Ready | State::Making => false,
        };
        due.then(|| {
            self.state = State::Making;
            self.qp.take()
        })
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Broken(at) | State::Refused(at) => Some(at),
            State::Ready | State::Making => None,
        }
    }

    /// For teardown.
    pub fn take(&mut self) -> Option<Arc<D::Qp>> {
        self.qp.take()
    }
}

/// Makes a queue pair and connects it to itself.
pub(super) fn make_qp<D: Device>(
    device: &D,
    limits: &Limits,
    cqs: Cqs<'_, D::Cq>,
    srq: &D::Srq,
) -> Result<D::Qp, Refusal> {
    let because = |what: &str, error: io::Error| {
        let limit = format!(
            "the adapter takes {} queue pairs; fewer connections (max_io_queues) need less",
            limits.max_qp
        );
        let what = format!("the flush queue pair: {what}");
        refused(&what, &error, 8192, Some(&limit), &MemoryLock::now())
    };
    let (vector, mtu) = own_address(device, limits)?;
    let shape = QpShape {
        send_wrs: FLUSH_DEPTH as u32,
        inline: 0,
    };
    let qp = device
        .create_qp(cqs, srq, shape)
        .map_err(|error| because("ibv_create_qp", error))?;
    // Not to be guessed by a peer that sends in our own name.
    let psn = RandomState::new().hash_one(qp.number()) as u32 & 0xff_ffff;
    let at_most = |limit: u32| limit.min(16) as u8;
    let steps = [
        (
            "ibv_modify_qp to INIT",
            QpChange::Init {
                port: vector.port,
                pkey_index: 0,
                access: MrAccess {
                    remote_read: true,
                    ..MrAccess::default()
                },
            },
        ),
        (
            "ibv_modify_qp to RTR",
            QpChange::Rtr(Rtr {
                path_mtu: mtu,
                remote_qpn: qp.number(),
                rq_psn: psn,
                max_dest_rd_atomic: at_most(limits.max_qp_rd_atom),
                min_rnr_timer: 12,
                vector,
            }),
        ),
        (
            "ibv_modify_qp to RTS",
            QpChange::Rts(Rts {
                sq_psn: psn,
                max_rd_atomic: at_most(limits.max_qp_init_rd_atom.min(limits.max_qp_rd_atom)),
                // 67 ms, seven times.
                timeout: 14,
                retry_count: 7,
                rnr_retry: 7,
            }),
        ),
    ];
    for (what, change) in steps {
        qp.modify(&change).map_err(|error| because(what, error))?;
    }
    Ok(qp)
}

/// The way to itself: through the first port that has a link, else the first.
fn own_address<D: Device>(device: &D, limits: &Limits) -> Result<(AddressVector, u32), Refusal> {
    let ports = (1..=limits.ports).filter_map(|number| Some((number, device.port(number).ok()?)));
    let ports: Vec<(u8, Port)> = ports.collect();
    let active = ports.iter().find(|(_, port)| port.active);
    let Some((number, port)) = active.or(ports.first()) else {
        return Err(Refusal::new(
            "it has no port",
            "see the kernel's log (dmesg) for the driver's reason",
        ));
    };
    let vector = match port.link {
        LinkLayer::InfiniBand => AddressVector {
            port: *number,
            dlid: port.lid,
            ..AddressVector::default()
        },
        LinkLayer::Ethernet => {
            let gids = device.gids(*number).map_err(|error| {
                Refusal::new(
                    format!("the GIDs of its port {number} cannot be read ({error})"),
                    "let the container have /sys/class/infiniband",
                )
            })?;
            let gid = best_gid(&gids).ok_or_else(|| {
                Refusal::new(
                    format!("its port {number} has no GID for RoCE version 2"),
                    "give its network interface an address and bring it up",
                )
            })?;
            AddressVector {
                port: *number,
                sgid_index: gid.index,
                dgid: gid.gid,
                hop_limit: 64,
                is_global: true,
                ..AddressVector::default()
            }
        }
    };
    Ok((vector, port.mtu))
}

/// The GID to reach oneself by: RoCE version 2, an IPv4 address if there is one.
fn best_gid(gids: &[GidEntry]) -> Option<&GidEntry> {
    let v2 = || gids.iter().filter(|entry| entry.kind == GidType::RoceV2);
    v2().find(|entry| entry.is_ipv4()).or_else(|| v2().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flush_goes_by_roce_version_2_and_prefers_ipv4() {
        let v4: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let v6 = [0xfe; 16];
        let entry = |index, gid, kind| GidEntry { index, gid, kind };
        let cases = [
            (vec![entry(0, v4, GidType::IbOrRoceV1)], None),
            (
                vec![
                    entry(0, v6, GidType::IbOrRoceV1),
                    entry(1, v6, GidType::RoceV2),
                ],
                Some(1),
            ),
            (
                vec![
                    entry(0, v6, GidType::RoceV2),
                    entry(1, v4, GidType::IbOrRoceV1),
                    entry(2, v4, GidType::RoceV2),
                ],
                Some(2),
            ),
        ];
        for (gids, expected) in cases {
            assert_eq!(best_gid(&gids).map(|gid| gid.index), expected);
        }
    }
}
