//! What can go wrong with a ping, in words that tell a network problem from
//! another.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sidelane_p2p::{DmaError, OutOfRange};
use sidelane_transport::cm::{CmError, ConnError};
use sidelane_transport::nic::{NicError, RegisterError, WcOp, WcStatus};
use sidelane_transport::soft::port::OpenError;

/// Connection management's reason for "nobody listens there" (InfiniBand
/// Architecture, volume 1, 12.6.7.2).
const INVALID_SERVICE_ID: u16 = 8;

/// And for "the consumer said no": its private data says why.
const CONSUMER_REJECT: u16 = 28;

/// Why a ping could not be tried, or not go on. What became of single rounds is
/// no error, see [`Loss`].
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// No packet can be sent there.
    #[error(
        "there is no route to {remote}: {source}; `ip route get {remote}` says the same, and \
         --from names an own address to ping from"
    )]
    NoRoute {
        /// Where to.
        remote: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The peer's address is the own one.
    #[error(
        "{0} is an address of this machine itself, and one address has one RDMA adapter; to ping \
         another process here, name another own address with --from"
    )]
    OwnAddress(IpAddr),
    /// One is IPv4, the other is IPv6.
    #[error("{local} cannot reach {remote}: one is IPv4, the other is IPv6")]
    Family {
        /// Own address.
        local: IpAddr,
        /// The peer's.
        remote: IpAddr,
    },
    /// The adapter could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The options make no sense together.
    #[error("{0}")]
    Options(String),
    /// There is no memory for buffers.
    #[error("no memory for buffers: {0}")]
    Memory(#[from] DmaError),
    /// The adapter does not take the buffers.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The adapter refused a verb.
    #[error("the adapter refused to {doing}: {source}")]
    Nic {
        /// What was to be done.
        doing: &'static str,
        /// The adapter's reason.
        source: NicError,
    },
    /// Connection management refused a call.
    #[error("connection management refused to {doing}: {source}")]
    Cm {
        /// What was to be done.
        doing: &'static str,
        /// Its reason.
        source: CmError,
    },
    /// The bandwidth could not be measured to the end.
    #[error("{remote}: {why}")]
    Broke {
        /// The peer.
        remote: SocketAddr,
        /// What happened.
        why: Loss,
    },
    /// The event descriptors could not be waited on.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
    /// A bug: it reached outside its own buffers.
    #[error("reached outside the buffers: {0}")]
    Bounds(#[from] OutOfRange),
}

impl PingError {
    pub(super) fn nic(doing: &'static str) -> impl FnOnce(NicError) -> Self {
        move |source| Self::Nic { doing, source }
    }

    pub(super) fn cm(doing: &'static str) -> impl FnOnce(CmError) -> Self {
        move |source| Self::Cm { doing, source }
    }
}

/// Why a round did not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// There was no connection to be had.
    NotConnected {
        /// The peer's port.
        port: u16,
        /// Why.
        error: ConnError,
    },
    /// The peer ended the connection.
    Disconnected,
    /// A work request failed.
    Work {
        /// What failed.
        op: WcOp,
        /// How.
        status: WcStatus,
    },
    /// The adapter gave the connection up, for what the peer sent.
    Failed,
    /// Nothing failed, and nothing came.
    Silence {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The peer sent what is no message.
    Garbage {
        /// Its bytes.
        len: u32,
    },
    /// What came back is not what was sent.
    Altered {
        /// The first byte that differs, from 0.
        at: usize,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected { port, error } => refusal(f, *port, error),
            Self::Disconnected => f.write_str(
                "the peer ended the connection (a plain rping server takes no more bytes than its \
                 own -S says, 64 without)",
            ),
            Self::Work { op, status } => write!(f, "{op:?}: {}", status_words(*status)),
            Self::Failed => f.write_str(
                "the connection failed: the peer did what the protocol or its rights do not allow",
            ),
            Self::Silence { what, after } => write!(
                f,
                "{what} did not come within {after:?}, though no packet was given up"
            ),
            Self::Garbage { len } => write!(f, "the peer sent {len} bytes, which is no message"),
            Self::Altered { at } => {
                write!(f, "what came back is not what was sent, from byte {at} on")
            }
        }
    }
}

fn refusal(f: &mut fmt::Formatter<'_>, port: u16, error: &ConnError) -> fmt::Result {
    match error {
        ConnError::Timeout(at) => write!(
            f,
            "no answer from {}: is the machine up, does it speak RoCEv2, does a firewall pass UDP \
             port 4791?",
            at.ip()
        ),
        ConnError::Rejected {
            reason: INVALID_SERVICE_ID,
            ..
        } => write!(
            f,
            "the machine answers, and nothing listens on port {port} there; start `rping -s -P` or \
             `sidelane ping --serve`"
        ),
        ConnError::Rejected {
            reason: CONSUMER_REJECT,
            private_data,
            ..
        } => {
            let end = private_data.iter().position(|byte| *byte == 0);
            let words = private_data.get(..end.unwrap_or(private_data.len()));
            let words = String::from_utf8_lossy(words.unwrap_or_default());
            write!(f, "refused: {}", words.escape_debug())
        }
        error => write!(f, "{error}"),
    }
}

fn status_words(status: WcStatus) -> &'static str {
    match status {
        WcStatus::Success => "done",
        WcStatus::LocalLength => "a message was longer than its buffer",
        WcStatus::LocalProtection => "a wrong key or address of the own memory",
        WcStatus::Flushed => "given back undone, the connection has failed",
        WcStatus::RemoteInvalidRequest => "the peer refused the message as invalid",
        WcStatus::RemoteAccess => "the peer refused the access to its memory",
        WcStatus::RemoteOperation => "the peer could not carry it out",
        WcStatus::RetryExceeded => "the peer does not answer any more",
        WcStatus::RnrRetryExceeded => "the peer had no receive buffer posted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn rejected(reason: u16, private_data: &'static [u8]) -> ConnError {
        ConnError::Rejected {
            reason,
            text: "words of the reason".to_owned(),
            private_data: Bytes::from_static(private_data),
        }
    }

    #[rstest::rstest]
    #[case(rejected(8, b""), "nothing listens on port 7174")]
    #[case(rejected(28, b"all full\0\0\0"), "refused: all full")]
    #[case(rejected(28, b"\x1b[2J\xff"), "refused: \\u{1b}[2J")]
    #[case(rejected(26, b""), "words of the reason")]
    #[case(ConnError::Timeout("192.0.2.1:7174".parse().unwrap()), "no answer from 192.0.2.1:")]
    fn a_refusal_is_told_in_words_that_help(#[case] error: ConnError, #[case] said: &str) {
        let text = Loss::NotConnected { port: 7174, error }.to_string();
        assert!(text.contains(said), "{text}");
    }
}
