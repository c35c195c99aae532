//! The `sidelane` command.

fn main() {}
