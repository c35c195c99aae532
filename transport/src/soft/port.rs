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

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::socket::{self, Socket};
use super::wire::ROCE_V2_PORT as ROCE_PORT;

mod interface;
mod steering;
#[cfg(test)]
mod tests;

/// Reactors that one address can serve at most.
pub const MAX_REACTORS: usize = 256;

/// A receive buffer of the kernel below this, in bytes, loses packets of bursts.
const AMPLE_BUFFER: usize = 4 << 20;

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

/// Takes the RoCEv2 port of `address` (not an IPv6 link-local one) for this process and makes the sockets of
/// `reactors` reactors and of connection management.
///
/// # Errors
/// When the port is taken, the address is not local, or a system call fails.
pub fn open(address: IpAddr, reactors: usize) -> Result<Port, OpenError> {
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(OpenError::NotOne { address });
    }
    if !(1..=MAX_REACTORS).contains(&reactors) {
        return Err(OpenError::Reactors { reactors });
    }
    let io = |what| {
        move |source| OpenError::Io {
            address,
            what,
            source,
        }
    };

    let mut group = Vec::with_capacity(reactors + 1);
    for index in 0..=reactors {
        let member = make(address).map_err(io("make a socket"))?;
        if index > 0 {
            member.set_reuse_port(true).map_err(io("share a socket"))?;
        }
        bind(&member, address)?;
        if index == 0 {
            member.set_reuse_port(true).map_err(io("share a socket"))?;
        }
        group.push(member);
    }
    let group: Arc<[socket2::Socket]> = group.into();
    if let Some(first) = group.first() {
        let mut program = steering::program(reactors);
        socket::steer(first, &mut program).map_err(io("attach the steering program"))?;
    }

    let mut sockets: Vec<Socket> = (0..=reactors)
        .filter_map(|index| Socket::new(&group, index, address))
        .collect();
    let Some(cm) = sockets.pop() else {
        return Err(OpenError::Reactors { reactors });
    };
    let path_mtu = interface::path_mtu(address);
    let buffers = cm
        .kernel_buffers()
        .map_err(io("ask for the buffer sizes"))?;
    tracing::debug!(%address, reactors, path_mtu, ?buffers, "port open");
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

fn make(address: IpAddr) -> io::Result<socket2::Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, ROCE_PORT));
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket::take_without_checksum(&socket)?;
    }
    socket::never_fragment(&socket, address)?;
    socket::enlarge_buffers(&socket)?;
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
