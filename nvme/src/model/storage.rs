//! The blocks of a modelled namespace: memory is taken where something was
//! written, the rest reads as zeros.

use std::collections::HashMap;

use sidelane_p2p::{MemView, OutOfRange};

const CHUNK: u64 = 64 << 10;
static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

type Chunk = Box<[u8]>;

#[derive(Default)]
pub(super) struct Storage {
    chunks: HashMap<u64, Chunk>,
    /// Chunks as they are without what was not flushed; `None` where nothing is
    /// ever lost.
    stable: Option<HashMap<u64, Option<Chunk>>>,
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
    /// One that can lose what was not flushed; that costs a copy of each chunk.
    pub(super) fn forgetful() -> Self {
        Self {
            stable: Some(HashMap::new()),
            ..Self::default()
        }
    }

    /// All that was written stays.
    pub(super) fn flush(&mut self) {
        if let Some(stable) = &mut self.stable {
            stable.clear();
        }
    }

    /// What was not flushed is lost.
    pub(super) fn lose(&mut self) {
        for (chunk, before) in self.stable.iter_mut().flat_map(HashMap::drain) {
            match before {
                Some(before) => self.chunks.insert(chunk, before),
                None => self.chunks.remove(&chunk),
            };
        }
    }

    /// Remembers a chunk before it is changed in the cache only.
    fn remember(&mut self, chunk: u64) {
        if let Some(stable) = &mut self.stable {
            stable
                .entry(chunk)
                .or_insert_with(|| self.chunks.get(&chunk).cloned());
        }
    }

    /// What is remembered of a chunk, where that is another thing than what it
    /// holds now.
    fn remembered(&mut self, chunk: u64) -> Option<&mut Chunk> {
        let before = self.stable.as_mut()?.get_mut(&chunk)?;
        Some(before.get_or_insert_with(|| ZEROS.into()))
    }

    /// Turns a bit over, past all caches.
    pub(super) fn flip(&mut self, at: u64, bit: u8) {
        let stored = self
            .chunks
            .entry(at / CHUNK)
            .or_insert_with(|| ZEROS.into());
        if let Some(byte) = stored.get_mut((at % CHUNK) as usize) {
            *byte ^= 1 << (bit % 8);
        }
    }

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

    /// Stores bytes out of memory, `through` the cache or into it.
    pub(super) fn write(
        &mut self,
        at: u64,
        view: &MemView,
        offset: usize,
        len: usize,
        through: bool,
    ) -> Result<(), OutOfRange> {
        for (chunk, within, done, n) in parts(at, len) {
            if !through {
                self.remember(chunk);
            }
            let stored = self.chunks.entry(chunk).or_insert_with(|| ZEROS.into());
            let part = stored.get_mut(within..within + n).unwrap_or_default();
            view.read(offset + done, part)?;
            if through && let Some(before) = self.remembered(chunk) {
                let part = before.get_mut(within..within + n).unwrap_or_default();
                view.read(offset + done, part)?;
            }
        }
        Ok(())
    }

    /// Makes bytes zero, `through` the cache or in it, and gives memory back
    /// where nothing else was.
    pub(super) fn zero(&mut self, at: u64, len: u64, through: bool) {
        let end = at.saturating_add(len);
        let within = |chunk: u64| {
            let start = chunk * CHUNK;
            let from = at.max(start) - start;
            let to = end.min(start + CHUNK).saturating_sub(start);
            from as usize..to.max(from) as usize
        };
        let concerned = |chunk: &u64| !within(*chunk).is_empty();
        if through {
            for (chunk, before) in self.stable.iter_mut().flatten() {
                if let Some(before) = before {
                    before.get_mut(within(*chunk)).unwrap_or_default().fill(0);
                }
            }
        } else if self.stable.is_some() {
            let chunks: Vec<u64> = self.chunks.keys().copied().filter(concerned).collect();
            chunks.into_iter().for_each(|chunk| self.remember(chunk));
        }
        self.chunks.retain(|chunk, stored| {
            let range = within(*chunk);
            let whole = range.len() as u64 == CHUNK;
            stored.get_mut(range).unwrap_or_default().fill(0);
            !whole
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
                storage.write(at, &view, 3, len, false).unwrap();
                expected[at as usize..at as usize + len].copy_from_slice(&data);
            }
            storage.zero(zero_at, zero_len, false);
            let end = (zero_at + zero_len).min(500_000);
            expected[zero_at as usize..end.max(zero_at) as usize].fill(0);
            storage.read(0, &view, 0, 500_000).unwrap();
            let mut got = vec![0; 500_000];
            view.read(0, &mut got).unwrap();
            prop_assert!(got == expected);
        }
    }
}
