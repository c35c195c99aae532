//! The host's own memory: one region, registered once, cut into receive
//! buffers, command capsules, a buffer for admin data, and the data area.

use std::ops::Range;

use sidelane_nvme::spec::{CQE_LEN, SQE_LEN, Sqe};
use sidelane_p2p::{MemView, OutOfRange, Region};
use sidelane_transport::nic::{MemoryRegion, Sge};
use zerocopy::{FromZeros, IntoBytes};

use super::EndpointOptions;
use super::options::ADMIN_QUEUE_ENTRIES;

/// Bytes of the admin data buffer: the longest structure a controller gives.
pub(super) const ADMIN_DATA_LEN: usize = 4096;

const PAGE: usize = 4096;

/// Where in the region things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Receive buffers, one completion each.
    pub receives: usize,
    /// Command capsules: the admin queue's, then each I/O queue's.
    capsules: usize,
    depth: usize,
    admin_data: usize,
    data: usize,
    /// All bytes.
    pub len: usize,
}

impl Layout {
    pub fn new(options: &EndpointOptions) -> Self {
        let depth = usize::from(options.depth);
        let slots = usize::from(ADMIN_QUEUE_ENTRIES) + usize::from(options.io_queues) * depth;
        // A response for every command, and some more for a target that answers
        // twice: the host would rather see that than let it run dry.
        let receives = slots + 16;
        let capsules = (receives * CQE_LEN).next_multiple_of(SQE_LEN);
        let admin_data = (capsules + slots * SQE_LEN).next_multiple_of(PAGE);
        let data = admin_data + ADMIN_DATA_LEN;
        Self {
            receives,
            capsules,
            depth,
            admin_data,
            data,
            len: data + options.data_len,
        }
    }

    fn capsule(&self, qid: u16, slot: u16) -> usize {
        let before = match qid {
            0 => 0,
            _ => usize::from(ADMIN_QUEUE_ENTRIES) + usize::from(qid - 1) * self.depth,
        };
        self.capsules + (before + usize::from(slot)) * SQE_LEN
    }
}

/// The region with its layout and its keys.
#[derive(Debug)]
pub(super) struct HostMemory {
    region: Region,
    keys: MemoryRegion,
    layout: Layout,
    data: MemView,
}

impl HostMemory {
    pub fn new(region: Region, keys: MemoryRegion, layout: Layout) -> Result<Self, OutOfRange> {
        let data = region.view().slice(layout.data..layout.len)?;
        Ok(Self {
            region,
            keys,
            layout,
            data,
        })
    }

    pub fn keys(&self) -> &MemoryRegion {
        &self.keys
    }

    /// The data area.
    pub fn data(&self) -> &MemView {
        &self.data
    }

    fn sge(&self, offset: usize, len: usize) -> Sge {
        Sge {
            addr: self.keys.base + offset as u64,
            len: len as u32,
            lkey: self.keys.lkey,
        }
    }

    pub fn receive_sge(&self, index: usize) -> Sge {
        self.sge(index * CQE_LEN, CQE_LEN)
    }

    pub fn receive_read(&self, index: usize, into: &mut [u8; CQE_LEN]) -> Result<(), OutOfRange> {
        self.region.view().read(index * CQE_LEN, into)
    }

    /// Puts a command into its capsule and names that.
    pub fn capsule_write(&self, qid: u16, slot: u16, sqe: &Sqe) -> Result<Sge, OutOfRange> {
        let offset = self.layout.capsule(qid, slot);
        self.region.view().write(offset, sqe.as_bytes())?;
        Ok(self.sge(offset, SQE_LEN))
    }

    /// The address and key that a target is given for a part of the data area.
    pub fn data_sge(&self, part: &Range<usize>) -> Result<Sge, OutOfRange> {
        let len = part.end.saturating_sub(part.start);
        if part.start > part.end || part.end > self.data.len() {
            return Err(OutOfRange {
                offset: part.start,
                len,
                view_len: self.data.len(),
            });
        }
        Ok(self.sge(self.layout.data + part.start, len))
    }

    /// As [`Self::data_sge`], for the admin data buffer.
    pub fn admin_sge(&self, len: usize) -> Sge {
        self.sge(self.layout.admin_data, len.min(ADMIN_DATA_LEN))
    }

    pub fn admin_write(&self, data: &[u8]) -> Result<(), OutOfRange> {
        self.region.view().write(self.layout.admin_data, data)
    }

    /// Clears the admin buffer, so that what is read later came from the target.
    pub fn admin_clear(&self) -> Result<(), OutOfRange> {
        self.admin_write(&[0; ADMIN_DATA_LEN])
    }

    /// The admin buffer read as a structure.
    pub fn admin_read<T: FromZeros + IntoBytes + zerocopy::FromBytes>(
        &self,
    ) -> Result<Box<T>, OutOfRange> {
        let mut value = Box::new(T::new_zeroed());
        self.region
            .view()
            .read(self.layout.admin_data, value.as_mut().as_mut_bytes())?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_parts_of_the_host_memory_overlap() {
        let options = EndpointOptions {
            io_queues: 3,
            depth: 5,
            data_len: 1 << 16,
        };
        let layout = Layout::new(&options);
        let mut parts: Vec<Range<usize>> = Vec::new();
        parts.extend((0..layout.receives).map(|i| i * CQE_LEN..(i + 1) * CQE_LEN));
        for (qid, slots) in [(0, ADMIN_QUEUE_ENTRIES), (1, 5), (2, 5), (3, 5)] {
            let at = |slot| layout.capsule(qid, slot);
            parts.extend((0..slots).map(|slot| at(slot)..at(slot) + SQE_LEN));
        }
        parts.push(layout.admin_data..layout.admin_data + ADMIN_DATA_LEN);
        parts.push(layout.data..layout.len);
        parts.sort_by_key(|part| part.start);
        assert!(
            parts.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{parts:?}"
        );
        assert_eq!(layout.len - layout.data, options.data_len);
    }
}
