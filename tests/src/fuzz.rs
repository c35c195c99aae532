//! What the fuzzer feeds, and what the corpora are replayed into: one function
//! for each parser or state machine that takes bytes from a wire, a device or a
//! file.
//!
//! Each takes any bytes, and fails only by an assertion: that something
//! panicked, or that it broke a promise which is stated here. `tests/fuzz` has a
//! target of a few lines for each; the test `fuzz_corpus` runs every committed
//! seed through the same function, so that an input that once failed stays a
//! test. A new target is a function here, its line in [`TARGETS`], and its file
//! in `tests/fuzz/targets`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "an assumption that does not hold is what the fuzzer is there to find"
)]

mod cm;
mod config;
mod connect;
mod driver;
mod engine;
mod fault;
mod input;
mod model;
mod nvmf;
mod packet;
mod session;
mod spec;
mod topology;

pub use cm::cm;
pub use config::config;
pub use connect::connect;
pub use driver::driver;
pub use engine::engine;
pub use model::model;
pub use nvmf::{data_pointer, private_data};
pub use packet::{datagram, packet};
pub use session::session;
pub use spec::spec;
pub use topology::topology;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All targets, by the name that their seeds and their binary have.
pub const TARGETS: [(&str, Target); 13] = [
    ("packet", packet),
    ("datagram", datagram),
    ("engine", engine),
    ("cm", cm),
    ("private_data", private_data),
    ("data_pointer", data_pointer),
    ("connect", connect),
    ("session", session),
    ("spec", spec),
    ("model", model),
    ("driver", driver),
    ("config", config),
    ("topology", topology),
];
