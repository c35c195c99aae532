//! Buffers cut from a region, for one reactor.
//!
//! A [`Pool`] belongs to one thread (it is not `Send`), so nothing in it is
//! locked; a [`PoolSpec`] is what travels to that thread. All bookkeeping lies
//! in host memory: to hand out a buffer of a BAR, the BAR is never read. And
//! all of it is allocated when the pool is built, none afterwards.
//!
//! A buffer is one contiguous run of units. That departs from the fixed-size
//! chunks that the design first had, on purpose: a command then has one data
//! pointer and one scatter-gather entry whatever its length, and a small
//! command does not hold a large chunk of scarce device memory. The price is
//! that free memory can be there and yet be in pieces; see
//! [`AllocError::Exhausted`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use offset_allocator::{Allocation, Allocator};

use crate::{OutOfRange, Region};

/// The unit when nothing else is asked for: the smallest NVMe memory page.
pub const DEFAULT_UNIT: usize = 4096;

/// The most units that one pool manages: 1 TiB in units of 4 KiB, for 8 GiB
/// of bookkeeping at worst.
const MAX_UNITS: usize = 1 << 28;

/// What a pool is to be built of. Can be sent to the thread that builds it.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// The region that buffers are cut from.
    pub region: Region,
    /// The part of it that the pool may use, in bytes.
    pub range: Range<usize>,
    /// The granularity, in bytes: a power of two, 4096 if nothing speaks
    /// against it. The device address of each buffer is a multiple of it.
    pub unit: usize,
}

impl PoolSpec {
    /// A pool of the whole region, in units of [`DEFAULT_UNIT`].
    pub fn new(region: Region) -> Self {
        let range = 0..region.len();
        Self {
            region,
            range,
            unit: DEFAULT_UNIT,
        }
    }

    /// One share for each of `n` reactors: disjoint, in whole units, and no two
    /// differ by more than one unit.
    pub fn split(&self, n: usize) -> Vec<Self> {
        let unit = self.unit.max(1);
        let units = self.range.len() / unit;
        let mut start = self.range.start;
        (0..n)
            .map(|i| {
                let share = units / n + usize::from(i < units % n);
                let range = start..start + share * unit;
                start = range.end;
                Self {
                    region: self.region.clone(),
                    range,
                    unit: self.unit,
                }
            })
            .collect()
    }
}

/// Why a pool cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The range does not lie inside the region.
    #[error("a pool of {name} cannot use bytes {range:#x?}: the region has {len:#x}")]
    Range {
        /// The region.
        name: String,
        /// The range asked for.
        range: Range<usize>,
        /// The region's length in bytes.
        len: usize,
    },
    /// The unit is not a power of two, or the range does not begin on one.
    #[error(
        "a pool of {name} cannot have units of {unit} bytes from device address {iova:#x}; use a power of two that divides the address"
    )]
    Unit {
        /// The region.
        name: String,
        /// The unit asked for, in bytes.
        unit: usize,
        /// The device address at which the range begins.
        iova: u64,
    },
    /// Less than one unit, or more than a pool manages.
    #[error(
        "a pool of {name} would have {units} units of {unit} bytes; it must have from 1 to {MAX_UNITS}"
    )]
    Size {
        /// The region.
        name: String,
        /// How many it would have.
        units: usize,
        /// The unit in bytes.
        unit: usize,
    },
}

/// Why no buffer was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// No free run is long enough now; it will be when buffers come back.
    ///
    /// A run is found in constant time by classes of length, eight for each
    /// doubling, so a run less than an eighth longer than asked for may be
    /// passed over.
    #[error("no free run of {len} bytes in the pool now ({free} bytes are free)")]
    Exhausted {
        /// Bytes asked for.
        len: usize,
        /// Bytes free in all, in one piece or not.
        free: usize,
    },
    /// The pool could not hand out so much even when all of it is free.
    #[error("{len} bytes are more than this pool ever hands out at once ({max})")]
    TooLong {
        /// Bytes asked for.
        len: usize,
        /// The most at once.
        max: usize,
    },
}

/// How full a pool is. All sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// All that the pool manages.
    pub capacity: usize,
    /// Held by buffers now, in whole units.
    pub in_use: usize,
    /// The most that was held at once.
    pub peak: usize,
    /// Requests that were not met.
    pub failures: u64,
}

/// Hands out buffers of one region, on one thread.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    region: Region,
    /// Offset of the first unit in the region.
    start: usize,
    unit_shift: u32,
    max_len: usize,
    allocator: RefCell<Allocator>,
    stats: Cell<PoolStats>,
}

