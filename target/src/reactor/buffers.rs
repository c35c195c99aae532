//! Where the buffer of a transfer comes from.
//!
//! Of the memory that may serve, the nearest that has room now and that nobody
//! waits for; where there is none, the transfer waits for the nearest that can
//! hold it. So nobody overtakes who waits for the same memory, a small memory
//! that comes first does not keep large transfers out, and who waits for one
//! does not hold up those who can go by another.

use sidelane_p2p::RegionId;
use sidelane_p2p::pool::{AllocError, Pool, PoolBuf};

use super::admission::Admission;
use super::ways::DataPath;

/// A pool and who waits for it.
pub(super) struct WaitedPool {
    /// Its memory; `None` while that is away.
    pub(super) pool: Option<Pool>,
    pub(super) admission: Admission,
}

impl WaitedPool {
    /// A buffer, as [`Pool::alloc`] gives it. No way leads to a pool whose memory
    /// is away.
    fn alloc(&self, len: usize) -> Result<PoolBuf, AllocError> {
        match &self.pool {
            Some(pool) if len <= pool.max_len() => pool.alloc(len),
            pool => Err(AllocError::TooLong {
                len,
                max: pool.as_ref().map_or(0, Pool::max_len),
            }),
        }
    }

    /// Whether its memory is this region.
    pub(super) fn is(&self, region: RegionId) -> bool {
        let pool = self.pool.as_ref();
        pool.is_some_and(|pool| pool.region().id() == region)
    }

    /// A buffer for the request whose turn it is, if there is room for it;
    /// `len_of` says how long a request's is.
    pub(super) fn next(
        &mut self,
        len_of: impl FnOnce(usize) -> usize,
    ) -> Option<(usize, Result<PoolBuf, AllocError>)> {
        let slot = self.admission.front()?;
        match self.alloc(len_of(slot)) {
            Err(AllocError::Exhausted { .. }) => None,
            outcome => {
                self.admission.pop();
                Some((slot, outcome))
            }
        }
    }
}

/// What becomes of a transfer that wants a buffer.
pub(super) enum Turn {
    /// It has one.
    Now(DataPath, PoolBuf),
    /// It has to wait for this memory.
    Wait(DataPath),
    /// None of the memory can ever hold it.
    Never,
}

