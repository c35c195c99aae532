//! RoCEv2 in software: a network adapter made of a CPU and UDP sockets.
//!
//! `wire` and `icrc` are the packets, `psn` their numbers, `memory` the keys;
//! `engine` is the protocol, without sockets and without a clock. `port` opens
//! the UDP sockets of an address, `socket` moves datagrams through them in
//! batches, and `nic` is the adapter made of all that.

pub mod cm;
pub mod engine;
pub mod icrc;
pub mod memory;
pub mod nic;
pub mod port;
pub mod psn;
pub mod socket;
pub mod wire;
