//! Control messages of what arrives.
//!
//! Read as bytes, with every length checked: the kernel writes them, but no
//! length may lead outside of the buffer.

use std::mem::{offset_of, size_of};

/// Messages begin at multiples of this.
const ALIGN: usize = size_of::<usize>();

const HEADER: usize = size_of::<libc::cmsghdr>();

/// The size of the datagrams of a run, if the control messages of it say one.
pub(super) fn segment_size(mut control: &[u8]) -> Option<usize> {
    while let Some(len) = number(control, offset_of!(libc::cmsghdr, cmsg_len)) {
        let data = control.get(HEADER..usize::from_ne_bytes(len))?;
        let level = number(control, offset_of!(libc::cmsghdr, cmsg_level))?;
        let kind = number(control, offset_of!(libc::cmsghdr, cmsg_type))?;
        let (level, kind) = (i32::from_ne_bytes(level), i32::from_ne_bytes(kind));
        if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
            let size = i32::from_ne_bytes(number(data, 0)?);
            return usize::try_from(size).ok().filter(|size| *size > 0);
        }
        control = control.get((HEADER + data.len()).next_multiple_of(ALIGN)..)?;
    }
    None
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(HEADER + data.len()).to_ne_bytes());
        put(offset_of!(libc::cmsghdr, cmsg_level), &level.to_ne_bytes());
        put(offset_of!(libc::cmsghdr, cmsg_type), &kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    fn runs_of(size: i32) -> Vec<u8> {
        message(libc::SOL_UDP, libc::UDP_GRO, &size.to_ne_bytes())
    }

    #[test]
    fn the_size_is_found_behind_other_messages_and_only_whole() {
        assert_eq!(segment_size(&[]), None);
        assert_eq!(segment_size(&runs_of(4116)), Some(4116));
        assert_eq!(segment_size(&runs_of(0)), None);
        assert_eq!(segment_size(&runs_of(-1)), None);
        let other = message(libc::SOL_SOCKET, libc::UDP_GRO, &[1; 5]);
        assert_eq!(segment_size(&other), None);
        assert_eq!(segment_size(&[other, runs_of(7)].concat()), Some(7));
        let short = message(libc::SOL_UDP, libc::UDP_GRO, &[1, 0, 0]);
        assert_eq!(segment_size(&short), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_and_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100), len in 0usize..120,
        ) {
            let _ = segment_size(&bytes);
            // A length that is likely to be taken.
            if let Some(first) = bytes.first_chunk_mut() {
                *first = len.to_ne_bytes();
            }
            let _ = segment_size(&bytes);
        }
    }
}
