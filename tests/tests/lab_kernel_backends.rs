//! SSDs that stay with the kernel: payload by memory that the kernel publishes,
//! where the kernel lets it pass, and the reason where it does not.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sidelane_tests::address_proof::bar_range;
use sidelane_tests::lab::{self, Nic, Outcome, Payload, Way};

/// The BAR that holds the CMB of the lab's SSDs.
const CMB_BAR: usize = 2;

#[test]
fn storage_of_the_kernels_goes_by_memory_that_it_publishes_or_says_why_not() -> anyhow::Result<()> {
    let outcome = lab::run("kernel-backends", Nic::Soft, &[])?;
    outcome.all_ok()?;
    let stats = outcome.stats("end")?;
    let cases = [
        ("pass", "passthrough /dev/ng", Way::Peer),
        ("block", "block /dev/nvme", Way::Peer),
        ("far", "block /dev/nvme", Way::Host(&["no-route"])),
        (
            "file",
            "file /var/disk",
            Way::Host(&["host-by-policy", "in-capsule"]),
        ),
    ];
    for (name, backend, way) in cases {
        let namespace = namespace(&stats, name)?;
        let what = namespace["backend"].as_str().unwrap_or_default();
        ensure!(what.starts_with(backend), "{name} is on {what}");
        let alone = json!({ "namespaces": [namespace], "reactors": stats["reactors"] });
        let payload = Payload::of(&alone)?;
        payload.went(way).with_context(|| format!("case {name}"))?;
        println!("{name}: {payload:?}");
    }
    is_in_the_bar(&outcome, &stats)?;
    // After the target was killed, too.
    let killed = outcome.stats("killed")?;
    let block =
        json!({ "namespaces": [namespace(&killed, "block")?], "reactors": killed["reactors"] });
    Payload::of(&block)?.went(Way::Peer)
}

fn namespace<'a>(stats: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let all = stats["namespaces"].as_array().context("no namespaces")?;
    let nqn = format!("nqn.2026-11.io.sidelane:{name}");
    let found = all.iter().find(|namespace| namespace["nqn"] == nqn);
    found.with_context(|| format!("no namespace of {name} in {stats}"))
}

/// The pool that is called peer memory lies in the SSD's own BAR.
fn is_in_the_bar(outcome: &Outcome, stats: &Value) -> anyhow::Result<()> {
    let bar = bar_range(&outcome.text("resource")?, CMB_BAR)?;
    let pools = stats["pools"].as_array().context("no pools")?;
    let peer = pools.iter().find(|pool| pool["peer"] == true);
    let peer = peer.context("no pool of peer memory")?;
    let address = peer["address"].as_u64().context("a pool without address")?;
    ensure!(
        bar.contains(&address) && bar.contains(&(address + (32 << 20) - 1)),
        "{peer} is not in the BAR at {bar:x?}"
    );
    Ok(())
}
