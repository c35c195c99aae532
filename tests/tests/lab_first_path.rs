//! A stock Linux host writes through a PCI peer buffer, in the lab.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use sidelane_tests::address_proof::{Proof, bar_range, prove};
use sidelane_tests::lab::{self, Outcome};

/// The BAR that holds the CMB of the lab's SSDs.
const CMB_BAR: usize = 2;

#[test]
fn the_first_whole_path() -> anyhow::Result<()> {
    let outcome = lab::run("first-path", "two-cmb", &[])?;
    outcome.all_ok()?;
    every_payload_byte_went_by_peer_memory(&outcome)?;
    let proof = address_proof(&outcome)?;
    ensure!(proof.commands > 1000, "few commands for a proof: {proof:?}");
    ensure!(
        proof.inside == proof.bytes,
        "payload outside the provider's BAR: {proof:?}"
    );
    the_capture_decodes(&outcome)
}

/// The proof is worth something only if it fails when it should.
#[test]
fn the_address_proof_fails_when_the_pool_is_in_host_memory() -> anyhow::Result<()> {
    let outcome = lab::run("first-path", "two-cmb", &[("POLICY", "off")])?;
    outcome.all_ok()?;
    let proof = address_proof(&outcome)?;
    ensure!(
        proof.commands > 0 && proof.inside == 0,
        "peer memory in use with p2p off: {proof:?}"
    );
    Ok(())
}

fn address_proof(outcome: &Outcome) -> anyhow::Result<Proof> {
    let bar = bar_range(&outcome.text("resource")?, CMB_BAR)?;
    prove(&outcome.text("journal")?, &bar)
}

fn every_payload_byte_went_by_peer_memory(outcome: &Outcome) -> anyhow::Result<()> {
    let stats: Value = serde_json::from_str(&outcome.text("stats.json")?)?;
    let namespaces = stats["namespaces"]
        .as_array()
        .context("no namespaces in the statistics")?;
    ensure!(
        namespaces.len() == 2,
        "two namespaces are expected: {stats}"
    );
    for namespace in namespaces {
        let bytes = |key: &str| namespace[key].as_u64().context("a count is missing");
        ensure!(
            bytes("payload_bytes_peer")? > 60 << 20,
            "too few bytes: {namespace}"
        );
        ensure!(
            bytes("payload_bytes_host")? == 0,
            "payload in host memory: {namespace}"
        );
        ensure!(bytes("errors")? == 0, "commands failed: {namespace}");
    }
    for reactor in stats["reactors"].as_array().context("no reactors")? {
        ensure!(
            reactor["unspent_permits"] == 0,
            "a response slot was lost: {reactor}"
        );
        ensure!(
            reactor["flushed_commands"].as_u64() > Some(0),
            "no flush: {reactor}"
        );
    }
    Ok(())
}

/// The capture of connect, write and read is understood by an independent
/// decoder, and nothing in it is malformed.
fn the_capture_decodes(outcome: &Outcome) -> anyhow::Result<()> {
    let decode = |filter: &str| -> anyhow::Result<usize> {
        let output = Command::new("tshark")
            .args(["-r"])
            .arg(outcome.file("capture.pcap"))
            .args(["-Y", filter, "-T", "fields", "-e", "frame.number"])
            .output()
            .context("tshark cannot be run; scripts/setup test installs it")?;
        ensure!(
            output.status.success(),
            "tshark on `{filter}`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count())
    };
    for (filter, what) in [
        ("infiniband.mad.attributeid == 0x0010", "CM ConnectRequest"),
        ("infiniband.mad.attributeid == 0x0013", "CM ConnectReply"),
        ("infiniband.mad.attributeid == 0x0014", "CM ReadyToUse"),
        ("infiniband.bth.opcode == 12", "RDMA READ request"),
        (
            "infiniband.bth.opcode == 10 || infiniband.bth.opcode == 6",
            "RDMA WRITE",
        ),
        ("nvme-rdma", "NVMe over RDMA"),
    ] {
        ensure!(decode(filter)? > 0, "no {what} in the capture");
    }
    let malformed = decode("_ws.malformed || _ws.expert.severity == \"Error\"")?;
    ensure!(malformed == 0, "{malformed} malformed frames");
    Ok(())
}
