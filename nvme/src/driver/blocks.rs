//! Bytes of the blocks of each namespace, as they were when a queue pair was made.

use super::Namespace;
use crate::spec::NSID_ALL;

/// The block size of a namespace.
#[derive(Clone, Copy)]
pub(super) struct BlockSize {
    pub(super) nsid: u32,
    pub(super) bytes: u32,
}

/// Block sizes by namespace.
pub(super) struct BlockSizes {
    /// The one that was asked for last: most queue pairs serve one namespace.
    last: BlockSize,
    /// Ascending by identifier.
    all: Box<[BlockSize]>,
}

impl BlockSizes {
    /// Those of `namespaces`, which ascend by identifier.
    pub(super) fn of(namespaces: &[Namespace]) -> Self {
        let size = |it: &Namespace| BlockSize {
            nsid: it.nsid,
            bytes: it.block_bytes,
        };
        Self {
            // Nobody means a namespace by this identifier.
            last: BlockSize {
                nsid: NSID_ALL,
                bytes: 0,
            },
            all: namespaces.iter().map(size).collect(),
        }
    }

    /// That of the namespace that was last turned to.
    #[inline]
    pub(super) fn last(&self) -> BlockSize {
        self.last
    }

    /// Turns to a namespace, if there is such a one.
    pub(super) fn turn_to(&mut self, nsid: u32) -> bool {
        let found = self.all.binary_search_by_key(&nsid, |it| it.nsid);
        let found = found.ok().and_then(|at| self.all.get(at));
        if let Some(found) = found {
            self.last = *found;
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    fn every_namespace_is_found_and_no_other(
        #[values(&[], &[1], &[1, 2, 3], &[2, 3, 7], &[u32::MAX - 1])] there: &[u32],
    ) {
        let size = |nsid: &u32| BlockSize {
            nsid: *nsid,
            bytes: nsid ^ 0x1000,
        };
        let mut sizes = BlockSizes {
            last: BlockSize { nsid: 0, bytes: 0 },
            all: there.iter().map(size).collect(),
        };
        for nsid in (0..10).chain([u32::MAX - 1, u32::MAX, 0, 1, 1, 2, 9]) {
            let before = sizes.last().nsid;
            let found = sizes.turn_to(nsid);
            assert_eq!(
                found,
                there.contains(&nsid),
                "namespace {nsid} of {there:?}"
            );
            let now = if found { nsid } else { before };
            assert_eq!(sizes.last().nsid, now);
            assert!(!found || sizes.last().bytes == nsid ^ 0x1000);
        }
    }
}
