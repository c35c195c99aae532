//! Numbers that nobody can guess who does not know the secret.

use std::hash::{DefaultHasher, Hasher};

/// A keyed hash of a counter.
#[derive(Debug)]
pub(super) struct Unguessable {
    secret: [u64; 2],
    counter: u64,
}

impl Unguessable {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        Self { secret, counter: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.counter += 1;
        let [left, right] = self.secret;
        let mut hasher = DefaultHasher::new();
        for word in [left, self.counter, right] {
            hasher.write_u64(word);
        }
        hasher.finish()
    }
}
