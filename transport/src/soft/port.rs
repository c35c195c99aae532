//! The UDP port of a software adapter: one socket per reactor and one for
//! connection management, all bound to the same address and port, with the
//! kernel steering each packet by its destination queue pair.
//!
//! RoCEv2 knows a single UDP port (InfiniBand Architecture, annex A17.9.2), and a
//! packet says in its base transport header which queue pair it is for. A classic
//! BPF program, which needs no privilege, reads that number and names the socket:
//! queue pair 1, the general service interface, goes to connection management,
//! queue pair `q` to reactor `q % reactors`. So a reactor numbers its queue pairs
//! accordingly and shares nothing with the others.
//!
//! The port of an address belongs to one owner. `SO_REUSEPORT` would let a second
//! process of the same user in, and packets would be split between the two. The
//! first socket therefore binds without that option, which the kernel grants to
//! one owner only, in one step; it takes the option on afterwards, for its own
//! siblings. A stranger that joins later is never chosen by the program.
//!
//! Where the invariant CRC is to be checked wholly over IPv4, each has a raw
//! socket beside it, which shows the IP header, with a filter that takes the same
//! packets. The UDP socket then drops what it receives and only keeps the port, so
//! that nobody else has it and no peer is told that nobody listens.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::socket::{Member, Socket, options};
use super::wire::ROCE_V2_PORT as ROCE_PORT;

mod interface;
mod steering;
#[cfg(test)]
mod tests;

/// Reactors that one address can serve at most.
pub const MAX_REACTORS: usize = 256;

/// A receive buffer of the kernel below this, in bytes, loses packets of bursts.
const AMPLE_BUFFER: usize = 4 << 20;

/// How far the invariant CRC of what arrives over IPv4 is checked.
///
/// It covers the identification of the IP header, which a UDP socket does not
/// show; a raw socket does, but takes a privilege. Over IPv6 nothing is hidden,
/// and the check is always whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IcrcCheck {
    /// Wholly where the privilege is there, else as far as a UDP socket shows it.
    #[default]
    Auto,
    /// Wholly, or the port is not opened.
    Full,
    /// As far as a UDP socket shows it: the CRC is worth 16 bits less.
    Socket,
}

/// How to open a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Packets may be handed to the kernel in runs, which it cuts as late as it
    /// can. Not for an interface that cuts them itself and gives all the same
    /// identification over IPv4: peers would drop all but the first.
    pub offload: bool,
    /// How far the invariant CRC is checked.
    pub icrc: IcrcCheck,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            offload: true,
            icrc: IcrcCheck::Auto,
        }
    }
}

/// The sockets of one address.
#[derive(Debug)]
pub struct Port {
    /// One per reactor, in order: socket `i` of `n` receives the packets for
    /// queue pairs whose number is `i` modulo `n`, number 1 excepted.
    pub reactors: Vec<Socket>,
    /// Receives the packets for queue pair 1.
    pub cm: Socket,
    /// Payload bytes of the largest packet that the interface takes: 256, 512,
    /// 1024, 2048 or 4096.
    pub path_mtu: u32,
}

