//! The system's allocator, counting what reactors ask of it.
//!
//! Threads are told apart by their names. A name is looked up only while it is
//! counted, since a thread that has just begun has none yet.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Unknown,
    Reactor,
    Other,
}

thread_local! {
    static THREAD: Cell<Thread> = const { Cell::new(Thread::Unknown) };
}

static ON: AtomicBool = AtomicBool::new(false);
static BY_REACTORS: AtomicU64 = AtomicU64::new(0);
/// Allocations of which to say where they come from.
static TO_TRACE: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged. The
// thread-local is constant-initialized and has nothing to drop, so using it
// allocates nothing and is right at any time of a thread's life.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    if THREAD.get() == Thread::Unknown {
        // What looking it up allocates is not counted.
        THREAD.set(Thread::Other);
        let thread = std::thread::current();
        if thread
            .name()
            .is_some_and(|name| name.starts_with("reactor-"))
        {
            THREAD.set(Thread::Reactor);
        }
    }
    if THREAD.get() != Thread::Reactor {
        return;
    }
    BY_REACTORS.fetch_add(1, Ordering::Relaxed);
    let left = |n: u64| n.checked_sub(1);
    if TO_TRACE
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
        .is_ok()
    {
        THREAD.set(Thread::Other);
        eprintln!("a reactor allocates:\n{}", Backtrace::force_capture());
        THREAD.set(Thread::Reactor);
    }
}

/// Allocations of reactor threads while `work` runs, and what it gives. With
/// `BENCH_TRACE=N` the first N say on stderr where they come from.
pub fn of_reactors<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let trace = std::env::var("BENCH_TRACE")
        .ok()
        .and_then(|n| n.parse().ok());
    TO_TRACE.store(trace.unwrap_or(0), Ordering::Relaxed);
    let before = BY_REACTORS.load(Ordering::Relaxed);
    ON.store(true, Ordering::SeqCst);
    let outcome = work();
    ON.store(false, Ordering::SeqCst);
    (BY_REACTORS.load(Ordering::Relaxed) - before, outcome)
}
