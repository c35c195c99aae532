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
    /// Each with whether it is away.
    ways: Vec<(DataPath, bool)>,
}

impl Route {
    /// A route of these ways.
    pub fn new(ways: Vec<DataPath>) -> Self {
        Self {
            ways: ways.into_iter().map(|way| (way, false)).collect(),
        }
    }

    /// The way in use; `None` when all memory that the policy allows is lost.
    /// Where host memory takes the place of what is lost, what goes by it is
    /// counted with that reason.
    pub fn current(&self) -> Option<DataPath> {
        let at = self.ways.iter().position(|(_, away)| !away)?;
        let (mut way, _) = *self.ways.get(at)?;
        if at > 0 && way.path != PathReason::Peer {
            way.path = PathReason::Revoked;
        }
        Some(way)
    }

    /// Whether any way uses a pool, now or when it is back.
    pub fn uses(&self, pool: usize) -> bool {
        self.ways.iter().any(|(way, _)| way.pool == pool)
    }

    /// Takes a pool out of service.
    pub fn lose(&mut self, pool: usize) {
        self.set_away(pool, true);
    }

    /// Takes a pool into service again, in its place in the order.
    pub fn regain(&mut self, pool: usize) {
        self.set_away(pool, false);
    }

    fn set_away(&mut self, pool: usize, away: bool) {
        for (_, it) in self.ways.iter_mut().filter(|(way, _)| way.pool == pool) {
            *it = away;
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
    fn lost_memory_is_replaced_by_the_next_that_is_allowed_until_it_is_back(
        #[case] ways: &[DataPath],
        #[case] left: Option<DataPath>,
    ) {
        let mut route = Route::new(ways.to_vec());
        route.lose(1);
        assert_eq!(route.current(), left);
        route.regain(1);
        assert_eq!(route.current(), ways.first().copied());
    }
}
