//! The core, driven by hand and by chance.

mod blackouts;
mod document;
mod errors;
mod hostile;
mod lossy;
mod notices;
mod operations;
mod recovery;
mod repeats;
mod storms;
mod story;
mod strays;
