//! Targets side by side in one boot of the lab: what `make bench-lab` is made of.
//!
//! `tests/scenarios/bench-lab` measures, in the guest; here its lines are read
//! ([`records`]), weighed ([`statistics`], [`summary`]) and shown ([`tables`],
//! [`plot`]). Nothing here may compare figures of two boots.

pub mod guest;
pub mod machine;
pub mod plot;
pub mod records;
pub mod statistics;
pub mod summary;
pub mod tables;
