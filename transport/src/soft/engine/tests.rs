//! The core, driven by hand and by chance.

mod errors;
mod hostile;
mod lossy;
mod operations;
mod recovery;
mod storms;
mod story;
