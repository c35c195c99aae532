//! NVMe for Sidelane: the wire types ([`spec`]).

pub mod spec;
