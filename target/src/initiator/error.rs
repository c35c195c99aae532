//! What can go wrong on the way to a controller, in words that say who refused
//! what, and what may help.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use sidelane_nvme::spec::Status;
use sidelane_p2p::{DmaError, OutOfRange};
use sidelane_transport::cm::{CmError, ConnError};
use sidelane_transport::nic::{NicError, RegisterError, WcOp, WcStatus};
use sidelane_transport::nvmf::RejectStatus;

/// Why the initiator could not go on. After one of these, the association is
/// of no more use than to be disconnected.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The options make no sense together, or the adapter is too small for them.
    #[error("{0}")]
    Options(String),
    /// There is no memory for the host's buffers.
    #[error("no memory for the host's buffers: {0}")]
    Memory(#[from] DmaError),
    /// The adapter does not take the host's buffers.
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
    /// The target did not take the connection of a queue.
    #[error("{remote} did not take the connection of queue {qid}: {why}")]
    Refused {
        /// The target.
        remote: SocketAddr,
        /// The queue.
        qid: u16,
        /// The reason, decoded as far as it can be.
        why: Refusal,
    },
    /// A command ended with an error status.
    #[error("{command} on queue {qid} failed: {}{}", StatusOf(.command, *.status), Hint(.hint))]
    Command {
        /// The command.
        command: &'static str,
        /// The queue.
        qid: u16,
        /// The status.
        status: Status,
        /// What it means here, if more can be said.
        hint: Option<String>,
    },
    /// Something did not happen in time.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// A work request failed: the connection is broken.
    #[error("queue {qid}: {op:?} failed with {status:?} ({})", wc_words(*.status))]
    Transport {
        /// The queue.
        qid: u16,
        /// What failed.
        op: WcOp,
        /// How.
        status: WcStatus,
    },
    /// The target ended the connection of a queue.
    #[error("the target ended the connection of queue {qid}")]
    Disconnected {
        /// The queue.
        qid: u16,
    },
    /// The target said something that the specification does not allow.
    #[error("the target broke the protocol on queue {qid}: {what}")]
    Protocol {
        /// The queue.
        qid: u16,
        /// What it did.
        what: String,
    },
    /// The controller lacks something this host cannot do without.
    #[error("the controller cannot be used: {0}")]
    Unusable(String),
    /// The event descriptors could not be waited on.
    #[error("cannot wait for the adapter: {0}")]
    Wait(#[source] std::io::Error),
    /// A bug of the initiator: it reached outside its own buffers.
    #[error("the initiator reached outside its buffers: {0}")]
    Bounds(#[from] OutOfRange),
}

impl HostError {
    pub(super) fn nic(doing: &'static str) -> impl FnOnce(NicError) -> Self {
        move |source| Self::Nic { doing, source }
    }

    pub(super) fn cm(doing: &'static str) -> impl FnOnce(CmError) -> Self {
        move |source| Self::Cm { doing, source }
    }

    pub(super) fn protocol(qid: u16, what: impl Into<String>) -> Self {
        Self::Protocol {
            qid,
            what: what.into(),
        }
    }
}

/// A status as the words of its command: some codes mean one thing for Connect
/// and another for I/O.
struct StatusOf<'a>(&'a str, Status);

impl fmt::Display for StatusOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(command, status) = self;
        let is_connect = *command == "Connect";
        let own = |words: &&str| words.starts_with("Connect ") == is_connect;
        match status.words().find(own) {
            Some(words) => {
                write!(
                    f,
                    "{words} (SCT {:#x}, SC {:#04x})",
                    status.sct().into_bits(),
                    status.sc()
                )
            }
            None => write!(f, "{status}"),
        }
    }
}

struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Why a connection did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The target's NVMe layer gave a status in the private data of its REJ.
    Nvme(RejectStatus),
    /// Connection management's own reason.
    Connection(ConnError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvme(status) => write!(f, "{status}"),
            Self::Connection(ConnError::Timeout(at)) => write!(
                f,
                "no answer from {at}; is the target running, does it listen on this address, and \
                 does a firewall pass UDP port 4791?"
            ),
            Self::Connection(ConnError::Rejected { reason: 8, .. }) => {
                write!(
                    f,
                    "nothing listens on this port there (reason 8: invalid service id)"
                )
            }
            Self::Connection(error) => write!(f, "{error}"),
        }
    }
}

fn wc_words(status: WcStatus) -> &'static str {
    match status {
        WcStatus::Success => "done",
        WcStatus::LocalLength => "a message was longer than its buffer",
        WcStatus::LocalProtection => "a wrong key or address of the host's own memory",
        WcStatus::Flushed => "given back undone, the queue pair is in the error state",
        WcStatus::RemoteInvalidRequest => "the target refused the message as invalid",
        WcStatus::RemoteAccess => "the target refused the access",
        WcStatus::RemoteOperation => "the target could not carry it out",
        WcStatus::RetryExceeded => "the target does not answer any more",
        WcStatus::RnrRetryExceeded => "the target had no receive buffer posted",
    }
}

/// Why an I/O was not submitted. The association is as good as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue has as many commands outstanding as it holds: poll first.
    #[error("the queue is full")]
    QueueFull,
    /// No such I/O queue.
    #[error("there is no I/O queue {0}")]
    NoSuchQueue(usize),
    /// No such namespace.
    #[error("namespace {0} is not active in this subsystem")]
    NoSuchNamespace(u32),
    /// Zero blocks, or more than one command can move.
    #[error("{blocks} blocks in one command; 1 to {max} are possible")]
    Length {
        /// Asked for.
        blocks: u32,
        /// Most that are possible.
        max: u32,
    },
    /// The data lies outside the data area of the host's buffers.
    #[error(transparent)]
    Data(#[from] OutOfRange),
    /// The adapter refused the work request.
    #[error("the adapter refused the command: {0}")]
    Nic(NicError),
}
