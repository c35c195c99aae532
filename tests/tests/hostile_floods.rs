//! Thousands of packets that no peer may send: what they cost is bounded, they
//! are counted, and a good host connects and works as if nothing were.

use anyhow::{Context, ensure};
use sidelane_tests::in_process::bench::Bench;
use sidelane_tests::in_process::busy_host::BusyHost;
use sidelane_tests::in_process::raw_packets::{Counted, RawPeer};
use sidelane_transport::nvmf::ConnectRequest;
use sidelane_transport::soft::cm::address;
use sidelane_transport::soft::cm::mad::Mad;
use sidelane_transport::soft::cm::messages::{Rep, Req, Rtu, U24};
use zerocopy::IntoBytes;

/// A request for a connection as a host makes it, by which all numbers are known.
fn request(peer: &RawPeer, n: u32) -> anyhow::Result<Mad> {
    let mut private_data = [0; 92];
    let header = address::write_ip_header((peer.at, 999).into(), peer.target.ip());
    let host = ConnectRequest::new(0, 0, 32, 32).context("a queue of nothing")?;
    let bytes = [&header[..], host.as_bytes()].concat();
    private_data[..bytes.len()].copy_from_slice(&bytes);
    let mut req = Req::default();
    req.local_comm_id = n.into();
    req.service_id = address::service_id(peer.target.port()).into();
    req.qpn = U24::new(n);
    req.responder_resources = 16;
    req.initiator_depth = 16;
    // It allows no repetition and takes no time, so that the target is soon rid of it.
    req.timing.set_retry_count(7);
    req.pkey = 0xffff.into();
    req.path.set_mtu(3);
    req.primary.local_gid = address::gid(peer.at);
    req.primary.remote_gid = address::gid(peer.target.ip());
    req.private_data = private_data;
    Ok(Mad::new(n.into(), &req))
}

type Flood = fn(&RawPeer, u32) -> anyhow::Result<Vec<u8>>;

fn flood_of_requests(peer: &RawPeer, n: u32) -> anyhow::Result<Vec<u8>> {
    Ok(peer.management(&request(peer, n + 2)?)?.to_vec())
}

fn flood_of_replies(peer: &RawPeer, n: u32) -> anyhow::Result<Vec<u8>> {
    let mut rep = Rep::default();
    rep.local_comm_id = n.into();
    rep.remote_comm_id = (n ^ 0x5555).into();
    rep.qpn = U24::new(n);
    Ok(peer.management(&Mad::new(1, &rep))?.to_vec())
}

fn flood_of_messages(peer: &RawPeer, n: u32) -> anyhow::Result<Vec<u8>> {
    let mut mad = Mad::new(1, &Rtu::default());
    let bytes = mad.as_mut_bytes();
    // Any attribute, with any content, and now and then another class.
    bytes[17] = (n % 0x1b) as u8;
    bytes[1] = if n.is_multiple_of(7) { 6 } else { 7 };
    for (at, byte) in bytes[24..].iter_mut().enumerate() {
        *byte = (n.wrapping_mul(0x9e37_79b9).rotate_left(at as u32)) as u8;
    }
    Ok(peer.management(&mad)?.to_vec())
}

fn flood_of_garbage(peer: &RawPeer, n: u32) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![n as u8; 12 + n as usize % 1500];
    bytes[4..8].copy_from_slice(&(n % 3).to_be_bytes());
    if n.is_multiple_of(2) {
        return peer.sealed(bytes);
    }
    Ok(bytes)
}

#[rstest::rstest]
#[case::requests(flood_of_requests, "cm.drops.half_open_of_peer")]
#[case::replies(flood_of_replies, "cm.refused")]
#[case::messages(flood_of_messages, "cm.drops.unknown_attribute")]
#[case::garbage(flood_of_garbage, "drops.bad_icrc")]
fn a_flood_is_counted_and_a_good_host_still_connects_and_works(
    #[case] flood: Flood,
    #[case] count: &str,
) -> anyhow::Result<()> {
    const PACKETS: u32 = 10_000;
    let bench = Bench::usual()?;
    let good = BusyHost::start(&bench)?;
    let before = Counted::by(&bench)?.of(count)?;
    let peer = RawPeer::new(bench.remote)?;
    for n in 0..PACKETS {
        peer.throw(&flood(&peer, n)?)?;
    }
    good.finish()?;
    // It connects anew, too.
    BusyHost::start(&bench)?.finish()?;
    ensure!(
        Counted::by(&bench)?.of(count)? > before,
        "{count} is not counted"
    );
    bench.healthy()?;
    Ok(())
}
