//! The schema as a whole: the example, the mistakes, and what holds for any text.

use super::*;

#[test]
fn the_example_is_valid() {
    let config = Config::parse(example(), "example.toml").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.subsystems.len(), 2);
}
