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
    /// It serves only when all that come before it are lost.
    pub spare: bool,
}

/// The memory that one direction may use behind one adapter, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// All of it, and whether it is lost.
    ways: Vec<(DataPath, bool)>,
    /// What serves now. Never longer than `ways`.
    open: Vec<DataPath>,
}

impl Route {
    /// A route of these ways.
    pub fn new(ways: Vec<DataPath>) -> Self {
        let mut route = Self {
            open: Vec::with_capacity(ways.len()),
            ways: ways.into_iter().map(|way| (way, false)).collect(),
        };
        route.reopen();
        route
    }

    /// The memory that serves now, best first; none when all that the policy
    /// allows is lost.
    pub fn open(&self) -> &[DataPath] {
        &self.open
    }

    /// Whether any way uses a pool.
    pub fn uses(&self, pool: usize) -> bool {
        self.ways.iter().any(|(way, _)| way.pool == pool)
    }

    /// Takes a pool out of service. Where host memory comes next, what goes by it
    /// is counted with that reason.
    pub fn lose(&mut self, pool: usize) {
        self.mark(pool, true);
    }

    /// Brings a pool back into service.
    pub fn regain(&mut self, pool: usize) {
        self.mark(pool, false);
    }

    fn mark(&mut self, pool: usize, is_lost: bool) {
        for (_, lost) in self.ways.iter_mut().filter(|(way, _)| way.pool == pool) {
            *lost = is_lost;
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        self.open.clear();
        let mut lost_peer = false;
        for (way, lost) in &self.ways {
            if *lost {
                lost_peer |= way.path == PathReason::Peer;
                continue;
            }
            if way.spare && !self.open.is_empty() {
                break;
            }
            let mut way = *way;
            if lost_peer && self.open.is_empty() && way.path != PathReason::Peer {
                way.path = PathReason::Revoked;
            }
            self.open.push(way);
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
        DataPath {
            pool,
            path,
            spare: false,
        }
    }

    const fn spare(pool: usize, path: PathReason) -> DataPath {
        DataPath {
            pool,
            path,
            spare: true,
        }
    }

    #[rstest::rstest]
    #[case::host_comes_next(
        &[way(1, PathReason::Peer), spare(2, PathReason::HostByPolicy)],
        &[spare(2, PathReason::Revoked)]
    )]
    #[case::another_provider_comes_next(
        &[way(1, PathReason::Peer), spare(3, PathReason::Peer), spare(2, PathReason::NoRoute)],
        &[spare(3, PathReason::Peer)]
    )]
    #[case::another_serves_already(
        &[way(1, PathReason::Peer), way(3, PathReason::Peer), spare(2, PathReason::NoRoute)],
        &[way(3, PathReason::Peer)]
    )]
    #[case::host_that_was_named_goes_on(
        &[way(1, PathReason::Peer), way(2, PathReason::HostByPolicy)],
        &[way(2, PathReason::Revoked)]
    )]
    #[case::nothing_else_is_allowed(&[way(1, PathReason::Peer)], &[])]
    #[case::another_was_in_use(
        &[way(2, PathReason::NoRoute), spare(1, PathReason::Peer)],
        &[way(2, PathReason::NoRoute)]
    )]
    fn lost_memory_is_replaced_by_the_next_that_is_allowed_until_it_is_back(
        #[case] ways: &[DataPath],
        #[case] left: &[DataPath],
    ) {
        let whole = Route::new(ways.to_vec());
        let mut route = whole.clone();
        route.lose(1);
        assert_eq!(route.open(), left);
        route.regain(1);
        assert_eq!(route, whole);
        assert!(route.uses(1) && !route.uses(9));
    }

    #[test]
    fn a_spare_does_not_serve_beside_others() {
        let ways = [
            way(1, PathReason::Peer),
            way(2, PathReason::Peer),
            spare(3, PathReason::Peer),
            spare(4, PathReason::HostByPolicy),
        ];
        let mut route = Route::new(ways.to_vec());
        assert_eq!(route.open(), &ways[..2]);
        route.lose(1);
        route.lose(2);
        assert_eq!(route.open(), &ways[2..3]);
    }
}