impl Pool {
    /// Builds the pool, with all the bookkeeping that it will ever need.
    ///
    /// # Errors
    /// When the specification does not fit its region.
    pub fn new(spec: PoolSpec) -> Result<Self, PoolError> {
        let PoolSpec {
            region,
            range,
            unit,
        } = spec;
        let name = || region.name().to_owned();
        let iova = region
            .iova_of(range.clone())
            .map_err(|_| PoolError::Range {
                name: name(),
                range: range.clone(),
                len: region.len(),
            })?;
        if !unit.is_power_of_two() || !iova.is_multiple_of(unit as u64) {
            return Err(PoolError::Unit {
                name: name(),
                unit,
                iova,
            });
        }
        let count = range.len() / unit;
        let units = u32::try_from(count)
            .ok()
            .filter(|_| (1..=MAX_UNITS).contains(&count))
            .ok_or_else(|| PoolError::Size {
                name: name(),
                units: count,
                unit,
            })?;
        // A node for each unit handed out by itself, one for the free rest, and
        // one that the allocator keeps back: so it never runs out of nodes
        // before it runs out of units.
        let allocator = Allocator::with_max_allocs(units, units + 2);
        // Lengths are rounded up to classes when asked for, so the longest run
        // of an empty pool may be a little less than all of it.
        let max_units = allocator.storage_report().largest_free_region as usize;
        let stats = PoolStats {
            capacity: count * unit,
            ..PoolStats::default()
        };
        Ok(Self(Rc::new(Inner {
            start: range.start,
            unit_shift: unit.trailing_zeros(),
            max_len: max_units * unit,
            allocator: RefCell::new(allocator),
            stats: Cell::new(stats),
            region,
        })))
    }

    /// A buffer of `len` bytes in one run. A length of 0 takes one unit.
    ///
    /// # Errors
    /// When no run of that length is free, or the pool is too small for it.
    pub fn alloc(&self, len: usize) -> Result<PoolBuf, AllocError> {
        let inner = &*self.0;
        let mut stats = inner.stats.get();
        let result = if len > inner.max_len {
            Err(AllocError::TooLong {
                len,
                max: inner.max_len,
            })
        } else {
            // Fits: `max_len` is at most `MAX_UNITS` units.
            let units = (len.max(1).div_ceil(1 << inner.unit_shift)) as u32;
            let found = inner.allocator.borrow_mut().allocate(units);
            found
                .map(|allocation| (allocation, units))
                .ok_or(AllocError::Exhausted {
                    len,
                    free: stats.capacity - stats.in_use,
                })
        };
        let result = match result {
            Ok((allocation, units)) => {
                stats.in_use += (units as usize) << inner.unit_shift;
                stats.peak = stats.peak.max(stats.in_use);
                let offset = inner.start + ((allocation.offset as usize) << inner.unit_shift);
                Ok(PoolBuf {
                    pool: Rc::clone(&self.0),
                    allocation,
                    units,
                    offset,
                    len,
                })
            }
            Err(error) => {
                stats.failures += 1;
                Err(error)
            }
        };
        inner.stats.set(stats);
        result
    }

    /// The longest buffer that the pool hands out when all of it is free, in
    /// bytes.
    pub fn max_len(&self) -> usize {
        self.0.max_len
    }

    /// The region that buffers are cut from.
    pub fn region(&self) -> &Region {
        &self.0.region
    }

    /// How full it is.
    pub fn stats(&self) -> PoolStats {
        self.0.stats.get()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("region", &self.0.region)
            .field("stats", &self.stats())
            .finish()
    }
}

/// A buffer of a pool; goes back to it when dropped, and keeps its memory
/// mapped until then.
pub struct PoolBuf {
    pool: Rc<Inner>,
    allocation: Allocation,
    units: u32,
    offset: usize,
    len: usize,
}

impl PoolBuf {
    /// The region that it is a part of.
    pub fn region(&self) -> &Region {
        &self.pool.region
    }

    /// Offset of its first byte in the region.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Length in bytes, as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes were asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The client devices' address of its first byte.
    pub fn iova(&self) -> u64 {
        self.pool.region.iova() + self.offset as u64
    }

    /// Copies bytes out of the buffer with the CPU; `offset` counts from the
    /// buffer's first byte. Never on a path that claims not to touch payload.
    ///
    /// # Errors
    /// When the range does not lie inside the buffer.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let at = self.at(offset, into.len())?;
        self.pool.region.view().read(at, into)
    }

    /// Copies bytes into the buffer with the CPU; `offset` counts from the
    /// buffer's first byte.
    ///
    /// # Errors
    /// When the range does not lie inside the buffer; nothing is written then.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        let at = self.at(offset, from.len())?;
        self.pool.region.view().write(at, from)
    }

    /// The offset in the region of a part of the buffer.
    fn at(&self, offset: usize, len: usize) -> Result<usize, OutOfRange> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.offset + offset),
            _ => Err(OutOfRange {
                offset,
                len,
                view_len: self.len,
            }),
        }
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        self.pool.allocator.borrow_mut().free(self.allocation);
        let mut stats = self.pool.stats.get();
        stats.in_use -= (self.units as usize) << self.pool.unit_shift;
        self.pool.stats.set(stats);
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PoolBuf({} at {:#x}, {:#x} bytes)",
            self.region().name(),
            self.iova(),
            self.len
        )
    }
}

#[cfg(test)]
mod tests;
