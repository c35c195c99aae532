//! The command line: what may be said ([`args`]).

pub mod args;
