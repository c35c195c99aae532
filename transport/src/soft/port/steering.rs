//! The program that steers packets to sockets, in classic BPF.
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

/// Steers queue pair 1 to index `reactors` and each other queue pair to its
/// number modulo `reactors`, which must not be 0.
pub(super) fn program(reactors: usize) -> [libc::sock_filter; 6] {
    let reactors = reactors as u32;
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let jump_equal = |k, jt, jf| libc::sock_filter {
        jt,
        jf,
        ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k)
    };
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, DESTINATION_WORD),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x00ff_ffff),
        jump_equal(GENERAL_SERVICE_QP, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, reactors),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, reactors),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ]
}
