//! A target in this process, with hosts that keep to the rules and peers that
//! need not.

pub mod bench;
pub mod busy_host;
pub mod good_host;
pub mod random;
pub mod raw_host;
pub mod raw_packets;
