//! Bytes of the blocks of each namespace, as they were when a queue pair was made.

use super::Namespace;

/// Block sizes by namespace.
pub(super) struct BlockSizes {
    /// The one that was asked for last: most queue pairs serve one namespace.
    last: (u32, u32),
    /// Ascending by identifier.
    all: Box<[(u32, u32)]>,
}

impl BlockSizes {
    /// Those of `namespaces`, which ascend by identifier.
    pub(super) fn of(namespaces: &[Namespace]) -> Self {
        let sizes = namespaces.iter();
        Self {
            // No namespace has this identifier.
            last: (0, 0),
            all: sizes.map(|it| (it.nsid, it.block_bytes)).collect(),
        }
    }

    /// Bytes of a block of this namespace, 0 of one that is unknown.
    #[inline]
    pub(super) fn get(&mut self, nsid: u32) -> u32 {
        match self.last {
            (last, bytes) if last == nsid => bytes,
            _ => self.search(nsid),
        }
    }

    #[inline(never)]
    fn search(&mut self, nsid: u32) -> u32 {
        let found = self.all.binary_search_by_key(&nsid, |(nsid, _)| *nsid);
        if let Some(found) = found.ok().and_then(|at| self.all.get(at)) {
            self.last = *found;
            return found.1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    fn every_namespace_is_found_and_no_other(
        #[values(&[], &[1], &[1, 2, 3], &[2, 3, 7], &[u32::MAX - 1])] there: &[u32],
    ) {
        let mut sizes = BlockSizes {
            last: (0, 0),
            all: there.iter().map(|nsid| (*nsid, nsid ^ 0x1000)).collect(),
        };
        for nsid in (0..10).chain([u32::MAX - 1, u32::MAX, 0, 1, 1, 2, 9]) {
            let expected = if there.contains(&nsid) {
                nsid ^ 0x1000
            } else {
                0
            };
            assert_eq!(sizes.get(nsid), expected, "namespace {nsid} of {there:?}");
        }
    }
}
