//! The session core: an NVMe-oF association as a state machine, without I/O,
//! without a clock and without payload (NVMe 2.0, clauses 3.3.2, 5, 6 and 7).
//!
//! There is one [`QueueSession`] for each queue pair, owned by the reactor that
//! owns the queue pair. The reactor gives it the commands that arrive, and does
//! what the [`Step`] says:
//!
//! ```text
//! capsule arrives ---> command() --+--> Complete, Reply ------------> completed() -> CQE
//!                                  +--> Fetch: get the data ---> data() --+   (as above)
//!                                  +--> Io: backend, data, ----------> completed() -> CQE
//!                                  +--> Held ...... poll_async() ----> completed() -> CQE
//!                                  |    (an Abort: the queue of its command has poll_abort())
//!                                  +--> Close: end the connection --> closed()
//! ```
//!
//! Every command that was taken gets exactly one [`QueueSession::completed`],
//! unless the connection ends first. Nothing a host sends can make this code
//! panic, and nothing allocates on an I/O queue after it connected.
#![forbid(unsafe_code)]
#![allow(
    clippy::field_reassign_with_default,
    reason = "the reserved fields of wire types are private, so that they stay zero"
)]

mod admin;
mod aer;
mod commands;
mod connect;
mod features;
mod identify;
mod identify_namespace;
mod io;
mod keep_alive;
mod log_pages;
mod properties;
mod queue;
mod refusal;
mod step;

pub use commands::Queue;
pub use io::dsm_ranges;
pub use keep_alive::CONNECT_TIMEOUT;
pub use queue::QueueSession;
pub use refusal::Refusal;
pub use step::{BlockRange, CloseReason, Completion, HostLen, IoOp, IoRequest, Step};

#[cfg(test)]
mod tests;
