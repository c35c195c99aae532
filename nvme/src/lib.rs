//! NVMe for Sidelane: the wire types ([`spec`]), a userspace driver for
//! controllers ([`driver`]) and a software controller ([`model`]).
//!
//! The driver is generic over its [`Backing`]: VFIO in life, the model in tests
//! and in the demo.
#![forbid(unsafe_code)]

mod backing;
pub mod driver;
pub mod model;
pub mod spec;

pub use backing::{Backing, BackingError, VfioBacking};
