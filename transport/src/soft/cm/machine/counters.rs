//! What a manager has met, by name, as statistics show it.

use crate::nic::Count;

/// Counters of one manager, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CmCounters {
    /// Messages taken.
    pub received: u64,
    /// Messages sent, repetitions included.
    pub sent: u64,
    /// Messages sent again for want of an answer, or since the peer said the same
    /// again.
    pub repeated: u64,
    /// Messages rejected by this side itself, not by its consumer.
    pub refused: u64,
    /// Messages that had come before, and were answered again or passed over.
    pub duplicates: Duplicates,
    /// Datagrams dropped without an answer.
    pub drops: CmDrops,
}

/// Messages that had come before, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Requests.
    pub req: u64,
    /// Replies.
    pub rep: u64,
    /// Ready to use.
    pub rtu: u64,
    /// Appeals for patience.
    pub mra: u64,
    /// Rejections.
    pub rej: u64,
    /// Requests to disconnect, those of connections long gone included.
    pub dreq: u64,
    /// Their answers.
    pub drep: u64,
}

/// Datagrams dropped without an answer, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CmDrops {
    /// Not the length of a management datagram.
    pub bad_length: u64,
    /// Another management class, version or method.
    pub other_class: u64,
    /// A message of connection management that is not known here.
    pub unknown_attribute: u64,
    /// A message about a connection that this side does not have.
    pub unknown_connection: u64,
    /// A message that does not fit the state of its connection, or names another
    /// queue pair.
    pub unexpected: u64,
    /// Requests for which there was no room.
    pub half_open: u64,
    /// Requests beyond those that one peer may have open at a time.
    pub half_open_of_peer: u64,
    /// Taken in by nobody, since the consumer has left too many events lying.
    pub crowded: u64,
    /// Messages of this side for which the queue to the socket had no room.
    pub outgoing: u64,
}

impl CmCounters {
    /// By name.
    pub fn counts(&self) -> Vec<Count> {
        let (duplicates, drops) = (&self.duplicates, &self.drops);
        [
            ("cm.received", self.received),
            ("cm.sent", self.sent),
            ("cm.repeated", self.repeated),
            ("cm.refused", self.refused),
            ("cm.duplicates.req", duplicates.req),
            ("cm.duplicates.rep", duplicates.rep),
            ("cm.duplicates.rtu", duplicates.rtu),
            ("cm.duplicates.mra", duplicates.mra),
            ("cm.duplicates.rej", duplicates.rej),
            ("cm.duplicates.dreq", duplicates.dreq),
            ("cm.duplicates.drep", duplicates.drep),
            ("cm.drops.bad_length", drops.bad_length),
            ("cm.drops.other_class", drops.other_class),
            ("cm.drops.unknown_attribute", drops.unknown_attribute),
            ("cm.drops.unknown_connection", drops.unknown_connection),
            ("cm.drops.unexpected", drops.unexpected),
            ("cm.drops.half_open", drops.half_open),
            ("cm.drops.half_open_of_peer", drops.half_open_of_peer),
            ("cm.drops.crowded", drops.crowded),
            ("cm.drops.outgoing", drops.outgoing),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }
}
