//! Packets that no peer may send, from raw sockets: each is dropped or answered
//! by the book and counted under its own reason, touches no memory, ends its own
//! connection at most, and a good host that is at work meanwhile notices nothing.

use anyhow::{Context, anyhow, ensure};
use sidelane_tests::in_process::bench::Bench;
use sidelane_tests::in_process::busy_host::BusyHost;
use sidelane_tests::in_process::raw_packets::{Counted, Link, RawPeer};
use sidelane_transport::soft::psn::Psn;
use sidelane_transport::soft::wire::{AethKind, AtomicEth, Bth, Headers, NakCode, Opcode, Reth};

/// Makes the bytes of a packet.
type Make = fn(&RawPeer, &Link) -> anyhow::Result<Vec<u8>>;

fn to_nobody(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcSendOnly);
    headers.bth.dest_qp ^= 0x00c0_0000;
    peer.packet(headers, b"capsule!")
}

fn damaged(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = peer.packet(link.headers(Opcode::RcSendOnly), &[7; 64])?;
    bytes[30] ^= 1;
    Ok(bytes)
}

fn too_short(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let bytes = peer.packet(link.headers(Opcode::RcSendOnly), &[])?;
    Ok(bytes[..9].to_vec())
}

fn longer_than_all_headers_and_the_largest_mtu(
    peer: &RawPeer,
    link: &Link,
) -> anyhow::Result<Vec<u8>> {
    plain(peer, link, Opcode::RcSendOnly, 4300)
}

fn longer_than_any(_: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![4; 9000];
    bytes[4..8].copy_from_slice(&link.qp.to_be_bytes());
    Ok(bytes)
}

fn without_its_headers(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; 16];
    link.headers(Opcode::RcSendOnly).write(&mut bytes);
    bytes[0] = Opcode::RcWriteOnly.0;
    peer.sealed(bytes)
}

fn of_odd_length(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; 15];
    link.headers(Opcode::RcSendOnly).write(&mut bytes);
    peer.sealed(bytes)
}

fn of_a_future_version(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcSendOnly);
    headers.bth.version = 3;
    peer.packet(headers, &[7; 64])
}

fn of_another_service(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; 76];
    link.headers(Opcode::RcSendOnly).write(&mut bytes);
    // SEND only of the unreliable connection.
    bytes[0] = 0x24;
    peer.sealed(bytes)
}

fn a_datagram(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    peer.packet(link.headers(Opcode::UdSendOnly), &[7; 64])
}

fn of_another_partition(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcSendOnly);
    headers.bth.pkey = 0x8123;
    peer.packet(headers, &[7; 64])
}

fn acknowledges_nothing(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcAck);
    headers.bth.psn = Psn::new(link.psn.get() ^ 0x40_0000);
    peer.packet(headers, &[])
}

fn answers_no_read(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    peer.packet(link.headers(Opcode::RcReadResponseOnly), &[7; 4096])
}

fn from_the_future(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcSendOnly);
    headers.bth.psn = link.psn.plus(9);
    peer.packet(headers, &[7; 64])
}

fn from_the_past(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcSendOnly);
    headers.bth.psn = link.psn.minus(1);
    peer.packet(headers, &[7; 64])
}

const SEQUENCE: AethKind = AethKind::Nak(NakCode::PsnSequence);
const INVALID: AethKind = AethKind::Nak(NakCode::InvalidRequest);
const ACCESS: AethKind = AethKind::Nak(NakCode::RemoteAccess);

/// Whether an answer is a positive one, of whatever credits.
fn is_ack(kind: AethKind) -> bool {
    matches!(kind, AethKind::Ack(_))
}

