//! Why a message was rejected (InfiniBand Architecture, volume 1, 12.6.7.2,
//! "Reject reason codes").

/// The queue pair is not one that can be connected.
pub const NO_QP: u16 = 1;
/// The tables are full.
pub const NO_RESOURCES: u16 = 3;
/// The sender gave up waiting; the information names its adapter.
pub const TIMEOUT: u16 = 4;
/// The request asks for something that is not supported.
pub const UNSUPPORTED: u16 = 5;
/// No connection has this number.
pub const INVALID_COMM_ID: u16 = 6;
/// Nobody listens there.
pub const INVALID_SERVICE_ID: u16 = 8;
/// Not a reliable connection.
pub const INVALID_TRANSPORT_TYPE: u16 = 9;
/// The queue pair is connected already, by what is known here.
pub const STALE_CONNECTION: u16 = 10;
/// An address does not belong to the port.
pub const INVALID_GID: u16 = 12;
/// The path MTU is not one, or too large; the information holds the largest.
pub const INVALID_MTU: u16 = 26;
/// The consumer's own reason, in the private data.
pub const CONSUMER: u16 = 28;

/// The reason in words.
pub fn text(reason: u16) -> &'static str {
    match reason {
        NO_QP => "no such queue pair",
        2 => "no such end-to-end context",
        NO_RESOURCES => "no resources",
        TIMEOUT => "it gave up waiting",
        UNSUPPORTED => "unsupported request",
        INVALID_COMM_ID => "it knows no such connection",
        7 => "no such instance of the connection",
        INVALID_SERVICE_ID => "nobody listens there",
        INVALID_TRANSPORT_TYPE => "transport type not supported",
        STALE_CONNECTION => "it holds an older connection of this queue pair; try again",
        11 => "no reliable datagram channel",
        INVALID_GID => "not its address",
        13 => "not its local identifier",
        14 => "service level not supported",
        15 => "traffic class not supported",
        16 => "hop limit not supported",
        17 => "packet rate not supported",
        18..=23 => "alternate path not supported",
        24 => "another port manages its connections",
        25 => "another port is to be used",
        INVALID_MTU => "path MTU not supported",
        27 => "too few responder resources",
        CONSUMER => "refused by its consumer",
        29 => "RNR retry count not supported",
        30 => "connection number in use",
        31 => "version of connection management not supported",
        32 => "flow label not supported",
        33 => "flow label of the alternate path not supported",
        _ => "reason unknown here",
    }
}
