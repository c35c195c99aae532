//! The programs that steer packets to sockets, in classic BPF.
//!
//! For a `SO_REUSEPORT` group the kernel runs it on the UDP payload (`run_bpf` in
//! `net/core/sock_reuseport.c` pulls the headers first) and takes its result as an
//! index into the group in the order of joining. A load past the end of a short
//! packet ends the program with 0; that socket's owner drops the packet.

/// Where the word that ends in the 24 bits of the destination queue pair begins
/// in the base transport header (InfiniBand Architecture, volume 1, 9.2).
const DESTINATION_WORD: u32 = 4;

/// The general service interface, to which connection management belongs.
const GENERAL_SERVICE_QP: u32 = 1;

/// Bytes of a UDP header, and where its destination port is.
const UDP_LEN: u32 = 8;
const DESTINATION_PORT: u32 = 2;

/// Steers queue pair 1 to index `reactors` and each other queue pair to its
/// number modulo `reactors`, which must not be 0.
pub(super) fn program(reactors: usize) -> [libc::sock_filter; 6] {
    let reactors = reactors as u32;
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, DESTINATION_WORD),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x00ff_ffff),
        jump_equal(GENERAL_SERVICE_QP, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, reactors),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, reactors),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

/// A filter that takes nothing.
pub(super) fn nothing() -> [libc::sock_filter; 1] {
    [step(libc::BPF_RET | libc::BPF_K, 0)]
}

/// A filter of a raw socket, whose packets begin with the IPv4 header: takes what
/// goes to the RoCEv2 port and is steered to `index`. A load past the end of a
/// packet ends it with 0: nothing is taken.
pub(super) fn raw_program(reactors: usize, index: usize) -> [libc::sock_filter; 10] {
    let port = u32::from(crate::soft::wire::ROCE_V2_PORT);
    [
        // The length of the IP header, from its first byte.
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, DESTINATION_PORT),
        jump_equal(port, 0, 6),
        step(
            libc::BPF_LD | libc::BPF_W | libc::BPF_IND,
            UDP_LEN + DESTINATION_WORD,
        ),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x00ff_ffff),
        if index == reactors {
            jump_equal(GENERAL_SERVICE_QP, 2, 3)
        } else {
            jump_equal(GENERAL_SERVICE_QP, 3, 0)
        },
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, reactors as u32),
        jump_equal(index as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump_equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        jt,
        jf,
        ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k)
    }
}
