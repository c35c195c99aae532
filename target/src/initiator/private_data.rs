//! Private data of connection set-up (RDMA 3, format 0).

use bytes::Bytes;

/// Connection management's reason for "the consumer said no".
pub(super) const CONSUMER_REJECT: u16 = 28;

/// For a REQ: which queue, and how many receives and sends the host has for it.
pub(super) fn request(qid: u16, entries: u16) -> Bytes {
    let mut data = [0; 32];
    data[2..4].copy_from_slice(&qid.to_le_bytes());
    // HRQSIZE counts, HSQSIZE is SQSIZE of Connect and hence zero-based.
    data[4..6].copy_from_slice(&entries.to_le_bytes());
    data[6..8].copy_from_slice(&(entries - 1).to_le_bytes());
    Bytes::copy_from_slice(&data)
}

/// From a REP: the receives that the target has for the queue.
pub(super) fn accepted(data: &[u8]) -> Result<u16, &'static str> {
    match data {
        [0, 0, a, b, ..] => Ok(u16::from_le_bytes([*a, *b])),
        [_, _, _, _, ..] => Err("it accepted with a record format that the host does not know"),
        _ => Err("it accepted with private data shorter than a record"),
    }
}

/// From a REJ: the status.
pub(super) fn rejected(data: &[u8]) -> Option<u16> {
    match data {
        [0, 0, a, b, ..] => Some(u16::from_le_bytes([*a, *b])),
        _ => None,
    }
}
