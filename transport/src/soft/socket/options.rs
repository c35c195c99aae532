//! Options of sockets that have no safe wrapper.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Kernel buffer asked for in each direction, in bytes.
const KERNEL_BUFFER: usize = 16 << 20;

/// Asks for large kernel buffers: past the system's limit where the privilege is
/// there, else up to it.
pub(crate) fn enlarge_buffers(socket: &socket2::Socket) -> io::Result<()> {
    let bytes = KERNEL_BUFFER as libc::c_int;
    if set_option(socket, libc::SO_RCVBUFFORCE, &bytes).is_err() {
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    }
    if set_option(socket, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        socket.set_send_buffer_size(KERNEL_BUFFER)?;
    }
    Ok(())
}

/// Gives the group that `socket` is a member of a classic BPF program, which is
/// run on each UDP payload and answers with the index of the socket, in the order
/// in which they joined.
pub(crate) fn steer(socket: &socket2::Socket, program: &mut [libc::sock_filter]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Has `socket` take only what a classic BPF program wants: it answers with how
/// many bytes of a packet to keep. On a raw socket it sees the IP header first,
/// on a UDP socket the UDP header.
pub(crate) fn filter(
    socket: &socket2::Socket,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

fn attach(
    socket: &socket2::Socket,
    option: libc::c_int,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    set_option(socket, option, &program)
}

/// Turns path-MTU discovery on: the kernel sets "don't fragment" and refuses
/// datagrams that do not fit.
pub(crate) fn never_fragment(socket: &socket2::Socket, address: IpAddr) -> io::Result<()> {
    let (level, option, value) = match address {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    set_option_at(socket, level, option, &value)
}

/// Takes datagrams over IPv6 without a UDP checksum: RoCEv2 sends none, since the
/// invariant CRC covers more (InfiniBand Architecture, annex A17.3.2), and the
/// kernel drops such unless asked not to (RFC 6936).
pub(crate) fn take_without_checksum(socket: &socket2::Socket) -> io::Result<()> {
    // `include/uapi/linux/udp.h`
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    let on: libc::c_int = 1;
    set_option_at(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, &on)
}

/// Takes datagrams of one flow that came together as one, with their size in a
/// control message. A kernel that cannot do it hands them out one by one.
pub(crate) fn take_runs(socket: &socket2::Socket) {
    let on: libc::c_int = 1;
    // What is lost is speed.
    let _ = set_option_at(socket, libc::IPPROTO_UDP, libc::UDP_GRO, &on);
}

/// Datagrams that the kernel dropped at this socket, mostly since its buffer was
/// full.
pub(super) fn dropped(socket: &socket2::Socket) -> u64 {
    // `include/uapi/linux/sock_diag.h`: eight other numbers come first.
    const SK_MEMINFO_DROPS: usize = 8;
    let mut memory = [0u32; SK_MEMINFO_DROPS + 1];
    let mut len = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `memory`, to which the kernel
    // writes at most that many bytes; any bytes are valid numbers.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &mut len,
        )
    };
    // An older kernel writes fewer, and zero stays.
    if done == 0 {
        memory[SK_MEMINFO_DROPS].into()
    } else {
        0
    }
}

/// Makes the kernel send without a UDP checksum, for which it refuses runs.
#[cfg(test)]
pub(crate) fn send_without_checksum(socket: &socket2::Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_option(socket, libc::SO_NO_CHECK, &on)
}

fn set_option<T>(socket: &socket2::Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    set_option_at(socket, libc::SOL_SOCKET, option, value)
}

fn set_option_at<T>(
    socket: &socket2::Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only
    // reads. Where `value` holds a pointer itself (the filter program), its caller
    // made it from a slice that outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
