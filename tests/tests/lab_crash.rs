//! Targets that are killed or stopped and hosts that fail, again and again: a
//! stock host loses nothing by it, and its neighbour does not notice.

use anyhow::ensure;
use sidelane_tests::lab::{self, Nic, Outcome, Payload, latency};

/// Runs a scenario; the figures are printed also where it fails.
fn run(scenario: &str) -> anyhow::Result<Outcome> {
    let nic = Nic::Soft;
    let outcome = lab::run(scenario, nic, &[("POLICY", nic.policy())])?;
    println!("{scenario}, until the host was back, in ms:");
    println!("{}", outcome.text("took").unwrap_or_default());
    outcome.all_ok()?;
    Payload::of(&outcome.stats("end")?)?.went(nic.way())?;
    Ok(outcome)
}

#[test]
fn a_target_that_is_killed_ten_times_in_a_row_loses_nothing() -> anyhow::Result<()> {
    run("crash-kills").map(drop)
}

#[test]
fn a_target_that_was_stopped_brings_no_old_data_behind_new_ones() -> anyhow::Result<()> {
    run("crash-stops").map(drop)
}

#[test]
fn a_host_does_not_notice_how_its_neighbour_fails() -> anyhow::Result<()> {
    let outcome = run("crash-neighbour")?;
    let windows = latency::windows(&outcome.text("steady.log")?, &outcome.text("windows")?)?;
    ensure!(windows.len() == 7, "windows are missing: {windows:?}");
    println!("how long the commands of the host that does not fail took:");
    for window in windows {
        println!("{window}");
    }
    Ok(())
}
