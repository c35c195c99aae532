//! RoCEv2 in software: a network adapter made of a CPU and UDP sockets.
//!
//! `wire` and `icrc` are the packets, `psn` their numbers.

pub mod icrc;
pub mod psn;
pub mod wire;
