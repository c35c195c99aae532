//! Once built, a pool takes no memory from the system: neither to hand out a
//! buffer, nor to take it back, nor to refuse one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sidelane_p2p::{MemView, Placement, Pool, PoolBuf, PoolSpec, Region};

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting this thread's calls.
struct Counting;

// SAFETY: hands every call on to the system's allocator unchanged; the counter
// is a constant-initialized thread-local, which allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn handing_out_and_taking_back_calls_no_allocator() {
    const UNITS: usize = 512;
    let view = MemView::anonymous(UNITS * 4096);
    let region = Region::new("memory", Placement::Host, 1 << 32, view, Box::new(()));
    let pool = Pool::new(PoolSpec::new(region)).unwrap();
    let mut held: Vec<Option<PoolBuf>> = Vec::with_capacity(UNITS);
    let before = CALLS.get();
    for round in 0..20 {
        // Many small ones until nothing is left, returned in a scattered order.
        while let Ok(buf) = pool.alloc(1 + (held.len() * 977 + round * 131) % 20_000) {
            held.push(Some(buf));
        }
        assert!(pool.alloc(usize::MAX).is_err());
        let count = held.len();
        for i in 0..count {
            held[i * 7919 % count] = None;
        }
        held.clear();
        while let Ok(buf) = pool.alloc(1) {
            held.push(Some(buf));
        }
        assert_eq!(held.len(), UNITS);
        held.clear();
    }
    assert_eq!(CALLS.get(), before);
    assert_eq!(pool.stats().in_use, 0);
}
