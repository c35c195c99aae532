//! Wire types of NVMe: what a controller, a host and a fabric exchange, bit by
//! bit, and nothing else.
//!
//! Follows the NVM Express Base Specification 2.0 (clause numbers in this
//! module are its own unless they say otherwise), the NVM Command Set
//! Specification 1.0 ("NVM"), the PCIe Transport Specification 1.0 ("PCIe") and
//! the RDMA Transport Specification 1.0 ("RDMA").
//!
//! Every structure is little-endian with alignment 1 and can be read from any
//! bytes of the right length: an unknown code survives reading and writing. A
//! field whose value 0 means one ends in `_z`. Reserved fields are hidden, and
//! zero in a [`Default`] value; a structure is best built from it by update syntax.
//!
//! Nothing here may ever panic on what a device or a host sent.
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

mod admin;
mod cqe;
mod discovery;
mod fabrics;
mod feature;
mod identify_bits;
mod identify_controller;
mod identify_list;
mod identify_namespace;
mod io;
mod log;
mod nqn;
mod opcode;
mod pmr;
mod register;
mod sgl;
mod sqe;
mod status;
mod text;

pub use admin::*;
pub use cqe::*;
pub use discovery::*;
pub use fabrics::*;
pub use feature::*;
pub use identify_bits::*;
pub use identify_controller::*;
pub use identify_list::*;
pub use identify_namespace::*;
pub use io::*;
pub use log::*;
pub use nqn::*;
pub use opcode::*;
pub use pmr::*;
pub use register::*;
pub use sgl::*;
pub use sqe::*;
pub use status::*;
pub use text::*;

/// The namespace identifier that means every namespace.
pub const NSID_ALL: u32 = 0xffff_ffff;

#[cfg(test)]
mod tests;
