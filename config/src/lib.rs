//! Typed configuration of Sidelane: parse, validate, explain.
//!
//! [`Config::parse`] turns TOML into plain structs that hold only what was checked: names are well
//! formed, ids and addresses are unique, references lead somewhere, policies do not contradict the
//! memory they name. It reports all mistakes at once, each with its place, its reason and its remedy.
//!
//! It never touches the machine: whether a device exists, or is free, is for the crates that open it.

mod diagnostic;
mod names;
mod parse;
mod reader;
mod schema;
mod size;

pub use diagnostic::{ConfigError, ConfigErrors, Place};
pub use names::{Nqn, ParseNameError, PciSlot, Uuid};
pub use schema::{
    Backend, Config, Flush, IcrcCheck, Listener, Namespace, NicKind, P2pPolicy, Provider,
    ProviderChoice, ProviderKind, SoftNic, Subsystem, Target,
};
pub use size::{ByteSize, ParseSizeError};

/// A complete configuration with comments, to start from.
#[must_use]
pub fn example() -> &'static str {
    include_str!("example.toml")
}

#[cfg(test)]
mod tests;
