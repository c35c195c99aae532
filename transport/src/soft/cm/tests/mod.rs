//! Tests of connection management.

mod active;
mod driver;
mod endings;
mod hostile;
mod loss;
mod pair;
mod passive;
mod table;
mod wire;
