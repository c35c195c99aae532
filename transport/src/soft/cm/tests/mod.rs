//! Tests of connection management.

mod active;
mod endings;
mod hostile;
mod loss;
mod pair;
mod passive;
mod wire;
