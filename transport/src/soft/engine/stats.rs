//! What an engine counts.
#![forbid(unsafe_code)]

use crate::nic::Count;

/// Counters of one engine, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets handed in.
    pub packets_in: u64,
    /// Packets written out.
    pub packets_out: u64,
    /// Payload bytes placed in registered memory.
    pub bytes_in: u64,
    /// Payload bytes taken from registered memory, retransmissions included.
    pub bytes_out: u64,
    /// Request packets written out again.
    pub retransmits: u64,
    /// Times an acknowledgement did not come in time and requests were repeated.
    pub timeouts: u64,
    /// READ responses or acknowledgements of which one was seen to be missing.
    pub lost_responses: u64,
    /// NAKs for a gap in the sequence: sent.
    pub sequence_naks_out: u64,
    /// NAKs for a gap in the sequence: received.
    pub sequence_naks_in: u64,
    /// Receiver-not-ready NAKs: sent.
    pub rnr_naks_out: u64,
    /// Receiver-not-ready NAKs: received.
    pub rnr_naks_in: u64,
    /// NAKs that end a connection: sent.
    pub fatal_naks_out: u64,
    /// NAKs that end a connection: received.
    pub fatal_naks_in: u64,
    /// Requests that had been received before.
    pub duplicates: u64,
    /// Packets dropped, by reason.
    pub drops: Drops,
}

/// Packets dropped without an answer, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops {
    /// Wrong invariant CRC (counted by the adapter, not by the core).
    pub bad_icrc: u64,
    /// Not a packet, or one of another transport service.
    pub malformed: u64,
    /// No queue pair of that number.
    pub unknown_qp: u64,
    /// Not from the peer's address, or not to the own one.
    pub wrong_peer: u64,
    /// Not of the default partition.
    pub wrong_partition: u64,
    /// The queue pair is not connected, or in the error state.
    pub wrong_state: u64,
    /// After a gap in the sequence that has been reported already.
    pub out_of_sequence: u64,
    /// A response to nothing that is outstanding.
    pub stale_response: u64,
    /// A repeated request that cannot be answered again.
    pub stale_request: u64,
}

impl Stats {
    /// By name, as statistics show them.
    pub fn counts(&self) -> Vec<Count> {
        let drops = &self.drops;
        [
            ("packets_in", self.packets_in),
            ("packets_out", self.packets_out),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("retransmits", self.retransmits),
            ("timeouts", self.timeouts),
            ("lost_responses", self.lost_responses),
            ("sequence_naks_out", self.sequence_naks_out),
            ("sequence_naks_in", self.sequence_naks_in),
            ("rnr_naks_out", self.rnr_naks_out),
            ("rnr_naks_in", self.rnr_naks_in),
            ("fatal_naks_out", self.fatal_naks_out),
            ("fatal_naks_in", self.fatal_naks_in),
            ("duplicates", self.duplicates),
            ("drops.bad_icrc", drops.bad_icrc),
            ("drops.malformed", drops.malformed),
            ("drops.unknown_qp", drops.unknown_qp),
            ("drops.wrong_peer", drops.wrong_peer),
            ("drops.wrong_partition", drops.wrong_partition),
            ("drops.wrong_state", drops.wrong_state),
            ("drops.out_of_sequence", drops.out_of_sequence),
            ("drops.stale_response", drops.stale_response),
            ("drops.stale_request", drops.stale_request),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }
}

impl Drops {
    /// All packets dropped.
    pub fn total(&self) -> u64 {
        self.bad_icrc
            + self.malformed
            + self.unknown_qp
            + self.wrong_peer
            + self.wrong_partition
            + self.wrong_state
            + self.out_of_sequence
            + self.stale_response
            + self.stale_request
    }
}
