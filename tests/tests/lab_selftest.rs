//! The self-test on PCI devices of the lab, by the adapters that it has there.

use anyhow::ensure;
use rstest::rstest;
use serde_json::Value;
use sidelane_tests::lab::{self, Nic};

#[rstest]
fn the_self_test_finds_nothing_stale_and_changes_nothing(
    #[values(Nic::Soft, Nic::Verbs)] nic: Nic,
) -> anyhow::Result<()> {
    let outcome = lab::run("selftest", nic, &[("POLICY", nic.policy())])?;
    outcome.all_ok()?;
    let report: Value = serde_json::from_str(&outcome.text("report.json")?)?;
    ensure!(report["passed"] == true, "{report}");
    let cases = report["cases"].as_array().map_or(&[][..], Vec::as_slice);
    // Two SSDs, two block sizes, with and without the flush and reads; by one
    // memory: that of the first SSD, or where the adapter has no way to it, host
    // memory.
    ensure!(cases.len() == 12, "{} cases: {report}", cases.len());
    for case in cases {
        let seen = (&case["outcome"], &case["transfers"], &case["stale"]);
        ensure!(seen == (&"clean".into(), &16.into(), &0.into()), "{case}");
        ensure!(case["peer"] == (nic == Nic::Soft), "{case}");
    }
    let own = |own: bool| cases.iter().filter(move |case| case["own"] == own).count();
    let expected = if nic == Nic::Soft { (6, 6) } else { (0, 12) };
    ensure!((own(true), own(false)) == expected, "{report}");
    println!("{}", outcome.text("human")?);
    Ok(())
}
