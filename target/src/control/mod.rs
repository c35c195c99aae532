//! The control plane: connection set-up and the control API, on a thread and a
//! tokio runtime of their own. It talks to reactors by message only.

mod api;
mod connections;
mod inquiry;
mod removals;
mod returning;
mod watched;

pub use api::{ApiSocket, fetch_stats};
pub use connections::{ADMIN_DEPTH, ConnectionService, ManagerSpec};
pub use inquiry::{AskManagers, Inquiry};
pub use removals::heed;
pub use returning::{Reopen, Returning};
