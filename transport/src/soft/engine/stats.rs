//! What an engine counts, of each queue pair and of what belongs to none.
//!
//! A thing is counted once, where it happens: in the queue pair, or in the
//! engine when there is none. The engine's sum is made when somebody asks.
#![forbid(unsafe_code)]

use std::ops::AddAssign;

use crate::nic::Count;

/// Counters with their names, and their sum.
macro_rules! counters {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident,)* }
        $(with $(#[$more:meta])* $inner:ident: $kind:ty)?
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
            $($(#[$more])* pub $inner: $kind,)?
        }

        impl $name {
            fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
                $(self.$inner += other.$inner;)?
            }
        }
    };
}

counters! {
    /// Counters of a queue pair since it was made, or of all of an engine.
    Stats {
        /// Packets handed in.
        packets_in,
        /// Packets written out.
        packets_out,
        /// Payload bytes placed in registered memory.
        bytes_in,
        /// Payload bytes taken from registered memory, retransmissions included.
        bytes_out,
        /// Messages of the peer received whole: SEND, RDMA WRITE and RDMA READ.
        messages_in,
        /// Send work requests that ended well.
        messages_out,
        /// Acknowledgements received, without READ responses and NAKs.
        acks_in,
        /// Acknowledgements sent, without READ responses and NAKs.
        acks_out,
        /// RDMA READ requests received, repeated ones included.
        reads_in,
        /// RDMA READ requests sent, repeated ones included.
        reads_out,
        /// Request packets written out again.
        retransmits,
        /// Times an acknowledgement did not come in time and requests were repeated.
        timeouts,
        /// Times requests were repeated that count against the agreed retries:
        /// a connection that ends by them has had one more than agreed in a row.
        retries,
        /// READ responses or acknowledgements of which one was seen to be missing.
        lost_responses,
        /// NAKs for a gap in the sequence: sent.
        sequence_naks_out,
        /// NAKs for a gap in the sequence: received.
        sequence_naks_in,
        /// Receiver-not-ready NAKs: sent.
        rnr_naks_out,
        /// Receiver-not-ready NAKs: received.
        rnr_naks_in,
        /// NAKs that end a connection: sent.
        fatal_naks_out,
        /// NAKs that end a connection: received.
        fatal_naks_in,
        /// Requests refused since a key, its bounds or its rights were wrong.
        access_errors,
        /// Requests refused since they were against the rules.
        invalid_requests,
        /// Requests that had been received before.
        duplicates,
    } with
    /// Packets dropped, by reason.
    drops: Drops
}

counters! {
    /// Packets dropped without an answer, by reason.
    Drops {
        /// Wrong invariant CRC (counted by the adapter, not by the core).
        bad_icrc,
        /// Not a packet, or one of another transport service.
        malformed,
        /// No queue pair of that number.
        unknown_qp,
        /// Not from the peer's address, or not to the own one.
        wrong_peer,
        /// Not of the default partition.
        wrong_partition,
        /// The queue pair is not connected, or in the error state.
        wrong_state,
        /// After a gap in the sequence that has been reported already.
        out_of_sequence,
        /// A response to nothing that is outstanding.
        stale_response,
        /// A repeated request that cannot be answered again.
        stale_request,
    }
}

impl Stats {
    /// By name, as statistics show them.
    pub fn counts(&self) -> Vec<Count> {
        let own = self.named().map(|(name, value)| (name.into(), value));
        let drops = self.drops.named();
        own.chain(drops.map(|(name, value)| (format!("drops.{name}").into(), value)))
            .collect()
    }
}

impl Drops {
    /// All packets dropped.
    pub fn total(&self) -> u64 {
        self.named().map(|(_name, value)| value).sum()
    }
}