#[test]
fn a_packet_that_is_no_request_of_its_connection_changes_nothing() -> anyhow::Result<()> {
    let dropped: [(&str, Make, &str); 12] = [
        ("to no queue pair", to_nobody, "drops.unknown_qp"),
        ("with a wrong CRC", damaged, "drops.bad_icrc"),
        ("cut short", too_short, "drops.bad_icrc"),
        (
            "longer than a packet can be",
            longer_than_all_headers_and_the_largest_mtu,
            "drops.bad_icrc",
        ),
        (
            "without its headers",
            without_its_headers,
            "drops.malformed",
        ),
        ("of odd length", of_odd_length, "drops.malformed"),
        (
            "of a future version",
            of_a_future_version,
            "drops.malformed",
        ),
        ("of another service", of_another_service, "drops.malformed"),
        ("a datagram", a_datagram, "drops.malformed"),
        (
            "of another partition",
            of_another_partition,
            "drops.wrong_partition",
        ),
        (
            "an acknowledgement of nothing",
            acknowledges_nothing,
            "drops.stale_response",
        ),
        (
            "a response to no READ",
            answers_no_read,
            "drops.stale_response",
        ),
    ];
    let bench = Bench::usual()?;
    let mut peer = RawPeer::new(bench.remote)?;
    let stranger = RawPeer::new(bench.remote)?;
    let mut link = peer.connect()?;
    let start = Counted::by(&bench)?;
    for (name, make, count) in dropped {
        count_one(&bench, count, || peer.throw(&make(&peer, &link)?)).context(name)?;
    }
    // A raw socket takes it whole and finds its CRC wrong, a UDP socket cuts it.
    let longest = ["drops.cut_short", "drops.bad_icrc"];
    count_one_of(&bench, &longest, || {
        peer.throw(&longer_than_any(&peer, &link)?)
    })?;
    // The very packet that is due, but from an address that is not the peer's.
    let due = stranger.packet(link.headers(Opcode::RcSendOnly), &[7; 64])?;
    count_one(&bench, "drops.wrong_peer", || stranger.throw(&due))?;
    peer.poll()?;
    ensure!(peer.answers.is_empty(), "{:?}", peer.answers);

    // These two are answered.
    count_one(&bench, "drops.out_of_sequence", || {
        peer.throw(&from_the_future(&peer, &link)?)
    })?;
    peer.until("a NAK", |peer| peer.answers == [(link.own_qp, SEQUENCE)])?;
    peer.answers.clear();
    count_one(&bench, "duplicates", || {
        peer.throw(&from_the_past(&peer, &link)?)
    })?;
    peer.until("an ACK", |peer| {
        peer.answers
            .iter()
            .any(|&(qp, kind)| qp == link.own_qp && is_ack(kind))
    })?;
    peer.answers.clear();

    let end = Counted::by(&bench)?;
    for name in ["bytes_in", "bytes_out"] {
        ensure!(start.of(name)? == end.of(name)?, "memory was touched");
    }
    // What is due is still taken: a WRITE of nothing, for which no key is needed.
    let nothing = peer.packet(link.headers(Opcode::RcWriteOnly), &[])?;
    peer.throw(&nothing)?;
    peer.until("an ACK", |peer| {
        peer.answers.iter().any(|&(_, kind)| is_ack(kind))
    })?;
    link.psn = link.psn.plus(1);
    ensure!(!peer.has_ended(&link), "the connection has ended");
    peer.disconnect(&link)?;
    bench.healthy()?;
    Ok(())
}

/// Does something that is to be counted once under this name.
fn count_one(
    bench: &Bench,
    name: &str,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    count_one_of(bench, &[name], act)
}

/// Does something that is to be counted once, under one of these names.
fn count_one_of(
    bench: &Bench,
    names: &[&str],
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let sum = || {
        let counted = Counted::by(bench)?;
        names
            .iter()
            .map(|name| counted.of(name))
            .sum::<anyhow::Result<u64>>()
    };
    let before = sum()?;
    act()?;
    for _ in 0..500 {
        let times = sum()? - before;
        ensure!(times <= 1, "{names:?}: counted {times} times");
        if times == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Err(anyhow!("{names:?}: not counted"))
}

fn guess(key: u32) -> Reth {
    Reth {
        addr: 0x1_0000,
        rkey: key,
        len: 4096,
    }
}

fn write(peer: &RawPeer, link: &Link, key: u32) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcWriteOnly);
    headers.reth = Some(guess(key));
    peer.packet(headers, &[0x5a; 4096])
}

