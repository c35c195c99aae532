//! A stock Linux host works with a target, in the lab; on a NIC that reaches
//! peer memory, every byte goes through a PCI peer buffer.

use std::process::Command;

use anyhow::{Context, ensure};
use rstest::rstest;
use sidelane_tests::lab::{self, Nic, Outcome, Payload};

#[rstest]
fn the_first_whole_path(#[values(Nic::Soft, Nic::Verbs)] nic: Nic) -> anyhow::Result<()> {
    let outcome = lab::run("first-path", nic, &[("POLICY", nic.policy())])?;
    outcome.all_ok()?;
    let payload = Payload::of(&outcome.stats("end")?)?;
    payload.went(nic.way())?;
    ensure!(
        payload.peer_bytes + payload.host_bytes > 250 << 20,
        "few bytes: {payload:?}"
    );
    let proof = nic.way().is_proved(&outcome, "journal")?;
    ensure!(proof.commands > 5000, "few commands for a proof: {proof:?}");
    the_capture_decodes(&outcome)
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
        ("infiniband.bth.opcode == 23", "SEND with invalidate"),
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
