//! Userspace NVMe over Fabrics target with PCI peer memory.
//!
//! | module | room for |
//! | --- | --- |
//! | [`target`] | a running target, from configuration and devices to its end |
//! | [`subsystem`], [`session`] | what hosts see, and the NVMe-oF state machine |
//! | [`reactor`] | the data path: one thread a core, and the states of a command |
//! | [`backend`] | what stores a namespace's blocks |
//! | [`resolve`] | which memory a namespace's payload uses |
//! | [`control`] | connection set-up and the control API |
//! | [`stats`], [`report`] | what is counted, and the report of it |
//! | [`devices`] | where PCI devices come from |
//! | [`initiator`], [`demo`] | a small host, and the demo made of both sides |
//! | [`selftest`] | whether data that is said to have arrived has arrived |
//! | [`ping`] | whether the network is fit |
//! | [`cli`] | the command line |

pub mod backend;
pub mod cli;
pub mod control;
pub mod demo;
pub mod devices;
pub mod initiator;
pub mod ping;
pub mod reactor;
pub mod report;
pub mod resolve;
mod scatter;
pub mod selftest;
pub mod session;
pub mod stats;
pub mod subsystem;
pub mod target;

pub use target::{Options, Target};