fn read(peer: &RawPeer, link: &Link, key: u32) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(Opcode::RcReadRequest);
    headers.reth = Some(guess(key));
    peer.packet(headers, &[])
}

fn atomic(peer: &RawPeer, link: &Link, opcode: Opcode) -> anyhow::Result<Vec<u8>> {
    let mut headers = link.headers(opcode);
    headers.atomic = Some(AtomicEth {
        addr: 0x1_0000,
        rkey: 0x100,
        swap_add: u64::MAX,
        compare: 0,
    });
    peer.packet(headers, &[])
}

fn unknown_operation(peer: &RawPeer, link: &Link) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; 76];
    link.headers(Opcode::RcSendOnly).write(&mut bytes);
    bytes[0] = 0x1b;
    peer.sealed(bytes)
}

fn plain(peer: &RawPeer, link: &Link, opcode: Opcode, len: usize) -> anyhow::Result<Vec<u8>> {
    peer.packet(link.headers(opcode), &vec![0x5a; len])
}

/// A request that is due, but against the rules: refused by a NAK, and the end of
/// its connection.
#[test]
fn a_request_against_the_rules_is_refused_and_ends_its_connection() -> anyhow::Result<()> {
    let refused: [(&str, Make, AethKind); 15] = [
        ("WRITE, key 0", |p, l| write(p, l, 0), ACCESS),
        ("WRITE, key 1", |p, l| write(p, l, 1), ACCESS),
        ("WRITE, a likely key", |p, l| write(p, l, 0x101), ACCESS),
        ("WRITE, all ones", |p, l| write(p, l, u32::MAX), ACCESS),
        ("READ, key 0", |p, l| read(p, l, 0), ACCESS),
        ("READ, a likely key", |p, l| read(p, l, 0x101), ACCESS),
        ("READ, all ones", |p, l| read(p, l, u32::MAX), ACCESS),
        (
            "compare and swap",
            |p, l| atomic(p, l, Opcode::RcCompareSwap),
            INVALID,
        ),
        (
            "fetch and add",
            |p, l| atomic(p, l, Opcode::RcFetchAdd),
            INVALID,
        ),
        ("an unknown operation", unknown_operation, INVALID),
        (
            "the middle of nothing",
            |p, l| plain(p, l, Opcode::RcSendMiddle, 4096),
            INVALID,
        ),
        (
            "the end of nothing",
            |p, l| plain(p, l, Opcode::RcWriteLast, 64),
            INVALID,
        ),
        (
            "a first one that is short",
            |p, l| plain(p, l, Opcode::RcSendFirst, 64),
            INVALID,
        ),
        (
            "one longer than the path MTU",
            |p, l| plain(p, l, Opcode::RcSendOnly, 4160),
            INVALID,
        ),
        (
            "a WRITE longer than said",
            |p, l| plain(p, l, Opcode::RcWriteOnly, 64),
            INVALID,
        ),
    ];
    let bench = Bench::usual()?;
    let good = BusyHost::start(&bench)?;
    for (name, make, kind) in refused {
        let mut peer = RawPeer::new(bench.remote)?;
        let bystander = peer.connect()?;
        let link = peer.connect()?;
        let count = match kind {
            ACCESS => "access_errors",
            _ => "invalid_requests",
        };
        count_one(&bench, count, || peer.throw(&make(&peer, &link)?)).context(name)?;
        peer.until("the NAK", |peer| {
            peer.answers.contains(&(link.own_qp, kind))
        })
        .context(name)?;
        peer.until("the end", |peer| peer.has_ended(&link))
            .context(name)?;
        ensure!(!peer.has_ended(&bystander), "{name}: another one has ended");
        peer.disconnect(&bystander)?;
    }
    good.finish()?;
    bench.healthy()?;
    Ok(())
}

