//! The session core driven directly, by a small host with a clock of its own.

mod aborts;
mod admin;
mod association;
mod connect;
mod discovery;
mod events;
mod host;
mod io;
mod linux;
mod random;
