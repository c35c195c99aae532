//! Is the network fit? RDMA ping and bandwidth between two soft NICs, or to any
//! peer that speaks RoCEv2, without a target, an SSD or a host in the way.
//!
//! The protocol is that of `rping` of rdma-core (librdmacm, `examples/rping.c`): a
//! stock `rping -s` answers [`ping`], and a stock `rping -c` is answered by
//! [`serve`]. Each round has two SENDs each way, an RDMA READ and an RDMA WRITE,
//! and compares what came back. [`bandwidth()`] goes further where the peer is a
//! Sidelane, which says so in the private data of its REP.
//!
//! One thread owns all and sleeps when there is nothing to do. Nothing that a peer
//! sends may do more than end its own connection.

mod answer;
mod bandwidth;
mod contents;
mod end;
mod error;
mod lines;
mod report;
mod rounds;
mod server;
mod stop;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sidelane_transport::cm::Connector;
use sidelane_transport::nic::{ActiveNic, QpCaps};

use self::end::{End, Inbox};
use self::lines::Lines;
use self::rounds::{Plan, Rounds};

pub use self::error::{Loss, PingError};
pub use self::report::{BandwidthReport, Counts, PingReport, RoundTrip, Stretch};
pub use self::server::{MAX_CLIENTS, ServeOptions, serve};
pub use self::stop::Stop;
pub use self::wire::{MAX_SIZE, MIN_SIZE, PORT};

/// Bytes of a round that every rping server takes: what it has a buffer for unless
/// its `-S` says otherwise.
pub const RPING_SIZE: u32 = 64;

/// The most connections of the side that asks.
pub const MAX_CONNECTIONS: usize = 64;

/// The most operations that a connection has on their way.
pub const MAX_DEPTH: u32 = 1024;

/// The most bytes of one operation of [`bandwidth()`].
pub const MAX_OPERATION: u32 = server::MAX_LENT;

/// Receive buffers of a line: rping's server nods once at a time.
const NODS: usize = 2;

/// Work requests of a round that may not be acknowledged yet.
const ROUND_CAPS: QpCaps = QpCaps { max_send_wr: 8 };

/// What happened, while it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A round came back as it was sent.
    Back {
        /// Number of the connection, from 0.
        line: usize,
        /// Number of the round on it, from 1.
        round: u64,
        /// How long it took.
        time: Duration,
    },
    /// It did not.
    Lost {
        /// Number of the connection, from 0.
        line: usize,
        /// Number of the round on it, from 1.
        round: u64,
        /// Why.
        loss: &'a Loss,
    },
    /// Something to know.
    Note(&'a str),
    /// How far it is, about once a second.
    Progress(&'a str),
}

/// Which rounds to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingOptions {
    /// The peer.
    pub remote: SocketAddr,
    /// Rounds on each connection; until the end is wished for if not given.
    pub count: Option<u64>,
    /// From the beginning of one to that of the next.
    pub interval: Duration,
    /// Bytes, [`MIN_SIZE`] to [`MAX_SIZE`].
    pub size: u32,
    /// How many, up to [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// How long a round may take, connecting included.
    pub timeout: Duration,
}

impl PingOptions {
    /// One round a second of [`RPING_SIZE`] bytes on one connection.
    pub fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            count: None,
            interval: Duration::from_secs(1),
            size: RPING_SIZE,
            connections: 1,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What to measure bandwidth with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BandwidthOptions {
    /// The peer.
    pub remote: SocketAddr,
    /// How long, for each kind of operation.
    pub duration: Duration,
    /// Bytes of each operation, up to [`MAX_OPERATION`]; what fits the peer if not
    /// given.
    pub size: Option<u32>,
    /// Operations on their way at a time, on each connection, up to [`MAX_DEPTH`].
    pub depth: u32,
    /// How many, up to [`MAX_CONNECTIONS`]; if not given, one, and eight where the
    /// peer is a plain rping.
    pub connections: Option<usize>,
    /// How long connecting may take, and the last operations.
    pub timeout: Duration,
}

impl BandwidthOptions {
    /// Bytes of an operation where none are given and the peer is a Sidelane.
    pub const USUAL_SIZE: u32 = 64 << 10;