/// It needs no key, and uses a receive buffer up: good for RDMA, but nothing that
/// NVMe over Fabrics knows.
#[test]
fn a_write_of_nothing_with_immediate_data_ends_its_connection_and_no_other() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let good = BusyHost::start(&bench)?;
    for _ in 0..20 {
        let mut peer = RawPeer::new(bench.remote)?;
        let bystander = peer.connect()?;
        let link = peer.connect()?;
        let mut headers = link.headers(Opcode::RcWriteOnlyImm);
        headers.imm = Some(0xdead_beef);
        peer.throw(&peer.packet(headers, &[])?)?;
        peer.until("the end", |peer| peer.has_ended(&link))?;
        ensure!(!peer.has_ended(&bystander), "another one has ended");
        peer.disconnect(&bystander)?;
    }
    good.finish()?;
    bench.healthy()?;
    Ok(())
}

/// Guessed keys with nobody else at work: not a byte goes in or out.
#[test]
fn no_guessed_key_reaches_a_byte_of_the_pools() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let start = Counted::by(&bench)?;
    for slot in 0..24 {
        // Number and generation of a registration, as the adapter makes keys, and
        // the addresses of its own memory and of a device's.
        for (key, addr) in [(slot << 8 | 1, 0), (slot << 8, 1 << 32), (slot, 1 << 40)] {
            let mut peer = RawPeer::new(bench.remote)?;
            let link = peer.connect()?;
            let opcode = [Opcode::RcWriteOnly, Opcode::RcReadRequest][slot as usize % 2];
            let mut headers = link.headers(opcode);
            headers.reth = Some(Reth { addr, ..guess(key) });
            let payload = if opcode == Opcode::RcWriteOnly {
                4096
            } else {
                0
            };
            peer.throw(&peer.packet(headers, &vec![0x5a; payload])?)?;
            peer.until("the NAK", |peer| {
                peer.answers.contains(&(link.own_qp, ACCESS))
            })?;
            peer.until("the end", |peer| peer.has_ended(&link))?;
        }
    }
    let end = Counted::by(&bench)?;
    for name in ["bytes_in", "bytes_out"] {
        ensure!(start.of(name)? == end.of(name)?, "{name} has grown");
    }
    bench.healthy()?;
    Ok(())
}

/// From the good host's own address, by another port of it, and to its queue
/// pair: whatever does not pass the checks is nobody's.
#[test]
fn packets_from_the_good_hosts_own_address_do_it_no_harm() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let good = BusyHost::start(&bench)?;
    let before = Counted::by(&bench)?;
    for _ in 0..20 {
        let (at, qp) = good.peer(&bench)?;
        let peer = RawPeer::beside(at, bench.remote)?;
        let forged = |psn: u32, opcode| {
            let mut headers = Headers::new(Bth::new(opcode, qp, Psn::new(psn)));
            headers.bth.ack_request = true;
            headers
        };
        for n in 0..100_u32 {
            let mut bytes = peer.packet(forged(n, Opcode::RcSendOnly), &[0x5a; 64])?;
            bytes[20] ^= 0x80;
            peer.throw(&bytes)?;
            let mut headers = forged(n, Opcode::RcSendOnly);
            headers.bth.pkey = 0x8001;
            peer.throw(&peer.packet(headers, &[0x5a; 64])?)?;
            headers = forged(n, Opcode::RcSendOnly);
            headers.bth.dest_qp ^= 0x00c0_0000;
            peer.throw(&peer.packet(headers, &[0x5a; 64])?)?;
        }
    }
    good.finish()?;
    let after = Counted::by(&bench)?;
    for name in [
        "drops.bad_icrc",
        "drops.wrong_partition",
        "drops.unknown_qp",
    ] {
        ensure!(after.of(name)? > before.of(name)?, "{name} is not counted");
    }
    bench.healthy()?;
    Ok(())
}
