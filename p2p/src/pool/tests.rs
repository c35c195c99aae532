use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{MemView, Placement};

fn region(len: usize) -> Region {
    let view = MemView::anonymous(len);
    Region::new(
        "memory of a test",
        Placement::Host,
        0x1_0000_0000,
        view,
        Box::new(()),
    )
}

fn pool(units: usize) -> Pool {
    Pool::new(PoolSpec::new(region(units * DEFAULT_UNIT))).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Give(prop::sample::Index),
}

fn steps(max_len: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..=max_len).prop_map(Step::Take),
        2 => any::<prop::sample::Index>().prop_map(Step::Give),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn buffers_never_overlap_and_leave_nothing_behind(
        units in 1usize..300, steps in steps(64 * DEFAULT_UNIT),
    ) {
        let pool = pool(units);
        let mut held: Vec<PoolBuf> = Vec::new();
        for step in steps {
            match step {
                Step::Take(len) => match pool.alloc(len) {
                    Ok(buf) => {
                        prop_assert_eq!(buf.len(), len);
                        prop_assert_eq!(buf.iova() % DEFAULT_UNIT as u64, 0);
                        prop_assert!(buf.offset() + len <= units * DEFAULT_UNIT);
                        held.push(buf);
                    }
                    Err(AllocError::TooLong { max, .. }) => prop_assert!(len > max),
                    Err(AllocError::Exhausted { .. }) => prop_assert!(!held.is_empty()),
                },
                Step::Give(index) if !held.is_empty() => {
                    held.swap_remove(index.index(held.len()));
                }
                Step::Give(_) => {}
            }
            let whole = |len: usize| len.max(1).next_multiple_of(DEFAULT_UNIT);
            let spans: BTreeMap<_, _> =
                held.iter().map(|b| (b.offset(), b.offset() + whole(b.len()))).collect();
            prop_assert_eq!(spans.len(), held.len());
            for (end, next) in spans.values().zip(spans.keys().skip(1)) {
                prop_assert!(end <= next);
            }
            let stats = pool.stats();
            prop_assert_eq!(stats.in_use, held.iter().map(|b| whole(b.len())).sum::<usize>());
            prop_assert!(stats.in_use <= stats.peak && stats.peak <= stats.capacity);
        }
        held.clear();
        prop_assert_eq!(pool.stats().in_use, 0);
        let all = pool.alloc(pool.max_len());
        prop_assert!(all.is_ok(), "{:?}", all);
    }

    #[test]
    fn every_length_up_to_the_longest_is_had_from_an_empty_pool(units in 1usize..2000, seed: u64) {
        let pool = pool(units);
        prop_assert!(pool.max_len() <= units * DEFAULT_UNIT);
        prop_assert!(pool.max_len() > units * DEFAULT_UNIT / 9 * 8);
        let len = 1 + (seed as usize) % pool.max_len();
        prop_assert!(pool.alloc(len).is_ok());
        prop_assert!(pool.alloc(pool.max_len()).is_ok());
        prop_assert!(pool.alloc(pool.max_len() + 1).is_err());
        prop_assert_eq!(pool.stats().failures, 1);
    }

    #[test]
    fn all_units_are_had_one_by_one_and_again_after_release(units in 1usize..2000, order: u64) {
        let pool = pool(units);
        for _ in 0..2 {
            let mut held: Vec<_> = (0..units).map(|_| pool.alloc(1).unwrap()).collect();
            let full = AllocError::Exhausted { len: 1, free: 0 };
            prop_assert_eq!(pool.alloc(1).unwrap_err(), full);
            while !held.is_empty() {
                held.swap_remove(order as usize % held.len());
            }
        }
        prop_assert!(pool.alloc(pool.max_len()).is_ok());
    }

    #[test]
    fn shares_are_disjoint_and_make_up_the_whole(units in 0usize..200, n in 1usize..20) {
        let mut spec = PoolSpec::new(region(units * DEFAULT_UNIT + 100));
        spec.range.start = 0;
        let shares = spec.split(n);
        prop_assert_eq!(shares.len(), n);
        let mut at = 0;
        for share in &shares {
            prop_assert_eq!(share.range.start, at);
            at = share.range.end;
            let even = units / n;
            prop_assert!((even..=even + 1).contains(&(share.range.len() / DEFAULT_UNIT)));
        }
        prop_assert_eq!(at, units * DEFAULT_UNIT);
    }
}

#[test]
fn a_buffer_reads_and_writes_its_own_bytes_only() {
    let mut spec = PoolSpec::new(region(8 * DEFAULT_UNIT));
    spec.range = 2 * DEFAULT_UNIT..8 * DEFAULT_UNIT;
    let pool = Pool::new(spec).unwrap();
    let (first, second) = (pool.alloc(5000).unwrap(), pool.alloc(10).unwrap());
    first.write(0, &[1; 5000]).unwrap();
    second.write(0, &[2; 10]).unwrap();
    let mut bytes = [0; 3];
    first.read(4997, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 3]);
    first
        .region()
        .view()
        .read(second.offset(), &mut bytes)
        .unwrap();
    assert_eq!(bytes, [2; 3]);
    assert!(first.offset() >= 2 * DEFAULT_UNIT);
    assert_eq!(first.iova(), first.region().iova() + first.offset() as u64);
    assert!(first.read(4998, &mut bytes).is_err());
    assert!(second.write(10, &[0]).is_err());
    assert!(second.write(usize::MAX, &[0]).is_err());
}

#[test]
fn a_buffer_outlives_the_pool_it_came_from() {
    let pool = pool(4);
    let buf = pool.alloc(100).unwrap();
    drop(pool);
    buf.write(0, &[7; 100]).unwrap();
}

#[rstest::rstest]
#[case::past_the_end(0..5 * 4096, 4096, "the region has 0x4000")]
#[case::backwards(Range { start: 8192, end: 4096 }, 4096, "cannot use bytes")]
#[case::odd_unit(0..16384, 3000, "use a power of two")]
#[case::no_unit(0..16384, 0, "use a power of two")]
#[case::unaligned_start(512..16384, 4096, "use a power of two")]
#[case::less_than_a_unit(0..100, 4096, "0 units")]
fn a_specification_that_does_not_fit_is_refused(
    #[case] range: Range<usize>,
    #[case] unit: usize,
    #[case] expected: &str,
) {
    let spec = PoolSpec {
        region: region(4 * 4096),
        range,
        unit,
    };
    let text = Pool::new(spec).unwrap_err().to_string();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_specification_travels_to_the_thread_that_builds_the_pool() {
    fn travels<T: Send>(_: &T) {}
    let spec = PoolSpec::new(region(DEFAULT_UNIT));
    travels(&spec);
    std::thread::spawn(|| Pool::new(spec).unwrap().alloc(1).unwrap().len())
        .join()
        .unwrap();
}