    /// Three seconds each, 16 operations at a time.
    pub fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            duration: Duration::from_secs(3),
            size: None,
            depth: 16,
            connections: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// The own address to reach `remote` from: this one, or the one that the routing
/// table names.
///
/// # Errors
/// When there is no route, or the peer's address is the own one, or of another
/// family.
pub fn own_address(from: Option<IpAddr>, remote: IpAddr) -> Result<IpAddr, PingError> {
    let own = match from {
        Some(local) if local.is_ipv4() != remote.is_ipv4() => {
            return Err(PingError::Family { local, remote });
        }
        Some(local) => local,
        None => routed(remote).map_err(|source| PingError::NoRoute { remote, source })?,
    };
    if own == remote {
        return Err(PingError::OwnAddress(remote));
    }
    Ok(own)
}

/// Connecting a UDP socket sends nothing, and has the system choose.
fn routed(remote: IpAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((remote, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// An adapter, and what sets its connections up.
pub type Opened = (Box<dyn ActiveNic>, Box<dyn Connector>);

/// The soft NIC of an own address, for [`ping`], [`bandwidth()`] or [`serve`].
///
/// # Errors
/// When the address or its UDP port 4791 cannot be had, with the remedy.
pub fn open(local: IpAddr) -> Result<Opened, PingError> {
    let (mut nics, cm) = sidelane_transport::soft::open(local, 1)?;
    match nics.pop() {
        Some(nic) => Ok((Box::new(nic), Box::new(cm))),
        None => Err(PingError::Options("an adapter of no parts".to_owned())),
    }
}

/// Makes rounds until the last one has ended or the end is wished for. A round that
/// does not come back is counted and told, and the next one connects anew.
///
/// # Errors
/// When the options make no sense, or the own side breaks.
pub fn ping(
    nic: Box<dyn ActiveNic>,
    cm: Box<dyn Connector>,
    options: &PingOptions,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<PingReport, PingError> {
    check("bytes", options.size, MIN_SIZE, MAX_SIZE)?;
    check("connections", options.connections, 1, MAX_CONNECTIONS)?;
    let hello = bytes::Bytes::new();
    let mut lines = lines(
        nic,
        cm,
        options.remote,
        options.connections,
        ROUND_CAPS,
        hello,
    )?;
    let before = lines.end.counts();
    let plan = Plan {
        count: options.count,
        until: None,
        interval: options.interval,
        timeout: options.timeout,
        size: options.size,
    };
    let mut rounds = Rounds::new(&mut lines, plan, Instant::now())?;
    rounds.run(&mut lines, stop, tell)?;
    let counts = since(&lines.end.counts(), &before);
    let adapter = lines.end.nic.caps().name.clone();
    lines.finish()?;
    Ok(PingReport::new(
        options.remote,
        adapter,
        options.size,
        options.connections,
        &rounds.tally,
        counts,
    ))
}

/// Measures how much goes through. The end comes early when it is wished for, with
/// what was measured until then.
///
/// # Errors
/// When the options make no sense, the peer cannot be reached, a connection breaks,
/// or what came is not what was sent.
pub fn bandwidth(
    nic: Box<dyn ActiveNic>,
    cm: Box<dyn Connector>,
    options: &BandwidthOptions,
    stop: &Stop,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<BandwidthReport, PingError> {
    check("operations at a time", options.depth, 1, MAX_DEPTH)?;
    check("connections", options.lines(), 1, MAX_CONNECTIONS)?;
    let size = options.size.unwrap_or(MIN_SIZE);
    check("bytes", size, MIN_SIZE, MAX_OPERATION)?;
    let (remote, count) = (options.remote, options.lines());
    let lines = lines(nic, cm, remote, count, options.caps(), options.hello())?;
    bandwidth::run(lines, options, stop, tell)
}

fn lines(
    nic: Box<dyn ActiveNic>,
    cm: Box<dyn Connector>,
    remote: SocketAddr,
    count: usize,
    caps: QpCaps,
    hello: bytes::Bytes,
) -> Result<Lines, PingError> {
    let inbox = Inbox {
        buffers: count * NODS,
        len: RPING_SIZE,
    };
    let end = End::new(nic, cm, inbox)?;
    Ok(Lines::new(end, remote, count, caps, hello))
}

fn check<T: PartialOrd + std::fmt::Display>(
    what: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), PingError> {
    if least <= value && value <= most {
        return Ok(());
    }
    let message = format!("{value} {what} asked for; {least} to {most} are possible");
    Err(PingError::Options(message))
}

/// By how much counts have grown.
fn since(now: &Counts, before: &Counts) -> Counts {
    let grown = |(name, value): (&String, &u64)| {
        let old = before.get(name).copied().unwrap_or(0);
        (name.clone(), value.saturating_sub(old))
    };
    now.iter().map(grown).collect()
}
