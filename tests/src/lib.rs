//! Helpers of the end-to-end tests, the fuzzer and the benchmarks: the lab,
//! proofs made from outside, and what the fuzzer feeds.

pub mod address_proof;
pub mod bench_lab;
pub mod exercise;
pub mod fuzz;
pub mod hooked;
pub mod in_process;
pub mod lab;
pub mod served;
