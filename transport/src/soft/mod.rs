//! RoCEv2 in software: a network adapter made of a CPU and UDP sockets.
//!
//! `wire` and `icrc` are the packets, `psn` their numbers, `memory` the keys;
//! `engine` is the protocol, without sockets and without a clock. `port` opens
//! the UDP sockets of an address, `socket` moves datagrams through them in
//! batches, `nic` is the adapter made of all that, and `cm` sets its connections
//! up. [`open`] gives both for an address.

pub mod cm;
pub mod engine;
pub mod icrc;
pub mod memory;
pub mod nic;
pub mod port;
pub mod psn;
pub mod socket;
pub mod wire;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use self::cm::SoftCm;
use self::nic::SoftNic;
use self::port::{OpenError, Settings};

/// READs that a queue pair may have outstanding, each way: as many as hosts' queues
/// mostly have entries for.
const MAX_RD_ATOMIC: u8 = 32;

/// Bytes that one READ request asks for: the packets between the first and the
/// last of its responses then fill a run.
const READ_CHUNK: u32 = 64 << 10;

/// Opens the software adapter of an address: one part for each of `reactors`
/// reactors, and the connection management that they share.
///
/// # Errors
/// When the address or its UDP port 4791 cannot be had, with the remedy.
pub fn open(address: IpAddr, reactors: usize) -> Result<(Vec<SoftNic>, SoftCm), OpenError> {
    open_with(address, reactors, Settings::default())
}

/// As [`open`], with settings.
///
/// # Errors
/// As for [`open`], and when the settings ask for a privilege that is not there.
pub fn open_with(
    address: IpAddr,
    reactors: usize,
    settings: Settings,
) -> Result<(Vec<SoftNic>, SoftCm), OpenError> {
    let port = port::open_with(address, reactors, settings)?;
    // Numbers of queue pairs of an earlier process are not used again soon: a
    // packet meant for one of those finds nobody.
    let seed = RandomState::new().hash_one(address) as u32;
    let mut nics = Vec::with_capacity(reactors);
    for (reactor, socket) in port.reactors.into_iter().enumerate() {
        let config = engine::Config {
            name: format!("soft {address}"),
            reactors: reactors as u32,
            reactor: reactor as u32,
            seed,
            max_rd_atomic: MAX_RD_ATOMIC,
            read_chunk: READ_CHUNK,
            ..engine::Config::default()
        };
        let what = "read the buffer sizes";
        let nic = SoftNic::new(socket, config);
        nics.push(nic.map_err(|source| OpenError::Io {
            address,
            what,
            source,
        })?);
    }
    Ok((nics, SoftCm::new(port.cm, port.path_mtu, MAX_RD_ATOMIC)))
}
