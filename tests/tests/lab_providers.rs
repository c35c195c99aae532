//! Payload by memory of every kind that is a device's BAR, in the lab: a CMB, a
//! PMR, and a plain BAR. By the target's counts, and by what the SSDs were told.

use std::ops::Range;

use anyhow::{Context, ensure};
use serde_json::Value;
use sidelane_tests::address_proof::{Proof, bar_range, prove};
use sidelane_tests::lab::{self, Nic, Outcome};

/// The memory of the topology `default`: its name, and the BAR that it is in.
const CMB: (&str, usize) = ("cmb0", 2);
const PMR: (&str, usize) = ("pmr1", 4);
const WINDOW: (&str, usize) = ("shm2", 2);

/// The SSDs of the topology.
const CMB_SSD: &str = "0000:03:00.0";
const PMR_SSD: &str = "0000:04:00.0";
const FAR_SSD: &str = "0000:06:00.0";

/// Bytes that each SSD of a case moves at least: both loads, written and read.
const LOAD: u64 = 2 * (5 << 20);

#[test]
fn payload_goes_by_memory_of_every_kind() -> anyhow::Result<()> {
    let outcome = lab::run_on("default", "providers", Nic::Soft, &[], &[])?;
    outcome.all_ok()?;
    went(&outcome, "kinds", PMR_SSD, &[PMR])?;
    went(&outcome, "kinds", CMB_SSD, &[WINDOW])?;
    went(&outcome, "kinds", FAR_SSD, &[])?;
    went(&outcome, "others", PMR_SSD, &[CMB])?;
    went(&outcome, "others", CMB_SSD, &[PMR])?;
    went(&outcome, "room", PMR_SSD, &[CMB, WINDOW])?;
    the_far_ssd_is_told_of(&outcome.stats("kinds")?)?;
    both_pieces_were_used(&outcome.stats("room")?)
}

/// All payload of an SSD went by these pieces of memory and by nothing else, by
/// the target's counts and by what the SSD was told; by host memory where there
/// are none.
fn went(outcome: &Outcome, case: &str, ssd: &str, memory: &[(&str, usize)]) -> anyhow::Result<()> {
    let stats = outcome.stats(case)?;
    let all = stats["namespaces"].as_array().context("no namespaces")?;
    let backend = format!("nvme {ssd} nsid 1");
    let found = all.iter().find(|it| it["backend"] == backend.as_str());
    let namespace = found.with_context(|| format!("no namespace on {ssd}"))?;
    let (peer, host) = (
        count(namespace, "payload_bytes_peer")?,
        count(namespace, "payload_bytes_host")?,
    );
    let (by, beside) = if memory.is_empty() {
        (host, peer)
    } else {
        (peer, host)
    };
    ensure!(
        by >= LOAD && beside == 0 && count(namespace, "errors")? == 0,
        "{case}: {namespace}"
    );

    let journal = outcome.text(&format!("journal-{case}"))?;
    let device = format!("\"device\":\"{ssd}\"");
    let lines = journal.lines().filter(|line| line.contains(&device));
    let journal: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut inside = 0;
    let mut total = 0;
    for piece in [CMB, PMR, WINDOW] {
        let proof: Proof = prove(&journal, &place(outcome, piece)?)?;
        ensure!(
            (proof.inside > 0) == memory.contains(&piece),
            "{case} on {ssd}: {} bytes in {}",
            proof.inside,
            piece.0
        );
        inside += proof.inside;
        total = proof.bytes;
    }
    let expected = if memory.is_empty() { 0 } else { total };
    ensure!(
        total >= LOAD && inside == expected,
        "{case} on {ssd}: {inside} of {total} bytes"
    );
    Ok(())
}

/// Where a piece of memory is, as the kernel says.
fn place(outcome: &Outcome, (name, bar): (&str, usize)) -> anyhow::Result<Range<u64>> {
    bar_range(&outcome.text(&format!("resource-{name}"))?, bar)
}

fn the_far_ssd_is_told_of(stats: &Value) -> anyhow::Result<()> {
    let all = stats["namespaces"].as_array().context("no namespaces")?;
    let far = all
        .iter()
        .find(|it| it["nqn"].as_str().is_some_and(|nqn| nqn.ends_with(":far")));
    let way = &far.context("no far namespace")?["ways"][0];
    let reason = way["reason"].as_str().context("no reason")?;
    ensure!(
        way["code"] == "no-route" && reason.contains("pmr: ") && reason.contains("window: "),
        "{way}"
    );
    Ok(())
}

/// The long transfers do not fit into the first, and are the most of the bytes.
fn both_pieces_were_used(stats: &Value) -> anyhow::Result<()> {
    let pools = stats["pools"].as_array().context("no pools")?;
    let bytes = |provider: &str| {
        let pool = pools.iter().find(|pool| pool["provider"] == provider);
        count(pool.context("no such pool")?, "payload_bytes")
    };
    let (cmb, window) = (bytes("cmb")?, bytes("window")?);
    ensure!(cmb > 0 && window > cmb, "{pools:?}");
    Ok(())
}

fn count(of: &Value, key: &str) -> anyhow::Result<u64> {
    of[key]
        .as_u64()
        .with_context(|| format!("no count {key} in {of}"))
}
