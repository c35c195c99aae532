//! Where the data of a command is: in its capsule, or in memory of the host that
//! RDMA reaches by key (NVM Express Base Specification, revision 2.1, clause
//! 4.3.2; RDMA Transport Specification, clause 3.2).

use std::ops::Range;

use arrayvec::ArrayVec;
use sidelane_nvme::spec::{Sgl, SglDescriptor, Sqe, Status};
use zerocopy::FromBytes;

/// Descriptors that a list may have.
pub const MAX_DESCRIPTORS: usize = 16;

/// Bytes of the longest list: what a capsule must have room for behind the
/// command.
pub const MAX_LIST_BYTES: usize = MAX_DESCRIPTORS * size_of::<SglDescriptor>();

/// A span of the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyedData {
    /// Address in the host's registration.
    pub addr: u64,
    /// Bytes, below 2^24.
    pub len: u32,
    /// The host's key.
    pub key: u32,
    /// The response shall invalidate the key.
    pub invalidate: bool,
}

/// The data that a command names.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives in a request's slot, made once; a box would be an allocation per command"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostData {
    /// None.
    None,
    /// It came with the command, within bounds.
    InCapsule {
        /// From where in-capsule data begins.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// It is in the host's memory: not empty, and no piece wraps.
    Keyed(ArrayVec<KeyedData, MAX_DESCRIPTORS>),
}

impl HostData {
    /// Bytes in all.
    pub fn len(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::InCapsule { len, .. } => *len,
            // No more than MAX_DESCRIPTORS times 2^24.
            Self::Keyed(pieces) => pieces.iter().map(|piece| piece.len).sum(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that the response shall invalidate, if the host asked for it. A
    /// response has room for one, so of several the first is taken; the host
    /// invalidates what is left itself.
    pub fn invalidate(&self) -> Option<u32> {
        match self {
            Self::Keyed(pieces) => pieces
                .iter()
                .find(|piece| piece.invalidate)
                .map(|piece| piece.key),
            _ => None,
        }
    }
}

/// Why the data pointer of a command cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SglError {
    /// A descriptor of a type or sub type that RDMA does not use.
    #[error("a descriptor of a type that RDMA does not use there")]
    Type,
    /// A list whose length is not that of a whole number of descriptors.
    #[error("a segment descriptor whose length is not that of descriptors")]
    Segment,
    /// More descriptors than the controller takes.
    #[error("more descriptors than the controller takes")]
    Count,
    /// An offset that points outside the capsule.
    #[error("an offset outside the capsule")]
    Offset,
    /// A length that runs past the end of the capsule, or of the address space.
    #[error("a length that runs past the end")]
    Length,
}

impl SglError {
    /// The status to complete the command with. To repeat it would not help.
    pub fn status(self) -> Status {
        let status = match self {
            Self::Type => Status::SGL_TYPE_INVALID,
            Self::Segment => Status::INVALID_SGL_SEGMENT,
            Self::Count => Status::INVALID_SGL_COUNT,
            Self::Offset => Status::SGL_OFFSET_INVALID,
            Self::Length => Status::DATA_SGL_LENGTH_INVALID,
        };
        status.with_dnr(true)
    }
}

/// Reads the data pointer of a command that came with `in_capsule` bytes of data,
/// for a controller that takes up to `most` descriptors, at most
/// [`MAX_DESCRIPTORS`] (MSDBD). A list of keyed ones may stand in the capsule:
/// `read` fills a buffer with that part of its data, and says whether it could.
///
/// # Errors
/// When it is not one that this transport can follow.
pub fn data_pointer(
    sqe: &Sqe,
    in_capsule: usize,
    most: usize,
    read: impl FnOnce(Range<usize>, &mut [u8]) -> bool,
) -> Result<HostData, SglError> {
    let (address, length) = match sqe.dptr.sgl().decode() {
        Sgl::Segment {
            address,
            length: length @ 1..,
            in_capsule: true,
            last: true,
        } => (address, length),
        single => return one(single, in_capsule),
    };
    let size = size_of::<SglDescriptor>();
    if !(length as usize).is_multiple_of(size) {
        return Err(SglError::Segment);
    }
    if length as usize / size > most.min(MAX_DESCRIPTORS) {
        return Err(SglError::Count);
    }
    let mut list = [0; MAX_LIST_BYTES];
    let list = list.get_mut(..length as usize).ok_or(SglError::Count)?;
    if !read(within(address, length, in_capsule)?, list) {
        return Err(SglError::Offset);
    }
    let mut pieces = ArrayVec::new();
    for bytes in list.chunks_exact(size) {
        let descriptor = SglDescriptor::read_from_bytes(bytes).map_err(|_| SglError::Segment)?;
        let piece = match descriptor.decode() {
            Sgl::Keyed {
                address,
                length,
                key,
                invalidate,
            } => keyed(address, length, key, invalidate)?,
            _ => return Err(SglError::Type),
        };
        // A piece without bytes moves none, and names no key worth keeping.
        if piece.len > 0 {
            pieces.try_push(piece).map_err(|_| SglError::Count)?;
        }
    }
    Ok(if pieces.is_empty() {
        HostData::None
    } else {
        HostData::Keyed(pieces)
    })
}

/// A descriptor that stands alone. One without bytes names nothing, whatever its
/// type: hosts differ in what they write where there is no data.
fn one(sgl: Sgl, in_capsule: usize) -> Result<HostData, SglError> {
    match sgl {
        Sgl::DataBlock { length: 0, .. }
        | Sgl::InCapsule { length: 0, .. }
        | Sgl::Keyed { length: 0, .. } => Ok(HostData::None),
        Sgl::InCapsule { offset, length } => {
            let range = within(offset, length, in_capsule)?;
            // Offsets of real capsules fit.
            let offset = u32::try_from(range.start).map_err(|_| SglError::Offset)?;
            Ok(HostData::InCapsule {
                offset,
                len: length,
            })
        }
        Sgl::Keyed {
            address,
            length,
            key,
            invalidate,
        } => {
            let mut pieces = ArrayVec::new();
            pieces.push(keyed(address, length, key, invalidate)?);
            Ok(HostData::Keyed(pieces))
        }
        Sgl::Segment { .. }
        | Sgl::DataBlock { .. }
        | Sgl::BitBucket { .. }
        | Sgl::Transport { .. }
        | Sgl::Unknown(_) => Err(SglError::Type),
    }
}

fn keyed(addr: u64, len: u32, key: u32, invalidate: bool) -> Result<KeyedData, SglError> {
    addr.checked_add(u64::from(len)).ok_or(SglError::Length)?;
    Ok(KeyedData {
        addr,
        len,
        key,
        invalidate,
    })
}

/// The range in a capsule with `in_capsule` bytes of data.
fn within(offset: u64, length: u32, in_capsule: usize) -> Result<Range<usize>, SglError> {
    let start = usize::try_from(offset).map_err(|_| SglError::Offset)?;
    if start > in_capsule {
        return Err(SglError::Offset);
    }
    match start.checked_add(length as usize) {
        Some(end) if end <= in_capsule => Ok(start..end),
        _ => Err(SglError::Length),
    }
}

#[cfg(test)]
mod tests;
