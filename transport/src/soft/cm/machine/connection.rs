//! One connection and its states.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cm::ConnError;
use crate::nic::QpAttrs;
use crate::soft::cm::mad::Mad;

/// States of a connection (InfiniBand Architecture, volume 1, 12.9.5 and 12.9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Active: asked, no answer yet.
    ReqSent,
    /// Active: accepted; the consumer brings its queue pair up.
    RepReceived,
    /// Passive: asked; the consumer decides.
    ReqReceived,
    /// Passive: accepted; the peer has not yet said that it is ready.
    RepSent,
    /// Up.
    Established,
    /// This side has asked to end it.
    DreqSent,
    /// Ended; answers what comes late.
    TimeWait,
}

impl State {
    /// A request of a peer that costs room before the peer has proved to exist.
    pub(super) fn is_half_open(self) -> bool {
        matches!(self, Self::ReqReceived | Self::RepSent)
    }

    /// A peer may have said that it is ready.
    pub(super) fn was_confirmed(self) -> bool {
        matches!(self, Self::Established | Self::DreqSent | Self::TimeWait)
    }
}

/// A message that is sent until it is answered.
#[derive(Debug)]
pub(super) struct Resend {
    pub(super) mad: Mad,
    /// Times it may still be sent.
    pub(super) left: u8,
    /// Wait before the next.
    pub(super) interval: Duration,
    /// Waits grow up to this.
    pub(super) longest: Duration,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) peer: SocketAddr,
    /// Relates answers to requests.
    pub(super) transaction: u64,
    /// The number this side gave it.
    pub(super) local_comm: u32,
    /// The number the peer gave it, once known.
    pub(super) remote_comm: Option<u32>,
    /// The own queue pair, 0 until the consumer named it.
    pub(super) local_qpn: u32,
    /// Both sides' part, as far as agreed.
    pub(super) attrs: QpAttrs,
    /// Times the peer wants an answer of this side repeated.
    pub(super) peer_retries: u8,
    /// How long the peer may take to answer.
    pub(super) peer_response: Duration,
    /// This side asked for the connection.
    pub(super) active: bool,
    /// The peer has once asked for patience.
    pub(super) mra_taken: bool,
    pub(super) resend: Option<Resend>,
    /// The entry in the table of timers.
    pub(super) deadline: Option<Instant>,
}

impl Connection {
    pub(super) fn timeout_error(&self) -> ConnError {
        ConnError::Timeout(self.peer)
    }
}

/// A time of 4.096 µs times two to the power `code`, 5 bits.
pub(super) fn coded_time(code: u8) -> Duration {
    Duration::from_nanos(4096 << (code & 0x1f))
}