/// Why the port of an address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error(
        "UDP port {ROCE_PORT} (RoCEv2) of {address} is in use: by another process, or by the \
         kernel's rdma_rxe, which takes it on every address of its network namespace; stop that \
         process (`ss -ulpn 'sport = :{ROCE_PORT}'` names it), remove the link (`rdma link` lists \
         it), or run in a network namespace of its own"
    )]
    InUse {
        /// The address.
        address: IpAddr,
    },
    /// It is no address of this machine.
    #[error(
        "{address} is not an address of this machine in this network namespace; name one that \
         `ip -brief address` lists, or add it to an interface"
    )]
    NotLocal {
        /// The address.
        address: IpAddr,
    },
    /// It is no single unicast address.
    #[error(
        "{address} cannot carry RoCEv2: a queue pair belongs to one unicast address; name that of \
         the interface the peers reach"
    )]
    NotOne {
        /// The address.
        address: IpAddr,
    },
    /// The system does not let this user have the port.
    #[error(
        "this user may not bind UDP port {ROCE_PORT} of {address}; \
         `sysctl net.ipv4.ip_unprivileged_port_start` must be at most {ROCE_PORT}, and no security \
         policy forbid it"
    )]
    Denied {
        /// The address.
        address: IpAddr,
    },
    /// The invariant CRC cannot be checked wholly.
    #[error(
        "the invariant CRC of packets to {address} cannot be checked wholly: this user may not open \
         a raw socket; give the program CAP_NET_RAW (`setcap cap_net_raw+ep PROGRAM`), or say \
         icrc = \"auto\" to check it as far as a UDP socket shows it"
    )]
    NoRawSocket {
        /// The address.
        address: IpAddr,
    },
    /// A number of reactors that cannot be served.
    #[error("{reactors} reactors cannot share an address; between 1 and {MAX_REACTORS} can")]
    Reactors {
        /// How many were asked for.
        reactors: usize,
    },
    /// A system call failed.
    #[error("cannot {what} for UDP port {ROCE_PORT} of {address}: {source}")]
    Io {
        /// The address.
        address: IpAddr,
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the RoCEv2 port of `address` (not an IPv6 link-local one) for this process
/// and makes the sockets of `reactors` reactors and of connection management.
///
/// # Errors
/// When the port is taken, the address is not local, or a system call fails.
pub fn open(address: IpAddr, reactors: usize) -> Result<Port, OpenError> {
    open_with(address, reactors, Settings::default())
}

/// As [`open`], with settings.
///
/// # Errors
/// As for [`open`], and when the CRC cannot be checked as was asked for.
pub fn open_with(address: IpAddr, reactors: usize, settings: Settings) -> Result<Port, OpenError> {
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(OpenError::NotOne { address });
    }
    if !(1..=MAX_REACTORS).contains(&reactors) {
        return Err(OpenError::Reactors { reactors });
    }
    let group: Arc<[Member]> = open_group(address, reactors, settings.icrc)?.into();
    let mut sockets: Vec<Socket> = (0..=reactors)
        .filter_map(|index| Socket::new(&group, index, address, settings.offload))
        .collect();
    let Some(cm) = sockets.pop() else {
        return Err(OpenError::Reactors { reactors });
    };
    let path_mtu = interface::path_mtu(address);
    let buffers = cm
        .kernel_buffers()
        .map_err(failed(address, "ask for the buffer sizes"))?;
    let icrc = if cm.checks_wholly() { "full" } else { "socket" };
    let offload = settings.offload;
    tracing::info!(%address, icrc, offload, path_mtu, "RoCEv2 port open");
    tracing::debug!(%address, reactors, ?buffers, "its sockets");
    if buffers.receive < AMPLE_BUFFER {
        tracing::warn!(
            %address,
            bytes = buffers.receive,
            "the system grants a small receive buffer, which slows transfers down; \
             raise `sysctl net.core.rmem_max` to {AMPLE_BUFFER}, or give CAP_NET_ADMIN",
        );
    }
    Ok(Port {
        reactors: sockets,
        cm,
        path_mtu,
    })
}

fn failed(address: IpAddr, what: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io {
        address,
        what,
        source,
    }
}

/// The sockets of all reactors, and then that of connection management.
fn open_group(address: IpAddr, reactors: usize, icrc: IcrcCheck) -> Result<Vec<Member>, OpenError> {
    let share = |socket: &socket2::Socket| {
        let shared = socket.set_reuse_port(true);
        shared.map_err(failed(address, "share a socket"))
    };
    let mut group = Vec::with_capacity(reactors + 1);
    for index in 0..=reactors {
        let udp = make(address).map_err(failed(address, "make a socket"))?;
        if index > 0 {
            share(&udp)?;
        }
        bind(&udp, address)?;
        if index == 0 {
            share(&udp)?;
        }
        group.push(Member { udp, raw: None });
    }
    if let Some(first) = group.first() {
        let mut program = steering::program(reactors);
        options::steer(&first.udp, &mut program)
            .map_err(failed(address, "attach the steering program"))?;
    }
    if address.is_ipv6() || icrc == IcrcCheck::Socket || !add_raw(&mut group, address, icrc)? {
        for member in &group {
            options::take_runs(&member.udp);
        }
    }
    Ok(group)
}

/// Gives each member of the group a raw socket, which takes the packets that are
/// steered to its UDP socket; that one then only keeps the port. `false` when the
/// privilege is not there and need not be.
fn add_raw(group: &mut [Member], address: IpAddr, icrc: IcrcCheck) -> Result<bool, OpenError> {
    let reactors = group.len().saturating_sub(1);
    let open = |index| {
        let socket = socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Before it is bound, so that nothing else gets in.
        options::filter(&socket, &mut steering::raw_program(reactors, index))?;
        options::enlarge_buffers(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(address, 0)))?;
        Ok::<_, io::Error>(socket)
    };
    for (index, member) in group.iter_mut().enumerate() {
        match open(index) {
            Ok(raw) => member.raw = Some(raw),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(failed(address, "open a raw socket")(error));
            }
            Err(_) if icrc == IcrcCheck::Full => return Err(OpenError::NoRawSocket { address }),
            Err(_) => return Ok(false),
        }
        options::filter(&member.udp, &mut steering::nothing())
            .map_err(failed(address, "attach the filter of a UDP socket"))?;
    }
    Ok(true)
}

fn make(address: IpAddr) -> io::Result<socket2::Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, ROCE_PORT));
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        options::take_without_checksum(&socket)?;
    }
    options::never_fragment(&socket, address)?;
    options::enlarge_buffers(&socket)?;
    Ok(socket)
}

fn bind(socket: &socket2::Socket, address: IpAddr) -> Result<(), OpenError> {
    socket
        .bind(&SockAddr::from(SocketAddr::new(address, ROCE_PORT)))
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => OpenError::InUse { address },
            io::ErrorKind::AddrNotAvailable => OpenError::NotLocal { address },
            io::ErrorKind::PermissionDenied => OpenError::Denied { address },
            _ => OpenError::Io {
                address,
                what: "bind a socket",
                source,
            },
        })
}
