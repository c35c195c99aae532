//! Keep alive (NVMe 2.0, 3.9): how long a host may be silent.
//!
//! Any command on any queue of the association counts (TBKAS), so a host whose
//! queues are busy need not send Keep Alive. By that rule (3.9.4.2) a controller
//! notices silence between one and two times KATO after the last command: a host
//! that looks once every half KATO for traffic, as Linux does, may let exactly
//! KATO pass. The middle is taken.

use std::time::Duration;

use crate::subsystem::{ControllerShared, Kind};

/// Granularity of KATO, in units of 100 ms (KAS).
pub const KAS: u16 = 10;

/// How long a connection may wait for its Connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Silence after which a discovery association without keep alive ends: hosts
/// that only read the log owe no sign of life, and may just vanish.
pub const DISCOVERY_SILENCE: Duration = Duration::from_secs(120);

/// The timeout in force for what the host asked, rounded up to the granularity.
pub fn effective_kato_ms(asked_ms: u32) -> u32 {
    let unit_ms = u32::from(KAS) * 100;
    asked_ms
        .checked_next_multiple_of(unit_ms)
        .unwrap_or(asked_ms)
}

/// Puts a timeout, as [`effective_kato_ms`] gives it, in force.
pub fn apply(shared: &ControllerShared, kind: Kind, kato_ms: u32) {
    let limit = match (kato_ms, kind) {
        (0, Kind::Discovery) => DISCOVERY_SILENCE,
        (kato_ms, _) => Duration::from_millis(u64::from(kato_ms) * 3 / 2),
    };
    shared.set_silence_limit(limit);
}
