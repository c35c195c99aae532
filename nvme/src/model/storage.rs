//! The blocks of a modelled namespace: memory is taken where something was
//! written, the rest reads as zeros.

use std::collections::HashMap;

use sidelane_p2p::{MemView, OutOfRange};

const CHUNK: u64 = 64 << 10;
static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

#[derive(Default)]
pub(super) struct Storage {
    chunks: HashMap<u64, Box<[u8]>>,
}

/// The parts of `len` bytes at `at`, each within one chunk: its number, the
/// place in it, the bytes before, the bytes of it.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let within = (here % CHUNK) as usize;
        let n = (len - done).min(CHUNK as usize - within);
        let part = (n > 0).then_some((here / CHUNK, within, done, n));
        done += n;
        part
    })
}

impl Storage {
    /// Puts stored bytes into memory.
    pub(super) fn read(
        &self,
        at: u64,
        view: &MemView,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        for (chunk, within, done, n) in parts(at, len) {
            let stored = self.chunks.get(&chunk).map_or(&ZEROS[..], |chunk| chunk);
            view.write(
                offset + done,
                stored.get(within..within + n).unwrap_or_default(),
            )?;
        }
        Ok(())
    }

    /// Stores bytes out of memory.
    pub(super) fn write(
        &mut self,
        at: u64,
        view: &MemView,
        offset: usize,
        len: usize,
    ) -> Result<(), OutOfRange> {
        for (chunk, within, done, n) in parts(at, len) {
            let stored = self.chunks.entry(chunk).or_insert_with(|| ZEROS.into());
            view.read(
                offset + done,
                stored.get_mut(within..within + n).unwrap_or_default(),
            )?;
        }
        Ok(())
    }

    /// Makes bytes zero, and gives memory back where nothing else was.
    pub(super) fn zero(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        self.chunks.retain(|chunk, stored| {
            let start = chunk * CHUNK;
            let from = at.max(start);
            let to = end.min(start + CHUNK);
            if from < to {
                let range = (from - start) as usize..(to - start) as usize;
                stored.get_mut(range).unwrap_or_default().fill(0);
            }
            to.saturating_sub(from) < CHUNK
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_and_zeroed_parts_are_zero(
            writes in proptest::collection::vec((0u64..300_000, 1usize..150_000, any::<u8>()), 1..6),
            zero_at in 0u64..400_000, zero_len in 0u64..300_000,
        ) {
            let mut expected = vec![0; 500_000];
            let mut storage = Storage::default();
            let view = MemView::anonymous(500_000);
            for (at, len, byte) in writes {
                let data = vec![byte; len];
                view.write(3, &data).unwrap();
                storage.write(at, &view, 3, len).unwrap();
                expected[at as usize..at as usize + len].copy_from_slice(&data);
            }
            storage.zero(zero_at, zero_len);
            let end = (zero_at + zero_len).min(500_000);
            expected[zero_at as usize..end.max(zero_at) as usize].fill(0);
            storage.read(0, &view, 0, 500_000).unwrap();
            let mut got = vec![0; 500_000];
            view.read(0, &mut got).unwrap();
            prop_assert!(got == expected);
        }
    }
}