/// The turn of a transfer of `len` bytes among the memory that may serve, best
/// first.
pub(super) fn turn(open: &[DataPath], pools: &[WaitedPool], len: usize) -> Turn {
    let mut waits = None;
    for way in open {
        let Some(waited) = pools.get(way.pool) else {
            continue;
        };
        let holds = waited.pool.as_ref().map_or(0, Pool::max_len) >= len;
        if !holds {
            continue;
        }
        if waited.admission.is_empty()
            && let Ok(buffer) = waited.alloc(len)
        {
            return Turn::Now(*way, buffer);
        }
        waits = waits.or(Some(*way));
    }
    waits.map_or(Turn::Never, Turn::Wait)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;
    use sidelane_p2p::pool::PoolSpec;
    use sidelane_p2p::provider::PathReason;
    use sidelane_p2p::{DmaSpace, ProcessMemory};

    use super::*;

    fn pool(pages: usize) -> WaitedPool {
        let region = ProcessMemory.host_region("test", pages * 4096).unwrap();
        WaitedPool {
            pool: Some(Pool::new(PoolSpec::new(region)).unwrap()),
            admission: Admission::new(4),
        }
    }

    fn ways(pools: usize) -> Vec<DataPath> {
        let way = |pool| DataPath {
            pool,
            path: PathReason::Peer,
            spare: false,
        };
        (0..pools).map(way).collect()
    }

    fn most(waited: &WaitedPool) -> usize {
        waited.pool.as_ref().map_or(0, Pool::max_len)
    }

    fn taken(turn: &Turn) -> Option<usize> {
        match turn {
            Turn::Now(way, _) => Some(way.pool),
            Turn::Wait(_) | Turn::Never => None,
        }
    }

    #[test]
    fn the_nearest_serves_while_it_has_room_then_the_next() {
        let (pools, open) = ([pool(2), pool(2)], ways(2));
        let held: Vec<_> = (0..4).map(|_| turn(&open, &pools, 4096)).collect();
        let order: Vec<_> = held.iter().filter_map(taken).collect();
        assert_eq!(order, [0, 0, 1, 1]);
        assert!(matches!(turn(&open, &pools, 4096), Turn::Wait(way) if way.pool == 0));
    }

    #[test]
    fn a_transfer_that_is_too_long_for_the_nearest_goes_to_the_next_that_holds_it() {
        let (pools, open) = ([pool(2), pool(16)], ways(2));
        let held = turn(&open, &pools, 8 * 4096);
        assert_eq!(taken(&held), Some(1));
        let _more = turn(&open, &pools, 8 * 4096);
        assert!(
            matches!(turn(&open, &pools, 8 * 4096), Turn::Wait(way) if way.pool == 1),
            "it would wait for ever for the first"
        );
        assert!(matches!(turn(&open, &pools, 17 * 4096), Turn::Never));
    }

    #[test]
    fn who_comes_later_does_not_overtake_but_goes_elsewhere() {
        let (mut pools, open) = ([pool(4), pool(4)], ways(2));
        let held = pools[0].alloc(2 * 4096).unwrap();
        pools[0].admission.push(0, 7);
        // Two pages are free there, and somebody waits for four.
        let other = turn(&open, &pools, 4096);
        assert_eq!(taken(&other), Some(1));
        assert!(pools[0].next(|_| 4 * 4096).is_none());
        drop(held);
        let (slot, buffer) = pools[0].next(|_| 4 * 4096).unwrap();
        assert!(slot == 7 && buffer.is_ok() && pools[0].admission.is_empty());
    }

    /// A transfer of so many pages comes on a connection, or the oldest ends.
    #[derive(Debug, Clone)]
    enum Event {
        Comes { conn: usize, pages: usize },
        Ends,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0usize..4, 1usize..12).prop_map(|(conn, pages)| Event::Comes { conn, pages }),
            2 => Just(Event::Ends),
        ]
    }

    /// The reactor's part, without everything else.
    struct Bench {
        pools: Vec<WaitedPool>,
        open: Vec<DataPath>,
        lens: Vec<usize>,
        held: VecDeque<PoolBuf>,
        /// Pool and connection of those who wait, by slot.
        waiting: BTreeMap<usize, (usize, usize)>,
    }

    impl Bench {
        fn comes(&mut self, conn: usize, len: usize) {
            let slot = self.lens.len();
            self.lens.push(len);
            match turn(&self.open, &self.pools, len) {
                Turn::Now(way, buffer) => {
                    let waits = |(pool, _): &(usize, usize)| *pool == way.pool;
                    assert!(!self.waiting.values().any(waits), "overtaken");
                    self.held.push_back(buffer);
                }
                Turn::Wait(way) => {
                    let nearest = self.pools.iter().position(|it| most(it) >= len);
                    assert_eq!(Some(way.pool), nearest);
                    self.pools[way.pool].admission.push(conn, slot);
                    self.waiting.insert(slot, (way.pool, conn));
                }
                Turn::Never => assert!(self.pools.iter().all(|it| most(it) < len)),
            }
        }

        /// What the reactor does in each round.
        fn admit(&mut self) {
            for at in 0..self.pools.len() {
                while let Some((slot, buffer)) = self.pools[at].next(|slot| self.lens[slot]) {
                    let mine = self.waiting.remove(&slot).unwrap();
                    assert!(
                        !self.waiting.range(..slot).any(|(_, other)| *other == mine),
                        "overtaken by the same connection"
                    );
                    self.held.push_back(buffer.unwrap());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn everyone_gets_a_buffer_in_turn_and_waits_only_where_there_is_none(
            sizes in proptest::collection::vec(1usize..10, 1..4),
            events in proptest::collection::vec(event(), 1..120),
        ) {
            let pools: Vec<_> = sizes.iter().map(|pages| pool(*pages)).collect();
            let mut bench = Bench {
                open: ways(pools.len()),
                pools,
                lens: Vec::new(),
                held: VecDeque::new(),
                waiting: BTreeMap::new(),
            };
            for event in events {
                match event {
                    Event::Comes { conn, pages } => bench.comes(conn, pages * 4096),
                    Event::Ends => drop(bench.held.pop_front()),
                }
                bench.admit();
            }
            // No more come: those who wait are served by those who end, one by one.
            while bench.held.pop_front().is_some() {
                bench.admit();
            }
            prop_assert!(bench.waiting.is_empty(), "{:?}", bench.waiting);
            prop_assert!(bench.pools.iter().all(|it| it.admission.is_empty()));
            prop_assert!(bench.pools.iter().flat_map(|it| &it.pool).all(|it| it.stats().in_use == 0));
        }
    }
}
