//! Helpers of the end-to-end tests: the lab, and proofs made from outside.

pub mod address_proof;
pub mod lab;
