//! Which memory the payload of a namespace goes by, and what is left of that
//! when memory is taken away.

use sidelane_p2p::provider::PathReason;

/// The memory that one direction of a namespace uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPath {
    /// The pool, by its number in the target.
    pub pool: usize,
    /// Whether that is peer memory, and if not, why.
    pub path: PathReason,
}

/// The memory that one direction may use behind one adapter, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    ways: Vec<DataPath>,
}

impl Route {
    /// A route of these ways.
    pub fn new(ways: Vec<DataPath>) -> Self {
        Self { ways }
    }

    /// The way in use; `None` when all memory that the policy allows is lost.
    pub fn current(&self) -> Option<DataPath> {
        self.ways.first().copied()
    }

    /// Whether any way uses a pool.
    pub fn uses(&self, pool: usize) -> bool {
        self.ways.iter().any(|way| way.pool == pool)
    }

    /// Takes a pool out of service. Where host memory comes next, what goes by it
    /// is counted with that reason.
    pub fn lose(&mut self, pool: usize) {
        let lost = self.current().is_some_and(|way| way.pool == pool);
        self.ways.retain(|way| way.pool != pool);
        if let Some(next) = self.ways.first_mut().filter(|_| lost)
            && next.path != PathReason::Peer
        {
            next.path = PathReason::Revoked;
        }
    }
}

/// Both directions of a namespace behind one adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// For reads.
    pub reads: Route,
    /// For writes.
    pub writes: Route,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(pool: usize, path: PathReason) -> DataPath {
        DataPath { pool, path }
    }

    #[rstest::rstest]
    #[case::host_comes_next(
        &[way(1, PathReason::Peer), way(2, PathReason::HostByPolicy)],
        Some(way(2, PathReason::Revoked))
    )]
    #[case::another_provider_comes_next(
        &[way(1, PathReason::Peer), way(3, PathReason::Peer)],
        Some(way(3, PathReason::Peer))
    )]
    #[case::nothing_else_is_allowed(&[way(1, PathReason::Peer)], None)]
    #[case::another_was_in_use(
        &[way(2, PathReason::NoRoute), way(1, PathReason::Peer)],
        Some(way(2, PathReason::NoRoute))
    )]
    fn lost_memory_is_replaced_by_the_next_that_is_allowed(
        #[case] ways: &[DataPath],
        #[case] left: Option<DataPath>,
    ) {
        let mut route = Route::new(ways.to_vec());
        route.lose(1);
        assert_eq!(route.current(), left);
        assert!(!route.uses(1));
    }
}
